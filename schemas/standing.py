"""What is settled about a mailbox: one state for each protocol, and the status that follows from both.

Pure rules. They decide which protocol is asked, when an attempt counts, and when a mailbox is finished.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

from schemas.classify import CREDENTIALS_REJECTED, WRONG_PASSWORD
from schemas.reasons import EXPLANATIONS, Actor, Protocol, Reason

# 5 min, 20 min, 80 min, 5 h 20 min.
FIRST_PAUSE = timedelta(minutes=5)
PAUSE_FACTOR = 4
LONGEST_PAUSE = timedelta(hours=12)

# Reasons after which the other protocol is not asked: it would get a wrong password too, or is elsewhere too.
ENDS_THE_TEST = {*WRONG_PASSWORD, Reason.NOT_AT_MICROSOFT}
# Reasons about the account or the organisation. They also explain why the other protocol rejects the login.
EXPLAIN_BOTH = {
    Reason.WRONG_CREDENTIALS,
    Reason.APP_PASSWORD_REQUIRED,
    Reason.PASSWORD_SIGN_IN_DISABLED,
    Reason.PERSONAL_PASSWORDS_RETIRED,
    Reason.SECURITY_DEFAULTS,
    Reason.CONDITIONAL_ACCESS,
    Reason.ACCOUNT_BLOCKED,
    Reason.ACCOUNT_BLOCKED_UNTIL_WEB_SIGN_IN,
    Reason.TEMPORARILY_LOCKED,
    Reason.NOT_AT_MICROSOFT,
}

# Reasons that an admin, the owner, the operator or time can remove while the password stays the same. The two
# that are left out may mean that a server refused the password.
CURABLE = {
    reason
    for reason, why in EXPLANATIONS.items()
    if why.actor in (Actor.ADMIN, Actor.OWNER, Actor.OPERATOR, Actor.WAIT) and not why.password_refused
} - {Reason.REFUSED_THOUGH_RIGHT, Reason.UNKNOWN_REFUSAL}


class MailboxStatus(StrEnum):
    """Whether a mailbox does what it is needed for. `partial`: one protocol works, the other refuses."""

    FAILED = "failed"
    PARTIAL = "partial"
    PENDING = "pending"
    ACTIVE = "active"


class Needs(StrEnum):
    """Which protocols a mailbox is needed for. Only these are tested."""

    BOTH = "both"
    SMTP = "smtp"
    IMAP = "imap"

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """SMTP first: it says more about a wrong password."""
        return tuple(Protocol) if self is Needs.BOTH else (Protocol(self.value),)


class State(StrEnum):
    """How far the test of one protocol has come."""

    UNTESTED = "untested"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    PUT_OFF = "put_off"


class ProtocolTest(StrEnum):
    """The result of the test of one protocol."""

    PENDING = "pending"
    PASSED = "passed"
    FAILED = "failed"


class Standing(NamedTuple):
    """What is known about one protocol of a mailbox.

    Attributes:
        reason: Why it is refused or put off; None in the other states. It is the reason in the light of both
            protocols: a password that one of them accepted is not wrong at the other.
        attempts: How many logins counted.
        pause: After a test, the time until the next one, if it is put off.
    """

    state: State = State.UNTESTED
    reason: Reason | None = None
    attempts: int = 0
    pause: timedelta | None = None

    @property
    def settled(self) -> bool:
        return self.state in (State.ACCEPTED, State.REFUSED)


class Answered(NamedTuple):
    """The part of an answer that the rules need; see `verdicts.Answer`."""

    protocol: Protocol
    reason: Reason
    retry_after: timedelta | None
    tried: bool


Standings = Mapping[Protocol, Standing]
NOTHING_KNOWN: Standings = {protocol: Standing() for protocol in Protocol}


def to_ask(before: Standings, needs: Needs) -> list[Protocol]:
    """The protocols that a test still has to ask, in order. An accepted or refused one is not asked again."""
    return [] if is_over(before, needs) else [p for p in needs.protocols if not before[p].settled]


def is_over(standings: Standings, needs: Needs) -> bool:
    """Whether one protocol's refusal ends the test of the mailbox, whatever the other would say."""
    found = [standings[protocol] for protocol in needs.protocols]
    accepted = any(one.state is State.ACCEPTED for one in found)
    return not accepted and any(one.state is State.REFUSED and one.reason in ENDS_THE_TEST for one in found)


def settle(before: Standings, answers: Sequence[Answered], most: int) -> dict[Protocol, Standing]:
    """What is known after a test.

    Args:
        before: What was known before it.
        answers: The answer of each protocol that was asked.
        most: Maximum number of attempts, from the settings.

    Returns:
        The new standings. An attempt counts for a protocol whose login was reached, but not if this program
        caused the answer itself by connecting too often.
    """
    after = dict(before)
    for answer in answers:
        after[answer.protocol] = _after_answer(before[answer.protocol], answer, most)
    return _judged_together(after)


def _after_answer(before: Standing, answer: Answered, most: int) -> Standing:
    why = answer.reason.explanation
    counts = answer.tried and not why.self_made
    attempts = before.attempts + counts
    if answer.reason is Reason.OK:
        return Standing(State.ACCEPTED, None, attempts)
    if not why.transient:
        return Standing(State.REFUSED, answer.reason, attempts)
    if counts and attempts >= min(most, why.attempts or most):
        return Standing(State.REFUSED, answer.reason, attempts)
    pause = max(pause_after(max(attempts, 1)), answer.retry_after or timedelta(0))
    return Standing(State.PUT_OFF, answer.reason, attempts, pause)


