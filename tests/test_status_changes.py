"""Changes of status are stored with the verdict, told once to a signed webhook, and kept as a history."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from prefect.automations import AutomationCore, EventTrigger
from prefect.client.orchestration import get_client
from prefect.events import Resource, ResourceSpecification
from pydantic import SecretStr
from sqlmodel import col

from sandbox.outlook import Account, running
from schemas.changes import MOST_TOLD
from schemas.reasons import Protocol, Reason
from schemas.settings import Settings
from schemas.standing import MailboxStatus, Needs
from schemas.tables import Mailbox, StatusChange, now, table_of
from tasks import tell_changes as telling
from tasks.background import BackgroundTests
from tasks.storage.changes import KEPT, LEASE, NEWS, Settled, find_history, record_changes, take_notice
from tasks.storage.database import Database
from tasks.storage.mailbox_changes import delete_mailboxes, edit_mailboxes, make_due
from tasks.storage.mailboxes import Filters, choose_mailboxes, count_mailboxes, find_mailboxes
from tasks.tell_changes import tell_changes
from tests.conftest import StartOutlook, import_file, rows_of, with_servers, write_csv
from tests.support.canary import Canaries
from tests.support.receiver import KEY, SILENCE, Receiver, receiving
from tests.support.shell import PROJECT, Shell, at
from tests.support.standings import standings_after
from tests.test_manage import Desk
from tests.test_recheck_active import Site, working_site
from tests.test_updates import update

ANN, BOB, CAT = "ann@contoso.com", "bob@contoso.com", "cat@contoso.com"
OK, OFF, WRONG = Reason.OK, Reason.SMTP_AUTH_OFF_TENANT, Reason.WRONG_CREDENTIALS


@pytest.fixture
def desk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(capsys, monkeypatch)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver that accepts everything; the pauses before a repeat are short."""
    monkeypatch.setattr(telling, "FIRST_PAUSE", 0.01)
    with receiving() as listening:
        yield listening


@pytest.fixture
async def site(db: Database, either_settings: Settings, start: StartOutlook, receiver: Receiver) -> Site:
    return await working_site(db, either_settings, start, receiver)


@pytest.fixture
def ids(db: Database, either_settings: Settings, tmp_path: Path) -> dict[str, int]:
    """Three mailboxes without a verdict, by address."""
    file = write_csv(tmp_path / "in.csv", [(email, "pw") for email in (ANN, BOB, CAT)])
    import_file(db, either_settings, file)
    return {row["email"]: row["id"] for row in rows_of(db, Mailbox)}


def settle(db: Database, mailbox_id: int, smtp: Reason, imap: Reason | None = None) -> None:
    """Record the end of a test with these reasons; IMAP gave the same as SMTP by default."""
    standings = standings_after(smtp, smtp if imap is None else imap)
    accepted = [reason for reason in (smtp, imap or smtp) if reason is OK]
    status = {0: MailboxStatus.FAILED, 1: MailboxStatus.PARTIAL, 2: MailboxStatus.ACTIVE}[len(accepted)]
    with db.engine.begin() as connection:
        record_changes(connection, [Settled(mailbox_id, status, standings)], now())


def changes(db: Database) -> list[tuple[int, str | None, str, bool]]:
    """Mailbox, status before and after, and whether it is still to tell."""
    return [
        (row["mailbox_id"], row["before"], row["after"], row["told_at"] is None)
        for row in rows_of(db, StatusChange)
    ]


# What is recorded.


def test_a_first_verdict_is_not_told(db: Database, ids: dict[str, int]) -> None:
    """The first verdict of a mailbox is stored as told, the same again is not stored, a change is news."""
    for reason in (OK, OK, WRONG, WRONG, OK):
        settle(db, ids[ANN], reason)
    ann = ids[ANN]
    assert changes(db) == [
        (ann, None, "active", False),
        (ann, "active", "failed", True),
        (ann, "failed", "active", True),
    ]


def test_a_mailbox_keeps_its_newest_changes(db: Database, ids: dict[str, int]) -> None:
    """Of each mailbox the newest changes are kept, and those of another are not touched."""
    settle(db, ids[BOB], OK)
    for turn in range(KEPT + 5):
        settle(db, ids[ANN], WRONG if turn % 2 else OK)
    kept = [row for row in changes(db) if row[0] == ids[ANN]]
    assert len(kept) == KEPT
    assert all(before is not None for _, before, _, _ in kept)
    assert kept[-1][1:3] == ("failed", "active")
    assert len(changes(db)) == KEPT + 1


