"""How answers become a verdict, and how a run's verdicts are shown."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from datetime import timedelta
from xml.etree import ElementTree as ET

import pytest

from schemas.providers import Endpoint
from schemas.reasons import Protocol, Reason, Stage
from schemas.standing import NOTHING_KNOWN, MailboxStatus, pause_after
from schemas.verdicts import (
    Answer,
    ProbeReport,
    Stop,
    Target,
    Verdict,
    decide_verdict,
    group_targets,
)

SMTP, IMAP = Protocol.SMTP, Protocol.IMAP
ACTIVE, FAILED = MailboxStatus.ACTIVE, MailboxStatus.FAILED
PARTIAL, PENDING = MailboxStatus.PARTIAL, MailboxStatus.PENDING
MAIL = Endpoint("mail.contoso.com", 587)
MOST = 5


def answer(
    protocol: Protocol,
    reason: Reason,
    text: str = "",
    wait: timedelta | None = None,
    *,
    tried: bool = True,
) -> Answer:
    return Answer(protocol, MAIL, reason, Stage.LOGIN, text, 20, wait, tried)


def verdict_of(*answers: Answer, attempt: int = 1, email: str = "anna@outlook.com") -> Verdict:
    before = {protocol: one._replace(attempts=attempt - 1) for protocol, one in NOTHING_KNOWN.items()}
    return decide_verdict(1, email, attempt, MOST, answers, before)


@pytest.mark.parametrize(
    ("smtp", "imap", "attempt", "status"),
    [
        (Reason.OK, Reason.OK, 1, ACTIVE),
        (Reason.OK, Reason.OK, 9, ACTIVE),
        (Reason.OK, None, 1, PENDING),
        (Reason.WRONG_CREDENTIALS, None, 1, FAILED),
        (Reason.LOGIN_REFUSED, Reason.OK, 1, PARTIAL),
        (Reason.OK, Reason.LOGIN_REFUSED, 1, PARTIAL),
        (Reason.PASSWORD_SIGN_IN_DISABLED, Reason.PASSWORD_SIGN_IN_DISABLED, 1, FAILED),
        (Reason.SERVER_BUSY, Reason.OK, 1, PENDING),
        (Reason.OK, Reason.SERVER_BUSY, 4, PENDING),
        (Reason.OK, Reason.SERVER_BUSY, 5, PARTIAL),
        (Reason.TIMED_OUT, Reason.DROPPED, 4, PENDING),
        (Reason.TIMED_OUT, Reason.DROPPED, 6, FAILED),
        (Reason.SMTP_AUTH_OFF_TENANT, Reason.TIMED_OUT, 1, PENDING),
        (Reason.OK, Reason.IMAP_OFF, 1, PENDING),
        (Reason.OK, Reason.IMAP_OFF, 2, PARTIAL),
        (Reason.SERVER_BUSY, Reason.IMAP_OFF, 2, PENDING),
    ],
)
def test_answers_make_a_status(
    smtp: Reason, imap: Reason | None, attempt: int, status: MailboxStatus
) -> None:
    """Two successes make a mailbox active, a permanent refusal failed, a temporary one pending."""
    answers = [answer(SMTP, smtp)] + ([answer(IMAP, imap)] if imap else [])
    verdict = verdict_of(*answers, attempt=attempt)
    assert (verdict.status, verdict.attempt, verdict.counted) == (status, attempt, True)
    assert (verdict.pause is not None) is (status is PENDING)


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.OK])
def test_every_reason_is_final_or_not(reason: Reason) -> None:
    """Each reason leaves a mailbox pending if another try may help; if not, it is partial, or failed."""
    expected = PENDING if reason.explanation.transient else PARTIAL
    assert verdict_of(answer(SMTP, reason), answer(IMAP, Reason.OK)).status is expected
    assert verdict_of(answer(SMTP, Reason.OK), answer(IMAP, reason)).status is expected
    last = verdict_of(answer(SMTP, reason), answer(IMAP, reason), attempt=MOST)
    assert last.status is (PENDING if reason.explanation.self_made else FAILED)


def test_a_host_that_cannot_be_reached_uses_up_no_attempt() -> None:
    """If no login was started, the attempt is not counted, and the mailbox stays pending."""
    verdict = verdict_of(
        answer(SMTP, Reason.NAME_NOT_FOUND, tried=False),
        answer(IMAP, Reason.TIMED_OUT, tried=False),
        attempt=99,
    )
    assert (verdict.status, verdict.counted) == (PENDING, False)
    assert verdict_of(answer(SMTP, Reason.TIMED_OUT, tried=False), answer(IMAP, Reason.OK)).counted


def test_pauses_grow_to_half_a_day() -> None:
    """The first pause is five minutes, each next one is four times as long, up to twelve hours."""
    hours = [pause_after(attempt) / timedelta(hours=1) for attempt in (1, 2, 3, 4, 5, 6, 1000)]
    assert hours == pytest.approx([1 / 12, 1 / 3, 4 / 3, 16 / 3, 12, 12, 12])


@pytest.mark.parametrize(
    ("named", "pause"),
    [
        (None, timedelta(minutes=5)),
        (timedelta(seconds=1), timedelta(minutes=5)),
        (timedelta(hours=2), timedelta(hours=2)),
    ],
)
def test_a_servers_own_pause_counts_where_it_is_longer(named: timedelta | None, pause: timedelta) -> None:
    """The next attempt waits for the longer of the server's pause and the usual one."""
    for protocol, other in ((SMTP, IMAP), (IMAP, SMTP)):
        throttled = answer(protocol, Reason.THROTTLED, wait=named)
        assert verdict_of(throttled, answer(other, Reason.OK)).pause == pause


