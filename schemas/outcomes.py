"""The rows of a past import with their mailboxes as they are now, and who has to act for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from schemas.actors import ORDER, decide_actor, is_personal
from schemas.classify import CREDENTIALS_REJECTED
from schemas.labels import counted, shortened
from schemas.powershell import literal
from schemas.providers import MICROSOFT_IMAP, MICROSOFT_SMTP
from schemas.reasons import Actor, Protocol, Reason

DOMAINS_NAMED = 4


@dataclass(frozen=True)
class Answered:
    """The last answer of one protocol.

    Attributes:
        code: The reason's code.
        server_text: The server's reply, or the text of the error; untrusted.
        at: When it was given: aware, in UTC.
        stage: Where the session ended.
    """

    code: str
    title: str
    meaning: str
    remedy: str
    server_text: str
    host: str
    at: datetime
    stage: str


@dataclass(frozen=True)
class Outcome:
    """One row of an import, and its mailbox.

    Attributes:
        line: Its line in the file; None for rows of older imports.
        email: The address, or “unknown”.
        result: imported, updated, skipped or failed.
        code: The code of the row error, or "".
        sentence: The row error, or why the row was skipped, or "".
        remedy: What the user can do about the row error.
        status: active, partial, failed or pending; "" without a mailbox.
        smtp: The last answer of SMTP; None if it was not tried.
        imap: The last answer of IMAP; None if it was not tried.
        mailbox_id: The id of the mailbox; None without one.
    """

    line: int | None
    email: str
    name: str | None
    result: str
    code: str = ""
    sentence: str = ""
    remedy: str = ""
    warning: str = ""
    status: str = ""
    diagnosis: str = ""
    smtp: Answered | None = None
    imap: Answered | None = None
    tested_at: datetime | None = None
    mailbox_id: int | None = None

    @property
    def domain(self) -> str:
        """The domain of the address in lower case, or ""."""
        return self.email.rpartition("@")[2].lower() if "@" in self.email else ""

    @property
    def personal(self) -> bool:
        """Whether it is a personal Microsoft account."""
        return is_personal(self.email)

    @property
    def answers(self) -> dict[Protocol, Answered]:
        """The answers of the protocols that were tried."""
        found = {Protocol.SMTP: self.smtp, Protocol.IMAP: self.imap}
        return {protocol: answer for protocol, answer in found.items() if answer}

    @property
    def accepted(self) -> list[Protocol]:
        """The protocols that accepted the password."""
        return [protocol for protocol, answer in self.answers.items() if answer.code == Reason.OK]


@dataclass(frozen=True)
class Document:
    """The import that a report or a hand-over is about.

    Attributes:
        created_at: When it was imported: aware, in UTC.
        notes: Line and text of the notes about the file.
    """

    import_id: int
    file: str
    workspace: str
    tag: str | None
    created_at: datetime
    imported: int
    updated: int
    skipped: int
    failed: int
    notes: tuple[tuple[int, str], ...] = ()

    @property
    def rows(self) -> int:
        return self.imported + self.updated + self.skipped + self.failed

    def __str__(self) -> str:
        parts = {
            "imported": self.imported,
            "updated": self.updated,
            "skipped": self.skipped,
            "failed": self.failed,
        }
        shown = ", ".join(f"{count:,} {name}" for name, count in parts.items() if count or name != "updated")
        return f"{counted(self.rows, 'row')}: {shown}"


class Action(NamedTuple):
    """What one actor has to do about one reason.

    Attributes:
        code: The code of a reason or of a row error; see also `UNTESTED`.
        example: An answer with this reason; None for a row error.
        outcomes: The rows that it concerns, each mailbox once.
    """

    actor: Actor
    code: str
    title: str
    meaning: str
    remedy: str
    example: Answered | None
    outcomes: tuple[Outcome, ...]

    @property
    def heading(self) -> str:
        """The title as a sentence."""
        return self.title if self.title.endswith(("?", ".")) else f"{self.title}."

    @property
    def of_rows(self) -> bool:
        """Whether it is about rows without a mailbox."""
        return not self.outcomes[0].status


UNTESTED = "untested"
UNEXPLAINED = "unexplained"
_Kind = tuple[Actor, str, str, str, str, Answered | None]


def actions(outcomes: Iterable[Outcome]) -> list[Action]:
    """What has to be done: by actor in the order of `ORDER`, and the most frequent reason first.

    A mailbox counts once, even if several rows name it. Rows that need nothing are in none of the actions.
    """
    found: dict[tuple[Actor, str, str], tuple[_Kind, list[Outcome]]] = {}
    seen = set()
    for outcome in outcomes:
        kind = _kind(outcome)
        key = outcome.email.lower()
        if kind is None or (outcome.status and key in seen):
            continue
        if outcome.status:
            seen.add(key)
        found.setdefault(kind[:3], (kind, []))[1].append(outcome)
    listed = [Action(*kind, tuple(members)) for kind, members in found.values()]
    return sorted(listed, key=lambda one: (ORDER.index(one.actor), -len(one.outcomes), one.code, one.title))


def _kind(outcome: Outcome) -> _Kind | None:
    if outcome.result == "failed":
        title = outcome.sentence or "Row error"
        remedy = outcome.remedy and f"{outcome.remedy[0].upper()}{outcome.remedy[1:].rstrip('.')}."
        return Actor.UPLOADER, outcome.code or "row_error", title, "The row was not imported.", remedy, None
    if outcome.status in ("", "active"):
        return None
    answers = outcome.answers
    codes = {protocol: answers[protocol].code if protocol in answers else "" for protocol in Protocol}
    decided = decide_actor(
        codes[Protocol.SMTP],
        codes[Protocol.IMAP],
        personal=outcome.personal,
        exchange_online=outcome.imap is not None and outcome.imap.host == MICROSOFT_IMAP,
        given_up=outcome.status != "pending",
    )
    if decided:
        actor, protocol = decided
        answer = answers[protocol]
        if outcome.accepted and actor in (Actor.ADMIN, Actor.NOBODY):
            return _half(outcome, actor, protocol, answer)
        return actor, answer.code, answer.title, answer.meaning, answer.remedy, answer
    if outcome.status == "pending":
        remedy = "Nothing to do: the next run tests the mailbox."
        return Actor.WAIT, UNTESTED, "Not tested yet", "No test has finished so far.", remedy, None
    remedy = "Test the mailbox again."
    return Actor.OPERATOR, UNEXPLAINED, "No answer stored", "The last test left no answer.", remedy, None


_CAN = {Protocol.SMTP: "send", Protocol.IMAP: "receive"}


def _half(outcome: Outcome, actor: Actor, protocol: Protocol, answer: Answered) -> _Kind:
    """The kind of a mailbox whose password one protocol accepts: no text may call the password wrong."""
    works, name = _CAN[outcome.accepted[0]], protocol.upper()
    title, meaning = f"Can only {works}", f"The password is right, but {name} refuses it."
    if actor is Actor.NOBODY:
        remedy = f"To {_CAN[protocol]}, use OAuth sign-in: no password opens {name} here."
    elif answer.code in CREDENTIALS_REJECTED:
        remedy = f"Admin: check that {name} is on for the mailbox and that the sign-in policy allows it."
    else:
        title, meaning, remedy = answer.title, answer.meaning, answer.remedy
    return actor, answer.code, title, meaning, remedy, answer


def who_has_to_act(outcomes: Iterable[Outcome]) -> str:
    """Say in one sentence how many mailboxes need whom.

    Returns:
        A text such as “90 need your Microsoft 365 admin (contoso.com 65, fabrikam.com 25), 30 a new app
        password from their owner, 60 take no passwords at all”, or "" if there is nothing to do.
    """
    clauses: list[str] = []
    verb_before = ""
    concerned: dict[str, list[Outcome]] = {name: [] for name in _NEEDS}
    for action in actions(outcomes):
        concerned[_need(action)].extend(action.outcomes)
    for name, members in concerned.items():
        if not members:
            continue
        one, many, rest = _NEEDS[name]
        verb = one if len(members) == 1 else many
        left_out = verb == verb_before and verb in ("need", "needs") and name != "rows"
        shown = "" if left_out else f"{verb} "
        verb_before = verb
        count = counted(len(members), "row") if name == "rows" else f"{len(members):,}"
        domains = f" ({named_domains(members)})" if name == "admin" else ""
        if len(members) == 1:
            rest = rest.replace("their", "its")
        clauses.append(f"{count} {shown}{rest}{domains}")
    return ", ".join(clauses)


# The clauses of the sentence, in their order: the verb for one and for many, and the rest.
_NEEDS = {
    "admin": ("needs", "need", "your Microsoft 365 admin"),
    "password": ("needs", "need", "a new app password from their owner"),
    "owner": ("needs", "need", "their owner to sign in on the web"),
    "operator": ("needs", "need", "the operator of this program"),
    "elsewhere": ("is", "are", "not hosted at Microsoft"),
    "rows": ("needs", "need", "correcting in the file"),
    "closed": ("takes", "take", "no passwords at all"),
    "send": ("takes", "take", "a password only for sending"),
    "receive": ("takes", "take", "a password only for receiving"),
    "wait": ("is", "are", "tested again later"),
    "untested": ("is", "are", "not tested yet"),
}


def _need(action: Action) -> str:
    """The name of an action's clause."""
    if action.actor is Actor.NOBODY and (accepted := action.outcomes[0].accepted):
        return _CAN[accepted[0]]
    return {
        Actor.ADMIN: "admin",
        Actor.OWNER: "password" if needs_password(action) else "owner",
        Actor.OPERATOR: "operator",
        Actor.UPLOADER: "rows" if action.of_rows else "elsewhere",
        Actor.NOBODY: "closed",
        Actor.WAIT: "untested" if action.code == UNTESTED else "wait",
    }[action.actor]


