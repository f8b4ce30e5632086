"""How commands print: tables, JSON, and text in which nothing steers the terminal."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table

from flows.cli.exit_codes import NOTHING_FOUND, USAGE
from schemas.labels import printable
from schemas.summary import defused

FULL_LENGTH = 100_000


def print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_list(
    records: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_csv: bool, as_json: bool
) -> bool:
    """Print records for a program: as JSON whole, as CSV these columns, safe to open in a spreadsheet.

    Returns:
        False if neither is asked for.
    """
    if as_json:
        print_json(list(records))
    elif as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(columns)
        for record in records:
            writer.writerow([defused("" if record[name] is None else str(record[name])) for name in columns])
    return as_json or as_csv


def tell(sentence: str) -> None:
    """Write a sentence to standard error, where it disturbs no pipe."""
    sys.stdout.flush()
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()


def wrong_usage(sentence: str) -> int:
    tell(sentence)
    return USAGE


def one_of(*, as_csv: bool, as_json: bool) -> int | None:
    """The exit code if both are asked for."""
    return wrong_usage("Choose one of --csv and --json.") if as_csv and as_json else None


def no_such_import(import_id: int, workspace: str) -> int:
    tell(f"There is no import {import_id} in workspace {workspace!r}.")
    return NOTHING_FOUND


def no_such_mailbox(email: str, workspace: str) -> int:
    tell(f"{cell(email)} is not in workspace {workspace!r}.")
    return NOTHING_FOUND


def tell_hidden(shown: int, total: int) -> None:
    """Say how many rows `--limit` has left out."""
    if hidden := total - shown:
        tell(f"… and {hidden} more: --limit {total} lists them all.")


def print_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print a table of these columns; a cell that is None is empty, times are to the minute, in UTC."""
    table = plain_table(*(column.replace("_", " ") for column in columns))
    for row in rows:
        table.add_row(*(cell(row[column]) for column in columns))
    terminal().print(table)


def plain_table(*columns: Column | str) -> Table:
    """A table without lines between columns: they take room and get copied along with a cell."""
    return Table(*columns, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))


def terminal() -> Console:
    """Standard output for tables: as wide as the terminal; pipes and files get full lines."""
    return Console(
        width=None if sys.stdout.isatty() else FULL_LENGTH, highlight=False, markup=False, emoji=False
    )


def cell(value: object) -> str:
    """A value as text on one line, in which nothing steers the terminal; None is empty."""
    if value is None:
        return ""
    if hasattr(value, "strftime"):
        return f"{value:%Y-%m-%d %H:%M}"
    return printable(str(value))
