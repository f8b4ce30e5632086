"""Step 5: every new mailbox is tested, at most one login per protocol, and what was found is stored at once.

A task run takes a small group of mailboxes of one pair of hosts. All groups of a run share one `Probing`, and
all their logins run on the flow's own event loop: one SSL context, one semaphore per host, one lockout guard.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from datetime import timedelta
from typing import TypeAlias

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.concurrency.sync import concurrency

from schemas.providers import Endpoint
from schemas.reasons import Protocol, Reason
from schemas.settings import Settings
from schemas.tables import now
from schemas.verdicts import Answer, Group, ProbeReport, Stop, Target, Verdict, decide_verdict, group_targets
from tasks.crash import unquoted
from tasks.limits import limits_of
from tasks.login.session import log_in
from tasks.login.wire import Credentials, tls_context
from tasks.storage.claims import Claimed, claim, hold_back, release, save
from tasks.storage.database import Database


class Observer:
    """Somebody who watches a run's probes, such as the progress bar of the terminal."""

    def begin(self, probing: Probing, total: int) -> None:
        """The probes of `total` mailboxes are about to begin."""

    def verdict(self, verdict: Verdict) -> None:
        """A verdict was stored."""


Logger: TypeAlias = logging.Logger | logging.LoggerAdapter[logging.Logger]

# Whoever starts a flow run in this process may watch it; flow parameters cannot carry an object.
observer: ContextVar[Observer] = ContextVar("observer", default=Observer())  # noqa: B039  it has no state


@task(task_run_name="{group}", persist_result=False, cache_policy=NO_CACHE)
def probe(group: Group, probing: Probing, configured: Collection[str] = ()) -> None:
    """Test the mailboxes of one group; runs on a thread of its own and works on the flow's event loop.

    Args:
        configured: Global concurrency limits that are set; a slot of those of the group's hosts is held.
    """
    limits = limits_of(group, configured)
    with concurrency(limits, strict=True) if limits else nullcontext():
        work = probing.test_group(group, get_run_logger())
        asyncio.run_coroutine_threadsafe(work, probing.loop).result()


class LockoutGuard:
    """Finds out when nearly all passwords judged so far were wrong (`guard_after`, `guard_share`)."""

    def __init__(self, after: int, share: float) -> None:
        self.after = after
        self.share = share
        self.judged: set[int] = set()
        self.wrong: set[int] = set()

    def heed(self, mailbox_id: int, answer: Answer) -> bool:
        """Take an answer into account; True when it is one wrong password too many.

        Wants each answer as it comes: a wrong password is known after one protocol and a right one after two,
        so that verdicts on whole mailboxes would begin with the wrong ones.
        """
        if answer.tried and answer.reason in (Reason.OK, Reason.WRONG_CREDENTIALS, Reason.LOGIN_REFUSED):
            self.judged.add(mailbox_id)
        if not answer.tried or answer.reason is not Reason.WRONG_CREDENTIALS:
            return False
        self.wrong.add(mailbox_id)
        return len(self.judged) >= self.after and len(self.wrong) >= self.share * len(self.judged)


