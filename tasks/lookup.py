"""What the HTTP API and the housekeeping read: mailboxes and imports of one workspace, and never a secret."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, select

from schemas.providers import Endpoint
from schemas.reasons import Reason, standing
from schemas.responses import (
    Import,
    ImportSummary,
    Mailbox,
    MailboxDetail,
    MailboxPage,
    MailboxRecord,
    Progress,
    ProtocolResult,
    RowFault,
)
from schemas.rows import RowReason
from schemas.tables import BatchRowError, ImportBatch, ProbeResult, Workspace, columns_of, now
from schemas.tables import Mailbox as StoredMailbox
from schemas.verdicts import MailboxStatus
from tasks.database import Database, for_reading, through_restarts

AS_THEY_ARE = (
    *("id", "email", "name", "tag", "status", "diagnosis", "attempts"),
    *("created_at", "tested_at", "next_attempt_at"),
)
AT_ONCE = 500  # addresses in one question: a statement takes no more than some ten thousand parameters


@dataclass(frozen=True)
class Filters:
    """Which mailboxes of a workspace are meant; what is None does not matter.

    Attributes:
        reason: What one protocol at least said in the last test.
        domain: As it stands in an email key, behind the @.
        part: Of the email key.
    """

    status: MailboxStatus | None = None
    tag: str | None = None
    import_id: int | None = None
    reason: Reason | None = None
    domain: str | None = None
    part: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        mailbox, result = columns_of(StoredMailbox), columns_of(ProbeResult)
        same = {"status": self.status, "tag": self.tag, "batch_id": self.import_id}
        found = [mailbox.c[column] == value for column, value in same.items() if value is not None]
        if self.reason is not None:
            found.append(exists().where(in_last_test(), result.c.reason == self.reason).correlate(mailbox))
        if self.domain is not None:
            found.append(mailbox.c.email_key.endswith(f"@{self.domain}", autoescape=True))
        if self.part is not None:
            found.append(mailbox.c.email_key.contains(self.part, autoescape=True))
        return found


def in_last_test() -> ColumnElement[bool]:
    """Joins a mailbox with what its last test brought; with nothing once it was made due again."""
    mailbox, result = columns_of(StoredMailbox), columns_of(ProbeResult)
    # Answers and their verdict are stored at one moment. One that was withdrawn has no diagnosis left.
    return and_(
        result.c.mailbox_id == mailbox.c.id, result.c.at == mailbox.c.tested_at, mailbox.c.diagnosis != ""
    )


@through_restarts
def find_mailboxes(
    database: Database, workspace: str, cursor: int, limit: int, filters: Filters
) -> MailboxPage:
    """A page of mailboxes, in the order of their ids, from behind `cursor` on."""
    mailbox = columns_of(StoredMailbox)
    query = _mailboxes(workspace).where(mailbox.c.id > cursor, *filters.conditions())
    rows = _all(database, query.order_by(mailbox.c.id).limit(limit + 1))
    return MailboxPage(
        mailboxes=[Mailbox(**_shown(row)) for row in rows[:limit]],
        next_cursor=rows[limit - 1]["id"] if len(rows) > limit else None,
    )


def count_mailboxes(database: Database, workspace: str, filters: Filters) -> int:
    query = _mailboxes(workspace).where(*filters.conditions()).with_only_columns(func.count())
    with for_reading(database.engine).connect() as connection:
        return int(connection.execute(query).scalar_one())


def choose_mailboxes(
    database: Database, workspace: str, filters: Filters, keys: Collection[str] = ()
) -> dict[int, str]:
    """The mailboxes that the filters let through, in the order of their ids: id → email key.

    Args:
        keys: Email keys; where there are some, only mailboxes of these.
    """
    mailbox = columns_of(StoredMailbox)
    query = _mailboxes(workspace).where(*filters.conditions()).order_by(mailbox.c.id)
    query = query.with_only_columns(mailbox.c.id, mailbox.c.email_key)
    parts = [query.where(mailbox.c.email_key.in_(part)) for part in in_parts(sorted(keys))] or [query]
    with for_reading(database.engine).connect() as connection:
        return dict(sorted(tuple(row) for part in parts for row in connection.execute(part)))


def in_parts(values: Sequence[Any]) -> Iterator[list[Any]]:
    """The values in lists of `AT_ONCE` at most."""
    rest = iter(values)
    while part := list(islice(rest, AT_ONCE)):
        yield part


@through_restarts
def find_mailbox(database: Database, workspace: str, mailbox_id: int) -> MailboxDetail | None:
    """A mailbox with what each protocol said last."""
    mailbox = columns_of(StoredMailbox)
    with for_reading(database.engine).connect() as connection:
        found = connection.execute(_mailboxes(workspace).where(mailbox.c.id == mailbox_id)).mappings().first()
        if found is None:
            return None
        return MailboxDetail(**_shown(found), results=_last_answers(connection, mailbox_id))


def find_record(database: Database, workspace: str, key: str) -> MailboxRecord | None:
    """All that is known of the mailbox with this email key, but for its secrets."""
    mailbox, batch = columns_of(StoredMailbox), columns_of(ImportBatch)
    query = (
        _mailboxes(workspace)
        .add_columns(
            mailbox.c.claimed_until, mailbox.c.totp.is_not(None).label("has_totp"), batch.c.file_name
        )
        .join(batch, batch.c.id == mailbox.c.batch_id)
        .where(mailbox.c.email_key == key)
    )
    with for_reading(database.engine).connect() as connection:
        found = connection.execute(query).mappings().first()
        if found is None:
            return None
        results = _last_answers(connection, found["id"])
    until = found["claimed_until"]
    return MailboxRecord(
        **_shown(found),
        results=results,
        workspace=workspace,
        file=found["file_name"],
        has_totp=found["has_totp"],
        claimed_until=until if until is not None and until > now() else None,
    )


def _last_answers(connection: Connection, mailbox_id: int) -> list[ProtocolResult]:
    """What each protocol said last, SMTP first.

    Attempts are counted anew once a mailbox is made due again, so that the time tells which came last.
    """
    result = columns_of(ProbeResult)
    query = result.select().where(result.c.mailbox_id == mailbox_id)
    rows = connection.execute(query.order_by(result.c.at, result.c.attempt)).mappings()
    last = {row["protocol"]: row for row in rows}
    return [_protocol_result(row) for _, row in sorted(last.items())[::-1]]


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
    query = _owned(columns_of(ImportBatch), workspace).with_only_columns(func.count())
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
    rows = _all(database, query)
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
    return [(RowReason(row["reason"]), row["rows"]) for row in _all(database, query)]


@through_restarts
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


def _summaries(
    connection: Connection, workspace: str, *conditions: ColumnElement[bool], limit: int | None = None
) -> list[ImportSummary]:
    batch, mailbox = columns_of(ImportBatch), columns_of(StoredMailbox)
    query = _owned(batch, workspace).where(*conditions).order_by(batch.c.id.desc()).limit(limit)
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
