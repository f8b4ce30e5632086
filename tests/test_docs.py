"""The documentation and the code agree."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from flows.cli.app import arguments
from schemas.headers import KNOWN_HEADERS
from tests.support.shell import PROJECT
from tests.tools.docs import README, renewed

TEXT = README.read_text("utf-8")


def test_tables_of_settings_and_reasons_are_those_of_the_code() -> None:
    """`python -m tests.docs` would change nothing."""
    assert renewed(TEXT) == TEXT


def test_every_option_is_described() -> None:
    """Each option of the import is in the README."""
    options = {option for action in arguments()._actions for option in action.option_strings}
    assert not [option for option in options - {"-h", "--help"} if f"`{option}" not in TEXT]


def test_every_column_is_described() -> None:
    """Each field of the file is in the README."""
    assert not [field for field in KNOWN_HEADERS if f"| `{field}` |" not in TEXT]


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m ((?:flows|sandbox)[\w.]*)", TEXT))))
def test_every_command_exists(module: str) -> None:
    """Each command that the README names has a help text."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_every_make_target_exists() -> None:
    """Each make target that the README names is in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", TEXT, re.MULTILINE)) <= targets
