"""Which mailboxes a command means: its options, and the filters that they come to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from cyclopts import Parameter, Token

from flows.cli.options import LABEL, POSITIVE, Workspace
from schemas.addresses import domain_key, email_key
from schemas.labels import DEFAULT_WORKSPACE
from schemas.reasons import Reason
from schemas.standing import MailboxStatus
from schemas.tables import now
from tasks.hints import command
from tasks.storage.database import (
    Database,
    NoSuchWorkspaceError,
    SimilarWorkspaceError,
    find_workspaces,
    require_workspace,
)
from tasks.storage.mailboxes import Filters, count_mailboxes

UNITS = {"m": "minutes", "h": "hours", "d": "days"}
MOST_NAMED = 5
WHICH = "Which mailboxes (several options narrow each other down)"


def _reason(_type: object, tokens: Sequence[Token]) -> Reason:
    """A reason by its code or its title, however it is written: `Wrong password`, `wrong-credentials`."""
    names = {_plain(reason.explanation.title): reason for reason in Reason} | {
        _plain(reason): reason for reason in Reason
    }
    found = names.get(_plain(tokens[0].value))
    if found is None:
        raise ValueError(f'Unknown reason "{tokens[0].value}". Choose from: {", ".join(Reason)}.')
    return found


def _plain(text: str) -> str:
    return "".join(char for char in text.casefold() if char.isalnum())


def _domain(_type: object, tokens: Sequence[Token]) -> str:
    key = domain_key(tokens[0].value)
    if key is None:
        raise ValueError("It must be a domain, such as contoso.com.")
    return key


def _part(_type: object, tokens: Sequence[Token]) -> str:
    # An empty one would match every mailbox, and delete them: a script's variable that is not set.
    if not tokens[0].value.strip():
        raise ValueError("It must be a part of the address.")
    return tokens[0].value.strip().casefold()


def _moment(_type: object, tokens: Sequence[Token]) -> datetime:
    """A time by its date, or by how long ago it was: 30m, 2h, 3d."""
    text = tokens[0].value.strip()
    try:
        if ago := re.fullmatch(r"(\d{1,6})([mhd])", text):
            return now() - timedelta(**{UNITS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("It must be 30m, 2h, 3d or a date such as 2026-11-26 or 2026-11-26T15:00.") from None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Selection:
    """Mailboxes of a workspace, by the same options in every command."""

    workspace: Workspace = DEFAULT_WORKSPACE
    status: Annotated[MailboxStatus | None, Parameter(group=WHICH, help="Mailboxes with this status.")] = None
    tag: Annotated[str | None, LABEL, Parameter(group=WHICH, help="Mailboxes with this tag.")] = None
    import_id: Annotated[
        int | None, POSITIVE, Parameter(name="--import", group=WHICH, help="Mailboxes of this import.")
    ] = None
    reason: Annotated[
        Reason | None,
        Parameter(
            group=WHICH,
            converter=_reason,
            n_tokens=1,
            accepts_keys=False,
            show_choices=False,
            help="Mailboxes for which SMTP or IMAP gave this reason in the last test: its code or title, "
            "such as wrong_credentials. `imports show` lists them.",
        ),
    ] = None
    domain: Annotated[
        str | None,
        Parameter(
            group=WHICH, converter=_domain, n_tokens=1, help="Mailboxes of this domain, such as contoso.com."
        ),
    ] = None
    part: Annotated[
        str | None,
        Parameter(
            name="--email",
            group=WHICH,
            converter=_part,
            n_tokens=1,
            help="Mailboxes with this text in their address.",
        ),
    ] = None

    changed_since: Annotated[
        datetime | None,
        Parameter(
            group=WHICH,
            converter=_moment,
            n_tokens=1,
            accepts_keys=False,
            help="Mailboxes that started or stopped working since then: 30m, 2h, 3d or a UTC date such as "
            "2026-11-26.",
        ),
    ] = None

    @property
    def filters(self) -> Filters:
        return Filters(
            self.status,
            self.tag,
            self.import_id,
            self.reason,
            self.domain,
            self.part,
            self.changed_since,
        )


def why_nothing(opened: Database, workspace: str, filters: Filters | None = None) -> str:
    """Why a list is empty: no such workspace, nothing in it, or nothing that matches the options."""
    others = find_workspaces(opened, MOST_NAMED + 1)
    if not others:
        return f"Nothing is stored yet. To import a file: {command('import', 'FILE')}"
    try:
        require_workspace(opened, workspace)
    except (NoSuchWorkspaceError, SimilarWorkspaceError):
        more = ", …" if len(others) > MOST_NAMED else ""
        return f"There is no workspace {workspace!r}. There is: {', '.join(others[:MOST_NAMED])}{more}"
    if filters is not None and filters != Filters() and count_mailboxes(opened, workspace, Filters()):
        return f"No mailbox of workspace {workspace!r} matches these options."
    return f"Workspace {workspace!r} is empty."


def keys_of(emails: Iterable[str]) -> dict[str, str]:
    """Address as it was given → the key under which its mailbox is stored, if it is stored."""
    return {email: email_key(email.strip()) or email.strip().casefold() for email in emails}
