"""Step 1: the file becomes a table of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from schemas.csv_file import CsvTable, Refusal, parse, read_bytes
from tasks.crash import unquoted


@task(persist_result=False, cache_policy=NO_CACHE)
@unquoted()
def read_csv(
    file: Path, byte_limit: int, encoding: str | None = None, within: Sequence[Path] | None = None
) -> CsvTable | Refusal:
    """Read a CSV file of mailboxes; a file that cannot be taken is a `Refusal`.

    Args:
        within: Folders of which one has to hold the file; None for any place.
    """
    data = read_bytes(file, byte_limit, within)
    return data if isinstance(data, Refusal) else parse(data, encoding)
