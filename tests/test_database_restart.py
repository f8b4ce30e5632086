"""PostgreSQL that stops, is killed or loses connections causes only a pause."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psycopg
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.exc import IntegrityError

import tasks.storage.database
from sandbox.outlook import Account
from schemas.sealing import new_key
from schemas.settings import Settings, SettingsError
from schemas.tables import Import, Mailbox, ProbeResult, Workspace, now
from tasks.probe import Probing
from tasks.storage.api_keys import create_key, find_key
from tasks.storage.database import (
    MOST_CONNECTIONS,
    Database,
    DatabaseLostError,
    Outage,
    database,
    through_restarts,
)
from tests.conftest import (
    StartOutlook,
    accounts,
    import_file,
    import_mailboxes,
    mailboxes_file,
    probe_targets,
    rows_of,
    template_on,
    with_servers,
)
from tests.support.machine import wait_for
from tests.support.postgresql import PostgreSql, folder_of_nobody, postgresql_of
from tests.support.visitor import Visitor
from tests.test_api import CONTRACT, SAMPLE, api_with, csv_of, data_of, error_of, send
from tests.test_updates import password_of, update

AWAY_SECONDS = 0.7


@pytest.fixture(scope="module")
def server(postgresql: PostgreSql) -> Iterator[PostgreSql]:
    """A PostgreSQL for these tests only."""
    with postgresql_of(postgresql.binaries) as own:
        yield own


@pytest.fixture(scope="module")
def template(server: PostgreSql) -> Iterator[str]:
    """The name of a database on it with current tables."""
    with template_on(server) as name:
        yield name


@pytest.fixture
def on_server(server: PostgreSql, template: str) -> Iterator[Settings]:
    """Settings with a new database on it."""
    with server.new_database(template) as address:
        yield Settings(database_url=SecretStr(address), encryption_keys=SecretStr(new_key()))
        if not server.answers():  # if a test failed in between
            server.start()


@pytest.fixture
def opened(on_server: Settings) -> Iterator[Database]:
    with database(on_server) as db:
        yield db


def waiting_for_a_lock(db: Database) -> bool:
    query = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    with db.engine.connect() as connection:
        return bool(connection.scalar(query))


# A server that stops.


@pytest.mark.parametrize("how", ["kill", pytest.param("stop", marks=pytest.mark.slow)])
def test_import_goes_on_after_a_restart(
    server: PostgreSql, on_server: Settings, opened: Database, tmp_path: Path, how: str
) -> None:
    """A server that restarts during the store step leaves one import with every row and correct counts."""
    file = mailboxes_file(tmp_path / "in.csv", accounts(50))
    with ThreadPoolExecutor(1) as pool, database(on_server) as other:
        with suppress(sa.exc.DBAPIError), other.engine.begin() as holding:
            holding.execute(sa.text("LOCK TABLE mailbox IN EXCLUSIVE MODE"))
            importing = pool.submit(import_file, opened, on_server, file)
            wait_for("a lock to wait for", lambda: waiting_for_a_lock(opened), 20)
            getattr(server, how)()
            time.sleep(AWAY_SECONDS)
            server.start()
        stored = importing.result(30)
    assert (stored.summary.imported, stored.summary.skipped, len(stored.targets)) == (50, 0, 50)
    (kept,) = rows_of(opened, Import)
    assert (kept["id"], kept["imported"], kept["skipped"]) == (stored.summary.import_id, 50, 0)
    assert {row["id"] for row in rows_of(opened, Mailbox)} == {target[0] for target in stored.targets}


def test_update_goes_on_after_a_restart(
    server: PostgreSql, on_server: Settings, opened: Database, tmp_path: Path
) -> None:
    """A server that restarts while an update waits for a mailbox leaves one update, with the new password."""
    email, _ = next(iter(accounts(1).items()))
    import_file(opened, on_server, mailboxes_file(tmp_path / "in.csv", accounts(1)))
    with ThreadPoolExecutor(1) as pool, database(on_server) as other:
        with suppress(sa.exc.DBAPIError), other.engine.begin() as holding:
            holding.execute(sa.text("SELECT id FROM mailbox FOR UPDATE"))
            updating = pool.submit(update, opened, on_server, tmp_path, (email, "new"))
            wait_for("a lock to wait for", lambda: waiting_for_a_lock(opened), 20)
            server.kill()
            server.start()
        assert updating.result(30).summary.updated == 1
    assert password_of(opened, email) == "new"
    assert [row["updated"] for row in rows_of(opened, Import)] == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_probing_goes_on_after_a_restart(
    server: PostgreSql, on_server: Settings, opened: Database, start: StartOutlook, how: str
) -> None:
    """Every mailbox of a run in progress gets its verdict, after one login per protocol and one attempt."""
    right = accounts(30)
    wrong = accounts(10, "contoso.com", smtp="wrong-credentials")
    outlook = await start(right | wrong, delay=0.02)
    settings = with_servers(on_server, outlook, probe_concurrency=4, probe_group_size=8, guard_after=1000)
    targets = await asyncio.to_thread(import_mailboxes, opened, settings, right | wrong)
    probing = Probing(opened, settings, [target.mailbox_id for target in targets])
    running = asyncio.create_task(probe_targets(probing, targets, 8))
    async with asyncio.timeout(60):
        while outlook.seen.passwords_received < 10:  # noqa: ASYNC110  the stand-in has no events
            await asyncio.sleep(0.01)
        await asyncio.to_thread(getattr(server, how))
        await asyncio.sleep(AWAY_SECONDS)
        server.start()  # on this thread, because the server stops when the thread that started it ends
        await running
    assert (len(probing.report().verdicts), probing.report().untested) == (40, 0)
    found = rows_of(opened, Mailbox)
    assert Counter(row["status"] for row in found) == {"active": 30, "failed": 10}
    assert {(row["attempts"], row["claimed_until"]) for row in found} == {(1, None)}
    assert len(rows_of(opened, ProbeResult)) == 30 * 2 + 10
    for protocol in ("smtp", "imap"):
        assert {outlook.seen.logins[protocol, address] for address in right} == {1}
    assert {outlook.seen.logins["smtp", address] for address in wrong} == {1}
    assert {outlook.seen.logins["imap", address] for address in wrong} == {0}


@pytest.mark.slow
def test_requests_go_on_after_a_restart(server: PostgreSql, on_server: Settings) -> None:
    """An HTTP request that arrives while the server is down is answered once it is back."""
    with api_with(on_server) as api, api.client() as client, ThreadPoolExecutor(2) as pool:
        assert data_of(client.get("/v1/mailboxes"))["mailboxes"] == []
        server.kill()
        reading = pool.submit(client.get, "/v1/mailboxes")
        importing = pool.submit(send, client, SAMPLE.read_bytes())
        time.sleep(AWAY_SECONDS)
        assert not any(request.done() for request in (reading, importing))
        server.start()
        assert data_of(reading.result(30))["next_cursor"] is None
        assert importing.result(30).json() == CONTRACT


@pytest.mark.slow
def test_the_page_goes_on_after_a_restart(server: PostgreSql, on_server: Settings) -> None:
    """A person at the page, and the polls of an import's tests, wait until the server is back."""
    with (
        api_with(on_server) as api,
        Visitor(api.url, api.key()) as person,
        Visitor(api.url, api.key()) as other,
        ThreadPoolExecutor(2) as pool,
    ):
        file = csv_of(["ann@b.co", "p"])
        assert person.import_file(file).url.path == "/imports/1"
        server.kill()
        polling = pool.submit(person.get, "/imports/1/live", **{"HX-Request": "true"})
        opening = pool.submit(other.get, "/mailboxes/1")
        time.sleep(AWAY_SECONDS)
        assert not any(request.done() for request in (polling, opening))
        server.start()
        assert polling.result(30).is_success
        assert "ann@b.co" in opening.result(30).text