def _judged_together(standings: dict[Protocol, Standing]) -> dict[Protocol, Standing]:
    """Replace reasons that the other protocol contradicts or explains."""
    judged = dict(standings)
    for protocol, other in (tuple(Protocol), tuple(Protocol)[::-1]):
        mine, theirs = standings[protocol], standings[other]
        if mine.reason in CREDENTIALS_REJECTED and theirs.state is State.ACCEPTED:
            judged[protocol] = mine._replace(reason=Reason.REFUSED_THOUGH_RIGHT)
        elif mine.reason is Reason.LOGIN_REFUSED and theirs.reason in EXPLAIN_BOTH:
            judged[protocol] = mine._replace(reason=theirs.reason)
        elif mine.state is State.PUT_OFF and theirs.reason in ENDS_THE_TEST:
            # It will not be asked again, so its delay is no reason any more.
            judged[protocol] = Standing(attempts=mine.attempts)
    return judged


def status_of(standings: Standings, needs: Needs) -> MailboxStatus:
    """The status that follows from what is known and what the mailbox is needed for."""
    states = [standings[protocol].state for protocol in needs.protocols]
    if all(state is State.ACCEPTED for state in states):
        return MailboxStatus.ACTIVE
    if to_ask(standings, needs):
        return MailboxStatus.PENDING
    return MailboxStatus.PARTIAL if State.ACCEPTED in states else MailboxStatus.FAILED


def to_recheck(earlier: Standings, needs: Needs) -> list[Protocol]:
    """The protocols that a recheck asks: those that work, and those whose fault may be cured by now.

    It asks the latter only while no server has refused the password. A refused password is never sent again.
    """
    refused = any(one.reason in CREDENTIALS_REJECTED for one in earlier.values())
    return [
        protocol
        for protocol in needs.protocols
        if (one := earlier[protocol]).state is State.ACCEPTED
        or (one.state is State.REFUSED and one.reason in CURABLE and not refused)
    ]


def before_recheck(earlier: Standings, asked: Collection[Protocol]) -> Standings:
    """What a recheck starts from: nothing is known about the protocols that it asks."""
    return {
        protocol: Standing() if protocol in asked else _in_doubt(one) for protocol, one in earlier.items()
    }


def _in_doubt(one: Standing) -> Standing:
    """A refusal without the other protocol's word that the password is right."""
    return one._replace(reason=Reason.LOGIN_REFUSED) if one.reason is Reason.REFUSED_THOUGH_RIGHT else one


def after_recheck(earlier: Standings, found: Standings, asked: Collection[Protocol]) -> Standings:
    """What is known after a recheck.

    A protocol keeps what was known until a definite answer replaces it, so a temporary fault changes nothing.
    In two cases a protocol without a definite answer becomes open, and a retest asks it soon. If one server
    refuses the password, an earlier answer of the other proves nothing. And a reason with its own number of
    attempts is about the mailbox, not about the server.

    Args:
        earlier: What was known before.
        found: What `settle` made of the answers, starting from `before_recheck`.
        asked: The protocols of the recheck.
    """
    doubts = CREDENTIALS_REJECTED | ENDS_THE_TEST
    if any(found[p].state is State.REFUSED and found[p].reason in doubts for p in asked):
        return found
    return {
        protocol: found[protocol] if protocol in asked and _replaces(found[protocol], one) else one
        for protocol, one in earlier.items()
    }


def _replaces(found: Standing, earlier: Standing) -> bool:
    if found.state is State.PUT_OFF and found.reason is not None and earlier.state is State.ACCEPTED:
        return found.reason.explanation.attempts is not None
    return found.settled


def tests_of(standings: Standings, needs: Needs) -> dict[Protocol, ProtocolTest | None]:
    """The result of each protocol; None if the mailbox is not needed for it.

    A protocol that is not asked because of the other's refusal has failed too.
    """
    open_ = to_ask(standings, needs)

    def result(protocol: Protocol) -> ProtocolTest | None:
        if protocol not in needs.protocols:
            return None
        if protocol in open_:
            return ProtocolTest.PENDING
        return ProtocolTest.PASSED if standings[protocol].state is State.ACCEPTED else ProtocolTest.FAILED

    return {protocol: result(protocol) for protocol in Protocol}


def pause_after(attempt: int) -> timedelta:
    """The pause after an attempt, given its number from 1: five minutes, then four times longer each time."""
    factor: int = PAUSE_FACTOR ** min(attempt - 1, 10)
    return min(FIRST_PAUSE * factor, LONGEST_PAUSE)


def reasons_of(standings: Standings, needs: Needs) -> set[Reason]:
    """The reasons why a mailbox does not do all that it is needed for."""
    return {reason for protocol in needs.protocols if (reason := standings[protocol].reason)}


def ability(standings: Standings) -> str:
    """What a mailbox can do, in words."""
    accepted = {protocol for protocol, one in standings.items() if one.state is State.ACCEPTED}
    if len(accepted) == len(Protocol):
        return "can send and receive"
    if not accepted:
        return "can neither send nor receive"
    return "can only send" if Protocol.SMTP in accepted else "can only receive"
