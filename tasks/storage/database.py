"""The database of mailboxes: the engine, its migrations, and the keys that seal its secrets."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, Select, create_engine, event, inspect, make_url, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Mapped
from sqlmodel import col

import schemas.migrations
from schemas.sealing import Sealer, new_key, parse_keys
from schemas.settings import PREFIX, Settings, SettingsError
from schemas.tables import Table, Workspace, now
from tasks.crash import unquoted
from tasks.files.private_files import read_secret_file, refuse_open_database, refuse_open_to_change
from tasks.hints import command
from tasks.storage.key_file import Watch, private_draft, sync

# Any number, as long as every process that migrates uses the same one.
MIGRATION_LOCK = 0x6F75746C6F6F6B
BUSY_SECONDS = 60
# An import into a million mailboxes changes a page of the unique index for nearly every row, 2.5 MB in all.
# That fits into the cache (kB) and the journal (pages), so SQLite needs no temporary file for it.
LARGE = ("cache_size=-32768", "wal_autocheckpoint=8000", "temp_store=MEMORY")

# The maximum number of connections from a process to PostgreSQL. Half of them stay open.
MOST_CONNECTIONS = 10
# Settings of libpq: they detect within a minute that the host is gone. The address can override them.
LIVENESS = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}

# How many seconds to repeat an operation after the database went away.
PATIENCE = 60.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 4.0
# PostgreSQL's codes: shutting down, crashed, starting up, and too many clients (all reconnect at once).
AWAY = {"57P01", "57P02", "57P03", "53300"}
# PostgreSQL's codes and classes of codes: out of disk or memory, an input or output error, and read-only.
UNUSABLE = ("53", "58", "25006")

# SQLite's codes after which its open connections stay broken, even when the file is in order again.
BROKEN = {
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
}
# SQLite's codes for a file that cannot be used, whatever the statement is.
FILE_FAULTS = BROKEN | {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL}

LOGGER = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


class DatabaseLostError(Exception):
    """The database went away and did not come back in time, or it is locked, full, read-only or damaged.

    The text is a sentence and quotes no value.
    """


class NoSuchWorkspaceError(Exception):
    """There is no workspace with this name, and none is to be created."""


class SimilarWorkspaceError(Exception):
    """A new workspace would differ from an existing one only in upper and lower case.

    The text is a sentence that names the existing one.
    """

    def __init__(self, existing: str) -> None:
        super().__init__(
            f"The workspace “{existing}” exists, and names must differ in more than upper and lower case"
        )


# The exceptions of an operation when the database fails.
DATABASE_FAULTS = (DatabaseLostError, DBAPIError, PoolTimeoutError)


class Outage:
    """How long a database has been away. All threads share one clock, so that none starts to wait again."""

    def __init__(self) -> None:
        self._since: float | None = None

    def seconds(self) -> float:
        """Return how long the outage has lasted. The first call starts it."""
        since = self._since  # read once: another thread may end the outage at any moment
        if since is None:
            since = self._since = time.monotonic()
            LOGGER.warning("The database went away: waiting up to %d seconds for it", PATIENCE)
        return time.monotonic() - since

    def end(self, *_event: object) -> None:
        """End the outage: a connection works again."""
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

    An embedded SQLite database gets its file, its key and its tables as needed. Any other database has to be
    ready.

    Raises:
        SettingsError: If the address or the keys cannot be used, or the tables are not up to date.
    """
    url = url_of(settings)
    try:
        sealer = sealer_of(settings, url)
        engine = make_engine(url)
    except OSError as error:
        raise SettingsError(f"{error.filename} cannot be used: {error.strerror}") from None
    try:
        if (found := revision(engine)) != schemas.migrations.HEAD:
            # If the tables are newer than this program, `upgrade` refuses them.
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
    """Repeat a whole operation when its connection is lost, until the database is back.

    The operation has to be one transaction, and repeating it must not change the result: the connection may
    be lost after the COMMIT and before its answer.

    Raises:
        DatabaseLostError: If the database has been away for `PATIENCE` seconds, and the operation may or may
            not have been done. Or if the database cannot be used, and the operation has not been done.
    """

    @wraps(operation)
    def repeated(database: Database, /, *arguments: P.args, **named: P.kwargs) -> T:
        pause, waited = FIRST_PAUSE, 0.0
        while True:
            try:
                return operation(database, *arguments, **named)
            except (DBAPIError, PoolTimeoutError) as error:
                if is_unusable(error):
                    raise DatabaseLostError(f"the database cannot be used: {cause_of(error)}") from None
                if not is_lost(error):
                    raise
                cause = cause_of(error)
            waited += pause
            # The second limit is for a server that comes back each time and crashes from this operation.
            if max(database.outage.seconds(), waited) > PATIENCE:
                raise DatabaseLostError(f"the database went away for over {PATIENCE:.0f} seconds: {cause}")
            # Not all at once: every process lost the database at the same moment.
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  it is no secret
            pause = min(2 * pause, LONGEST_PAUSE)

    return repeated


