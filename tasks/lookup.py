"""What the HTTP API reads: mailboxes and imports of one workspace. No query here names a secret's column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Select, func, select

from schemas.providers import Endpoint
from schemas.reasons import Reason
from schemas.responses import Import, Mailbox, MailboxDetail, MailboxPage, Progress, ProtocolResult, RowFault
from schemas.rows import RowReason
from schemas.tables import BatchRowError, ImportBatch, ProbeResult, Workspace, columns_of
from schemas.tables import Mailbox as StoredMailbox
from schemas.verdicts import MailboxStatus
from tasks.database import Database, for_reading

AS_THEY_ARE = (
    *("id", "email", "name", "tag", "status", "diagnosis", "attempts"),
    *("created_at", "tested_at", "next_attempt_at"),
)


def find_mailboxes(
    database: Database, workspace: str, cursor: int, limit: int, filters: Mapping[str, object]
) -> MailboxPage:
    """A page of mailboxes, in the order of their ids, from behind `cursor` on.

    Args:
        filters: Column → the value that it has to have; None for any.
    """
    mailbox = columns_of(StoredMailbox)
    query = _mailboxes(workspace).where(mailbox.c.id > cursor).order_by(mailbox.c.id).limit(limit + 1)
    for column, value in filters.items():
        if value is not None:
            query = query.where(mailbox.c[column] == value)
    rows = _all(database, query)
    return MailboxPage(
        mailboxes=[Mailbox(**_shown(row)) for row in rows[:limit]],
        next_cursor=rows[limit - 1]["id"] if len(rows) > limit else None,
    )


def find_mailbox(database: Database, workspace: str, mailbox_id: int) -> MailboxDetail | None:
    """A mailbox with what each protocol said last."""
    mailbox, result = columns_of(StoredMailbox), columns_of(ProbeResult)
    with for_reading(database.engine).connect() as connection:
        found = connection.execute(_mailboxes(workspace).where(mailbox.c.id == mailbox_id)).mappings().first()
        if found is None:
            return None
        query = result.select().where(result.c.mailbox_id == mailbox_id).order_by(result.c.attempt)
        last = {row["protocol"]: row for row in connection.execute(query).mappings()}
    return MailboxDetail(
        **_shown(found), results=[_protocol_result(row) for _, row in sorted(last.items())[::-1]]
    )


def find_import(database: Database, workspace: str, import_id: int, cursor: int, limit: int) -> Import | None:
    """An import: its counts, how far its tests are, and a page of its row errors from behind `cursor` on."""
    batch, error = columns_of(ImportBatch), columns_of(BatchRowError)
    errors = (
        select(error.c.line, error.c.email, error.c.reason)
        .where(error.c.batch_id == import_id, error.c.line > cursor)
        .order_by(error.c.line)
        .limit(limit + 1)
    )
    with for_reading(database.engine).connect() as connection:
        query = _owned(batch, workspace).where(batch.c.id == import_id)
        found = connection.execute(query).mappings().first()
        if found is None:
            return None
        rows = [
            RowFault(line=row.line, email=row.email, error=RowReason(row.reason).message)
            for row in connection.execute(errors)
        ]
        statuses = connection.execute(_progress(import_id)).all()
    counts = {row.status: row.mailboxes for row in statuses}
    return Import(
        **{name: found[name] for name in ("id", "tag", "created_at", "imported", "skipped", "failed")},
        file=found["file_name"],
        progress=Progress(
            mailboxes=sum(counts.values()),
            tested=sum(row.tested for row in statuses),
            **{status.value: counts.get(status, 0) for status in MailboxStatus},
        ),
        errors=rows[:limit],
        next_cursor=rows[limit - 1].line if len(rows) > limit else None,
    )


def find_keyed_import(database: Database, workspace: str, idempotency_key: str) -> tuple[int, bytes] | None:
    """The import that a workspace's idempotency key was used for: its id and its sealed fingerprint."""
    batch = columns_of(ImportBatch)
    rows = _all(database, _owned(batch, workspace).where(batch.c.idempotency_key == idempotency_key))
    return (rows[0]["id"], rows[0]["fingerprint"]) if rows else None


def _all(database: Database, query: Select[Any]) -> list[Any]:
    with for_reading(database.engine).connect() as connection:
        return list(connection.execute(query).mappings())


def _owned(table: Any, workspace: str) -> Select[Any]:
    owner = columns_of(Workspace)
    mine = select(owner.c.id).where(owner.c.name == workspace).scalar_subquery()
    query: Select[Any] = table.select().where(table.c.workspace_id == mine)
    return query


def _mailboxes(workspace: str) -> Select[Any]:
    mailbox = columns_of(StoredMailbox)
    servers = ("smtp_host", "smtp_port", "imap_host", "imap_port")
    return _owned(mailbox, workspace).with_only_columns(
        *(mailbox.c[name] for name in (*AS_THEY_ARE, "batch_id", *servers))
    )


def _shown(row: Any) -> dict[str, Any]:
    return {name: row[name] for name in AS_THEY_ARE} | {
        "import_id": row["batch_id"],
        "smtp": str(Endpoint(row["smtp_host"], row["smtp_port"])),
        "imap": str(Endpoint(row["imap_host"], row["imap_port"])),
    }


def _progress(import_id: int) -> Select[Any]:
    mailbox = columns_of(StoredMailbox)
    return (
        select(
            mailbox.c.status,
            func.count().label("mailboxes"),
            func.count(mailbox.c.tested_at).label("tested"),
        )
        .where(mailbox.c.batch_id == import_id)
        .group_by(mailbox.c.status)
    )


def _protocol_result(row: Any) -> ProtocolResult:
    explanation = Reason(row["reason"]).explanation
    return ProtocolResult(
        **{name: row[name] for name in ("protocol", "attempt", "at", "reason", "stage", "server_text")},
        host=row["host"],
        milliseconds=row["milliseconds"],
        title=explanation.title,
        meaning=explanation.meaning,
        remedy=explanation.remedy,
    )
