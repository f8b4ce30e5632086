"""Key rotation: count what each key has sealed, and re-encrypt with the first key what another key sealed.

It is safe while everything else runs. Each part is one short transaction over rows that no other program is
changing. It never waits for a row, so it cannot overwrite a change or take part in a deadlock. A kill loses
at most one part, which the next run does again.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Engine,
    LargeBinary,
    Select,
    SQLColumnExpression,
    and_,
    bindparam,
    func,
    select,
    update,
)
from sqlalchemy.orm import Mapped
from sqlmodel import col

from schemas.sealing import ID_BYTES, VERSION, Owner, UnsealError, key_id, parse_keys
from schemas.tables import Import, Mailbox, Workspace
from tasks.storage.database import Database, for_reading, through_restarts
from tasks.storage.key_file import changing

# Small, so that no other program waits long for the locks of one transaction.
ROWS_AT_ONCE = 200
# Each pass skips rows that another program is changing. The next pass tries them again.
PASSES = 10
PAUSE_SECONDS = 0.5
# An import may have sealed its rows with the old key just before the new one was made, and store them later.
SETTLING_SECONDS = 3600


class Place(NamedTuple):
    """A column of sealed values.

    Attributes:
        subject: The column that names the owner of a value within its workspace.
    """

    model: type[Mailbox] | type[Import]
    field: str
    column: SQLColumnExpression[bytes | None]
    subject: SQLColumnExpression[str | None]

    @property
    def filled(self) -> ColumnElement[bool]:
        """Whether there is a value."""
        return self.column.is_not(None)

    def outdated(self, header: bytes) -> ColumnElement[bool]:
        """Whether there is a value that another key sealed, so that it begins with another header."""
        begins: ColumnElement[bytes] = func.substr(self.column, 1, len(header), type_=LargeBinary)
        return and_(self.filled, begins != header)


PLACES = (
    Place(Mailbox, "password", col(Mailbox.password), col(Mailbox.email_key)),
    Place(Mailbox, "old_password", col(Mailbox.old_password), col(Mailbox.email_key)),
    Place(Mailbox, "totp", col(Mailbox.totp), col(Mailbox.email_key)),
    Place(Import, "fingerprint", col(Import.fingerprint), col(Import.idempotency_key)),
)


class Unopened(NamedTuple):
    """A value that no key opens: where it is, and why it does not open."""

    table: str
    id: int
    field: str
    fault: str


class Resealed(NamedTuple):
    """The result of a rotation.

    Attributes:
        values: How many values were re-encrypted.
        unopened: Values that no key opens. They stay as they are.
        left: How many values still need it: other programs kept them locked, or sealed them with an old key.
    """

    values: int
    unopened: tuple[Unopened, ...]
    left: int


def count_sealed(engine: Engine) -> dict[bytes, Counter[str]]:
    """Count the stored values that each key has sealed: key id → field → values."""
    counts: defaultdict[bytes, Counter[str]] = defaultdict(Counter)
    with for_reading(engine).connect() as connection:
        for place in PLACES:
            name = func.substr(place.column, len(VERSION) + 1, ID_BYTES, type_=LargeBinary)
            query = select(name.label("key_id"), func.count()).where(place.filled).group_by("key_id")
            for found, values in connection.execute(query):
                counts[bytes(found)][place.field] += values
    return dict(counts)


def reseal(database: Database) -> Resealed:
    """Re-encrypt with the first key every value that another key has sealed.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    values = 0
    for turn in range(PASSES):
        if turn:
            time.sleep(PAUSE_SECONDS)
        header = database.sealer.header
        unopened: list[Unopened] = []
        for place in PLACES:
            values += _reseal_place(database, place, header, unopened)
        left = sum(_count_outdated(database, place, header) for place in PLACES) - len(unopened)
        if left <= 0:
            break
    return Resealed(values, tuple(unopened), max(left, 0))


@through_restarts
def _count_outdated(database: Database, place: Place, header: bytes) -> int:
    with for_reading(database.engine).connect() as connection:
        return connection.scalars(select(func.count()).where(place.outdated(header))).one()


def _reseal_place(database: Database, place: Place, header: bytes, unopened: list[Unopened]) -> int:
    values, last = 0, 0
    # Search outside the transaction that writes: on SQLite all other writers wait for that one.
    while ids := _find_outdated(database, place, header, last):
        fresh, stuck = _reseal_rows(database, place, header, ids)
        values += fresh
        unopened += stuck
        last = ids[-1]
    return values


@through_restarts
def _find_outdated(database: Database, place: Place, header: bytes, last: int) -> Sequence[int]:
    key: Mapped[Any] = col(place.model.id)
    query = select(key).where(place.outdated(header), key > last).order_by(key).limit(ROWS_AT_ONCE)
    with for_reading(database.engine).connect() as connection:
        return connection.scalars(query).all()


@through_restarts
def _reseal_rows(
    database: Database, place: Place, header: bytes, ids: Sequence[int]
) -> tuple[int, list[Unopened]]:
    model, field = place.model, place.field
    query: Select[*tuple[Any, ...]] = (
        select(
            *(col(model.id), place.column),
            *(col(Workspace.name).label("workspace"), place.subject.label("subject")),
        )
        .join(Workspace, col(Workspace.id) == col(model.workspace_id))
        .where(col(model.id).in_(ids), place.outdated(header))
        .order_by(col(model.id))
        .with_for_update(of=model, skip_locked=True, key_share=True)
    )
    fresh, stuck = [], []
    with database.engine.begin() as connection:
        for row in connection.execute(query).mappings():
            owner = Owner(row["workspace"], row["subject"], field)
            try:
                plaintext = database.sealer.open(row[field], owner)
            except UnsealError as error:
                stuck.append(Unopened(str(model.__tablename__), row["id"], field, str(error)))
                continue
            fresh.append({"row_id": row["id"], "fresh": database.sealer.seal(plaintext, owner)})
        if fresh:
            change = update(model).where(col(model.id) == bindparam("row_id"))
            connection.execute(change.values({field: bindparam("fresh")}), fresh)
    return len(fresh), stuck


def add_key(path: Path, key: str) -> None:
    """Add a key to the key file, as the first one: it seals from now on."""
    with changing(path) as keys:
        keys.insert(0, key)


class KeyNeededError(Exception):
    """A key cannot be removed from the key file. The text says why."""


def remove_keys(path: Path, engine: Engine, ids: Collection[bytes]) -> None:
    """Remove keys from the key file. This cannot be undone.

    Args:
        ids: Their key ids.

    Raises:
        KeyNeededError: If a key is not in the file, is the one that seals, or may still be needed. The file
            stays as it is.
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
                "the keys changed within the last hour, and an import that was running then may still "
                f"need the old ones: try again in {wait // 60 + 1:.0f} minutes"
            )
        keys[:] = [key for name, key in by_id.items() if name not in ids]
