"""What the housekeeping commands share: how they are declared, exit codes, tables and JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from rich import box
from rich.console import Console
from rich.table import Column, Table

DONE, NOTHING_FOUND, USAGE, BROKEN_OFF = 0, 1, 2, 3
FULL_LENGTH = 100_000
LARGEST = 2**62  # so that one more still fits into a column

Areas: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_area(areas: Areas, name: str, about: str) -> Areas:
    """Declare a word that has actions under it."""
    area = areas.add_parser(name, help=about, description=about)
    return area.add_subparsers(dest="action", required=True)


def add_action(actions: Areas, name: str, about: str, run: Callable[..., int]) -> argparse.ArgumentParser:
    """Declare a command; `run` gets its options and the settings, and returns the exit code."""
    parser: argparse.ArgumentParser = actions.add_parser(name, help=about, description=about)
    parser.set_defaults(run=run)
    return parser


def add_json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit", type=number, default=50, metavar="N", help="List so many at most (default: %(default)s)."
    )


def number(text: str) -> int:
    """A number from 1 that a database can hold, such as that of an import."""
    if not text.isdecimal() or not 0 < int(text) <= LARGEST:
        raise argparse.ArgumentTypeError("that is no number from 1")
    return int(text)


def tell_hidden(shown: int, total: int) -> None:
    """Say how many `--limit` has left out."""
    if hidden := total - shown:
        sys.stdout.flush()
        sys.stderr.write(f"… and {hidden} more: --limit {total} lists them all.\n")


def print_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print a table of these columns; a cell that is None is empty, times are to the minute, in UTC."""
    table = plain_table(*(column.replace("_", " ") for column in columns))
    for row in rows:
        table.add_row(*(cell(row[column]) for column in columns))
    terminal().print(table)


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
