"""Step 3: one row per mailbox, and no more than 500 of them."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from schemas import rows

# The rule itself is pure and lives with the other rules of rows: `--check` asks it without Prefect.
dedupe = task(persist_result=False, cache_policy=NO_CACHE)(rows.dedupe)
