"""What is known about each protocol, over any sequence of answers."""

from __future__ import annotations

import sys
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas.classify import CREDENTIALS_REJECTED, WRONG_PASSWORD
from schemas.diagnosis import diagnose
from schemas.reasons import Protocol, Reason
from schemas.standing import (
    ENDS_THE_TEST,
    NOTHING_KNOWN,
    Answered,
    MailboxStatus,
    Needs,
    Standing,
    State,
    ability,
    after_recheck,
    before_recheck,
    is_over,
    reasons_of,
    settle,
    status_of,
    to_ask,
    to_recheck,
)
from schemas.standing import tests_of as results_of  # pytest would collect its own name
from tests.support.standings import standings_after

MOST = 4
OK = Reason.OK
SMTP, IMAP = Protocol.SMTP, Protocol.IMAP
NEITHER = "can neither send nor receive"


class AnyAnswers(RuleBasedStateMachine):
    """A mailbox that is tested again and again, and gets any answer that a server can give."""

    def __init__(self) -> None:
        super().__init__()
        self.needs = Needs.BOTH
        self.standings = dict(NOTHING_KNOWN)
        self.asked_after_acceptance = False
        self.refused_passwords = dict.fromkeys(Protocol, 0)
        self.counted = dict.fromkeys(Protocol, 0)

    @rule(needs=st.sampled_from(Needs))
    def need(self, needs: Needs) -> None:
        self.needs = needs

    @precondition(lambda self: bool(to_ask(self.standings, self.needs)))
    @rule(data=st.data())
    def test(self, data: st.DataObject) -> None:
        answers: list[Answered] = []
        for protocol in to_ask(self.standings, self.needs):
            assert not self.standings[protocol].settled
            reason = data.draw(st.sampled_from(Reason), label=protocol)
            tried = reason in CREDENTIALS_REJECTED or reason is OK or data.draw(st.booleans())
            answers.append(Answered(protocol, reason, None, tried))
            self.refused_passwords[protocol] += reason in WRONG_PASSWORD
            self.counted[protocol] += tried and not reason.explanation.self_made
            if not to_ask(settle(self.standings, answers, MOST), self.needs):
                break
        self.standings = settle(self.standings, answers, MOST)

    @invariant()
    def no_refused_password_is_sent_twice(self) -> None:
        assert all(times <= 1 for times in self.refused_passwords.values())

    @invariant()
    def attempts_are_counted_and_bounded(self) -> None:
        for protocol, one in self.standings.items():
            assert one.attempts == self.counted[protocol] <= MOST

    @invariant()
    def a_reason_belongs_to_what_is_not_accepted(self) -> None:
        for one in self.standings.values():
            assert (one.reason is None) == (one.state in (State.UNTESTED, State.ACCEPTED))
            assert (one.pause is not None) == (one.state is State.PUT_OFF)

    @invariant()
    def an_accepted_password_is_never_called_wrong(self) -> None:
        if any(one.state is State.ACCEPTED for one in self.standings.values()):
            assert not {one.reason for one in self.standings.values()} & CREDENTIALS_REJECTED

    @invariant()
    def the_status_follows(self) -> None:
        states = {protocol: self.standings[protocol].state for protocol in self.needs.protocols}
        expected = MailboxStatus.FAILED
        if all(state is State.ACCEPTED for state in states.values()):
            expected = MailboxStatus.ACTIVE
        elif to_ask(self.standings, self.needs):
            expected = MailboxStatus.PENDING
        elif State.ACCEPTED in states.values():
            expected = MailboxStatus.PARTIAL
        assert status_of(self.standings, self.needs) is expected
        line = diagnose(self.standings, self.needs)
        assert line.isprintable()
        assert ("Can only" in line) == (expected is MailboxStatus.PARTIAL)
        assert line.startswith("Works") == (expected is MailboxStatus.ACTIVE)


class AnyRechecks(AnyAnswers):
    """A mailbox that is settled and tested again, and gets any answer that a server can give."""

    @precondition(lambda self: not to_ask(self.standings, self.needs))
    @rule(data=st.data())
    def recheck(self, data: st.DataObject) -> None:
        earlier, refused = dict(self.standings), dict(self.refused_passwords)
        asked = to_recheck(earlier, self.needs)
        found = before_recheck(earlier, asked)
        for protocol in asked:
            reason = data.draw(st.sampled_from(Reason), label=protocol)
            found = settle(found, [Answered(protocol, reason, None, True)], sys.maxsize)
            refused[protocol] += reason in WRONG_PASSWORD
            if is_over(after_recheck(earlier, found, asked), self.needs):
                break
        self.standings = dict(after_recheck(earlier, found, asked))
        self.refused_passwords = refused
        self.counted = {protocol: one.attempts for protocol, one in self.standings.items()}
        if all(found[protocol].state is State.PUT_OFF for protocol in asked) and not any(
            found[protocol].reason in {Reason.IMAP_OFF} for protocol in asked
        ):
            assert self.standings == earlier


