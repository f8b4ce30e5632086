"""A run of connection tests: each mailbox once, each verdict stored, and no attempt that locks an account."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import col

from sandbox.outlook import Account, Outlook, ServerFaults
from schemas.providers import Endpoint
from schemas.reasons import Protocol, Reason, Stage
from schemas.sealing import Sealer, UnsealError, new_key, parse_keys
from schemas.settings import Settings
from schemas.standing import Needs
from schemas.tables import Mailbox, ProbeResult, now, table_of
from schemas.verdicts import Answer, Group, Stop, Target, Verdict, decide_verdict
from tasks.probe import LockoutGuard, Observer, Probing, observer
from tasks.storage.claims import HELD_BACK, Claimed, claim, hold_back, release, save
from tasks.storage.database import Database
from tasks.storage.imports import count_reasons
from tasks.storage.mailbox_changes import edit_mailboxes
from tasks.storage.mailboxes import Filters, choose_mailboxes
from tests.conftest import (
    StartOutlook,
    accounts,
    import_file,
    import_mailboxes,
    probe_targets,
    rows_of,
    with_changes,
    with_servers,
    write_csv,
)
from tests.support.standings import standings_after

SMTP, IMAP = Protocol.SMTP, Protocol.IMAP
ADDRESS = "user1@outlook.com"
LEASE = timedelta(minutes=5)
WRONG = Account("pw", smtp="wrong-credentials")


class Run:
    """One test's stand-in, database, settings and mailboxes, and queries on them."""

    def __init__(self, db: Database, outlook: Outlook, settings: Settings, targets: Sequence[Target]) -> None:
        self.db = db
        self.outlook = outlook
        self.settings = settings
        self.targets = targets
        self.ids = [target.mailbox_id for target in targets]

    def probing(self, db: Database | None = None) -> Probing:
        return Probing(db or self.db, self.settings, self.ids)

    async def probe(self, probing: Probing | None = None) -> Probing:
        """A whole run over all mailboxes."""
        probing = probing or self.probing()
        await probe_targets(probing, self.targets, self.settings.probe_group_size)
        return probing

    def mailboxes(self) -> list[dict[str, Any]]:
        return rows_of(self.db, Mailbox)

    def mailbox(self, address: str = ADDRESS) -> dict[str, Any]:
        return next(row for row in self.mailboxes() if row["email"] == address)

    def statuses(self) -> Counter[str]:
        return Counter(row["status"] for row in self.mailboxes())

    def answers(self) -> list[tuple[int, str, str]]:
        """Attempt, protocol and reason of every stored answer."""
        rows = rows_of(self.db, ProbeResult)
        return [(row["attempt"], row["protocol"], row["reason"]) for row in rows]

    def logins(self, protocol: Protocol) -> Counter[str]:
        """How often each address received a password."""
        seen = self.outlook.seen.logins
        return Counter({address: times for (spoken, address), times in seen.items() if spoken == protocol})

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  the stand-in has no events
                await asyncio.sleep(0.01)


Arrange = Callable[..., Awaitable[Run]]


@pytest.fixture
def arrange(db: Database, either_settings: Settings, start: StartOutlook) -> Arrange:
    """Start a stand-in with these mailboxes, and import them with the correct passwords."""

    async def run(
        mailboxes: dict[str, Account],
        server: ServerFaults | None = None,
        delay: float = 0.0,
        **changes: Any,
    ) -> Run:
        outlook = await start(mailboxes, server, delay)
        # The guard never trips, except in the tests about it.
        settings = with_servers(either_settings, outlook, **({"guard_after": 1000} | changes))
        return Run(db, outlook, settings, import_mailboxes(db, settings, mailboxes))

    return run


def one(smtp: str = "ok", imap: str = "ok") -> dict[str, Account]:
    return {ADDRESS: Account("pass word", smtp, imap)}


# Verdicts.


async def test_verdicts_are_stored_with_their_answers(arrange: Arrange) -> None:
    """Each mailbox gets its verdict, and each protocol's answer is kept with the server's own text."""
    run = await arrange(
        {
            "good@outlook.com": Account("pw"),
            "off@contoso.com": Account("pw", smtp="smtp-auth-disabled-mailbox"),
            "busy@outlook.com": Account("pw", imap="unavailable"),
        }
    )
    before = now()
    probing = await run.probe()
    found = {row["email"]: row for row in run.mailboxes()}
    assert {email: row["status"] for email, row in found.items()} == {
        "good@outlook.com": "active",
        "off@contoso.com": "partial",
        "busy@outlook.com": "pending",
    }
    assert found["good@outlook.com"]["diagnosis"] == "Works: SMTP and IMAP accepted the password."
    assert "Authenticated SMTP" in found["off@contoso.com"]["diagnosis"]
    for row in found.values():
        assert (row["attempts"], row["claimed_until"]) == (1, None)
        assert before <= row["tested_at"] <= now()
    assert found["good@outlook.com"]["next_attempt_at"] is None
    assert found["off@contoso.com"]["next_attempt_at"] is None
    results = [
        row for row in rows_of(run.db, ProbeResult) if row["mailbox_id"] == found["off@contoso.com"]["id"]
    ]
    assert [(row["protocol"], row["reason"], row["stage"]) for row in results] == [
        ("imap", "ok", "check"),
        ("smtp", "smtp_auth_off_mailbox", "login"),
    ]
    assert results[1]["server_text"].startswith("535 5.7.139 Authentication unsuccessful, SmtpClient")
    assert results[1]["host"] == f"localhost:{run.outlook.smtp_port}"
    assert results[1]["milliseconds"] > 0
    assert sorted(verdict.email for verdict in probing.report().verdicts) == sorted(found)
    assert (probing.report().untested, probing.report().stopped) == (0, None)


