"""Known secrets go every way in and fail in every way; then nothing that was written holds one of them.

The search covers a folder that everything is written to (home, temporary files, databases with journals,
Prefect's storage, logs, reports), the output of all programs, and their command lines and environments.
"""

from __future__ import annotations

import base64
import json
import pickle
import resource
import sqlite3
import subprocess
import sys
import traceback
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

import schemas.csv_file
import tasks.inbox
import tasks.login
from sandbox.outlook import Account
from schemas.sealing import Sealer
from schemas.settings import Settings
from schemas.verdicts import group_targets
from tasks.crash import StepError
from tasks.database import database
from tasks.inbox import Folders, claim, finish
from tasks.probe import Probing
from tasks.read_csv import read_csv
from tasks.validate import validate
from tests.canary import Canaries, forms, processes_watched
from tests.conftest import (
    LOG,
    StartOutlook,
    import_file,
    with_servers,
    write_csv,
)
from tests.postgresql import PostgreSql
from tests.shell import PROJECT, environment, on_sqlite

linux_only = pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="needs Linux's /proc")

# --- The search itself -----------------------------------------------

SECRET = "aBc/dEf?gHi>jKl~0123"


@pytest.mark.parametrize(
    "form",
    [
        SECRET.encode(),
        SECRET.encode("utf-16"),
        SECRET.encode("utf-16-be"),
        SECRET.encode().hex().encode(),
        SECRET.encode().hex().upper().encode(),
        "".join(f"%{ord(char):02X}" for char in SECRET).encode(),
        *(base64.b64encode(b"x" * before + SECRET.encode() + b"y") for before in range(7)),
        *(base64.urlsafe_b64encode(b"x" * before + SECRET.encode() + b"y") for before in range(3)),
        base64.encodebytes(b"x" * 40 + SECRET.encode()),
        json.dumps(base64.encodebytes(b"x" * 40 + SECRET.encode()).decode()).encode(),
        pickle.dumps(ValueError(SECRET)),
    ],
)
def test_every_form_is_found(tmp_path: Path, form: bytes) -> None:
    """A secret that lies about is found whatever has become of it, and nothing is found elsewhere."""
    canaries = Canaries()
    canaries.add("control", SECRET)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"before " + form + b" behind")
    (tmp_path / "other").write_bytes(b"before and behind")
    found = canaries.in_files(tmp_path)
    assert found
    assert all(one.startswith("deep/file: control (") for one in found)
    assert canaries.in_files(tmp_path, [tmp_path / "deep"]) == []


def test_a_new_canary_is_found_with_all_that_is_around_it(tmp_path: Path) -> None:
    """A canary is found as a password is written: as JSON, in a URL, in quotes, in the escapes of Python."""
    canaries = Canaries()
    password = canaries.password("control")
    for text in (json.dumps(password), urllib.parse.quote(password), repr(password), f"'{password}'"):
        assert canaries.in_bytes(text.encode()) == ["control (plain)", *canaries.in_bytes(b"")]
    assert canaries.in_bytes("".join(forms("another one, as long")).encode()) == []
    assert canaries.app_password("another") not in password


def test_secret_over_two_pages_of_a_database_is_found(tmp_path: Path) -> None:
    """A value that SQLite has cut into pages, and one that lies in its journal only, are found."""
    canaries = Canaries()
    canaries.add("control", SECRET)
    file = tmp_path / "cut.db"
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA secure_delete=ON")
    connection.execute("CREATE TABLE long (value TEXT)")
    cut = 0
    for before in range(465, 485):
        connection.execute("DELETE FROM long")
        connection.execute("INSERT INTO long VALUES (?)", ["x" * before + SECRET + "y" * 4000])
        connection.commit()
        cut += SECRET.encode() not in file.read_bytes()
        assert canaries.in_files(tmp_path) == ["cut.db: control (plain)"]
    assert cut
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("DELETE FROM long")
    connection.commit()
    connection.execute("INSERT INTO long VALUES (?)", [SECRET])
    connection.commit()
    assert "cut.db-wal: control (plain)" in canaries.in_files(tmp_path)
    connection.close()


@linux_only
def test_secret_of_a_running_process_is_found(tmp_path: Path) -> None:
    """A secret that a process has been given on its command line, or by its environment, is found."""
    canaries = Canaries()
    canaries.add("control", SECRET)
    for arguments, variables in (([SECRET], {}), ([], {"PASSWORD": SECRET})):
        with processes_watched(str(tmp_path)) as seen:
            subprocess.run(
                [sys.executable, "-c", "import time; time.sleep(0.5)", *arguments],
                env=environment(HOME=str(tmp_path), **variables),
                check=True,
            )
        assert canaries.in_bytes(b"\n".join(seen)) == ["control (plain)"]


# --- A fault in a step that holds plaintext --------------------------


def quoting(*arguments: object, **named: object) -> None:
    """A fault at its worst: it quotes all that it was given, and carries it."""
    raise ValueError(f"no good: {arguments!r} {named!r}", arguments, named)


Fault = Callable[[Path, Settings], object]


def reading(file: Path, _settings: Settings) -> object:
    return read_csv.fn(file, 1000)


def validating(file: Path, settings: Settings) -> object:
    table = schemas.csv_file.parse(file.read_bytes())
    assert isinstance(table, schemas.csv_file.CsvTable)
    with database(settings) as db:
        return validate.fn(table, "default", db.sealer)