def test_a_verdict_explains_itself() -> None:
    """A verdict has a diagnosis with a remedy, and a headline with the result of each protocol."""
    verdict = verdict_of(answer(SMTP, Reason.OK), answer(IMAP, Reason.SERVER_BUSY), attempt=5)
    assert verdict.headline == "SMTP: Connected, IMAP: Server busy"
    assert verdict.diagnosis.startswith("Can only send: SMTP accepted the password. IMAP: Server busy.")
    assert verdict.diagnosis.endswith("Gave up after 5 attempts.")


def test_a_reason_is_told_in_the_light_of_both_protocols() -> None:
    """A login that one protocol rejects after the other took the password is not called a wrong password."""
    verdict = verdict_of(answer(SMTP, Reason.OK), answer(IMAP, Reason.LOGIN_REFUSED, "NO LOGIN failed."))
    assert verdict.headline == "SMTP: Connected, IMAP: Login rejected, although the password is right"
    (row,) = ProbeReport((verdict,), 0).table()
    assert row["imap"] == "Login rejected, although the password is right: NO LOGIN failed."
    assert not verdict.password_refused
    assert verdict_of(answer(SMTP, Reason.LOGIN_REFUSED)).password_refused


@pytest.mark.parametrize(
    ("smtp", "imap", "attempt", "gave_up"),
    [
        (Reason.OK, Reason.SERVER_BUSY, MOST, True),
        (Reason.OK, Reason.SERVER_BUSY, MOST - 1, False),
        (Reason.OK, Reason.PASSWORDS_RETIRED, MOST, False),
        (Reason.OK, Reason.OK, MOST, False),
    ],
)
def test_only_a_fault_that_may_pass_is_given_up(
    smtp: Reason, imap: Reason, attempt: int, gave_up: bool
) -> None:
    """The diagnosis says “gave up” only after the last attempt at a fault that might have passed."""
    verdict = verdict_of(answer(SMTP, smtp), answer(IMAP, imap), attempt=attempt)
    assert ("Gave up" in verdict.diagnosis) == gave_up


def test_a_diagnosis_has_room_for_what_else_is_known() -> None:
    """What is put before or behind a diagnosis is a part of the line, with single spaces."""
    verdict = verdict_of(answer(SMTP, Reason.OK), answer(IMAP, Reason.OK))
    works = "Works: SMTP and IMAP accepted the password."
    assert verdict.diagnosis == works
    assert (
        dataclasses.replace(verdict, preface="Before.", note="After.").diagnosis == f"Before. {works} After."
    )


def test_the_sooner_pause_counts() -> None:
    """A mailbox with two protocols to ask again is tested when the first of them is due."""
    verdict = verdict_of(
        answer(SMTP, Reason.SERVER_BUSY, wait=timedelta(hours=3)),
        answer(IMAP, Reason.SERVER_BUSY, wait=timedelta(hours=2)),
    )
    assert verdict.pause == timedelta(hours=2)
    assert verdict_of(answer(SMTP, Reason.OK)).pause == timedelta(0)


# Reports.

WORDS = '535 5.7.139 user|name <b>"was"</b>, incorrect'
REPORT = ProbeReport(
    (
        verdict_of(answer(SMTP, Reason.OK), answer(IMAP, Reason.OK), email="dora@outlook.com"),
        verdict_of(answer(SMTP, Reason.OK), answer(IMAP, Reason.SERVER_BUSY), email="cleo@outlook.com"),
        verdict_of(answer(SMTP, Reason.WRONG_CREDENTIALS, WORDS), email="bert@outlook.com"),
        verdict_of(
            answer(SMTP, Reason.PASSWORD_SIGN_IN_DISABLED),
            answer(IMAP, Reason.PASSWORD_SIGN_IN_DISABLED),
            email="anna@outlook.com",
        ),
        verdict_of(answer(SMTP, Reason.WRONG_CREDENTIALS), email="emma@outlook.com"),
    ),
    untested=2,
    stopped=Stop.GUARD,
)


