"""Step 1: read the file, then validate and dedupe its rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from schemas.bounds import DEFAULT_BOUNDS, Bounds
from schemas.prepare import Prepared, prepare_rows
from schemas.reading import AS_IT_IS, Reading
from schemas.refusals import Refusal
from tasks.crash import unquoted
from tasks.files.read_file import read_bytes


@task(persist_result=False, cache_policy=NO_CACHE)
@unquoted()
def prepare(
    file: Path,
    byte_limit: int,
    reading: Reading = AS_IT_IS,
    within: Sequence[Path] | None = None,
    *,
    served: Collection[str] = (),
    bounds: Bounds = DEFAULT_BOUNDS,
) -> Prepared | Refusal:
    """Read, validate and dedupe a CSV file of mailboxes.

    This is one task, so that no plaintext passes between tasks.

    Args:
        byte_limit: Maximum size of the file, in bytes.
        reading: How to read the file where it leaves that open.
        within: Folders that may contain the file; None for any folder.
        served: Domains with their own servers in the settings, which may include `*`.
        bounds: How much of the file to read. A file that has more is refused.

    Returns:
        The prepared rows, or the refusal of the file.

    Raises:
        StepError: If this program has a fault.
    """
    return prepare_rows(read_bytes(file, byte_limit, within), reading, bounds, served)