def giving_back(file: Path, settings: Settings) -> None:
    folders = Folders(settings.watch_folder)
    dropped = file.rename(folders.inbox / file.name)
    with database(settings) as db:
        summary = import_file(db, settings, dropped, test=False).summary
    claimed = claim(dropped, folders)
    assert claimed is not None
    with claimed:
        finish(claimed, folders, summary)


@pytest.mark.parametrize(
    ("where", "what", "step"),
    [
        (schemas.csv_file, "_read_with_polars", reading),
        (Sealer, "seal", validating),
        (tasks.inbox, "extract_rows", giving_back),
    ],
)
def test_fault_tells_its_place_and_no_word(
    where: object, what: str, step: Fault, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What breaks amid plaintext comes out as kind and place; neither its text nor the object goes on."""
    canaries = Canaries()
    rows = [["a@b.co", canaries.password("good")], ["bad", canaries.password("failed")]]
    file = write_csv(tmp_path / "in.csv", rows)
    settings = settings.model_copy(update={"watch_folder": tmp_path / "watched"})
    monkeypatch.setattr(where, what, quoting)
    with pytest.raises(StepError, match=r"^ValueError at test_canary.py:\d+ quoting < ") as caught:
        step(file, settings)
    told = "".join(traceback.format_exception(caught.value)).encode() + pickle.dumps(caught.value)
    assert canaries.in_bytes(told) == []


async def test_fault_in_a_login_tells_its_place_and_no_word(
    start: StartOutlook, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours in a login says where it is and nothing else, and leaves the mailbox unclaimed."""
    canaries = Canaries()
    password = canaries.password("login")
    settings = with_servers(settings, await start({"a@b.co": Account(password)}))
    with database(settings) as db:
        file = write_csv(tmp_path / "in.csv", [["a@b.co", password]])
        targets = import_file(db, settings, file).targets
        monkeypatch.setattr(tasks.login, "_base64", quoting)
        probing = Probing(db, settings, [target.mailbox_id for target in targets])
        with pytest.raises(StepError, match=r"^ValueError at test_canary.py:\d+ quoting < ") as caught:
            await probing.test_group(group_targets(targets, 25)[0], LOG)
        with db.engine.connect() as connection:
            claims = connection.scalars(sa.text("SELECT claimed_until FROM mailbox")).all()
    assert claims == [None]
    told = "".join(traceback.format_exception(caught.value)).encode() + pickle.dumps(caught.value)
    assert canaries.in_bytes(told) == []


# --- Core files ------------------------------------------------------

CORE_LIMIT = "Max core file size"
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def core_limits(pid: int) -> list[str]:
    """The soft and the hard limit of a process."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line for line in lines if line.startswith(CORE_LIMIT)).removeprefix(CORE_LIMIT).split()[:2]


@contextmanager
def core_files_allowed() -> Iterator[None]:
    """Programs that are started meanwhile may leave core files as large as they like."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, UNLIMITED)
    except ValueError:
        pytest.skip("core files are not to be had here")
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (before[0], resource.RLIM_INFINITY))


@linux_only
@pytest.mark.parametrize(
    "program",
    [
        "from flows.command_line import main; main(['none.csv', '--check'])",
        "from flows.manage import main; main(['mailboxes', 'list'])",
        "pass",
    ],
    ids=["command line", "housekeeping", "control"],
)
def test_commands_allow_no_core_file(program: str, tmp_path: Path) -> None:
    """The commands that hold passwords or keys end without a core file, whatever the shell allows."""
    report = "from pathlib import Path; print(Path('/proc/self/limits').read_text())"
    with core_files_allowed():
        done = subprocess.run(
            [sys.executable, "-c", f"{program}; {report}"],
            cwd=PROJECT,
            env=environment(**on_sqlite(tmp_path)),
            capture_output=True,
            text=True,
            check=True,
        )
    line = next(line for line in done.stdout.splitlines() if line.startswith(CORE_LIMIT))
    assert line.removeprefix(CORE_LIMIT).split()[:2] == ["unlimited" if program == "pass" else "0"] * 2


# --- PostgreSQL ------------------------------------------------------


@pytest.mark.parametrize("either_settings", ["postgresql"], indirect=True)
def test_postgresql_keeps_no_secret(
    either_settings: Settings, postgresql: PostgreSql, tmp_path: Path
) -> None:
    """Neither its tables and write-ahead log nor its own log, which quotes rows that it refuses, hold one."""
    canaries = Canaries()
    rows = [
        ["good@b.co", canaries.password("good"), canaries.totp_secret("good TOTP")],
        ["failed@b.co", canaries.password("failed"), "no base32"],
    ]
    columns = ("email", "password", "totpsecret")
    with database(either_settings) as db:
        import_file(db, either_settings, write_csv(tmp_path / "in.csv", rows, columns))
        with db.engine.begin() as connection:
            connection.execute(
                sa.text("ALTER TABLE mailbox ADD CHECK (email <> 'refused@b.co'), ADD COLUMN control TEXT")
            )
            connection.execute(sa.text("UPDATE mailbox SET control = :secret"), {"secret": SECRET})
        refused = [["refused@b.co", canaries.password("refused"), canaries.totp_secret("refused TOTP")]]
        file = write_csv(tmp_path / "refused.csv", refused, columns)
        with pytest.raises(sa.exc.IntegrityError) as caught:
            import_file(db, either_settings, file)
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("CHECKPOINT"))
    assert canaries.in_bytes(str(caught.value).encode()) == []
    assert "refused@b.co" in (postgresql.folder / "log").read_text()
    assert canaries.in_files(postgresql.folder) == []
    canaries.add("control", SECRET)
    assert canaries.in_files(postgresql.folder)