async def test_a_wrong_password_is_not_tried_again(arrange: Arrange) -> None:
    """A password that SMTP rejects is not tried over IMAP, nor in a later run."""
    run = await arrange(one(smtp="wrong-credentials"))
    await run.probe()
    await run.probe()
    assert run.mailbox()["status"] == "failed"
    assert run.answers() == [(1, "smtp", "wrong_credentials")]
    assert run.outlook.seen.logins == {("smtp", ADDRESS): 1}


OUR_REASONS = (
    # SMTP, IMAP, status, reasons of the mailbox, a part of its diagnosis
    ("ok", "basic-auth-disabled", "partial", {"passwords_retired"}, "Can only send: SMTP accepted"),
    ("ok", "wrong-credentials", "partial", {"refused_though_right"}, "although the password is right"),
    ("temporary-auth-failure", "wrong-credentials", "failed", {"wrong_credentials"}, "Wrong password. "),
    ("identity-refused", "login-failed", "failed", {"login_refused"}, "Login rejected, no cause given."),
    ("account-blocked", "login-failed", "failed", {"account_blocked"}, "Account blocked, locked or on hold."),
)


@pytest.mark.parametrize(("smtp", "imap", "status", "reasons", "told"), OUR_REASONS)
async def test_answers_are_judged_together(
    arrange: Arrange, smtp: str, imap: str, status: str, reasons: set[str], told: str
) -> None:
    """Counts, list and diagnosis by reason are about the same mailboxes, in the light of both answers."""
    run = await arrange({"ann@contoso.com": Account("pw", smtp, imap), "bob@contoso.com": Account("pw")})
    report = (await run.probe()).report()
    ann = run.mailbox("ann@contoso.com")
    assert (ann["status"], told in ann["diagnosis"]) == (status, True)
    assert "tested again" not in ann["diagnosis"] or status == "pending"
    assert {str(reason) for reason, _ in report.reasons()} == reasons
    counted = count_reasons(run.db, "default", Filters())
    assert counted == report.reasons()
    for reason, count in counted:
        chosen = choose_mailboxes(run.db, "default", Filters(reason=reason))
        assert (list(chosen.values()), count) == (["ann@contoso.com"], 1)


async def test_exchanges_own_refusals_trip_the_guard(arrange: Arrange) -> None:
    """Passwords that both protocols reject in Exchange's own words stop the run like wrong passwords."""
    refused = Account("pw", "identity-refused", "login-failed")
    run = await arrange(
        {f"user{n}@contoso.com": refused for n in range(60)}, guard_after=10, probe_concurrency=5
    )
    report = (await run.probe()).report()
    assert report.stopped is Stop.GUARD
    assert report.untested > 0


async def test_mailboxes_that_can_send_do_not_trip_the_guard(arrange: Arrange) -> None:
    """Passwords that SMTP accepts are right, whatever IMAP says: the run goes on."""
    refused = Account("pw", "ok", "wrong-credentials")
    run = await arrange({f"user{n}@contoso.com": refused for n in range(40)}, guard_after=20)
    report = (await run.probe()).report()
    assert (report.stopped, report.untested) == (None, 0)
    assert str(report) == "40 can only send, 0 active, 0 failed"


@pytest.mark.parametrize(("needs", "asked"), [("smtp", {"smtp"}), ("imap", {"imap"})])
async def test_only_what_is_needed_is_tested(
    db: Database, either_settings: Settings, start: StartOutlook, tmp_path: Path, needs: str, asked: set[str]
) -> None:
    """A mailbox that is needed for one protocol is active once that works, and the other is not asked."""
    outlook = await start(one())
    settings = with_servers(either_settings, outlook, needs=needs)
    stored = import_file(db, settings, write_csv(tmp_path / "x.csv", [(ADDRESS, "pass word")]))
    run = Run(db, outlook, settings, stored.targets)
    await run.probe()
    assert (run.mailbox()["status"], run.mailbox()["needs"]) == ("active", needs)
    assert {protocol for protocol, _ in outlook.seen.logins} == asked
    # What it is needed for can change: then the rest is asked, and nothing twice.
    assert list(edit_mailboxes(db, run.ids, Filters(), {"needs": Needs.BOTH})) == [[ADDRESS]]
    assert run.mailbox()["status"] == "pending"
    await run.probe()
    assert run.mailbox()["status"] == "active"
    assert set(outlook.seen.logins.values()) == {1}
    assert list(edit_mailboxes(db, run.ids, Filters(), {"needs": Needs.SMTP})) == [[ADDRESS]]
    assert run.mailbox()["status"] == "active"