def test_a_deleted_mailbox_takes_its_changes_along(db: Database, ids: dict[str, int]) -> None:
    """Deleting a mailbox deletes its history, and what was not told about it."""
    for reason in (OK, WRONG):
        settle(db, ids[ANN], reason)
    list(delete_mailboxes(db, [ids[ANN]], Filters()))
    assert changes(db) == []
    assert take_notice(db) is None


async def test_what_the_user_changes_is_not_told(site: Site) -> None:
    """A status that follows from new needs is in the history, and neither it nor a test after it is told."""
    site.outlook.change(ANN, Account("pw", imap="basic-auth-disabled"))
    await site.recheck()
    for needs in (Needs.SMTP, Needs.BOTH):
        list(edit_mailboxes(site.db, [site.row()["id"]], Filters(), {"needs": needs}))
        await site.recheck()
    assert site.receiver.told == [(ANN, "active", "partial")]
    history = find_history(site.db, "default", ANN)
    assert history is not None
    assert [change.after for change in history] == ["partial", "active", "partial", "active"]


async def test_a_withdrawn_verdict_is_compared_with_the_next(site: Site) -> None:
    """A mailbox that is made due is told if it fails then, and not if it still works."""
    for account, told in (
        (Account("pw"), []),
        (Account("new"), [(ANN, "active", "failed")]),
    ):
        site.outlook.change(ANN, account)
        list(make_due(site.db, [site.row()["id"]], Filters()))
        await site.retest()
        assert site.receiver.told == told


# What is told.


@pytest.fixture
def news(db: Database, ids: dict[str, int]) -> dict[str, int]:
    """Three mailboxes: one that stopped working, one that started, one with a first verdict."""
    for email, *reasons in ((ANN, OK, WRONG), (BOB, OFF, OK), (CAT, OK)):
        for reason in reasons:
            settle(db, ids[email], reason)
    return ids


async def test_a_notice_is_signed_and_has_what_is_needed(
    db: Database, either_settings: Settings, news: dict[str, int], receiver: Receiver
) -> None:
    """A notice has the type, times, addresses, reasons and remedies, and is sent once."""
    for _ in range(2):
        await tell_changes(db, receiver.on(either_settings))
    ((notice_id, notice),) = receiver.notices.items()
    assert receiver.asked == {notice_id: 1}
    assert set(notice) == {"type", "timestamp", "data"}
    first, second = notice["data"]["changes"]
    assert notice["timestamp"] == second["at"]
    assert first == {
        "id": news[ANN],
        "email": ANN,
        "workspace": "default",
        "at": first["at"],
        "before": "active",
        "after": "failed",
        "reasons": [
            {
                "protocol": protocol.value,
                "code": WRONG.value,
                "title": WRONG.explanation.title,
                "remedy": WRONG.explanation.remedy,
            }
            for protocol in Protocol
            if protocol in standings_after(WRONG, WRONG)
        ],
    }
    assert (second["email"], second["before"], second["after"], second["reasons"]) == (
        BOB, "failed", "active", []
    )  # fmt: skip


