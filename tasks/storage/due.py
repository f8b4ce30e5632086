"""Find the stored mailboxes that are to be tested again."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy import or_, select

from schemas.providers import Endpoint
from schemas.tables import Mailbox, Workspace, columns_of, now
from schemas.verdicts import MailboxStatus, Target
from tasks.storage.database import Database, for_reading, through_restarts


@task(persist_result=False, cache_policy=NO_CACHE)
@through_restarts
def find_due(
    database: Database, most: int, workspace: str | None, *, held: bool, batch: int | None = None
) -> tuple[Target, ...]:
    """Find pending mailboxes that nobody is testing, those first that have waited longest.

    Args:
        most: No more than so many.
        workspace: Of this workspace only; None for all.
        held: Those too that wait until somebody asks: held back by the lockout guard, or imported untested.
        batch: Of this import only, and before they are due.
    """
    mailbox, owner = columns_of(Mailbox), columns_of(Workspace)
    moment = now()
    waits = mailbox.c.next_attempt_at.is_(None)
    due = mailbox.c.next_attempt_at <= moment if batch is None else ~waits
    query = (
        select(mailbox)
        .where(
            mailbox.c.status == MailboxStatus.PENDING,
            or_(mailbox.c.claimed_until.is_(None), mailbox.c.claimed_until < moment),
            or_(due, waits) if held else due,
        )
        .order_by(mailbox.c.next_attempt_at, mailbox.c.id)
        .limit(most)
    )
    if batch is not None:
        query = query.where(mailbox.c.batch_id == batch)
    if workspace is not None:
        query = query.join(owner, owner.c.id == mailbox.c.workspace_id).where(owner.c.name == workspace)
    with for_reading(database.engine).connect() as connection:
        return tuple(
            Target(row.id, Endpoint(row.smtp_host, row.smtp_port), Endpoint(row.imap_host, row.imap_port))
            for row in connection.execute(query)
        )
