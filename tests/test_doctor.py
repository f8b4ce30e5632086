"""The doctor names what is wrong with a set-up and how to fix it; a healthy one gets exit code 0."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
import trustme
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from sqlalchemy import text

import tasks.doctor.installation
import tasks.doctor.prefect
from flows.deployments import AUTOMATION, CLOSED_TEMPLATE, DEPLOYMENTS, SCHEDULED, WORK_POOL
from flows.manage import main
from sandbox.outlook import ServerFaults, running
from schemas.findings import Finding, Health
from schemas.providers import CONSUMER_IMAP, MICROSOFT_IMAP, MICROSOFT_SMTP, Endpoint
from schemas.reasons import Protocol, Reason, Stage
from schemas.sealing import new_key
from schemas.settings import PREFIX, Settings
from schemas.verdicts import Answer
from tasks.doctor.installation import server_finding, servers_of
from tasks.doctor.prefect import Parts, check_prefect
from tasks.files.prefect_profile import read_profile
from tasks.hints import command
from tasks.storage.database import Database, database
from tests.conftest import accounts, import_mailboxes
from tests.support.machine import Machine, wait_for
from tests.support.postgresql import PostgreSql
from tests.support.shell import Shell, at

PARTS = Parts(WORK_POOL, CLOSED_TEMPLATE, DEPLOYMENTS, SCHEDULED, AUTOMATION)
GOOD = {"settings", "libraries", "keys", "database", "secrets", "watch folder", "import folder", "disk"}


def examine(capsys: pytest.CaptureFixture[str], code: int) -> list[Finding]:
    """The doctor's findings, after a check that it exits with `code`."""
    capsys.readouterr()
    assert main(["doctor", "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    return [Finding(Health(one["health"]), one["about"], one["text"]) for one in found]


def troubles(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.health is not Health.OK]


@pytest.fixture(autouse=True)
def _no_prefect() -> Iterator[None]:
    """No Prefect server is configured, even if other tests have started one."""
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


@contextmanager
def servers(folder: Path, ca: trustme.CA, faults: ServerFaults | None = None) -> Iterator[None]:
    """Settings that use the stand-in for every domain."""
    with pytest.MonkeyPatch.context() as patch, running({}, server=faults, ca=ca, folder=folder) as outlook:
        for name, value in at(outlook).items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def sound(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ca: trustme.CA
) -> Iterator[Database]:
    """A healthy set-up with two mailboxes on SQLite; yield its database."""
    for name in ("watched", "imports"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv(f"{PREFIX}WATCH_FOLDER", str(tmp_path / "watched"))
    monkeypatch.setenv(f"{PREFIX}IMPORT_FOLDERS", json.dumps([str(tmp_path / "imports")]))
    with servers(tmp_path, ca), database(settings) as opened:
        import_mailboxes(opened, settings, accounts(2))
        yield opened
        # First what the test changed: undone last, it would put the variables of `servers` back.
        monkeypatch.undo()


@pytest.mark.sqlite
@pytest.mark.usefixtures("sound")
def test_sound_set_up(capsys: pytest.CaptureFixture[str]) -> None:
    """A healthy set-up gets exit code 0 and one line for each part."""
    findings = examine(capsys, 0)
    assert troubles(findings) == []
    assert {finding.about for finding in findings} > GOOD | {"Prefect"}
    assert sum("password login offered" in finding.text for finding in findings) == 2
    assert main(["doctor"]) == 0
    said = capsys.readouterr()
    assert [line.partition(" ")[0] for line in said.out.splitlines()] == ["ok"] * len(findings)
    assert said.err == "0 faults, 0 warnings\n"


@pytest.mark.sqlite
def test_set_up_before_its_first_import(
    settings: Settings, tmp_path: Path, ca: trustme.CA, capsys: pytest.CaptureFixture[str]
) -> None:
    """A set-up before its first import is healthy, and the doctor creates nothing."""
    assert settings.encryption_keys is None
    with servers(tmp_path, ca), pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"{PREFIX}WATCH_FOLDER", str(tmp_path / "watched"))
        assert troubles(examine(capsys, 0)) == []
    assert [path.suffix for path in tmp_path.iterdir()] == [".pem"]


# What is broken: how, and what the doctor says about it ---------------

Break = Callable[[Path, Database, pytest.MonkeyPatch], None]


def variable(name: str, value: str) -> Break:
    def set_it(folder: Path, _opened: Database, patch: pytest.MonkeyPatch) -> None:
        patch.setenv(PREFIX + name, value.replace("FOLDER", str(folder)))

    return set_it


def mode(name: str, bits: int) -> Break:
    def change(folder: Path, _opened: Database, _patch: pytest.MonkeyPatch) -> None:
        if not (folder / name).exists():
            (folder / name).mkdir()
        (folder / name).chmod(bits)

    return change


def content(name: str, data: bytes) -> Break:
    def write(folder: Path, _opened: Database, _patch: pytest.MonkeyPatch) -> None:
        (folder / name).write_bytes(data)

    return write


def gone(name: str) -> Break:
    def remove(folder: Path, _opened: Database, _patch: pytest.MonkeyPatch) -> None:
        place = folder / name
        place.rmdir() if place.is_dir() else place.unlink()

    return remove


def revision(number: str) -> Break:
    def change(_folder: Path, opened: Database, _patch: pytest.MonkeyPatch) -> None:
        with opened.engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :number"), {"number": number})

    return change


def no_database(folder: Path, opened: Database, _patch: pytest.MonkeyPatch) -> None:
    opened.engine.dispose()
    (folder / "mailboxes.db").write_bytes(b"email,password\n" * 100)


def file_for_folder(folder: Path, _opened: Database, _patch: pytest.MonkeyPatch) -> None:
    (folder / "watched").rmdir()
    (folder / "watched").touch()


def another_key(folder: Path, _opened: Database, _patch: pytest.MonkeyPatch) -> None:
    (folder / "mailboxes.key").write_text(new_key())


def newer_key(folder: Path, _opened: Database, _patch: pytest.MonkeyPatch) -> None:
    path = folder / "mailboxes.key"
    path.write_text(f"{new_key()}\n{path.read_text()}")


def install(name: str, version: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Make a library appear to be installed in another version."""
    metadata = folder / "site" / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    patch.syspath_prepend(str(folder / "site"))


def disk_is(limit: str) -> Break:
    def raise_limit(_folder: Path, _opened: Database, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(tasks.doctor.installation, limit, 2**60)

    return raise_limit


BROKEN = {
    "a setting": (variable("PROBE_TIMEOUT", "soon"), "FAULT", "settings", "PROBE_TIMEOUT: Input should be"),
    "a server": (variable("SERVERS", '{"*": 1}'), "FAULT", "settings", "SERVERS → *"),
    "a misspelt setting": (
        variable("PROBE_TIMOUT", "3"),
        "warning",
        "settings",
        "did you mean OUTLOOK_IMPORT_PROBE_TIMEOUT?",
    ),
    "no such CA": (
        variable("CA_FILE", "FOLDER/no.pem"),
        "FAULT",
        "settings",
        "CA_FILE: the file does not exist",
    ),
    "no CA": (variable("CA_FILE", "FOLDER/mailboxes.db"), "FAULT", "mail servers", "no PEM certificates in"),
    "open key file": (mode("mailboxes.key", 0o644), "FAULT", "keys", "run `chmod 600"),
    "no key file": (gone("mailboxes.key"), "FAULT", "keys", "mailboxes.key is missing"),
    "broken key file": (content("mailboxes.key", b"x"), "FAULT", "keys", "is not 32 bytes in base64"),
    "broken key": (
        variable("ENCRYPTION_KEYS", "hunter2"),
        "FAULT",
        "keys",
        "ENCRYPTION_KEYS: encryption key",
    ),
    "another key": (another_key, "FAULT", "secrets", "2 values with key"),
    "an older key": (newer_key, "warning", "secrets", "keys encryption rotate` once"),
    "no address": (variable("DATABASE_URL", "nonsense"), "FAULT", "database", "it has to be sqlite:///FILE"),
    "an address in a file": (
        variable("DATABASE_URL", "sqlite:///FOLDER/mailboxes.key/new.db"),
        "FAULT",
        "database",
        "cannot create",
    ),
    "open database": (mode("mailboxes.db", 0o666), "FAULT", "database", "run `chmod o="),
    "open folder": (mode(".", 0o777), "FAULT", "database", "run `chmod o-w"),
    "no database": (no_database, "FAULT", "database", "not a database"),
    "newer tables": (
        revision("9999"),
        "FAULT",
        "database",
        "update the program",
    ),
    "older tables": (
        revision("0001"),
        "warning",
        "database",
        "outlook-import database upgrade`",
    ),
    "full disk": (disk_is("MUCH_TOO_LITTLE_SPACE"), "FAULT", "disk", "free some space"),
    "filling disk": (disk_is("LITTLE_SPACE"), "warning", "disk", "free some space"),
    "watched file": (file_for_folder, "FAULT", "watch folder", "replace it with a folder"),
    "open inbox": (mode("watched/inbox", 0o777), "FAULT", "watch folder", "run `chmod o= "),
    "readable reports": (mode("watched/processed", 0o755), "warning", "watch folder", "run `chmod o= "),
    "open watch folder": (mode("watched", 0o777), "FAULT", "watch folder", "run `chmod o-w"),
    "watch folder in a file": (
        variable("WATCH_FOLDER", "FOLDER/mailboxes.key/new"),
        "FAULT",
        "watch folder",
        "mailboxes.key is not a folder",
    ),
    "no import folder": (gone("imports"), "FAULT", "import folder", "create it, or correct OUTLOOK_IMPORT_"),
}


@pytest.mark.sqlite
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_set_up(
    kind: str,
    sound: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each fault on this machine has one line with its remedy, and no value is quoted."""
    break_it, health, about, words = BROKEN[kind]
    break_it(tmp_path, sound, monkeypatch)
    (found,) = troubles(examine(capsys, 1 if health == "FAULT" else 0))
    assert (found.health, found.about) == (health, about)
    assert words in found.text
    assert "hunter2" not in found.text


@pytest.mark.usefixtures("sound")
def test_each_faulty_setting_has_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two malformed settings are two faults, and the parts that do not depend on them are still checked."""
    monkeypatch.setenv(f"{PREFIX}PROBE_ATTEMPTS", "0")
    monkeypatch.setenv(f"{PREFIX}SERVERS", "{")
    findings = examine(capsys, 1)
    assert sorted(one.text.split(":")[0] for one in troubles(findings)) == [
        f"{PREFIX}PROBE_ATTEMPTS",
        f"{PREFIX}SERVERS",
    ]
    assert {finding.about for finding in findings} >= GOOD


@pytest.mark.sqlite
@pytest.mark.usefixtures("sound")
def test_ports_that_start_otherwise(
    tmp_path: Path, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The doctor names a port that starts with TLS or without it against the settings, and how to fix it."""
    with running({}, ca=ca, folder=tmp_path) as outlook:
        swapped = {
            "smtp": f"localhost:{outlook.imap_port}",
            "imap": f"localhost:{outlook.smtp_port}",
        }
        monkeypatch.setenv(f"{PREFIX}SERVERS", json.dumps({"*": swapped}))
        monkeypatch.setenv(f"{PREFIX}CA_FILE", str(outlook.ca_file))
        monkeypatch.setenv(f"{PREFIX}PROBE_TIMEOUT", "1")
        smtp, imap = troubles(examine(capsys, 1))
    assert (smtp.health, imap.health) == (Health.FAULT, Health.FAULT)
    assert smtp.text.startswith("Port starts with TLS")
    assert "smtps://" in smtp.text
    assert imap.text.startswith("Port does not start with TLS")
    assert "imap://" in imap.text


# PostgreSQL -----------------------------------------------------------


def test_broken_postgresql(
    settings: Settings,
    postgresql: PostgreSql,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ca: trustme.CA,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A PostgreSQL without keys, without tables, or that is unreachable has one line with its remedy."""
    assert settings
    monkeypatch.setenv(f"{PREFIX}WATCH_FOLDER", str(tmp_path / "watched"))
    with servers(tmp_path, ca), postgresql.new_database() as address:
        monkeypatch.setenv(f"{PREFIX}DATABASE_URL", address)
        monkeypatch.delenv(f"{PREFIX}ENCRYPTION_KEYS", raising=False)
        keys, tables = troubles(examine(capsys, 1))
        assert (keys.about, "ENCRYPTION_KEYS is not set" in keys.text) == ("keys", True)
        assert (tables.health, tables.about) == (Health.FAULT, "database")
        assert "outlook-import database upgrade`" in tables.text
        monkeypatch.setenv(f"{PREFIX}ENCRYPTION_KEYS", new_key())
        monkeypatch.setenv(f"{PREFIX}DATABASE_URL", "postgresql://user:hunter2@127.0.0.1:1/mailboxes")
        (away,) = troubles(examine(capsys, 1))
        assert (away.about, "cannot be opened" in away.text) == ("database", True)
        assert "hunter2" not in away.text


def test_sound_postgresql(
    either_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ca: trustme.CA,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On either database a healthy set-up with some mailboxes gets exit code 0 and no warning."""
    monkeypatch.setenv(f"{PREFIX}WATCH_FOLDER", str(tmp_path / "watched"))
    with database(either_settings) as opened:
        import_mailboxes(opened, either_settings, accounts(2))
    with servers(tmp_path, ca):
        assert troubles(examine(capsys, 0)) == []


# Mail servers ---------------------------------------------------------

SERVER_FAULTS = {
    "refused": ("warning", "not reached: connection refused"),
    "hang:connect": ("warning", "not reached: timed out"),
    "greeting-busy": ("warning", "Server busy"),
    "expired": ("FAULT", "Server certificate not trusted (certificate has expired): Renew the certificate"),
    "old-tls": ("FAULT", "Could not set up encryption"),
    "no-starttls": ("FAULT", "Server offers no encryption"),
    "xoauth2-only": ("FAULT", "Server offers no password login"),
}


@pytest.mark.sqlite
@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize("kind", SERVER_FAULTS)
def test_broken_mail_server(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ca: trustme.CA,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An unreachable server is a warning; one that is not safe to send passwords to is a fault."""
    health, words = SERVER_FAULTS[kind]
    monkeypatch.setenv(f"{PREFIX}PROBE_TIMEOUT", "2" if kind.startswith("hang") else "20")
    with servers(tmp_path, ca, ServerFaults(smtp=kind)):
        (found,) = troubles(examine(capsys, 1 if health == "FAULT" else 0))
    assert (found.health, found.about.partition(":")[0]) == (health, "SMTP localhost")
    assert found.text.startswith(words)


def test_microsoft_is_checked_unless_other_servers_cover_every_domain(settings: Settings) -> None:
    """The default servers and those in the settings are checked once each; with `*` only the latter."""
    ours = {"smtp": "mail.contoso.com:587", "imap": "mail.contoso.com:993"}
    defaults = {MICROSOFT_SMTP, MICROSOFT_IMAP, CONSUMER_IMAP}

    def hosts(**servers: object) -> list[str]:
        return [endpoint.host for _, endpoint in servers_of(Settings(servers=servers))]

    assert settings
    assert set(hosts()) == defaults
    assert set(hosts(**{"contoso.com": ours, "contoso.org": ours})) == defaults | {"mail.contoso.com"}
    assert hosts(**{"*": ours}) == ["mail.contoso.com"] * 2


@pytest.mark.parametrize("host", [MICROSOFT_SMTP, MICROSOFT_IMAP, CONSUMER_IMAP])
def test_microsofts_servers_get_a_note(host: str) -> None:
    """For Microsoft's servers the doctor adds that an offer of password sign-in does not mean it works."""
    protocol = Protocol.SMTP if host == MICROSOFT_SMTP else Protocol.IMAP
    found = server_finding(Answer(protocol, Endpoint(host, 1), Reason.OK, Stage.CAPABILITY, "", 1))
    assert found.health is Health.WARNING
    assert "accepts passwords only if" in found.text or "has not accepted passwords since" in found.text


# Prefect --------------------------------------------------------------


@contextmanager
def prefect_at(address: str, login: str | None = None) -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: address, PREFECT_API_AUTH_STRING: login}):
        yield


class NotPrefect(BaseHTTPRequestHandler):
    """A web server that is not Prefect."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


async def test_prefect_that_is_not_there() -> None:
    """An address where nothing listens is a fault, and a password in it is not shown."""
    with prefect_at("http://user:hunter2@127.0.0.1:9/api"):
        (found,) = await check_prefect(PARTS)
    assert found.health is Health.FAULT
    assert "http://127.0.0.1:9 cannot be reached" in found.text
    assert "hunter2" not in found.text


async def test_prefect_that_is_something_else() -> None:
    """An address where another web server answers is a fault."""
    with HTTPServer(("127.0.0.1", 0), NotPrefect) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.05))
        thread.start()
        with prefect_at(f"http://127.0.0.1:{server.server_port}/api"):
            (found,) = await check_prefect(PARTS)
        server.shutdown()
        thread.join()
    assert (found.health, "is not Prefect's API" in found.text) == (Health.FAULT, True)


async def test_prefect_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts connections but never replies is a fault once the time-out is over."""
    monkeypatch.setattr(tasks.doctor.prefect, "LONGEST_WAIT", 0.5)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        prefect_at(f"http://127.0.0.1:{silent.getsockname()[1]}/api"),
    ):
        (found,) = await check_prefect(PARTS)
    assert (found.health, "does not respond within 0.5 s" in found.text) == (Health.FAULT, True)


async def test_prefect_without_deployments_or_of_another_version(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server without deployments works but is open to strangers; another version is a fault."""
    with prefect_at(prefect_server):
        version, deployments, login = await check_prefect(PARTS)
        assert version.health is Health.OK
        assert (login.health, "answers without a login" in login.text) == (Health.FAULT, True)
        assert "lets pages of every origin read its answers" in login.text
        assert f"run `{command('prefect-profile')}`" in login.text
        assert (deployments.health, "outlook-import deploy`" in deployments.text) == (
            Health.WARNING,
            True,
        )
        install("prefect", "9.9.9", tmp_path, monkeypatch)
        version, _, _ = await check_prefect(PARTS)
    assert version.health is Health.FAULT
    assert "this program has 9.9.9: install the same version" in version.text


def test_broken_variable_of_prefect(offline: Shell) -> None:
    """A variable that Prefect itself cannot read is one fault, and the rest is still checked."""
    offline.environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = "often"
    offline.environment[f"{PREFIX}SERVERS"] = "{"
    findings = json.loads(offline.run("doctor", "--json", module="flows.manage", code=1))
    (found,) = [one["text"] for one in findings if one["about"] == "Prefect"]
    assert found.startswith("its settings cannot be read (heartbeat_frequency): correct the PREFECT_")


def look(machine: Machine, parts: Parts = PARTS) -> list[str]:
    """What is wrong with a machine's Prefect, retried while it is too busy to answer."""

    async def check() -> list[Finding]:
        login = read_profile(machine.profile)["PREFECT_API_AUTH_STRING"]
        with prefect_at(f"http://127.0.0.1:{machine.port}/api", login):
            return await check_prefect(parts)

    def found() -> list[Finding] | None:
        findings = asyncio.run(check())
        return None if findings[0].health is Health.FAULT else findings

    return [f"{one.health} {one.about}: {one.text}" for one in troubles(wait_for("an answer", found, 90))]


def change(machine: Machine, method: str, path: str, **values: object) -> None:
    """Change something on a machine's Prefect, retried while its SQLite is locked."""

    def done() -> bool:
        try:
            code = machine.api.request(method, path, json=values).status_code
        except httpx.TimeoutException:
            return False
        return code < HTTPStatus.INTERNAL_SERVER_ERROR

    wait_for(f"{method} {path}", done, 90)


@pytest.mark.slow
def test_whole_machine(machine: Machine) -> None:
    """With server, deployments and a worker all is well, and the doctor exits with 0."""
    assert look(machine) == []
    Shell(machine.folder, machine.signed_in).run("doctor", module="flows.manage")


@pytest.mark.slow
def test_broken_parts_of_prefect(machine: Machine) -> None:
    """A part that is paused, turned off, missing or without a worker is named with its remedy."""
    watch, manual = (machine.deployment(name)["id"] for name in (SCHEDULED[0], DEPLOYMENTS[0]))
    (automation,) = machine.api.post("/automations/filter", json={}).json()
    try:
        change(machine, "PATCH", f"/work_pools/{WORK_POOL}", is_paused=True)
        change(machine, "POST", f"/deployments/{watch}/pause_deployment")
        change(machine, "PATCH", f"/automations/{automation['id']}", enabled=False)
        change(machine, "DELETE", f"/deployments/{manual}")
        change(machine, "POST", "/work_pools/", name="idle", type="process")
        broken = look(machine)
        without = look(machine, Parts("idle", CLOSED_TEMPLATE, DEPLOYMENTS, (), "none")) + look(
            machine, Parts("lost", CLOSED_TEMPLATE, DEPLOYMENTS, (), "none")
        )
    finally:
        change(machine, "DELETE", "/work_pools/idle")
        change(machine, "PATCH", f"/work_pools/{WORK_POOL}", is_paused=False)
        change(machine, "POST", f"/deployments/{watch}/resume_deployment")
        change(machine, "PATCH", f"/automations/{automation['id']}", enabled=True)
        Shell(machine.folder, machine.signed_in).run("deploy", module="flows.manage")
    remedy = f"run `{command('deploy')}`"
    missing = f"FAULT deployments: missing: import-outlook/manual: {remedy}"
    assert broken == [
        missing,
        "warning schedules: paused: watch-inbox/scheduled: resume it on its page in the Prefect UI",
        f"FAULT work pool: {WORK_POOL} is paused: run `prefect work-pool resume {WORK_POOL}`",
        f"warning automation: “{AUTOMATION}” is off, so dead runs stay Running: turn it on in the UI",
    ]
    automation_missing = f"FAULT automation: “none” is missing, so dead runs stay Running forever: {remedy}"
    assert without == [
        missing,
        f"FAULT work pool: idle lets callers choose what its worker runs: {remedy}",
        "FAULT worker: none is online, so nothing runs: run `prefect worker start --pool idle`",
        automation_missing,
        missing,
        f"FAULT work pool: lost is missing: {remedy}",
        automation_missing,
    ]
    assert look(machine) == []
