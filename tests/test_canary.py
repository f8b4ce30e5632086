"""Known secrets go through every entry point and every failure, and appear in nothing that was written.

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
import tempfile
import traceback
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

import schemas.csv_file
import tasks.files.inbox
import tasks.login.smtp
from flows.cli.app import main as command_line
from sandbox.outlook import Account, running
from schemas.prepare import Prepared
from schemas.sealing import Sealer
from schemas.settings import Settings
from schemas.verdicts import group_targets
from tasks.crash import StepError
from tasks.files.inbox import Folders, finish, take
from tasks.prepare import prepare
from tasks.probe import Probing
from tasks.storage.api_keys import create_key
from tasks.storage.database import database
from tasks.store import seal
from tests.conftest import (
    LOG,
    StartOutlook,
    import_file,
    prefect_running,
    with_servers,
    write_csv,
)
from tests.support.canary import STEPS, Canaries, forms, processes_watched, quoting
from tests.support.machine import Machine, free_port, wait_for, webhook_listening
from tests.support.postgresql import PostgreSql
from tests.support.receiver import KEY, receiving
from tests.support.shell import LIMIT_SECONDS, PROJECT, RECHECK, Shell, at, environment, on_sqlite

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
    """A secret on disk is found in every encoding, and nothing else is reported."""
    canaries = Canaries()
    canaries.add("control", SECRET)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"before " + form + b" behind")
    (tmp_path / "other").write_bytes(b"before and behind")
    found = canaries.in_files(tmp_path)
    assert found
    assert all(one.startswith("deep/file: control (") for one in found)
    assert canaries.in_files(tmp_path, [tmp_path / "deep"]) == []


def test_a_new_canary_is_found_with_all_that_is_around_it() -> None:
    """A canary is found in every form a password can take: JSON, URL, quoted, or escaped by Python."""
    canaries = Canaries()
    password = canaries.password("control")
    for text in (json.dumps(password), urllib.parse.quote(password), repr(password), f"'{password}'"):
        assert canaries.in_bytes(text.encode()) == ["control (plain)", *canaries.in_bytes(b"")]
    assert canaries.in_bytes("".join(forms("another one, as long")).encode()) == []
    assert canaries.app_password("another") not in password


def test_secret_over_two_pages_of_a_database_is_found(tmp_path: Path) -> None:
    """A value that SQLite splits across pages, or that is only in its journal, is found."""
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
    """A secret on the command line or in the environment of a process is found."""
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


Fault = Callable[[Path, Settings], object]


def reading(file: Path, _settings: Settings) -> object:
    return prepare.fn(file, 1000)


def sealing(file: Path, settings: Settings) -> object:
    prepared = prepare.fn(file, 1000)
    assert isinstance(prepared, Prepared)
    with database(settings) as db:
        return seal(prepared.kept, "default", db.sealer)


def giving_back(file: Path, settings: Settings) -> None:
    folders = Folders(settings.watch_folder)
    dropped = file.rename(folders.inbox / file.name)
    with database(settings) as db:
        summary = import_file(db, settings, dropped, test=False).summary
    taken = take(dropped, folders)
    assert taken is not None
    with taken:
        finish(taken, folders, summary)


@pytest.mark.parametrize(
    ("where", "what", "step"),
    [
        (schemas.csv_file, "_read_with_polars", reading),
        (Sealer, "seal", sealing),
        (tasks.files.inbox, "extract_rows", giving_back),
    ],
)
def test_fault_shows_only_its_type_and_place(
    where: object, what: str, step: Fault, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in a step that handles plaintext shows its type and place, but not its text or object."""
    canaries = Canaries()
    rows = [["a@b.co", canaries.password("good")], ["bad", canaries.password("failed")]]
    file = write_csv(tmp_path / "in.csv", rows)
    settings = settings.model_copy(update={"watch_folder": tmp_path / "watched"})
    monkeypatch.setattr(where, what, quoting)
    with pytest.raises(StepError, match=r"^ValueError at canary.py:\d+ quoting < ") as caught:
        step(file, settings)
    shown = "".join(traceback.format_exception(caught.value)).encode() + pickle.dumps(caught.value)
    assert canaries.in_bytes(shown) == []