def is_lost(error: DBAPIError | PoolTimeoutError) -> bool:
    """Whether the server went away or gives no connection, and nothing else is wrong.

    Source: the appendix on error codes of PostgreSQL's documentation. If no connection was made, there is no
    code.
    """
    if isinstance(error, PoolTimeoutError):
        return True
    if isinstance(error.orig, sqlite3.Error):
        return False
    if error.connection_invalidated:
        return True
    if not isinstance(error, OperationalError):
        return False
    code: str | None = getattr(error.orig, "sqlstate", None)
    return code is None or code in AWAY or code.startswith("08")


def is_unusable(error: DBAPIError | PoolTimeoutError) -> bool:
    """Whether the database is locked, full, read-only or damaged, so that waiting for a server is no use."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(cause, sqlite3.Error):
        return _result_code(cause) in FILE_FAULTS
    code: str | None = getattr(cause, "sqlstate", None)
    return code is not None and code not in AWAY and code.startswith(UNUSABLE)


def _result_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; 0 if the driver itself raised the error."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def cause_of(error: Exception) -> str:
    """Return the first line of the driver's own message."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(cause).strip().partition("\n")[0]


def url_of(settings: Settings) -> URL:
    """Return the address of the database.

    Raises:
        SettingsError: If it is not an address of SQLite or PostgreSQL. The text quotes no part of it.
    """
    try:
        url = make_url(settings.database_url.get_secret_value())
    except (ArgumentError, ValueError):  # a ValueError quotes a part of the address, maybe of the password
        raise SettingsError(f"{PREFIX}DATABASE_URL is not a database address: {_ADDRESSES}") from None
    # If the password contains an @, the text after it is read as the host, and messages show hosts.
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
    """Return the file of an embedded database; None if the database is on a server."""
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def make_engine(url: URL) -> Engine:
    """Make the engine. Its errors never show the parameters of a statement.

    Raises:
        OSError: If the file of an embedded database cannot be made.
        SettingsError: If other users can read or change that file.
    """
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

    @event.listens_for(engine, "do_connect")
    def open_existing(_dialect, _record, arguments, options) -> None:  # type: ignore[no-untyped-def]
        # If the file is gone, SQLite would make an empty one that other users can read.
        arguments[0], options["uri"] = f"{path.absolute().as_uri()}?mode=rw", True

    @event.listens_for(engine, "checkout")
    def refuse_lost_file(_connection, record, _proxy) -> None:  # type: ignore[no-untyped-def]
        # SQLite would go on writing to a file that was deleted or replaced, and it would all be lost.
        if record.info["file"] != _identity(path):
            raise DisconnectionError

    @event.listens_for(engine, "handle_error")
    def drop_broken(context: ExceptionContext) -> None:
        cause = context.original_exception
        if isinstance(cause, sqlite3.Error) and _result_code(cause) in BROKEN:
            context.is_disconnect = True

    @event.listens_for(engine, "connect")
    def configure(connection, record) -> None:  # type: ignore[no-untyped-def]
        record.info["file"] = _identity(path)
        # The driver's own transactions begin without a write lock, so two of them can lose an update.
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


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what distinguishes a file from one that replaces it; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def for_reading(engine: Engine) -> Engine:
    """Return the engine for statements that only read. On SQLite they do not wait for a writer."""
    return engine.execution_options(only_reads=True)


def insert_for(connection: Connection, model: type[Table]) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that has ON CONFLICT, in the dialect of the database."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(model)
    return sqlite.insert(model)


def workspace_named(name: str) -> Select[Any]:
    """Return a query for the id of the workspace with this name."""
    key: Mapped[Any] = col(Workspace.id)
    return select(key).where(col(Workspace.name) == name)


