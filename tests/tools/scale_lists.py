"""Part of the scale benchmark: what a list, a count or a selection takes, by the number of mailboxes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

from schemas.reasons import Reason
from schemas.standing import MailboxStatus
from schemas.tables import now
from tasks.storage.changes import find_history, take_notice
from tasks.storage.claims import claim, find_due, find_to_recheck, release, share_of_recheck
from tasks.storage.database import Database
from tasks.storage.imports import (
    RowFilters,
    count_reasons,
    find_import,
    find_imports,
    find_rows,
    follow_import,
)
from tasks.storage.mailbox_changes import edit_mailboxes
from tasks.storage.mailboxes import (
    Filters,
    choose_mailboxes,
    count_mailboxes,
    count_waiting,
    find_mailbox,
    find_mailboxes,
    find_record,
)
from tasks.storage.outcomes import find_outcomes
from tests.tools.bench import show
from tests.tools.scale_fill import AN_IMPORT, MOST, RARE_WORKSPACE

TURNS = 15
A_PAGE = 50
LONG_SECONDS = 3.0  # of one query on all turns together
WEEK = timedelta(days=7)

EVERY = Filters()

Ask = Callable[[Database, int], object]


class Query(NamedTuple):
    """Something to ask a database with a number of mailboxes; `limit` is the aim, if it has one."""

    name: str
    ask: Ask
    limit: float = 3


def page(filters: Filters = EVERY, *, before_end: int | None = None, workspace: str = MOST) -> Ask:
    """The first page of the list, or the one so many ids before the end."""

    def ask(database: Database, stored: int) -> object:
        cursor = 0 if before_end is None else stored - before_end
        return find_mailboxes(database, workspace, cursor, A_PAGE, filters)

    return ask


def of_middle(ask: Callable[[Database, int], object]) -> Ask:
    """Ask about an import from the middle of the table."""
    return lambda database, stored: ask(database, max(1, stored // AN_IMPORT // 2))


def since(age: timedelta) -> Ask:
    return lambda database, _: find_mailboxes(database, MOST, 0, A_PAGE, Filters(changed_since=now() - age))


def narrowed(filters: Filters) -> Ask:
    return of_middle(
        lambda database, which: find_mailboxes(database, MOST, 0, A_PAGE, replace(filters, import_id=which))
    )


def one_mailbox(database: Database, stored: int) -> None:
    """The page of one mailbox."""
    found = find_mailbox(database, MOST, stored // 2)
    assert found is not None
    key = found.email.casefold()
    assert find_record(database, MOST, key) is not None
    assert find_history(database, MOST, key)
    count_waiting(database, MOST, Filters(key=key))


def claimed(database: Database, stored: int) -> None:
    """What a retest does before a group's tests."""
    due = find_due.fn(database, A_PAGE, None, held=False)
    ids = [target.mailbox_id for target in due]
    found = claim(database, ids, now(), now() + timedelta(minutes=5))
    assert len(found) == A_PAGE == len(ids), stored
    release(database, found, set())


