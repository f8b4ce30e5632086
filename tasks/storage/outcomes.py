"""The rows of a past import with their mailboxes as they are now, for reports and the hand-over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from sqlalchemy import RowMapping, select
from sqlmodel import col

from schemas.outcomes import Answered, Document, Outcome, who_has_to_act
from schemas.providers import Endpoint
from schemas.reasons import Protocol, Reason
from schemas.row_reasons import why_not_imported
from schemas.standing import State
from schemas.summary import NOTE, TAKEN, Result
from schemas.tables import Import, ImportRow, Mailbox, ProbeResult, table_of
from tasks.storage.database import Database, for_reading, through_restarts
from tasks.storage.mailboxes import Filters, belongs_to, in_parts, of_import, still_counts

_SHOWN = (
    *("id", "email", "email_key", "name", "status", "diagnosis", "tested_at", "warning"),
    *("smtp_host", "smtp_port", "imap_host", "imap_port"),
    *("smtp_state", "smtp_reason", "imap_state", "imap_reason"),
)


@through_restarts
def find_outcomes(
    database: Database, workspace: str, import_id: int, filters: Filters | None = None
) -> tuple[Document, list[Outcome]] | None:
    """Find an import, and the rows of its file with their mailboxes.

    Imports from before rows were stored have only their failed rows and their mailboxes, without lines.

    Args:
        filters: Only the mailboxes that match these; None for all rows.

    Returns:
        None if the workspace has no such import.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    mailbox = table_of(Mailbox).columns
    with for_reading(database.engine).connect() as connection:
        found = (
            connection.execute(
                select(table_of(Import)).where(belongs_to(workspace, Import), col(Import.id) == import_id)
            )
            .mappings()
            .first()
        )
        if found is None:
            return None
        rows = (
            connection.execute(
                select(table_of(ImportRow))
                .where(col(ImportRow.import_id) == import_id)
                .order_by(col(ImportRow.line))
            )
            .mappings()
            .all()
        )
        chosen = [of_import(import_id), *(filters.conditions() if filters else ())]
        mailboxes = (
            connection.execute(
                select(*(mailbox[name] for name in _SHOWN)).where(*chosen).order_by(mailbox["id"])
            )
            .mappings()
            .all()
        )
        answers: dict[tuple[int, str], RowMapping] = {}
        for part in in_parts([one["id"] for one in mailboxes]):
            query = (
                select(table_of(ProbeResult))
                .where(col(ProbeResult.mailbox_id).in_(part))
                .order_by(col(ProbeResult.at), col(ProbeResult.attempt))
            )
            for answer in connection.execute(query).mappings():
                answers[answer["mailbox_id"], answer["protocol"]] = answer
    by_key = {one["email_key"]: one for one in mailboxes}
    outcomes = list(_of_rows(rows, by_key, answers, with_others=filters is None))
    listed = {row["email_key"] for row in rows if row["result"] in TAKEN}
    outcomes += [_with_mailbox(None, "", one, answers) for key, one in by_key.items() if key not in listed]
    notes = [
        (row["line"], note) for row in rows if row["result"] == NOTE for note in row["warning"].splitlines()
    ]
    return replace(_document(found, workspace), notes=tuple(notes)), outcomes


def _document(found: RowMapping, workspace: str) -> Document:
    return Document(
        import_id=found["id"],
        file=found["file_name"],
        workspace=workspace,
        tag=found["tag"],
        created_at=found["created_at"],
        imported=found["imported"],
        updated=found["updated"],
        skipped=found["skipped"],
        failed=found["failed"],
    )


def _of_rows(
    rows: Iterable[RowMapping],
    mailboxes: dict[str, RowMapping],
    answers: dict[tuple[int, str], RowMapping],
    *,
    with_others: bool,
) -> Iterable[Outcome]:
    for row in rows:
        if row["result"] in TAKEN:
            if (one := mailboxes.get(row["email_key"])) is not None:
                outcome = _with_mailbox(row["line"], row["warning"], one, answers)
                yield replace(outcome, result=row["result"])
            elif with_others:  # the mailbox was deleted
                yield Outcome(row["line"], row["email"], None, row["result"], warning=row["warning"])
        elif with_others and row["result"] != NOTE:
            yield _without_mailbox(row)


def _without_mailbox(row: RowMapping) -> Outcome:
    sentence, remedy = why_not_imported(row["line"], row["email"], row["reason"])
    return Outcome(row["line"], row["email"], None, row["result"], row["reason"], sentence, remedy)


def _with_mailbox(
    line: int | None, warning: str, one: RowMapping, answers: dict[tuple[int, str], RowMapping]
) -> Outcome:
    said = {p: _answered(one, p, answers.get((one["id"], p.value))) for p in Protocol}
    return Outcome(
        line=line,
        email=one["email"],
        name=one["name"],
        result=Result.IMPORTED,
        warning=warning or one["warning"],
        status=one["status"],
        diagnosis=one["diagnosis"],
        smtp=said[Protocol.SMTP],
        imap=said[Protocol.IMAP],
        tested_at=one["tested_at"],
        mailbox_id=one["id"],
    )


def _answered(one: RowMapping, protocol: Protocol, answer: RowMapping | None) -> Answered | None:
    """The last answer of a protocol, with its reason in the light of both; None if it counts no more."""
    if answer is None or not still_counts(one, answer):
        return None
    settled: Any = one[f"{protocol}_reason"]
    # A temporary fault in a recheck takes nothing from a protocol that works.
    works = one[f"{protocol}_state"] == State.ACCEPTED
    reason = Reason.OK if works else Reason(settled or answer["reason"])
    why = reason.explanation
    return Answered(
        code=reason,
        title=why.title,
        meaning=why.meaning,
        remedy=why.remedy,
        server_text=answer["server_text"] if answer["reason"] == Reason.OK or not works else "",
        host=Endpoint(one[f"{protocol}_host"], one[f"{protocol}_port"]).name,
        at=answer["at"],
        stage=answer["stage"],
    )


def who_acts(database: Database, workspace: str, import_id: int) -> str:
    """Who has to act now for the mailboxes of an import, in one sentence; "" for no one."""
    found = find_outcomes(database, workspace, import_id)
    return who_has_to_act(found[1]) if found else ""
