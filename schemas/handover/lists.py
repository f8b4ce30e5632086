"""The CSV files of a hand-over: safe to open in a spreadsheet, with addresses that can be imported."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from schemas.labels import shortened
from schemas.outcomes import (
    Action,
    Outcome,
)
from schemas.reasons import Protocol
from schemas.summary import defused

# Row errors that a new password in the row solves.
PASSWORD_ERRORS = {
    "missing",
    "password_too_long",
    "masked_password",
    "spreadsheet_error",
    "lost_characters",
    "control_characters",
}
_WORDS = {(True, True): "send and receive", (True, False): "send", (False, True): "receive"}


def fix_passwords(found: Iterable[Action]) -> bytes:
    """The mailboxes that need a new password: fill in the last column and import the file with `--update`.

    A name that a spreadsheet would run is left out, because the import would store it with the prefix.
    """
    rows = []
    for action in found:
        for outcome in action.outcomes:
            name = shortened(outcome.name or "", 200)
            safe = name if defused(name) == name else ""
            rows.append((importable(outcome.email), safe, _cell(action.title), ""))
    return _csv(("email", "name", "reason", "password"), rows)


def fix_rows(found: Iterable[Action]) -> bytes:
    """The rows that were not imported, by line."""
    rows = [(outcome, action) for action in found for outcome in action.outcomes]
    rows.sort(key=lambda row: row[0].line or 0)
    return _csv(
        ("line", "email", "error", "what_to_do"),
        (
            (str(one.line or ""), importable(one.email), _cell(action.title), _cell(action.remedy))
            for one, action in rows
        ),
    )


def personal_list(found: Iterable[Action]) -> bytes:
    """The personal accounts that no password opens."""
    return _csv(
        ("email", "name", "reason"),
        (
            (importable(outcome.email), _cell(outcome.name or ""), _cell(action.title))
            for action in found
            for outcome in action.outcomes
        ),
    )


def oauth_list(found: Iterable[Action]) -> bytes:
    """The mailboxes that need OAuth, for tools that have it."""
    return _csv(
        ("email", "name", "account", "needs_oauth_to", "smtp_host", "imap_host", "reason"),
        (
            (
                importable(outcome.email),
                _cell(outcome.name or ""),
                "personal" if outcome.personal else "work or school",
                _needs_oauth_to(outcome),
                _cell(outcome.smtp.host) if outcome.smtp else "",
                _cell(outcome.imap.host) if outcome.imap else "",
                _cell(action.title),
            )
            for action in found
            for outcome in action.outcomes
        ),
    )


def _needs_oauth_to(outcome: Outcome) -> str:
    accepted = outcome.accepted
    return _WORDS[Protocol.SMTP not in accepted, Protocol.IMAP not in accepted]


def importable(email: str) -> str:
    """An address that a spreadsheet does not run as a formula and that the import reads as the address."""
    plain = shortened(email)
    return f"<{plain}>" if defused(plain) != plain else plain


def _cell(text: str) -> str:
    return defused(shortened(text))


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8-sig")  # Excel needs the byte order mark
