"""How the housekeeping commands answer: exit codes, tables for people, JSON for programs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table

DONE, NOTHING_FOUND, USAGE = 0, 1, 2
FULL_LENGTH = 100_000

Areas: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def print_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows on standard output: a table of these columns, or a JSON list of whole rows.

    A cell that is None is empty; times are shown to the minute, in UTC.
    """
    if as_json:
        json.dump([dict(row) for row in rows], sys.stdout, default=str, ensure_ascii=False, indent=2)
        sys.stdout.write("\n")
        return
    table = Table(*(column.replace("_", " ") for column in columns), highlight=False)
    for row in rows:
        table.add_row(*(cell(row[column]) for column in columns))
    terminal().print(table)


def terminal() -> Console:
    """Standard output for tables: as wide as the terminal; a pipe or a file gets every line at full length."""
    return Console(
        width=None if sys.stdout.isatty() else FULL_LENGTH, highlight=False, markup=False, emoji=False
    )


def cell(value: object) -> str:
    """A value as text on one line, in which nothing steers the terminal; None is empty."""
    if value is None:
        return ""
    if hasattr(value, "strftime"):
        return f"{value:%Y-%m-%d %H:%M}"
    return "".join(char if char.isprintable() else " " for char in str(value))
