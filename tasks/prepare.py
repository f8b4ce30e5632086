"""Step 1: the file becomes rows that are read, validated and deduplicated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from schemas.prepare import Prepared, prepare_rows
from schemas.refusals import Refusal
from tasks.crash import unquoted
from tasks.files.read_file import read_bytes


@task(persist_result=False, cache_policy=NO_CACHE)
@unquoted()
def prepare(
    file: Path, byte_limit: int, encoding: str | None = None, within: Sequence[Path] | None = None
) -> Prepared | Refusal:
    """Read, validate and dedupe a CSV file of mailboxes. One task: no plaintext travels between two.

    Args:
        within: Folders that may hold the file; None for any place.
    """
    return prepare_rows(read_bytes(file, byte_limit, within), encoding)
