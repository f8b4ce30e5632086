"""Results of connection tests: the answer of a protocol, the verdict of a mailbox, the report of a run."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from schemas.classify import CREDENTIALS_REJECTED
from schemas.diagnosis import diagnose
from schemas.labels import counted
from schemas.providers import Endpoint
from schemas.reasons import Protocol, Reason, Stage
from schemas.standing import (
    NOTHING_KNOWN,
    Answered,
    MailboxStatus,
    Needs,
    Standings,
    State,
    ability,
    reasons_of,
    settle,
    status_of,
)
from schemas.summary import markdown_cell

# For failed, partial, pending, active and not tested, in this order. Readable on light and dark backgrounds.
COLOURS = ("#d63939", "#d6336c", "#f59f00", "#2fb344", "#868e96")


class Answer(NamedTuple):
    """The result of one probe: one protocol of one mailbox in one attempt.

    Attributes:
        stage: Where the session ended.
        text: The server's reply or the text of the error: one line, without credentials.
        milliseconds: How long the session took, without the goodbye.
        retry_after: The pause that the server asked for, if any.
        tried: Whether the session reached the login, so that a password may have been sent.
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
    """The verdict of one mailbox after one test.

    Attributes:
        answers: The answers of the protocols that were asked, SMTP first.
        attempt: The number of this test, starting at 1.
        standings: What is known about each protocol now.
        needs: What the mailbox is needed for.
        counted: Whether the test used up an attempt of a protocol.
        note: A sentence to add to the diagnosis, or "".
        preface: A sentence to put before the diagnosis, or "".
    """

    mailbox_id: int
    email: str
    answers: tuple[Answer, ...]
    attempt: int
    standings: Standings
    needs: Needs
    counted: bool
    note: str = ""
    preface: str = ""

    @cached_property
    def status(self) -> MailboxStatus:
        return status_of(self.standings, self.needs)

    @property
    def pause(self) -> timedelta | None:
        """Time until the next test; None unless the mailbox is pending."""
        if self.status is not MailboxStatus.PENDING:
            return None
        return min((one.pause for one in self.standings.values() if one.pause), default=timedelta(0))

    @property
    def reasons(self) -> set[Reason]:
        """Why the mailbox does not do all that it is needed for."""
        return reasons_of(self.standings, self.needs)

    @property
    def password_refused(self) -> bool:
        """Whether a server refused the password and none accepted it."""
        return bool(self.reasons & CREDENTIALS_REJECTED)

    @property
    def headline(self) -> str:
        """The result of each protocol in a few words."""
        return ", ".join(f"{a.protocol.upper()}: {self.reason_of(a).explanation.title}" for a in self.answers)

    def reason_of(self, answer: Answer) -> Reason:
        """The reason of an answer in the light of both protocols."""
        return self.standings[answer.protocol].reason or answer.reason

    @property
    def diagnosis(self) -> str:
        """What is wrong with the mailbox and what to do about it, in one line."""
        return f"{self.preface} {diagnose(self.standings, self.needs)} {self.note}".strip()


def decide_verdict(
    mailbox_id: int,
    email: str,
    attempt: int,
    most: int,
    answers: tuple[Answer, ...],
    before: Standings = NOTHING_KNOWN,
    needs: Needs = Needs.BOTH,
) -> Verdict:
    """Decide what is known about a mailbox from its answers; see `standing.settle`.

    Args:
        attempt: The number of this test, starting at 1.
        most: Maximum number of attempts, from the settings.
        answers: The answer of each protocol that was asked.
        before: What was known before the test.
        needs: What the mailbox is needed for.
    """
    after = settle(before, [Answered(a.protocol, a.reason, a.retry_after, a.tried) for a in answers], most)
    counted = any(after[protocol].attempts > before[protocol].attempts for protocol in after)
    gave_up = any(
        after[a.protocol].state is State.REFUSED and a.reason.explanation.transient for a in answers
    )
    return Verdict(
        mailbox_id,
        email,
        answers,
        attempt,
        after,
        needs,
        counted,
        f"Gave up after {max(one.attempts for one in after.values())} attempts." if gave_up else "",
    )


class Target(NamedTuple):
    """A mailbox to test, and the servers to test it on."""

    mailbox_id: int
    smtp: Endpoint
    imap: Endpoint


class Group(NamedTuple):
    """The mailboxes that one task run tests. All of them use the same two endpoints.

    Attributes:
        first: Position of the first mailbox among all mailboxes of the two endpoints, starting at 1.
    """

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


