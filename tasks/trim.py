"""Remove history: old answers of mail servers, old rows of imports, old flow runs.

Also end flow runs that Prefect has forgotten. Prefect's automation marks a run as crashed when its process
dies, but not if the server is killed at that moment.
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
    FlowRunFilterStateName,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed
from sqlalchemy import Select, delete, exists, select, tuple_
from sqlalchemy.orm import aliased
from sqlmodel import col

from schemas.tables import Import, ImportRow, ProbeResult, table_of
from tasks.storage.database import Database, through_restarts

# Small, so that no other program waits long for the locks of one transaction.
ROWS_AT_ONCE = 1000
RUNS_AT_ONCE = 200
FLOWS = ["import-outlook", "watch-inbox", "retest-pending", "recheck-active", "trim-history"]
OURS = FlowFilter(name=FlowFilterName(any_=FLOWS))


@task(persist_result=False, cache_policy=NO_CACHE)
def trim_results(database: Database, before: datetime) -> int:
    """Remove old answers of mail servers and the rows of old imports.

    The answers of each mailbox's last test stay, however old they are.

    Args:
        before: Everything from this time on stays.

    Returns:
        How many rows were removed.
    """
    newer = aliased(ProbeResult)
    # Times decide which answers are the last: attempts start again from 1 when someone asks for a retest.
    later = exists().where(
        col(newer.mailbox_id) == col(ProbeResult.mailbox_id), col(newer.at) > col(ProbeResult.at)
    )
    answers = select(col(ProbeResult.mailbox_id), col(ProbeResult.attempt), col(ProbeResult.protocol)).where(
        col(ProbeResult.at) < before, later
    )
    rows = (
        select(col(ImportRow.import_id), col(ImportRow.line))
        .join(Import, col(Import.id) == col(ImportRow.import_id))
        .where(col(Import.created_at) < before)
    )
    return _trim(database, ProbeResult, answers) + _trim(database, ImportRow, rows)


def _trim(
    database: Database, model: type[ProbeResult] | type[ImportRow], query: Select[*tuple[Any, ...]]
) -> int:
    """Delete the rows whose primary keys a query finds, in many short transactions."""
    total = found = _trim_some(database, model, query)
    while found == ROWS_AT_ONCE:  # fewer are the last ones
        found = _trim_some(database, model, query)
        total += found
    return total


@through_restarts
def _trim_some(
    database: Database, model: type[ProbeResult] | type[ImportRow], query: Select[*tuple[Any, ...]]
) -> int:
    key = tuple_(*table_of(model).primary_key.columns)
    with database.engine.begin() as connection:
        found = [tuple(row) for row in connection.execute(query.limit(ROWS_AT_ONCE))]
        if found:
            connection.execute(delete(model).where(key.in_(found)))
    return len(found)


@task(persist_result=False, cache_policy=NO_CACHE)
async def trim_runs(before: datetime, state: str | None = None) -> int:
    """Remove this project's flow runs that ended before `before`, with their logs and artifacts.

    Args:
        state: Only runs whose final state has this name.

    Returns:
        How many runs were removed.
    """
    ended = FlowRunFilterEndTime(before_=before)
    named = FlowRunFilterState(name=FlowRunFilterStateName(any_=[state])) if state else None
    old = FlowRunFilter(end_time=ended, state=named)
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
    """Mark flow runs as crashed that should have begun before `before` and have not ended.

    Returns:
        How many runs were marked.
    """
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