async def test_the_sign_in_name_is_used(
    db: Database, either_settings: Settings, start: StartOutlook, tmp_path: Path
) -> None:
    """A mailbox with a sign-in name logs in with it over both protocols, and keeps its address."""
    outlook = await start({"ann.sign-in@contoso.com": Account("pw")})
    settings = with_servers(either_settings, outlook)
    file = write_csv(
        tmp_path / "migration.csv",
        [("ann@contoso.com", "ann.sign-in@contoso.com", "pw")],
        ("EmailAddress", "UserName", "Password"),
    )
    run = Run(db, outlook, settings, import_file(db, settings, file).targets)
    await run.probe()
    assert run.mailbox("ann@contoso.com")["status"] == "active"
    assert set(outlook.seen.logins) == {
        ("smtp", "ann.sign-in@contoso.com"),
        ("imap", "ann.sign-in@contoso.com"),
    }


@pytest.mark.parametrize(("password", "damaged"), [("it’s wrong", True), ("it's wrong", False)])
async def test_a_refused_password_that_may_be_damaged(
    db: Database,
    either_settings: Settings,
    start: StartOutlook,
    tmp_path: Path,
    password: str,
    damaged: bool,
) -> None:
    """The verdict of a refused password says first that copying may have damaged it, if its row warned so."""
    outlook = await start(one())
    settings = with_servers(either_settings, outlook)
    stored = import_file(db, settings, write_csv(tmp_path / "x.csv", [(ADDRESS, password)]))
    run = Run(db, outlook, settings, stored.targets)
    await run.probe()
    first = "The password may have been damaged by copying (Password contains typographic quotes"
    assert run.mailbox()["status"] == "failed"
    assert run.mailbox()["diagnosis"].startswith(first) == damaged
    assert "Wrong password. " in run.mailbox()["diagnosis"]


async def test_an_unexplained_refusal_is_tried_over_imap(arrange: Arrange) -> None:
    """If SMTP gives no cause, IMAP is tried once, and its answer explains the failure."""
    run = await arrange(one(smtp="identity-refused"))
    await run.probe()
    assert run.answers() == [(1, "imap", "ok"), (1, "smtp", "login_refused")]
    assert run.mailbox()["diagnosis"].startswith("Can only receive: IMAP accepted the password.")


async def test_two_hundred_mailboxes_in_groups(arrange: Arrange) -> None:
    """The groups of one run together test every mailbox once."""
    run = await arrange(accounts(200))
    probing = await run.probe()
    assert run.statuses() == {"active": 200}
    assert len(run.answers()) == 400
    assert len(probing.verdicts) == 200
    assert set(run.outlook.seen.logins.values()) == {1}


async def test_the_log_names_every_mailbox(arrange: Arrange, caplog: pytest.LogCaptureFixture) -> None:
    """The log has one line per mailbox, with its address and its verdict, and never a password."""
    caplog.set_level(logging.INFO, "tests")
    run = await arrange(accounts(3) | {"wrong@outlook.com": WRONG})
    await run.probe()
    lines = [record.getMessage() for record in caplog.records if record.name == "tests"]
    assert len(lines) == 4
    assert "user2@outlook.com: active. Works: SMTP and IMAP accepted the password." in lines
    assert any(line.startswith("wrong@outlook.com: failed. Wrong password.") for line in lines)
    assert "pass word" not in caplog.text


async def test_an_observer_is_notified(arrange: Arrange) -> None:
    """An observer receives the number of mailboxes, and each verdict once it is stored."""
    received: list[object] = []

    class Watcher(Observer):
        def begin(self, probing: Probing, total: int) -> None:  # noqa: ARG002
            received.append(total)

        def verdict(self, verdict: Verdict) -> None:
            received.append((verdict.email, run.mailbox(verdict.email)["status"]))

    run = await arrange(accounts(2))
    token = observer.set(Watcher())
    try:
        await run.probe()
    finally:
        observer.reset(token)
    assert received[0] == 2
    assert set(received[1:]) == {("user1@outlook.com", "active"), ("user2@outlook.com", "active")}


# Preflight.


async def test_a_host_is_asked_once_per_run(arrange: Arrange) -> None:
    """Each host is asked once before any password is sent, however many groups there are."""
    run = await arrange(accounts(30), probe_group_size=5)
    await run.probe()
    assert run.outlook.seen.connections == {"smtp": 31, "imap": 31}


