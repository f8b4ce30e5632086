"""Past imports: their counts, progress, row errors and reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    RowMapping,
    and_,
    case,
    func,
    or_,
    select,
    union_all,
)
from sqlmodel import col

from schemas.reasons import Protocol, Reason
from schemas.responses import (
    Import,
    ImportSummary,
    Mailbox,
    Progress,
    RowFault,
    StoredRow,
)
from schemas.row_reasons import RowReason, why_not_imported
from schemas.standing import MailboxStatus
from schemas.summary import Result
from schemas.tables import Import as StoredImport
from schemas.tables import ImportRow, now, table_of
from schemas.tables import Mailbox as StoredMailbox
from schemas.verdicts import by_frequency
from tasks.storage.database import Database, for_reading, through_restarts
from tasks.storage.mailboxes import (
    NO_REASON,
    Filters,
    all_rows,
    belongs_to,
    find_workspace_id,
    needed_for,
    of_import,
    select_mailboxes,
    shown,
    updated_by,
)


@dataclass(frozen=True)
class RowFilters:
    """The conditions that select rows of an import. None means any value.

    Attributes:
        result: A `Result`, or `NOTE` for the notes about the file.
        code: A `RowReason` or a `SkipReason`.
        warned: Only rows with a warning, and the notes about the file.
    """

    result: str | None = None
    code: str | None = None
    warned: bool = False

    def conditions(self, import_id: int) -> list[ColumnElement[bool]]:
        """Return the conditions, for a statement about the table of rows."""
        found = [col(ImportRow.import_id) == import_id]
        if self.result is not None:
            found.append(col(ImportRow.result) == self.result)
        if self.code is not None:
            found.append(col(ImportRow.reason) == self.code)
        if self.warned:
            found.append(col(ImportRow.warning) != "")
        return found


class Followed(NamedTuple):
    """How far the tests of an import have come.

    Attributes:
        open: How many mailboxes wait for a test that is due.
        verdicts: The mailboxes that were tested since a time, the earliest first.
    """

    progress: Progress
    open: int
    verdicts: list[Mailbox]


IMPORT_COLUMNS = ("id", "tag", "created_at", "imported", "updated", "skipped", "failed")
FAILED_ROWS = RowFilters(result=Result.FAILED)
WARNED_ROWS = RowFilters(warned=True)


@through_restarts
def find_import(database: Database, workspace: str, import_id: int, cursor: int, limit: int) -> Import | None:
    """Find an import: its counts, the progress of its tests, and a page of its row errors, ordered by line.

    Args:
        cursor: The last line of the previous page; 0 for the first page.
        limit: The maximum number of row errors on the page.

    Returns:
        None if the workspace has no such import.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    with for_reading(database.engine).connect() as connection:
        found = _summaries(connection, workspace, col(StoredImport.id) == import_id)
        if not found:
            return None
        errors = _rows(connection, import_id, FAILED_ROWS, cursor, limit + 1)
        of_import = select(func.count()).where(*FAILED_ROWS.conditions(import_id))
        errors_stored = connection.execute(of_import).scalar_one()
    return Import(
        **dict(found[0]),
        errors=[RowFault(line=row.line, email=row.email, error=row.message) for row in errors[:limit]],
        errors_stored=errors_stored,
        next_cursor=errors[limit - 1].line if len(errors) > limit else None,
    )


@through_restarts
def find_imports(database: Database, workspace: str, limit: int, cursor: int = 0) -> list[ImportSummary]:
    """Find the imports of a workspace, newest first, at most `limit` of them.

    Args:
        cursor: The last id of the previous page; 0 for the first page.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    older = [col(StoredImport.id) < cursor] if cursor else []
    with for_reading(database.engine).connect() as connection:
        return _summaries(connection, workspace, *older, limit=limit)


@through_restarts
def follow_import(database: Database, import_id: int, since: datetime) -> Followed:
    """Find how far the tests of an import's mailboxes have come. It includes mailboxes that it updated.

    Args:
        since: The verdicts from this time on are wanted.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    moment = now()
    untested = col(StoredMailbox.tested_at).is_(None)
    # A mailbox that was put off is not waited for, and neither is one that waits until someone asks.
    open_ = and_(
        col(StoredMailbox.status) == MailboxStatus.PENDING,
        col(StoredMailbox.next_attempt_at).is_not(None),
        or_(
            untested, col(StoredMailbox.next_attempt_at) <= moment, col(StoredMailbox.claimed_until) > moment
        ),
    )
    mailboxes = select_mailboxes(of_import(import_id))
    states = mailboxes.with_only_columns(
        col(StoredMailbox.status),
        func.count().label("mailboxes"),
        func.count(col(StoredMailbox.tested_at)).label("tested"),
        func.sum(case((open_, 1), else_=0)).label("open"),
    ).group_by(col(StoredMailbox.status))
    tested = mailboxes.where(col(StoredMailbox.tested_at) >= since)
    with for_reading(database.engine).connect() as connection:
        # The counts first: if nothing is open, the verdicts that are read after them are all there are.
        counts = connection.execute(states).all()
        rows = connection.execute(tested.order_by(col(StoredMailbox.tested_at), col(StoredMailbox.id)))
        verdicts = [Mailbox(**shown(row)) for row in rows.mappings()]
    return Followed(_progress(counts), sum(int(state.open) for state in counts), verdicts)


