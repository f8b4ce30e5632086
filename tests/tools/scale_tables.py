"""Part of the scale benchmark: lists, and the store step, by the number of mailboxes already stored."""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import select
from sqlmodel import col

from schemas.prepare import Prepared
from schemas.settings import Settings
from schemas.tables import Mailbox, Workspace
from tasks.prepare import prepare
from tasks.storage.database import Database, for_reading
from tasks.store import Origin, store
from tests.support.postgresql import postgresql_binaries, postgresql_of
from tests.tools.bench import show
from tests.tools.scale_fill import MOST, SERIES, filled
from tests.tools.scale_lists import show_lists
from tests.tools.scale_site import Bounds

SMALL = 1_000
STORE_TURNS = 40


def tables(folder: Path, bounds: Bounds) -> None:
    """Lists, counts and selections, and the store step, by the number of mailboxes already stored."""
    stored = (SMALL, bounds.stored)
    with postgresql_of(next(postgresql_binaries()), durable=True) as server:
        for kind in SERIES:
            with ExitStack() as stack:
                opened = []
                for number in stored:
                    address = f"sqlite:///{folder}/{number}.db"
                    if kind == "postgresql":
                        address = stack.enter_context(server.new_database())
                    begun = time.perf_counter()
                    opened.append(stack.enter_context(filled(address, number)))
                    show(
                        f"{kind}: seconds to fill in {number:,}",
                        time.perf_counter() - begun,
                        float("inf"),
                        "",
                    )
                small, big = (
                    (database, number) for (database, _), number in zip(opened, stored, strict=True)
                )
                show_lists(kind, small, big)
                show_steps(kind, folder, bounds.rows, opened, stored)


def show_steps(
    kind: str,
    folder: Path,
    rows: int,
    opened: Sequence[tuple[Database, Settings]],
    stored: tuple[int, int],
) -> None:
    """Print what storing an import takes, and what updating the mailboxes that it stored takes."""
    new: list[list[float]] = [[] for _ in opened]
    updated: list[list[float]] = [[] for _ in opened]
    # In turn, so that other load on the machine affects all of them equally.
    for turn in range(STORE_TURNS + 1):
        for at, (database, settings) in enumerate(opened):
            emails = [f"{secrets.token_hex(4)}.{n}@outlook.com" for n in range(rows)]
            stored_before = emails_stored(database, rows, stored[at])
            seconds = (
                store_once(folder, emails, database, settings, update=False),
                store_once(folder, stored_before, database, settings, update=True),
            )
            if turn:
                new[at].append(seconds[0])
                updated[at].append(seconds[1])
    for what, (small, big) in (("storing", new), ("updating", updated)):
        few, many = quarter(small), quarter(big)
        means = " / ".join(f"{1000 * statistics.mean(one):.0f} ms" for one in (big, small))
        show(
            f"{kind}: {what} {rows} among {stored[1]:,} / {stored[0]:,}",
            many / few,
            1.5,
            f"{1000 * many:.0f} ms / {1000 * few:.0f} ms; means {means}",
        )


def emails_stored(database: Database, rows: int, stored: int) -> Sequence[str]:
    """Neighbouring mailboxes from somewhere in the table, as one import made them."""
    last = stored - 2 * rows + rows // 2  # nine of ten are in the workspace
    query = (
        select(col(Mailbox.email))
        .join(Workspace, col(Workspace.id) == col(Mailbox.workspace_id))
        .where(col(Workspace.name) == MOST, col(Mailbox.id) > secrets.randbelow(max(last, 1)))
        .order_by(col(Mailbox.id))
        .limit(rows)
    )
    with for_reading(database.engine).connect() as connection:
        return connection.scalars(query).all()


def quarter(seconds: Sequence[float]) -> float:
    """The maximum of the fastest quarter.

    About every other commit waits longer for the disk than everything else takes, at any table size, so a
    median would be random.
    """
    return statistics.quantiles(seconds, n=4)[0]


def store_once(
    folder: Path, emails: Sequence[str], database: Database, settings: Settings, *, update: bool
) -> float:
    """Seconds of the store step."""
    file = folder / "more.csv"
    lines = "".join(f"{email},{secrets.token_hex(8)}\n" for email in emails)
    file.write_text(f"email,password\n{lines}")
    prepared = prepare.fn(file, settings.max_file_bytes)
    assert isinstance(prepared, Prepared)
    begun = time.perf_counter()
    done = store.fn(prepared, Origin(file.name, MOST, None, test=True, update=update), database, settings)
    seconds = time.perf_counter() - begun
    assert (done.summary.updated if update else done.summary.imported) == len(emails), done.summary
    return seconds
