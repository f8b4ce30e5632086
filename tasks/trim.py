"""Remove what is only history: old answers of servers, old row errors, old runs of Prefect.

And end what Prefect has forgotten: its automation marks a run as crashed whose process died, but a server
that is killed at that moment never does.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed
from sqlalchemy import Select, Table, delete, exists, select, tuple_

from schemas.tables import BatchRowError, ImportBatch, ProbeResult, columns_of
from tasks.storage.database import Database

# Small enough that nobody waits long for the locks of one transaction.
ROWS_AT_ONCE = 1000
RUNS_AT_ONCE = 200
FLOWS = ["import-outlook", "watch-inbox", "retest-pending", "trim-history"]
OURS = FlowFilter(name=FlowFilterName(any_=FLOWS))


@task(persist_result=False, cache_policy=NO_CACHE)
def trim_results(database: Database, before: datetime) -> int:
    """Remove answers of servers older than `before`, but for those of each mailbox's last test.

    Returns:
        How many were removed, with the row errors of batches as old.
    """
    result, error, batch = columns_of(ProbeResult), columns_of(BatchRowError), columns_of(ImportBatch)
    # By time: a retest asked for counts attempts anew, and one that was cut off left no answer.
    newer = result.alias()
    later = exists().where(newer.c.mailbox_id == result.c.mailbox_id, newer.c.at > result.c.at)
    superseded = select(*result.primary_key.columns).where(result.c.at < before, later)
    errors = (
        select(*error.primary_key.columns)
        .join(batch, batch.c.id == error.c.batch_id)
        .where(batch.c.created_at < before)
    )
    return sum(_trim(database, table, query) for table, query in ((result, superseded), (error, errors)))


def _trim(database: Database, table: Table, query: Select[Any]) -> int:
    """Delete the rows whose keys a query finds, some at a time."""
    key = tuple_(*table.primary_key.columns)
    total = 0
    while True:
        with database.engine.begin() as connection:
            found = [tuple(row) for row in connection.execute(query.limit(ROWS_AT_ONCE))]
            if found:
                connection.execute(delete(table).where(key.in_(found)))
        total += len(found)
        if len(found) < ROWS_AT_ONCE:
            return total


@task(persist_result=False, cache_policy=NO_CACHE)
async def trim_runs(before: datetime) -> int:
    """Remove this project's flow runs that ended before `before`, with all that hangs on them."""
    old = FlowRunFilter(end_time=FlowRunFilterEndTime(before_=before))
    total = 0
    async with get_client() as client:
        while runs := await client.read_flow_runs(flow_filter=OURS, flow_run_filter=old, limit=RUNS_AT_ONCE):
            for run in runs:
                try:
                    await client.delete_flow_run(run.id)
                except ObjectNotFound:
                    continue
                total += 1
    return total


@task(persist_result=False, cache_policy=NO_CACHE)
async def end_forgotten_runs(before: datetime) -> int:
    """Mark this project's flow runs as crashed that were to begin before `before` and have not ended."""
    unended = FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
    forgotten = FlowRunFilter(
        state=FlowRunFilterState(type=unended),
        expected_start_time=FlowRunFilterExpectedStartTime(before_=before),
    )
    crashed: State[None] = Crashed(message="This run has not ended for a day: its process is gone.")
    total = 0
    async with get_client() as client:
        while runs := await client.read_flow_runs(
            flow_filter=OURS, flow_run_filter=forgotten, limit=RUNS_AT_ONCE
        ):
            for run in runs:
                await client.set_flow_run_state(run.id, crashed, force=True)
            total += len(runs)
    return total