async def test_ports_that_start_with_tls_against_the_settings(arrange: Arrange) -> None:
    """A mailbox keeps how its connections start, and a port that starts otherwise is named with each test."""
    run = await arrange(one())
    port = run.outlook.imap_port  # it starts with TLS
    servers = {"smtp": f"smtp://localhost:{port}", "imap": f"imap://127.0.0.1:{port}"}
    changes = {"servers": {"*": servers}, "ca_file": run.outlook.ca_file, "probe_timeout": 1}
    run.settings = with_changes(run.settings, **changes)
    (target,) = import_mailboxes(run.db, run.settings, {"bob@contoso.com": Account("pw")})
    run.targets, run.ids = [target], [target.mailbox_id]
    await run.probe()
    bob = run.mailbox("bob@contoso.com")
    assert (bob["smtp_host"], bob["imap_host"]) == ("localhost", "imap://127.0.0.1")
    assert (bob["status"], bob["attempts"]) == ("pending", 0)
    assert {reason for _, _, reason in run.answers()} == {"port_with_tls"}
    assert run.outlook.seen.passwords_received == 0


async def test_a_refusing_host_fails_all_its_mailboxes(arrange: Arrange) -> None:
    """If the hosts refuse, all mailboxes fail at once, no password is sent, and no attempt is used up."""
    run = await arrange(accounts(30), ServerFaults("xoauth2-only", "login-disabled"), probe_group_size=5)
    await run.probe()
    assert run.outlook.seen.connections == {"smtp": 1, "imap": 1}
    assert run.outlook.seen.passwords_received == 0
    assert run.statuses() == {"failed": 30}
    assert {row["attempts"] for row in run.mailboxes()} == {0}
    assert set(run.answers()) == {
        (1, "smtp", "mechanism_not_offered"),
        (1, "imap", "passwords_retired"),
    }


async def test_a_refusing_smtp_host_does_not_stop_imap(arrange: Arrange) -> None:
    """If only the SMTP host refuses, IMAP is still tested."""
    run = await arrange(accounts(3), ServerFaults(smtp="expired"))
    await run.probe()
    assert run.statuses() == {"partial": 3}
    assert not run.logins(SMTP)
    assert run.logins(IMAP).total() == 3


@pytest.mark.parametrize(("fault", "times"), [("refused", 7), ("hang:greeting", 1)])
async def test_a_host_that_cannot_be_reached(arrange: Arrange, fault: str, times: int) -> None:
    """Mailboxes of unreachable hosts stay pending and due, and never use up an attempt."""
    run = await arrange(accounts(3), ServerFaults(fault, fault), probe_timeout=0.3)
    for _ in range(times):
        await run.probe()
    assert run.statuses() == {"pending": 3}
    for row in run.mailboxes():
        assert (row["attempts"], row["claimed_until"]) == (0, None)
        assert row["next_attempt_at"] - row["tested_at"] == timedelta(minutes=5)
    assert {attempt for attempt, *_ in run.answers()} == {1}
    assert run.outlook.seen.passwords_received == 0


# The lockout guard.


async def test_the_guard_stops_a_run_of_wrong_passwords(arrange: Arrange) -> None:
    """When nearly all passwords are wrong, no more logins start, and the other mailboxes are held."""
    wrong = {f"user{n}@outlook.com": WRONG for n in range(1, 61)}
    run = await arrange(wrong, guard_after=10, probe_concurrency=5, probe_group_size=20)
    report = (await run.probe()).report()
    begun = run.logins(SMTP)
    assert 10 <= begun.total() <= 14  # logins in progress finish
    assert report.stopped == Stop.GUARD
    assert (len(report.verdicts), report.untested) == (begun.total(), 60 - begun.total())
    rows = run.mailboxes()
    assert {row["email"] for row in rows if row["status"] == "failed"} == set(begun)
    for row in rows:
        assert row["claimed_until"] is None
        assert row["next_attempt_at"] is None
        if row["status"] == "pending":
            assert (row["diagnosis"], row["attempts"], row["tested_at"]) == (HELD_BACK, 0, None)
        else:
            assert row["diagnosis"].startswith("Wrong password.")


async def test_the_guard_is_not_misled_by_a_sorted_file(arrange: Arrange) -> None:
    """With all wrong passwords at the top of the file, a run in which most are right tests every mailbox."""
    wrong = {f"user{n}@outlook.com": WRONG for n in range(1, 31)}
    run = await arrange(wrong | accounts(60, "contoso.com"), guard_after=20, probe_concurrency=5)
    probing = run.probing()

    async def gather(groups: Sequence[Group]) -> None:
        await asyncio.gather(*(probing.test_group(group, logging.getLogger()) for group in groups))

    report = await probing.run(run.targets, gather)
    assert (report.stopped, report.untested) == (None, 0)
    assert run.statuses() == {"active": 60, "failed": 30}


