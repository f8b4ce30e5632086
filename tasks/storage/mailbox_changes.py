"""Changes to stored mailboxes: delete them, make them due again, tag them. Also opens TOTP secrets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pyotp.totp import TOTP
from sqlalchemy import Delete, Update, delete, select, update
from sqlmodel import col

from schemas.rows import totp_of
from schemas.sealing import Owner
from schemas.tables import Mailbox, Workspace, now
from schemas.verdicts import MailboxStatus
from tasks.storage.database import Database, for_reading
from tasks.storage.mailboxes import Filters, in_parts


def delete_mailboxes(database: Database, chosen: Iterable[int], filters: Filters) -> Iterator[list[str]]:
    """Delete mailboxes with their credentials and test results; see `_change`."""
    return _change(database, chosen, filters, delete(Mailbox))


def make_due(database: Database, chosen: Iterable[int], filters: Filters) -> Iterator[list[str]]:
    """Withdraw the verdicts of mailboxes, so that the next retest tests them; see `_change`."""
    again = {"status": MailboxStatus.PENDING, "attempts": 0, "next_attempt_at": now(), "diagnosis": ""}
    return _change(database, chosen, filters, update(Mailbox).values(again))


def tag_mailboxes(
    database: Database, chosen: Iterable[int], filters: Filters, tag: str | None
) -> Iterator[list[str]]:
    """Set the tag of mailboxes, or remove it if `tag` is None; see `_change`."""
    return _change(database, chosen, filters, update(Mailbox).values(tag=tag))


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
