"""Keep the databases from growing without bound: remove old server replies and old runs of Prefect.

Mailboxes, imports and the latest replies of each mailbox stay.
"""

from __future__ import annotations

from datetime import timedelta

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.states import NOTHING_TO_DO
from schemas.labels import counted
from schemas.tables import now
from tasks.configuration import load_settings
from tasks.crash import leave_no_core_file
from tasks.storage.database import database
from tasks.trim import end_forgotten_runs, trim_results, trim_runs

# No run takes this long. One that Prefect has forgotten would count as running for ever.
FORGOTTEN = timedelta(days=1)
# There are thousands of runs that found nothing to do, and they hide the imports.
KEEP_EMPTY_RUNS = timedelta(hours=1)


@flow(name="trim-history", flow_run_name="trim of old history", persist_result=False)
async def trim_history() -> State:
    """Remove history older than the settings keep, and end runs that Prefect has forgotten."""
    leave_no_core_file()
    settings = load_settings()
    with database(settings) as mailboxes:
        results = trim_results(mailboxes, now() - timedelta(days=settings.keep_results_days))
    runs = await trim_runs(now() - timedelta(days=settings.keep_runs_days))
    empty = await trim_runs(now() - KEEP_EMPTY_RUNS, NOTHING_TO_DO)
    forgotten = await end_forgotten_runs(now() - FORGOTTEN)
    ended = f", ended {counted(forgotten, 'forgotten run')}" if forgotten else ""
    removed = f"removed {counted(results, 'old result')} and {counted(runs, 'old run')}{ended}"
    return Completed(
        name=None if results or runs or forgotten else NOTHING_TO_DO,
        message=f"{removed}, and {counted(empty, 'run')} that had found nothing to do",
    )