async def test_the_guard_leaves_verdicts_alone(arrange: Arrange) -> None:
    """A mailbox that failed temporarily before the guard tripped keeps its verdict and its next attempt."""
    run = await arrange(
        {"busy@outlook.com": Account("pw", smtp="server-busy", imap="unavailable")}
        | {f"user{n}@outlook.com": WRONG for n in range(1, 41)},
        guard_after=10,
        probe_concurrency=1,
        probe_group_size=5,
    )
    await run.probe()
    busy = run.mailbox("busy@outlook.com")
    assert busy["next_attempt_at"] > now()
    assert "Throttled" in busy["diagnosis"]
    assert run.logins(SMTP).total() == 11


async def test_the_guard_stops_between_the_protocols(arrange: Arrange) -> None:
    """A mailbox whose SMTP login is in progress when the guard trips is not tried over IMAP."""
    slow = {"slow@outlook.com": Account("pw", smtp="slow:0.5+ok")}
    wrong = {f"user{n}@outlook.com": WRONG for n in range(1, 11)}
    run = await arrange(slow | wrong, guard_after=10)
    report = (await run.probe()).report()
    row = run.mailbox("slow@outlook.com")
    assert (report.stopped, report.untested) == (Stop.GUARD, 1)
    assert not run.logins(IMAP)
    assert (row["status"], row["attempts"], row["diagnosis"]) == ("pending", 1, HELD_BACK)
    assert (row["claimed_until"], row["next_attempt_at"]) == (None, None)


async def test_the_guard_tolerates_some_wrong_passwords(arrange: Arrange) -> None:
    """A run with too few wrong passwords to trip the guard tests every mailbox, even if those fail first."""
    mixed = {f"user{n}@outlook.com": WRONG if n % 2 else Account("pw") for n in range(80)}
    run = await arrange(mixed, guard_after=20)
    assert (await run.probe()).report().stopped is None
    assert run.statuses() == {"active": 40, "failed": 40}


def answered(reason: Reason, protocol: Protocol = SMTP, *, tried: bool = True) -> Answer:
    return Answer(protocol, Endpoint("mail", 1), reason, Stage.LOGIN, "", 1, tried=tried)


def test_the_guard_counts_passwords_only() -> None:
    """The guard counts only replies about a password, not host problems or connection faults."""
    guard = LockoutGuard(after=10, share=0.9)

    def count(mailbox_id: int, smtp: Reason, imap: Reason | None = None, *, tried: bool = True) -> bool:
        answer = answered(imap, IMAP) if imap else answered(smtp, tried=tried)
        return guard.count(mailbox_id, answer, standings_after(smtp, imap))

    for reason in (Reason.TIMED_OUT, Reason.SERVER_BUSY, Reason.SMTP_AUTH_OFF_TENANT):
        assert not count(1, reason)
    assert not count(1, Reason.WRONG_CREDENTIALS, tried=False)
    assert (guard.checked, guard.wrong) == (set(), set())
    assert not count(1, Reason.OK)
    assert not count(1, Reason.OK, Reason.OK)
    assert not count(2, Reason.LOGIN_REFUSED)
    assert guard.wrong == set()
    assert not count(2, Reason.LOGIN_REFUSED, Reason.WRONG_CREDENTIALS)
    wrong = [Reason.WRONG_CREDENTIALS, Reason.APP_PASSWORD_REQUIRED] * 5
    alarms = [count(mailbox_id, wrong[mailbox_id - 3]) for mailbox_id in range(3, 12)]
    assert alarms == [False] * 7 + [True, True]


def test_the_guard_and_both_protocols() -> None:
    """A password that both protocols reject without a cause is wrong, and one that either accepts is not."""
    guard = LockoutGuard(after=3, share=0.9)
    for mailbox_id, (smtp, imap) in enumerate([(Reason.OK, Reason.WRONG_CREDENTIALS)] * 5, start=1):
        assert not guard.count(mailbox_id, answered(imap, IMAP), standings_after(smtp, imap))
    assert guard.wrong == set()
    bare = Reason.LOGIN_REFUSED
    assert not guard.count(9, answered(bare), standings_after(bare, None))
    guard.count(9, answered(bare, IMAP), standings_after(bare, bare))
    assert guard.wrong == {9}


# Claims.


async def test_a_mailbox_of_another_run_is_left_alone(arrange: Arrange) -> None:
    """A mailbox that another run has claimed is neither tested nor changed, and counts as untested."""
    run = await arrange(accounts(3))
    claim(run.db, run.ids[:1], now(), now() + LEASE)
    before = run.mailbox()
    report = (await run.probe()).report()
    assert run.mailbox() == before
    assert (len(report.verdicts), report.untested) == (2, 1)
    assert not run.outlook.seen.logins["smtp", ADDRESS]


async def test_an_expired_claim_is_taken_over(arrange: Arrange) -> None:
    """A mailbox whose run was killed is tested by the next run, as its second attempt."""
    run = await arrange(one())
    claim(run.db, run.ids, now(), now() - timedelta(seconds=1))
    await run.probe()
    assert (run.mailbox()["status"], run.mailbox()["attempts"]) == ("active", 2)
    assert {attempt for attempt, *_ in run.answers()} == {2}


