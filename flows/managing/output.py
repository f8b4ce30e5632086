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
        table.add_row(*(_cell(row[column]) for column in columns))
    Console(highlight=False, markup=False).print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:%Y-%m-%d %H:%M}" if hasattr(value, "strftime") else str(value)
