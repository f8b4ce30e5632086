"""PostgreSQL that turns read-only in the middle, as in a failover: reading goes on, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from sandbox.outlook import Account
from schemas.settings import PREFIX, Settings
from schemas.tables import Import, Mailbox
from tasks.storage.database import Database, DatabaseLostError, database
from tasks.tell_changes import tell_changes
from tests.conftest import StartOutlook, import_file, rows_of, write_csv
from tests.support.machine import wait_for
from tests.support.postgresql import PostgreSql
from tests.support.receiver import receiving
from tests.support.visitor import Visitor, text_of
from tests.test_api import api_with, csv_of, data_of, error_of, send
from tests.test_recheck_active import working_site
from tests.test_status_changes import OK, WRONG, settle
from tests.test_updates import password_of

ANN, BOB = "ann@contoso.com", "bob@contoso.com"


@pytest.fixture
def settings(on_postgresql: Mapping[str, str]) -> Settings:
    address, keys = (on_postgresql[f"{PREFIX}{name}"] for name in ("DATABASE_URL", "ENCRYPTION_KEYS"))
    return Settings(database_url=SecretStr(address), encryption_keys=SecretStr(keys))


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    with database(settings) as opened:
        yield opened


@contextmanager
def read_only(db: Database, server: PostgreSql) -> Iterator[None]:
    """Cut all connections to a database, and refuse to write on new ones."""

    def turn(state: str) -> None:
        name = str(db.engine.url.database)
        with psycopg.connect(server.address("postgres"), autocommit=True) as connection:
            change = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}")
            connection.execute(change.format(sql.Identifier(name), sql.SQL(state)))
            others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"
            connection.execute(others, (name,))

    turn("on")
    try:
        yield
    finally:
        turn("off")


def test_the_page_and_the_api_can_be_read(settings: Settings, postgresql: PostgreSql) -> None:
    """Sign-in, pages and lists work; what writes gets 503 and changes nothing; then it works again."""
    with api_with(settings) as api, Visitor(api.url, api.key()) as person, api.client() as client:
        person.import_file(csv_of([ANN, "old"], [BOB, "p"]))
        number = rows_of(api.db, Mailbox)[0]["id"]
        unused = api.key()
        with read_only(api.db, postgresql):
            with Visitor(api.url, unused) as other:
                for path in ("/imports", "/imports/1", f"/mailboxes/{number}", "/imports/1/handover.zip"):
                    assert other.get(path).status_code == 200, path
            assert len(data_of(client.get("/v1/mailboxes"))["mailboxes"]) == 2
            for answer in (
                person.import_file(csv_of(["new@contoso.com", "p"])),
                person.post(f"/mailboxes/{number}/password", password="new"),
                person.post(f"/mailboxes/{number}/retest"),
                person.post(f"/mailboxes/{number}/delete"),
            ):
                assert (answer.status_code, "Not ready at the moment" in text_of(answer)) == (503, True)
            for answer in (
                send(client, csv_of(["new@contoso.com", "p"])),
                client.patch(f"/v1/mailboxes/{number}", json={"tag": "t"}),
                client.patch(f"/v1/mailboxes/{number}", json={"needs": "smtp"}),
            ):
                assert error_of(answer, 503)
                assert int(answer.headers["Retry-After"]) > 0
            assert len(rows_of(api.db, Import)) == 1
            assert password_of(api.db, ANN) == "old"
        assert data_of(send(client, csv_of(["new@contoso.com", "p"])))["imported"] == 1
        assert "password is replaced" in text_of(person.post(f"/mailboxes/{number}/password", password="new"))


async def test_changes_are_told_once_it_can_be_written(
    settings: Settings,
    db: Database,
    postgresql: PostgreSql,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A run that cannot tell changes because nothing can be stored does not fail; the next one tells them."""
    (target,) = import_file(db, settings, write_csv(tmp_path / "in.csv", [(ANN, "p")])).targets
    for reason in (OK, WRONG):
        settle(db, target.mailbox_id, reason)
    with receiving() as receiver:
        settings = receiver.on(settings)
        with read_only(db, postgresql):
            await tell_changes(db, settings)
        assert receiver.asked == {}
        assert caplog.messages == ["Changes of mailboxes were not told: DatabaseLostError"]
        for _ in range(2):
            await tell_changes(db, settings)
        assert list(receiver.asked.values()) == [1]


async def test_a_recheck_in_the_middle_leaves_the_mailbox_as_it_was(
    settings: Settings, db: Database, postgresql: PostgreSql, start: StartOutlook
) -> None:
    """A recheck whose verdict cannot be stored fails with a sentence, and a later one tells the change."""
    with receiving() as receiver:
        site = await working_site(db, settings, partial(start, delay=0.05), receiver)
        site.outlook.change(ANN, Account("another"))
        known, sent = site.known(), site.logins()
        running = asyncio.create_task(site.recheck())
        await asyncio.to_thread(wait_for, "the login", lambda: site.logins() > sent, 10)
        with read_only(db, postgresql):
            with pytest.raises(ExceptionGroup) as caught:
                await running
            (fault,) = caught.value.exceptions
            assert isinstance(fault, DatabaseLostError)
            assert str(fault).startswith("the database cannot be used: cannot execute ")
            assert site.known() == known
        await site.recheck()
        assert receiver.told == [(ANN, "active", "failed")]