def test_requests_are_refused_when_it_takes_long(
    server: PostgreSql, on_server: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the maximum wait a request gets 503 with a Retry-After, and later requests get it at once."""
    with api_with(on_server) as api, api.client() as client:
        assert data_of(client.get("/readyz")) == {"status": "ready"}
        monkeypatch.setattr(tasks.storage.database, "PATIENCE", 1.0)
        server.kill()
        answer = send(client, SAMPLE.read_bytes())
        assert "does not respond" in error_of(answer, 503)
        assert int(answer.headers["Retry-After"]) > 0
        asked = time.monotonic()
        for path in ("/v1/mailboxes", "/v1/mailboxes/1", "/v1/imports/1", "/readyz"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert time.monotonic() - asked < 1
        assert client.get("/healthz").status_code == 200
        server.start()
        assert data_of(client.get("/readyz")) == {"status": "ready"}
        assert send(client, SAMPLE.read_bytes()).json() == CONTRACT


# A lost connection.


class Cutter:
    """A proxy between the project and PostgreSQL that drops the reply to every other COMMIT."""

    def __init__(self, folder: Path, upstream: str) -> None:
        self.commits = 0
        self.lost = 0
        self._upstream = upstream
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen(50)

    def serve(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _carry(self, client: socket.socket) -> None:
        cut = threading.Event()
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(self._upstream)
            back = threading.Thread(target=self._carry_back, args=(server, client, cut))
            back.start()
            while data := client.recv(65536):
                if b"COMMIT\0" in data:
                    with self._lock:
                        self.commits += 1
                        if self.commits % 2:
                            cut.set()
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)
            back.join()

    def _carry_back(self, server: socket.socket, client: socket.socket, cut: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if cut.is_set():  # this was the reply, and the transaction is stored
                    self.lost += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)


@contextmanager
def cutting(address: str) -> Iterator[tuple[str, Cutter]]:
    """Yield an address for the same database that loses the reply to every other COMMIT."""
    real = address.partition("host=")[2]
    with folder_of_nobody("pg-cut-") as folder:
        cutter = Cutter(folder, f"{real}/.s.PGSQL.5432")
        thread = threading.Thread(target=cutter.serve)
        thread.start()
        try:
            yield address.replace(real, str(folder)), cutter
        finally:
            cutter.close()
            thread.join()


def test_an_outage_may_end_while_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that asks how long the outage lasts gets a number even if another thread ends it meanwhile."""
    outage = Outage()
    monkeypatch.setattr(tasks.storage.database.LOGGER, "warning", outage.end)
    assert outage.seconds() < 1


async def test_nothing_is_done_twice_when_answers_are_lost(
    on_server: Settings, opened: Database, start: StartOutlook, tmp_path: Path
) -> None:
    """When a COMMIT succeeds but its reply is lost, counts are correct and no attempt is counted twice."""
    mailboxes = accounts(20) | {"wrong@outlook.com": Account("pw", smtp="wrong-credentials")}
    outlook = await start(mailboxes)
    file = mailboxes_file(tmp_path / "in.csv", mailboxes)
    with cutting(on_server.database_url.get_secret_value()) as (address, cutter):
        keys = on_server.encryption_keys
        settings = with_servers(
            Settings(database_url=SecretStr(address), encryption_keys=keys), outlook, probe_group_size=7
        )
        with database(settings) as db:
            stored = await asyncio.to_thread(import_file, db, settings, file)
            assert (stored.summary.imported, stored.summary.skipped) == (21, 0)
            assert cutter.lost == 1
            probing = Probing(db, settings, [target.mailbox_id for target in stored.targets])
            await probe_targets(probing, stored.targets, 7)
    assert cutter.lost >= 5
    assert len(probing.report().verdicts) == 21
    (kept,) = rows_of(opened, Import)
    assert (kept["imported"], kept["skipped"], kept["failed"]) == (21, 0, 0)
    found = rows_of(opened, Mailbox)
    assert Counter(row["status"] for row in found) == {"active": 20, "failed": 1}
    assert {(row["attempts"], row["claimed_until"]) for row in found} == {(1, None)}
    assert outlook.seen.passwords_received == 41


def test_import_over_http_is_answered_truly_when_answers_are_lost(
    on_server: Settings, opened: Database
) -> None:
    """An import over HTTP counts what it stored itself as imported, and a repeated request says the same."""
    with cutting(on_server.database_url.get_secret_value()) as (address, cutter):
        settings = Settings(database_url=SecretStr(address), encryption_keys=on_server.encryption_keys)
        with api_with(settings) as api:
            key = {"X-Api-Key": create_key(opened, "default", "test")}  # over the address without the proxy
            with httpx.Client(base_url=api.url, headers=key, timeout=60) as client:
                first = send(client, SAMPLE.read_bytes(), **{"Idempotency-Key": "once"})
                again = send(client, SAMPLE.read_bytes(), **{"Idempotency-Key": "once"})
    assert cutter.lost >= 2
    assert first.json() == again.json() == CONTRACT
    assert len(rows_of(opened, Import)) == 1


# Connections, and errors that are not outages.


def test_a_process_holds_no_more_connections_than_it_says(opened: Database) -> None:
    """Forty threads at once share ten connections, and all of them get one."""
    most = 0

    @through_restarts
    def look(db: Database) -> None:
        nonlocal most
        with db.engine.connect() as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            most = max(most, int(connection.scalar(sa.text(query)) or 0))
            connection.execute(sa.text("SELECT pg_sleep(0.05)"))

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(look, [opened] * 40))
    assert most == MOST_CONNECTIONS


