"""What the database of the torture test contains, and changes of it that let time pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from pydantic import SecretStr
from sqlmodel import col

from schemas.sealing import Sealer
from schemas.settings import Settings
from schemas.standing import MailboxStatus
from schemas.summary import Result
from schemas.tables import Import, ImportRow, Mailbox, StatusChange, now, table_of
from tasks.storage.database import Database, for_reading, make_engine, through_restarts, url_of
from tests.tools.torture.files import Counts, Request

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Stored:
    """The content of the database, as rows of its tables.

    Attributes:
        imports: With the number of `mailboxes` and of `errors` that are stored of each.
        updates: Import and email key of the rows that replaced a password.
        changes: The changes of status, in order.
    """

    imports: list[dict[str, Any]]
    mailboxes: list[dict[str, Any]]
    updates: list[tuple[int, str]]
    changes: list[dict[str, Any]]

    def imports_of(self, one: Request) -> list[dict[str, Any]]:
        return [row for row in self.imports if row["file_name"] == one.name]

    @property
    def untold(self) -> list[dict[str, Any]]:
        """The changes that no receiver has been told."""
        return [change for change in self.changes if change["told_at"] is None]


def open_database(address: str, sealer: Sealer) -> Database:
    """Open the database before it has tables."""
    opened = Database(make_engine(url_of(Settings(database_url=SecretStr(address)))), sealer)
    sa.event.listen(opened.engine, "checkout", opened.outage.end)
    return opened


@through_restarts
def read_stored(database: Database) -> Stored:
    one, row = table_of(Import), table_of(ImportRow)
    failed = (row.c.import_id == one.c.id, row.c.result == Result.FAILED)
    imports = sa.select(
        one,
        _count(table_of(Mailbox).c.import_id == one.c.id).label("mailboxes"),
        _count(*failed).label("errors"),
    )
    updates = sa.select(row.c.import_id, row.c.email_key).where(row.c.result == Result.UPDATED)
    with for_reading(database.engine).connect() as connection:

        def rows(query: sa.Select[*tuple[Any, ...]]) -> list[dict[str, Any]]:
            return [dict(found) for found in connection.execute(query).mappings()]

        return Stored(
            rows(imports.order_by(one.c.id)),
            rows(sa.select(table_of(Mailbox)).order_by(col(Mailbox.id))),
            [(found.import_id, found.email_key) for found in connection.execute(updates)],
            rows(sa.select(table_of(StatusChange)).order_by(col(StatusChange.id))),
        )


def _count(*conditions: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
    return sa.select(sa.func.count()).where(*conditions).scalar_subquery()


@through_restarts
def read_mailboxes(database: Database) -> list[dict[str, Any]]:
    with for_reading(database.engine).connect() as connection:
        found = connection.execute(sa.select(table_of(Mailbox)).order_by(col(Mailbox.id))).mappings()
        return [dict(row) for row in found]


def counts_of(row: Mapping[str, Any]) -> Counts:
    return Counts(row["imported"], row["skipped"], row["failed"], row["updated"])


# --- Time ------------------------------------------------------------


@through_restarts
def let_a_day_pass(database: Database, mailbox_ids: Collection[int]) -> list[int]:
    """Let more time pass for settled mailboxes than a recheck waits, also after one that was killed.

    Returns:
        Those for which it has passed, by id: no run was testing them.
    """
    settled = (col(Mailbox.id).in_(mailbox_ids), col(Mailbox.status) != MailboxStatus.PENDING)
    free = sa.or_(col(Mailbox.claimed_until).is_(None), col(Mailbox.claimed_until) < now())
    with database.engine.begin() as connection:
        query = sa.select(col(Mailbox.id)).where(*settled, free).order_by(col(Mailbox.id))
        found = [int(one) for one in connection.scalars(query.with_for_update()) if one is not None]
        mine, held = col(Mailbox.id).in_(found), col(Mailbox.claimed_until).is_not(None)
        connection.execute(sa.update(Mailbox).where(mine).values(tested_at=LONG_AGO))
        connection.execute(sa.update(Mailbox).where(mine, held).values(claimed_until=LONG_AGO))
        return found


@through_restarts
def let_leases_pass(database: Database) -> None:
    """Let the time pass that a killed process had to send its notice."""
    untold = col(StatusChange.told_at).is_(None)
    with database.engine.begin() as connection:
        changed = sa.select(col(StatusChange.mailbox_id)).where(untold)
        query = sa.select(col(Mailbox.id)).where(col(Mailbox.id).in_(changed)).order_by(col(Mailbox.id))
        connection.execute(query.with_for_update()).all()
        connection.execute(sa.update(StatusChange).where(untold).values(leased_until=LONG_AGO))
