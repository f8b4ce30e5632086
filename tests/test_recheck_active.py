"""Working mailboxes are tested again, and only a definite answer changes what is known about them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import col

from sandbox.outlook import Account, Outlook, running
from schemas.handover import handover
from schemas.outcomes import who_has_to_act
from schemas.reasons import Reason
from schemas.settings import Settings
from schemas.tables import Mailbox, now, table_of
from schemas.verdicts import ProbeReport, Stop
from tasks.probe import Probing
from tasks.storage.claims import (
    RECHECKS_PER_DAY,
    Claimed,
    claim,
    find_due,
    find_to_recheck,
    release,
    save,
    share_of_recheck,
)
from tasks.storage.database import Database
from tasks.storage.mailbox_changes import make_due
from tasks.storage.mailboxes import Filters, find_record
from tasks.storage.outcomes import find_outcomes
from tasks.tell_changes import tell_changes
from tests.conftest import (
    StartOutlook,
    accounts,
    import_mailboxes,
    probe_targets,
    rows_of,
    with_servers,
    write_csv,
)
from tests.support.receiver import Receiver, receiving
from tests.support.shell import RECHECK, Shell, at
from tests.test_probe import verdict_on
from tests.test_updates import update

ANN, BOB = "ann@contoso.com", "bob@contoso.com"
HELD = timedelta(minutes=5)


class Site:
    """One test's stand-in, database, settings and receiver; each mailbox has the password of its account."""

    def __init__(self, db: Database, outlook: Outlook, settings: Settings, receiver: Receiver) -> None:
        self.db = db
        self.outlook = outlook
        self.settings = receiver.on(settings)
        self.receiver = receiver

    async def recheck(self) -> ProbeReport:
        """A recheck, after more days than its pause."""
        self.let_days_pass()
        before = now() - timedelta(days=self.settings.recheck_days)
        targets = find_to_recheck.fn(self.db, 500, before, None)
        return await self._probe(Probing(self.db, self.settings, ids_of(targets), before), targets)

    async def retest(self) -> ProbeReport:
        """A retest of all that is pending, due or not."""
        with self.db.engine.begin() as connection:
            pending = col(Mailbox.status) == "pending"
            connection.execute(sa.update(Mailbox).where(pending).values(next_attempt_at=now()))
            connection.execute(sa.update(Mailbox).values(smtp_due=None, imap_due=None))
        targets = find_due.fn(self.db, 500, None, held=False)
        return await self._probe(Probing(self.db, self.settings, ids_of(targets)), targets)

    async def _probe(self, probing: Probing, targets: Any) -> ProbeReport:
        await probe_targets(probing, targets)
        await tell_changes(self.db, self.settings)
        return probing.report()

    def let_days_pass(self) -> None:
        """Every test and claim so far was eight days ago."""
        with self.db.engine.begin() as connection:
            past = now() - timedelta(days=8)
            held = col(Mailbox.claimed_until).is_not(None)
            connection.execute(sa.update(Mailbox).where(held).values(claimed_until=past))
            tested = col(Mailbox.tested_at).is_not(None)
            connection.execute(sa.update(Mailbox).where(tested).values(tested_at=past))

    def known(self, email: str = ANN) -> tuple[str, str, str, str, str]:
        """Status, then state and reason of SMTP and IMAP."""
        row = self.row(email)
        found = (row[name] for name in ("smtp_state", "smtp_reason", "imap_state", "imap_reason"))
        return (row["status"], *found)

    def row(self, email: str = ANN) -> dict[str, Any]:
        return next(row for row in rows_of(self.db, Mailbox) if row["email"] == email)

    def logins(self) -> int:
        return self.outlook.seen.passwords_received


def ids_of(targets: Any) -> list[int]:
    return [target.mailbox_id for target in targets]


WORKS = ("active", "accepted", "", "accepted", "")


async def working_site(db: Database, settings: Settings, start: StartOutlook, receiver: Receiver) -> Site:
    """A site with a tested mailbox that works, and a receiver that has been told nothing."""
    outlook = await start({ANN: Account("pw")})
    site = Site(db, outlook, with_servers(settings, outlook, guard_after=1000), receiver)
    import_mailboxes(db, site.settings, {ANN: Account("pw")})
    await site.retest()
    assert (site.known(), receiver.told) == (WORKS, [])
    return site


