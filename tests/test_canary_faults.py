"""Disks, databases and libraries fail while known secrets go in by every way: nothing leaks or is lost.

Each fault meets an upload to the HTTP API, a flow run as a deployment starts it, a scan of the inbox and a
command, with every library's log at DEBUG. Then the fault ends, and the same imports add what is missing.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import logging
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, NoReturn

import httpx
import pytest
from sqlalchemy import func, select

import schemas.sealing
import tasks.probe
import tasks.storage.claims
import tasks.storage.database
import tasks.store
from sandbox.outlook import Account, running
from schemas.responses import INTERNAL_ERROR, KEY_USED, NOT_READY
from schemas.settings import Settings
from schemas.standing import MailboxStatus
from schemas.tables import Import, ImportRow, Mailbox, Table, Workspace, now
from tasks.files.prefect_profile import VARIABLE, read_profile, write_profile
from tasks.probe import Probing
from tasks.storage.api_keys import create_key
from tasks.storage.claims import find_due
from tasks.storage.database import Database, DatabaseLostError, database, url_of
from tests.conftest import (
    StartOutlook,
    import_file,
    import_mailboxes,
    prefect_running,
    probe_targets,
    rows_of,
    with_servers,
    write_csv,
)
from tests.support.canary import Canaries, breaking, everything_logged, processes_watched, quoting
from tests.support.machine import free_port, wait_for, webhook_listening
from tests.support.shell import LIMIT_SECONDS, Shell, at, environment, on_sqlite
from tests.test_api import IMPORT, answers_at_once, api_with, csv_of, data_of, error_of, send

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small or read-only folder")
COLUMNS = ("email", "password", "totp secret")
TABLES: tuple[type[Table], ...] = (Workspace, Import, Mailbox, ImportRow)
BUSY_SECONDS = 0.5
POLARS = "polars:read_csv"
PANDERA = "pandera.api.polars.container:DataFrameSchema.validate"
CRYPTOGRAPHY = "schemas.sealing:AESGCM"


# --- Faults of the disk and the database -----------------------------


@contextmanager
def small_folder(folder: Path) -> Iterator[None]:
    """Mount a file system of 4 MB at a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Fill the file system of a folder, but leave what others have there."""
    filler = folder / ".filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only for what is opened from now on."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold SQLite's only write lock."""
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()


@contextmanager
def removed(file: Path) -> Iterator[None]:
    """Move a database and its journal away, and back at the end."""
    away = file.parent.with_name("away")
    away.mkdir()
    moved = [path for path in file.parent.glob(f"{file.name}*") if path.suffix != ".key"]
    for path in moved:
        path.rename(away / path.name)
    try:
        yield
    finally:
        assert list(file.parent.glob(f"{file.name}*")) == []  # nothing was made in its place
        for path in moved:
            (away / path.name).rename(path)


@contextmanager
def corrupt(file: Path) -> Iterator[None]:
    """Flip all bytes of a database but its first page; repair it in place at the end."""
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    whole = file.read_bytes()
    with file.open("r+b") as damaged:
        damaged.seek(4096)
        damaged.write(bytes(byte ^ 0xFF for byte in whole[4096:]))
    try:
        yield
    finally:
        with file.open("r+b") as repaired:
            repaired.write(whole)


def failure_of(work: Callable[[], object]) -> str:
    """The text of the exception. The exception itself is let go, because it holds a connection."""
    try:
        work()
    except DatabaseLostError as error:
        return str(error)
    finally:
        gc.collect()
    pytest.fail("no exception")


def counts(db: Database) -> dict[str, int]:
    with db.engine.connect() as connection:
        return {
            model.__name__: connection.scalar(select(func.count()).select_from(model)) or 0
            for model in TABLES
        }


class OpenFault(NamedTuple):
    """A fault of the file of an open database, and what the driver says of it."""

    begin: Callable[[Path], AbstractContextManager[None]]
    words: str
    afresh: bool = False  # only new connections meet it