TestAnyAnswers = AnyAnswers.TestCase
TestAnyRechecks = AnyRechecks.TestCase
TestAnyAnswers.settings = TestAnyRechecks.settings = settings(
    max_examples=150, stateful_step_count=12, deadline=None
)


@pytest.mark.parametrize(
    ("smtp", "imap", "needs", "status", "can"),
    [
        (OK, OK, "both", "active", "can send and receive"),
        (OK, Reason.PASSWORDS_RETIRED, "both", "partial", "can only send"),
        (OK, Reason.PASSWORDS_RETIRED, "smtp", "active", "can only send"),
        (OK, Reason.PASSWORDS_RETIRED, "imap", "failed", "can only send"),
        (Reason.SMTP_AUTH_OFF_TENANT, OK, "both", "partial", "can only receive"),
        (Reason.SMTP_AUTH_OFF_TENANT, Reason.PASSWORDS_RETIRED, "both", "failed", NEITHER),
        (Reason.SMTP_AUTH_OFF_TENANT, Reason.SERVER_BUSY, "both", "pending", NEITHER),
        (Reason.WRONG_CREDENTIALS, None, "both", "failed", NEITHER),
        (OK, None, "both", "pending", "can only send"),
        (OK, None, "smtp", "active", "can only send"),
    ],
)  # fmt: skip
def test_status_and_ability(smtp: Reason, imap: Reason | None, needs: str, status: str, can: str) -> None:
    """What a mailbox can do follows from both protocols, and its status from what it is needed for too."""
    found = standings_after(smtp, imap)
    assert (status_of(found, Needs(needs)), ability(found)) == (status, can)


def test_a_password_that_one_side_accepted_is_right() -> None:
    """IMAP that rejects a password that SMTP accepted has another reason than a wrong password."""
    for rejected in CREDENTIALS_REJECTED:
        assert reasons_of(standings_after(OK, rejected), Needs.BOTH) == {Reason.REFUSED_THOUGH_RIGHT}
        assert reasons_of(standings_after(rejected, OK), Needs.BOTH) == {Reason.REFUSED_THOUGH_RIGHT}


def test_a_wrong_password_ends_the_test() -> None:
    """After a wrong password, or with a mailbox elsewhere, the other protocol is not asked."""
    for reason in ENDS_THE_TEST:
        assert to_ask(standings_after(reason, None), Needs.BOTH) == []
    assert to_ask(standings_after(Reason.LOGIN_REFUSED, None), Needs.BOTH) == [IMAP]


def test_only_what_is_open_is_asked_again() -> None:
    """A retest asks the protocol that was put off, and not the one that accepted the password."""
    assert to_ask(standings_after(OK, Reason.SERVER_BUSY), Needs.BOTH) == [IMAP]
    assert to_ask(standings_after(Reason.SERVER_BUSY, Reason.PASSWORDS_RETIRED), Needs.BOTH) == [SMTP]


def test_what_this_program_caused_uses_up_no_attempt() -> None:
    """Too many connections never end a mailbox, however often they happen."""
    found = dict(NOTHING_KNOWN)
    for _ in range(20):
        found = settle(found, [Answered(SMTP, Reason.TOO_MANY_CONNECTIONS, None, True)], MOST)
    assert found[SMTP] == Standing(State.PUT_OFF, Reason.TOO_MANY_CONNECTIONS, 0, timedelta(minutes=5))


@pytest.mark.parametrize(
    ("smtp", "imap", "needs", "results"),
    [
        (OK, OK, "both", ("passed", "passed")),
        (OK, Reason.PASSWORDS_RETIRED, "both", ("passed", "failed")),
        (OK, Reason.SERVER_BUSY, "both", ("passed", "pending")),
        (Reason.WRONG_CREDENTIALS, None, "both", ("failed", "failed")),
        (Reason.LOGIN_REFUSED, None, "both", ("failed", "pending")),
        (OK, None, "smtp", ("passed", None)),
        (None, Reason.SERVER_BUSY, "imap", (None, "pending")),
    ],
)
def test_results_by_protocol(
    smtp: Reason | None, imap: Reason | None, needs: str, results: tuple[str | None, str | None]
) -> None:
    """Each protocol has a result; one that is not needed has none, and one that is not asked has failed."""
    found = results_of(standings_after(smtp, imap), Needs(needs))
    assert (found[SMTP], found[IMAP]) == results


def settled(smtp: Reason | None, imap: Reason | None) -> dict[Protocol, Standing]:
    """What is known when these answers came after so many attempts that none is put off."""
    return standings_after(smtp, imap, attempts=MOST, most=MOST)


