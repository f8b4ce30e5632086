"""Past imports: their counts, progress, row errors and reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from schemas.diagnosis import standing
from schemas.reasons import Reason
from schemas.responses import (
    Import,
    ImportSummary,
    Progress,
    RowFault,
)
from schemas.rows import RowReason
from schemas.tables import BatchRowError, ImportBatch, ProbeResult, columns_of
from schemas.tables import Mailbox as StoredMailbox
from schemas.verdicts import MailboxStatus
from tasks.storage.database import Database, for_reading, through_restarts
from tasks.storage.mailboxes import all_rows, in_last_test, owned_by


@through_restarts
def find_import(database: Database, workspace: str, import_id: int, cursor: int, limit: int) -> Import | None:
    """An import: its counts, how far its tests are, and a page of its row errors from behind `cursor` on."""
    with for_reading(database.engine).connect() as connection:
        found = _summaries(connection, workspace, columns_of(ImportBatch).c.id == import_id)
        if not found:
            return None
        errors = _row_faults(connection, import_id, cursor, limit + 1)
    return Import(
        **dict(found[0]),
        errors=errors[:limit],
        next_cursor=errors[limit - 1].line if len(errors) > limit else None,
    )


def find_imports(database: Database, workspace: str, limit: int) -> list[ImportSummary]:
    """The imports of a workspace, the newest first."""
    with for_reading(database.engine).connect() as connection:
        return _summaries(connection, workspace, limit=limit)


def count_imports(database: Database, workspace: str) -> int:
    query = owned_by(columns_of(ImportBatch), workspace).with_only_columns(func.count())
    with for_reading(database.engine).connect() as connection:
        return int(connection.execute(query).scalar_one())


def find_row_errors(database: Database, import_id: int) -> list[RowFault]:
    """All row errors of an import, by line."""
    with for_reading(database.engine).connect() as connection:
        return _row_faults(connection, import_id)


def count_reasons(database: Database, import_id: int) -> list[tuple[Reason, int]]:
    """Why the mailboxes of an import do not work: each reason and its mailboxes, the most frequent first."""
    mailbox, result = columns_of(StoredMailbox), columns_of(ProbeResult)
    query = (
        select(mailbox.c.id, result.c.reason)
        .join(result, in_last_test())
        .where(mailbox.c.batch_id == import_id)
        .order_by(mailbox.c.id)
    )
    rows = all_rows(database, query)
    found = Counter(
        reason
        for _, answers in groupby(rows, key=lambda row: row["id"])
        for reason in standing(Reason(answer["reason"]) for answer in answers)
    )
    return sorted(found.items(), key=lambda pair: (-pair[1], list(Reason).index(pair[0])))


def count_row_errors(database: Database, import_id: int) -> list[tuple[RowReason, int]]:
    """Why rows of an import failed: each reason and its rows, the most frequent first."""
    error = columns_of(BatchRowError)
    query = (
        select(error.c.reason, func.count().label("rows"))
        .where(error.c.batch_id == import_id)
        .group_by(error.c.reason)
        .order_by(func.count().desc(), error.c.reason)
    )
    return [(RowReason(row["reason"]), row["rows"]) for row in all_rows(database, query)]


@through_restarts
def find_keyed_import(database: Database, workspace: str, idempotency_key: str) -> tuple[int, bytes] | None:
    """The import that a workspace's idempotency key was used for: its id and its sealed fingerprint."""
    batch = columns_of(ImportBatch)
    rows = all_rows(database, owned_by(batch, workspace).where(batch.c.idempotency_key == idempotency_key))
    return (rows[0]["id"], rows[0]["fingerprint"]) if rows else None


def _summaries(
    connection: Connection, workspace: str, *conditions: ColumnElement[bool], limit: int | None = None
) -> list[ImportSummary]:
    batch, mailbox = columns_of(ImportBatch), columns_of(StoredMailbox)
    query = owned_by(batch, workspace).where(*conditions).order_by(batch.c.id.desc()).limit(limit)
    batches = connection.execute(query).mappings().all()
    states = (
        select(
            mailbox.c.batch_id,
            mailbox.c.status,
            func.count().label("mailboxes"),
            func.count(mailbox.c.tested_at).label("tested"),
        )
        .where(mailbox.c.batch_id.in_([row["id"] for row in batches]))
        .group_by(mailbox.c.batch_id, mailbox.c.status)
    )
    progress: dict[int, list[Any]] = {}
    for state in connection.execute(states):
        progress.setdefault(state.batch_id, []).append(state)
    return [
        ImportSummary(
            **{name: row[name] for name in ("id", "tag", "created_at", "imported", "skipped", "failed")},
            file=row["file_name"],
            progress=_progress(progress.get(row["id"], [])),
        )
        for row in batches
    ]


def _progress(states: Sequence[Any]) -> Progress:
    counts = {state.status: state.mailboxes for state in states}
    return Progress(
        mailboxes=sum(counts.values()),
        tested=sum(state.tested for state in states),
        **{status.value: counts.get(status, 0) for status in MailboxStatus},
    )


def _row_faults(
    connection: Connection, import_id: int, cursor: int = 0, limit: int | None = None
) -> list[RowFault]:
    error = columns_of(BatchRowError)
    query = (
        select(error.c.line, error.c.email, error.c.reason)
        .where(error.c.batch_id == import_id, error.c.line > cursor)
        .order_by(error.c.line)
        .limit(limit)
    )
    return [
        RowFault(line=row.line, email=row.email, error=RowReason(row.reason).message)
        for row in connection.execute(query)
    ]
