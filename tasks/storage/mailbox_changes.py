"""What the housekeeping does to stored mailboxes: delete, make due again, tag; and opening TOTP secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pyotp.totp import TOTP
from sqlalchemy import Delete, Table, Update, select

from schemas.rows import totp_of
from schemas.sealing import Owner
from schemas.tables import Mailbox, Workspace, columns_of, now
from schemas.verdicts import MailboxStatus
from tasks.storage.database import Database, for_reading
from tasks.storage.mailboxes import Filters, in_parts


def delete_mailboxes(database: Database, chosen: Iterable[int], filters: Filters) -> Iterator[list[str]]:
    """Delete mailboxes with their credentials and verdicts; see `_change`."""
    return _change(database, chosen, filters, lambda mailbox: mailbox.delete())


def make_due(database: Database, chosen: Iterable[int], filters: Filters) -> Iterator[list[str]]:
    """Withdraw the verdicts on mailboxes and let the next retest try their logins; see `_change`."""
    again = {"status": MailboxStatus.PENDING, "attempts": 0, "next_attempt_at": now(), "diagnosis": ""}
    return _change(database, chosen, filters, lambda mailbox: mailbox.update().values(again))


def tag_mailboxes(
    database: Database, chosen: Iterable[int], filters: Filters, tag: str | None
) -> Iterator[list[str]]:
    """Give mailboxes a tag, or take theirs away; see `_change`."""
    return _change(database, chosen, filters, lambda mailbox: mailbox.update().values(tag=tag))


def _change(
    database: Database, chosen: Iterable[int], filters: Filters, change: Callable[[Table], Delete | Update]
) -> Iterator[list[str]]:
    """Change mailboxes in transactions of some hundred, so that nobody waits long for their locks.

    Args:
        chosen: Ids of the mailboxes.
        filters: What they were chosen by; those that it lets through no longer are left alone.

    Yields:
        The addresses of each part, once it is stored.
    """
    mailbox = columns_of(Mailbox)
    for ids in in_parts(sorted(chosen)):
        with database.engine.begin() as connection:
            # Locked in the order that everybody takes, or two who change the same ones would wait for ever.
            query = select(mailbox.c.id).where(mailbox.c.id.in_(ids), *filters.conditions())
            locked = connection.scalars(query.order_by(mailbox.c.id).with_for_update()).all()
            statement: Any = change(mailbox).where(mailbox.c.id.in_(locked))
            emails = connection.scalars(statement.returning(mailbox.c.email)).all()
        yield sorted(emails)


def open_totp(database: Database, workspace: str, key: str) -> TOTP | None:
    """Open the TOTP secret of the mailbox with this email key; None where there is no such secret.

    Raises:
        UnsealError: When its key is not there, or it is damaged.
    """
    mailbox, owner = columns_of(Mailbox), columns_of(Workspace)
    query = (
        select(mailbox.c.totp)
        .join(owner, owner.c.id == mailbox.c.workspace_id)
        .where(owner.c.name == workspace, mailbox.c.email_key == key)
    )
    with for_reading(database.engine).connect() as connection:
        sealed = connection.scalar(query)
    return None if sealed is None else totp_of(database.sealer.open(sealed, Owner(workspace, key, "totp")))