@pytest.fixture
async def site(db: Database, either_settings: Settings, start: StartOutlook) -> AsyncIterator[Site]:
    with receiving() as receiver:
        yield await working_site(db, either_settings, start, receiver)


async def test_a_revoked_password_is_told_within_one_recheck_and_once(site: Site, tmp_path: Path) -> None:
    """A revoked password is told once by name and reason, never sent again, and its recovery is told too."""
    site.outlook.change(ANN, Account("new"))
    await site.recheck()
    assert site.known() == ("failed", "refused", "wrong_credentials", "untested", "")
    (notice,) = site.receiver.notices.values()
    assert (notice["type"], notice["data"]["total"]) == ("mailboxes.changed", 1)
    (change,) = notice["data"]["changes"]
    assert (change["email"], change["id"], change["workspace"]) == (ANN, site.row()["id"], "default")
    assert (change["before"], change["after"]) == ("active", "failed")
    why = Reason.WRONG_CREDENTIALS.explanation
    assert change["reasons"] == [
        {"protocol": "smtp", "code": "wrong_credentials", "title": why.title, "remedy": why.remedy}
    ]
    tried = site.logins()
    await site.recheck()
    await site.retest()
    assert (site.logins(), site.receiver.told) == (tried, [(ANN, "active", "failed")])
    update(site.db, site.settings, tmp_path, (ANN, "new"))
    await site.retest()
    await site.recheck()
    assert site.known() == WORKS
    assert site.receiver.told == [(ANN, "active", "failed"), (ANN, "failed", "active")]


@pytest.mark.parametrize("how", ["revoked", "mistyped"])
async def test_a_password_that_worked_and_is_wrong_now_is_handed_over(
    site: Site, tmp_path: Path, how: str
) -> None:
    """No view says that IMAP accepts the password, although its last answer, from before, says so."""
    if how == "revoked":
        site.outlook.change(ANN, Account("new"))
        await site.recheck()
    else:
        update(site.db, site.settings, tmp_path, (ANN, "mistyped"))
        await site.retest()
    assert site.known() == ("failed", "refused", "wrong_credentials", "untested", "")
    found = find_outcomes(site.db, "default", site.row()["import_id"])
    assert found is not None
    assert who_has_to_act(found[1]) == "1 needs a new app password from its owner"
    assert ANN in handover(*found)["fix-passwords.csv"].decode()
    record = find_record(site.db, "default", ANN)
    assert record is not None
    assert [(one.protocol, one.reason) for one in record.results] == [("smtp", "wrong_credentials")]


async def test_a_temporary_fault_of_a_recheck_is_no_reason(site: Site) -> None:
    """A mailbox that can only send still can, whatever the recheck was told at the moment."""
    site.outlook.change(ANN, Account("pw", imap="basic-auth-disabled"))
    await site.recheck()
    site.outlook.change(ANN, Account("pw", "server-busy", "basic-auth-disabled"))
    await site.recheck()
    found = find_outcomes(site.db, "default", site.row()["import_id"])
    assert found is not None
    assert who_has_to_act(found[1]) == "1 takes a password only for sending"


@pytest.mark.parametrize(
    ("smtp", "imap"),
    [
        ("server-busy", "ok"),
        ("ok", "unavailable"),
        ("temporary-auth-failure", "unavailable"),
        ("drop:auth", "drop:auth"),
        ("too-many-connections", "ok"),
        ("throttled-backoff", "inuse"),
    ],
)
async def test_a_temporary_fault_never_demotes(site: Site, smtp: str, imap: str) -> None:
    """Whatever is put off, and however often, leaves a working mailbox as it was, and nothing is told."""
    site.settings = site.settings.model_copy(update={"probe_attempts": 1})
    site.outlook.change(ANN, Account("pw", smtp, imap))
    for _ in range(3):
        assert len((await site.recheck()).verdicts) == 1
        assert (site.known(), site.row()["next_attempt_at"]) == (WORKS, None)
    assert site.receiver.told == []


