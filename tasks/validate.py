"""Step 2: every row is judged, and the secrets of the good ones are sealed. No plaintext gets past it."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from schemas.csv_file import CsvTable
from schemas.rows import RowError, judge
from schemas.sealing import Owner, Sealer
from tasks.crash import unquoted


@dataclass(frozen=True)
class Validated:
    """The good rows with sealed secrets, and the faults of the others.

    Attributes:
        valid: `line` (UInt32), `email`, `email_key` (String), `name` (String, nullable), `password` (Binary),
            `totp` (Binary, nullable), `warning` (String, "" for none), in the file's order.
    """

    valid: pl.DataFrame
    errors: tuple[RowError, ...]
    ignored: tuple[str, ...]


@task(persist_result=False, cache_policy=NO_CACHE)
@unquoted()
def validate(table: CsvTable, workspace: str, sealer: Sealer) -> Validated:
    """Judge the rows with the Pandera schema and seal the secrets of the valid ones."""
    judged = judge(table)

    def sealed(field: str) -> pl.Series:
        pairs = judged.valid.select("email_key", field).iter_rows()
        values = [
            None if secret is None else sealer.seal(secret, Owner(workspace, key, field))
            for key, secret in pairs
        ]
        return pl.Series(field, values, dtype=pl.Binary)

    valid = judged.valid.with_columns(sealed("password"), sealed("totp"))
    return Validated(valid, judged.errors, table.ignored)
