"""The documentation and the code agree."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from flows.api.app import create_app
from flows.cli.app import OLD_NAMES, build
from flows.deployments import DEPLOYMENTS
from schemas.headers import KNOWN_HEADERS, normalise
from schemas.settings import Settings
from tests.support.shell import LIMIT_SECONDS, PROJECT, SAMPLES, Shell
from tests.tools.docs import PAGES, commands, option_name, options, renewed

README, *DOCS = PAGES
SHELL_BLOCK = re.compile(r"^```shell\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")
PACKAGES = "flows|tasks|schemas|sandbox|tests"
# Placeholders in the text, and values that fit.
PLACEHOLDERS = {"ID": "1", "N": "1", "REASON": "wrong_credentials", "…": ""}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def shell_blocks(page: Path) -> list[str]:
    return SHELL_BLOCK.findall(text_of(page))


@cache
def text_of(page: Path) -> str:
    return page.read_text("utf-8")


def doc(name: str) -> str:
    return text_of(PROJECT / "docs" / f"{name}.md")


# --- Generated parts -------------------------------------------------


@pages
def test_generated_blocks_are_up_to_date(page: Path) -> None:
    """`make docs` would change nothing."""
    assert renewed(text_of(page)) == text_of(page)


def test_every_option_of_every_command_is_described() -> None:
    """The section of each command in docs/commands.md has each of its arguments and options."""
    for words, app in commands(build()):
        _, _, section = doc("commands").partition(f"\n### {' '.join(words)}\n")
        section = section.partition("\n### ")[0]
        assert f"{app.help}" in section, words
        missing = [
            option_name(option) for option in options(app) if f"| `{option_name(option)}" not in section
        ]
        assert not missing, words


def test_old_names_of_commands_are_described() -> None:
    """The old name of each renamed command is in docs/commands.md."""
    assert not [name for name in OLD_NAMES.values() if f"`{name}`" not in doc("commands")]


# --- Facts about the code --------------------------------------------


def test_every_column_is_described_with_its_other_names() -> None:
    """Each field of the file has a row in docs/file-format.md, with every header that maps to it."""
    for field, headers in KNOWN_HEADERS.items():
        row = re.search(rf"^\| `{field}` \|.*\| (.*) \|$", doc("file-format"), re.MULTILINE)
        assert row, field
        # A header `login` may hold addresses, so the field has other names.
        own = {field} - {"login"}
        assert {normalise(name) for name in row[1].split(",")} | own == set(headers)


def test_every_endpoint_is_described() -> None:
    """Each endpoint of the HTTP API has a row in docs/api.md."""
    paths = create_app(Settings()).openapi()["paths"]
    endpoints = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
    assert endpoints
    assert not [endpoint for endpoint in endpoints if f"| `{endpoint}` |" not in doc("api")]


def test_every_deployment_is_described() -> None:
    """Each deployment has a row in docs/deployments.md."""
    assert not [name for name in DEPLOYMENTS if f"| `{name}` |" not in doc("deployments")]


@pages
def test_every_name_of_code_exists(page: Path) -> None:
    """Each `package.module.name` in the text can be imported, and each file or folder in it exists."""
    code = re.findall(r"`([^`\n]+)`", CODE_BLOCK.sub("", text_of(page)))
    for name in code:
        if re.fullmatch(rf"({PACKAGES})(\.\w+)+", name):
            assert resolves(name), name
        elif re.fullmatch(rf"({PACKAGES}|docs|data/samples)/[\w/.-]*", name):
            assert (PROJECT / name).exists(), name


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return hasattr(importlib.import_module(module), attribute)
    return True


# --- Links and commands ----------------------------------------------


@pages
def test_every_link_resolves(page: Path) -> None:
    """Each relative link points to a file, and each anchor to a heading in it."""
    for target, anchor in LINK.findall(CODE_BLOCK.sub("", text_of(page))):
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub generates for the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", CODE_BLOCK.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_every_make_target_exists(page: Path) -> None:
    """Each make target that a page names is in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text_of(page), re.MULTILINE)) <= targets


@pages
def test_every_command_line_parses(page: Path) -> None:
    """Each `outlook-import …` in a shell block or in the text is a valid command line."""
    app = build()
    for line in command_lines(page):
        command, _, _ = app.parse_args(line, exit_on_error=False, print_error=False)
        assert command != app.help_print, line


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words of each command line after the program's name."""
    whole = [line for block in shell_blocks(page) for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`([^`\n]+)`", CODE_BLOCK.sub("", text_of(page)))
    for line in [*whole, *inline]:
        if called := re.match(r"(?:[\w./]+/)?outlook-import (?=[a-z])(.*)", line):
            yield [PLACEHOLDERS.get(word, word) for word in shlex.split(called[1], comments=True)]


@pages
def test_every_module_that_is_run_by_name_exists(page: Path) -> None:
    """Each `python -m MODULE` of this project that a page names can be run."""
    for module in re.findall(rf"python -m ((?:{PACKAGES})[\w.]*)", text_of(page)):
        path = PROJECT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


@pytest.mark.slow
def test_shell_blocks_of_the_readme_run(shell: Shell) -> None:
    """The README's commands, run one after the other against the stand-in, all end with 0.

    `make demo` and `make test` are left out: the test of the make targets covers them.
    """
    make, *blocks = shell_blocks(README)
    assert re.findall(r"^make (\w+)", make, re.MULTILINE) == ["demo", "test"]
    (shell.folder / "mailboxes.csv").write_bytes((SAMPLES / "mailboxes.csv").read_bytes())
    (shell.folder / ".venv").symlink_to(sys.prefix)
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", "bash", "-euxc", "\n".join(blocks)],
        cwd=shell.folder,
        env=shell.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=3 * LIMIT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert "Imported" in done.stdout
    assert "helpdesk@example.com: active" in done.stdout
