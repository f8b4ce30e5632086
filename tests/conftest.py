"""Shared fixtures: isolated settings, real databases, the Outlook stand-in, and a real Prefect server."""

# ruff: noqa: E402  the environment must be clean before Prefect is first imported

from __future__ import annotations

import asyncio
import atexit
import csv
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

# Prefect reads its settings on import, so remove this machine's own settings first.
assert "prefect" not in sys.modules
for name in [name for name in os.environ if name.startswith("PREFECT_")]:
    del os.environ[name]
PREFECT_HOME = Path(tempfile.mkdtemp(prefix="prefect-home-"))
atexit.register(shutil.rmtree, PREFECT_HOME, ignore_errors=True)
os.environ["PREFECT_HOME"] = str(PREFECT_HOME)
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"

import prefect.context
import pytest
import trustme
from _pytest.nodeid import NodeId
from prefect.logging.handlers import APILogWorker
from pydantic import SecretStr

from sandbox.outlook import Account, Outlook, ServerFaults, running
from sandbox.script import read_accounts
from schemas.prepare import Prepared
from schemas.sealing import new_key
from schemas.settings import PREFIX, Settings
from schemas.tables import Table, table_of
from schemas.verdicts import Target, group_targets
from tasks.configuration import load_settings
from tasks.files.prefect_profile import RECORDER_SETTINGS
from tasks.prepare import prepare
from tasks.probe import Probing
from tasks.storage.database import Database, database, make_engine, upgrade, url_of
from tasks.store import Origin, Stored, store
from tests.support.machine import Machine, free_port, machine_running, webhook_listening
from tests.support.postgresql import (
    START_SECONDS,
    PostgreSql,
    bound,
    ending,
    postgresql_binaries,
    postgresql_of,
)
from tests.support.shell import SAMPLES, Shell, environment, on_sqlite

if TYPE_CHECKING:
    from tests.test_api import Api

LOG = logging.getLogger("tests")
HANGING = "hanging@contoso.com"

StartOutlook = Callable[..., Awaitable[Outlook]]


# --- Settings --------------------------------------------------------


@pytest.fixture
def settings(fresh_database: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The defaults with the test's own database, for this process and the programs it starts."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in fresh_database.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def with_servers(settings: Settings, outlook: Outlook, **changes: Any) -> Settings:
    """Settings that test every mailbox on the stand-in."""
    # Two names for one machine: as at Microsoft, each protocol has its own host and its own slots.
    servers = {"smtp": f"localhost:{outlook.smtp_port}", "imap": f"127.0.0.1:{outlook.imap_port}"}
    return with_changes(settings, servers={"*": servers}, ca_file=outlook.ca_file, **changes)


def with_changes(settings: Settings, **changes: Any) -> Settings:
    """Settings for the same database with other values."""
    kept = {name: getattr(settings, name) for name in ("database_url", "encryption_keys")}
    return type(settings)(**(kept | changes))


# --- Databases -------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database",
        choices=["sqlite", "postgresql"],
        help="sqlite: without what `--database postgresql` runs; that runs what uses a database, on it",
    )


@pytest.fixture
def fresh_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables of the test's own database: PostgreSQL if `--database` says so, otherwise SQLite."""
    if request.config.getoption("--database") == "postgresql":
        yield request.getfixturevalue("on_postgresql")
    else:
        yield on_sqlite(tmp_path)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSql]:
    """A real PostgreSQL on its own socket."""
    faults = []
    for binaries in postgresql_binaries():
        with ExitStack() as stack:
            try:
                server = stack.enter_context(postgresql_of(binaries))
            except (OSError, subprocess.SubprocessError) as error:
                faults.append(f"{binaries}: {error}")
                continue
            yield server
            return
    pytest.skip(f"no PostgreSQL that runs: {'; '.join(faults) or 'neither on the system nor as a wheel'}")


@pytest.fixture(scope="session")
def migrated(postgresql: PostgreSql) -> Iterator[str]:
    """The name of a PostgreSQL database with current tables, used as a template."""
    with template_on(postgresql) as name:
        yield name