@pytest.mark.parametrize(
    ("smtp", "imap", "known"),
    [
        ("smtp-auth-disabled-tenant", "ok", ("partial", "refused", "smtp_auth_off_tenant", "accepted", "")),
        ("ok", "basic-auth-disabled", ("partial", "accepted", "", "refused", "passwords_retired")),
        # A refusal for another cause than the password leaves what the other protocol said before.
        (
            "smtp-auth-disabled-tenant",
            "unavailable",
            ("partial", "refused", "smtp_auth_off_tenant", "accepted", ""),
        ),
        # The password is in doubt, so what the other protocol accepted before counts no more.
        (
            "identity-refused",
            "unavailable",
            ("pending", "refused", "login_refused", "put_off", "server_busy"),
        ),
        ("identity-refused", "ok", ("partial", "refused", "refused_though_right", "accepted", "")),
        (
            "identity-refused",
            "login-failed",
            ("failed", "refused", "login_refused", "refused", "login_refused"),
        ),
        # Exchange says so of a mailbox: it is asked again before it is believed.
        ("ok", "not-connected", ("pending", "accepted", "", "put_off", "imap_off")),
    ],
)  # fmt: skip
async def test_only_a_definite_refusal_changes_what_is_known(
    site: Site, smtp: str, imap: str, known: tuple[str, ...]
) -> None:
    """A refusal counts at once, and with a doubt about the password the rest is asked again soon."""
    site.outlook.change(ANN, Account("pw", smtp, imap))
    await site.recheck()
    assert site.known() == known
    assert (site.row()["next_attempt_at"] is not None) == (known[0] == "pending")
    changed = [] if known[0] == "pending" else [(ANN, "active", known[0])]
    assert site.receiver.told == changed


async def test_a_doubt_is_settled_by_the_retest(site: Site) -> None:
    """IMAP that stays closed for two tests is told, and a doubt that was unfounded is not."""
    site.outlook.change(ANN, Account("pw", imap="not-connected"))
    await site.recheck()
    site.outlook.change(ANN, Account("pw"))
    await site.retest()
    assert (site.known(), site.receiver.told) == (WORKS, [])
    site.outlook.change(ANN, Account("pw", imap="not-connected"))
    await site.recheck()
    await site.retest()
    assert site.known() == ("partial", "accepted", "", "refused", "imap_off")
    assert site.receiver.told == [(ANN, "active", "partial")]


async def test_a_cured_fault_is_found_and_told(site: Site) -> None:
    """Mailboxes that failed without a refused password are asked again, and their recovery is told."""
    imap_off = "NO IMAP is disabled for your mailbox."
    site.outlook.change(ANN, Account("pw", "smtp-auth-disabled-mailbox", imap_off))
    await site.recheck()
    assert site.known() == ("failed", "refused", "smtp_auth_off_mailbox", "refused", "imap_off_mailbox")
    await site.recheck()
    site.outlook.change(ANN, Account("pw", "smtp-auth-disabled-mailbox"))
    await site.recheck()
    site.outlook.change(ANN, Account("pw"))
    await site.recheck()
    assert site.known() == WORKS
    assert site.receiver.told == [
        (ANN, "active", "failed"), (ANN, "failed", "partial"), (ANN, "partial", "active")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("smtp", "imap"),
    [
        ("wrong-credentials", "ok"),
        ("identity-refused", "login-failed"),
        ("smtp-auth-disabled-tenant", "login-failed"),
        ("535 5.7.139 An unrecognised reply.", "basic-auth-disabled"),
        ("basic-auth-not-supported", "basic-auth-disabled"),
    ],
)
async def test_what_no_recheck_can_cure_is_left_alone(
    db: Database, either_settings: Settings, start: StartOutlook, smtp: str, imap: str
) -> None:
    """A mailbox with a refused password, an unrecognised reply or retired passwords gets no further login."""
    outlook = await start({ANN: Account("pw", smtp, imap)})
    with receiving() as receiver:
        site = Site(db, outlook, with_servers(either_settings, outlook), receiver)
        import_mailboxes(db, site.settings, {ANN: Account("pw")})
        await site.retest()
        assert site.known()[0] == "failed"
        tried = site.logins()
        assert (await site.recheck()).verdicts == ()
        assert (site.logins(), share_of_recheck(db, 7, None)) == (tried, 0)


