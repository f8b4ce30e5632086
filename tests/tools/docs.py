"""The parts of the README that the code knows better: `python -m tests.docs` writes them anew."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from schemas.reasons import EXPLANATIONS, Reason
from schemas.settings import DATA, PREFIX, Settings

README = Path(__file__).resolve().parents[2] / "README.md"


def settings_table() -> str:
    lines = [f"| Variable, after `{PREFIX}` | Default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        lines.append(f"| `{name.upper()}` | {_shown(field.default)} | {field.description} |")
    return "\n".join(lines)


def _shown(default: object) -> str:
    if default in (None, {}, ()):
        return ""
    if isinstance(default, tuple):
        default = ", ".join(map(str, default))
    text = default.get_secret_value() if isinstance(default, SecretStr) else str(default)
    return f"`{text.replace(str(DATA.parent) + '/', '')}`"


def reasons_table() -> str:
    lines = ["| Reason | What it means | What to do | Tried again |", "|---|---|---|---|"]
    for reason, why in EXPLANATIONS.items():
        if reason is not Reason.OK:
            again = "yes" if why.transient else "no"
            if why.attempts:
                again = f"{why.attempts} times"
            lines.append(f"| {why.title} | {why.meaning} | {why.remedy} | {again} |")
    return "\n".join(lines)


BLOCKS = {"settings": settings_table, "reasons": reasons_table}


def renewed(text: str) -> str:
    """The README with every generated block as the code has it now."""
    for name, make in BLOCKS.items():
        begin, end = f"<!-- {name}: written by tests/docs.py -->\n", "<!-- end -->"
        before, found, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not found or not ended:
            raise ValueError(f"the README has no block named {name}")
        text = f"{before}{begin}{make()}\n{end}{after}"
    return text


if __name__ == "__main__":
    README.write_text(renewed(README.read_text("utf-8")), "utf-8")