@contextmanager
def template_on(server: PostgreSql) -> Iterator[str]:
    """Yield the name of a database on the server with current tables, for use as a template."""
    with server.new_database() as address:
        engine = make_engine(url_of(Settings(database_url=SecretStr(address))))
        upgrade(engine)
        engine.dispose()
        yield str(engine.url.database)


@pytest.fixture
def on_postgresql(postgresql: PostgreSql, migrated: str) -> Iterator[dict[str, str]]:
    """The variables of a new PostgreSQL database with current tables."""
    with postgresql.new_database(migrated) as address:
        yield {f"{PREFIX}DATABASE_URL": address, f"{PREFIX}ENCRYPTION_KEYS": new_key()}


@pytest.fixture(params=["sqlite", "postgresql"])
def either_settings(
    request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings with a new database and current tables: SQLite, then PostgreSQL."""
    if request.param == "sqlite":
        return settings
    for name, value in request.getfixturevalue("on_postgresql").items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.fixture
def db(either_settings: Settings) -> Iterator[Database]:
    """A new open database: SQLite, then PostgreSQL."""
    with database(either_settings) as opened:
        yield opened


def rows_of(db: Database, model: type[Table]) -> list[dict[str, Any]]:
    """Every row of a table, ordered by primary key."""
    table = table_of(model)
    with db.engine.connect() as connection:
        query = table.select().order_by(*table.primary_key.columns)
        return [dict(row) for row in connection.execute(query).mappings()]


# --- The HTTP API ----------------------------------------------------


@pytest.fixture
def api(settings: Settings) -> Iterator[Api]:
    """A server on SQLite whose mailboxes are on no server."""
    from tests.test_api import api_with

    with api_with(settings) as started:
        yield started


@pytest.fixture
def either_api(either_settings: Settings) -> Iterator[Api]:
    """The same on SQLite, then on PostgreSQL."""
    from tests.test_api import api_with

    with api_with(either_settings, api_imports_at_once=100) as started:
        yield started


# --- Files and imports -----------------------------------------------


def accounts(number: int, domain: str = "outlook.com", **behaviour: str) -> dict[str, Account]:
    """This many mailboxes, each with its own password."""
    return {f"user{n}@{domain}": Account(f"pass word {n}", **behaviour) for n in range(1, number + 1)}


def write_csv(
    path: Path, rows: Iterable[Sequence[str]], header: Sequence[str] = ("email", "password")
) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def mailboxes_file(path: Path, mailboxes: Mapping[str, Account]) -> Path:
    """A file of these mailboxes with the correct passwords."""
    return write_csv(path, ((address, account.password) for address, account in mailboxes.items()))


def import_file(
    db: Database,
    settings: Settings,
    file: Path,
    workspace: str = "default",
    tag: str | None = None,
    *,
    test: bool = True,
) -> Stored:
    """Prepare and store a file with the flow's tasks."""
    prepared = prepare.fn(file, settings.max_file_bytes, served=tuple(settings.overrides))
    assert isinstance(prepared, Prepared), prepared
    return store.fn(prepared, Origin(file.name, workspace, tag, test), db, settings)


def import_mailboxes(
    db: Database, settings: Settings, mailboxes: Mapping[str, Account]
) -> tuple[Target, ...]:
    """Store these mailboxes with the correct passwords; return what there is to test."""
    with tempfile.TemporaryDirectory() as folder:
        return import_file(db, settings, mailboxes_file(Path(folder) / "mailboxes.csv", mailboxes)).targets


async def probe_targets(probing: Probing, targets: Sequence[Target], size: int = 25) -> None:
    """Run all groups at once, as the flow does."""
    async with asyncio.TaskGroup() as tasks:
        for group in group_targets(targets, size):
            tasks.create_task(probing.test_group(group, LOG))


# --- Servers ---------------------------------------------------------


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One CA file for all tests, so that they share one SSL context: each takes 30 ms to make."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return path


@pytest.fixture
async def start(ca: trustme.CA, ca_file: Path, tmp_path: Path) -> AsyncIterator[StartOutlook]:
    """Start stand-ins on the test's own event loop; all of them stop when the test ends."""
    async with AsyncExitStack() as stack:

        async def run(
            mailboxes: Mapping[str, Account], server: ServerFaults | None = None, delay: float = 0.0
        ) -> Outlook:
            outlook = Outlook(mailboxes, server=server, delay=delay, ca=ca, folder=tmp_path)
            await stack.enter_async_context(outlook)
            outlook.ca_file = ca_file
            return outlook

        yield run


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """The API address of a real Prefect server, used by this process and its child processes from then on."""
    with prefect_running(PREFECT_HOME) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", url)
        prefect.context.refresh_global_settings_context()
        yield url
        APILogWorker.drain_all(timeout=5)  # the last log lines still need the server
    prefect.context.refresh_global_settings_context()


@contextmanager
def prefect_running(home: Path, **variables: str) -> Iterator[str]:
    """A real Prefect server with its own variables; yield the address of its API."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    surroundings = os.environ | RECORDER_SETTINGS | {"PREFECT_HOME": str(home)} | variables
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(bound([*command, "--no-ui"]), env=surroundings, stdout=log, stderr=log)
    with ending(process):
        deadline = time.monotonic() + START_SECONDS
        while not _healthy(url):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"no Prefect server: {(home / 'server.log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield url


def _healthy(url: str) -> bool:
    try:
        with urlopen(f"{url}/health") as answer:  # noqa: S310  our own server
            return bool(answer.status == HTTPStatus.OK)
    except OSError:
        return False


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Everything that `make up` runs, with the sample mailboxes and one file in the inbox."""
    folder = tmp_path_factory.mktemp("machine")
    (folder / "watched" / "inbox").mkdir(parents=True)
    accounts = read_accounts(SAMPLES / "sandbox.csv") | {HANGING: Account("p", smtp="hang:auth")}
    with (
        running(accounts, folder=folder) as outlook,
        webhook_listening() as webhook,
        machine_running(folder, free_port(), outlook, webhook) as up,
    ):
        write_csv(up.watched / "inbox" / "dropped.csv", [["dropped@contoso.com", "p"], ["", "q"]])
        up.dropped_at = time.monotonic()
        yield up


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run expensive tests on one worker; with `--database`, leave out those for the other database."""
    # `test_up` stops the machine, so it is the last of the tests that share it.
    items.sort(key=lambda item: item.path.name if "machine" in fixtures_of(item) else "")
    for item in items:
        # A server of its own for each worker costs less than slow tests that wait for one another.
        for costly in ("machine",) if item.get_closest_marker("slow") else ("machine", "prefect_server"):
            if costly in fixtures_of(item):
                # As `xdist_group` does. With pytest 9.2, that of pytest-xdist 3.8 has no effect: it writes an
                # attribute that pytest no longer reads.
                if hasattr(config, "workerinput"):
                    item._id = NodeId.parse(f"{item.nodeid}@{costly}")
                break
    if wanted := config.getoption("--database"):
        away = [item for item in items if not belongs_to(item, wanted)]
        config.hook.pytest_deselected(items=away)
        items[:] = [item for item in items if item not in set(away)]


def fixtures_of(item: pytest.Item) -> Sequence[str]:
    return getattr(item, "fixturenames", ())


def belongs_to(item: pytest.Item, kind: str) -> bool:
    """Whether a test is one of the run on this kind of database; tests without one belong to SQLite's."""
    parameters = (
        item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    )
    if parameters.get("either_settings", kind) != kind:
        return False
    uses_one = "fresh_database" in fixtures_of(item) and not item.get_closest_marker("sqlite")
    return kind == "sqlite" or uses_one


# --- Commands --------------------------------------------------------


@pytest.fixture
def shell(tmp_path: Path, fresh_database: Mapping[str, str], prefect_server: str) -> Shell:
    """Run the project's commands with the test's own database and the session's Prefect server."""
    return Shell(tmp_path, environment(PREFECT_API_URL=prefect_server, **fresh_database))


@pytest.fixture
def offline(tmp_path: Path, fresh_database: Mapping[str, str]) -> Shell:
    """A shell whose Prefect server does not exist, so a command that contacts it fails."""
    return Shell(tmp_path, environment(PREFECT_API_URL="http://127.0.0.1:9/api", **fresh_database))
