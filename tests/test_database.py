"""The database creates, keys and migrates itself, and reports what is wrong when it cannot."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlmodel import col

import schemas.migrations
from schemas.sealing import Owner, Sealer, new_key, parse_keys
from schemas.settings import Settings, SettingsError
from schemas.tables import Table, Workspace, now
from tasks.storage.database import (
    MIGRATION_LOCK,
    Database,
    database,
    key_file,
    make_engine,
    revision,
    upgrade,
    url_of,
)
from tests.conftest import with_changes
from tests.support.machine import wait_for
from tests.support.postgresql import PostgreSql
from tests.support.shell import LIMIT_SECONDS, PROJECT, Shell, environment

OWNER = Owner("default", "anna@outlook.com", "password")


def at(address: str, keys: str | None = None) -> Settings:
    return Settings(
        database_url=SecretStr(address), encryption_keys=None if keys is None else SecretStr(keys)
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# What it creates on its own.


def test_sqlite_is_made_by_itself(tmp_path: Path) -> None:
    """A new SQLite database gets its folder, its tables and a key, all readable only by their owner."""
    file = tmp_path / "new" / "folder" / "mailboxes.db"
    with database(at(f"sqlite:///{file}")) as opened:
        assert revision(opened.engine) == schemas.migrations.HEAD
        assert {path.name: mode(path) for path in file.parent.iterdir()} == {
            "mailboxes.db": 0o600,
            "mailboxes.db-shm": 0o600,
            "mailboxes.db-wal": 0o600,
            "mailboxes.key": 0o600,
        }


@pytest.mark.sqlite
def test_sqlite_opens_again_with_the_same_key(settings: Settings) -> None:
    """A value sealed before the database was closed can be unsealed after it is opened again."""
    with database(settings) as opened:
        sealed = opened.sealer.seal("secret", OWNER)
    with database(settings) as opened:
        assert opened.sealer.open(sealed, OWNER) == "secret"


@pytest.mark.sqlite
def test_a_key_in_the_settings_makes_no_file(settings: Settings) -> None:
    """A key in the settings is used, and no key file is created."""
    key = new_key()
    with database(with_changes(settings, encryption_keys=SecretStr(key))) as opened:
        sealed = opened.sealer.seal("secret", OWNER)
    assert not key_file(url_of(settings)).exists()
    assert Sealer(parse_keys(key)).open(sealed, OWNER) == "secret"


OPEN_AND_SEAL = """
import sys
import schemas.tables
from schemas.sealing import Owner
from schemas.settings import Settings
from tasks.storage.database import database
owner = Owner("default", "anna@outlook.com", "password")
print(flush=True)
for line in sys.stdin:
    with database(Settings(database_url=line.strip())) as opened:
        print(opened.sealer.seal("secret", owner).hex(), flush=True)