def workspace_id_of(connection: Connection, name: str, *, create: bool = True) -> int:
    """Return the id of the workspace with this name. By default it is created if it does not exist.

    Raises:
        SimilarWorkspaceError: If it does not exist, but its name differs from another only in case.
        NoSuchWorkspaceError: If it does not exist and is not to be created.
    """
    query = workspace_named(name)
    if (found := connection.scalar(query)) is not None:
        return int(found)
    if create and connection.dialect.name == "postgresql":
        # Until the end of this transaction no other one creates a workspace; on SQLite none writes at all.
        connection.execute(text("LOCK TABLE workspace IN SHARE ROW EXCLUSIVE MODE"))
    for existing in connection.scalars(select(col(Workspace.name))):
        if existing != name and existing.casefold() == name.casefold():
            raise SimilarWorkspaceError(existing)
    if not create:
        raise NoSuchWorkspaceError
    connection.execute(
        insert_for(connection, Workspace).values(name=name, created_at=now()).on_conflict_do_nothing()
    )
    return int(connection.execute(query).scalar_one())


def find_workspaces(database: Database, most: int) -> list[str]:
    """The names of the first workspaces, in the order in which they were made."""
    with for_reading(database.engine).connect() as connection:
        query = select(col(Workspace.name)).order_by(col(Workspace.id)).limit(most)
        return list(connection.scalars(query))


@through_restarts
def require_workspace(database: Database, name: str) -> None:
    """Check that a workspace exists.

    Raises:
        SimilarWorkspaceError, NoSuchWorkspaceError: As `workspace_id_of` does.
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    with for_reading(database.engine).connect() as connection:
        workspace_id_of(connection, name, create=False)


def revision(engine: Engine) -> str | None:
    """Return the revision of the tables; None if the database has no tables yet.

    Raises:
        SettingsError: If the database cannot be opened.
    """
    try:
        with for_reading(engine).connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return found
    except (DBAPIError, PoolTimeoutError) as error:
        if database_file(engine.url) is None:
            remedy = f"check that it is up, and {PREFIX}DATABASE_URL"
        else:  # on a full disk, SQLite only says “disk I/O error”
            remedy = "check that its disk has room, and that its folder can be written"
        raise SettingsError(f"the database cannot be opened: {cause_of(error)}: {remedy}") from None


# Alembic keeps its connection in module variables, so a second thread would use the first one's.
_UPGRADING = threading.Lock()


def upgrade(engine: Engine) -> None:
    """Bring the tables up to date. If several processes call this at once, one migrates and the others wait.

    Raises:
        SettingsError: If the tables are newer than this program.
    """
    import alembic.command  # takes a quarter of a second, and few commands come here
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(schemas.migrations.__file__).parent))
    with _UPGRADING, engine.begin() as connection:  # on SQLite this locks out other processes
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
    """Return a sealer with the configured keys. If they are in the key file, it follows changes of the file.

    Raises:
        SettingsError: If there is no key, or one of them is not a key.
    """
    watch = Watch(key_file(url))  # before the keys are read, so that no change is missed
    keys = _keys(settings, url)
    with unquoted():
        return Sealer(keys, watch.changed if settings.encryption_keys is None else tuple)


def _keys(settings: Settings, url: URL) -> list[bytes]:
    if settings.encryption_keys is not None:
        return _parsed(settings.encryption_keys.get_secret_value(), f"{PREFIX}ENCRYPTION_KEYS")
    embedded = database_file(url)
    if embedded is None:
        raise SettingsError(
            f"{PREFIX}ENCRYPTION_KEYS is not set; only an embedded SQLite database makes its own key"
        )
    path = key_file(url)
    # Check this before the key file: a process that makes both makes the key first.
    database_exists = embedded.exists()
    if not path.exists():
        if database_exists:
            raise SettingsError(
                f"the key file {path} is missing, and the secrets in the database beside it cannot be opened "
                f"without it: put it back, or set {PREFIX}ENCRYPTION_KEYS"
            )
        _make(path, lambda draft: draft.write_text(new_key() + "\n"))
    return _parsed(read_secret_file(path), str(path))


def key_file(url: URL) -> Path:
    """Return the key file of an embedded database: beside it, with the same name and `.key`."""
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
    """Make a private file and wait until it is on disk. If several processes try at once, one succeeds."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    refuse_open_to_change(path.parent)
    with private_draft(path) as draft:
        fill(draft)
        sync(draft)
        with suppress(FileExistsError):  # another process was faster; its file stays
            os.link(draft, path)


def _write_ahead_database(path: Path) -> None:
    # Set this before others open the file: SQLite does not wait for a lock to change the journal mode.
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
