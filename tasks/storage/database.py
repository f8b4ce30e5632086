"""The database of mailboxes: the engine, its migrations, and the key that seals what is in it."""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import alembic.command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, Table, create_engine, event, inspect, make_url, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

import schemas.migrations
from schemas.sealing import Sealer, new_key, parse_keys
from schemas.settings import PREFIX, Settings, SettingsError
from schemas.tables import Workspace, columns_of, now
from tasks.files.private_files import read_key_file, refuse_open_database, refuse_open_to_change
from tasks.hints import command
from tasks.storage.key_file import Watch, sync

# Any number will do as long as everybody who migrates takes the same.
MIGRATION_LOCK = 0x6F75746C6F6F6B
BUSY_SECONDS = 60
# An import among a million mailboxes changes a page of the unique index for nearly every row, 2.5 MB in all:
# that fits into the cache (kB) and the journal (pages), and nothing of it goes through a temporary file.
LARGE = ("cache_size=-32768", "wal_autocheckpoint=8000", "temp_store=MEMORY")

# How many connections to PostgreSQL a process may hold, of which half are kept open.
MOST_CONNECTIONS = 10
# libpq's own: a host that is gone is noticed within a minute. The address may say otherwise.
LIVENESS = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}

# For so many seconds an operation is tried again where the database went away.
PATIENCE = 60.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 4.0
# Of PostgreSQL: shutting down, crashed, starting up; too many clients, as when all come back at once.
AWAY = {"57P01", "57P02", "57P03", "53300"}

LOGGER = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


class DatabaseLostError(Exception):
    """The database went away and did not come back in time. The text is a sentence and quotes no value."""


# What an operation may fail with where the database does.
DATABASE_FAULTS = (DatabaseLostError, DBAPIError, PoolTimeoutError)


class Outage:
    """How long a database has been away: one clock for all threads, so that none begins to wait anew."""

    def __init__(self) -> None:
        self._since: float | None = None

    def seconds(self) -> float:
        """How long it lasts so far; the first who asks begins it."""
        if self._since is None:
            self._since = time.monotonic()
            LOGGER.warning("The database went away: waiting up to %d seconds for it", PATIENCE)
        return time.monotonic() - self._since

    def end(self, *_event: object) -> None:
        self._since = None


@dataclass(frozen=True)
class Database:
    """An open database whose tables are up to date, and the sealer for its secrets."""

    engine: Engine
    sealer: Sealer
    outage: Outage = field(default_factory=Outage)


@contextmanager
def database(settings: Settings) -> Iterator[Database]:
    """Open the database and close it at the end.

    The embedded SQLite is made, keyed and migrated where needed; any other database has to be ready.

    Raises:
        SettingsError: When the address, the keys or the tables are not as they have to be.
    """
    url = url_of(settings)
    try:
        sealer = sealer_of(settings, url)
        engine = make_engine(url)
    except OSError as error:
        raise SettingsError(f"{error.filename} cannot be used: {error.strerror}") from None
    try:
        if (found := revision(engine)) != schemas.migrations.HEAD:
            # Newer tables: `upgrade` says so.
            if database_file(url) is None and (found or "") < schemas.migrations.HEAD:
                raise SettingsError(
                    f"the database's tables are not up to date: run `{command('database', 'upgrade')}`"
                )
            upgrade(engine)
        opened = Database(engine, sealer)
        event.listen(engine, "checkout", opened.outage.end)
        yield opened
    finally:
        engine.dispose()


def through_restarts(
    operation: Callable[Concatenate[Database, P], T],
) -> Callable[Concatenate[Database, P], T]:
    """Repeat an operation as a whole where its connection is lost, until the database is back.

    For operations in one transaction that end the same when they are repeated: the connection may be lost
    behind the COMMIT and before its answer.

    Raises:
        DatabaseLostError: When the database has been away for `PATIENCE`; it is not known then whether the
            operation was done.
    """

    @wraps(operation)
    def repeated(database: Database, /, *arguments: P.args, **named: P.kwargs) -> T:
        pause, waited = FIRST_PAUSE, 0.0
        while True:
            try:
                return operation(database, *arguments, **named)
            except (DBAPIError, PoolTimeoutError) as error:
                if not is_lost(error):
                    raise
                cause = cause_of(error)
            waited += pause
            # The second bound is for a server that comes back each time and is brought down by this again.
            if max(database.outage.seconds(), waited) > PATIENCE:
                raise DatabaseLostError(f"the database went away for over {PATIENCE:.0f} seconds: {cause}")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    return repeated


def is_lost(error: DBAPIError | PoolTimeoutError) -> bool:
    """Whether the server went away, or there is no connection to be had, and nothing is wrong otherwise.

    Source: PostgreSQL's appendix on error codes. A connection that was never made has none.
    """
    if isinstance(error, PoolTimeoutError) or error.connection_invalidated:
        return True
    if not isinstance(error, OperationalError):
        return False
    code: str | None = getattr(error.orig, "sqlstate", "")  # SQLite's errors have no such thing
    return code is None or code in AWAY or code.startswith("08")