def verdict_on(claimed: Claimed, reason: Reason) -> Verdict:
    return decide_verdict(claimed.mailbox_id, claimed.email, claimed.attempt, 5, (answered(reason),))


async def test_the_loser_of_a_claim_writes_nothing(arrange: Arrange) -> None:
    """A run that has lost its claim stores no verdict and does not release the other run's claim."""
    run = await arrange(accounts(2))
    late, kept = claim(run.db, run.ids, now(), now() - timedelta(seconds=1))
    (owner,) = claim(run.db, run.ids[:1], now(), now() + LEASE)
    before = run.mailboxes()
    late_verdict = verdict_on(late, Reason.WRONG_CREDENTIALS)
    save(run.db, [(late, late_verdict)])
    release(run.db, [late], {(late.mailbox_id, SMTP)})
    assert run.mailboxes() == before
    assert run.answers() == []
    save(run.db, [(late, late_verdict), (kept, verdict_on(kept, Reason.WRONG_CREDENTIALS))])
    assert run.mailboxes()[0] == before[0]
    assert run.mailboxes()[1]["status"] == "failed"
    save(run.db, [(owner, verdict_on(owner, Reason.TIMED_OUT))])
    assert run.answers() == [(2, "smtp", "timed_out"), (1, "smtp", "wrong_credentials")]


async def test_a_mailbox_that_was_deleted_meanwhile(arrange: Arrange) -> None:
    """The verdict on a mailbox that was deleted meanwhile is dropped, and the others are stored."""
    run = await arrange(accounts(2))
    claims = claim(run.db, run.ids, now(), now() + LEASE)
    with run.db.engine.begin() as connection:
        connection.execute(sa.delete(Mailbox).where(col(Mailbox.id) == run.ids[0]))
    save(run.db, [(claimed, verdict_on(claimed, Reason.WRONG_CREDENTIALS)) for claimed in claims])
    assert [row["status"] for row in run.mailboxes()] == ["failed"]
    assert len(run.answers()) == 1


class ShortLease(Settings):
    @property
    def claim_lease(self) -> timedelta:
        return timedelta(seconds=self.probe_timeout / 2)


async def test_no_login_starts_if_the_claim_may_expire(arrange: Arrange) -> None:
    """No login starts if the claim could expire before the login ends."""
    run = await arrange(accounts(2))
    run.settings = ShortLease(**{name: getattr(run.settings, name) for name in ("servers", "ca_file")})
    report = (await run.probe()).report()
    assert report.untested == 2
    assert run.outlook.seen.passwords_received == 0
    assert {(row["status"], row["attempts"], row["claimed_until"]) for row in run.mailboxes()} == {
        ("pending", 0, None)
    }


@pytest.mark.parametrize("smtp", ["ok", "server-busy"])
async def test_two_runs_at_once_test_no_mailbox_twice(arrange: Arrange, smtp: str) -> None:
    """Two runs over the same mailboxes share them, even if those stay pending, and both finish."""
    run = await arrange(accounts(70, smtp=smtp), probe_group_size=7)
    backwards = Run(run.db, run.outlook, run.settings, run.targets[::-1])
    first, second = await asyncio.gather(run.probe(), backwards.probe())
    assert len(first.verdicts) + len(second.verdicts) == 70
    assert {row["attempts"] for row in run.mailboxes()} == {1}
    assert set(run.outlook.seen.logins.values()) == {1}
    assert run.logins(SMTP).total() == run.logins(IMAP).total() == 70


async def test_claims_and_verdicts_never_deadlock(arrange: Arrange) -> None:
    """Runs that claim, store and hold the same mailboxes in any order never deadlock."""
    run = await arrange(accounts(60))
    until = now() + LEASE

    def turn(number: int) -> None:
        ids = run.ids[::-1] if number % 2 else run.ids
        for _ in range(10):
            claims = claim(run.db, ids, until, until + timedelta(seconds=number))
            hold_back(run.db, ids)
            pairs = [(claimed, verdict_on(claimed, Reason.TIMED_OUT)) for claimed in claims]
            save(run.db, pairs[::-1] if number % 2 else pairs)

    async with asyncio.timeout(30):
        await asyncio.gather(*(asyncio.to_thread(turn, number) for number in range(4)))
    assert {row["claimed_until"] for row in run.mailboxes()} == {None}


# Attempts.


async def test_attempts_and_growing_pauses(arrange: Arrange) -> None:
    """IMAP that keeps failing temporarily waits longer each time, and is given up after the last attempt."""
    run = await arrange(one(imap="unavailable"), probe_attempts=5)
    pauses = []
    for attempt in range(1, 6):
        await run.probe()
        row = run.mailbox()
        assert row["attempts"] == attempt
        pauses.append(row["next_attempt_at"] and row["next_attempt_at"] - row["tested_at"])
    minutes = [timedelta(minutes=minutes) for minutes in (5, 20, 80, 320)]
    assert pauses == [*minutes, None]
    assert run.mailbox()["status"] == "partial"
    assert run.mailbox()["diagnosis"].endswith("Gave up after 5 attempts.")
    assert run.logins(SMTP)[ADDRESS] == 1
    assert [attempt for attempt, protocol, _ in run.answers() if protocol == IMAP] == [1, 2, 3, 4, 5]
    await run.probe()
    assert run.logins(IMAP)[ADDRESS] == 5


