"""Tell each run that has crashed, once.

If the process of a run dies, its worker runs the hook. If the worker dies too, Prefect's automation marks the
run as crashed, and nothing runs the hook: the next scan of the inbox tells it. Scans never overlap. A tag of
the run says that it was told. Until then its notice is sent again, with the same id.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort

from schemas.labels import DEFAULT_WORKSPACE
from schemas.settings import Settings
from schemas.tables import now
from tasks.configuration import load_settings
from tasks.hints import command
from tasks.notify import logger_of_run, notify
from tasks.trim import OURS

TOLD = "crash-told"
# How long the hook has to tell a run itself. It loads the flow first, which takes seconds.
HOOK = timedelta(minutes=1)
# A crash that could not be told for this long is not told any more.
NEWS = timedelta(days=1)
ALTOGETHER = 30.0  # seconds
MOST = 200


async def tell_crash(flow: object, flow_run: FlowRun, state: State) -> None:  # noqa: ARG001  Prefect's names
    """Hook: a run of a deployment or of the command line has crashed."""
    async with get_client() as client:
        # The worker only knows the name that the run had before it started.
        await _tell(await client.read_flow_run(flow_run.id), client, load_settings())


async def tell_crashes(settings: Settings, before: datetime | None = None) -> None:
    """Tell the crashes that no hook has told, the oldest first. A failure is logged and not raised.

    Args:
        before: Only runs that ended before it; by default, those whose hook has had its time.
    """
    if settings.notify_webhook is None and settings.notify_block is None:
        return
    ended = FlowRunFilterEndTime(after_=now() - NEWS, before_=before or now() - HOOK)
    crashed = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED]))
    try:
        async with asyncio.timeout(ALTOGETHER), get_client() as client:
            runs = await client.read_flow_runs(
                flow_filter=OURS,
                flow_run_filter=FlowRunFilter(state=crashed, end_time=ended),
                sort=FlowRunSort.END_TIME_DESC,
                limit=MOST,
            )
            for run in reversed(runs):
                if TOLD not in run.tags and not await _tell(run, client, settings):
                    break
    except Exception as error:  # noqa: BLE001  a scan must not fail here, and the next one continues
        logger_of_run().warning("Crashed runs were not told: %s", type(error).__name__)


async def _tell(run: FlowRun, client: PrefectClient, settings: Settings) -> bool:
    """Tell one crash and tag the run; whether it has arrived."""
    flow = await client.read_flow(run.flow_id)
    text = f"The run {run.name} crashed. {_next(flow.name, run.parameters.get('workspace'))}"
    arrived = await notify(text, settings, f"msg_{run.id.hex}")
    if arrived:
        await client.update_flow_run(run.id, tags=[*run.tags, TOLD])
    return arrived


def _next(flow: str, workspace: object) -> str:
    """What happens next, and the command that shows it."""
    if flow == "watch-inbox":
        return f"The next scan continues with its files. If they stay, run `{command('doctor')}`."
    named = () if workspace in (None, DEFAULT_WORKSPACE) else ("--workspace", workspace)
    if flow == "import-outlook":
        return (
            "What it stored stays, and the next retest tests its pending mailboxes: run "
            f"`{command('imports', 'list', *named)}`. The next scan continues with a file from the inbox. "
            "Import any other file again: nothing is added twice."
        )
    pending = command("mailboxes", "list", "--status", "pending", *named)
    return f"The next run continues from there. `{pending}` shows the mailboxes that wait."