async def test_a_cause_that_persists_is_asked_once(
    db: Database, either_settings: Settings, start: StartOutlook
) -> None:
    """Where the organisation blocks passwords, one protocol says so, and the other gets no password."""
    outlook = await start({ANN: Account("pw", "security-defaults", "NO Blocked by security defaults.")})
    with receiving() as receiver:
        site = Site(db, outlook, with_servers(either_settings, outlook), receiver)
        import_mailboxes(db, site.settings, {ANN: Account("pw")})
        await site.retest()
        tried = site.logins()
        await site.recheck()
        assert site.logins() == tried + 1
        outlook.change(ANN, Account("pw"))
        await site.recheck()
        assert (site.known(), receiver.told) == (WORKS, [(ANN, "failed", "active")])


async def test_only_what_is_due_is_taken_and_only_a_share(
    db: Database, either_settings: Settings, start: StartOutlook
) -> None:
    """A mailbox has its turn once in the days of the setting, and an hour takes its part of all of them."""
    mailboxes = accounts(30)
    outlook = await start(mailboxes)
    with receiving() as receiver:
        site = Site(db, outlook, with_servers(either_settings, outlook), receiver)
        import_mailboxes(db, site.settings, mailboxes)
        await site.retest()
        assert find_to_recheck.fn(db, 500, now() - timedelta(days=7), None) == ()
        assert (share_of_recheck(db, 1, None), share_of_recheck(db, 7, None)) == (2, 1)
        assert share_of_recheck(db, 1, "none") == 0
        assert share_of_recheck(db, 1, None) * RECHECKS_PER_DAY >= 30
        site.let_days_pass()
        assert len(find_to_recheck.fn(db, 4, now() - timedelta(days=7), "default")) == 4
        assert find_to_recheck.fn(db, 4, now() - timedelta(days=9), None) == ()


async def test_fifty_changes_are_one_notice(
    db: Database, either_settings: Settings, start: StartOutlook
) -> None:
    """Fifty mailboxes that stop working in one run are told in one notice."""
    mailboxes = accounts(50)
    outlook = await start(mailboxes)
    with receiving() as receiver:
        site = Site(db, outlook, with_servers(either_settings, outlook, guard_after=1000), receiver)
        import_mailboxes(db, site.settings, mailboxes)
        await site.retest()
        for email in mailboxes:
            outlook.change(email, Account("another"))
        await site.recheck()
        (notice,) = receiver.notices.values()
        assert notice["data"]["total"] == len(notice["data"]["changes"]) == 50
        assert sorted(email for email, *_ in receiver.told) == sorted(mailboxes)


async def test_the_guard_stops_a_recheck_and_leaves_the_rest(
    db: Database, either_settings: Settings, start: StartOutlook
) -> None:
    """When nearly all passwords are refused the run stops, and the other mailboxes stay as they were."""
    mailboxes = accounts(20)
    outlook = await start(mailboxes)
    with receiving() as receiver:
        few = {"guard_after": 5, "probe_concurrency": 1, "probe_group_size": 1}
        site = Site(db, outlook, with_servers(either_settings, outlook, **few), receiver)
        import_mailboxes(db, site.settings, mailboxes)
        await site.retest()
        for email in mailboxes:
            outlook.change(email, Account("another"))
        report = await site.recheck()
        assert report.stopped is Stop.GUARD
        statuses = [row["status"] for row in rows_of(db, Mailbox)]
        assert statuses.count("failed") == len(report.verdicts)
        assert statuses.count("active") == 20 - len(report.verdicts) > 0
        assert not any(row["claimed_until"] for row in rows_of(db, Mailbox))


def claim_again(site: Site) -> list[Claimed]:
    """The claim of a recheck after more days than its pause."""
    site.let_days_pass()
    return claim(site.db, [site.row()["id"]], now() - timedelta(days=7), now() + HELD, recheck=True)


