"""The exit codes of `outlook-import`, the same for every command."""

from __future__ import annotations

DONE = 0
REFUSED = NOTHING_FOUND = 1  # a file was refused; nothing was found, or only a part of it
USAGE = 2  # wrong usage or settings
FAILED = 3  # the run or the database failed
INTERRUPTED = 130  # Ctrl-C
EXPLAINED = (
    "Exit codes: 0 done, 1 file refused or nothing found, 2 wrong usage or settings, 3 the run or the "
    "database failed, 130 stopped by Ctrl-C."
)