def changed(database: Database, stored: int) -> None:
    """What the change of an import's tag does."""
    filters = Filters(import_id=max(1, stored // AN_IMPORT // 2), workspace=MOST)
    chosen = choose_mailboxes(database, MOST, filters)
    assert sum(map(len, edit_mailboxes(database, chosen, filters, {"name": "Somebody"}))) == len(chosen) > 0


# It has to go through all mailboxes of the workspace, or all that failed, or finds more of them.
SCANS = math.inf
PAGES = (
    Query("list: no filter", page()),
    Query("list: the last page", page(before_end=A_PAGE)),
    Query("list: a workspace with one of 20,000", page(workspace=RARE_WORKSPACE)),
    Query("list: status", page(Filters(status=MailboxStatus.FAILED))),
    Query("list: tag", page(Filters(tag="tag 1"))),
    Query("list: tag that no mailbox has", page(Filters(tag="none"))),
    Query("list: import", narrowed(Filters())),
    Query("list: import and reason", narrowed(Filters(reason=Reason.WRONG_CREDENTIALS))),
    Query("list: reason of one in ten", page(Filters(reason=Reason.WRONG_CREDENTIALS))),
    Query("list: reason of one in 20,000", page(Filters(reason=Reason.ACCOUNT_BLOCKED))),
    Query("list: reason that no mailbox has", page(Filters(reason=Reason.THROTTLED))),
    Query(
        "list: status and rare reason",
        page(Filters(status=MailboxStatus.FAILED, reason=Reason.ACCOUNT_BLOCKED)),
    ),
    Query("list: changed within an hour", since(timedelta(hours=1))),
    Query("list: changed within 30 days", since(timedelta(days=30)), SCANS),
    Query("list: a common domain", page(Filters(domain="contoso.com"))),
    Query("list: a rare domain", page(Filters(domain="rare.example")), SCANS),
    Query("list: a common part of the address", page(Filters(part="outlook"))),
    Query("list: a part of no address", page(Filters(part="nobody")), SCANS),
)
COUNTS = (
    Query("count: all", lambda database, _: count_mailboxes(database, MOST, Filters()), SCANS),
    Query(
        "count: status",
        lambda database, _: count_mailboxes(database, MOST, Filters(status=MailboxStatus.FAILED)),
        SCANS,
    ),
    Query(
        "count: reason of one in ten",
        lambda database, _: count_mailboxes(database, MOST, Filters(reason=Reason.WRONG_CREDENTIALS)),
        SCANS,
    ),
    Query(
        "count: a part of no address",
        lambda database, _: count_mailboxes(database, MOST, Filters(part="nobody")),
        SCANS,
    ),
    Query("count: reasons of all", lambda database, _: count_reasons(database, MOST, Filters()), SCANS),
    Query(
        "count: reasons of an import",
        of_middle(lambda database, which: count_reasons(database, MOST, Filters(import_id=which))),
    ),
    Query(
        "count: waiting for a test, of an import",
        of_middle(lambda database, which: count_waiting(database, MOST, Filters(import_id=which))),
    ),
)
IMPORTS = (
    Query("imports: the newest two", lambda database, _: find_imports(database, MOST, 2)),
    Query("import: counts and errors", of_middle(lambda d, which: find_import(d, MOST, which, 0, A_PAGE))),
    Query(
        "import: progress", of_middle(lambda d, which: follow_import(d, which, now() - timedelta(minutes=1)))
    ),
    Query("import: rows", of_middle(lambda d, which: find_rows(d, which, RowFilters(), 0, A_PAGE))),
    Query("import: report or hand-over", of_middle(lambda d, which: find_outcomes(d, MOST, which))),
)
RUNS = (
    Query("mailbox: its page", one_mailbox),
    Query("retest: 50 that are due", lambda d, _: find_due.fn(d, A_PAGE, None, held=False)),
    Query("retest: 50 that are due or held", lambda d, _: find_due.fn(d, A_PAGE, None, held=True)),
    Query("retest: 50 of a workspace", lambda d, _: find_due.fn(d, A_PAGE, MOST, held=False)),
    Query("retest: claim 50 and give them up", claimed),
    Query("recheck: 50", lambda d, _: find_to_recheck.fn(d, A_PAGE, now() - WEEK, None), SCANS),
    Query(
        "recheck: 50 of a workspace", lambda d, _: find_to_recheck.fn(d, A_PAGE, now() - WEEK, MOST), SCANS
    ),
    Query("recheck: the share of an hour", lambda d, _: share_of_recheck(d, 7, None), SCANS),
    Query("notice of changes", lambda d, _: take_notice(d)),
    Query("change the mailboxes of an import", changed),
)


def show_lists(kind: str, small: tuple[Database, int], big: tuple[Database, int]) -> None:
    """Print each query's time on the big table compared with the small one."""
    for query in (*PAGES, *COUNTS, *IMPORTS, *RUNS):
        seconds = list(in_turn(query, small, big))
        # The fastest, because other load on the machine only adds to what a query takes.
        few, many = (min(column) for column in zip(*seconds, strict=True))
        detail = f"{1000 * many:.1f} ms / {1000 * few:.1f} ms"
        show(f"{kind}: {query.name}", many / few, query.limit, detail)


def in_turn(query: Query, *stores: tuple[Database, int]) -> Iterator[tuple[float, ...]]:
    """Seconds on each database, in turn."""
    spent = 0.0
    for turn in range(TURNS + 1):
        seconds = []
        for database, stored in stores:
            begun = time.perf_counter()
            query.ask(database, stored)
            seconds.append(time.perf_counter() - begun)
        spent += sum(seconds)
        if turn:
            yield tuple(seconds)
        if turn and spent > LONG_SECONDS:
            break