async def test_a_claim_changes_nothing_else(site: Site) -> None:
    """A claim of a recheck leaves status, states and attempts, so a killed run leaves a working mailbox."""
    site.let_days_pass()
    before = site.row()
    (claimed,) = claim_again(site)
    before |= {"tested_at": site.row()["tested_at"]}
    assert site.row() == before | {"claimed_until": claimed.until}
    again = claim(site.db, [before["id"]], now(), now() + 2 * HELD, recheck=True)
    assert again == []
    assert find_to_recheck.fn(site.db, 9, now(), None) == ()
    assert find_due.fn(site.db, 9, None, held=True) == ()


async def test_a_killed_recheck_goes_on_the_next_day(site: Site) -> None:
    """A mailbox whose recheck was killed is left out for a day, in case its password was sent."""
    claim_again(site)
    for hours, found in ((1, 0), (25, 1)):
        with site.db.engine.begin() as connection:
            past = now() - timedelta(hours=hours)
            connection.execute(table_of(Mailbox).update().values(claimed_until=past))
        assert len(find_to_recheck.fn(site.db, 9, now() - timedelta(days=7), None)) == found


@pytest.mark.parametrize("tried", [True, False])
async def test_an_interrupted_recheck_gives_up_its_claim_unless_it_sent_a_password(
    site: Site, tried: bool
) -> None:
    """A mailbox that was only claimed is free at once; one that got its password waits as after a kill."""
    (claimed,) = claim_again(site)
    before = site.row()
    release(site.db, [claimed], {(claimed.mailbox_id, claimed.asked[0])} if tried else set())
    assert site.row() == before | {"claimed_until": claimed.until if tried else None}


async def test_a_request_for_a_test_is_stronger_than_a_recheck(site: Site) -> None:
    """A mailbox that is made due while a recheck tests it stays due."""
    (claimed,) = claim_again(site)
    list(make_due(site.db, [claimed.mailbox_id], Filters()))
    save(site.db, [(claimed, verdict_on(claimed, Reason.OK))])
    assert site.known()[0] == "pending"


@pytest.mark.slow
def test_a_killed_recheck_is_finished_by_the_next(shell: Shell) -> None:
    """After kill -9 each mailbox is as it was or has its verdict, and the next run goes on and tells."""
    rows = [[f"user{n}@contoso.com", f"p{n}"] for n in range(60)]
    with running({email: Account(p) for email, p in rows}, folder=shell.folder, delay=0.05) as outlook:
        shell.environment |= at(outlook) | {
            "OUTLOOK_IMPORT_RECHECK_DAYS": "1",
            "OUTLOOK_IMPORT_GUARD_AFTER": "1000",
            "OUTLOOK_IMPORT_PROBE_CONCURRENCY": "1",
            "OUTLOOK_IMPORT_PROBE_GROUP_SIZE": "5",
        }
        shell.run(write_csv(shell.folder / "in.csv", rows))
        for email, _ in rows:
            outlook.change(email, Account("another"))
        wrong = outlook.seen.passwords_received
        shell.change("UPDATE mailbox SET tested_at = '2020-01-01 00:00:00+00:00'")
        with shell.start_program(RECHECK) as process:
            while outlook.seen.passwords_received == wrong:
                assert process.poll() is None, process.communicate()
            process.kill()
            process.communicate()
        assert shell.rows("SELECT count(*) FROM mailbox WHERE status IN ('active', 'failed')") == [(60,)]
        shell.change(
            "UPDATE mailbox SET claimed_until = '2020-01-01 00:00:00+00:00' WHERE claimed_until IS NOT NULL"
        )
        failed = "SELECT count(*) FROM mailbox WHERE status = 'failed'"
        ((before,),) = shell.rows(failed)
        said = shell.run_program(RECHECK)
        ((after,),) = shell.rows(failed)
        assert said.strip() == f"0 active, {int(str(after)) - int(str(before))} failed"
        assert after != before
    unsent = "SELECT count(*) FROM status_change WHERE told_at IS NULL"
    assert shell.rows(unsent) == [(0,)]


@pytest.mark.slow
def test_the_flow_can_be_turned_off(shell: Shell) -> None:
    """With RECHECK_DAYS=0 nothing is tested, and the run says so."""
    shell.environment |= {"OUTLOOK_IMPORT_RECHECK_DAYS": "0"}
    assert shell.run_program(RECHECK).strip() == "rechecks are turned off"
