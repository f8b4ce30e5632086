"""Step 5: test each new mailbox with at most one login per protocol, and store its verdict at once.

A task run tests a small group of mailboxes with the same two endpoints. All groups of a run share one
`Probing`, and all logins run on the event loop of the flow, with one SSL context, one semaphore per host and
one lockout guard.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeAlias

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.concurrency.sync import concurrency

from schemas.classify import CREDENTIALS_REJECTED, WRONG_PASSWORD
from schemas.providers import MICROSOFT_HOSTS, Endpoint, Servers
from schemas.reasons import Protocol, Reason, Stage
from schemas.settings import Settings
from schemas.standing import EXPLAIN_BOTH, Needs, Standings, State, after_recheck, is_over
from schemas.tables import now
from schemas.verdicts import Answer, Group, ProbeReport, Stop, Target, Verdict, decide_verdict, group_targets
from tasks.crash import unquoted
from tasks.limits import limits_of
from tasks.login.session import log_in
from tasks.login.wire import Credentials, HostCache, tls_context
from tasks.mail_exchangers import MailExchangers
from tasks.slots import FIRST, Slot, Slots
from tasks.storage.claims import Claimed, claim, hold_back, release, save
from tasks.storage.database import Database

# Pauses in seconds before a mailbox gets another turn at a host that had too many connections.
SLOWER = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0)
MAY_BE_DAMAGED = "The password may have been damaged by copying"


def _too_many(answer: Answer, at_once: int) -> bool:
    """Whether this run caused an answer by connecting too often."""
    if answer.reason.explanation.self_made:
        return True
    early = answer.stage in (Stage.CONNECT, Stage.GREETING)
    return early and at_once > 1 and answer.reason in (Reason.SERVER_BUSY, Reason.DROPPED)


def _is_explained(protocol: Protocol, mailbox: Claimed, answers: Sequence[Answer]) -> bool:
    """Whether a recheck need not ask a refused protocol, because a cause that holds for both persists."""
    if mailbox.earlier is None or mailbox.earlier[protocol].state is not State.REFUSED:
        return False
    return any(answer.reason in EXPLAIN_BOTH for answer in answers)


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

    def count(self, mailbox_id: int, answer: Answer, standings: Standings, needs: Needs = Needs.BOTH) -> bool:
        """Count an answer; returns True if the run must stop.

        Call it for each answer as it comes. A wrong password is known after one protocol and a right one only
        after two, so counting verdicts would count the wrong passwords first.

        Args:
            standings: What is known about the mailbox with this answer. A password that one protocol accepted
                is not wrong; one that all protocols rejected without a cause is, as far as anyone can tell.
        """
        if answer.tried and answer.reason in {Reason.OK, *CREDENTIALS_REJECTED}:
            self.checked.add(mailbox_id)
        found = [standings[protocol] for protocol in needs.protocols]
        rejected = all(one.reason in CREDENTIALS_REJECTED for one in found)
        if not answer.tried or not (rejected or any(one.reason in WRONG_PASSWORD for one in found)):
            return False
        self.wrong.add(mailbox_id)
        return len(self.checked) >= self.after and len(self.wrong) >= self.share * len(self.checked)


class Probing:
    """What the groups of one run share. Belongs to the event loop on which it is created.

    Args:
        tested_before: For a recheck of settled mailboxes: only those whose last test was before this time.

    Attributes:
        loop: The event loop of the run.
        verdicts: The verdicts stored so far.
        stopped: Why the run ended early; None if it has not.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        mailbox_ids: Sequence[int],
        tested_before: datetime | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.verdicts: list[Verdict] = []
        self.stopped: Stop | None = None
        self._begun = now() if tested_before is None else tested_before
        self._recheck = tested_before is not None
        self._mailbox_ids = mailbox_ids
        self._database = database
        self._settings = settings
        self._context = tls_context(settings.ca_file)
        self._hosts = HostCache()
        self._slots: dict[str, Slots] = {}
        # One part more than fills the slots, so that a mailbox gets a slot before its claim expires.
        size = min(settings.probe_group_size, settings.probe_concurrency)
        self._turns = asyncio.Semaphore(settings.probe_concurrency // size + 1)
        self._preflights: dict[tuple[Protocol, Endpoint], asyncio.Task[Answer]] = {}
        self._exchangers = MailExchangers(settings)
        self._guard = LockoutGuard(settings.guard_after, settings.guard_share)
        self._tests: dict[int, asyncio.Task[Verdict | None]] = {}
        self._tried: set[tuple[int, Protocol]] = set()
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
        # In random order: files are sorted, and the lockout guard must not judge by mailboxes with one cause.
        mixed = random.sample(targets, len(targets))
        groups = group_targets(mixed, self._settings.probe_group_size)
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
            claimed = await asyncio.to_thread(
                claim, self._database, mailbox_ids, self._begun, until, recheck=self._recheck
            )
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
        """Test one mailbox over each protocol that is to ask; None if the run stops before the verdict."""
        answers: list[Answer] = []
        verdict = self._decide(mailbox, answers)
        alarm = False
        for protocol in mailbox.asked:
            if _is_explained(protocol, mailbox, answers):
                continue
            answer = await self._probe(protocol, mailbox)
            if answer is None:
                return None
            answers.append(answer)
            verdict = self._decide(mailbox, answers)
            alarm |= self._guard.count(mailbox.mailbox_id, answer, verdict.standings, mailbox.needs)
            # The other protocol would only cause a second failed login, or give the same answer.
            if is_over(verdict.standings, mailbox.needs):
                break
        del self._tests[mailbox.mailbox_id]  # too late to interrupt: the answers are stored
        if alarm and not self.stopped:
            self.stopped = Stop.GUARD
            async with self._storing:
                tested = {one.mailbox_id for one in self.verdicts}
                rest = [mailbox_id for mailbox_id in self._mailbox_ids if mailbox_id not in tested]
                await asyncio.to_thread(hold_back, self._database, rest)
        await self._store(mailbox, verdict)
        logger.info("%s: %s. %s", mailbox.email, verdict.status, verdict.diagnosis)
        self._observer.verdict(verdict)
        return verdict

    def _decide(self, mailbox: Claimed, answers: Sequence[Answer]) -> Verdict:
        verdict = decide_verdict(
            mailbox.mailbox_id,
            mailbox.email,
            mailbox.attempt,
            # A recheck is one attempt, and a temporary fault in it settles nothing.
            self._settings.probe_attempts if mailbox.earlier is None else sys.maxsize,
            tuple(answers),
            mailbox.standings,
            mailbox.needs,
        )
        if mailbox.earlier is not None:
            after = after_recheck(mailbox.earlier, verdict.standings, mailbox.asked)
            verdict = replace(verdict, standings=after)
        if answers and answers[0].reason is Reason.NOT_AT_MICROSOFT:
            verdict = replace(verdict, note=f"{answers[0].text}.")
        if mailbox.warning and verdict.password_refused:
            verdict = replace(verdict, preface=f"{MAY_BE_DAMAGED} ({mailbox.warning}).")
        return verdict

    async def _probe(self, protocol: Protocol, mailbox: Claimed) -> Answer | None:
        endpoint = mailbox.smtp if protocol is Protocol.SMTP else mailbox.imap
        self._begin_preflight(protocol, endpoint)
        # A login that worked says more than DNS, and its server knows the password already.
        known = mailbox.standings if mailbox.earlier is None else mailbox.earlier
        worked = any(one.state is State.ACCEPTED for one in known.values())
        servers = Servers(mailbox.smtp, mailbox.imap)
        elsewhere = "" if worked else await self._exchangers.elsewhere(mailbox.owner.email_key, servers)
        if elsewhere:
            return Answer(
                protocol, endpoint, Reason.NOT_AT_MICROSOFT, Stage.CONNECT, elsewhere, 0, tried=False
            )
        preflight = await self._preflight(protocol, endpoint)
        if preflight.reason is not Reason.OK:
            return preflight
        timeout = self._settings.probe_timeout

        async def log_in_once() -> Answer | None:
            # If the claim can expire during the login, another run may test the mailbox at the same time.
            if self.stopped or now() > mailbox.until - timedelta(seconds=timeout):
                return None
            with unquoted():
                password = self._database.sealer.open(mailbox.password, mailbox.owner)
                credentials = Credentials(mailbox.login, password)
                try:
                    return await log_in(protocol, endpoint, credentials, self._context, timeout, self._hosts)
                finally:
                    if credentials.used:
                        self._tried.add((mailbox.mailbox_id, protocol))

        return await self._within_limits(endpoint, log_in_once)

    async def _within_limits(
        self, endpoint: Endpoint, session: Callable[[], Awaitable[Answer | None]]
    ) -> Answer | None:
        """Run a session when its host has a slot, and again if the host only had too many connections.

        A host that refuses connections because of this run gets fewer of them, and the mailbox its turn
        later. The last refusal is returned if the host names a pause or refuses to the end.
        """
        slots = self._slots_of(endpoint)
        refusal: Answer | None = None
        for pause in SLOWER:
            async with Slot(slots) as slot:
                answer = await session()
                if answer is None or not _too_many(answer, slots.held):
                    slot.accepted()
                    return answer if answer is not None else refusal
                slot.refused()
            refusal = answer
            if answer.retry_after is not None or answer.tried:
                break
            await asyncio.sleep(pause)
        return refusal

    def _slots_of(self, endpoint: Endpoint) -> Slots:
        if endpoint.name not in self._slots:
            most = self._settings.probe_concurrency
            known = endpoint.name in MICROSOFT_HOSTS
            self._slots[endpoint.name] = Slots(most, most if known else FIRST)
        return self._slots[endpoint.name]

    async def _preflight(self, protocol: Protocol, endpoint: Endpoint) -> Answer:
        """Check an endpoint once per run, without credentials: whether a login is possible at all."""
        # Shielded, because cancelling the test of one mailbox must not cancel the preflight for all others.
        return await asyncio.shield(self._begin_preflight(protocol, endpoint))

    def _begin_preflight(self, protocol: Protocol, endpoint: Endpoint) -> asyncio.Task[Answer]:
        key = (protocol, endpoint)
        if key not in self._preflights:
            self._preflights[key] = self.loop.create_task(self._look_ahead(protocol, endpoint))
        return self._preflights[key]

    async def _look_ahead(self, protocol: Protocol, endpoint: Endpoint) -> Answer:
        async def session() -> Answer:
            timeout = self._settings.probe_timeout
            return await log_in(protocol, endpoint, None, self._context, timeout, self._hosts)

        answer = await self._within_limits(endpoint, session)
        assert answer is not None  # noqa: S101  the session always gives one
        return answer

    async def _store(self, mailbox: Claimed, verdict: Verdict) -> None:
        """Store a verdict before it is reported. Verdicts that wait are stored in one transaction."""
        self._unstored.append((mailbox, verdict))
        async with self._storing:
            if waiting := self._unstored.copy():
                await asyncio.to_thread(save, self._database, waiting)
                # Not earlier: if storing fails, the next call tries these verdicts again.
                del self._unstored[: len(waiting)]
                self.verdicts += [verdict for _, verdict in waiting]
