"""Claims: which run may test a mailbox.

A run finds mailboxes, claims them, and gives up each claim with or without a verdict. A claim expires, so a
run that was killed blocks no mailbox. A run that has lost a claim writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from math import ceil
from typing import Any, NamedTuple

from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Row,
    RowMapping,
    Select,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.orm import Mapped
from sqlmodel import col

from schemas.classify import CREDENTIALS_REJECTED
from schemas.providers import Endpoint
from schemas.reasons import Protocol
from schemas.sealing import Owner
from schemas.standing import (
    CURABLE,
    MailboxStatus,
    Needs,
    Standings,
    State,
    before_recheck,
    to_ask,
    to_recheck,
)
from schemas.tables import Mailbox, ProbeResult, Workspace, now, table_of
from schemas.verdicts import Answer, Target, Verdict
from tasks.storage.changes import Settled, record_changes
from tasks.storage.database import Database, for_reading, insert_for, through_restarts
from tasks.storage.mailboxes import find_workspace_id, needed_for, of_import, standings_of

# How long a recheck leaves out a mailbox whose recheck was killed: its password may have been sent.
KILLED_PAUSE = timedelta(days=1)
# No claim and no pause is this long. A time further ahead was stored while the clock was wrong, and the
# mailbox would not be tested until then.
AHEAD = timedelta(days=2)
RECHECKS_PER_DAY = 24  # as `recheck-active` is scheduled
HELD_BACK = "Held back by the lockout guard: the passwords of this import look wrong as a whole."


class Claimed(NamedTuple):
    """A mailbox that only this run may test until `until`.

    Attributes:
        attempt: The number of this test, starting at 1.
        login: The sign-in name; the address if there is no other.
        warning: How the password may have been damaged in the file that it came from, or "".
        needs: What the mailbox is needed for.
        standings: What was known about each protocol before this claim.
        asked: The protocols to ask now.
        earlier: In a recheck, what stays known about each protocol until a definite answer; otherwise None.
    """

    mailbox_id: int
    email: str
    smtp: Endpoint
    imap: Endpoint
    password: bytes
    owner: Owner
    attempt: int
    until: datetime
    login: str
    warning: str
    needs: Needs
    standings: Standings
    asked: tuple[Protocol, ...]
    earlier: Standings | None = None


@task(persist_result=False, cache_policy=NO_CACHE)
@through_restarts
def find_due(
    database: Database,
    most: int,
    workspace: str | None,
    *,
    held: bool,
    import_id: int | None = None,
    mailbox_ids: Collection[int] | None = None,
) -> tuple[Target, ...]:
    """Find pending mailboxes that no run is testing, those that have waited longest first.

    Args:
        most: The maximum number of mailboxes.
        workspace: Only mailboxes of this workspace; None for all.
        held: Also mailboxes that wait until someone asks for a test: held back by the lockout guard, or
            imported without one.
        import_id: Only mailboxes that this import created or updated, even before they are due.
        mailbox_ids: Only these mailboxes, at most 500; None for all.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    moment = now()
    waits = col(Mailbox.next_attempt_at).is_(None)
    due, far_ahead = _past(col(Mailbox.next_attempt_at), moment)
    if import_id is not None:
        due = ~waits
    query = (
        _TARGETS.where(col(Mailbox.status) == MailboxStatus.PENDING, _unclaimed(moment))
        .order_by(col(Mailbox.next_attempt_at), col(Mailbox.id))
        .limit(most)
    )
    if import_id is not None:
        query = query.where(of_import(import_id))
    if mailbox_ids is not None:
        query = query.where(col(Mailbox.id).in_(mailbox_ids))
    with for_reading(database.engine).connect() as connection:
        query = _within(connection, query, workspace)
        found = list(connection.execute(query.where(or_(due, waits) if held else due)))
        if import_id is None and len(found) < most:
            found += connection.execute(query.where(far_ahead).limit(most - len(found)))
    return tuple(map(_target, found))


