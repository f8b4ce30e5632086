"""Everything that the first edition stored can be read by the present code.

`data/first_edition/` was made by the first edition's own code, at revision 0002: imports of the two samples
and of a file over HTTP, API keys, and an inbox with a waiting file and one that a killed run left.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlmodel import col

import schemas.migrations
from schemas.prepare import Prepared
from schemas.reasons import Reason
from schemas.sealing import Owner
from schemas.settings import Settings
from schemas.standing import MailboxStatus
from schemas.tables import (
    ApiKey,
    Import,
    ImportRow,
    Mailbox,
    ProbeResult,
    StatusChange,
    Table,
    Workspace,
    table_of,
)
from tasks.files.inbox import Folders, left_behind, look
from tasks.prepare import prepare
from tasks.storage.api_keys import Holder, find_key
from tasks.storage.changes import take_notice
from tasks.storage.database import Database, database, make_engine, revision, upgrade, url_of
from tasks.storage.imports import count_reasons, find_import, find_keyed_import
from tasks.storage.mailboxes import Filters, count_mailboxes, find_mailbox, find_mailboxes
from tests.conftest import import_file, rows_of, write_csv
from tests.support.postgresql import PostgreSql
from tests.support.shell import SAMPLES

FIRST_EDITION = Path(__file__).parent / "data" / "first_edition"
FIRST_REVISION = "0002"
# Each table of the first edition, and the model that holds its rows now.
TABLES: dict[str, type[Table]] = {
    "workspace": Workspace,
    "api_key": ApiKey,
    "import_batch": Import,
    "batch_row_error": ImportRow,
    "mailbox": Mailbox,
    "probe_result": ProbeResult,
}
# Renamed columns.
RENAMED = {"batch_id": "import_id"}

WORKSPACES = {
    "default": FIRST_EDITION / "troubled.csv",  # the sample of today has more rows
    "sales": SAMPLES / "mailboxes.csv",
    "untested": SAMPLES / "mailboxes.csv",
}
TOTP_SECRETS = {
    "odalys.brackenridge4@outlook.com": "JBSWY3DPEHPK3PXP",
    "yuki.farrowmere@live.com": "KRUGS4ZANFZSAYJA",
}
KEYED_FILE = b"email,password,totpsecret\nkeyed@contoso.com,k3yed password,JBSWY3DPEHPK3PXP\n,x\n"
IDEMPOTENCY_KEY = "first-edition-key"

Rows = list[dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the first edition's data, with the file modes that Git does not keep."""
    copy = shutil.copytree(FIRST_EDITION, tmp_path / "first")
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return copy


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, Rows]:
    """The rows that the first edition stored, by table."""
    copy = shutil.copy(FIRST_EDITION / "mailboxes.db", tmp_path / "read.db")
    connection = sqlite3.connect(copy)
    connection.row_factory = sqlite3.Row
    found = {name: [_typed(row) for row in connection.execute(f"SELECT * FROM {name}")] for name in TABLES}  # noqa: S608
    connection.close()
    return found


def _typed(row: sqlite3.Row) -> dict[str, Any]:
    """A row with aware datetimes, which SQLite does not have."""
    moments = {name for name in row.keys() if name.endswith("_at") or name in ("at", "claimed_until")}  # noqa: SIM118
    return {
        name: datetime.fromisoformat(row[name]).replace(tzinfo=UTC)
        if name in moments and row[name]
        else row[name]
        for name in row.keys()  # noqa: SIM118
    }


@pytest.fixture(params=["sqlite", "postgresql"])
def first_settings(
    request: pytest.FixtureRequest, folder: Path, stored: dict[str, Rows]
) -> Iterator[Settings]:
    """Settings with the first edition's database: the file itself, then its rows on PostgreSQL."""
    if request.param == "sqlite":
        yield Settings(database_url=SecretStr(f"sqlite:///{folder}/mailboxes.db"))
        return
    postgresql: PostgreSql = request.getfixturevalue("postgresql")
    with postgresql.new_database() as address:
        settings = Settings(
            database_url=SecretStr(address),
            encryption_keys=SecretStr((folder / "mailboxes.key").read_text()),
        )
        with engine_of(settings) as engine:
            migrate(engine, alembic.command.upgrade, FIRST_REVISION)
            copy_rows(engine, stored)
        yield settings