def needs_password(action: Action) -> bool:
    """Whether a new password, and not another step of the owner, solves it."""
    return action.code in CREDENTIALS_REJECTED


def named_domains(outcomes: Collection[Outcome]) -> str:
    """The most frequent domains with their counts, such as “contoso.com 65, fabrikam.com 25”."""
    counts = Counter(outcome.domain for outcome in outcomes)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{shortened(domain, 60)} {count:,}" for domain, count in ranked[:DOMAINS_NAMED])
    left = len(ranked) - DOMAINS_NAMED
    return f"{named} and {counted(left, 'more domain')}" if left > 0 else named


def forecast(outcomes: Iterable[Outcome]) -> str:
    """Say what happens to the mailboxes that send over Exchange Online with a password, or "" without any.

    Source: Microsoft tech community, 27 January 2026.
    """
    sending = {
        outcome.email.lower()
        for outcome in outcomes
        if outcome.status in ("active", "partial")
        and not outcome.personal
        and outcome.smtp
        and (outcome.smtp.code, outcome.smtp.host) == (Reason.OK, MICROSOFT_SMTP)
    }
    if not sending:
        return ""
    verb = "sends" if len(sending) == 1 else "send"
    return (
        f"{counted(len(sending), 'mailbox', 'mailboxes')} {verb} through Exchange Online with a password "
        "(SMTP AUTH). At the end of December 2026 Microsoft turns this off by default in existing "
        "organisations; their admins can turn it on again. Microsoft announces the date of the final removal "
        "in the second half of 2027. Plan for OAuth sign-in until then."
    )


def filled_in(remedy: str, outcome: Outcome) -> str:
    """A remedy with the address, quoted for PowerShell, instead of the placeholder ADDRESS."""
    return remedy.replace("ADDRESS", literal(shortened(outcome.email)))


def result_of(outcome: Outcome) -> str:
    """The result of a row in a few words."""
    if outcome.status == "active":
        return "Works"
    if outcome.status == "partial":
        return "Can only send" if Protocol.SMTP in outcome.accepted else "Can only receive"
    if outcome.status == "pending":
        return "Tested again later" if outcome.answers else "Not tested yet"
    if outcome.status:
        return "Fails"
    return "Not imported" if outcome.result == "failed" else "Skipped"


def said(answer: Answered | None, outcome: Outcome) -> str:
    """What one protocol of a mailbox answered; “not tried” if only the other one was tried."""
    if answer is None:
        return "not tried" if outcome.answers else ""
    return f"{answer.title}: {answer.server_text}" if answer.server_text else answer.title


def utc(at: datetime) -> str:
    """A time for people, such as “2026-11-26 17:46 UTC”."""
    return f"{at:%Y-%m-%d %H:%M} UTC"
