"""What the connection tests found: one protocol's answer, the verdict on a mailbox, the report on a run."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

from schemas.diagnosis import diagnose, standing
from schemas.labels import counted
from schemas.providers import Endpoint
from schemas.reasons import Protocol, Reason, Stage
from schemas.summary import markdown_cell

# Five minutes, then four times as long each time: 5 min, 20 min, 80 min, 5 h 20 min.
FIRST_PAUSE = timedelta(minutes=5)
PAUSE_FACTOR = 4
LONGEST_PAUSE = timedelta(hours=12)

# Of failed, pending, active and not tested; readable on light and on dark.
COLOURS = ("#d63939", "#f59f00", "#2fb344", "#868e96")


class MailboxStatus(StrEnum):
    FAILED = "failed"
    PENDING = "pending"
    ACTIVE = "active"


class Answer(NamedTuple):
    """What one protocol said in one attempt.

    Attributes:
        stage: Where the dialogue ended.
        text: The server's own words or the fault's, one line, credentials stripped.
        retry_after: The pause that the server asked for, if any.
        tried: The dialogue came as far as the login, so that a password was on its way.
    """

    protocol: Protocol
    endpoint: Endpoint
    reason: Reason
    stage: Stage
    text: str
    milliseconds: int
    retry_after: timedelta | None = None
    tried: bool = True


@dataclass(frozen=True)
class Verdict:
    """The verdict on one mailbox after one attempt.

    Attributes:
        answers: SMTP's first; IMAP's is missing where SMTP had refused the password itself.
        attempt: The number of this attempt, from 1.
        pause: Until the next attempt, where the mailbox is still pending.
        counted: The attempt used up one of the mailbox's; a host that could not be reached uses up none.
    """

    mailbox_id: int
    email: str
    answers: tuple[Answer, ...]
    attempt: int
    status: MailboxStatus
    pause: timedelta | None
    counted: bool
    note: str = ""

    @property
    def headline(self) -> str:
        """What each protocol came to, in a few words."""
        return ", ".join(f"{a.protocol.upper()}: {a.reason.explanation.title}" for a in self.answers)

    @property
    def diagnosis(self) -> str:
        by_protocol = {answer.protocol: answer.reason for answer in self.answers}
        line = diagnose(by_protocol.get(Protocol.SMTP), by_protocol.get(Protocol.IMAP))
        return f"{line} {self.note}".strip()


def judge_answers(
    mailbox_id: int, email: str, attempt: int, most: int, answers: tuple[Answer, ...]
) -> Verdict:
    """Decide what the answers make of a mailbox.

    `active` when both protocols took the password, `failed` on a permanent reason or after the last attempt,
    else `pending` with a pause that grows.
    """
    faults = [answer for answer in answers if answer.reason is not Reason.OK]
    counted = any(answer.tried for answer in answers)

    def verdict(status: MailboxStatus, pause: timedelta | None = None, note: str = "") -> Verdict:
        return Verdict(mailbox_id, email, answers, attempt, status, pause, counted, note)

    if not faults and len(answers) == len(Protocol):
        return verdict(MailboxStatus.ACTIVE)
    if any(not answer.reason.explanation.transient for answer in faults):
        return verdict(MailboxStatus.FAILED)
    limits = [answer.reason.explanation.attempts or most for answer in faults]
    if counted and faults and attempt >= min([most, *limits]):
        return verdict(MailboxStatus.FAILED, note=f"Given up after {attempt} attempts.")
    named = max((answer.retry_after or timedelta(0) for answer in faults), default=timedelta(0))
    return verdict(MailboxStatus.PENDING, max(pause_after(attempt), named))


def pause_after(attempt: int) -> timedelta:
    factor: int = PAUSE_FACTOR ** min(attempt - 1, 10)
    return min(FIRST_PAUSE * factor, LONGEST_PAUSE)


class Target(NamedTuple):
    """A mailbox to be tested, and where."""

    mailbox_id: int
    smtp: Endpoint
    imap: Endpoint


class Group(NamedTuple):
    """A task run's share: mailboxes of one pair of hosts, and which ones of the run's they are."""

    smtp: Endpoint
    imap: Endpoint
    first: int
    mailbox_ids: tuple[int, ...]

    def __str__(self) -> str:
        hosts = self.smtp.host if self.smtp.host == self.imap.host else f"{self.smtp.host} + {self.imap.host}"
        return f"{hosts} {self.first}-{self.first + len(self.mailbox_ids) - 1}"


class Stop(StrEnum):
    """Why a run of tests ended early."""

    GUARD = "guard"
    INTERRUPTED = "interrupted"

    @property
    def sentence(self) -> str:
        return STOP_SENTENCES[self]


STOP_SENTENCES = {
    Stop.GUARD: "Stopped by the lockout guard: nearly all passwords tried so far were wrong, so the "
    "passwords of this import look wrong as a whole. The others are held back: wrong attempts lock accounts.",
    Stop.INTERRUPTED: "Stopped by you: what was not tested yet stays pending.",
}


@dataclass(frozen=True)
class ProbeReport:
    """The verdicts of a run.

    Attributes:
        verdicts: In no particular order; mailboxes that were never begun have none.
        untested: How many mailboxes of the run are left without a verdict.
        stopped: Why the run ended early; None where it did not.
    """

    verdicts: tuple[Verdict, ...]
    untested: int
    stopped: Stop | None = None

    def __add__(self, later: ProbeReport) -> ProbeReport:
        return ProbeReport(self.verdicts + later.verdicts, self.untested + later.untested, later.stopped)

    def count(self, status: MailboxStatus) -> int:
        return sum(verdict.status == status for verdict in self.verdicts)

    def __str__(self) -> str:
        if not self.verdicts and not self.untested:
            return "no mailbox to test"
        parts = [f"{self.count(MailboxStatus.ACTIVE)} active", f"{self.count(MailboxStatus.FAILED)} failed"]
        if pending := self.count(MailboxStatus.PENDING):
            parts.append(f"{pending} to be tried again")
        if self.untested:
            parts.append(f"{self.untested} not tested")
        return ", ".join(parts)

    def reasons(self) -> list[tuple[Reason, int]]:
        """Each reason with the number of mailboxes it holds for, OK left out, the most frequent first."""
        found = Counter(
            reason
            for verdict in self.verdicts
            for reason in standing(answer.reason for answer in verdict.answers)
        )
        return found.most_common()

    def markdown(self) -> str:
        """Counts per reason with the remedy first, then what has to be known of the run."""
        parts = [f"## {self}"]
        if self.verdicts:
            parts.append(self._picture())
        if self.stopped:
            parts.append(f"**{markdown_cell(self.stopped.sentence)}**")
        for reason, count in self.reasons():
            why = reason.explanation
            boxes = counted(count, "mailbox", "mailboxes")
            parts.append(
                f"- **{boxes}: {why.title}.** {markdown_cell(why.remedy)} *{markdown_cell(why.meaning)}*"
            )
        if self.verdicts:
            parts.append("Each mailbox is in the table “mailbox-verdicts”.")
        return "\n\n".join(parts)

    def _picture(self) -> str:
        """The outcome as a bar with a legend, as the Prefect UI shows it: an image within the text."""
        counts = {status.value: self.count(status) for status in MailboxStatus} | {
            "not tested": self.untested
        }
        total, bars, legend, at = sum(counts.values()), "", "", 0.0
        for (name, count), colour in zip(counts.items(), COLOURS, strict=True):
            width = 700 * count / total
            bars += f'<rect x="{at:.1f}" width="{width:.1f}" height="22" fill="{colour}"/>'
            legend += f'<tspan fill="{colour}">● {name} {count}   </tspan>' if count else ""
            at += width
        text = f'<text y="46" font-family="sans-serif" font-size="15" xml:space="preserve">{legend}</text>'
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="700" height="56">{bars}{text}</svg>'
        return f"![{self}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"

    def sorted(self) -> list[Verdict]:
        """The verdicts, the failed ones first."""
        order = list(MailboxStatus)
        return sorted(self.verdicts, key=lambda verdict: (order.index(verdict.status), verdict.email))

    def table(self) -> list[dict[str, object]]:
        """A row per mailbox, the failed ones first."""
        rows: list[dict[str, object]] = []
        for verdict in self.sorted():
            said = {answer.protocol: answer for answer in verdict.answers}
            rows.append(
                {
                    "email": verdict.email,
                    "status": verdict.status,
                    "diagnosis": verdict.diagnosis,
                    **{protocol.value: _said(said.get(protocol)) for protocol in Protocol},
                }
            )
        return rows


def _said(answer: Answer | None) -> str:
    if answer is None:
        return "not tried"
    words = f": {answer.text}" if answer.text else ""
    return f"{answer.reason.explanation.title}{words}"


def group_targets(targets: Sequence[Target], size: int) -> list[Group]:
    """Cut targets into groups of one host pair and at most `size` mailboxes."""
    pairs: dict[tuple[Endpoint, Endpoint], list[int]] = {}
    for mailbox_id, smtp, imap in targets:
        pairs.setdefault((smtp, imap), []).append(mailbox_id)
    return [
        Group(smtp, imap, start + 1, tuple(ids[start : start + size]))
        for (smtp, imap), ids in pairs.items()
        for start in range(0, len(ids), size)
    ]