def cause_of(error: Exception) -> str:
    """The driver's own words, their first line."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(cause).strip().partition("\n")[0]


def url_of(settings: Settings) -> URL:
    try:
        url = make_url(settings.database_url.get_secret_value())
    except (ArgumentError, ValueError):  # the latter quotes a piece of the address, perhaps of the password
        raise SettingsError(f"{PREFIX}DATABASE_URL is not a database address: {_ADDRESSES}") from None
    # What follows the first @ of a password would be taken for the host, and hosts are told to people.
    if url.get_backend_name() == "postgresql" and "@" not in (url.host or ""):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername in ("sqlite", "sqlite+pysqlite") and url.database not in (None, "", ":memory:"):
        return url
    raise SettingsError(f"{PREFIX}DATABASE_URL cannot be used: {_ADDRESSES}")


_ADDRESSES = (
    "it has to be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME "
    "(in a password, write @ as %40, : as %3A and / as %2F)"
)


def database_file(url: URL) -> Path | None:
    """The file of an embedded database; None for a server's."""
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def make_engine(url: URL) -> Engine:
    """Make the engine; errors of the engine never show a statement's parameters."""
    path = database_file(url)
    if path is None:
        return create_engine(
            url.set(query=LIVENESS | dict(url.query)),
            hide_parameters=True,
            pool_pre_ping=True,
            pool_size=MOST_CONNECTIONS // 2,
            max_overflow=MOST_CONNECTIONS // 2,
            pool_timeout=30,
        )
    if not path.exists():
        _make(path, _write_ahead_database)
    refuse_open_database(path)
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def configure(connection, _record) -> None:  # type: ignore[no-untyped-def]
        # The driver's own transactions begin as readers and lose updates when two of them write.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", *LARGE):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get("only_reads", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def for_reading(engine: Engine) -> Engine:
    """The same engine, for statements that write nothing: on SQLite they then wait for no writer."""
    return engine.execution_options(only_reads=True)


def insert_for(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that knows ON CONFLICT, in the dialect of the database."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def workspace_id_of(connection: Connection, name: str) -> int:
    """The workspace of that name, made where it does not exist."""
    table = columns_of(Workspace)
    connection.execute(
        insert_for(connection, table).values(name=name, created_at=now()).on_conflict_do_nothing()
    )
    return int(connection.execute(select(table.c.id).where(table.c.name == name)).scalar_one())


def revision(engine: Engine) -> str | None:
    """The revision that the tables are at; None for a database without them.

    Raises:
        SettingsError: When the database cannot be opened.
    """
    try:
        with for_reading(engine).connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return found
    except (DBAPIError, PoolTimeoutError) as error:
        raise SettingsError(
            f"the database cannot be opened: {cause_of(error)}: check that it is up, and {PREFIX}DATABASE_URL"
        ) from None


# Alembic keeps what it works on in its modules: of two threads, one would work on the other's connection.
_UPGRADING = threading.Lock()


def upgrade(engine: Engine) -> None:
    """Bring the tables up to date; several processes may do so at once, and one of them does it.

    Raises:
        SettingsError: When the tables are newer than this program.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(schemas.migrations.__file__).parent))
    with _UPGRADING, engine.begin() as connection:  # on SQLite this is the lock between processes already
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        config.attributes["connection"] = connection
        try:
            alembic.command.upgrade(config, "head")
        except CommandError:
            raise SettingsError(
                "the database's tables are newer than this program: update the program"
            ) from None


def sealer_of(settings: Settings, url: URL) -> Sealer:
    """The sealer of the configured keys; where they are in the key file, it follows each change of that."""
    watch = Watch(key_file(url))  # before the keys are read: a change in between is seen
    return Sealer(_keys(settings, url), watch.changed if settings.encryption_keys is None else tuple)


def _keys(settings: Settings, url: URL) -> list[bytes]:
    if settings.encryption_keys is not None:
        return _parsed(settings.encryption_keys.get_secret_value(), f"{PREFIX}ENCRYPTION_KEYS")
    embedded = database_file(url)
    if embedded is None:
        raise SettingsError(
            f"{PREFIX}ENCRYPTION_KEYS is not set; only the embedded SQLite makes a key by itself"
        )
    path = key_file(url)
    # Asked before the key is looked for: whoever makes both makes the key first.
    database_exists = embedded.exists()
    if not path.exists():
        if database_exists:
            raise SettingsError(
                f"the key file {path} is missing, and the secrets in the database beside it cannot be opened "
                f"without it: put it back, or set {PREFIX}ENCRYPTION_KEYS"
            )
        _make(path, lambda draft: draft.write_text(new_key() + "\n"))
    return _parsed(read_key_file(path), str(path))


def key_file(url: URL) -> Path:
    """Where the embedded database's key lies: beside it, under the same name."""
    return Path(url.database or "").with_suffix(".key")


def _parsed(text: str, where: str) -> list[bytes]:
    try:
        keys = parse_keys(text)
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from None
    if not keys:
        raise SettingsError(f"{where} holds no key")
    return keys


def _make(path: Path, fill: Callable[[Path], object]) -> None:
    """Make a private file in one step that only one process wins, and have it on disk before any row."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    refuse_open_to_change(path.parent)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    draft.touch(mode=0o600, exist_ok=False)
    draft.chmod(0o600)  # the umask may have kept out its owner, too
    try:
        fill(draft)
        sync(draft)
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was faster: its file counts
    finally:
        draft.unlink()
    sync(path.parent)


def _write_ahead_database(path: Path) -> None:
    # Changing a shared file over is the one thing that SQLite does not wait for its lock to do.
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
