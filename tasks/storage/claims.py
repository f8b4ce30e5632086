"""Who tests a mailbox: it is claimed by one run, and given up with a verdict or without one.

A claim has an end, so that a killed run blocks nobody; whoever has lost a claim by then writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, or_, select

from schemas.providers import Endpoint
from schemas.sealing import Owner
from schemas.tables import Mailbox, ProbeResult, Workspace, columns_of, now
from schemas.verdicts import Answer, MailboxStatus, Verdict
from tasks.storage.database import Database, insert_for, through_restarts

HELD_BACK = "Held back by the lockout guard: the passwords of this import look wrong as a whole."


class Claimed(NamedTuple):
    """A mailbox that this run alone may test until `until`."""

    mailbox_id: int
    email: str
    smtp: Endpoint
    imap: Endpoint
    password: bytes
    owner: Owner
    attempt: int
    until: datetime


@through_restarts
def claim(database: Database, mailbox_ids: Sequence[int], begun: datetime, until: datetime) -> list[Claimed]:
    """Take the mailboxes that are pending and that nobody else is testing; each counts one attempt from here.

    The attempt is counted before the password leaves, so that a killed run cannot try one again and again.

    Args:
        begun: When the run began; whatever another run has tested since then is not tested again.
        until: When the claim runs out; to the microsecond it is what the claim is known by.
    """
    mailbox, workspace = columns_of(Mailbox), columns_of(Workspace)
    free = (
        select(mailbox.c.id)
        .where(
            mailbox.c.id.in_(mailbox_ids),
            mailbox.c.status == MailboxStatus.PENDING,
            or_(mailbox.c.claimed_until.is_(None), mailbox.c.claimed_until < now()),
            or_(mailbox.c.tested_at.is_(None), mailbox.c.tested_at < begun),
        )
        .order_by(mailbox.c.id)
        # Waits for whoever holds a row: one that is only being sealed anew would go untested if skipped.
        .with_for_update()
    )
    with database.engine.begin() as connection:
        connection.execute(
            mailbox.update()
            .where(mailbox.c.id.in_(free))
            .values(claimed_until=until, attempts=mailbox.c.attempts + 1)
        )
        # Asked for by its end, a claim is found again whose COMMIT had no answer, and is not counted twice.
        rows = connection.execute(
            select(mailbox, workspace.c.name.label("workspace"))
            .join(workspace, workspace.c.id == mailbox.c.workspace_id)
            .where(mailbox.c.id.in_(mailbox_ids), mailbox.c.claimed_until == until)
            .order_by(mailbox.c.id)
        ).mappings()
        return [_claimed(row, until) for row in rows]


def _claimed(row: Any, until: datetime) -> Claimed:
    return Claimed(
        row["id"],
        row["email"],
        Endpoint(row["smtp_host"], row["smtp_port"]),
        Endpoint(row["imap_host"], row["imap_port"]),
        row["password"],
        Owner(row["workspace"], row["email_key"], "password"),
        row["attempts"],
        until,
    )


@through_restarts
def save(database: Database, verdicts: Sequence[tuple[Claimed, Verdict]]) -> None:
    """Store verdicts with every answer behind them, and give up the claims.

    Whoever lost a claim to another run, or whose mailbox was deleted, writes nothing.
    """
    mailbox, result = columns_of(Mailbox), columns_of(ProbeResult)
    moment = now()
    with database.engine.begin() as connection:
        claims = _claims(connection, [claimed.mailbox_id for claimed, _ in verdicts])
        verdicts = [pair for pair in verdicts if claims.get(pair[0].mailbox_id) == pair[0].until]
        if not verdicts:
            return
        connection.execute(
            mailbox.update()
            .where(mailbox.c.id == bindparam("mailbox_id"))
            .values(
                status=bindparam("new_status"),
                diagnosis=bindparam("new_diagnosis"),
                attempts=bindparam("new_attempts"),
                next_attempt_at=bindparam("due"),
                claimed_until=None,
                tested_at=moment,
            ),
            [
                {
                    "mailbox_id": claimed.mailbox_id,
                    "new_status": verdict.status,
                    "new_diagnosis": verdict.diagnosis,
                    "new_attempts": claimed.attempt if verdict.counted else claimed.attempt - 1,
                    "due": moment + verdict.pause if verdict.pause is not None else None,
                }
                for claimed, verdict in verdicts
            ],
        )
        insert = insert_for(connection, result)
        key = {"mailbox_id", "attempt", "protocol"}
        # An attempt that was not counted has its number used again.
        overwrite = {
            column.name: insert.excluded[column.name] for column in result.c if column.name not in key
        }
        connection.execute(
            insert.on_conflict_do_update(index_elements=sorted(key), set_=overwrite),
            [_result(verdict, answer, moment) for _, verdict in verdicts for answer in verdict.answers],
        )


def _claims(connection: Connection, mailbox_ids: Sequence[int]) -> dict[int, datetime | None]:
    """Until when each mailbox is claimed; holds them for the transaction, everybody in the same order."""
    mailbox = columns_of(Mailbox)
    query = select(mailbox.c.id, mailbox.c.claimed_until).where(mailbox.c.id.in_(mailbox_ids))
    return {
        row.id: row.claimed_until
        for row in connection.execute(query.order_by(mailbox.c.id).with_for_update())
    }


def _result(verdict: Verdict, answer: Answer, moment: datetime) -> dict[str, Any]:
    return {
        "mailbox_id": verdict.mailbox_id,
        "attempt": verdict.attempt,
        "protocol": answer.protocol,
        "reason": answer.reason,
        "stage": answer.stage,
        "server_text": answer.text,
        "host": str(answer.endpoint),
        "milliseconds": answer.milliseconds,
        "at": moment,
    }


@through_restarts
def release(database: Database, mailboxes: Sequence[Claimed], tried: Collection[int]) -> None:
    """Give back what was not tested to the end; where no password was sent, no attempt is counted."""
    if not mailboxes:
        return
    mailbox = columns_of(Mailbox)
    with database.engine.begin() as connection:
        connection.execute(
            mailbox.update()
            .where(mailbox.c.id == bindparam("mailbox_id"), mailbox.c.claimed_until == bindparam("until"))
            .values(claimed_until=None, attempts=bindparam("new_attempts")),
            [
                {
                    "mailbox_id": claimed.mailbox_id,
                    "until": claimed.until,
                    "new_attempts": claimed.attempt - (claimed.mailbox_id not in tried),
                }
                for claimed in mailboxes
            ],
        )


@through_restarts
def hold_back(database: Database, mailbox_ids: Sequence[int]) -> None:
    """Let mailboxes wait until somebody asks for a test.

    Those being tested at this moment get what their own verdict says.
    """
    mailbox = columns_of(Mailbox)
    with database.engine.begin() as connection:
        _claims(connection, mailbox_ids)
        connection.execute(
            mailbox.update()
            .where(mailbox.c.id.in_(mailbox_ids), mailbox.c.status == MailboxStatus.PENDING)
            .values(next_attempt_at=None, diagnosis=HELD_BACK)
        )
