"""Test the mailboxes of an import over HTTP after the request is answered.

If a Prefect server is configured, its retest deployment runs the tests. Otherwise, or if that fails, this
process runs them, one import after the other, so that the limit per host holds for the whole process. Only
import numbers are kept in memory: mailboxes that a crash or a shutdown leaves untested are pending, and a
retest finds them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import httpx
from prefect.client.orchestration import get_client
from prefect.deployments import arun_deployment
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL

from schemas.rows import MAX_MAILBOXES
from schemas.settings import Settings
from schemas.verdicts import Group
from tasks.crash import outline
from tasks.notify import tell_guard
from tasks.probe import Probing
from tasks.storage.claims import find_due
from tasks.storage.database import Database
from tasks.tell_changes import tell_changes

DEPLOYMENT = "retest-pending/scheduled"
PREFECT_SECONDS = 15
LOGGER = logging.getLogger(__name__)


class BackgroundTests:
    """Tests the mailboxes of one import after the other, on the event loop that it was made on."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._imports: asyncio.Queue[int | None] = asyncio.Queue()
        self._probing: Probing | None = None
        self._closing = False
        self._worker = asyncio.create_task(self._work())

    def submit(self, import_id: int) -> None:
        """Add an import to the queue of imports to test."""
        self._imports.put_nowait(import_id)

    async def close(self) -> None:
        """Start no more tests and interrupt those that run: their mailboxes stay pending and come due."""
        self._closing = True
        self._imports.put_nowait(None)
        if self._probing is not None:
            self._probing.interrupt()
        await self._worker  # not cancelled: one of its threads may be using the database

    async def _work(self) -> None:
        while (import_id := await self._imports.get()) is not None and not self._closing:
            try:
                if not await handed_to_prefect(import_id):
                    await self._test(import_id)
            except Exception as error:  # noqa: BLE001  one import must not end the tests of the next
                LOGGER.error("The tests of import %d failed: %s", import_id, outline(error))

    async def _test(self, import_id: int) -> None:
        targets = await asyncio.to_thread(
            find_due.fn, self._database, MAX_MAILBOXES, None, held=False, import_id=import_id
        )
        if self._closing:
            return
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
            LOGGER.info("Import %d: %s", import_id, report)
            await tell_guard(f"Import {import_id}", report, str(report), self._settings)
            await tell_changes(self._database, self._settings)


async def handed_to_prefect(import_id: int) -> bool:
    """Create a flow run of the retest deployment for one import. Two calls for one import create one run.

    Returns:
        False if no Prefect server is configured, or it did not accept the run.
    """
    if not PREFECT_API_URL.value():
        return False
    try:
        async with asyncio.timeout(PREFECT_SECONDS):
            async with get_client() as client:
                await arun_deployment(
                    DEPLOYMENT,
                    client=client,
                    parameters={"import_id": import_id},
                    idempotency_key=f"import-{import_id}",
                    timeout=0,
                    as_subflow=False,
                )
    except (PrefectException, httpx.HTTPError, OSError, RuntimeError, TimeoutError) as error:
        LOGGER.warning(
            "Prefect did not accept the tests of import %d (%s): they run in this process",
            import_id,
            type(error).__name__,
        )
        return False
    return True
