"""Commands for messages. You can run them as printed, from the current folder."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from schemas.settings import COMMAND_VARIABLE

SCRIPT = "outlook-import"


def command(*words: object) -> str:
    """A command of this program, such as `.venv/bin/outlook-import mailboxes list`."""
    return shlex.join([*_program(), *map(str, words)])


def _program() -> list[str]:
    """How to call this program: by name if the shell finds it, otherwise by the shortest path."""
    if named := os.environ.get(COMMAND_VARIABLE):
        return shlex.split(named)
    script = Path(sys.executable).with_name(SCRIPT)
    if not script.exists():
        return [_short(Path(sys.executable)), "-m", "flows.cli"]
    found = shutil.which(SCRIPT)
    return [SCRIPT] if found and Path(found).absolute() == script else [_short(script)]


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
