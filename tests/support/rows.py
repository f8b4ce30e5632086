"""Prepared rows and summaries without a file, for tests of the steps after it."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from schemas.prepare import Prepared
from schemas.row_reasons import RowError
from schemas.rows import Duplicate
from schemas.summary import Summary, summarize

COLUMNS = {
    "line": pl.UInt32,
    "email": pl.String,
    "email_key": pl.String,
    "password": pl.String,
    "name": pl.String,
    "totp": pl.String,
    "login": pl.String,
    "password_warning": pl.String,
    "warning": pl.String,
}


def prepared_of(
    *rows: tuple[int, str, str],
    duplicates: tuple[Duplicate, ...] = (),
    errors: tuple[RowError, ...] = (),
    ignored: tuple[str, ...] = (),
) -> Prepared:
    """Rows with these lines, addresses and warnings, each with its own password."""
    data = [
        (line, email, email.casefold(), f"pw {line}", None, None, None, text, text)
        for line, email, text in rows
    ]
    kept = pl.DataFrame(data, schema=COLUMNS, orient="row")
    return Prepared(kept, duplicates, errors, ignored)


def summary_of(
    file: str,
    workspace: str,
    tag: str | None,
    new: Iterable[tuple[int, str, str]],
    old: Iterable[tuple[int, str]],
    duplicates: Iterable[Duplicate],
    errors: tuple[RowError, ...],
    ignored: tuple[str, ...] = (),
    import_id: int | None = None,
) -> Summary:
    """The summary of a file with these new, stored, repeated and failed rows."""
    fresh = list(new)
    rows = [*fresh, *((line, email, "") for line, email in old)]
    prepared = prepared_of(*rows, duplicates=tuple(duplicates), errors=errors, ignored=ignored)
    keys = {email.casefold() for _, email, _ in fresh}
    return summarize(prepared, file, workspace, tag, keys, import_id)