"""


@pytest.mark.slow
def test_processes_that_open_a_new_database_at_once(tmp_path: Path) -> None:
    """Processes that open the same new database at once all succeed and share one key."""
    with ExitStack() as stack:
        command = [sys.executable, "-W", "error", "-c", OPEN_AND_SEAL]
        processes = [
            stack.enter_context(
                subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            for _ in range(3)
        ]

        def together(line: str) -> list[str]:
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(line)
                process.stdin.flush()
            return [process.stdout.readline().strip() for process in processes if process.stdout is not None]

        together("")  # all have started
        for turn in range(20):
            address = f"sqlite:///{tmp_path}/{turn}/mailboxes.db"
            sealed = together(f"{address}\n")
            with database(at(address)) as opened:
                assert [opened.sealer.open(bytes.fromhex(value), OWNER) for value in sealed] == ["secret"] * 3
            assert not list((tmp_path / str(turn)).glob(".*"))


def test_threads_that_open_a_new_database_at_once(tmp_path: Path) -> None:
    """Sixteen threads that open a new database at once, ten times over, all succeed and share one key."""
    for turn in range(10):
        settings = at(f"sqlite:///{tmp_path}/{turn}/mailboxes.db")

        def seal(_: int, settings: Settings = settings) -> bytes:
            with database(settings) as opened:
                return opened.sealer.seal("secret", OWNER)

        with ThreadPoolExecutor(16) as pool:
            sealed = list(pool.map(seal, range(16)))
        with database(settings) as opened:
            assert {opened.sealer.open(value, OWNER) for value in sealed} == {"secret"}


def test_upgrades_of_postgresql_at_once(postgresql: PostgreSql) -> None:
    """Several upgrades of one PostgreSQL at once produce one set of tables."""
    with postgresql.new_database() as address:
        engine = make_engine(url_of(at(address)))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(upgrade, [engine] * 4))
        assert revision(engine) == schemas.migrations.HEAD
        engine.dispose()


@pytest.mark.slow
def test_upgrades_of_postgresql_by_processes_at_once(postgresql: PostgreSql) -> None:
    """Three commands that upgrade one empty PostgreSQL wait for each other, and all succeed."""
    count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with postgresql.new_database() as address, psycopg.connect(address, autocommit=True) as holding:
        holding.execute("SELECT pg_advisory_lock(%s::bigint)", [MIGRATION_LOCK])
        shell = Shell(PROJECT, environment(OUTLOOK_IMPORT_DATABASE_URL=address))
        commands = [shell.start("database", "upgrade", module="flows.manage") for _ in range(3)]
        try:
            wait_for("all three", lambda: holding.execute(count).fetchone() == (3,), 60)
        finally:
            holding.execute("SELECT pg_advisory_unlock(%s::bigint)", [MIGRATION_LOCK])
            said = [command.communicate(timeout=LIMIT_SECONDS) for command in commands]
        head = f"The tables are at revision {schemas.migrations.HEAD} (before: none).\n"
        assert said == [(head, "")] * 3


# The migrations.


def test_head_is_the_newest_migration() -> None:
    """The revision that the code expects is the latest one in Alembic."""
    config = Config()
    config.set_main_option("script_location", str(Path(schemas.migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_heads() == [schemas.migrations.HEAD]


def test_migrations_make_the_tables_of_the_code(db: Database) -> None:
    """On both databases the migrations create exactly the tables that the code declares."""
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


# What it refuses.


@pytest.mark.sqlite
def test_a_missing_key_file_is_refused(settings: Settings, tmp_path: Path) -> None:
    """A database whose key file is missing is refused, and no new key is created."""
    with database(settings):
        pass
    key_file(url_of(settings)).unlink()
    with pytest.raises(SettingsError, match=r"mailboxes\.key is missing.*put it back"), database(settings):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["mailboxes.db"]


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "holds no key"),
        (b"c2hvcnQ=", "encryption key number 1 is not 32 bytes"),
        (b"not a key!", "encryption key number 1 is not 32 bytes"),
        (b"\xff\xfe\x00\x80 binary", "key"),
    ],
)
def test_a_bad_key_file_is_refused(settings: Settings, content: bytes, fault: str) -> None:
    """A key file that contains anything but keys is refused by name, and its content is not shown."""
    path = key_file(url_of(settings))
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=fault) as refusal, database(settings):
        pass
    assert str(path) in str(refusal.value)
    assert content == b"" or content.decode("utf-8", "replace")[:5] not in str(refusal.value)


@pytest.mark.parametrize("keys", ["nonsense", "c2hvcnQ=", ",", f"{'A' * 43}=,short", "schlüssel"])
def test_bad_keys_in_the_settings_are_refused(settings: Settings, keys: str) -> None:
    """Invalid keys in the settings are refused by the name of the setting, and their value is not shown."""
    with (
        pytest.raises(SettingsError, match="OUTLOOK_IMPORT_ENCRYPTION_KEYS") as refusal,
        database(with_changes(settings, encryption_keys=SecretStr(keys))),
    ):
        pass
    assert keys == "," or keys[-6:] not in str(refusal.value)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "nonsense",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite+aiosqlite:///mailboxes.db",
        "mysql://user:hunter2@localhost/mailboxes",
        "postgresql://user:hunter2@localhost:port/mailboxes",
        "postgresql://user:p@hunter2:w/rd@localhost/mailboxes",
        "postgresql://user:p@hunter2@localhost/mailboxes",
    ],
)
def test_a_wrong_address_is_refused(address: str) -> None:
    """A malformed address, or one of an unsupported database, is refused without being quoted."""
    with (
        pytest.raises(SettingsError, match=r"DATABASE_URL.*it has to be sqlite:///FILE or") as refusal,
        database(at(address, new_key())),
    ):
        pass
    assert "hunter2" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_database_that_does_not_answer_is_refused() -> None:
    """An unreachable PostgreSQL is a settings error whose text has the cause and no password."""
    address = "postgresql://user:hunter2@127.0.0.1:1/mailboxes"
    with (
        pytest.raises(SettingsError, match=r"cannot be opened: .*refused.*DATABASE_URL") as refusal,
        database(at(address, new_key())),
    ):
        pass
    assert "hunter2" not in str(refusal.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """A file that is not a database is refused and left unchanged."""
    file = tmp_path / "mailboxes.db"
    file.touch(mode=0o600)
    file.write_bytes(b"email,password\n" * 100)
    with (
        pytest.raises(SettingsError, match="not a database"),
        database(at(f"sqlite:///{file}", new_key())),
    ):
        pass
    assert file.read_bytes() == b"email,password\n" * 100


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """A database in a folder that cannot be created is refused by the folder's name."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(SettingsError, match=r"/file.* cannot be used: "),
        database(at(f"sqlite:///{tmp_path}/file/mailboxes.db")),
    ):
        pass


