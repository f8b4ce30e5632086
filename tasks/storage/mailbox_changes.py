"""Changes to stored mailboxes: delete them, make them due again, edit them. Also opens TOTP secrets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pyotp.totp import TOTP
from sqlalchemy import Delete, RowMapping, Update, and_, bindparam, case, delete, select, update
from sqlmodel import col

from schemas.reasons import Protocol
from schemas.sealing import Owner
from schemas.standing import MailboxStatus, Needs, State, status_of
from schemas.tables import Mailbox, Workspace, now, table_of
from schemas.totp import totp_of
from tasks.storage.changes import Settled, record_changes
from tasks.storage.database import Database, for_reading
from tasks.storage.mailboxes import STATES, Filters, in_parts, nothing_known, standings_of


def delete_mailboxes(database: Database, chosen: Iterable[int], filters: Filters) -> Iterator[list[str]]:
    """Delete mailboxes with their credentials and test results; see `_change`."""
    return _change(database, chosen, filters, delete(Mailbox))


def make_due(database: Database, chosen: Iterable[int], filters: Filters) -> Iterator[list[str]]:
    """Withdraw the verdicts of mailboxes, so that the next retest tests them; see `_change`.

    A protocol that accepted the password is not asked again, unless nothing else is left to ask.
    """
    columns = table_of(Mailbox).columns
    complete = columns["status"] == MailboxStatus.ACTIVE
    again: dict[str, Any] = {
        "status": MailboxStatus.PENDING,
        "attempts": 0,
        "next_attempt_at": now(),
        "diagnosis": "",
    }
    for protocol in Protocol:
        accepted = and_(columns[f"{protocol}_state"] == State.ACCEPTED, ~complete)
        state = f"{protocol}_state"
        fresh = nothing_known(protocol)
        again |= fresh | {state: case((accepted, State.ACCEPTED.value), else_=fresh[state])}
    return _change(database, chosen, filters, update(Mailbox).values(again))


def edit_mailboxes(
    database: Database, chosen: Iterable[int], filters: Filters, changes: Mapping[str, Any]
) -> Iterator[list[str]]:
    """Set the tag, the name, or what mailboxes are needed for; see `_change`.

    Their status follows from what is known, if they are needed for something else.

    Args:
        changes: `tag` and `name` (str, or None to remove it), and `needs` (`Needs`); at least one.
    """
    if "needs" not in changes:
        yield from _change(database, chosen, filters, update(Mailbox).values(**changes))
        return
    columns = table_of(Mailbox).columns
    shown = (columns[name] for name in ("id", "email", "next_attempt_at", *STATES))
    query = select(*shown).order_by(columns["id"]).with_for_update()
    statement = (
        update(Mailbox)
        .where(col(Mailbox.id) == bindparam("mailbox_id"))
        .values(**changes, status=bindparam("new_status"), next_attempt_at=bindparam("due"))
    )
    for ids in in_parts(sorted(chosen)):
        with database.engine.begin() as connection:
            found = connection.execute(query.where(columns["id"].in_(ids), *filters.conditions()))
            rows = found.mappings().all()
            if rows:
                settled = [_settled(row, changes["needs"]) for row in rows]
                connection.execute(statement, list(map(_needed, rows, settled)))
                # The user has changed it, so no notice is needed.
                record_changes(connection, settled, now(), tell=False)
        yield sorted(row["email"] for row in rows)


def _settled(row: RowMapping, needs: Needs) -> Settled:
    standings = standings_of(row)
    return Settled(row["id"], status_of(standings, needs), standings)


def _needed(row: RowMapping, settled: Settled) -> dict[str, Any]:
    due = (row["next_attempt_at"] or now()) if settled.status is MailboxStatus.PENDING else None
    return {"mailbox_id": settled.mailbox_id, "new_status": settled.status, "due": due}


def _change(
    database: Database, chosen: Iterable[int], filters: Filters, change: Delete | Update
) -> Iterator[list[str]]:
    """Change mailboxes in many short transactions, so that no other program waits long for a lock.

    Args:
        chosen: The ids of the mailboxes.
        filters: The filters that chose them. Mailboxes that no longer match are left alone.

    Yields:
        The addresses of each part, ordered by name, once the change is stored.
    """
    for ids in in_parts(sorted(chosen)):
        with database.engine.begin() as connection:
            # All transactions lock in this order, so two that change the same mailboxes never deadlock.
            query = select(col(Mailbox.id)).where(col(Mailbox.id).in_(ids), *filters.conditions())
            locked = connection.scalars(query.order_by(col(Mailbox.id)).with_for_update()).all()
            statement = change.where(col(Mailbox.id).in_(locked)).returning(col(Mailbox.email))
            emails = connection.scalars(statement).all()
        yield sorted(emails)


def open_totp(database: Database, workspace: str, key: str) -> TOTP | None:
    """Open the TOTP secret of the mailbox with this email key; None if it has no such secret.

    Raises:
        UnsealError: If no key opens the secret, or it is damaged.
    """
    query = (
        select(col(Mailbox.totp))
        .join(Workspace, col(Workspace.id) == col(Mailbox.workspace_id))
        .where(col(Workspace.name) == workspace, col(Mailbox.email_key) == key)
    )
    with for_reading(database.engine).connect() as connection:
        sealed = connection.scalar(query)
    return None if sealed is None else totp_of(database.sealer.open(sealed, Owner(workspace, key, "totp")))