@pytest.fixture
def upgraded(first_settings: Settings) -> Iterator[Database]:
    """The first edition's database, opened by the present code: SQLite, then PostgreSQL."""
    if first_settings.encryption_keys is not None:  # only SQLite upgrades itself
        with engine_of(first_settings) as engine:
            upgrade(engine)
    with database(first_settings) as opened:
        yield opened


@contextmanager
def engine_of(settings: Settings) -> Iterator[sa.Engine]:
    engine = make_engine(url_of(settings))
    yield engine
    engine.dispose()


def migrate(engine: sa.Engine, command: Callable[[Config, str], None], to: str) -> None:
    """Upgrade or downgrade to a revision."""
    config = Config()
    config.set_main_option("script_location", str(Path(schemas.migrations.__file__).parent))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command(config, to)


def copy_rows(engine: sa.Engine, stored: dict[str, Rows]) -> None:
    """Insert rows with their ids, and make the database number new rows after them."""
    metadata = sa.MetaData()
    metadata.reflect(engine)
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            if table.name in stored:
                connection.execute(table.insert(), stored[table.name])
                if "id" in table.columns:
                    connection.execute(
                        sa.func.setval(
                            sa.func.pg_get_serial_sequence(table.name, "id"),
                            sa.select(sa.func.max(table.columns["id"])).scalar_subquery(),
                        ).select()
                    )


def test_the_tables_are_upgraded(upgraded: Database) -> None:
    """The migrated tables of the first edition are exactly those that the code declares."""
    assert revision(upgraded.engine) == schemas.migrations.HEAD
    with upgraded.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_every_row_is_kept(upgraded: Database, stored: dict[str, Rows]) -> None:
    """Each table keeps its rows and their values."""
    counts = [("workspace", 3), ("api_key", 2), ("import_batch", 4)]
    counts += [("batch_row_error", 3), ("mailbox", 70), ("probe_result", 96)]
    assert [(name, len(rows)) for name, rows in stored.items()] == counts
    for name, model in TABLES.items():
        key = [column.name for column in table_of(model).primary_key.columns]
        before = [{RENAMED.get(column, column): row[column] for column in row} for row in stored[name]]
        before.sort(key=lambda row: [row[column] for column in key])
        if model is Mailbox:
            before = [row | {"status": status_now(row, stored)} for row in before]
        after = rows_of(upgraded, model)
        assert [{column: row[column] for column in before[0]} for row in after] == before


def status_now(mailbox: dict[str, Any], stored: dict[str, Rows]) -> str:
    """The status of a mailbox now: a failed one with one protocol that works is `partial`."""
    answers = {row["reason"] == "ok" for row in stored["probe_result"] if row["mailbox_id"] == mailbox["id"]}
    return "partial" if mailbox["status"] == "failed" and answers == {True, False} else mailbox["status"]


def test_what_each_protocol_said_is_taken_over(upgraded: Database, stored: dict[str, Rows]) -> None:
    """The answer of each protocol in the last test is its state, and filters find the same mailboxes."""
    before = {row["id"]: row for row in stored["mailbox"]}
    last = {
        (row["mailbox_id"], row["protocol"]): row["reason"]
        for row in sorted(stored["probe_result"], key=lambda row: row["attempt"])
    }
    for row in rows_of(upgraded, Mailbox):
        for protocol in ("smtp", "imap"):
            answer = last.get((row["id"], protocol))
            put_off = "put_off" if before[row["id"]]["status"] == "pending" else "refused"
            expected = "untested" if answer is None else "accepted" if answer == "ok" else put_off
            assert row[f"{protocol}_state"] == expected, (row["email"], protocol)
            assert (row[f"{protocol}_reason"] == "") == (expected in ("untested", "accepted"))
        assert row["needs"] == "both"
    for reason, count in count_reasons(upgraded, "default", Filters()):
        assert count_mailboxes(upgraded, "default", Filters(reason=reason)) == count