async def test_a_pause_that_the_server_names_is_kept(arrange: Arrange) -> None:
    """The next attempt waits for the longer of the server's pause and the usual one."""
    throttled = "451 4.7.0 Request is throttled. Suggested Backoff Time: {} milliseconds"
    run = await arrange(
        {
            "long@outlook.com": Account("pw", smtp=throttled.format(7_200_000)),
            "short@outlook.com": Account("pw", smtp=throttled.format(1000)),
        }
    )
    await run.probe()
    pauses = {row["email"]: row["next_attempt_at"] - row["tested_at"] for row in run.mailboxes()}
    assert pauses == {"long@outlook.com": timedelta(hours=2), "short@outlook.com": timedelta(minutes=5)}


async def test_imap_that_is_off_is_tried_twice_at_most(arrange: Arrange) -> None:
    """A mailbox that is signed in but not connected is tried a second time; then it can only send."""
    run = await arrange(one(imap="not-connected"))
    await run.probe()
    assert run.mailbox()["status"] == "pending"
    await run.probe()
    assert run.mailbox()["status"] == "partial"
    assert [reason for *_, reason in run.answers()] == ["imap_off", "ok", "imap_off"]


async def test_a_second_attempt_may_succeed(arrange: Arrange, start: StartOutlook) -> None:
    """A mailbox that failed temporarily becomes active once its server recovers; SMTP is not asked again."""
    run = await arrange(one(imap="unavailable"))
    await run.probe()
    well = await start(one())
    run.settings = with_servers(run.settings, well)
    with run.db.engine.begin() as connection:
        ports = {"smtp_port": well.smtp_port, "imap_port": well.imap_port}
        connection.execute(sa.update(Mailbox).values(**ports))
    await run.probe()
    assert (run.mailbox()["status"], run.mailbox()["attempts"]) == ("active", 2)
    assert run.answers() == [
        (1, "imap", "server_busy"),
        (1, "smtp", "ok"),
        (2, "imap", "ok"),
    ]
    assert run.logins(SMTP)[ADDRESS] == 1


# Interruption.


async def test_an_interruption(arrange: Arrange) -> None:
    """Ctrl-C ends the run at once: verdicts are kept, and all other mailboxes are pending and unclaimed."""
    slow = {f"b{n}@outlook.com": Account("pw", smtp="slow:30") for n in range(5)}
    quick = {f"{letter}{n}@outlook.com": Account("pw") for letter in "ac" for n in range(10)}
    run = await arrange(slow | quick, probe_concurrency=5)
    due = {row["email"]: row["next_attempt_at"] for row in run.mailboxes()}
    probing = run.probing()
    running = asyncio.create_task(run.probe(probing))

    def slow_ones_hold_all_slots() -> bool:
        begun = run.logins(SMTP)
        return set(slow) <= set(begun) and len(begun) == 5 + len(probing.verdicts)

    await run.until(slow_ones_hold_all_slots)
    begun = run.logins(SMTP)
    probing.interrupt()
    async with asyncio.timeout(5):
        await running
    report = probing.report()
    done = {verdict.email for verdict in report.verdicts}
    assert (report.stopped, done, report.untested) == (
        Stop.INTERRUPTED,
        set(begun) - set(slow),
        25 - len(done),
    )
    for row in run.mailboxes():
        assert row["claimed_until"] is None
        assert row["status"] == ("active" if row["email"] in done else "pending")
        assert row["attempts"] == (1 if row["email"] in begun else 0)
        assert row["email"] in done or row["next_attempt_at"] == due[row["email"]]
    await run.probe(probing)  # a claim after an interruption starts nothing
    assert run.logins(SMTP) == begun


async def test_an_interruption_before_the_password(arrange: Arrange) -> None:
    """A login that is cancelled before its password is sent uses up no attempt."""
    run = await arrange(one(), delay=0.1)
    probing = run.probing()
    running = asyncio.create_task(run.probe(probing))
    await run.until(lambda: run.outlook.seen.connections["smtp"] == 2)
    probing.interrupt()
    await running
    assert (run.mailbox()["status"], run.mailbox()["attempts"]) == ("pending", 0)
    assert run.outlook.seen.passwords_received == 0


async def test_an_interruption_of_the_preflight(arrange: Arrange) -> None:
    """A host that hangs does not delay an interruption."""
    run = await arrange(accounts(3), ServerFaults("hang:greeting"))
    probing = run.probing()
    running = asyncio.create_task(run.probe(probing))
    await run.until(lambda: run.outlook.seen.connections["smtp"] == 1)
    probing.interrupt()
    async with asyncio.timeout(5):
        await running
    assert {(row["status"], row["attempts"], row["claimed_until"]) for row in run.mailboxes()} == {
        ("pending", 0, None)
    }


