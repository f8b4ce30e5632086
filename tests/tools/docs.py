"""Writes the parts of the documentation that the code knows best: `make docs`.

A generated block is between `<!-- NAME: written by make docs -->` and `<!-- end -->`; NAME is a key of
`BLOCKS`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from cyclopts import App
from cyclopts.argument import Argument
from pydantic import SecretStr

from flows.cli.app import OLD_NAMES, build
from schemas.headers import FIELDS, SURNAME, find_columns
from schemas.reasons import EXPLANATIONS, Reason
from schemas.row_reasons import ROW_MESSAGES
from schemas.settings import DATA, PREFIX, Settings
from tests.support.exports import EXPORTS, export_of
from tests.support.licences import licence_of, run_time_packages

PROJECT = Path(__file__).resolve().parents[2]
PAGES = (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))
BLOCK = re.compile(r"(<!-- ([\w-]+): written by make docs -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_table() -> str:
    rows = (
        (f"`{name.upper()}`", _default(field.default), str(field.description))
        for name, field in Settings.model_fields.items()
    )
    return _table((f"Variable, after `{PREFIX}`", "Default", "Description"), rows)


def _default(default: object) -> str:
    if default in (None, {}, ()):
        return ""
    if isinstance(default, tuple):
        default = ", ".join(map(str, default))
    text = default.get_secret_value() if isinstance(default, SecretStr) else str(default)
    return f"`{text.replace(f'{DATA.parent}/', '')}`"


def reasons_table() -> str:
    rows = (
        (
            *(why.title, f"`{reason}`", why.meaning, why.remedy),
            *(str(why.actor), _retried(why.transient, why.attempts)),
        )
        for reason, why in EXPLANATIONS.items()
        if reason is not Reason.OK
    )
    return _table(("Reason", "Code", "What it means", "What to do", "Who acts", "Tested again"), rows)


def _retried(transient: bool, attempts: int | None) -> str:
    if attempts is not None:
        return f"up to {attempts} attempts"
    return "yes" if transient else "no"


def licences_page() -> str:
    """A separate page instead of a block, because the packages differ between Python versions."""
    rows = ((package.metadata["Name"], licence_of(package)[0]) for package in run_time_packages())
    table = _table(("Package", "Licence"), rows)
    about = "The packages that the program needs at run time, each with the licence in its metadata."
    return f"# Licences\n\n{about}\n`make docs` writes this page.\n\n{table}\n"


def row_errors_table() -> str:
    rows = ((message, f"{remedy[0].upper()}{remedy[1:]}.") for message, remedy in ROW_MESSAGES.values())
    return _table(("Error", "What to do"), rows)


def exports_table() -> str:
    """Found by reading a small export of each program, so that the table says what the code does."""
    return _table(("Export", *(f"`{field}`" for field in FIELDS), "Not used"), map(_export, EXPORTS))


def _export(program: str) -> tuple[str, ...]:
    header, *rows = csv.reader(export_of(program, "ann@contoso.com", "abcdefghijklmnop").splitlines())
    columns = find_columns(header, lambda: list(enumerate(rows, start=2)))
    assert columns is not None, program
    halves = {"name": ("name", SURNAME)}
    used = (
        ", ".join(
            header[columns.position[part]] for part in halves.get(field, (field,)) if part in columns.position
        )
        for field in FIELDS
    )
    return program, *used, ", ".join(columns.ignored)


def commands_list() -> str:
    return "\n\n".join(_command(words, app) for words, app in commands(build()))


def commands(app: App, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    """Every command that does something, with the words that call it, in the order of the help text."""
    seen: list[App] = []
    for name in app:
        inner = None if name.startswith("-") else app[name]
        if inner is None or inner in seen:  # an old name
            continue
        seen.append(inner)
        if list(_names(inner)):
            yield from commands(inner, (*words, name))
        else:
            yield (*words, name), inner


def _names(app: App) -> Iterator[str]:
    return (name for name in app if not name.startswith("-"))


def options(app: App) -> list[Argument]:
    """The arguments and options of a command, arguments first."""
    found = [one for one in app.assemble_argument_collection() if one.parse and not one.children]
    return sorted(found, key=lambda argument: argument.index is None)


def option_name(argument: Argument) -> str:
    """The name as the user types it, such as `--tag` or `FILE`."""
    return next(iter(argument.parameter.name or argument.names))


def _command(words: tuple[str, ...], app: App) -> str:
    arguments = options(app)
    optional = ["[OPTIONS]"] if any(one.index is None for one in arguments) else []
    given = [_usage(one) for one in arguments if one.index is not None]
    old_name = OLD_NAMES.get(" ".join(words))
    parts = [
        f"### {' '.join(words)}",
        f"{app.help} The old name `{old_name}` still works." if old_name else app.help,
        f"    {' '.join(['outlook-import', *words, *optional, *given])}",
    ]
    if arguments:
        rows = ((f"`{option_name(one)}{_value(one)}`", _about(one)) for one in arguments)
        parts.append(_table(("Option", "Description"), rows))
    return "\n\n".join(parts)


def _usage(argument: Argument) -> str:
    name = option_name(argument) + ("…" if argument.token_count()[1] else "")
    return name if argument.required else f"[{name}]"


def _value(argument: Argument) -> str:
    if argument.index is not None or argument.hint is bool:
        return ""
    return f" {option_name(argument).removeprefix('--').upper()}"


def _about(argument: Argument) -> str:
    about = str(argument.parameter.help)
    if argument.parameter.show_choices is not False and (choices := argument.get_choices()):
        about += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
    default = argument.field_info.default
    if argument.index is None and default not in (None, False, "", ()):
        about += f" Default: `{default}`."
    return about


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


BLOCKS = {
    "settings": settings_table,
    "reasons": reasons_table,
    "row-errors": row_errors_table,
    "exports": exports_table,
    "commands": commands_list,
}


def renewed(text: str) -> str:
    """A page with every generated block as the code defines it now."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{BLOCKS[block[2]]()}\n\n{block[3]}", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(renewed(page.read_text("utf-8")), "utf-8")
    (PROJECT / "docs" / "licences.md").write_text(licences_page(), "utf-8")
