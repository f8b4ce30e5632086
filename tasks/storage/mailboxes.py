"""Stored mailboxes: one selection that lists, counts and chooses. No function here returns a secret."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    Subquery,
    and_,
    case,
    func,
    literal_column,
    or_,
    select,
    union_all,
)
from sqlmodel import col

from schemas.providers import Endpoint
from schemas.reasons import Protocol, Reason
from schemas.responses import (
    ConnectionTest,
    Mailbox,
    MailboxDetail,
    MailboxPage,
    MailboxRecord,
    ProtocolResult,
)
from schemas.standing import MailboxStatus, Needs, Standing, State, ability, tests_of
from schemas.summary import Result
from schemas.tables import Import, ImportRow, ProbeResult, StatusChange, now, table_of
from schemas.tables import Mailbox as StoredMailbox
from tasks.storage.database import Database, for_reading, through_restarts, workspace_named

# Columns that are shown as they are stored.
AS_STORED = (
    *("id", "email", "name", "tag", "status", "diagnosis", "attempts"),
    *("created_at", "tested_at", "next_attempt_at", "import_id", "needs"),
)
STATES = tuple(f"{protocol}_{name}" for protocol in Protocol for name in ("state", "reason", "attempts"))
SERVERS = ("smtp_host", "smtp_port", "imap_host", "imap_port")

# In literal words, because the index of reasons says that it has none of these.
NO_REASON: ColumnElement[str] = literal_column("''")

# How long a mailbox that is due waits for its turn, at most.
TURN = timedelta(minutes=10)

# A statement takes some ten thousand parameters at most.
AT_ONCE = 500

V = TypeVar("V")


class Waiting(NamedTuple):
    """How many mailboxes wait for a test.

    Attributes:
        running: A run is testing them now, or was just asked to.
        held: They wait until someone asks: held back by the lockout guard, or imported without a test.
    """

    running: int
    held: int


@dataclass(frozen=True)
class Filters:
    """The conditions that select mailboxes of a workspace. None means any value.

    Attributes:
        import_id: The import that created the mailbox, or gave it a new password.
        reason: Why at least one protocol that the mailbox is needed for is refused or put off.
        domain: The part of the email key after the @.
        part: Any part of the email key.
        changed_since: When the status last changed, at the earliest. A first verdict is no change.
        workspace: The workspace, for statements that do not name it otherwise.
        key: The whole email key.
    """

    status: MailboxStatus | None = None
    tag: str | None = None
    import_id: int | None = None
    reason: Reason | None = None
    domain: str | None = None
    part: str | None = None
    changed_since: datetime | None = None
    workspace: str | None = None
    key: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the conditions, for a statement about the table of mailboxes."""
        found = self._of_one_column()
        if self.import_id is not None:
            found.append(of_import(self.import_id))
        if self.reason is not None:
            found.append(has_reason(self.reason))
        return found

    def branches(self) -> list[list[ColumnElement[bool]]]:
        """Return lists of conditions: a mailbox matches the filters if it meets those of any list.

        For each list, an index gives the first mailboxes. With `conditions`, a database may go through all
        mailboxes of the workspace to find the first, because no index has the reasons of both protocols, nor
        what an import created and what it updated.
        """
        imports: list[list[ColumnElement[bool]]] = [[]]
        reasons: list[list[ColumnElement[bool]]] = [[]]
        if self.import_id is not None:
            updated = select(updated_by([self.import_id]).c.mailbox_id)
            imports = [[col(StoredMailbox.import_id) == self.import_id], [col(StoredMailbox.id).in_(updated)]]
        if self.reason is not None:
            reasons = [[condition] for condition in _each_with(self.reason)]
        return [[*self._of_one_column(), *one, *other] for one in imports for other in reasons]

    @property
    def search(self) -> bool:
        """Whether a database may have to look at all mailboxes of the workspace to find the first ones."""
        if self.import_id is not None:
            return False
        served = sum(one is not None for one in (self.status, self.tag, self.reason))
        return bool(self.part or self.domain) or self.reason is Reason.OK or served > 1

    def _of_one_column(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        if self.status is not None:
            found.append(col(StoredMailbox.status) == self.status)
        if self.tag is not None:
            found.append(col(StoredMailbox.tag) == self.tag)
        if self.domain is not None:
            found.append(col(StoredMailbox.email_key).endswith(f"@{self.domain}", autoescape=True))
        if self.part is not None:
            found.append(col(StoredMailbox.email_key).contains(self.part, autoescape=True))
        if self.key is not None:
            found.append(col(StoredMailbox.email_key) == self.key)
        if self.changed_since is not None:
            found.append(col(StoredMailbox.id).in_(_changed_since(self.changed_since)))
        if self.workspace is not None:
            found.append(belongs_to(self.workspace, StoredMailbox))
        return found


def _changed_since(moment: datetime) -> Select[int]:
    return select(col(StatusChange.mailbox_id)).where(
        col(StatusChange.at) >= moment, col(StatusChange.before).is_not(None)
    )


def of_import(import_id: int) -> ColumnElement[bool]:
    """Return the condition that an import created the mailbox, or gave it a new password."""
    mailbox, updated = table_of(StoredMailbox).alias("mailbox_of_import"), updated_by([import_id])
    created = select(mailbox.c.id).where(mailbox.c.import_id == import_id)
    # Not one condition with `or`: databases would go through all mailboxes of the workspace.
    return col(StoredMailbox.id).in_(union_all(created, select(updated.c.mailbox_id)))


def updated_by(import_ids: Collection[int]) -> Subquery:
    """Return a query for the mailboxes that imports gave new passwords: `import_id` and `mailbox_id`."""
    mailbox, row = table_of(StoredMailbox).alias("updated_mailbox"), table_of(ImportRow).columns
    return (
        select(col(Import.id).label("import_id"), mailbox.c.id.label("mailbox_id"))
        .join(Import, col(Import.workspace_id) == mailbox.c.workspace_id)
        .join(ImportRow, and_(row.import_id == col(Import.id), row.email_key == mailbox.c.email_key))
        # In literal words, so that the index of these rows is used.
        .where(col(Import.id).in_(import_ids), row.result == literal_column(f"'{Result.UPDATED}'"))
        .subquery("of_imports")
    )


def has_reason(reason: Reason) -> ColumnElement[bool]:
    """Return the condition that a protocol that the mailbox is needed for has this reason.

    For `Reason.OK`: that one of them accepted the password.
    """
    return or_(*_each_with(reason))


def _each_with(reason: Reason) -> list[ColumnElement[bool]]:
    """The conditions that SMTP, or IMAP, is needed and has this reason."""
    columns, found = table_of(StoredMailbox).columns, []
    for protocol in Protocol:
        if reason is Reason.OK:
            has = columns[f"{protocol}_state"] == State.ACCEPTED
        else:
            column = columns[f"{protocol}_reason"]
            # The second condition follows from the first, but the index of reasons is not used without it.
            has = and_(column == reason.value, column != NO_REASON)
        found.append(and_(has, needed_for(protocol)))
    return found


def needed_for(protocol: Protocol) -> ColumnElement[bool]:
    """Return the condition that a mailbox is needed for a protocol."""
    return table_of(StoredMailbox).columns["needs"].in_((Needs.BOTH, Needs(protocol.value)))


def nothing_known(protocol: Protocol) -> dict[str, Any]:
    """The columns of a protocol that is not tested yet."""
    known = {"state": State.UNTESTED.value, "reason": "", "attempts": 0, "due": None}
    return {f"{protocol}_{name}": value for name, value in known.items()}


def still_counts(row: RowMapping, answer: RowMapping) -> bool:
    """Whether the last answer of a protocol is about what is known of its mailbox now.

    It is not if the password was replaced or the verdict withdrawn since, even if a later test has not asked
    this protocol because the other one refused the password.
    """
    if row[f"{answer['protocol']}_state"] != State.UNTESTED:
        return True
    return bool(row["status"] != MailboxStatus.PENDING and answer["at"] == row["tested_at"])


def standings_of(row: RowMapping) -> dict[Protocol, Standing]:
    """What is known about each protocol of a stored mailbox."""
    return {
        protocol: Standing(
            State(row[f"{protocol}_state"]),
            Reason(row[f"{protocol}_reason"]) if row[f"{protocol}_reason"] else None,
            row[f"{protocol}_attempts"],
        )
        for protocol in Protocol
    }


@through_restarts
def find_mailboxes(
    database: Database,
    workspace: str,
    cursor: int,
    limit: int,
    filters: Filters,
    most_searched: int | None = None,
) -> MailboxPage:
    """Find a page of mailboxes, ordered by id.

    Args:
        cursor: The last id of the previous page; 0 for the first page.
        limit: The maximum number of mailboxes on the page.
        most_searched: How many mailboxes to look at for filters that no index serves. If there are more, the
            page may have fewer than `limit`, and still has a cursor. None for no limit.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    with for_reading(database.engine).connect() as connection:
        owner = find_workspace_id(connection, workspace)
        key, within = col(StoredMailbox.id), col(StoredMailbox.workspace_id) == owner
        end: int | None = None
        if most_searched is not None and filters.search:
            ids = select(key).where(within, key > cursor).order_by(key)
            end = connection.scalar(ids.offset(most_searched - 1).limit(1))
        query = select_mailboxes(within, key > cursor, *(() if end is None else (key <= end,)))
        # By an expression, or else PostgreSQL goes through all mailboxes to meet the few that have changed.
        order = key if filters.changed_since is None else key + 0
        first = query.order_by(order).limit(limit + 1)
        found = {
            row["id"]: row
            for conditions in filters.branches()
            for row in connection.execute(first.where(*conditions)).mappings()
        }
    rows = [found[one] for one in sorted(found)][: limit + 1]
    return MailboxPage(
        mailboxes=[Mailbox(**shown(row)) for row in rows[:limit]],
        next_cursor=rows[limit - 1]["id"] if len(rows) > limit else end,
    )


def count_mailboxes(database: Database, workspace: str, filters: Filters) -> int:
    """Count the mailboxes that match the filters."""
    query = _mailboxes(workspace).where(*filters.conditions()).with_only_columns(func.count())
    with for_reading(database.engine).connect() as connection:
        return int(connection.execute(query).scalar_one())


@through_restarts
def count_waiting(database: Database, workspace: str, filters: Filters) -> Waiting:
    """Count the mailboxes that wait for a test, by what they wait for.

    A mailbox whose test was due long ago is in none of the counts: the program that was to run it has ended.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    moment, mailbox = now(), table_of(StoredMailbox).columns
    asked_for = and_(
        mailbox["next_attempt_at"] > moment - TURN, mailbox["smtp_reason"] == "", mailbox["imap_reason"] == ""
    )
    claimed = mailbox["claimed_until"] > moment
    query = select(
        func.count(case((or_(claimed, asked_for), 1))).label("running"),
        func.count(
            case(
                (
                    and_(
                        or_(~claimed, mailbox["claimed_until"].is_(None)),
                        mailbox["next_attempt_at"].is_(None),
                    ),
                    1,
                )
            )
        ).label("held"),
    ).where(
        belongs_to(workspace, StoredMailbox),
        mailbox["status"] == MailboxStatus.PENDING,
        *filters.conditions(),
    )
    with for_reading(database.engine).connect() as connection:
        return Waiting(*connection.execute(query).one())


def choose_mailboxes(
    database: Database, workspace: str, filters: Filters, keys: Collection[str] = ()
) -> dict[int, str]:
    """Find the mailboxes that match the filters: id → email key, ordered by id.

    Args:
        keys: Only mailboxes with one of these email keys; all if empty.
    """
    query = _mailboxes(workspace).with_only_columns(col(StoredMailbox.id), col(StoredMailbox.email_key))
    key = col(StoredMailbox.email_key)
    parts = [query.where(key.in_(part)) for part in in_parts(sorted(keys))] or [query]
    with for_reading(database.engine).connect() as connection:
        found = {
            row.id: row.email_key
            for part in parts
            for conditions in filters.branches()
            for row in connection.execute(part.where(*conditions))
        }
    return dict(sorted(found.items()))


def in_parts(values: Sequence[V]) -> Iterator[list[V]]:
    """Split values into lists of at most `AT_ONCE`."""
    rest = iter(values)
    while part := list(islice(rest, AT_ONCE)):
        yield part


@through_restarts
def find_mailbox(database: Database, workspace: str, mailbox_id: int) -> MailboxDetail | None:
    """Find a mailbox with the last answer of each protocol; None if the workspace has no such mailbox.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    query = _mailboxes(workspace).where(col(StoredMailbox.id) == mailbox_id)
    with for_reading(database.engine).connect() as connection:
        found = connection.execute(query).mappings().first()
        if found is None:
            return None
        return MailboxDetail(**shown(found), results=_last_answers(connection, found))


@through_restarts
def find_connection_test(database: Database, workspace: str, mailbox_id: int) -> ConnectionTest | None:
    """Find how far the test of a mailbox has come; None if the workspace has no such mailbox.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    rows = all_rows(database, _mailboxes(workspace).where(col(StoredMailbox.id) == mailbox_id))
    if not rows:
        return None
    row = rows[0]
    results = tests_of(standings_of(row), Needs(row["needs"]))
    return ConnectionTest(
        **{name: row[name] for name in ("id", "status", "diagnosis", "tested_at", "next_attempt_at")},
        smtp=results[Protocol.SMTP],
        imap=results[Protocol.IMAP],
    )


@through_restarts
def find_record(database: Database, workspace: str, key: str) -> MailboxRecord | None:
    """Find everything that is stored about the mailbox with this email key, except its secrets."""
    query = (
        _mailboxes(workspace)
        .add_columns(
            col(StoredMailbox.claimed_until),
            col(StoredMailbox.totp).is_not(None).label("has_totp"),
            col(StoredMailbox.login),
            col(StoredMailbox.warning),
            col(Import.file_name),
        )
        .join(Import, col(Import.id) == col(StoredMailbox.import_id))
        .where(col(StoredMailbox.email_key) == key)
    )
    with for_reading(database.engine).connect() as connection:
        found = connection.execute(query).mappings().first()
        if found is None:
            return None
        results = _last_answers(connection, found)
    until = found["claimed_until"]
    return MailboxRecord(
        **shown(found),
        results=results,
        workspace=workspace,
        file=found["file_name"],
        has_totp=found["has_totp"],
        login=found["login"],
        warning=found["warning"],
        claimed_until=until if until is not None and until > now() else None,
    )


def _last_answers(connection: Connection, mailbox: RowMapping) -> list[ProtocolResult]:
    """Return the last answer of each protocol, SMTP first, with its reason in the light of both protocols.

    Beside a verdict, an answer that counts no more is left out.

    Attempts start again from 1 when a mailbox is made due again, so the time decides which is the last.
    """
    query = (
        select(table_of(ProbeResult))
        .where(col(ProbeResult.mailbox_id) == mailbox["id"])
        .order_by(col(ProbeResult.at), col(ProbeResult.attempt))
    )
    last = {row["protocol"]: row for row in connection.execute(query).mappings()}
    return [
        _protocol_result(row, Reason(mailbox[f"{protocol}_reason"] or row["reason"]))
        for protocol, row in sorted(last.items())[::-1]
        if mailbox["status"] == MailboxStatus.PENDING or still_counts(mailbox, row)
    ]


def all_rows(database: Database, query: Select[*tuple[Any, ...]]) -> list[RowMapping]:
    """Run a query in a read-only transaction of its own."""
    with for_reading(database.engine).connect() as connection:
        return list(connection.execute(query).mappings())


def belongs_to(workspace: str, model: type[StoredMailbox] | type[Import]) -> ColumnElement[bool]:
    """Return the condition that selects the mailboxes or imports of a workspace."""
    owner = workspace_named(workspace).scalar_subquery()
    return col(model.workspace_id) == owner


def find_workspace_id(connection: Connection, workspace: str) -> int | None:
    """Find the id of a workspace, for queries with a limit.

    PostgreSQL knows how many mailboxes a workspace has only if its id is a value, and plans with that.
    """
    found: int | None = connection.scalar(workspace_named(workspace))
    return found


def select_mailboxes(*conditions: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """Return a query for mailboxes; `shown` reads its rows."""
    columns = table_of(StoredMailbox).columns
    return select(*(columns[name] for name in (*AS_STORED, *SERVERS, *STATES))).where(*conditions)


def _mailboxes(workspace: str) -> Select[*tuple[Any, ...]]:
    return select_mailboxes(belongs_to(workspace, StoredMailbox))


def shown(row: RowMapping) -> dict[str, Any]:
    """The fields of a `responses.Mailbox`."""
    return {name: row[name] for name in AS_STORED} | {
        "can": ability(standings_of(row)),
        **{f"{protocol}_reason": row[f"{protocol}_reason"] or None for protocol in Protocol},
        "smtp": str(Endpoint(row["smtp_host"], row["smtp_port"])),
        "imap": str(Endpoint(row["imap_host"], row["imap_port"])),
    }


def _protocol_result(row: RowMapping, reason: Reason) -> ProtocolResult:
    explanation = reason.explanation
    return ProtocolResult(
        **{name: row[name] for name in ("protocol", "attempt", "at", "stage", "server_text")},
        reason=reason,
        host=row["host"],
        milliseconds=row["milliseconds"],
        title=explanation.title,
        meaning=explanation.meaning,
        remedy=explanation.remedy,
    )