@task(persist_result=False, cache_policy=NO_CACHE)
@through_restarts
def find_to_recheck(
    database: Database, most: int, tested_before: datetime, workspace: str | None
) -> tuple[Target, ...]:
    """Find settled mailboxes to test again, those whose last test is the longest ago first.

    Args:
        most: The maximum number of mailboxes.
        tested_before: Only mailboxes whose last test was before this time.
        workspace: Only mailboxes of this workspace; None for all.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    query = (
        _TARGETS.add_columns(col(Mailbox.tested_at))
        .where(_unclaimed(now() - KILLED_PAUSE))
        .order_by(col(Mailbox.tested_at), col(Mailbox.id))
        .limit(most)
    )
    # One query for each status. Its index gives the first ones, and with `or` all of them would be sorted.
    with for_reading(database.engine).connect() as connection:
        query = _within(connection, query, workspace)
        found = [
            row
            for worth in _worth_a_recheck()
            for long_ago in _past(col(Mailbox.tested_at), tested_before)
            for row in connection.execute(query.where(worth, long_ago))
        ]
    found.sort(key=lambda row: (row.tested_at, row.id))
    return tuple(map(_target, found[:most]))


@through_restarts
def share_of_recheck(database: Database, days: int, workspace: str | None) -> int:
    """How many mailboxes an hourly recheck may test, so that each has its turn once in this many days.

    It is a quarter more than needed, so that missed runs are made up for.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    with for_reading(database.engine).connect() as connection:
        query = _within(connection, select(func.count()), workspace)
        total = sum(connection.scalar(query.where(worth)) or 0 for worth in _worth_a_recheck())
    return ceil(1.25 * total / (days * RECHECKS_PER_DAY))


_TARGETS = select(
    *(col(Mailbox.id), col(Mailbox.smtp_host), col(Mailbox.smtp_port)),
    *(col(Mailbox.imap_host), col(Mailbox.imap_port)),
)


def _within(
    connection: Connection, query: Select[*tuple[Any, ...]], workspace: str | None
) -> Select[*tuple[Any, ...]]:
    """Restrict a query for mailboxes to a workspace; None for all."""
    if workspace is None:
        return query
    return query.where(col(Mailbox.workspace_id) == find_workspace_id(connection, workspace))


def _target(row: Row[*tuple[Any, ...]]) -> Target:
    return Target(row.id, Endpoint(row.smtp_host, row.smtp_port), Endpoint(row.imap_host, row.imap_port))


def _worth_a_recheck() -> list[ColumnElement[bool]]:
    """The condition that `to_recheck` finds a protocol to ask, for the mailboxes of each status."""
    columns = table_of(Mailbox).columns
    refused = or_(*(columns[f"{protocol}_reason"].in_(sorted(CREDENTIALS_REJECTED)) for protocol in Protocol))
    curable = or_(
        *(
            and_(
                columns[f"{protocol}_state"] == State.REFUSED,
                columns[f"{protocol}_reason"].in_(sorted(CURABLE)),
                needed_for(protocol),
            )
            for protocol in Protocol
        )
    )
    return [
        columns["status"] == MailboxStatus.ACTIVE,
        columns["status"] == MailboxStatus.PARTIAL,
        and_(columns["status"] == MailboxStatus.FAILED, curable, ~refused),
    ]


