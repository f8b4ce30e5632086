"""What the scans of the inbox could not import: named once, and kept for `doctor`.

The record lies beside the inbox. It has a fixed size and is overwritten in place, which works on a full disk,
too. An unreadable record counts as empty: everything is then named once more.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from pydantic import AwareDatetime, BaseModel, ValidationError

from schemas.tables import now

# Path of the item → why it was skipped, as the rest of a sentence.
Skipped = dict[Path, str]

RECORD = "skipped.json"
RECORD_BYTES = 128 * 1024  # for MOST_ITEMS of the greatest length, at four bytes a character
MOST_ITEMS = 100
LONGEST_PLACE, LONGEST_WHY = 200, 100  # characters
# Workers with different permissions take turns, and each skips other items.
FORGET_AFTER = timedelta(days=1)
NOT_YET = "waits for its next attempt"


class Item(BaseModel):
    """A skipped item.

    Attributes:
        place: Its path in the watched folder.
        why: The reason, as the rest of a sentence that starts with the place.
        seen: When a scan last skipped it.
    """

    place: str
    why: str
    seen: AwareDatetime

    def __str__(self) -> str:
        return f"{self.place} {self.why}"


class Record(BaseModel):
    """The items that the scans of the last day skipped.

    Attributes:
        scanned: When the last scan ended.
    """

    scanned: AwareDatetime = datetime.min.replace(tzinfo=UTC)
    items: list[Item] = []

    def of_last_scan(self) -> list[Item]:
        return [item for item in self.items if item.seen == self.scanned]


class Noted(NamedTuple):
    """The skipped items of a scan, and those among them that no scan named before."""

    items: list[Item]
    new: list[Item]


def read_record(root: Path) -> Record:
    """Read the record in a watched folder; an empty one if there is none, or it cannot be read."""
    try:
        descriptor = os.open(root / RECORD, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return Record.model_validate_json(os.read(descriptor, RECORD_BYTES))
        finally:
            os.close(descriptor)
    except (OSError, ValidationError):
        return Record()


def note(root: Path, skipped: Skipped) -> Noted:
    """Add the skipped items of a scan to the record. At most MOST_ITEMS are recorded and named."""
    time = now()
    known = {item.place: item for item in read_record(root).items if abs(time - item.seen) < FORGET_AFTER}
    items = [Item(place=shown(path, root), why=skipped[path], seen=time) for path in sorted(skipped)]
    for item in items:
        if item.why == NOT_YET and item.place in known:
            item.why = known[item.place].why
    new = [item for item in items[:MOST_ITEMS] if item.place not in known]
    current = {item.place: item for item in items[:MOST_ITEMS]}
    older = sorted(known.keys() - current.keys(), key=lambda place: known[place].seen, reverse=True)
    kept = [*current.values(), *(known[place] for place in older)][:MOST_ITEMS]
    for item in kept:
        item.why = item.why[:LONGEST_WHY]
    with suppress(OSError):  # then the next scan names them again
        _overwrite(root / RECORD, Record(scanned=time, items=kept).model_dump_json().encode())
    return Noted(items, new)


def listed(items: list[Item], most: int = 3) -> str:
    """The items as a sentence of bounded length."""
    more = [f"and {len(items) - most:,} more"] if len(items) > most else []
    return "; ".join([f"{item.place} {item.why[:LONGEST_WHY]}" for item in items[:most]] + more)


def shown(path: Path, root: Path) -> str:
    """A path in the watched folder as text, with � for bytes and characters that cannot be shown."""
    text = os.fsencode(path.relative_to(root)).decode(errors="replace")
    return "".join(letter if letter.isprintable() else "�" for letter in text)[:LONGEST_PLACE]


def _overwrite(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # the umask may exclude even the owner
        os.write(descriptor, data.ljust(RECORD_BYTES))
    finally:
        os.close(descriptor)
