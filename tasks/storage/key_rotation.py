"""The keys behind what is stored: what each has sealed, and sealing anew whatever the first one has not.

Safe beside everything else that runs: a batch is one short transaction over rows that nobody else is
changing, and it never waits for a row, so that it can neither overwrite a change nor take part in a deadlock.
A kill loses at most one batch, which the next run does again.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Engine, LargeBinary, bindparam, func, select

from schemas.sealing import ID_BYTES, VERSION, Owner, UnsealError, key_id, parse_keys
from schemas.tables import ImportBatch, Mailbox, Workspace, columns_of
from tasks.storage.database import Database, for_reading, through_restarts
from tasks.storage.key_file import changing

# Small enough that nobody waits long for the locks of one transaction.
ROWS_AT_ONCE = 200
# What somebody else is changing at the moment is taken up again in the next pass.
PASSES = 10
PAUSE_SECONDS = 0.5
# An import may have sealed with the old key just before a new one was made, and not stored its rows yet.
SETTLING_SECONDS = 3600


class Place(NamedTuple):
    """A column of sealed values, and the one that names what they belong to within their workspace."""

    column: Any
    subject: Any

    @property
    def filled(self) -> ColumnElement[bool]:
        filled: ColumnElement[bool] = self.column.is_not(None)
        return filled

    def outdated(self, header: bytes) -> ColumnElement[bool]:
        """Whether a value begins with another key than this."""
        begins = func.substr(self.column, 1, len(header), type_=LargeBinary)
        return self.filled & (begins != header)


def places() -> tuple[Place, ...]:
    mailbox, batch = columns_of(Mailbox), columns_of(ImportBatch)
    return (
        Place(mailbox.c.password, mailbox.c.email_key),
        Place(mailbox.c.totp, mailbox.c.email_key),
        Place(batch.c.fingerprint, batch.c.idempotency_key),
    )


class Unopened(NamedTuple):
    """A value that no key opens: the row that it is in, and why."""

    table: str
    id: int
    field: str
    fault: str


class Resealed(NamedTuple):
    """What came of it; `left` are values that others held all the time, or sealed with an old key."""

    values: int
    unopened: tuple[Unopened, ...]
    left: int


def count_sealed(engine: Engine) -> dict[bytes, Counter[str]]:
    """How many stored values each key has sealed: key id → field → values."""
    counts: defaultdict[bytes, Counter[str]] = defaultdict(Counter)
    with for_reading(engine).connect() as connection:
        for place in places():
            name = func.substr(place.column, len(VERSION) + 1, ID_BYTES, type_=LargeBinary)
            query = select(name.label("key_id"), func.count()).where(place.filled).group_by("key_id")
            for found, values in connection.execute(query):
                counts[bytes(found)][place.column.name] += values
    return dict(counts)


def reseal(database: Database) -> Resealed:
    """Seal with the first key whatever another one has sealed."""
    values = 0
    for turn in range(PASSES):
        if turn:
            time.sleep(PAUSE_SECONDS)
        header = database.sealer.header
        unopened: list[Unopened] = []
        for place in places():
            values += _reseal_place(database, place, header, unopened)
        left = sum(_count_outdated(database, place, header) for place in places()) - len(unopened)
        if left <= 0:
            break
    return Resealed(values, tuple(unopened), max(left, 0))


@through_restarts
def _count_outdated(database: Database, place: Place, header: bytes) -> int:
    with for_reading(database.engine).connect() as connection:
        return connection.scalars(select(func.count()).where(place.outdated(header))).one()


def _reseal_place(database: Database, place: Place, header: bytes, unopened: list[Unopened]) -> int:
    values, last = 0, 0
    # Looked for outside the transaction that writes: on SQLite everybody else waits for that one.
    while ids := _find_outdated(database, place, header, last):
        fresh, stuck = _reseal_rows(database, place, header, ids)
        values += fresh
        unopened += stuck
        last = ids[-1]
    return values


@through_restarts
def _find_outdated(database: Database, place: Place, header: bytes, last: int) -> Sequence[int]:
    key = place.column.table.c.id
    query = select(key).where(place.outdated(header), key > last).order_by(key).limit(ROWS_AT_ONCE)
    with for_reading(database.engine).connect() as connection:
        return connection.scalars(query).all()


@through_restarts
def _reseal_rows(
    database: Database, place: Place, header: bytes, ids: Sequence[int]
) -> tuple[int, list[Unopened]]:
    table, field, workspace = place.column.table, place.column.name, columns_of(Workspace)
    query = (
        select(table.c.id, place.column, workspace.c.name.label("workspace"), place.subject.label("subject"))
        .join(workspace, workspace.c.id == table.c.workspace_id)
        .where(table.c.id.in_(ids), place.outdated(header))
        .order_by(table.c.id)
        .with_for_update(of=table, skip_locked=True, key_share=True)
    )
    fresh, stuck = [], []
    with database.engine.begin() as connection:
        for row in connection.execute(query).mappings():
            owner = Owner(row["workspace"], row["subject"], field)
            try:
                plaintext = database.sealer.open(row[field], owner)
            except UnsealError as error:
                stuck.append(Unopened(table.name, row["id"], field, str(error)))
                continue
            fresh.append({"row_id": row["id"], "fresh": database.sealer.seal(plaintext, owner)})
        if fresh:
            update = table.update().where(table.c.id == bindparam("row_id"))
            connection.execute(update.values({field: bindparam("fresh")}), fresh)
    return len(fresh), stuck


def add_key(path: Path, key: str) -> None:
    """Make a key the first one of the key file."""
    with changing(path) as keys:
        keys.insert(0, key)


class KeyNeededError(Exception):
    """A key cannot be taken out of the key file; the text says why."""


def remove_keys(path: Path, engine: Engine, ids: Collection[bytes]) -> None:
    """Take keys out of the key file, for good.

    Raises:
        KeyNeededError: When one is not there, seals, or may still be needed; nothing is changed then.
    """
    with changing(path) as keys:
        by_id = {key_id(parse_keys(key)[0]): key for key in keys}
        sealed = count_sealed(engine)
        for name in ids:
            if name not in by_id:
                raise KeyNeededError(f"{name.hex()} is not in {path}")
            if by_id[name] == keys[0]:
                raise KeyNeededError(f"{name.hex()} is the key that seals")
            if values := sealed.get(name, Counter()).total():
                raise KeyNeededError(f"{name.hex()} has sealed {values} stored values: rotate first")
        wait = path.stat().st_mtime + SETTLING_SECONDS - time.time()
        if wait > 0:
            raise KeyNeededError(
                "the keys have changed within the last hour, and an import that was running then may still "
                f"need the old ones: try again in {wait // 60 + 1:.0f} minutes"
            )
        keys[:] = [key for name, key in by_id.items() if name not in ids]