@through_restarts
def claim(
    database: Database,
    mailbox_ids: Sequence[int],
    begun: datetime,
    until: datetime,
    *,
    recheck: bool = False,
) -> list[Claimed]:
    """Claim the mailboxes that are pending and that no other run is testing.

    Each claim counts as one attempt before the password is sent, so a run that is killed again and again
    cannot try it without limit. A recheck claims settled mailboxes instead, and changes nothing else of them.

    Args:
        begun: When the run began. Mailboxes that another run has tested since then are left out.
            For a recheck, the time before which the last test has to be.
        until: When the claims expire. This exact time, to the microsecond, identifies the claims of a call.

    Returns:
        The claimed mailboxes, by id.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    free = (
        select(col(Mailbox.id))
        .where(
            col(Mailbox.id).in_(mailbox_ids),
            or_(*_worth_a_recheck()) if recheck else col(Mailbox.status) == MailboxStatus.PENDING,
            _unclaimed(now()),
            or_(col(Mailbox.tested_at).is_(None), *_past(col(Mailbox.tested_at), begun)),
        )
        .order_by(col(Mailbox.id))
        # Wait for locked rows. A mailbox whose password is being re-encrypted must not miss its test.
        .with_for_update()
    )
    counted = {f"{protocol}_attempts": _attempts(protocol) for protocol in Protocol} | {
        "attempts": col(Mailbox.attempts) + 1
    }
    with database.engine.begin() as connection:
        connection.execute(
            update(Mailbox)
            .where(col(Mailbox.id).in_(free))
            .values(claimed_until=until, **({} if recheck else counted))
        )
        # If the connection is lost after the COMMIT, the repeated call finds its claims by their end, and
        # counts no second attempt.
        rows = connection.execute(
            select(table_of(Mailbox), col(Workspace.name).label("workspace"))
            .join(Workspace, col(Workspace.id) == col(Mailbox.workspace_id))
            .where(col(Mailbox.id).in_(mailbox_ids), col(Mailbox.claimed_until) == until)
            .order_by(col(Mailbox.id))
        ).mappings()
        return [_rechecked(row, until) if recheck else _claimed(row, until) for row in rows]


def _attempts(protocol: Protocol) -> ColumnElement[int]:
    """The attempts of a protocol, with one more if it will be asked."""
    columns = table_of(Mailbox).columns
    open_ = and_(
        columns[f"{protocol}_state"].in_((State.UNTESTED, State.PUT_OFF)),
        needed_for(protocol),
    )
    return columns[f"{protocol}_attempts"] + case((open_, 1), else_=0)


def _unclaimed(moment: datetime) -> ColumnElement[bool]:
    return or_(col(Mailbox.claimed_until).is_(None), *_past(col(Mailbox.claimed_until), moment))


def _past(column: Mapped[Any], moment: datetime) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """That a stored time is not after a moment, or that it is too far ahead to be right (see `AHEAD`).

    Two conditions, because an index serves each of them, but not both with `or`.
    """
    return column <= moment, column > now() + AHEAD


def _claimed(row: RowMapping, until: datetime) -> Claimed:
    needs = Needs(row["needs"])
    standings = standings_of(row)
    waiting = {protocol for protocol in needs.protocols if not standings[protocol].settled}
    # The claim has counted an attempt for each of these.
    before = {
        protocol: one._replace(attempts=one.attempts - 1) if protocol in waiting else one
        for protocol, one in standings.items()
    }
    return _claim_of(row, until, row["attempts"], before, _due_now(row, to_ask(before, needs)))


def _rechecked(row: RowMapping, until: datetime) -> Claimed:
    earlier = standings_of(row)
    asked = tuple(to_recheck(earlier, Needs(row["needs"])))
    return _claim_of(row, until, 1, before_recheck(earlier, asked), asked)._replace(earlier=earlier)


def _claim_of(
    row: RowMapping, until: datetime, attempt: int, standings: Standings, asked: tuple[Protocol, ...]
) -> Claimed:
    return Claimed(
        row["id"],
        row["email"],
        Endpoint(row["smtp_host"], row["smtp_port"]),
        Endpoint(row["imap_host"], row["imap_port"]),
        row["password"],
        Owner(row["workspace"], row["email_key"], "password"),
        attempt,
        until,
        row["login"] or row["email"],
        row["warning"],
        Needs(row["needs"]),
        standings,
        asked,
    )


def _due_now(row: RowMapping, protocols: Sequence[Protocol]) -> tuple[Protocol, ...]:
    """Of the protocols that are still to ask, those whose time has come; all if none's has."""
    soon = now() + timedelta(minutes=1)
    due = tuple(p for p in protocols if (at := row[f"{p}_due"]) is None or at <= soon or at > soon + AHEAD)
    return due or tuple(protocols)


