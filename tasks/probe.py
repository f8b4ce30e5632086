"""Step 5: test each new mailbox with at most one login per protocol, and store its verdict at once.

A task run tests a small group of mailboxes with the same two endpoints. All groups of a run share one
`Probing`, and all logins run on the event loop of the flow, with one SSL context, one semaphore per host and
one lockout guard.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import replace
from datetime import timedelta
from typing import TypeAlias

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.concurrency.sync import concurrency

from schemas.providers import Endpoint, Servers
from schemas.reasons import Protocol, Reason, Stage
from schemas.settings import Settings
from schemas.tables import now
from schemas.verdicts import Answer, Group, ProbeReport, Stop, Target, Verdict, decide_verdict, group_targets
from tasks.crash import unquoted
from tasks.limits import limits_of
from tasks.login.session import log_in
from tasks.login.wire import Credentials, tls_context
from tasks.mail_exchangers import MailExchangers
from tasks.storage.claims import Claimed, claim, hold_back, release, save
from tasks.storage.database import Database

MAY_BE_DAMAGED = "The password may have been damaged by copying"


class Observer:
    """Watches the probes of a run. The base class does nothing; the progress bar of the terminal is one."""

    def begin(self, probing: Probing, total: int) -> None:
        """Called before the probes of `total` mailboxes start."""

    def verdict(self, verdict: Verdict) -> None:
        """Called after a verdict is stored."""


Logger: TypeAlias = logging.Logger | logging.LoggerAdapter[logging.Logger]

# A context variable, because flow parameters cannot carry an object. Set it before you start a flow run.
observer: ContextVar[Observer] = ContextVar("observer", default=Observer())  # noqa: B039  the default has no state


@task(task_run_name="{group}", persist_result=False, cache_policy=NO_CACHE)
def probe(group: Group, probing: Probing, configured: Collection[str] = ()) -> None:
    """Test the mailboxes of one group.

    Runs on its own thread and does its work on the event loop of the flow.

    Args:
        probing: What the groups of the run share.
        configured: The names of the global concurrency limits that are set. The task run holds a slot of the
            limit of each host in the group.
    """
    limits = limits_of(group, configured)
    with concurrency(limits, strict=True) if limits else nullcontext():
        work = probing.test_group(group, get_run_logger())
        asyncio.run_coroutine_threadsafe(work, probing.loop).result()


class LockoutGuard:
    """Detects that nearly all passwords checked so far are wrong.

    Args:
        after: Number of passwords to check before the guard can stop a run.
        share: Share of wrong passwords that stops a run, up to 1.
    """

    def __init__(self, after: int, share: float) -> None:
        self.after = after
        self.share = share
        self.checked: set[int] = set()
        self.wrong: set[int] = set()

    def count(self, mailbox_id: int, answer: Answer) -> bool:
        """Count an answer; returns True if the run must stop.

        Call it for each answer as it comes. A wrong password is known after one protocol and a right one only
        after two, so counting verdicts would count the wrong passwords first.
        """
        if answer.tried and answer.reason in (Reason.OK, Reason.WRONG_CREDENTIALS, Reason.LOGIN_REFUSED):
            self.checked.add(mailbox_id)
        if not answer.tried or answer.reason is not Reason.WRONG_CREDENTIALS:
            return False
        self.wrong.add(mailbox_id)
        return len(self.checked) >= self.after and len(self.wrong) >= self.share * len(self.checked)


class Probing:
    """What the groups of one run share. Belongs to the event loop on which it is created.

    Attributes:
        loop: The event loop of the run.
        verdicts: The verdicts stored so far.
        stopped: Why the run ended early; None if it has not.
    """

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
        # One part more than fills the slots, so that a mailbox gets a slot before its claim expires.
        size = min(settings.probe_group_size, settings.probe_concurrency)
        self._turns = asyncio.Semaphore(settings.probe_concurrency // size + 1)
        self._preflights: dict[tuple[Protocol, Endpoint], asyncio.Task[Answer]] = {}
        self._exchangers = MailExchangers(settings)
        self._guard = LockoutGuard(settings.guard_after, settings.guard_share)
        self._tests: dict[int, asyncio.Task[Verdict | None]] = {}
        self._tried: set[int] = set()
        self._unstored: list[tuple[Claimed, Verdict]] = []
        self._storing = asyncio.Lock()
        self._observer = observer.get()
        self._observer.begin(self, len(mailbox_ids))

    def report(self) -> ProbeReport:
        """The verdicts so far."""
        untested = len(self._mailbox_ids) - len(self.verdicts)
        return ProbeReport(tuple(self.verdicts), untested, self.stopped)

    async def run(
        self, targets: Sequence[Target], run_groups: Callable[[list[Group]], Awaitable[None]]
    ) -> ProbeReport:
        """Test all targets.

        Args:
            run_groups: Calls `test_group` for each group and waits for all of them. The flow uses task runs,
                the HTTP API uses `asyncio.gather`.

        Returns:
            The verdicts of the run.
        """
        groups = group_targets(targets, self._settings.probe_group_size)
        for group in groups:  # start all preflights before anything waits for them
            self._begin_preflight(Protocol.SMTP, group.smtp)
            self._begin_preflight(Protocol.IMAP, group.imap)
        await run_groups(groups)
        return self.report()

    def interrupt(self) -> None:
        """Start no more logins and cancel the running ones. Their mailboxes stay pending and due."""
        self.stopped = self.stopped or Stop.INTERRUPTED
        for running in (*self._tests.values(), *self._preflights.values()):
            running.cancel()
        self._exchangers.cancel()

    async def test_group(self, group: Group, logger: Logger) -> None:
        """Claim and test the mailboxes of a group, at most as many at once as there are slots.

        Raises:
            StepError: If this program has a fault.
            UnsealError: If a password cannot be unsealed.
        """
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
            if self.stopped == Stop.INTERRUPTED:  # interrupted while it claimed the mailboxes
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
        """Test one mailbox over SMTP, then IMAP; None if the run stops before there is a verdict."""
        answers: list[Answer] = []
        for protocol, endpoint in ((Protocol.SMTP, mailbox.smtp), (Protocol.IMAP, mailbox.imap)):
            answer = await self._probe(protocol, endpoint, mailbox)
            if answer is None:
                return None
            answers.append(answer)
            alarm = self._guard.count(mailbox.mailbox_id, answer)
            # The other protocol would only cause a second failed login, or give the same answer.
            if answer.reason in (Reason.WRONG_CREDENTIALS, Reason.NOT_AT_MICROSOFT):
                break
        del self._tests[mailbox.mailbox_id]  # too late to interrupt: the answers are stored
        if alarm and not self.stopped:
            self.stopped = Stop.GUARD
            async with self._storing:
                tested = {verdict.mailbox_id for verdict in self.verdicts}
                rest = [mailbox_id for mailbox_id in self._mailbox_ids if mailbox_id not in tested]
                await asyncio.to_thread(hold_back, self._database, rest)
        most = self._settings.probe_attempts
        verdict = decide_verdict(mailbox.mailbox_id, mailbox.email, mailbox.attempt, most, tuple(answers))
        if answers[0].reason is Reason.NOT_AT_MICROSOFT:
            verdict = replace(verdict, note=f"{answers[0].text}.")
        if mailbox.warning and verdict.password_refused:
            verdict = replace(verdict, preface=f"{MAY_BE_DAMAGED} ({mailbox.warning}).")
        await self._store(mailbox, verdict)
        logger.info("%s: %s. %s", mailbox.email, verdict.status, verdict.diagnosis)
        self._observer.verdict(verdict)
        return verdict

    async def _probe(self, protocol: Protocol, endpoint: Endpoint, mailbox: Claimed) -> Answer | None:
        self._begin_preflight(protocol, endpoint)
        if elsewhere := await self._exchangers.elsewhere(
            mailbox.owner.email_key, Servers(mailbox.smtp, mailbox.imap)
        ):
            return Answer(
                protocol, endpoint, Reason.NOT_AT_MICROSOFT, Stage.CONNECT, elsewhere, 0, tried=False
            )
        preflight = await self._preflight(protocol, endpoint)
        if preflight.reason is not Reason.OK:
            return preflight
        async with self._slots[endpoint.host]:
            timeout = self._settings.probe_timeout
            # If the claim can expire during the login, another run may test the mailbox at the same time.
            if self.stopped or now() > mailbox.until - timedelta(seconds=timeout):
                return None
            with unquoted():
                password = self._database.sealer.open(mailbox.password, mailbox.owner)
                credentials = Credentials(mailbox.login, password)
                try:
                    return await log_in(protocol, endpoint, credentials, self._context, timeout)
                finally:
                    if credentials.used:
                        self._tried.add(mailbox.mailbox_id)

    async def _preflight(self, protocol: Protocol, endpoint: Endpoint) -> Answer:
        """Check an endpoint once per run, without credentials: whether a login is possible at all."""
        # Shielded, because cancelling the test of one mailbox must not cancel the preflight for all others.
        return await asyncio.shield(self._begin_preflight(protocol, endpoint))

    def _begin_preflight(self, protocol: Protocol, endpoint: Endpoint) -> asyncio.Task[Answer]:
        key = (protocol, endpoint)
        if key not in self._preflights:
            preflight = log_in(protocol, endpoint, None, self._context, self._settings.probe_timeout)
            self._preflights[key] = self.loop.create_task(preflight)
        return self._preflights[key]

    async def _store(self, mailbox: Claimed, verdict: Verdict) -> None:
        """Store a verdict before it is reported. Verdicts that wait are stored in one transaction."""
        self._unstored.append((mailbox, verdict))
        async with self._storing:
            if waiting := self._unstored.copy():
                await asyncio.to_thread(save, self._database, waiting)
                # Not earlier: if storing fails, the next call tries these verdicts again.
                del self._unstored[: len(waiting)]
                self.verdicts += [verdict for _, verdict in waiting]