@dataclass(frozen=True)
class ProbeReport:
    """The verdicts of a run.

    Attributes:
        verdicts: In no particular order. Mailboxes that were not tested have none.
        untested: Number of mailboxes in the run without a verdict.
        stopped: Why the run ended early; None if it did not.
    """

    verdicts: tuple[Verdict, ...]
    untested: int
    stopped: Stop | None = None

    def __add__(self, later: ProbeReport) -> ProbeReport:
        return ProbeReport(self.verdicts + later.verdicts, self.untested + later.untested, later.stopped)

    @property
    def why_stopped(self) -> str:
        """Why the run ended early, for the user; "" if it did not."""
        if self.stopped is Stop.INTERRUPTED:
            return "Stopped by you: mailboxes that are not tested yet stay pending."
        if self.stopped is None:
            return ""
        guard = "Stopped by the lockout guard: nearly all passwords tried so far were wrong."
        if not self.untested:
            return guard
        left = counted(self.untested, "mailbox was", "mailboxes were")
        theirs = "its password is" if self.untested == 1 else "their passwords are"
        return f"{guard} {left} not tested: {theirs} probably wrong too, and failed logins can lock accounts."

    def count(self, status: MailboxStatus) -> int:
        """The number of mailboxes with this status."""
        return sum(verdict.status == status for verdict in self.verdicts)

    def __str__(self) -> str:
        if not self.verdicts and not self.untested:
            return "no mailbox to test"
        parts = [f"{count} {can}" for can, count in self.partial()]
        parts += [f"{self.count(MailboxStatus.ACTIVE)} active", f"{self.count(MailboxStatus.FAILED)} failed"]
        if pending := self.count(MailboxStatus.PENDING):
            parts.append(f"{pending} to retry")
        if self.untested:
            parts.append(f"{self.untested} not tested")
        return ", ".join(parts)

    def partial(self) -> list[tuple[str, int]]:
        """What mailboxes with only one working protocol can do, and how many they are."""
        found = Counter(
            ability(verdict.standings) for verdict in self.verdicts if verdict.status is MailboxStatus.PARTIAL
        )
        return sorted(found.items(), reverse=True)

    def meaning_of_partial(self) -> str:
        """What it means that mailboxes can only send or only receive; "" if there are none."""
        return " ".join(
            f"{counted(count, 'mailbox', 'mailboxes')} {can}: {PARTIAL_MEANS[can]}"
            for can, count in self.partial()
        )

    def reasons(self) -> list[tuple[Reason, int]]:
        """Each reason with its number of mailboxes, the most frequent first."""
        return by_frequency(Counter(reason for verdict in self.verdicts for reason in verdict.reasons))

    def markdown(self, who_acts: str = "") -> str:
        """The text of the Prefect artifact: counts, why the run stopped, and each reason with its remedy.

        Args:
            who_acts: Who has to act now, in one sentence.
        """
        parts = [f"## {self}"]
        if self.verdicts:
            parts.append(self._picture())
        if who_acts:
            parts.append(f"**{markdown_cell(who_acts)}.**")
        if meaning := self.meaning_of_partial():
            parts.append(f"**{markdown_cell(meaning)}**")
        if self.stopped:
            parts.append(f"**{markdown_cell(self.why_stopped)}**")
        for reason, count in self.reasons():
            why = reason.explanation
            boxes = counted(count, "mailbox", "mailboxes")
            parts.append(
                f"- **{boxes}: {why.heading}** {markdown_cell(why.remedy)} *{markdown_cell(why.meaning)}*"
            )
        if self.verdicts:
            parts.append("The table “tested-mailboxes” lists every mailbox.")
        return "\n\n".join(parts)

    def _picture(self) -> str:
        """The counts as a bar with a legend. An inline image is the only picture that Prefect's UI shows."""
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
            said = {
                answer.protocol: answer._replace(reason=verdict.reason_of(answer))
                for answer in verdict.answers
            }
            rows.append(
                {
                    "email": verdict.email,
                    "status": verdict.status,
                    "diagnosis": verdict.diagnosis,
                    **{protocol.value: _said(said.get(protocol)) for protocol in Protocol},
                }
            )
        return rows


PARTIAL_MEANS = {
    "can only send": "SMTP accepts the password and IMAP does not, so replies cannot be read here.",
    "can only receive": "IMAP accepts the password and SMTP rejects it, so they cannot send.",
}


def by_frequency(counts: Mapping[Reason, int]) -> list[tuple[Reason, int]]:
    """Sort reasons by their counts; equal counts have the order of `Reason`."""
    order = list(Reason)
    return sorted(counts.items(), key=lambda pair: (-pair[1], order.index(pair[0])))


def _said(answer: Answer | None) -> str:
    if answer is None:
        return "not tried"
    words = f": {answer.text}" if answer.text else ""
    return f"{answer.reason.explanation.title}{words}"


def group_targets(targets: Sequence[Target], size: int) -> list[Group]:
    """Split targets into groups of at most `size` mailboxes with the same two endpoints."""
    pairs: dict[tuple[Endpoint, Endpoint], list[int]] = {}
    for mailbox_id, smtp, imap in targets:
        pairs.setdefault((smtp, imap), []).append(mailbox_id)
    return [
        Group(smtp, imap, start + 1, tuple(ids[start : start + size]))
        for (smtp, imap), ids in pairs.items()
        for start in range(0, len(ids), size)
    ]