def test_too_many_clients_are_waited_out(server: PostgreSql, opened: Database) -> None:
    """If the server has no free connection, an operation waits until there is one."""
    opened.engine.dispose()
    with ExitStack() as others:
        with suppress(psycopg.OperationalError):
            while True:
                others.enter_context(psycopg.connect(server.address("postgres")))
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(find_key, opened, "sk_nobody's")
            time.sleep(AWAY_SECONDS)
            assert not asking.done()
            others.close()
            assert asking.result(30) is None


def test_an_operation_that_ends_its_own_connection_is_given_up(
    opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operation that breaks its connection on every retry fails with the server's own error."""
    monkeypatch.setattr(tasks.storage.database, "PATIENCE", 0.5)
    times = 0

    @through_restarts
    def end_oneself(db: Database) -> None:
        nonlocal times
        times += 1
        with db.engine.begin() as connection:
            connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(DatabaseLostError, match="terminating connection due to administrator command"):
        end_oneself(opened)
    assert times == 3


def test_other_faults_are_not_repeated(opened: Database) -> None:
    """A statement that the server rejects fails the first time; only a lost connection is retried."""
    times = 0

    @through_restarts
    def insert_twice(db: Database) -> None:
        nonlocal times
        times += 1
        with db.engine.begin() as connection:
            for _ in range(2):
                connection.execute(sa.insert(Workspace).values(name="one", created_at=now()))

    with pytest.raises(IntegrityError):
        insert_twice(opened)
    assert times == 1


def test_a_database_that_is_away_at_the_start_is_refused_at_once(
    server: PostgreSql, on_server: Settings
) -> None:
    """A program that starts without its database stops at once with a message."""
    server.stop()
    begun = time.monotonic()
    with pytest.raises(SettingsError, match="cannot be opened"), database(on_server):
        pass
    assert time.monotonic() - begun < 5
    server.start()
