"""Who has to act for a mailbox, the sentence about an import, and the forecast."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.actors import ACTORS, decide_actor, is_personal
from schemas.labels import shortened
from schemas.outcomes import (
    Outcome,
    actions,
    filled_in,
    forecast,
    result_of,
    who_has_to_act,
)
from schemas.providers import CONSUMER_IMAP, MICROSOFT_IMAP
from schemas.reasons import Actor, Protocol, Reason
from schemas.row_reasons import RowReason
from tests.support.outcomes import OFF, SENTENCE, document, mailbox, realistic, row_error

WRONG, REFUSED, OK = Reason.WRONG_CREDENTIALS, Reason.LOGIN_REFUSED, Reason.OK
SMTP, IMAP = Protocol.SMTP, Protocol.IMAP


def test_every_reason_has_an_actor() -> None:
    """Each reason has an actor, except that nothing is wrong."""
    assert set(ACTORS) == set(Reason) - {Reason.OK}


@pytest.mark.parametrize(
    ("smtp", "imap", "decided"),
    [
        (OK, OK, None),
        (OK, "", None),
        ("", "", None),
        (WRONG, "", (Actor.OWNER, SMTP)),
        (REFUSED, REFUSED, (Actor.OWNER, SMTP)),
        (Reason.SMTP_AUTH_OFF_TENANT, OFF, (Actor.ADMIN, SMTP)),
        (Reason.SMTP_AUTH_OFF_MAILBOX, REFUSED, (Actor.ADMIN, SMTP)),
        (Reason.SECURITY_DEFAULTS, REFUSED, (Actor.ADMIN, SMTP)),
        (WRONG, OFF, (Actor.OWNER, SMTP)),
        (OFF, OFF, (Actor.ADMIN, SMTP)),
        (OK, Reason.MECHANISM_NOT_OFFERED, (Actor.NOBODY, IMAP)),
        (Reason.TIMED_OUT, WRONG, (Actor.OWNER, IMAP)),
        (Reason.SERVER_BUSY, OFF, (Actor.WAIT, SMTP)),
        (OK, OFF, (Actor.NOBODY, IMAP)),
        (Reason.NOT_AT_MICROSOFT, Reason.NOT_AT_MICROSOFT, (Actor.UPLOADER, SMTP)),
        (Reason.NAME_NOT_FOUND, Reason.NAME_NOT_FOUND, (Actor.OPERATOR, SMTP)),
    ],
)
def test_the_actor_of_two_answers(smtp: str, imap: str, decided: tuple[Actor, Protocol] | None) -> None:
    """The actor who can bring a mailbox furthest acts first: the admin, the owner, then the others."""
    assert decide_actor(smtp, imap, exchange_online=True) == decided


def test_an_accepted_password_is_right() -> None:
    """If one protocol accepts the password, the owner need not act, whatever the other one says."""
    for refusal in (WRONG, REFUSED):
        assert decide_actor(OK, refusal) == (Actor.ADMIN, IMAP)
        assert decide_actor(refusal, OK) == (Actor.ADMIN, SMTP)
        assert decide_actor(OK, refusal, exchange_online=True) == (Actor.NOBODY, IMAP)


def test_passwords_over_imap_are_for_the_admin_of_an_own_server() -> None:
    """On Exchange Online no admin can allow passwords over IMAP; on an own server the admin can."""
    assert decide_actor(OK, OFF) == (Actor.ADMIN, IMAP)
    assert decide_actor(OK, OFF, exchange_online=True) == (Actor.NOBODY, IMAP)


def test_a_personal_account_has_no_admin() -> None:
    """What an admin does in an organisation is for the owner of a personal account, or for no one."""
    assert decide_actor(Reason.ACCOUNT_BLOCKED, REFUSED) == (Actor.ADMIN, SMTP)
    assert decide_actor(Reason.ACCOUNT_BLOCKED, REFUSED, personal=True) == (Actor.OWNER, SMTP)
    assert decide_actor(Reason.SMTP_AUTH_OFF_TENANT, "", personal=True) == (Actor.NOBODY, SMTP)
    assert decide_actor(WRONG, OFF, personal=True) == (Actor.NOBODY, IMAP)
    assert decide_actor(OFF, OFF, personal=True) == (Actor.NOBODY, SMTP)
    assert decide_actor(OK, REFUSED, personal=True) == (Actor.NOBODY, IMAP)


def test_a_transient_fault_is_the_operators_once_no_test_is_planned() -> None:
    """A mailbox that was given up on does not wait any more."""
    assert decide_actor(Reason.THROTTLED, "", given_up=True) == (Actor.OPERATOR, SMTP)


@pytest.mark.parametrize(
    ("email", "personal"),
    [
        ("ann@outlook.com", True),
        ("ann@HOTMAIL.co.uk", True),
        ("ann@live.nl", True),
        ("ann@msn.com", True),
        ("ann@contoso.onmicrosoft.com", False),
        ("ann@notlive.com", False),
        ("unknown", False),
    ],
)
def test_personal_addresses(email: str, personal: bool) -> None:
    """Microsoft's consumer domains are personal, and those of organisations are not."""
    assert is_personal(email) is personal


