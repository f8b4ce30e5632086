"""How the housekeeping commands answer: exit codes, tables for people, JSON for programs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from rich import box
from rich.console import Console
from rich.table import Column, Table

DONE, NOTHING_FOUND, USAGE = 0, 1, 2
FULL_LENGTH = 100_000

Areas: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def print_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows on standard output: a table of these columns, or a JSON list of whole rows.

    A cell that is None is empty; times are shown to the minute, in UTC.
    """
    if as_json:
        print_json([dict(row) for row in rows])
        return
    table = plain_table(*(column.replace("_", " ") for column in columns))
    for row in rows:
        table.add_row(*(cell(row[column]) for column in columns))
    terminal().print(table)


def print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, default=str, ensure_ascii=False, indent=2) + "\n")


def plain_table(*columns: Column | str) -> Table:
    """A table without lines between columns: they would cost room and come along when a cell is copied."""
    return Table(*columns, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))


def terminal() -> Console:
    """Standard output for tables: as wide as the terminal; pipes and files get every line at full length."""
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
