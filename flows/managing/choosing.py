"""Which mailboxes a command means: its options and what they come to."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from flows.command_line import label
from flows.managing.output import number
from schemas.labels import DEFAULT_WORKSPACE
from schemas.reasons import Reason
from schemas.rows import email_key
from schemas.verdicts import MailboxStatus
from tasks.lookup import Filters


def add_workspace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workspace", type=label, default=DEFAULT_WORKSPACE, help="Whose they are (default: %(default)s)."
    )


def add_filters(parser: argparse.ArgumentParser) -> None:
    add_workspace(parser)
    which = parser.add_argument_group("which mailboxes", "Several of these narrow each other down.")
    which.add_argument(
        "--status",
        type=MailboxStatus,
        choices=[*MailboxStatus],
        metavar="STATUS",
        help="Those that are pending, active or failed.",
    )
    which.add_argument("--tag", type=label, help="Those with this tag.")
    which.add_argument("--import", type=number, dest="import_id", metavar="ID", help="Those of this import.")
    which.add_argument(
        "--reason",
        type=reason,
        metavar="CODE",
        help="Those of which SMTP or IMAP gave this reason in the last test, such as "
        "wrong_credentials; `imports show` names the codes.",
    )
    which.add_argument("--domain", type=domain, help="Those of this domain, such as contoso.com.")
    which.add_argument(
        "--email", type=part, dest="part", metavar="PART", help="Those whose address has this in it."
    )


def filters_of(options: argparse.Namespace) -> Filters:
    return Filters(
        options.status, options.tag, options.import_id, options.reason, options.domain, options.part
    )


def keys_of(emails: Iterable[str]) -> dict[str, str]:
    """Address as it was given → the key under which its mailbox is stored, if it is one."""
    return {email: email_key(email.strip()) or email.strip().casefold() for email in emails}


def reason(text: str) -> Reason:
    try:
        return Reason(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"there are {', '.join(Reason)}") from None


def domain(text: str) -> str:
    key = email_key(f"mailbox@{text.strip().removeprefix('@')}")
    if key is None:
        raise argparse.ArgumentTypeError("that is no domain, such as contoso.com")
    return key.removeprefix("mailbox@")


def part(text: str) -> str:
    # An empty one would let every mailbox through, and delete them: a variable of a script that is not set.
    if not text.strip():
        raise argparse.ArgumentTypeError("give a part of the address")
    return text.strip().casefold()