def test_the_sentence_about_a_realistic_import() -> None:
    """The sentence counts each failing mailbox and row once, by who has to act."""
    rows = realistic()
    assert who_has_to_act(rows) == SENTENCE
    assert len(rows) == document(rows).rows == 400
    assert sum(len(action.outcomes) for action in actions(rows)) == 400 - 140 - 22


def test_the_sentence_as_it_is_documented() -> None:
    """Only those who have to act are in the sentence."""
    parts = ((65, "contoso.com"), (25, "fabrikam.com"))
    rows = [
        mailbox(f"a{number}@{domain}", Reason.SMTP_AUTH_OFF_TENANT, OFF)
        for count, domain in parts
        for number in range(count)
    ]
    rows += [mailbox(f"b{number}@contoso.com", WRONG, None) for number in range(30)]
    rows += [mailbox(f"c{number}@hotmail.com", OFF, OFF) for number in range(60)]
    assert who_has_to_act(rows) == (
        "90 need your Microsoft 365 admin (contoso.com 65, fabrikam.com 25), "
        "30 a new app password from their owner, 60 take no passwords at all"
    )


def test_a_sentence_about_single_ones() -> None:
    """One mailbox takes the singular, and a clause whose verb differs has its own."""
    rows = [
        mailbox("a@contoso.com", Reason.CONDITIONAL_ACCESS, REFUSED),
        mailbox("b@contoso.com", WRONG, None),
        mailbox("c@gmail.example", Reason.NOT_AT_MICROSOFT, Reason.NOT_AT_MICROSOFT),
        row_error(RowReason.MISSING),
        mailbox("d@contoso.com", Reason.MECHANISM_NOT_OFFERED, OK, "partial"),
    ]
    assert who_has_to_act(rows) == (
        "1 needs your Microsoft 365 admin (contoso.com 1), 1 a new app password from its owner, "
        "1 is not hosted at Microsoft, 1 row needs correcting in the file, "
        "1 takes a password only for receiving"
    )


def test_nothing_to_do() -> None:
    """An import in which all works, or that is empty, has no sentence."""
    assert who_has_to_act([]) == who_has_to_act([mailbox("a@contoso.com", OK, OK, "active")]) == ""


def test_a_mailbox_counts_once() -> None:
    """A mailbox that several rows name counts once; each failed row counts."""
    broken = mailbox("Ann@contoso.com", WRONG, None)
    rows = [broken, replace(broken, email="ann@contoso.com", line=9), row_error(RowReason.MISSING, line=10)]
    assert who_has_to_act(rows) == (
        "1 needs a new app password from its owner, 1 row needs correcting in the file"
    )


def test_many_domains_are_summed_up() -> None:
    """The sentence names four domains, and counts the others."""
    rows = [mailbox(f"ann@d{number}.example", Reason.SECURITY_DEFAULTS, None) for number in range(9)]
    assert "(d0.example 1, d1.example 1, d2.example 1, d3.example 1 and 5 more domains)" in who_has_to_act(
        rows
    )