OPEN_FAULTS = {
    "full": OpenFault(lambda file: full(file.parent), "database or disk is full"),
    "locked": OpenFault(locked, "database is locked"),
    "removed": OpenFault(removed, "unable to open database file"),
    "read-only": OpenFault(lambda file: read_only(file.parent), "unable to open database file", afresh=True),
    "corrupt": OpenFault(corrupt, "database disk image is malformed"),
}


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=needs_root if name in ("full", "read-only") else ()) for name in OPEN_FAULTS],
)
def test_import_into_a_broken_database_stores_nothing_and_succeeds_once_it_is_repaired(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full, locked, removed, read-only or damaged database is named in a sentence; its repair is enough."""
    monkeypatch.setattr(tasks.storage.database, "BUSY_SECONDS", 0.1)
    fault, folder = OPEN_FAULTS[name], tmp_path / "data"
    folder.mkdir(mode=0o700)
    settings = Settings.model_validate({"database_url": f"sqlite:///{folder / 'mailboxes.db'}"})
    file = write_csv(tmp_path / "in.csv", [["a@b.co", "p"], ["bad", "p"]])
    with small_folder(folder) if name == "full" else nullcontext(), database(settings) as db:
        import_file(db, settings, write_csv(tmp_path / "before.csv", [["before@b.co", "p"]]))
        before = counts(db)
        if fault.afresh:
            db.engine.dispose()
        with fault.begin(folder / "mailboxes.db"):
            said = failure_of(lambda: import_file(db, settings, file))
        assert said == f"the database cannot be used: {fault.words}"
        assert counts(db) == before
        assert import_file(db, settings, file).summary.imported == 1
        assert import_file(db, settings, file).summary.skipped == 1
        assert counts(db)["Mailbox"] == 2


@pytest.mark.sqlite
def test_replaced_database_gets_the_import(settings: Settings, tmp_path: Path) -> None:
    """When a backup replaces the file of an open database, the next import goes into the backup."""
    path = Path(url_of(settings).database or "")
    with database(settings) as db:
        import_file(db, settings, write_csv(tmp_path / "old.csv", [["old@b.co", "p"]]))
        backup = path.with_name("backup.db")
        with sqlite3.connect(backup) as copy, sqlite3.connect(path) as original:
            original.backup(copy)
        copy.close()
        original.close()
        backup.chmod(0o600)
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        backup.replace(path)
        import_file(db, settings, write_csv(tmp_path / "new.csv", [["new@b.co", "p"]]))
    with database(settings) as db:
        assert [row["email"] for row in rows_of(db, Mailbox)] == ["old@b.co", "new@b.co"]


# --- Faults of a library, and logs -----------------------------------


class QuotingCipher:
    """AESGCM with a fault at its worst: it quotes its key and all that it is given."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encrypt(self, *arguments: object) -> NoReturn:
        quoting(self._key, *arguments)


def add_key(canaries: Canaries, text: str) -> None:
    """Look for an encryption key: as it is stored, and for its bytes as Python and JSON write them."""
    raw = base64.b64decode(text)
    shown = repr(raw)[2:-1]
    canaries.add("encryption key", text)
    canaries.add("bytes of the encryption key", raw.hex())
    canaries.add("encryption key in Python", shown)
    canaries.add("encryption key in JSON", shown.replace("\\", "\\\\"))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """A file that gets what every library logs."""
    with everything_logged(tmp_path / "everything.log"):
        yield tmp_path / "everything.log"


@pytest.mark.sqlite
def test_key_that_a_library_quotes_stays_out_of_the_error(settings: Settings) -> None:
    """If the cipher cannot be made, the error quotes no key."""
    canaries = Canaries()
    with database(settings):
        add_key(canaries, Path(url_of(settings).database or "").with_suffix(".key").read_text().strip())
    with (
        breaking(CRYPTOGRAPHY),
        pytest.raises(Exception, match=r"^ValueError at canary.py:\d+ quoting") as caught,
        database(settings),
    ):
        pass
    assert canaries.in_bytes(str(caught.value).encode()) == []


def test_prefect_login_stays_out_of_the_log_of_websockets(log: Path) -> None:
    """websockets logs the headers of its requests at DEBUG; as soon as a way in is imported, it does not."""
    import flows  # noqa: F401

    logger = logging.getLogger("websockets.client")
    logger.debug("> %s: %s", "Authorization", "Basic c2VjcmV0")
    logger.info("connection open")
    told = log.read_text()
    assert "connection open" in told
    assert "Authorization" not in told


def test_upload_with_a_broken_library_is_an_internal_error_without_a_quote(
    settings: Settings, log: Path, tmp_path: Path
) -> None:
    """If Polars or Pandera quotes what it is given, answer and log do not, with all logs on."""
    canaries = Canaries()
    file = secret_file(tmp_path, canaries).read_bytes()
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    with api_with(settings) as api, api.client() as client:
        canaries.add("API key", client.headers["X-Api-Key"][12:])
        answers = [client.post(IMPORT, content=file, headers=form)]
        assert error_of(answers[0], 400)
        for place in (POLARS, PANDERA):
            with breaking(place):
                answers.append(send(client, file))
            assert error_of(answers[-1], 500) == INTERNAL_ERROR
            assert rows_of(api.db, Import) == []
        answers.append(send(client, file))
        assert data_of(answers[-1])["imported"] == 1
    assert leaks_of_upload(canaries, settings, log, answers) == []


def test_upload_with_a_broken_cipher_is_an_internal_error_without_a_quote(
    settings: Settings, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the cipher quotes its key and a password, answer and log do not, and nothing is stored."""
    canaries = Canaries()
    file = secret_file(tmp_path, canaries).read_bytes()
    monkeypatch.setattr(schemas.sealing, "AESGCM", QuotingCipher)
    with api_with(settings) as api, api.client() as client:
        canaries.add("API key", client.headers["X-Api-Key"][12:])
        answers = [send(client, file), send(client, file, **{"Idempotency-Key": "k"})]
        assert [error_of(answer, 500) for answer in answers] == [INTERNAL_ERROR] * 2
        assert rows_of(api.db, Import) == []
    assert leaks_of_upload(canaries, settings, log, answers) == []


def secret_file(folder: Path, canaries: Canaries) -> Path:
    """A file of one good row and one that fails."""
    good = ["a@b.co", canaries.password("good"), canaries.totp_secret("TOTP")]
    return write_csv(folder / "in.csv", [good, ["bad", canaries.password("bad"), ""]], COLUMNS)


def leaks_of_upload(
    canaries: Canaries, settings: Settings, log: Path, answers: Sequence[httpx.Response]
) -> list[str]:
    """The secrets in the log and the answers. The log must have what it is there for."""
    if (key := Path(url_of(settings).database or "").with_suffix(".key")).exists():
        add_key(canaries, key.read_text().strip())
    text = log.read_bytes()
    assert b"sqlalchemy.engine" in text
    assert b"httpcore" in text
    return canaries.in_bytes(text + b"".join(answer.content for answer in answers))


# --- Requests that race, drip, or meet a jump of the clock -----------


def test_one_idempotency_key_with_two_files_at_once_is_one_import(either_settings: Settings) -> None:
    """Of 20 requests at once with one key and two files, one file is imported; the other gets 409."""
    files = [csv_of(*([f"{name}{n}@b.co", "p"] for n in range(50))) for name in "ab"]
    barrier = threading.Barrier(20)
    with api_with(either_settings, api_imports_at_once=100) as api:
        key = api.key()

        def request(number: int) -> tuple[int, int, str]:
            which = number % 2
            with httpx.Client(base_url=api.url, headers={"X-Api-Key": key}, timeout=60) as client:
                barrier.wait(30)
                answer = send(client, files[which], **{"Idempotency-Key": "once"})
            if answer.status_code == 409:
                assert error_of(answer, 409) == KEY_USED
            return which, answer.status_code, answer.text

        with ThreadPoolExecutor(20) as pool:
            answers = Counter(pool.map(request, range(20)))
        (winner,) = {which for which, status, _ in answers if status == 200}
        assert sorted((which == winner, status, times) for (which, status, _), times in answers.items()) == [
            (False, 409, 10),
            (True, 200, 10),
        ]
        assert len(rows_of(api.db, Import)) == 1
        assert {row["email"][0] for row in rows_of(api.db, Mailbox)} == {"ab"[winner]}
        assert len(rows_of(api.db, Mailbox)) == 50


@pytest.mark.slow
def test_one_file_with_one_key_twenty_times_at_once_is_one_import(either_settings: Settings) -> None:
    """Twenty equal requests at once give one import and twenty equal answers."""
    file = csv_of(*([f"u{n}@b.co", "p"] for n in range(50)), ["bad", "p"])
    with api_with(either_settings, api_imports_at_once=100) as api:
        ((status, _, _),) = answers_at_once(api, file, 20)
        assert status == 200
        assert counts(api.db) | {"Workspace": 0} == {
            "Workspace": 0,
            "Import": 1,
            "Mailbox": 50,
            "ImportRow": 51,
        }


@pytest.mark.slow
def test_dripping_upload_ends_with_408_and_stores_nothing(settings: Settings) -> None:
    """An upload that arrives byte by byte ends with 408, and no other import waits for it."""
    with api_with(settings, api_imports_at_once=1) as api, api.client() as client:
        file = csv_of(["a@b.co", "p" * 200])
        form = httpx.Request("POST", f"{api.url}{IMPORT}", files={"file": ("a.csv", file)})
        sent = ("Host", "Content-Type", "Content-Length")
        lines = [f"POST {IMPORT} HTTP/1.1", f"X-Api-Key: {client.headers['X-Api-Key']}"]
        head = "\r\n".join([*lines, *(f"{name}: {form.headers[name]}" for name in sent), "", ""])
        started, answer = time.monotonic(), b""
        with socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])), timeout=0.1) as drip:
            drip.sendall(head.encode())
            for byte in form.read():
                drip.sendall(bytes([byte]))
                with suppress(TimeoutError):
                    answer = drip.recv(1000)
                    break
                if time.monotonic() - started > 5 and not rows_of(api.db, Import):
                    data_of(send(client, csv_of(["other@b.co", "p"])))
        assert answer.startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 20
        assert [row["email"] for row in rows_of(api.db, Mailbox)] == ["other@b.co"]


class Clock:
    """The program's clock, which a test can set back and forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jump = timedelta()
        for module in (tasks.probe, tasks.storage.claims, tasks.store):
            monkeypatch.setattr(module, "now", lambda: now() + self.jump)


async def retest_due(db: Database, settings: Settings) -> None:
    """Test what is due, as a retest does."""
    due = find_due.fn(db, 100, None, held=False)
    await probe_targets(Probing(db, settings, [target.mailbox_id for target in due]), due)


@pytest.mark.parametrize("days", [1, -1])
async def test_clock_that_jumps_delays_tests_but_doubles_and_loses_none(
    days: int, db: Database, either_settings: Settings, start: StartOutlook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the clock jumps a day before the claims, each mailbox still gets one login, if a day later."""
    clock = Clock(monkeypatch)
    mailboxes = {f"user{n}@contoso.com": Account(f"p{n}") for n in range(6)}
    outlook = await start(mailboxes, delay=0.02)
    settings = with_servers(either_settings, outlook, probe_timeout=2)
    targets = import_mailboxes(db, settings, mailboxes)
    first = Probing(db, settings, [target.mailbox_id for target in targets])
    clock.jump = timedelta(days=days)

    await asyncio.gather(probe_targets(first, targets), retest_due(db, settings))
    for jump in (timedelta(), timedelta(days=2)):  # two days later every claim and pause has ended
        clock.jump = jump
        await retest_due(db, settings)
    assert {row["status"] for row in rows_of(db, Mailbox)} == {MailboxStatus.ACTIVE}
    assert {row["claimed_until"] for row in rows_of(db, Mailbox)} == {None}
    assert set(outlook.seen.mailbox_logins_at_once.values()) == {1}
    assert set(outlook.seen.logins.values()) == {1}


@pytest.mark.parametrize("days", [1, -1])
async def test_clock_that_jumps_during_logins_costs_at_most_one_login_more(
    days: int, db: Database, either_settings: Settings, start: StartOutlook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock set forward ends the claims of running logins: a retest may repeat those, and only those."""
    clock = Clock(monkeypatch)
    mailboxes = {f"user{n}@contoso.com": Account(f"p{n}") for n in range(6)}
    outlook = await start(mailboxes, delay=0.03)
    settings = with_servers(either_settings, outlook, probe_timeout=2, probe_concurrency=2)
    targets = import_mailboxes(db, settings, mailboxes)
    probing = Probing(db, settings, [target.mailbox_id for target in targets])
    first = asyncio.create_task(probe_targets(probing, targets))
    await asyncio.to_thread(wait_for, "a login", lambda: outlook.seen.logins, 10)
    clock.jump = timedelta(days=days)
    await retest_due(db, settings)
    await first
    for jump in (timedelta(), timedelta(days=2)):
        clock.jump = jump
        await retest_due(db, settings)
    assert {row["status"] for row in rows_of(db, Mailbox)} == {MailboxStatus.ACTIVE}
    assert {row["claimed_until"] for row in rows_of(db, Mailbox)} == {None}
    repeated = {email for (_, email), times in outlook.seen.logins.items() if times > 1}
    assert max(outlook.seen.logins.values()) <= (2 if days > 0 else 1)
    assert len(repeated) <= 2 * settings.probe_concurrency


# --- Everything, in processes of its own -----------------------------

WAYS = ("upload", "flow", "scan", "command")
START = "import sys; from pathlib import Path; from tests.support.canary import {0} as run; "
COMMAND = START.format("run_command") + "sys.exit(run(Path(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:]))"
FLOWS = START.format("run_on_request") + "run(Path(sys.argv[1]), float(sys.argv[2]))"


@dataclass
class Site:
    """A folder for everything, with a file for each way in, and the secrets that go through them."""

    folder: Path
    prefect: Path
    shell: Shell
    canaries: Canaries
    accounts: dict[str, Account]
    said: list[str] = field(default_factory=list)
    api_key: str = ""

    def __post_init__(self) -> None:
        for name in ("data", "watched", "reports", "home"):
            (self.folder / name).mkdir(mode=0o700)
        for way in WAYS:
            password, totp = self.canaries.password(way), self.canaries.totp_secret(f"{way}, TOTP")
            self.accounts[f"{way}@contoso.com"] = Account(password)
            rows = [
                [f"{way}@contoso.com", password, totp],
                ["bad", self.canaries.password(f"{way}, bad"), ""],
                [f"{way}-2@contoso.com", self.canaries.password(f"{way}, bad TOTP"), f"{totp}18"],
            ]
            write_csv(self.folder / f"{way}.csv", rows, COLUMNS)

    @property
    def database(self) -> Path:
        return self.folder / "data" / "mailboxes.db"

    def start(self, program: str, log: str, *words: str | Path) -> subprocess.Popen[str]:
        arguments = [str(self.folder / f"{log}.log"), str(BUSY_SECONDS), *map(str, words)]
        with (self.folder / f"{log}.stderr.log").open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-c", program, *arguments],
                env=self.shell.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def drop(self) -> None:
        """Put the scan's file into the inbox."""
        (self.folder / "watched" / "inbox").mkdir(mode=0o700, exist_ok=True)
        shutil.copy(self.folder / "scan.csv", self.folder / "watched" / "inbox" / "scan.csv")

    def open(self) -> None:
        """Make the database, its key and an API key, and look for both keys."""
        with database(self.shell.settings) as db:
            self.api_key = create_key(db, "default", "test")
        self.canaries.add("API key", self.api_key[12:])
        add_key(self.canaries, self.database.with_suffix(".key").read_text().strip())

    def stored(self) -> dict[str, int]:
        with database(self.shell.settings) as db:
            return counts(db)

    def leaks(self) -> list[str]:
        inputs = [self.folder / f"{way}.csv" for way in WAYS]
        kept = [self.folder / "watched" / name for name in ("inbox", "processing", "failed", "rejected")]
        found = self.canaries.in_files(self.folder, [*inputs, *kept, self.database.with_suffix(".key")])
        found += self.canaries.in_files(self.prefect, [self.prefect / "prefect.toml"])
        return found + self.canaries.in_bytes("\n".join(self.said).encode())


class Programs:
    """The running programs of a site: the HTTP API, and a process for flows."""

    def __init__(self, site: Site, stack: ExitStack) -> None:
        self._site = site
        port = free_port()
        self._flows = site.start(FLOWS, "flows")
        stack.callback(lambda: self._end(self._flows))
        api = site.start(COMMAND, "api", "serve", "--port", str(port))
        # Its statements go to standard output, and nothing else reads that while it serves.
        reader = threading.Thread(target=lambda: site.said.extend(api.stdout or ()))
        reader.start()
        stack.callback(lambda: self._end(api))
        stack.callback(reader.join)
        stack.callback(api.terminate)
        self.client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60))
        wait_for("the API", self._ready, 60)

    def _ready(self) -> bool:
        try:
            return self.client.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def _end(self, process: subprocess.Popen[str]) -> None:
        said, _ = process.communicate(timeout=60)
        self._site.said.append(said)

    def restart_flows(self) -> None:
        """Go on in a new process, as the worker does for each run."""
        self._end(self._flows)
        self._flows = self._site.start(FLOWS, "flows")

    def upload(self) -> tuple[int, str]:
        data = (self._site.folder / "upload.csv").read_bytes()
        answer = self.client.post(
            IMPORT, files={"file": ("upload.csv", data)}, headers={"X-Api-Key": self._site.api_key}
        )
        self._site.said.append(answer.text)
        return answer.status_code, answer.text

    def flows(self, *words: str | Path) -> tuple[str, str]:
        """Ask the process for flows; the type and the message of the state."""
        assert self._flows.stdin is not None
        assert self._flows.stdout is not None
        self._flows.stdin.write(json.dumps([str(word) for word in words]) + "\n")
        self._flows.stdin.flush()
        while not (line := self._flows.stdout.readline()).startswith('["'):
            assert line, "the process for flows has ended"
            self._site.said.append(line)
        kind, message = json.loads(line)
        self._site.said.append(message)
        return kind, message

    def flow(self) -> tuple[str, str]:
        return self.flows(
            "import", self._site.folder / "flow.csv", self._site.folder / "reports" / "flow.csv"
        )

    def scan(self) -> tuple[str, str]:
        return self.flows("scan")

    def command(self) -> tuple[int, str]:
        report = self._site.folder / "reports" / "command.csv"
        command = self._site.start(
            COMMAND, "command", "import", self._site.folder / "command.csv", "--report", report, "--json"
        )
        with command:
            output, _ = command.communicate(timeout=LIMIT_SECONDS)
        said = (self._site.folder / "command.stderr.log").read_text()
        self._site.said.append(output)
        return command.returncode, said


@pytest.fixture(scope="module")
def closed_prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a Prefect server with a login, which is in the profile file there."""
    folder = tmp_path_factory.mktemp("prefect")
    profile = folder / "prefect.toml"
    write_profile(profile, "http://127.0.0.1:4200")
    with prefect_running(folder, **{VARIABLE: str(profile)}) as url:
        write_profile(profile, url.removesuffix("/api"))
        yield folder


@pytest.fixture
def site(tmp_path: Path, closed_prefect: Path) -> Iterator[Site]:
    """A site with mail servers, a webhook and a closed Prefect server; its processes are watched."""
    canaries = Canaries()
    profile, home = closed_prefect / "prefect.toml", tmp_path / "home"
    site = Site(tmp_path, closed_prefect, Shell(tmp_path, {}), canaries, {})
    login = read_profile(profile)["PREFECT_API_AUTH_STRING"].partition(":")[2]
    canaries.add("Prefect login", login)
    with (
        running(site.accounts, folder=tmp_path) as outlook,
        webhook_listening() as webhook,
        processes_watched(str(tmp_path)) as processes,
    ):
        site.shell.environment = environment(
            **on_sqlite(tmp_path / "data"),
            **at(outlook),
            **{VARIABLE: str(profile)},
            HOME=str(home),
            TMPDIR=str(home),
            PREFECT_HOME=str(home / ".prefect"),
            PREFECT_LOGGING_LEVEL="DEBUG",
            PREFECT_LOGGING_ROOT_LEVEL="DEBUG",
            PREFECT_RESULTS_PERSIST_BY_DEFAULT="true",
            OUTLOOK_IMPORT_WATCH_FOLDER=str(tmp_path / "watched"),
            OUTLOOK_IMPORT_SETTLE_SECONDS="0.1",
            OUTLOOK_IMPORT_PROBE_TIMEOUT="2",
            OUTLOOK_IMPORT_NOTIFY_WEBHOOK=webhook.address,
        )
        yield site
    assert len(processes) > 2
    assert canaries.in_bytes(b"\n".join(processes)) == []
    canaries.add("webhook", webhook.secret)  # the environment names it, nothing else may
    assert site.leaks() == []


class Fault(NamedTuple):
    """A fault, and how each way in ends with it.

    Attributes:
        small: The folder that has to be a small file system.
        upload: The status of the answer.
        flow: A part of the message of the failed run; "" if it succeeds.
        scan: Whether the scan imports its file.
        command: The exit code.
    """

    begin: Callable[[Site], AbstractContextManager[None]]
    upload: int
    flow: str
    scan: bool
    command: int
    small: str = ""


UNUSABLE = "DatabaseLostError: the database cannot be used: "
FAULTS = {
    "no room for the database": Fault(
        lambda site: full(site.database.parent), 503, f"{UNUSABLE}database or disk is full", False, 3, "data"
    ),
    "no room in the watched folder": Fault(
        lambda site: full(site.folder / "watched"), 200, "", False, 0, "watched"
    ),
    "no room for reports": Fault(
        lambda site: full(site.folder / "reports"), 200, "No space left on device", True, 3, "reports"
    ),
    "locked": Fault(lambda site: locked(site.database), 503, f"{UNUSABLE}database is locked", False, 3),
    # Open connections go on writing.
    "read-only": Fault(
        lambda site: read_only(site.database.parent),
        200,
        f"{UNUSABLE}attempt to write a readonly database",
        False,
        3,
    ),
    "corrupt": Fault(
        lambda site: corrupt(site.database),
        503,
        "the database cannot be opened: database disk image is malformed",
        False,
        2,
    ),
}


@pytest.mark.slow
@pytest.mark.sqlite
@needs_root
@pytest.mark.parametrize("name", FAULTS)
def test_fault_leaks_and_loses_nothing_by_any_way_in(name: str, site: Site) -> None:
    """With a fault, each way in ends as documented; without it, the same imports add what is missing."""
    fault = FAULTS[name]
    with ExitStack() as stack:
        if fault.small:
            stack.enter_context(small_folder(site.folder / fault.small))
        site.open()
        programs = Programs(site, stack)
        assert programs.scan() == ("COMPLETED", "no file")
        site.drop()
        with fault.begin(site):
            status, answer = programs.upload()
            assert status == fault.upload
            assert status == 200 or json.loads(answer)["error"]["message"] == NOT_READY
            kind, message = programs.flow()
            assert kind == ("FAILED" if fault.flow else "COMPLETED")
            assert fault.flow in message
            assert "SQL" not in message
            kind, message = programs.scan()
            assert kind == ("COMPLETED" if fault.scan else "FAILED")
            assert message.startswith("1 imported" if fault.scan else "1 unfinished")
            code, said = programs.command()
            assert code == fault.command, said
        programs.restart_flows()
        stored = site.stored()
        assert stored["ImportRow"] == 3 * stored["Import"]
        assert programs.upload()[0] == 200
        assert programs.flow()[0] == "COMPLETED"
        assert programs.scan() == ("COMPLETED", "no file" if fault.scan else "1 imported")
        assert programs.command()[0] == 0
        with database(site.shell.settings) as db:
            assert Counter(row["email"] for row in rows_of(db, Mailbox)) == Counter([*site.accounts])
            assert sum(row["imported"] for row in rows_of(db, Import)) == len(WAYS)
            assert Counter(row["file_name"] for row in rows_of(db, Import) if row["imported"]) == Counter(
                f"{way}.csv" for way in WAYS
            )


@pytest.mark.slow
@pytest.mark.sqlite
def test_removed_database_gets_no_upload_and_no_empty_file_in_its_place(site: Site) -> None:
    """While the file is away, the HTTP API answers 503 and makes no other file; then the upload is stored."""
    site.open()
    with ExitStack() as stack:
        programs = Programs(site, stack)
        assert programs.upload()[0] == 200
        with removed(site.database):
            assert [programs.upload()[0], programs.client.get("/readyz").status_code] == [503, 503]
        assert json.loads(programs.upload()[1])["data"]["skipped"] == 1
    assert site.stored()["Import"] == 2


@pytest.mark.slow
@pytest.mark.sqlite
def test_broken_library_leaks_nothing_from_flow_and_scan(site: Site) -> None:
    """If Polars, Pandera or cryptography quotes what it is given, state, log and artifact do not."""
    site.open()
    site.drop()
    with ExitStack() as stack:
        programs = Programs(site, stack)
        for place in (POLARS, PANDERA, CRYPTOGRAPHY):
            programs.flows("break", place)
            kind, message = programs.flow()
            assert (kind, "ValueError at canary.py" in message) == ("FAILED", True), message
            kind, message = programs.scan()
            assert (kind, message.startswith("1 unfinished")) == ("FAILED", True), message
            programs.flows("repair")
        assert site.stored()["Import"] == 0
        assert programs.flow()[0] == "COMPLETED"
        assert programs.scan() == ("COMPLETED", "1 imported")
    assert site.stored()["Mailbox"] == 2
