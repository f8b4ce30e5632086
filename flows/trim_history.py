"""Keep the databases from growing for ever: old answers of servers, and Prefect's old runs, are removed.

Mailboxes, batches and the last answers of each mailbox stay.
"""

from __future__ import annotations

from datetime import timedelta

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from schemas.settings import load_settings
from schemas.tables import now
from tasks.crash import leave_no_core_file
from tasks.database import database
from tasks.trim import trim_results, trim_runs


@flow(name="trim-history", flow_run_name="trim of what is old", persist_result=False)
async def trim_history() -> State:
    """Remove history that is older than the settings keep it."""
    leave_no_core_file()
    settings = load_settings()
    with database(settings) as mailboxes:
        results = trim_results(mailboxes, now() - timedelta(days=settings.keep_results_days))
    runs = await trim_runs(now() - timedelta(days=settings.keep_runs_days))
    return Completed(message=f"removed {results} old results and {runs} old runs")
