"""The page for the Microsoft 365 admin of one domain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from schemas.handover.script import BEFORE_NAME, SCRIPT_NAME
from schemas.labels import counted, shortened
from schemas.outcomes import (
    Action,
    Answered,
    Document,
    Outcome,
    utc,
)
from schemas.reasons import Protocol, Reason
from schemas.summary import markdown_cell, markdown_table

SWITCHED_BY_SCRIPT = {
    Reason.SMTP_AUTH_OFF_TENANT,
    Reason.SMTP_AUTH_OFF_MAILBOX,
    Reason.PASSWORD_SIGN_IN_DISABLED,
}
REPLIES_SHOWN = 40

_SCRIPT = f"""\
## What the script does

`{SCRIPT_NAME}` turns on SMTP AUTH for {{mailboxes}}, one by one. It never changes the setting of the whole
organisation. It needs the ExchangeOnlineManagement module and the Exchange Administrator role.

1. Read the script. It lists the addresses at its top.
2. Windows marks downloaded files: unblock it with `Unblock-File .\\{SCRIPT_NAME}`.
3. Connect, then look at what it would do. This changes nothing in Exchange and records the present state in
   `{BEFORE_NAME}`:

       Connect-ExchangeOnline
       .\\{SCRIPT_NAME}

4. Make the changes. Exchange takes up to an hour to apply them:

       .\\{SCRIPT_NAME} -Apply

5. To go back to the recorded state:

       .\\{SCRIPT_NAME} -Undo -Apply

Keep `{BEFORE_NAME}` for as long as you may want to go back. To turn SMTP AUTH on for all mailboxes instead,
run `Set-TransportConfig -SmtpClientAuthenticationDisabled $false`. The setting of a single mailbox goes
first.

An authentication policy can block SMTP for a mailbox although SMTP AUTH is on. The policy must allow Basic
authentication for SMTP (`AllowBasicAuthSmtp`). Security defaults block it, too.
"""

_AFTERWARDS = """\
## What it cannot change

- Exchange Online accepts no passwords over IMAP or POP, and no setting brings them back. With SMTP AUTH a
  mailbox can send; to receive, it needs OAuth.
- At the end of December 2026 Microsoft turns SMTP AUTH with passwords off by default in existing
  organisations. You can turn it on again. Microsoft announces the date of the final removal in the second
  half of 2027.
"""


def smtp_auth_off(outcome: Outcome) -> bool:
    """Whether SMTP AUTH is or may be off for the mailbox of an organisation, which the script can change."""
    return outcome.smtp is not None and outcome.smtp.code in SWITCHED_BY_SCRIPT


def to_admin(document: Document, domain: str, found: Sequence[Action]) -> str:
    """The page in Markdown. Everything that comes from a file or a server is escaped.

    Args:
        domain: The domain of all mailboxes of the actions; untrusted.
    """
    outcomes = [outcome for action in found for outcome in action.outcomes]
    for_script = sum(map(smtp_auth_off, outcomes))
    count = counted(len(outcomes), "mailbox", "mailboxes")
    verb = "needs" if len(outcomes) == 1 else "need"
    parts = [
        f"{count} of {_cell(domain)} {verb} you, the Microsoft 365 admin.",
        f"The mailboxes were tested with the passwords in the file “{_cell(document.file)}” (import "
        f"{document.import_id}, {utc(document.created_at)}). No file here contains a password.",
        "## What is wrong",
        markdown_table(
            ("Mailboxes", "Reason", "What it means", "What to do"),
            [(len(one.outcomes), *map(shortened, (one.title, one.meaning, one.remedy))) for one in found],
        ),
    ]
    if for_script:
        mailboxes = counted(for_script, "mailbox", "mailboxes")
        parts.append(_SCRIPT.format(mailboxes=mailboxes).rstrip())
    parts += [_AFTERWARDS.rstrip(), "## What the servers said", _replies(outcomes)]
    if left_out := list(_not_tried(outcomes)):
        parts += ["## What was not tried", "\n".join(left_out)]
    parts += [
        "## The mailboxes",
        markdown_table(
            ("Mailbox", "Reason", "Tested"),
            [
                (
                    shortened(outcome.email),
                    shortened(action.title),
                    _tested(outcome),
                )
                for action in found
                for outcome in sorted(action.outcomes, key=lambda one: one.email.casefold())
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _tested(outcome: Outcome) -> str:
    return utc(outcome.tested_at) if outcome.tested_at else ""


def _cell(text: str) -> str:
    return markdown_cell(shortened(text))


def _replies(outcomes: Iterable[Outcome]) -> str:
    """The servers' different replies, the most frequent first, with the times of the first and the last."""
    times: dict[tuple[Protocol, str, str], list[datetime]] = defaultdict(list)
    for outcome in outcomes:
        for protocol, answer in outcome.answers.items():
            if answer.code != Reason.OK:
                times[protocol, shortened(answer.host), _words(answer)].append(answer.at)
    ranked = sorted(times.items(), key=lambda item: (-len(item[1]), item[0]))
    rows = [
        (len(at), protocol.upper(), host, text, utc(min(at)), utc(max(at)))
        for (protocol, host, text), at in ranked[:REPLIES_SHOWN]
    ]
    table = markdown_table(("Mailboxes", "Protocol", "Server", "Reply", "First", "Last"), rows)
    left = len(ranked) - REPLIES_SHOWN
    return f"{table}\n\n{counted(left, 'more reply', 'more replies')} left out." if left > 0 else table


def _words(answer: Answered) -> str:
    text = shortened(answer.server_text)
    return text or shortened(f"no reply ({answer.title}, stage {answer.stage})")


def _not_tried(outcomes: Sequence[Outcome]) -> Iterable[str]:
    for protocol in Protocol:
        missing = sum(protocol not in outcome.answers for outcome in outcomes)
        if missing:
            yield f"- {protocol.upper()} was not tried for {counted(missing, 'mailbox', 'mailboxes')}."
    early = sum(
        answer.code != Reason.OK and answer.stage not in ("login", "check")
        for outcome in outcomes
        for answer in outcome.answers.values()
    )
    if early:
        yield f"- {counted(early, 'test')} ended before the login, so that no password was sent."