@through_restarts
def save(database: Database, verdicts: Sequence[tuple[Claimed, Verdict]]) -> None:
    """Store verdicts with the answers behind them and the changes of status, and give up the claims.

    Nothing is written for a mailbox that was deleted or that another run has claimed since, nor about a
    recheck for a mailbox that was made due since: its next test starts from there.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    moment = now()
    with database.engine.begin() as connection:
        claims = _lock(connection, [claimed.mailbox_id for claimed, _ in verdicts])
        verdicts = [pair for pair in verdicts if _is_held(pair[0], claims.get(pair[0].mailbox_id))]
        if not verdicts:
            return
        connection.execute(
            update(Mailbox)
            .where(col(Mailbox.id) == bindparam("mailbox_id"))
            .values(
                status=bindparam("new_status"),
                diagnosis=bindparam("new_diagnosis"),
                attempts=bindparam("new_attempts"),
                next_attempt_at=bindparam("due"),
                claimed_until=None,
                old_password=case(
                    (bindparam("judged", type_=Boolean) == true(), None), else_=col(Mailbox.old_password)
                ),
                tested_at=moment,
                **{
                    f"{protocol}_{name}": bindparam(f"{protocol}_new_{name}")
                    for protocol in Protocol
                    for name in ("state", "reason", "attempts", "due")
                },
            ),
            [
                {
                    "mailbox_id": claimed.mailbox_id,
                    "new_status": verdict.status,
                    "judged": verdict.status != MailboxStatus.PENDING,
                    "new_diagnosis": verdict.diagnosis,
                    "new_attempts": claimed.attempt if verdict.counted else claimed.attempt - 1,
                    "due": moment + verdict.pause if verdict.pause is not None else None,
                    **_new_standings(verdict, moment),
                }
                for claimed, verdict in verdicts
            ],
        )
        insert = insert_for(connection, ProbeResult)
        key = {"mailbox_id", "attempt", "protocol"}
        # The next attempt reuses the number of an attempt that did not count.
        overwrite = {
            column.name: insert.excluded[column.name]
            for column in table_of(ProbeResult).columns
            if column.name not in key
        }
        connection.execute(
            insert.on_conflict_do_update(index_elements=sorted(key), set_=overwrite),
            [_result(verdict, answer, moment) for _, verdict in verdicts for answer in verdict.answers],
        )
        settled = [Settled(verdict.mailbox_id, verdict.status, verdict.standings) for _, verdict in verdicts]
        record_changes(connection, settled, moment)


def _is_held(claimed: Claimed, stored: tuple[datetime | None, str] | None) -> bool:
    if stored is None:
        return False
    until, status = stored
    return until == claimed.until and (claimed.earlier is None or status != MailboxStatus.PENDING)


def _new_standings(verdict: Verdict, moment: datetime) -> dict[str, Any]:
    return {
        f"{protocol}_new_{name}": value
        for protocol, one in verdict.standings.items()
        for name, value in (
            ("state", one.state),
            ("reason", one.reason or ""),
            ("attempts", one.attempts),
            ("due", moment + one.pause if one.pause is not None else None),
        )
    }


def _lock(connection: Connection, mailbox_ids: Sequence[int]) -> dict[int, tuple[datetime | None, str]]:
    """Lock mailboxes for the transaction, always in the same order.

    Returns:
        When the claim of each expires, and its status.
    """
    query = select(col(Mailbox.id), col(Mailbox.claimed_until), col(Mailbox.status)).where(
        col(Mailbox.id).in_(mailbox_ids)
    )
    return {
        row.id: (row.claimed_until, row.status)
        for row in connection.execute(query.order_by(col(Mailbox.id)).with_for_update())
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
def release(
    database: Database, mailboxes: Sequence[Claimed], tried: Collection[tuple[int, Protocol]]
) -> None:
    """Give up the claims of mailboxes that have no verdict.

    Args:
        tried: The ids of the mailboxes whose password was sent, each with the protocol. Only these keep the
            attempt. In a recheck they keep the claim, as if the run had been killed.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    untried = [
        {"mailbox_id": claimed.mailbox_id, "until": claimed.until}
        for claimed in mailboxes
        if claimed.earlier is not None
        and not any((claimed.mailbox_id, protocol) in tried for protocol in Protocol)
    ]
    mailboxes = [claimed for claimed in mailboxes if claimed.earlier is None]
    held = update(Mailbox).where(
        col(Mailbox.id) == bindparam("mailbox_id"), col(Mailbox.claimed_until) == bindparam("until")
    )
    with database.engine.begin() as connection:
        if untried:
            connection.execute(held.values(claimed_until=None), untried)
        if not mailboxes:
            return
        connection.execute(
            held.values(
                claimed_until=None,
                attempts=bindparam("new_attempts"),
                **{f"{protocol}_attempts": bindparam(f"{protocol}_new_attempts") for protocol in Protocol},
            ),
            [
                {
                    "mailbox_id": claimed.mailbox_id,
                    "until": claimed.until,
                    "new_attempts": claimed.attempt
                    - (not any((claimed.mailbox_id, protocol) in tried for protocol in Protocol)),
                    **{
                        f"{protocol}_new_attempts": one.attempts + ((claimed.mailbox_id, protocol) in tried)
                        for protocol, one in claimed.standings.items()
                    },
                }
                for claimed in mailboxes
            ],
        )


@through_restarts
def hold_back(database: Database, mailbox_ids: Sequence[int]) -> None:
    """Stop testing pending mailboxes until someone asks for a test.

    A mailbox that is being tested at this moment gets the result of its own test instead.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    with database.engine.begin() as connection:
        _lock(connection, mailbox_ids)
        connection.execute(
            update(Mailbox)
            .where(col(Mailbox.id).in_(mailbox_ids), col(Mailbox.status) == MailboxStatus.PENDING)
            .values(next_attempt_at=None, diagnosis=HELD_BACK)
        )