def test_a_report_counts() -> None:
    """The one-line form names every count that is not zero."""
    assert str(REPORT) == "1 active, 3 failed, 1 to retry, 2 not tested"
    assert str(ProbeReport(REPORT.verdicts[:1], 0)) == "1 active, 0 failed"
    assert str(ProbeReport((), 0)) == "no mailbox to test"


def test_a_report_counts_mailboxes_by_reason() -> None:
    """A reason that both protocols give counts once per mailbox; the most frequent comes first."""
    assert REPORT.reasons() == [
        (Reason.WRONG_CREDENTIALS, 2),
        (Reason.PASSWORD_SIGN_IN_DISABLED, 1),
        (Reason.SERVER_BUSY, 1),
    ]


def test_reports_add_up() -> None:
    """Two added reports have the verdicts of both runs, and the end of the later one."""
    both = ProbeReport(REPORT.verdicts[:1], 1, Stop.INTERRUPTED) + ProbeReport(
        REPORT.verdicts[1:], 1, Stop.GUARD
    )
    assert both == ProbeReport(REPORT.verdicts, 2, Stop.GUARD)


@pytest.mark.parametrize(
    ("untested", "ending"),
    [
        (0, "tried so far were wrong."),
        (
            1,
            " 1 mailbox was not tested: its password is probably wrong too, and failed logins can lock "
            "accounts.",
        ),
        (
            1200,
            "1,200 mailboxes were not tested: their passwords are probably wrong too, and failed logins can "
            "lock accounts.",
        ),
    ],
)
def test_the_guard_says_how_many_are_left(untested: int, ending: str) -> None:
    """What the guard left untested is counted, and not mentioned if there is nothing."""
    stopped = ProbeReport(REPORT.verdicts, untested, Stop.GUARD).why_stopped
    assert stopped.startswith("Stopped by the lockout guard: nearly all passwords ")
    assert stopped.endswith(ending)


def test_a_reports_markdown() -> None:
    """The artifact has the counts, why the run ended, and each reason with its remedy; no server's text."""
    text = REPORT.markdown()
    assert text.startswith(f"## {REPORT}\n")
    assert "**Stopped by the lockout guard: " in text
    for reason, _ in REPORT.reasons():
        assert reason.explanation.title in text
        assert reason.explanation.remedy in text
    assert "2 mailboxes: Wrong password." in text
    assert "1 mailbox: Server busy." in text
    assert WORDS not in text


def test_a_reports_table() -> None:
    """The table has one row per mailbox, failed ones first, then by address, with the server's own text."""
    rows = REPORT.table()
    assert [(row["email"], row["status"]) for row in rows] == [
        ("anna@outlook.com", "failed"),
        ("bert@outlook.com", "failed"),
        ("emma@outlook.com", "failed"),
        ("cleo@outlook.com", "pending"),
        ("dora@outlook.com", "active"),
    ]
    assert (rows[1]["smtp"], rows[1]["imap"]) == (f"Wrong password: {WORDS}", "not tried")
    assert (rows[4]["smtp"], rows[4]["imap"]) == ("Connected", "Connected")
    assert "Create a new app password" in str(rows[1]["diagnosis"])
    assert json.loads(json.dumps(rows)) == rows


ALL_STATES = ProbeReport(
    (
        *REPORT.verdicts,
        verdict_of(answer(SMTP, Reason.OK), answer(IMAP, Reason.PASSWORDS_RETIRED), email="flo@outlook.com"),
        verdict_of(answer(SMTP, Reason.OK), answer(IMAP, Reason.PASSWORDS_RETIRED), email="gus@outlook.com"),
        verdict_of(
            answer(SMTP, Reason.SMTP_AUTH_OFF_TENANT), answer(IMAP, Reason.OK), email="ida@outlook.com"
        ),
    ),
    untested=2,
)


def picture_of(text: str) -> ET.Element:
    """The picture in the text of an artifact."""
    found = re.search(r"!\[(.*?)\]\(data:image/svg\+xml;base64,(.*?)\)", text)
    assert found is not None
    return ET.fromstring(base64.b64decode(found[2]))  # noqa: S314  our own picture


def without_picture(text: str) -> list[str]:
    """The paragraphs of an artifact, with the alternative text of its picture."""
    return re.sub(r"\(data:[^)]*\)", "()", text).split("\n\n")


