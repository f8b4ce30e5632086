"""Test mailboxes after a request over HTTP is answered: those of an import, or single ones.

If a Prefect server is configured, its retest deployment runs the tests. Otherwise, or if that fails, this
process runs them, one run after the other, so that the limit per host holds for the whole process. Only
numbers are kept in memory: mailboxes that a crash or a shutdown leaves untested are pending, and a retest
finds them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from itertools import islice
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.deployments import arun_deployment
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL

from schemas.bounds import MAX_MAILBOXES
from schemas.settings import Settings
from schemas.verdicts import Group, Target
from tasks.crash import outline
from tasks.notify import tell_guard
from tasks.probe import Probing
from tasks.storage.claims import find_due
from tasks.storage.database import Database
from tasks.tell_changes import tell_changes

DEPLOYMENT = "retest-pending/scheduled"
PREFECT_SECONDS = 15
MOST_WAITING = 5000  # single mailboxes; beyond them, the next retest tests what is due
MOST_RUNS = 100
LOGGER = logging.getLogger(__name__)


class BackgroundTests:
    """Runs one test run after the other, on the event loop that it was made on."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._imports: deque[int] = deque()
        self._mailboxes: dict[int, None] = {}  # a set that keeps its order
        self._runs: OrderedDict[int, UUID] = OrderedDict()
        self._wake = asyncio.Event()
        self._probing: Probing | None = None
        self._closing = False
        self._worker = asyncio.create_task(self._work())

    def submit(self, import_id: int) -> None:
        """Test the mailboxes that an import created or updated."""
        self._imports.append(import_id)
        self._wake.set()

    def submit_mailboxes(self, mailbox_ids: Iterable[int]) -> None:
        """Test mailboxes that were made due. If too many wait already, the rest is left for a retest."""
        new = dict.fromkeys(one for one in mailbox_ids if one not in self._mailboxes)
        taken = list(islice(new, MOST_WAITING - len(self._mailboxes)))
        self._mailboxes |= dict.fromkeys(taken)
        if len(taken) < len(new):
            LOGGER.warning(
                "Too many mailboxes wait for a test: the next retest tests %d", len(new) - len(taken)
            )
        self._wake.set()

    def page_of_run(self, import_id: int) -> str | None:
        """Where Prefect shows the run that tests an import; None if this process does, or if it restarted."""
        run, ui = self._runs.get(import_id), PREFECT_UI_URL.value()
        return f"{str(ui).rstrip('/')}/runs/flow-run/{run}" if run and ui else None

    async def close(self) -> None:
        """Start no more tests and interrupt those that run: their mailboxes stay pending and come due."""
        self._closing = True
        self._wake.set()
        if self._probing is not None:
            self._probing.interrupt()
        await self._worker  # not cancelled: one of its threads may be using the database

    async def _work(self) -> None:
        while not self._closing:
            if self._mailboxes:
                mailbox_ids = list(islice(self._mailboxes, MAX_MAILBOXES))
                for one in mailbox_ids:
                    del self._mailboxes[one]
                await self._run(None, mailbox_ids)
            elif not self._imports:
                self._wake.clear()
                await self._wake.wait()
            if self._imports and not self._closing:
                await self._run(self._imports.popleft(), None)

    async def _run(self, import_id: int | None, mailbox_ids: Sequence[int] | None) -> None:
        about = "A retest" if import_id is None else f"Import {import_id}"
        try:
            if run := await handed_to_prefect(import_id):
                if import_id is None:
                    self._mailboxes.clear()  # the run tests all that are due
                else:
                    self._runs[import_id] = run
                    while len(self._runs) > MOST_RUNS:
                        self._runs.popitem(last=False)
                return
            targets = await asyncio.to_thread(
                find_due.fn,
                *(self._database, MAX_MAILBOXES, None),
                held=False,
                import_id=import_id,
                mailbox_ids=mailbox_ids,
            )
            if targets and not self._closing:
                await self._test(about, targets)
        except Exception as error:  # noqa: BLE001  one run must not end the tests of the next
            LOGGER.error("%s: the tests failed: %s", about, outline(error))

    async def _test(self, about: str, targets: Sequence[Target]) -> None:
        probing = self._probing = Probing(
            self._database, self._settings, [target.mailbox_id for target in targets]
        )

        async def gather_groups(groups: Sequence[Group]) -> None:
            tests = (probing.test_group(group, LOGGER) for group in groups)
            results = await asyncio.gather(*tests, return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result

        try:
            await probing.run(targets, gather_groups)
        finally:
            report, self._probing = probing.report(), None
            LOGGER.info("%s: %s", about, report)
            await tell_guard(about, report, str(report), self._settings)
            await tell_changes(self._database, self._settings)


async def handed_to_prefect(import_id: int | None) -> UUID | None:
    """Create a flow run of the retest deployment. Two calls for one import create one run.

    Args:
        import_id: The import to test; None for all mailboxes that are due.

    Returns:
        The id of the run; None if no Prefect server is configured, or it did not accept the run.
    """
    if not PREFECT_API_URL.value():
        return None
    try:
        async with asyncio.timeout(PREFECT_SECONDS):
            async with get_client() as client:
                run = await arun_deployment(
                    DEPLOYMENT,
                    client=client,
                    parameters={} if import_id is None else {"import_id": import_id},
                    idempotency_key=None if import_id is None else f"import-{import_id}",
                    timeout=0,
                    as_subflow=False,
                )
    except (PrefectException, httpx.HTTPError, OSError, RuntimeError, TimeoutError) as error:
        LOGGER.warning(
            "Prefect did not accept the tests of %s (%s): they run in this process",
            "due mailboxes" if import_id is None else f"import {import_id}",
            type(error).__name__,
        )
        return None
    return run.id
