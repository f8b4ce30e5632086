"""Lists and selections of mailboxes read few rows, however many are stored.

These tests look at the work that a database does for 20,000 mailboxes, which does not depend on the load of
the machine. SQLite plans with the statistics of the migration, so its plans are those of any number of
mailboxes. PostgreSQL plans with what it counted, so with a million it may plan otherwise: `make bench-scale`
measures that.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from schemas.settings import Settings
from schemas.tables import Mailbox, table_of
from tasks.storage.database import Database
from tasks.storage.mailboxes import Filters, find_mailboxes
from tests.conftest import accounts, import_mailboxes
from tests.support.postgresql import PostgreSql
from tests.tools.scale_fill import filled
from tests.tools.scale_lists import COUNTS, IMPORTS, PAGES, RUNS, SCANS, Query

FEW, MANY = 1_000, 20_000
STEPS_AT_ONCE = 10
ALL = (*PAGES, *COUNTS, *IMPORTS, *RUNS)
QUERIES = [query for query in ALL if query.limit != SCANS]
# Without the answers of servers: for those of 500 of 20,000 mailboxes, PostgreSQL reads all, which is faster.
BIG_TABLES = ("mailbox", "import_row", "status_change")
# An import has 500 mailboxes, which the condition and the result may read. For its reasons, PostgreSQL may
# read the mailboxes that are refused instead, one in seven.
MOST_READ = 3_000

by_name = pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, Database]]:
    """SQLite with a thousand mailboxes, and with 20,000."""
    folder = tmp_path_factory.mktemp("plans")
    with ExitStack() as stack:
        few, many = (
            stack.enter_context(filled(f"sqlite:///{folder}/{stored}.db", stored))[0]
            for stored in (FEW, MANY)
        )
        yield few, many


@pytest.fixture(scope="module")
def on_postgresql_with_many(postgresql: PostgreSql) -> Iterator[Database]:
    with postgresql.new_database() as address, filled(address, MANY) as (database, _):
        yield database


def steps(database: Database, stored: int, query: Query) -> int:
    """How many instructions SQLite's virtual machine executes for a query, in tens."""
    counts = Counter[str]()

    def count() -> int:
        counts["steps"] += 1
        return 0

    with counting(database, count):
        query.ask(database, stored)
    return counts["steps"]


@contextmanager
def counting(database: Database, count: Any) -> Iterator[None]:
    def begin(connection: sqlite3.Connection, *_: object) -> None:
        connection.set_progress_handler(count, STEPS_AT_ONCE)

    def end(connection: sqlite3.Connection, *_: object) -> None:
        connection.set_progress_handler(None, STEPS_AT_ONCE)

    event.listen(database.engine, "checkout", begin)
    event.listen(database.engine, "checkin", end)
    try:
        yield
    finally:
        event.remove(database.engine, "checkout", begin)
        event.remove(database.engine, "checkin", end)


@by_name
def test_sqlite_does_the_same_work_for_twenty_times_as_many(
    on_sqlite: tuple[Database, Database], query: Query
) -> None:
    """With 20,000 mailboxes SQLite takes at most twice the steps that it takes with a thousand."""
    few, many = on_sqlite
    assert steps(many, MANY, query) <= 2 * steps(few, FEW, query) + 200


@by_name
def test_postgresql_reads_few_of_the_rows(on_postgresql_with_many: Database, query: Query) -> None:
    """Of 20,000 mailboxes and what belongs to them, PostgreSQL reads no more than an import has."""
    for statement, plan in explained(on_postgresql_with_many, query):
        read = Counter[str]()
        for node in nodes(plan):
            table = node.get("Relation Name", "")
            rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            read[table] += rows * node["Actual Loops"]
        for table in BIG_TABLES:
            assert read[table] <= MOST_READ, (statement, table, read[table])


def test_each_index_is_of_use(on_sqlite: tuple[Database, Database]) -> None:
    """Each index of the table of mailboxes serves one of these queries."""
    used: set[str] = set()
    for query in ALL:
        for _, plan in explained(on_sqlite[1], query):
            used |= set(re.findall(r"INDEX (\w+)", plan))
    mailbox = {str(index.name) for index in table_of(Mailbox).indexes}
    assert mailbox <= used


def test_a_search_looks_at_a_part_of_many(db: Database, settings: Settings) -> None:
    """A page of a search looks at a limited number of mailboxes, and its cursor leads to the others."""
    import_mailboxes(db, settings, accounts(7))
    found, cursor, pages = [], 0, 0
    while True:
        page = find_mailboxes(db, "default", cursor, 50, Filters(part="user6"), most_searched=3)
        found += [mailbox.email for mailbox in page.mailboxes]
        pages += 1
        if page.next_cursor is None:
            break
        cursor = page.next_cursor
    assert (found, pages) == (["user6@outlook.com"], 3)
    whole = find_mailboxes(db, "default", 0, 50, Filters(tag="none"), most_searched=3)
    assert whole.next_cursor is None, "an index serves a tag, so it is looked for among all"


def explained(database: Database, query: Query) -> list[tuple[str, Any]]:
    """The statements of a query, each with its plan."""
    statements: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
        if statement.startswith("SELECT"):
            statements.append((statement, values))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        query.ask(database, MANY)
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    with database.engine.connect() as connection:
        return [(statement, plan_of(connection, statement, values)) for statement, values in statements]


def plan_of(connection: Any, statement: str, values: Any) -> Any:
    if connection.dialect.name == "sqlite":
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
        return "\n".join(row[3] for row in rows)
    return connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values).scalar_one()[0][
        "Plan"
    ]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A node of a plan of PostgreSQL, and all below it."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)