def test_a_report_names_what_mailboxes_can_do() -> None:
    """Mailboxes with one protocol that works are counted by what they can do, and it says what that means."""
    assert (
        str(ALL_STATES) == "2 can only send, 1 can only receive, 1 active, 3 failed, 1 to retry, 2 not tested"
    )
    assert ALL_STATES.meaning_of_partial() == (
        "2 mailboxes can only send: SMTP accepts the password and IMAP does not, so replies cannot be read "
        "here. "
        "1 mailbox can only receive: IMAP accepts the password and SMTP rejects it, so they cannot send."
    )
    assert REPORT.meaning_of_partial() == ""


def test_a_report_as_a_picture() -> None:
    """Each status has a part of the bar as wide as its share, and the legend names those that count."""
    svg = "{http://www.w3.org/2000/svg}"
    picture = picture_of(ALL_STATES.markdown())
    bars = picture.findall(f"{svg}rect")
    assert [round(float(bar.attrib["width"])) for bar in bars] == [210, 210, 70, 70, 140]
    assert [round(float(bar.attrib["x"])) for bar in bars] == [0, 210, 420, 490, 560]
    assert len({bar.attrib["fill"] for bar in bars if re.fullmatch("#[0-9a-f]{6}", bar.attrib["fill"])}) == 5
    legend = picture.findall(f"{svg}text/{svg}tspan")
    assert [(part.text or "").strip("● ") for part in legend] == [
        *("failed 3", "partial 3", "pending 1", "active 1", "not tested 2")
    ]
    assert [part.attrib["fill"] for part in legend] == [bar.attrib["fill"] for bar in bars]
    few = picture_of(REPORT.markdown()).findall(f"{svg}text/{svg}tspan")
    assert [(part.text or "").strip("● ") for part in few] == [
        *("failed 3", "pending 1", "active 1", "not tested 2")
    ]


def test_the_whole_text_of_a_report() -> None:
    """The artifact has counts, picture, who acts, why the run ended, reasons, and where the table is."""
    verdict = verdict_of(answer(SMTP, Reason.OK), answer(IMAP, Reason.PASSWORDS_RETIRED))
    why = Reason.PASSWORDS_RETIRED.explanation
    report = ProbeReport((verdict,), 1, Stop.INTERRUPTED)
    parts = [
        "## 1 can only send, 0 active, 0 failed, 1 not tested",
        "![1 can only send, 0 active, 0 failed, 1 not tested]()",
        "**The admin acts.**",
        f"**{report.meaning_of_partial()}**",
        "**Stopped by you: mailboxes that are not tested yet stay pending.**",
        f"- **1 mailbox: {why.heading}** {why.remedy} *{why.meaning}*",
        "The table “tested-mailboxes” lists every mailbox.",
    ]
    assert without_picture(report.markdown("The admin acts")) == parts
    assert without_picture(ProbeReport((verdict,), 1).markdown()) == parts[:2] + parts[3:4] + parts[5:]


def test_an_empty_report() -> None:
    """A run that tested nothing has a report too."""
    assert ProbeReport((), 3).markdown() == "## 0 active, 0 failed, 3 not tested"
    assert ProbeReport((), 3).table() == []


# Groups.


def test_groups_hold_one_pair_of_hosts() -> None:
    """Targets are split by their servers and then by size, and no mailbox is lost or duplicated."""
    other = Endpoint("imap-mail.outlook.com", 993)
    targets = [Target(n, MAIL, other if n % 3 == 0 else MAIL) for n in range(1, 61)]
    groups = group_targets(targets, 25)
    assert [(group.smtp, group.imap, group.first, len(group.mailbox_ids)) for group in groups] == [
        (MAIL, MAIL, 1, 25),
        (MAIL, MAIL, 26, 15),
        (MAIL, other, 1, 20),
    ]
    assert sorted(each for group in groups for each in group.mailbox_ids) == list(range(1, 61))
    assert all(each % 3 == 0 for each in groups[2].mailbox_ids)
    assert group_targets([], 25) == []


def test_a_group_is_named_by_its_hosts() -> None:
    """A task run's name contains the hosts and the numbers of its mailboxes."""
    other = Endpoint("imap-mail.outlook.com", 993)
    names = [str(group) for group in group_targets([Target(n, MAIL, MAIL) for n in range(30)], 25)]
    assert [name.replace("–", "-") for name in names] == ["mail.contoso.com 1-25", "mail.contoso.com 26-30"]
    (group,) = group_targets([Target(1, MAIL, other)], 25)
    assert str(group).startswith("mail.contoso.com + imap-mail.outlook.com 1")