@pytest.mark.parametrize(
    ("smtp", "imap", "needs", "asked"),
    [
        (OK, OK, "both", [SMTP, IMAP]),
        (OK, OK, "imap", [IMAP]),
        (OK, None, "both", [SMTP]),
        (OK, Reason.IMAP_OFF_DOMAIN, "both", [SMTP, IMAP]),
        (OK, Reason.IMAP_OFF_MAILBOX, "both", [SMTP, IMAP]),
        (OK, Reason.CERTIFICATE_NOT_TRUSTED, "both", [SMTP, IMAP]),
        (OK, Reason.TIMED_OUT, "both", [SMTP, IMAP]),
        (OK, Reason.PASSWORDS_RETIRED, "both", [SMTP]),
        (OK, Reason.UNKNOWN_REFUSAL, "both", [SMTP]),
        (OK, Reason.LOGIN_REFUSED, "both", [SMTP]),
        (Reason.NOT_AT_MICROSOFT, None, "both", []),
        (Reason.WRONG_CREDENTIALS, None, "both", []),
        (Reason.SMTP_AUTH_OFF_TENANT, Reason.PASSWORDS_RETIRED, "both", [SMTP]),
        (Reason.SMTP_AUTH_OFF_TENANT, Reason.LOGIN_REFUSED, "both", []),
    ],
)
def test_what_a_recheck_asks(smtp: Reason, imap: Reason | None, needs: str, asked: list[Protocol]) -> None:
    """A recheck asks what works and what may be cured, and never sends a refused password again."""
    assert to_recheck(settled(smtp, imap), Needs(needs)) == asked


def test_a_recheck_waits_for_what_is_put_off() -> None:
    """A protocol that a retest asks soon is left to that retest."""
    assert to_recheck(standings_after(OK, Reason.SERVER_BUSY), Needs.BOTH) == [SMTP]


def rechecked(earlier: dict[Protocol, Standing], **answers: Reason) -> dict[Protocol, Standing]:
    """What is known after a recheck that asked these protocols."""
    said = {Protocol(name): reason for name, reason in answers.items()}
    found = settle(
        before_recheck(earlier, said),
        [Answered(protocol, reason, None, True) for protocol, reason in said.items()],
        sys.maxsize,
    )
    return dict(after_recheck(earlier, found, said))


def test_a_recheck_with_a_temporary_fault_changes_nothing() -> None:
    """A protocol that works, or is refused, stays so while its server only puts the login off."""
    for earlier in (settled(OK, OK), settled(OK, Reason.IMAP_OFF_DOMAIN)):
        assert rechecked(earlier, smtp=Reason.TIMED_OUT, imap=Reason.SERVER_BUSY) == earlier
    refused = settled(OK, Reason.IMAP_OFF_DOMAIN)
    assert rechecked(refused, smtp=OK, imap=Reason.IMAP_OFF)[IMAP] == refused[IMAP]


def test_a_recheck_takes_a_definite_answer() -> None:
    """A definite answer replaces what was known of its protocol, and of no other."""
    works, broken = settled(OK, OK), settled(OK, Reason.IMAP_OFF_DOMAIN)
    found = rechecked(works, smtp=OK, imap=Reason.IMAP_OFF_DOMAIN)
    assert found == {
        SMTP: Standing(State.ACCEPTED, None, 1),
        IMAP: Standing(State.REFUSED, broken[IMAP].reason, 1),
    }
    assert rechecked(broken, imap=OK) == {SMTP: broken[SMTP], IMAP: Standing(State.ACCEPTED, None, 1)}


def test_a_recheck_that_cannot_open_the_mailbox_is_followed_by_a_retest() -> None:
    """A working mailbox that IMAP cannot open is open again, because that is about the mailbox itself."""
    found = rechecked(settled(OK, OK), smtp=OK, imap=Reason.IMAP_OFF)
    assert (found[IMAP].state, found[IMAP].reason) == (State.PUT_OFF, Reason.IMAP_OFF)
    assert to_ask(found, Needs.BOTH) == [IMAP]


def test_a_recheck_with_a_refused_password_proves_the_earlier_answers_wrong() -> None:
    """If one server refuses the password now, the other's earlier acceptance counts no longer."""
    for answer in (Reason.WRONG_CREDENTIALS, Reason.LOGIN_REFUSED, Reason.NOT_AT_MICROSOFT):
        found = rechecked(settled(OK, OK), smtp=answer, imap=Reason.SERVER_BUSY)
        assert (found[SMTP].state, found[SMTP].reason) == (State.REFUSED, answer)
        assert not found[IMAP].settled


def test_a_refusal_is_in_doubt_once_the_other_side_is_asked_again() -> None:
    """A refusal “although the password is right” loses that word if the other protocol takes it back."""
    earlier = settled(OK, Reason.LOGIN_REFUSED)
    assert rechecked(earlier, smtp=OK)[IMAP] == earlier[IMAP]
    refused = rechecked(earlier, smtp=Reason.WRONG_CREDENTIALS)
    assert {one.reason for one in refused.values()} == {Reason.WRONG_CREDENTIALS}