def test_the_status_of_today_is_where_the_history_begins(upgraded: Database) -> None:
    """Each tested mailbox has its status as its first, told entry, so that only the next change is news."""
    tested = {row["id"]: row for row in rows_of(upgraded, Mailbox) if row["status"] != "pending"}
    history = rows_of(upgraded, StatusChange)
    assert len(tested) > 20
    assert [row["mailbox_id"] for row in history] == sorted(tested)
    for row in history:
        mailbox = tested[row["mailbox_id"]]
        assert (row["before"], row["after"], row["at"]) == (None, mailbox["status"], mailbox["tested_at"])
        assert row["told_at"] == row["at"]
        assert [row[name] for name in ("smtp_reason", "imap_reason")] == [
            mailbox[name] for name in ("smtp_reason", "imap_reason")
        ]
    assert take_notice(upgraded) is None
    assert count_mailboxes(upgraded, "default", Filters(changed_since=datetime(2020, 1, 1, tzinfo=UTC))) == 0


def test_passwords_and_totp_secrets_open(upgraded: Database) -> None:
    """Each password and each TOTP secret can be unsealed and matches the imported files."""
    expected = {
        (workspace, row[0].casefold()): (app_password(row[1]), TOTP_SECRETS.get(row[0]))
        for workspace, file in WORKSPACES.items()
        for row in list(csv.reader(file.read_text("utf-8").splitlines()))[1:]
        if row[0]
    }
    expected["sales", "keyed@contoso.com"] = ("k3yed password", "JBSWY3DPEHPK3PXP")
    query = sa.select(
        col(Workspace.name), col(Mailbox.email_key), col(Mailbox.password), col(Mailbox.totp)
    ).join(Workspace, col(Workspace.id) == col(Mailbox.workspace_id))
    with upgraded.engine.connect() as connection:
        found = {
            (workspace, key): (
                upgraded.sealer.open(password, Owner(workspace, key, "password")),
                totp and upgraded.sealer.open(totp, Owner(workspace, key, "totp")),
            )
            for workspace, key, password, totp in connection.execute(query)
        }
    assert found == expected


def app_password(cell: str) -> str:
    """An app password without the spaces between its groups; any other password as it is."""
    return cell.replace(" ", "") if re.fullmatch(r"[a-z]{4}( [a-z]{4}){3}", cell) else cell


def test_verdicts_are_shown(upgraded: Database, stored: dict[str, Rows]) -> None:
    """Status, diagnosis and answers of every mailbox read as they were stored, judged together."""
    found = {}
    judged = {
        (row["id"], protocol): row[f"{protocol}_reason"]
        for row in rows_of(upgraded, Mailbox)
        for protocol in ("smtp", "imap")
    }
    for workspace in WORKSPACES:
        for mailbox in find_mailboxes(upgraded, workspace, 0, 200, Filters()).mailboxes:
            detail = find_mailbox(upgraded, workspace, mailbox.id)
            assert detail is not None
            answers = {(one.protocol.value, one.reason, one.server_text) for one in detail.results}
            found[mailbox.id] = (detail.status, detail.diagnosis, answers)
    assert found == {
        row["id"]: (
            MailboxStatus(status_now(row, stored)),
            row["diagnosis"],
            {
                (
                    answer["protocol"],
                    Reason(judged[row["id"], answer["protocol"]] or answer["reason"]),
                    answer["server_text"],
                )
                for answer in stored["probe_result"]
                if answer["mailbox_id"] == row["id"]
            },
        )
        for row in stored["mailbox"]
    }


def test_imports_are_shown(upgraded: Database) -> None:
    """Each import keeps its counts, its row errors and the progress of its tests."""
    seen = {}
    for workspace, import_id in (("default", 1), ("sales", 2), ("untested", 3), ("sales", 4)):
        found = find_import(upgraded, workspace, import_id, 0, 50)
        assert found is not None
        bad = found.progress.failed + found.progress.partial
        progress = (found.progress.active, bad, found.progress.pending)
        seen[import_id] = (found.file, found.imported, [error.line for error in found.errors], progress)
    assert seen == {
        1: ("troubled.csv", 29, [], (2, 15, 12)),
        2: ("mailboxes.csv", 20, [17], (15, 4, 1)),
        3: ("mailboxes.csv", 20, [17], (0, 0, 20)),
        4: ("keyed.csv", 1, [3], (0, 0, 1)),
    }