def test_half_a_mailbox_says_what_works() -> None:
    """A mailbox that can send is not called wrong: the action names what it can do."""
    (action,) = actions([mailbox("a@adatum.com", OK, REFUSED, "partial")])
    assert (action.actor, action.title) == (Actor.NOBODY, "Can only send")
    assert "password is right" in action.meaning
    (action,) = actions([mailbox("a@adatum.com", OK, REFUSED, "partial", imap_host="mail.northwind.example")])
    assert action.actor is Actor.ADMIN
    assert "IMAP is on" in action.remedy
    (action,) = actions([mailbox("a@adatum.com", Reason.SMTP_AUTH_OFF_MAILBOX, OK, "partial")])
    assert (action.actor, action.code) == (Actor.ADMIN, Reason.SMTP_AUTH_OFF_MAILBOX)
    assert action.title == "SMTP AUTH is off for the mailbox"


def test_outcomes_without_answers() -> None:
    """A pending mailbox is not tested yet; a failed one without an answer is for the operator."""
    waiting, lost = actions(
        [mailbox("a@b.example", None, None, "pending"), mailbox("c@b.example", None, None)]
    )[::-1]
    assert (waiting.actor, lost.actor) == (Actor.WAIT, Actor.OPERATOR)


def test_rows_of_older_imports() -> None:
    """A row error without a line, a code or a remedy is an action, too."""
    (action,) = actions([Outcome(None, "unknown", None, "failed")])
    assert (action.actor, action.title, action.remedy) == (Actor.UPLOADER, "Row error", "")


def test_the_forecast_counts_mailboxes_that_send() -> None:
    """The forecast is about organisations' mailboxes that send over Exchange Online, each once."""
    sending = mailbox("a@adatum.com", OK, OFF, "partial", imap_host=MICROSOFT_IMAP)
    rows = [
        sending,
        replace(sending, line=3),
        mailbox("b@hotmail.com", OK, OK, "active", imap_host=CONSUMER_IMAP),
        mailbox("c@northwind.example", OK, OK, "active", smtp_host="mail.northwind.example"),
        mailbox("d@adatum.com", WRONG, None),
    ]
    assert forecast(rows).startswith("1 mailbox sends through Exchange Online with a password (SMTP AUTH).")
    assert "end of December 2026" in forecast(rows)
    assert forecast(rows[2:]) == ""


@pytest.mark.parametrize(
    ("outcome", "result"),
    [
        (mailbox("a@b.example", OK, OK, "active"), "Works"),
        (mailbox("a@b.example", OK, OFF, "partial"), "Can only send"),
        (mailbox("a@b.example", OFF, OK, "partial"), "Can only receive"),
        (mailbox("a@b.example", OFF, OFF), "Fails"),
        (mailbox("a@b.example", Reason.SERVER_BUSY, None, "pending"), "Tested again later"),
        (mailbox("a@b.example", None, None, "pending"), "Not tested yet"),
        (row_error(RowReason.MISSING), "Not imported"),
        (Outcome(3, "a@b.example", None, "skipped"), "Skipped"),
    ],
)
def test_results_in_words(outcome: Outcome, result: str) -> None:
    """Each state of a row has its words."""
    assert result_of(outcome) == result


def test_a_remedy_is_filled_in() -> None:
    """The placeholder in a remedy becomes the address, quoted for PowerShell."""
    outcome = mailbox("o'brien@contoso.com", Reason.SMTP_AUTH_OFF_TENANT, None)
    remedy = filled_in(Reason.SMTP_AUTH_OFF_TENANT.explanation.remedy, outcome)
    assert "Set-CASMailbox -Identity 'o''brien@contoso.com' -SmtpClientAuthenticationDisabled" in remedy


def test_shortened_texts() -> None:
    """A text is one printable line of bounded length."""
    assert shortened(" a\r\nb\x00\u202ec ") == "a b c"
    assert shortened("x" * 600) == "x" * 499 + "…"
