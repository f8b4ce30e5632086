"""What the pages of an import show: filters with their counts, the picture, what to do, and the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlencode

from pydantic import BaseModel, Field

from flows.api.page.rendering import on_page
from schemas.actors import ORDER
from schemas.labels import counted
from schemas.outcomes import Action, Outcome, actions, filled_in, named_domains, result_of
from schemas.reasons import Actor, Reason
from schemas.report_html import HEADINGS, KINDS, kind_of
from schemas.standing import MailboxStatus
from tasks.storage.mailboxes import Filters

ACTORS = {
    Actor.ADMIN: "Microsoft 365 admin",
    Actor.OWNER: "Owners of the mailboxes",
    Actor.UPLOADER: "Maker of the file",
    Actor.OPERATOR: "Operator of this program",
    Actor.WAIT: "Tested again without you",
    Actor.NOBODY: "No password opens these",
}
STATUSES = {
    MailboxStatus.ACTIVE: ("works", "Work"),
    MailboxStatus.PARTIAL: ("half", "Can only send or only receive"),
    MailboxStatus.PENDING: ("wait", "Wait for a test"),
    MailboxStatus.FAILED: ("fails", "Fail"),
}


class Wanted(BaseModel, extra="forbid"):
    """Which mailboxes of an import to show. A misspelt filter is an error: it would select them all."""

    status: MailboxStatus | Literal[""] = ""
    reason: Reason | Literal[""] = ""
    actor: Actor | Literal[""] = ""
    q: Annotated[str, Field(max_length=254)] = ""

    def filters(self, import_id: int) -> Filters:
        """The part of it that the database selects by; the rest is the actor."""
        return Filters(
            status=self.status or None,
            import_id=import_id,
            reason=self.reason or None,
            part=self.q.strip().casefold() or None,
        )

    @property
    def query(self) -> str:
        """It as the query of an address; "" for all mailboxes."""
        return urlencode({name: str(value) for name, value in self if value})

    @property
    def words(self) -> str:
        """What it selects, in words; "" for all mailboxes."""
        parts = []
        if self.status:
            parts.append(STATUSES[self.status][1])
        if self.reason:
            parts.append(self.reason.explanation.title)
        if self.actor:
            parts.append(ACTORS[self.actor])
        if self.q.strip():
            parts.append(f"“{self.q.strip()}”")
        return ", ".join(parts)


class Chip(NamedTuple):
    """A filter with the number of its mailboxes."""

    id: str
    query: str
    label: str
    number: int
    chosen: bool
    kind: str = ""


@dataclass(frozen=True)
class Shown:
    """A mailbox as a row of the table."""

    outcome: Outcome
    kind: str
    result: str
    why: str


class Bar(NamedTuple):
    """A part of the picture, in thousandths of its width."""

    kind: str
    words: str
    number: int
    at: float
    width: float


def bars(kinds: Counter[str], rows: int) -> list[Bar]:
    """The parts of the picture, from the number of rows of each kind."""
    found, at = [], 0.0
    for kind, words in KINDS.items():
        if kinds[kind]:
            width = 1000 * kinds[kind] / rows
            found.append(Bar(kind, words, kinds[kind], round(at, 2), round(width, 2)))
            at += width
    return found


def status_chips(outcomes: Iterable[Outcome], wanted: Wanted) -> list[Chip]:
    """The filters by status."""
    counts = Counter({one.mailbox_id: one.status for one in outcomes if one.status}.values())
    return [
        Chip(f"status-{status}", f"status={status}", words, counts[status], wanted.status == status, kind)
        for status, (kind, words) in STATUSES.items()
        if counts[status]
    ]


def actor_chips(found: Sequence[Action], wanted: Wanted) -> list[Chip]:
    """The filters by who has to act."""
    counts = Counter[Actor]()
    for action in found:
        if not action.of_rows:
            counts[action.actor] += len(action.outcomes)
    return [
        Chip(f"actor-{actor}", f"actor={actor}", ACTORS[actor], counts[actor], wanted.actor == actor)
        for actor in ORDER
        if counts[actor]
    ]


class Section(NamedTuple):
    """What one actor has to do about one reason. `rank` is the actor's place in the order of all lists."""

    rank: int
    actor: str
    title: str
    members: str
    meaning: str
    remedy: str
    whom: str


def sections(found: Sequence[Action]) -> list[Section]:
    """What has to be done, in the order of the actions."""
    return [
        Section(
            ORDER.index(action.actor),
            HEADINGS[action.actor],
            action.title,
            counted(len(action.outcomes), *(("row", "rows") if action.of_rows else ("mailbox", "mailboxes"))),
            action.meaning,
            on_page(filled_in(action.remedy, action.outcomes[0])),
            "" if action.of_rows else named_domains(action.outcomes),
        )
        for action in found
    ]


def each_once(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The rows that have a mailbox, one for each mailbox."""
    return list({one.mailbox_id: one for one in outcomes if one.mailbox_id is not None}.values())


def rows_of(outcomes: Sequence[Outcome]) -> list[Shown]:
    """The rows of the table: what has to be done first, and what works last."""
    titles, ranks = {}, {}
    for rank, action in enumerate(actions(outcomes)):
        for one in action.outcomes:
            titles[one.mailbox_id], ranks[one.mailbox_id] = action.title, rank
    rows = [Shown(one, kind_of(one), result_of(one), titles.get(one.mailbox_id, "")) for one in outcomes]
    order = list(KINDS)
    last = len(ranks)
    rows.sort(key=lambda row: (ranks.get(row.outcome.mailbox_id, last), order.index(row.kind)))
    return rows
