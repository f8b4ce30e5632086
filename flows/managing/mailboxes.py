"""Stored mailboxes: `mailboxes delete|retest`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from sqlalchemy import Delete, Table, Update, select

from flows.managing.output import DONE, NOTHING_FOUND, Areas
from schemas.rows import email_key
from schemas.settings import Settings
from schemas.tables import Mailbox, Workspace, columns_of, now
from schemas.verdicts import MailboxStatus
from tasks.database import database


def add_arguments(areas: Areas) -> None:
    actions = areas.add_parser("mailboxes", help="stored mailboxes").add_subparsers(
        dest="action", required=True
    )
    delete = actions.add_parser("delete", help="delete mailboxes with their credentials and verdicts")
    delete.add_argument("emails", nargs="+", metavar="EMAIL")
    delete.add_argument("--workspace", default="default")
    delete.set_defaults(run=delete_mailboxes)
    retest = actions.add_parser(
        "retest", help="let the next retest try mailboxes again, such as failed ones whose cause is mended"
    )
    retest.add_argument("emails", nargs="+", metavar="EMAIL")
    retest.add_argument("--workspace", default="default")
    retest.set_defaults(run=retest_mailboxes)


def delete_mailboxes(options: argparse.Namespace, settings: Settings) -> int:
    return _change_mailboxes(options, settings, "Deleted", lambda mailbox: mailbox.delete())


def retest_mailboxes(options: argparse.Namespace, settings: Settings) -> int:
    again = {"status": MailboxStatus.PENDING, "attempts": 0, "next_attempt_at": now(), "diagnosis": ""}
    return _change_mailboxes(options, settings, "Due", lambda mailbox: mailbox.update().values(again))


def _change_mailboxes(
    options: argparse.Namespace, settings: Settings, word: str, change: Callable[[Table], Delete | Update]
) -> int:
    """Change the mailboxes that the options name, and say which they were and how many are not there."""
    mailbox, workspace = columns_of(Mailbox), columns_of(Workspace)
    keys = {email_key(email.strip()) or email.strip().casefold() for email in options.emails}
    owner = select(workspace.c.id).where(workspace.c.name == options.workspace)
    with database(settings) as mailboxes, mailboxes.engine.begin() as connection:
        changed = connection.scalars(
            change(mailbox)
            .where(mailbox.c.workspace_id == owner.scalar_subquery(), mailbox.c.email_key.in_(keys))
            .returning(mailbox.c.email)
        ).all()
    for email in changed:
        sys.stdout.write(f"{word}: {email}\n")
    if missing := len(keys) - len(changed):
        sys.stderr.write(f"{missing} of the addresses are not in workspace {options.workspace!r}\n")
    return NOTHING_FOUND if missing else DONE