def test_postgresql_needs_a_key(postgresql: PostgreSql) -> None:
    """PostgreSQL without a key in the settings is refused, because it has no place for a key file."""
    with (
        postgresql.new_database() as address,
        pytest.raises(SettingsError, match="ENCRYPTION_KEYS is not set"),
        database(at(address)),
    ):
        pass


def test_postgresql_is_migrated_by_hand_only(postgresql: PostgreSql) -> None:
    """PostgreSQL without current tables is refused with the command that migrates it."""
    with postgresql.new_database() as address:
        with (
            pytest.raises(SettingsError, match="outlook-import database upgrade"),
            database(at(address, new_key())),
        ):
            pass
        engine = make_engine(url_of(at(address)))
        assert sa.inspect(engine).get_table_names() == []
        upgrade(engine)
        engine.dispose()
        with database(at(address, new_key())):
            pass


def test_tables_of_a_newer_program_are_refused(settings: Settings) -> None:
    """Tables migrated by a newer version of this program are left unchanged."""
    with database(settings) as opened, opened.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SettingsError, match="newer than this program"), database(settings):
        pass


# How it behaves.


def test_no_update_is_lost(db: Database) -> None:
    """Two threads that read a value, add one and write it back never lose an update."""
    with db.engine.begin() as connection:
        connection.execute(sa.insert(Workspace).values(name="0", created_at=now()))

    def count(_: int) -> None:
        for _ in range(30):
            with db.engine.begin() as connection:
                number = int(connection.scalars(sa.select(col(Workspace.name)).with_for_update()).one())
                connection.execute(sa.update(Workspace).values(name=str(number + 1)))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(count, range(2)))
    with db.engine.connect() as connection:
        assert connection.scalars(sa.select(col(Workspace.name))).one() == "60"


def test_errors_show_no_parameters(db: Database) -> None:
    """The text of an integrity error contains the statement and none of its values."""
    statement = sa.insert(Workspace).values(name="hunter2", created_at=now())
    with db.engine.begin() as connection:
        connection.execute(statement)
    with pytest.raises(sa.exc.IntegrityError) as error, db.engine.begin() as connection:
        connection.execute(statement)
    assert "SQL parameters hidden" in str(error.value)


@pytest.mark.sqlite
def test_sqlite_enforces_foreign_keys(settings: Settings) -> None:
    """SQLite enforces foreign keys, which are off by default."""
    statement = sa.text("INSERT INTO import_row (import_id, line, email, reason) VALUES (7, 1, 'a', 'b')")
    with (
        database(settings) as opened,
        pytest.raises(sa.exc.IntegrityError, match="FOREIGN KEY"),
        opened.engine.begin() as connection,
    ):
        connection.execute(statement)


@pytest.mark.sqlite
def test_sqlite_can_be_read_while_it_is_written(settings: Settings, tmp_path: Path) -> None:
    """Another program can read the database while a transaction is open."""
    with database(settings) as opened, opened.engine.begin() as connection:
        connection.execute(sa.insert(Workspace).values(name="new", created_at=now()))
        reader = sqlite3.connect(tmp_path / "mailboxes.db", timeout=0)
        assert reader.execute("SELECT count(*) FROM workspace").fetchone() == (0,)
        reader.close()
