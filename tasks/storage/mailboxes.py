"""Stored mailboxes: one selection that lists, counts and chooses, and never a secret."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, select

from schemas.providers import Endpoint
from schemas.reasons import Reason
from schemas.responses import (
    Mailbox,
    MailboxDetail,
    MailboxPage,
    MailboxRecord,
    ProtocolResult,
)
from schemas.tables import ImportBatch, ProbeResult, Workspace, columns_of, now
from schemas.tables import Mailbox as StoredMailbox
from schemas.verdicts import MailboxStatus
from tasks.storage.database import Database, for_reading, through_restarts

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
    rows = all_rows(database, query.order_by(mailbox.c.id).limit(limit + 1))
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
        return dict(sorted((row.id, row.email_key) for part in parts for row in connection.execute(part)))


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


def all_rows(database: Database, query: Select[Any]) -> list[Any]:
    with for_reading(database.engine).connect() as connection:
        return list(connection.execute(query).mappings())


def owned_by(table: Any, workspace: str) -> Select[Any]:
    owner = columns_of(Workspace)
    mine = select(owner.c.id).where(owner.c.name == workspace).scalar_subquery()
    query: Select[Any] = table.select().where(table.c.workspace_id == mine)
    return query


def _mailboxes(workspace: str) -> Select[Any]:
    mailbox = columns_of(StoredMailbox)
    servers = ("smtp_host", "smtp_port", "imap_host", "imap_port")
    return owned_by(mailbox, workspace).with_only_columns(
        *(mailbox.c[name] for name in (*AS_THEY_ARE, "batch_id", *servers))
    )


def _shown(row: Any) -> dict[str, Any]:
    return {name: row[name] for name in AS_THEY_ARE} | {
        "import_id": row["batch_id"],
        "smtp": str(Endpoint(row["smtp_host"], row["smtp_port"])),
        "imap": str(Endpoint(row["imap_host"], row["imap_port"])),
    }


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