@pytest.mark.parametrize("flag", ["--check", "--json"])
def test_fault_in_the_preview_shows_only_its_type_and_place(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error while the command previews the file ends it with 3 and a message, before anything starts."""
    canaries = Canaries()
    file = write_csv(tmp_path / "in.csv", [["a@b.co", canaries.password("good")]])
    monkeypatch.setattr(schemas.csv_file, "_read_with_polars", quoting)
    assert command_line(["import", str(file), flag]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("Nothing was changed. Internal error: ValueError at canary.py:")
    assert canaries.in_bytes(said.err.encode()) == []


async def test_fault_in_a_login_shows_only_its_type_and_place(
    start: StartOutlook, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An internal error in a login shows only its place, and leaves the mailbox unclaimed."""
    canaries = Canaries()
    password = canaries.password("login")
    settings = with_servers(settings, await start({"a@b.co": Account(password)}))
    with database(settings) as db:
        file = write_csv(tmp_path / "in.csv", [["a@b.co", password]])
        targets = import_file(db, settings, file).targets
        monkeypatch.setattr(tasks.login.smtp, "to_base64", quoting)
        probing = Probing(db, settings, [target.mailbox_id for target in targets])
        with pytest.raises(StepError, match=r"^ValueError at canary.py:\d+ quoting < ") as caught:
            await probing.test_group(group_targets(targets, 25)[0], LOG)
        with db.engine.connect() as connection:
            claims = connection.scalars(sa.text("SELECT claimed_until FROM mailbox")).all()
    assert claims == [None]
    shown = "".join(traceback.format_exception(caught.value)).encode() + pickle.dumps(caught.value)
    assert canaries.in_bytes(shown) == []


# --- Core files ------------------------------------------------------

CORE_LIMIT = "Max core file size"
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def core_limits(pid: int) -> list[str]:
    """The soft and the hard core file limit of a process."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line for line in lines if line.startswith(CORE_LIMIT)).removeprefix(CORE_LIMIT).split()[:2]


@contextmanager
def core_files_allowed() -> Iterator[None]:
    """Let programs that start in this context write core files of any size."""
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
        "from flows.cli.app import main; main(['check', 'none.csv'])",
        "from flows.manage import main; main(['mailboxes', 'list'])",
        "pass",
    ],
    ids=["command line", "housekeeping", "control"],
)
def test_commands_allow_no_core_file(program: str, tmp_path: Path) -> None:
    """Commands that hold passwords or keys end without a core file, whatever limit the shell sets."""
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


@pytest.mark.slow
@pytest.mark.parametrize("either_settings", ["postgresql"], indirect=True)
def test_postgresql_keeps_no_secret(
    either_settings: Settings, postgresql: PostgreSql, tmp_path: Path
) -> None:
    """PostgreSQL's tables, write-ahead log and server log, which quotes rejected rows, contain no secret."""
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


# --- Everything ------------------------------------------------------

BREAK_EVERY_STEP = (
    "from pathlib import Path; from tests.support.canary import break_every_step; "
    "break_every_step(Path({!r}))"
)
COLUMNS = ("email", "password", "totp secret")


class Aviary:
    """A folder for everything, with files full of canaries and the accounts that accept their passwords."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.canaries = Canaries()
        self.accounts: dict[str, Account] = {}
        self.inputs: list[Path] = []

    def mailbox(self, name: str, **behaviour: str) -> list[str]:
        """A mailbox row; in a behaviour, {password} and {base64} mark where the server echoes them."""
        password = self.canaries.password(name)
        echo = {"password": password, "base64": base64.b64encode(password.encode()).decode()}
        said = {protocol: words.format(**echo) for protocol, words in behaviour.items()}
        self.accounts[f"{name}@contoso.com"] = Account(password, **said)
        return [f"{name}@contoso.com", password, self.canaries.totp_secret(f"{name}, TOTP")]

    def bad_rows(self, name: str) -> list[list[str]]:
        """One row for each row error."""
        new = self.canaries.password
        return [
            [f"{name}-extra@contoso.com", new(f"{name}, extra cells"), "", "more"],
            [f"{name}-control@contoso.com", new(f"{name}, control character") + "\t", ""],
            [f"{name}-long@contoso.com", new(f"{name}, too long") + "x" * 300, ""],
            [
                f"{name}-totp@contoso.com",
                new(f"{name}, bad TOTP"),
                self.canaries.totp_secret(f"{name}, no TOTP") + "18",
            ],
            [new(f"{name}, wrong column"), f"{name}-slipped@contoso.com", ""],
            [new(f"{name}, no password"), "", ""],
        ]

    def file(self, name: str, rows: list[list[str]], into: str = "") -> Path:
        (self.folder / into).mkdir(parents=True, exist_ok=True)
        self.inputs.append(self.folder / into / name)
        return write_csv(self.folder / into / name, rows, COLUMNS)

    def broken_file(self, name: str, into: str = "") -> Path:
        """A file with a broken quote next to passwords."""
        file = self.file(name, [[f"{name}@contoso.com", self.canaries.password(name), ""]], into)
        broken = self.canaries.password(f"{name}, broken").replace('"', "")
        with file.open("a", encoding="utf-8") as more:
            more.write(f'b@contoso.com,"{broken}" x,\nc@contoso.com,"{broken},\n')
        return file


@pytest.mark.slow
def test_no_secret_is_left_anywhere(tmp_path: Path) -> None:
    """No secret is left by command line, flow run, inbox or API, whatever fails, with debug logging on."""
    aviary = Aviary(tmp_path)
    hidden = Canaries()  # comes from the environment, so it is searched for everywhere else
    home = tmp_path / "home"
    home.mkdir()
    rows = [
        aviary.mailbox("good"),
        aviary.mailbox("refused", smtp="wrong-credentials"),
        aviary.mailbox("echoed", smtp="535 5.7.8 {password} is wrong", imap="NO {password}"),
        aviary.mailbox("encoded", smtp="535 5.7.8 Cannot take {base64}", imap="NO {base64}"),
        aviary.mailbox("silent", smtp="hang:auth"),
        *aviary.bad_rows("command"),
    ]
    file = aviary.file("in.csv", rows)
    broken = aviary.broken_file("broken.csv")
    for name in (*STEPS, "integrity"):
        aviary.file(f"{name}.csv", [aviary.mailbox(name), *aviary.bad_rows(name)])
    aviary.file("dropped.csv", [aviary.mailbox("dropped"), *aviary.bad_rows("dropped")], "watched/inbox/tag")
    aviary.broken_file("no file.csv", "watched/inbox")
    aviary.file("last.csv", [aviary.mailbox("last")])
    aviary.file("failed rows.csv", [aviary.mailbox("given-back"), *aviary.bad_rows("given-back")])
    debugging = {
        "HOME": str(home),
        "TMPDIR": str(home),
        "PREFECT_HOME": str(home / ".prefect"),
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "PREFECT_DEBUG_MODE": "true",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONASYNCIODEBUG": "1",
    }
    said: list[str] = []
    (home / ".prefect").mkdir()
    with (
        processes_watched(str(home)) as processes,
        running(aviary.accounts, folder=tmp_path) as outlook,
        webhook_listening() as webhook,
        receiving([503]) as receiver,
        prefect_running(home / ".prefect", **debugging) as url,
    ):
        shell = Shell(
            tmp_path,
            environment(
                **on_sqlite(tmp_path),
                **at(outlook),
                **debugging,
                PREFECT_API_URL=url,
                PREFECT_LOGGING_ROOT_LEVEL="DEBUG",
                OUTLOOK_IMPORT_PROBE_TIMEOUT="2",
                OUTLOOK_IMPORT_WATCH_FOLDER=str(tmp_path / "watched"),
                OUTLOOK_IMPORT_SETTLE_SECONDS="0.2",
                OUTLOOK_IMPORT_NOTIFY_WEBHOOK=webhook.address,
                OUTLOOK_IMPORT_WEBHOOK_URL=receiver.address,
                OUTLOOK_IMPORT_WEBHOOK_SECRET=KEY,
            ),
        )

        def run(*arguments: str | Path, code: int = 0) -> str:
            output = shell.run(*arguments, code=code)
            said.extend((output, shell.last.stderr))
            return output

        output = run(file, "--verbose", "--report", tmp_path / "in.report.csv")
        assert "1 active" in output
        run(broken, "--verbose", code=1)
        shell.change(
            "CREATE TRIGGER refuse BEFORE INSERT ON mailbox WHEN NEW.email LIKE 'integrity%' "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
        with shell.start_program(BREAK_EVERY_STEP.format(str(tmp_path))) as process:
            ended, errors = process.communicate(timeout=LIMIT_SECONDS)
        said += [ended, errors]
        assert process.returncode == 0, errors[-3000:]
        states = dict(line.split(": ", 1) for line in ended.splitlines() if ": " in line)
        assert {step: states[step].split()[0] for step in STEPS} == dict.fromkeys(STEPS, "Failed"), ended
        assert states["integrity"].startswith("Failed"), ended
        assert states["scan"] == "1 imported, 1 rejected", ended
        assert states["broken scan"].startswith("1 imported, 1 unfinished: "), ended
        said += use_api(shell, aviary)
        assert webhook.texts
        hidden.add("webhook", webhook.secret)
        outlook.change("good@contoso.com", Account(aviary.canaries.password("revoked")))
        shell.change("UPDATE mailbox SET tested_at = '2020-01-01 00:00:00+00:00' WHERE email LIKE 'good@%'")
        said += [shell.run_program(RECHECK), shell.last.stderr]
        assert ("good@contoso.com", "active", "failed") in receiver.told
        assert aviary.canaries.in_bytes(receiver.raw) == []
        hidden.add("receiver", receiver.secret)
        hidden.add("key of the receiver", KEY.removeprefix("whsec_"))
    key = (tmp_path / "mailboxes.key").read_text().strip()
    aviary.canaries.add("encryption key", key)
    # These copies of the input, and the key file, are expected.
    spared = [*aviary.inputs, tmp_path / "mailboxes.key"]
    spared += [tmp_path / "watched" / name for name in ("inbox", "processing", "failed", "rejected")]
    output = "\n".join(said)
    assert "sqlalchemy.engine" in output
    assert "DEBUG" in output
    assert (home / ".prefect" / "prefect.db").stat().st_size > 100_000
    assert len(list((home / ".prefect" / "storage").iterdir())) > 3
    for canaries in (aviary.canaries, hidden):
        assert canaries.in_files(tmp_path, spared) == []
        assert canaries.in_bytes(output.encode()) == []
    assert len(processes) > 4
    assert aviary.canaries.in_bytes(b"\n".join(processes)) == []


def use_api(shell: Shell, aviary: Aviary) -> list[str]:
    """Upload good, bad and malformed bodies, and one that breaks the database; return all output."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    said = []
    with database(shell.settings) as db:
        key = create_key(db, "default", "test")
        aviary.canaries.add("API key", key)
    with shell.start("--port", str(port), module="flows.api") as process:
        with httpx.Client(base_url=url, timeout=60) as client:

            def live() -> bool:
                try:
                    return client.get("/readyz").is_success
                except httpx.TransportError:
                    return False

            def upload(file: Path, cut: int | None = None) -> int:
                form = httpx.Request("POST", url, files={"file": (file.name, file.read_bytes())})
                answer = client.post(
                    "/v1/mailboxes/import/outlook",
                    content=form.read()[:cut],
                    headers={"Content-Type": form.headers["Content-Type"], "X-Api-Key": key},
                )
                said.append(answer.text)
                return answer.status_code

            wait_for("the API", live, 60)
            assert core_limits(process.pid) == ["0", "0"]
            good = aviary.file("uploaded.csv", [aviary.mailbox("uploaded"), *aviary.bad_rows("uploaded")])
            assert [upload(good), upload(good, cut=-20), upload(aviary.broken_file("sent.csv"))] == [
                200,
                400,
                400,
            ]
            assert upload(aviary.file("again.csv", [aviary.mailbox("integrity-again")])) == 500
        process.terminate()
        said += process.communicate(timeout=60)
    return said


@pytest.mark.slow
def test_deployments_leave_no_secret(machine: Machine) -> None:
    """Files from the inbox or imported by hand leave no secret, and no process allows a core file."""
    aviary = Aviary(machine.folder)
    with processes_watched(str(machine.folder)) as processes:
        dropped = aviary.file("canaries.csv", [aviary.mailbox("dropped"), *aviary.bad_rows("dropped")])
        by_hand = aviary.file("by hand.csv", [aviary.mailbox("hand"), *aviary.bad_rows("hand")], "watched")
        refused = aviary.broken_file("refused.csv", "watched")
        dropped.rename(machine.watched / "inbox" / dropped.name)
        runs = [machine.create_run(file=str(file)).json()["id"] for file in (by_hand, refused)]
        assert [machine.ended(run)["state"]["type"] for run in runs] == ["COMPLETED", "FAILED"]
        assert {limit for number in machine.processes() for limit in core_limits(number)} == {"0"}
        reports = machine.watched / "processed"
        wait_for("the report on the dropped file", lambda: list(reports.glob("canaries.*")), 90)
    aviary.canaries.add("encryption key", (machine.folder / "mailboxes.key").read_text().strip())
    spared = [*aviary.inputs, machine.folder / "mailboxes.key"]
    spared += [machine.watched / name for name in ("failed", "rejected", "processing")]
    assert aviary.canaries.in_files(machine.folder, spared) == []
    assert aviary.canaries.in_bytes(b"\n".join(processes)) == []
    for folder in Path(tempfile.gettempdir()).glob("outlook-import-*"):
        assert aviary.canaries.in_files(folder) == []