async def test_an_interruption_loses_no_answer(arrange: Arrange) -> None:
    """Answers received before an interruption are stored, even if the database is busy at that moment."""
    run = await arrange(accounts(3))
    probing = run.probing()
    with run.db.engine.connect() as connection:
        running = asyncio.create_task(run.probe(probing))
        await run.until(lambda: run.logins(SMTP).total() >= 1)
        with connection.begin():
            connection.execute(sa.select(table_of(Mailbox)).with_for_update())
            await run.until(lambda: run.logins(IMAP).total() == 3)
            await asyncio.sleep(0.2)  # the last IMAP dialogue finishes
            probing.interrupt()
    await running
    assert run.statuses() == {"active": 3}
    assert len(probing.report().verdicts) == 3


# Limits.


@pytest.mark.parametrize("concurrency", [1, 7])
async def test_concurrency_per_host(
    arrange: Arrange, monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    """A host never has more logins at once than the setting allows, whatever the size of the groups."""
    run = await arrange(accounts(25), probe_concurrency=concurrency, probe_group_size=10)
    now_open: Counter[str] = Counter()
    most: Counter[str] = Counter()

    def entered(protocol: str, _: str) -> None:
        now_open[protocol] += 1
        most[protocol] = max(most[protocol], now_open[protocol])

    def left(protocol: str, _: str) -> None:
        now_open[protocol] -= 1

    # The stand-in's own maximum counts connections until long after the goodbye.
    monkeypatch.setattr(run.outlook.seen, "entered", entered)
    monkeypatch.setattr(run.outlook.seen, "left", left)
    await run.probe()
    assert run.statuses() == {"active": 25}
    assert concurrency // 2 < most["smtp"] <= concurrency  # how far logins overlap depends on the machine
    assert 1 <= most["imap"] <= concurrency


async def test_no_more_is_claimed_than_is_soon_tested(arrange: Arrange) -> None:
    """With few slots a large group is claimed in parts, so that no claim expires while its mailbox waits."""
    run = await arrange(accounts(20, smtp="slow:30"), probe_concurrency=2, probe_group_size=20)
    probing = run.probing()
    running = asyncio.create_task(run.probe(probing))
    await run.until(lambda: run.logins(SMTP).total() == 2)
    assert Counter(row["claimed_until"] is None for row in run.mailboxes()) == {True: 16, False: 4}
    probing.interrupt()
    await running
    assert {row["claimed_until"] for row in run.mailboxes()} == {None}


# Internal errors.


async def test_a_secret_that_does_not_open(arrange: Arrange) -> None:
    """A wrong key raises an error to the caller; no password is sent, and no mailbox gets a verdict."""
    run = await arrange(accounts(2))
    other = Database(run.db.engine, Sealer(parse_keys(new_key())))
    with pytest.raises(ExceptionGroup) as error:
        await run.probe(run.probing(other))
    assert error.group_contains(UnsealError)
    assert {(row["status"], row["attempts"], row["claimed_until"]) for row in run.mailboxes()} == {
        ("pending", 0, None)
    }


async def test_a_verdict_that_cannot_be_stored(arrange: Arrange, caplog: pytest.LogCaptureFixture) -> None:
    """A verdict is not reported before it is stored, and a failure to store it is raised."""
    caplog.set_level(logging.INFO, "tests")
    run = await arrange(accounts(2))
    with run.db.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE probe_result RENAME TO elsewhere"))
    probing = run.probing()
    with pytest.raises(ExceptionGroup) as error:
        await run.probe(probing)
    assert error.group_contains(sa.exc.DBAPIError)
    assert (probing.report().verdicts, probing.report().untested) == ((), 2)
    assert not [record for record in caplog.records if record.name == "tests"]
    assert {(row["status"], row["attempts"], row["claimed_until"]) for row in run.mailboxes()} == {
        ("pending", 1, None)
    }


async def test_a_verdict_is_stored_with_the_next_one(arrange: Arrange) -> None:
    """A verdict that could not be stored is kept, and stored as soon as the database works again."""
    run = await arrange(
        {"first@outlook.com": Account("pw"), "later@outlook.com": Account("pw", "slow:0.6+ok")}
    )

    def rename(old: str, new: str) -> None:
        with run.db.engine.begin() as connection:
            connection.execute(sa.text(f"ALTER TABLE {old} RENAME TO {new}"))

    rename("probe_result", "elsewhere")
    probing = run.probing()
    running = asyncio.create_task(run.probe(probing))
    await run.until(lambda: run.logins(IMAP)["first@outlook.com"])
    await asyncio.sleep(0.3)
    rename("elsewhere", "probe_result")
    with pytest.raises(ExceptionGroup):
        await running
    assert len(probing.report().verdicts) == 2
    assert run.statuses() == {"active": 2}
    assert len(run.answers()) == 4