def count_imports(database: Database, workspace: str) -> int:
    """Count the imports of a workspace."""
    query = select(func.count()).where(belongs_to(workspace, StoredImport))
    with for_reading(database.engine).connect() as connection:
        return connection.execute(query).scalar_one()


@through_restarts
def find_rows(
    database: Database, import_id: int, filters: RowFilters, cursor: int = 0, limit: int | None = None
) -> list[StoredRow]:
    """Find the rows that are stored of an import, ordered by line.

    Args:
        cursor: The last line of the previous page; 0 for the first page.
        limit: The maximum number of rows; None for all.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    with for_reading(database.engine).connect() as connection:
        return _rows(connection, import_id, filters, cursor, limit)


@through_restarts
def count_reasons(database: Database, workspace: str, filters: Filters) -> list[tuple[Reason, int]]:
    """Count why mailboxes do not do what they are needed for: each reason and its mailboxes.

    A count by a reason and the list of mailboxes by the same reason are always about the same mailboxes.

    Returns:
        The most frequent first, then in the order of `Reason`.
    """
    columns = table_of(StoredMailbox).columns
    smtp, imap = columns["smtp_reason"], columns["imap_reason"]
    queries = (
        (smtp, and_(needed_for(Protocol.SMTP), smtp != NO_REASON)),
        # A mailbox with the same reason twice counts once.
        (
            imap,
            and_(needed_for(Protocol.IMAP), imap != NO_REASON, or_(~needed_for(Protocol.SMTP), imap != smtp)),
        ),
    )
    found: Counter[Reason] = Counter()
    with for_reading(database.engine).connect() as connection:
        within = columns["workspace_id"] == find_workspace_id(connection, workspace)
        for reason, condition in queries:
            query = (
                select(reason.label("reason"), func.count().label("mailboxes"))
                .where(within, *filters.conditions(), condition)
                .group_by(reason)
            )
            for row in connection.execute(query):
                found[Reason(row.reason)] += row.mailboxes
    return by_frequency(found)


def count_row_errors(database: Database, import_id: int) -> list[tuple[RowReason, int]]:
    """Count the row errors that are stored of an import: each reason and its rows, most frequent first."""
    query = (
        select(col(ImportRow.reason), func.count().label("rows"))
        .where(*FAILED_ROWS.conditions(import_id))
        .group_by(col(ImportRow.reason))
        .order_by(func.count().desc(), col(ImportRow.reason))
    )
    return [(RowReason(row["reason"]), row["rows"]) for row in all_rows(database, query)]


@through_restarts
def find_keyed_import(database: Database, workspace: str, idempotency_key: str) -> tuple[int, bytes] | None:
    """Find the import that used an idempotency key of a workspace: its id and its sealed fingerprint.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    query = select(col(StoredImport.id), col(StoredImport.fingerprint)).where(
        belongs_to(workspace, StoredImport), col(StoredImport.idempotency_key) == idempotency_key
    )
    rows = all_rows(database, query)
    return (rows[0]["id"], rows[0]["fingerprint"]) if rows else None


def _summaries(
    connection: Connection, workspace: str, *conditions: ColumnElement[bool], limit: int | None = None
) -> list[ImportSummary]:
    query = (
        select(table_of(StoredImport))
        .where(belongs_to(workspace, StoredImport), *conditions)
        .order_by(col(StoredImport.id).desc())
        .limit(limit)
    )
    imports = connection.execute(query).mappings().all()
    ids = [row["id"] for row in imports]
    updated = updated_by(ids)
    counts = (func.count().label("mailboxes"), func.count(col(StoredMailbox.tested_at)).label("tested"))
    states = union_all(
        select(col(StoredMailbox.import_id), col(StoredMailbox.status), *counts)
        .where(col(StoredMailbox.import_id).in_(ids))
        .group_by(col(StoredMailbox.import_id), col(StoredMailbox.status)),
        select(updated.c.import_id, col(StoredMailbox.status), *counts)
        .join(updated, updated.c.mailbox_id == col(StoredMailbox.id))
        .group_by(updated.c.import_id, col(StoredMailbox.status)),
    )
    progress: dict[int, list[Row[*tuple[Any, ...]]]] = {}
    for state in connection.execute(states):
        progress.setdefault(state.import_id, []).append(state)
    return [
        ImportSummary(
            **{name: row[name] for name in IMPORT_COLUMNS},
            file=row["file_name"],
            progress=_progress(progress.get(row["id"], [])),
        )
        for row in imports
    ]


def _progress(states: Sequence[Row[*tuple[Any, ...]]]) -> Progress:
    counts = Counter[str]()
    for state in states:
        counts[state.status] += state.mailboxes
    return Progress(
        mailboxes=counts.total(),
        tested=sum(state.tested for state in states),
        **{status.value: counts[status] for status in MailboxStatus},
    )


def _rows(
    connection: Connection, import_id: int, filters: RowFilters, cursor: int = 0, limit: int | None = None
) -> list[StoredRow]:
    query = (
        select(table_of(ImportRow))
        .where(*filters.conditions(import_id), col(ImportRow.line) > cursor)
        .order_by(col(ImportRow.line))
        .limit(limit)
    )
    return [_stored_row(row) for row in connection.execute(query).mappings()]


def _stored_row(row: RowMapping) -> StoredRow:
    message, _ = why_not_imported(row["line"], row["email"], row["reason"]) if row["reason"] else ("", "")
    return StoredRow(
        line=row["line"],
        email=row["email"] or None,
        result=row["result"],
        code=row["reason"],
        message=message,
        warning=row["warning"],
    )