class Probing:
    """What the groups of one run share. Lives on the event loop on which it was made."""

    def __init__(self, database: Database, settings: Settings, mailbox_ids: Sequence[int]) -> None:
        self.loop = asyncio.get_running_loop()
        self.verdicts: list[Verdict] = []
        self.stopped: Stop | None = None
        self._begun = now()
        self._mailbox_ids = mailbox_ids
        self._database = database
        self._settings = settings
        self._context = tls_context(settings.ca_file)
        self._slots: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(settings.probe_concurrency)
        )
        # One claim more than fills the slots: a mailbox gets its turn before the claim on it runs out.
        size = min(settings.probe_group_size, settings.probe_concurrency)
        self._turns = asyncio.Semaphore(settings.probe_concurrency // size + 1)
        self._preflights: dict[tuple[Protocol, Endpoint], asyncio.Task[Answer]] = {}
        self._guard = LockoutGuard(settings.guard_after, settings.guard_share)
        self._tests: dict[int, asyncio.Task[Verdict | None]] = {}
        self._tried: set[int] = set()
        self._unstored: list[tuple[Claimed, Verdict]] = []
        self._storing = asyncio.Lock()
        self._observer = observer.get()
        self._observer.begin(self, len(mailbox_ids))

    def report(self) -> ProbeReport:
        untested = len(self._mailbox_ids) - len(self.verdicts)
        return ProbeReport(tuple(self.verdicts), untested, self.stopped)

    async def run(
        self, targets: Sequence[Target], run_groups: Callable[[list[Group]], Awaitable[None]]
    ) -> ProbeReport:
        """Test all targets: the flow maps their groups over task runs, the HTTP API gathers them.

        Args:
            run_groups: Calls `test_group` for each group and waits for all of them.
        """
        groups = group_targets(targets, self._settings.probe_group_size)
        for group in groups:  # begin before anything waits for the answers
            self._begin_preflight(Protocol.SMTP, group.smtp)
            self._begin_preflight(Protocol.IMAP, group.imap)
        await run_groups(groups)
        return self.report()

    def interrupt(self) -> None:
        """Begin no further login and give up those under way; their mailboxes stay pending and due."""
        self.stopped = self.stopped or Stop.INTERRUPTED
        for running in (*self._tests.values(), *self._preflights.values()):
            running.cancel()

    async def test_group(self, group: Group, logger: Logger) -> None:
        """Claim the group's mailboxes, no more of them at once than there are slots, and test them."""
        ids, slots = group.mailbox_ids, self._settings.probe_concurrency
        parts = [ids[first : first + slots] for first in range(0, len(ids), slots)]
        tests = (self._test_some(part, logger) for part in parts)
        for result in await asyncio.gather(*tests, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _test_some(self, mailbox_ids: Sequence[int], logger: Logger) -> None:
        async with self._turns:
            if self.stopped:
                return
            until = now() + self._settings.claim_lease
            claimed = await asyncio.to_thread(claim, self._database, mailbox_ids, self._begun, until)
            tests = {
                mailbox.mailbox_id: self.loop.create_task(self._test(mailbox, logger)) for mailbox in claimed
            }
            self._tests |= tests
            if self.stopped == Stop.INTERRUPTED:  # while the mailboxes were being claimed
                self.interrupt()
            results = await asyncio.gather(*tests.values(), return_exceptions=True)
            for mailbox_id in tests:
                self._tests.pop(mailbox_id, None)
        pairs = zip(claimed, results, strict=True)
        untested = [mailbox for mailbox, result in pairs if not isinstance(result, Verdict)]
        await asyncio.to_thread(release, self._database, untested, self._tried)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _test(self, mailbox: Claimed, logger: Logger) -> Verdict | None:
        """Test one mailbox over SMTP, then IMAP; None when the run was stopped before there was a verdict."""
        answers: list[Answer] = []
        for protocol, endpoint in ((Protocol.SMTP, mailbox.smtp), (Protocol.IMAP, mailbox.imap)):
            answer = await self._ask(protocol, endpoint, mailbox)
            if answer is None:
                return None
            answers.append(answer)
            alarm = self._guard.heed(mailbox.mailbox_id, answer)
            if answer.reason is Reason.WRONG_CREDENTIALS:
                break  # the other protocol would only count a second failed login
        del self._tests[mailbox.mailbox_id]  # an interruption comes too late: what was said is stored
        if alarm and not self.stopped:
            self.stopped = Stop.GUARD
            async with self._storing:
                tested = {verdict.mailbox_id for verdict in self.verdicts}
                rest = [mailbox_id for mailbox_id in self._mailbox_ids if mailbox_id not in tested]
                await asyncio.to_thread(hold_back, self._database, rest)
        most = self._settings.probe_attempts
        verdict = decide_verdict(mailbox.mailbox_id, mailbox.email, mailbox.attempt, most, tuple(answers))
        await self._store(mailbox, verdict)
        logger.info("%s: %s. %s", mailbox.email, verdict.status, verdict.diagnosis)
        self._observer.verdict(verdict)
        return verdict

    async def _ask(self, protocol: Protocol, endpoint: Endpoint, mailbox: Claimed) -> Answer | None:
        preflight = await self._preflight(protocol, endpoint)
        if preflight.reason is not Reason.OK:
            return preflight
        async with self._slots[endpoint.host]:
            timeout = self._settings.probe_timeout
            # A claim that may run out during the login is as good as lost: another run may try meanwhile.
            if self.stopped or now() > mailbox.until - timedelta(seconds=timeout):
                return None
            with unquoted():
                password = self._database.sealer.open(mailbox.password, mailbox.owner)
                credentials = Credentials(mailbox.email, password)
                try:
                    return await log_in(protocol, endpoint, credentials, self._context, timeout)
                finally:
                    if credentials.used:
                        self._tried.add(mailbox.mailbox_id)

    async def _preflight(self, protocol: Protocol, endpoint: Endpoint) -> Answer:
        """Ask a host once per run, without credentials, whether a login is possible at all."""
        # Shielded: one mailbox that is given up must not take the host's answer from all others.
        return await asyncio.shield(self._begin_preflight(protocol, endpoint))

    def _begin_preflight(self, protocol: Protocol, endpoint: Endpoint) -> asyncio.Task[Answer]:
        key = (protocol, endpoint)
        if key not in self._preflights:
            question = log_in(protocol, endpoint, None, self._context, self._settings.probe_timeout)
            self._preflights[key] = self.loop.create_task(question)
        return self._preflights[key]

    async def _store(self, mailbox: Claimed, verdict: Verdict) -> None:
        """Store a verdict before it is told to anybody; what waits meanwhile goes in one transaction."""
        self._unstored.append((mailbox, verdict))
        async with self._storing:
            if batch := self._unstored.copy():
                await asyncio.to_thread(save, self._database, batch)
                # Only now: what could not be stored is tried again with the next verdict.
                del self._unstored[: len(batch)]
                self.verdicts += [verdict for _, verdict in batch]
