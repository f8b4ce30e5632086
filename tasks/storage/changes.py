"""Changes of status: recorded with the verdict, told once, and kept as the history of a mailbox."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlmodel import col

from schemas.changes import MOST_TOLD, Change, Notice
from schemas.reasons import Protocol, Reason
from schemas.standing import MailboxStatus, Standings
from schemas.tables import Mailbox, StatusChange, Workspace, now, table_of
from tasks.storage.database import Database, for_reading, through_restarts

KEPT = 20  # of each mailbox
# A change that could not be told for this long is not told any more.
NEWS = timedelta(days=7)
# How long one process has to send a notice, before another one sends it again.
LEASE = timedelta(minutes=2)


class Settled(NamedTuple):
    """The status of a mailbox after a test or a change of its needs."""

    mailbox_id: int
    status: MailboxStatus
    standings: Standings


def record_changes(
    connection: Connection, found: Sequence[Settled], moment: datetime, *, tell: bool = True
) -> None:
    """Record which mailboxes have another status than at the end of their last test.

    The mailboxes have to be locked. A pending one is between two tests, so its status is not recorded.

    Args:
        tell: Whether a notice tells the changes. It never tells the first status of a mailbox.
    """
    settled = {one.mailbox_id: one for one in found if one.status is not MailboxStatus.PENDING}
    last = _last_statuses(connection, list(settled))
    changed = [one for one in settled.values() if last.get(one.mailbox_id) != one.status]
    if not changed:
        return
    connection.execute(
        insert(StatusChange),
        [
            {
                "mailbox_id": one.mailbox_id,
                "at": moment,
                "before": last.get(one.mailbox_id),
                "after": one.status,
                "told_at": None if tell and one.mailbox_id in last else moment,
                **{f"{protocol}_reason": one.standings[protocol].reason or "" for protocol in Protocol},
            }
            for one in changed
        ],
    )
    if again := [one.mailbox_id for one in changed if one.mailbox_id in last]:
        _forget_the_oldest(connection, again)


def _last_statuses(connection: Connection, mailbox_ids: Sequence[int]) -> dict[int, str]:
    newest = (
        select(func.max(col(StatusChange.id)))
        .where(col(StatusChange.mailbox_id).in_(mailbox_ids))
        .group_by(col(StatusChange.mailbox_id))
    )
    query = select(col(StatusChange.mailbox_id), col(StatusChange.after))
    return {
        row.mailbox_id: row.after for row in connection.execute(query.where(col(StatusChange.id).in_(newest)))
    }


def _forget_the_oldest(connection: Connection, mailbox_ids: Sequence[int]) -> None:
    place = func.row_number().over(
        partition_by=col(StatusChange.mailbox_id), order_by=col(StatusChange.id).desc()
    )
    placed = (
        select(col(StatusChange.id), place.label("place"))
        .where(col(StatusChange.mailbox_id).in_(mailbox_ids))
        .subquery()
    )
    old = select(placed.c.id).where(placed.c.place > KEPT)
    connection.execute(delete(StatusChange).where(col(StatusChange.id).in_(old)))


@through_restarts
def take_notice(database: Database) -> Notice | None:
    """Take the notice to send next: one that has not arrived yet, or else all changes that are in none.

    No other process gets it until it is told, put back, or `LEASE` has passed.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    moment = now()
    notice, told_at = col(StatusChange.notice), col(StatusChange.told_at)
    news = (told_at.is_(None), col(StatusChange.at) > moment - NEWS)
    until = col(StatusChange.leased_until)
    # A lease that ends later than any can was taken while the clock was wrong.
    free = or_(until.is_(None), until < moment, until > moment + 2 * LEASE)
    with database.engine.begin() as connection:
        unsent = (
            select(notice).where(*news, free, notice.is_not(None)).order_by(col(StatusChange.id)).limit(1)
        )
        found = connection.scalar(unsent)
        taken = found or f"msg_{uuid4().hex}"
        chosen: tuple[ColumnElement[bool], ...] = (notice == found, free) if found else (notice.is_(None),)
        _lock(connection, *news, *chosen)
        leased = connection.execute(
            update(StatusChange).where(*news, *chosen).values(notice=taken, leased_until=moment + LEASE)
        )
        if not leased.rowcount:
            return None
        told = _changes().where(notice == taken).order_by(col(StatusChange.id)).limit(MOST_TOLD)
        changes = tuple(_change(row) for row in connection.execute(told).mappings())
        return Notice(taken, changes, leased.rowcount, again=found is not None)


@through_restarts
def put_away(database: Database, notice: str, *, told: bool) -> None:
    """Store that a notice has arrived, or that it has not and is free to be sent again.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    values: dict[str, Any] = {"told_at": now()} if told else {"leased_until": None}
    mine = col(StatusChange.notice) == notice
    with database.engine.begin() as connection:
        _lock(connection, mine)
        connection.execute(update(StatusChange).where(mine).values(values))


def _lock(connection: Connection, *conditions: ColumnElement[bool]) -> None:
    """Lock the mailboxes of these changes, in the order in which all transactions lock mailboxes."""
    changed = select(col(StatusChange.mailbox_id)).where(*conditions)
    query = select(col(Mailbox.id)).where(col(Mailbox.id).in_(changed))
    connection.execute(query.order_by(col(Mailbox.id)).with_for_update()).all()


def find_history(database: Database, workspace: str, key: str) -> list[Change] | None:
    """Find the changes of the mailbox with this email key, the newest first; None if there is no mailbox."""
    mailbox = (
        select(col(Mailbox.id))
        .join(Workspace, col(Workspace.id) == col(Mailbox.workspace_id))
        .where(col(Workspace.name) == workspace, col(Mailbox.email_key) == key)
    )
    with for_reading(database.engine).connect() as connection:
        mailbox_id = connection.scalar(mailbox)
        if mailbox_id is None:
            return None
        query = _changes().where(col(StatusChange.mailbox_id) == mailbox_id)
        rows = connection.execute(query.order_by(col(StatusChange.id).desc())).mappings()
        return [_change(row) for row in rows]


def _changes() -> Select[*tuple[Any, ...]]:
    return (
        select(table_of(StatusChange), col(Mailbox.email), col(Workspace.name).label("workspace"))
        .join(Mailbox, col(Mailbox.id) == col(StatusChange.mailbox_id))
        .join(Workspace, col(Workspace.id) == col(Mailbox.workspace_id))
    )


def _change(row: RowMapping) -> Change:
    return Change(
        row["mailbox_id"],
        row["email"],
        row["workspace"],
        row["at"],
        row["before"],
        row["after"],
        {protocol: Reason(row[f"{protocol}_reason"]) for protocol in Protocol if row[f"{protocol}_reason"]},
        row["told_at"],
    )