@pytest.mark.usefixtures("news")
async def test_a_receiver_that_fails_twice_gets_the_notice_in_the_same_run(
    db: Database, either_settings: Settings, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """A notice that is not accepted is repeated with the same id, and no log line has address or key."""
    caplog.set_level(logging.DEBUG)
    receiver.answers += [500, 307]
    await tell_changes(db, receiver.on(either_settings))
    assert list(receiver.asked.values()) == [3]
    assert len(receiver.notices) == 1
    logged = caplog.text + repr([vars(record) for record in caplog.records])
    assert "stamina.retry_scheduled" in logged
    for secret in (receiver.secret, KEY, KEY.removeprefix("whsec_")):
        assert secret not in logged


@pytest.mark.usefixtures("news")
async def test_a_receiver_that_is_down_is_told_later_with_the_same_id(
    db: Database,
    either_settings: Settings,
    receiver: Receiver,
    ids: dict[str, int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A receiver that refuses everything stops nothing, and a later run tells it the same notice first."""
    receiver.answers += [503] * telling.ATTEMPTS
    await tell_changes(db, receiver.on(either_settings))
    assert receiver.notices == {}
    assert caplog.messages[-1] == (
        "The webhook did not accept a notice about 2 mailboxes (status 503): the next run sends it again"
    )
    settle(db, ids[CAT], WRONG)
    await tell_changes(db, receiver.on(either_settings))
    assert list(receiver.asked.values()) == [telling.ATTEMPTS + 1, 1]
    assert [email for email, *_ in receiver.told] == [ANN, BOB, CAT]


@pytest.mark.usefixtures("news")
async def test_a_receiver_that_says_nothing_does_not_hold_up_a_run(
    db: Database, either_settings: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that does not answer is left after a limit, for one request and for all, and told later."""
    monkeypatch.setattr(telling, "REQUEST", 0.5)
    receiver.answers += [SILENCE] * telling.ATTEMPTS
    await tell_changes(db, receiver.on(either_settings))
    monkeypatch.setattr(telling, "REQUEST", 60.0)
    monkeypatch.setattr(telling, "ALTOGETHER", 1.0)
    receiver.answers[:] = [SILENCE] * telling.ATTEMPTS
    await tell_changes(db, receiver.on(either_settings))
    assert receiver.notices == {}
    receiver.answers.clear()
    monkeypatch.undo()
    free_leases(db)
    await tell_changes(db, receiver.on(either_settings))
    assert list(receiver.asked) == list(receiver.notices)
    assert len(receiver.told) == 2


@pytest.mark.usefixtures("news")
async def test_an_unreachable_receiver_is_not_named(
    db: Database, either_settings: Settings, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """An address where nothing listens, or that is none, is logged by the type of the error alone."""
    for address in (
        f"http://127.0.0.1:9/{receiver.secret}",
        f"no-address-{receiver.secret}",
        f"http://127.0.0.1:{receiver.secret}/",
    ):
        settings = receiver.on(either_settings).model_copy(update={"webhook_url": SecretStr(address)})
        await tell_changes(db, settings)
    said = [message.partition("(")[2].partition(")")[0] for message in caplog.messages if "accept" in message]
    assert said == ["ConnectError", "UnsupportedProtocol", "InvalidURL"]
    assert receiver.secret not in caplog.text


async def test_the_background_tests_of_the_api_tell(site: Site, tmp_path: Path) -> None:
    """A change that the HTTP API's own tests find is told when they end."""
    update(site.db, site.settings, tmp_path, (ANN, "wrong"))
    background = BackgroundTests(site.db, site.settings)
    background.submit(site.row()["import_id"])
    async with asyncio.timeout(20):
        while not site.receiver.told:  # noqa: ASYNC110  the receiver has no events
            await asyncio.sleep(0.01)
    await background.close()
    assert site.receiver.told == [(ANN, "active", "failed")]


@pytest.mark.slow
def test_imports_and_retests_tell(shell: Shell, receiver: Receiver) -> None:
    """A retest tells what no longer works, and an update what works again; a first import tells nothing."""
    shell.environment |= {
        "OUTLOOK_IMPORT_WEBHOOK_URL": receiver.address,
        "OUTLOOK_IMPORT_WEBHOOK_SECRET": KEY,
    }
    with running({ANN: Account("pw")}, folder=shell.folder) as outlook:
        shell.environment |= at(outlook)
        shell.run(write_csv(shell.folder / "in.csv", [[ANN, "pw"]]))
        assert receiver.told == []
        outlook.change(ANN, Account("new"))
        shell.run("mailboxes", "retest", ANN, module="flows.manage")
        assert receiver.told == [(ANN, "active", "failed")]
        shell.run(write_csv(shell.folder / "new.csv", [[ANN, "new"]]), "--update")
        assert receiver.told == [(ANN, "active", "failed"), (ANN, "failed", "active")]
    assert "→" in shell.run("mailboxes", "history", ANN, module="flows.manage")


def free_leases(db: Database) -> None:
    """Let the time pass that a killed process had to send its notice."""
    with db.engine.begin() as connection:
        connection.execute(sa.update(StatusChange).values(leased_until=now() - timedelta(seconds=1)))


@pytest.mark.usefixtures("news")
async def test_a_killed_run_tells_the_next_time(
    db: Database, either_settings: Settings, receiver: Receiver
) -> None:
    """A notice that a killed process has taken is sent by another one after the lease, with the same id."""
    taken = take_notice(db)
    assert taken is not None
    assert not taken.again
    await tell_changes(db, receiver.on(either_settings))
    assert receiver.notices == {}
    assert timedelta(seconds=telling.ALTOGETHER) < LEASE
    free_leases(db)
    await tell_changes(db, receiver.on(either_settings))
    assert list(receiver.notices) == [taken.id]


@pytest.mark.usefixtures("news")
async def test_runs_that_end_at_once_tell_once(
    db: Database, either_settings: Settings, receiver: Receiver
) -> None:
    """Of several runs that end at the same time, one sends the notice."""
    await asyncio.gather(*(tell_changes(db, receiver.on(either_settings)) for _ in range(4)))
    assert list(receiver.asked.values()) == [1]


async def test_a_notice_shows_the_first_changes_and_counts_all(
    db: Database, either_settings: Settings, receiver: Receiver, tmp_path: Path
) -> None:
    """More changes than a notice shows are one notice that says how many there are."""
    many = MOST_TOLD + 20
    file = write_csv(tmp_path / "many.csv", [(f"user{n}@contoso.com", "pw") for n in range(many)])
    found = sorted(target.mailbox_id for target in import_file(db, either_settings, file).targets)
    with db.engine.begin() as connection:
        for status, reason in ((MailboxStatus.ACTIVE, OK), (MailboxStatus.FAILED, WRONG)):
            standings = standings_after(reason, reason)
            record_changes(connection, [Settled(one, status, standings) for one in found], now())
    await tell_changes(db, receiver.on(either_settings))
    await tell_changes(db, receiver.on(either_settings))
    (notice,) = receiver.notices.values()
    assert notice["data"]["total"] == many
    assert [change["id"] for change in notice["data"]["changes"]] == found[:MOST_TOLD]


async def test_old_news_is_history(
    db: Database, either_settings: Settings, receiver: Receiver, news: dict[str, int]
) -> None:
    """What could not be told for a week is told no more, nor what happened while there was no webhook."""
    with db.engine.begin() as connection:
        old = col(StatusChange.mailbox_id) == news[ANN]
        connection.execute(sa.update(StatusChange).where(old).values(at=now() - NEWS))
    await tell_changes(db, either_settings)
    await tell_changes(db, receiver.on(either_settings))
    assert receiver.asked == {}
    settle(db, news[CAT], WRONG)
    await tell_changes(db, receiver.on(either_settings))
    assert receiver.told == [(CAT, "active", "failed")]


async def test_a_database_that_fails_stops_no_run(
    db: Database, either_settings: Settings, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault while the changes are told is logged by its type and not raised."""
    with db.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE status_change"))
    await tell_changes(db, receiver.on(either_settings))
    (said,) = caplog.messages
    assert said.startswith("Changes of mailboxes were not told: ")


async def test_no_secret_is_in_a_notice(
    db: Database, either_settings: Settings, start: StartOutlook, receiver: Receiver, tmp_path: Path
) -> None:
    """Passwords, old and new, a TOTP secret and the server's words are in no byte of any notice."""
    canaries = Canaries()
    first, second = canaries.password("first"), canaries.password("second")
    totp, said = canaries.totp_secret("totp"), "SaidByTheServer0123456789"
    canaries.add("server", said)
    outlook = await start({ANN: Account(first)})
    site = Site(db, outlook, with_servers(either_settings, outlook), receiver)
    file = write_csv(tmp_path / "in.csv", [(ANN, first, totp)], ("email", "password", "totp"))
    import_file(db, site.settings, file)
    await site.retest()
    outlook.change(ANN, Account(second, smtp=f"535 5.7.139 {said}, the user credentials were incorrect."))
    await site.recheck()
    assert receiver.told == [(ANN, "active", "failed")]
    assert canaries.in_bytes(receiver.raw) == []


def test_the_example_automation_is_one() -> None:
    """The automation in docs/operations.md is valid, and an event that this program emits starts it."""
    text = (PROJECT / "docs" / "operations.md").read_text("utf-8")
    example = text.partition("## Act on an event")[2].partition("```json\n")[2].partition("```")[0]
    wanted = json.loads(example.replace("ID-OF-A-NOTIFICATION-BLOCK", str(uuid4())))
    trigger = AutomationCore.model_validate(wanted).trigger
    assert isinstance(trigger, EventTrigger)
    assert trigger.expect == {"outlook-import.mailbox.failed"}
    assert isinstance(trigger.match, ResourceSpecification)
    assert trigger.match.matches(Resource({"prefect.resource.id": "outlook-import.mailbox.17"}))


@pytest.mark.slow
@pytest.mark.usefixtures("news")
async def test_prefect_gets_an_event_for_each_change(
    db: Database, either_settings: Settings, prefect_server: str, news: dict[str, int]
) -> None:
    """Each change is one event about the mailbox, however often its notice has to be sent."""
    assert prefect_server
    with receiving([503] * telling.ATTEMPTS) as receiver:
        for _ in range(2):
            await tell_changes(db, receiver.on(either_settings))
    async with get_client() as client:
        found: list[Any] = []
        # Other tests share the server, and their mailboxes have the same ids.
        span = {"since": (now() - timedelta(minutes=5)).isoformat(), "until": now().isoformat()}
        wanted = {"filter": {"event": {"prefix": ["outlook-import.mailbox."]}, "occurred": span}}
        times = {row["at"] for row in rows_of(db, StatusChange)}
        async with asyncio.timeout(30):
            while len(found) < 2:
                events = (await client._client.post("/events/filter", json=wanted)).json()["events"]
                found = [one for one in events if datetime.fromisoformat(one["occurred"]) in times]
    assert len(found) == 2
    mine = {event["resource"]["prefect.resource.id"]: event for event in found}
    ann = mine[f"outlook-import.mailbox.{news[ANN]}"]
    assert ann["event"] == "outlook-import.mailbox.failed"
    assert ann["resource"]["prefect.resource.name"] == ANN
    assert ann["payload"]["reasons"][0]["code"] == "wrong_credentials"
    assert mine[f"outlook-import.mailbox.{news[BOB]}"]["event"] == "outlook-import.mailbox.active"


# What the commands show.


@pytest.mark.usefixtures("news")
def test_history_shows_each_change(desk: Desk) -> None:
    """The history of a mailbox has the time, both statuses and the reasons of each change, newest first."""
    shown = desk.run("mailboxes", "history", "Ann@contoso.com").splitlines()
    assert "active → failed" in shown[-2]
    assert "SMTP: Wrong password" in shown[-2]
    assert "not tested → active" in shown[-1]
    newest, first = desk.json("mailboxes", "history", ANN)
    assert (newest["before"], newest["after"], newest["told_at"]) == ("active", "failed", None)
    assert newest["reasons"][0]["code"] == "wrong_credentials"
    assert (first["before"], first["after"]) == (None, "active")


@pytest.mark.usefixtures("ids")
def test_history_says_what_is_missing(desk: Desk) -> None:
    """A mailbox without a verdict and one that is not stored are told apart."""
    desk.run("mailboxes", "history", ANN, code=1)
    assert desk.said == f"{ANN} has no verdict yet.\n"
    desk.run("mailboxes", "history", "none@contoso.com", code=1)
    assert desk.said == "none@contoso.com is not in workspace 'default'.\n"
    assert desk.json("mailboxes", "history", ANN, code=1) == []


def test_one_selection_finds_what_has_changed(desk: Desk, db: Database, news: dict[str, int]) -> None:
    """List, count and every change of mailboxes mean the same ones by the time since they changed."""
    with db.engine.begin() as connection:
        bob = col(StatusChange.mailbox_id) == news[BOB]
        connection.execute(
            table_of(StatusChange).update().where(bob).values(at=now() - timedelta(days=2, hours=1))
        )
    for since, emails in (
        ("2h", [ANN]),
        ("30m", [ANN]),
        ("3d", [ANN, BOB]),
        (f"{now() - timedelta(days=3):%Y-%m-%d}", [ANN, BOB]),
    ):
        assert desk.emails("--changed-since", since) == emails
    filters = Filters(changed_since=now() - timedelta(hours=2))
    assert count_mailboxes(db, "default", filters) == 1
    assert list(choose_mailboxes(db, "default", filters)) == [news[ANN]]
    assert len(find_mailboxes(db, "default", 0, 9, filters).mailboxes) == 1
    desk.run("mailboxes", "delete", "--changed-since", "2h", "--yes")
    assert [row["email"] for row in rows_of(db, Mailbox)] == [BOB, CAT]


@pytest.mark.parametrize("since", ["", "soon", "2", "-2h", "2026-13-01", "9999999d", "999999d"])
def test_a_time_that_is_none_is_wrong_usage(desk: Desk, since: str) -> None:
    """A time that cannot be read selects nothing, and the sentence says what can be."""
    desk.run("mailboxes", "list", f"--changed-since={since}", code=2)
    assert "30m, 2h, 3d or a date" in desk.said


def test_json_of_a_notice_keeps_its_letters(db: Database, ids: dict[str, int]) -> None:
    """The body of a notice is the same bytes each time that it is made, so its signature can be checked."""
    for reason in (OK, WRONG):
        settle(db, ids[ANN], reason)
    notice = take_notice(db)
    assert notice is not None
    assert notice.body == notice.body
    assert json.loads(notice.body)["data"]["total"] == 1