def test_api_keys_still_work(upgraded: Database, folder: Path) -> None:
    """The API keys that the first edition created are found, each with its workspace."""
    keys = json.loads((folder / "api-keys.json").read_text())
    assert find_key(upgraded, keys["sales"]) == Holder(1, "sales")
    assert find_key(upgraded, keys["platform"]) == Holder(2, None)


def test_an_idempotency_key_still_finds_its_import(upgraded: Database) -> None:
    """A request that is repeated after the upgrade is recognised by its key and its fingerprint."""
    found = find_keyed_import(upgraded, "sales", IDEMPOTENCY_KEY)
    assert found is not None
    import_id, fingerprint = found
    digest = hashlib.sha256(b"api\n" + KEYED_FILE).hexdigest()
    assert import_id == 4
    assert upgraded.sealer.open(fingerprint, Owner("sales", IDEMPOTENCY_KEY, "fingerprint")) == digest


def test_a_new_import_follows_the_old_ones(
    upgraded: Database, first_settings: Settings, tmp_path: Path
) -> None:
    """New imports get numbers after the old ones, and skip stored mailboxes."""
    file = write_csv(tmp_path / "next.csv", [["works@example.com", "p"], ["new@example.com", "p"]])
    summary = import_file(upgraded, first_settings, file).summary
    assert (summary.import_id, summary.imported, summary.skipped) == (5, 1, 1)
    assert max(row["id"] for row in rows_of(upgraded, Mailbox)) > 70


def test_files_of_the_watched_folder_are_found(folder: Path) -> None:
    """The waiting file is found, and the file that a killed run left is picked up with its tag."""
    folders = Folders(folder)
    waiting = folders.inbox / "waiting.csv"
    assert set(look(folders.inbox)) == {waiting}
    (taken,) = left_behind(folders)
    with taken:
        assert (taken.name, taken.tag, taken.time) == ("tagged.csv", "tagged", "20261126T140811Z-92c47b")
        emails = [prepared_email(path) for path in (waiting, taken.path)]
    assert emails == ["waiting@contoso.com", "tagged@contoso.com"]


def prepared_email(file: Path) -> str:
    """The address of the only valid row of a file."""
    prepared = prepare.fn(file, 1000)
    assert isinstance(prepared, Prepared)
    return str(prepared.kept["email"].item())


def test_a_downgrade_gives_the_first_edition_its_tables(
    first_settings: Settings, stored: dict[str, Rows]
) -> None:
    """A downgrade to the first edition's revision restores its tables, names and rows."""
    with engine_of(first_settings) as engine:
        before = parts_of(engine)
        upgrade(engine)
        assert parts_of(engine) != before
        migrate(engine, alembic.command.downgrade, FIRST_REVISION)
        assert parts_of(engine) == before
        metadata = sa.MetaData()
        metadata.reflect(engine)
        with engine.connect() as connection:
            for name, rows in stored.items():
                assert connection.scalar(
                    sa.select(sa.func.count()).select_from(metadata.tables[name])
                ) == len(rows)


def parts_of(engine: sa.Engine) -> dict[str, list[object]]:
    """Each table's columns, indexes and constraints, by name."""
    found = sa.inspect(engine)
    return {
        name: [
            [(column["name"], str(column["type"]), column["nullable"]) for column in found.get_columns(name)],
            sorted(map(str, found.get_indexes(name))),
            sorted(map(str, found.get_unique_constraints(name))),
            sorted(map(str, found.get_foreign_keys(name))),
            found.get_pk_constraint(name),
        ]
        for name in found.get_table_names()
    }


def test_nothing_on_postgresql_is_called_batch(postgresql: PostgreSql) -> None:
    """On PostgreSQL the upgrade renames every table, index, constraint and sequence."""
    names = "SELECT relname FROM pg_class UNION SELECT conname FROM pg_constraint WHERE contype <> 'n'"
    with (
        postgresql.new_database() as address,
        engine_of(Settings(database_url=SecretStr(address))) as engine,
    ):
        upgrade(engine)
        with engine.connect() as connection:
            found = connection.scalars(sa.text(names)).all()
    assert {"import", "import_id_seq", "fk_mailbox_import_id"} <= set(found)
    assert [name for name in found if "batch" in name] == []
