"""The database of mailboxes: the engine, its migrations, and the key that seals what is in it."""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError

import schemas.migrations
from schemas.sealing import Sealer, new_key, parse_keys
from schemas.settings import PREFIX, Settings, SettingsError

# Any number will do as long as everybody who migrates takes the same.
MIGRATION_LOCK = 0x6F75746C6F6F6B
BUSY_SECONDS = 60


@dataclass(frozen=True)
class Database:
    """An open database whose tables are up to date, and the sealer for its secrets."""

    engine: Engine
    sealer: Sealer


@contextmanager
def database(settings: Settings) -> Iterator[Database]:
    """Open the database and close it at the end.

    The embedded SQLite is made, keyed and migrated where needed; any other database has to be ready.

    Raises:
        SettingsError: When the address, the keys or the tables are not as they have to be.
    """
    url = url_of(settings)
    try:
        sealer = Sealer(_keys(settings, url))
        engine = make_engine(url)
    except OSError as error:
        raise SettingsError(f"{error.filename} cannot be used: {error.strerror}") from None
    try:
        if revision(engine) != schemas.migrations.HEAD:
            if url.get_backend_name() != "sqlite":
                raise SettingsError(
                    "the database's tables are not up to date: run `python -m flows.manage database upgrade`"
                )
            upgrade(engine)
        yield Database(engine, sealer)
    finally:
        engine.dispose()


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


def make_engine(url: URL) -> Engine:
    """Make the engine; errors of the engine never show a statement's parameters."""
    if url.get_backend_name() != "sqlite":
        return create_engine(url, hide_parameters=True, pool_pre_ping=True)
    path = Path(url.database or "")
    if not path.exists():
        _make(path, _write_ahead_database)
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def configure(connection, _record) -> None:  # type: ignore[no-untyped-def]
        # The driver's own transactions begin as readers and lose updates when two of them write.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
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


def revision(engine: Engine) -> str | None:
    """The revision that the tables are at; None for a database without them.

    Raises:
        SettingsError: When the database cannot be opened.
    """
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return found
    except DBAPIError as error:
        cause = str(error.orig).strip().partition("\n")[0]
        raise SettingsError(
            f"the database cannot be opened: {cause}: check that it is up, and {PREFIX}DATABASE_URL"
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
            command.upgrade(config, "head")
        except CommandError:
            raise SettingsError(
                "the database's tables are newer than this program: update the program"
            ) from None


def _keys(settings: Settings, url: URL) -> list[bytes]:
    if settings.encryption_keys is not None:
        return _parsed(settings.encryption_keys.get_secret_value(), f"{PREFIX}ENCRYPTION_KEYS")
    if url.get_backend_name() != "sqlite":
        raise SettingsError(
            f"{PREFIX}ENCRYPTION_KEYS is not set; only the embedded SQLite makes a key by itself"
        )
    path = key_file(url)
    # Asked before the key is looked for: whoever makes both makes the key first.
    database_exists = Path(url.database or "").exists()
    if not path.exists():
        if database_exists:
            raise SettingsError(
                f"the key file {path} is missing, and the secrets in the database beside it cannot be opened "
                f"without it: put it back, or set {PREFIX}ENCRYPTION_KEYS"
            )
        _make(path, lambda draft: draft.write_text(new_key() + "\n"))
    return _parsed(path.read_text(errors="replace"), str(path))


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
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    draft.touch(mode=0o600, exist_ok=False)
    try:
        fill(draft)
        _sync(draft)
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was faster: its file counts
    finally:
        draft.unlink()
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_ahead_database(path: Path) -> None:
    # Changing a shared file over is the one thing that SQLite does not wait for its lock to do.
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
