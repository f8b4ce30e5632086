"""A flow run that a person watches at a terminal: its progress, and Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, State, StateType
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flows.cli.temporary_server import TemporaryServer
from schemas.standing import MailboxStatus
from schemas.verdicts import Verdict
from tasks.probe import Observer, Probing, observer

# Long enough for the recorder of a busy machine; after that nothing waits for late records.
DRAIN_SECONDS = 20
RECORDER_SECONDS = 1.2  # its flush interval and some slack

Start: TypeAlias = Callable[[], Awaitable[State[Any]]]


class Watcher(Observer):
    """Shows the progress of a run's probes; the first Ctrl-C ends them cleanly."""

    def __init__(self, progress: Progress, say: Console) -> None:
        self._progress = progress
        self._say = say
        self._failed = 0
        self._done = 0

    def begin(self, probing: Probing, total: int) -> None:
        self._total = total
        self._bar = self._progress.add_task("probe", total=total, failed=0)
        loop = asyncio.get_running_loop()

        def interrupted() -> None:
            loop.remove_signal_handler(signal.SIGINT)  # the second one ends the process at once
            self._say.print("Stopping …")
            probing.interrupt()

        loop.add_signal_handler(signal.SIGINT, interrupted)

    def verdict(self, verdict: Verdict) -> None:
        self._done += 1
        self._failed += verdict.status == MailboxStatus.FAILED
        self._progress.update(self._bar, advance=1, failed=self._failed)
        if self._progress.disable:
            line = f"{self._done}/{self._total} {verdict.email}: {verdict.status}. {verdict.headline}"
            self._say.print(line, markup=False, soft_wrap=True)


class Ended(NamedTuple):
    """How a flow run ended: `outcome` is what it returned, or the exception that ended it."""

    state: State
    outcome: object


def using(server: TemporaryServer) -> AbstractContextManager[object]:
    """Prefect's settings with the address and the login of the temporary server."""
    return temporary_settings({PREFECT_API_URL: server.url, PREFECT_API_AUTH_STRING: server.login})


def run_attended(start: Start, say: Console, server: TemporaryServer | None) -> Ended:
    """Run a flow in this process, on the temporary server or on the configured one.

    Args:
        start: Starts the flow run; awaiting its result gives the final state.
    """
    if server is None:
        return asyncio.run(_run(start, say))
    with using(server):
        return asyncio.run(_run(start, say))


async def _run(start: Start, say: Console) -> Ended:
    with Progress(
        TextColumn("Testing logins"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeRemainingColumn(),
        console=say,
        disable=not say.is_terminal,
    ) as progress:
        observer.set(Watcher(progress, say))
        state = await start()
    return Ended(state, await state.aresult(raise_on_failure=False))


def drain(server: TemporaryServer, state: State) -> None:
    """Send logs and task runs, and wait until a server that ends now has recorded them: it loses the rest."""
    with using(server), suppress(TimeoutError):
        asyncio.run(_drain(None if server.kept else state.state_details.flow_run_id))


async def _drain(flow_run_id: UUID | None) -> None:
    async with asyncio.timeout(DRAIN_SECONDS):
        await APILogHandler.aflush()
        await asyncio.to_thread(EventsWorker.drain_all)
        if flow_run_id is None:
            return
        await asyncio.sleep(RECORDER_SECONDS)
        unfinished = TaskRunFilter(
            state=TaskRunFilterState(type=TaskRunFilterStateType(any_=list(set(StateType) - TERMINAL_STATES)))
        )
        this_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
        async with get_client() as client:
            while True:
                found = await client.read_task_runs(flow_run_filter=this_run, task_run_filter=unfinished)
                if not found:
                    return
                await asyncio.sleep(0.1)
