"""Housekeeping by hand: `python -m flows.manage …`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence

from sqlalchemy import Delete, Table, Update, select

import schemas.migrations
from flows.command_line import label
from schemas.rows import email_key
from schemas.settings import Settings, SettingsError, load_settings
from schemas.tables import Mailbox, Workspace, columns_of, now
from schemas.verdicts import MailboxStatus
from tasks.database import database, make_engine, revision, upgrade, url_of

DONE, NOTHING_FOUND, USAGE = 0, 1, 2


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.manage", description="Housekeeping by hand.")
    areas = parser.add_subparsers(dest="area", required=True)
    tables = areas.add_parser("database", help="the tables").add_subparsers(dest="action", required=True)
    tables.add_parser("upgrade", help="bring the tables up to date").set_defaults(run=upgrade_database)
    mailboxes = areas.add_parser("mailboxes", help="stored mailboxes").add_subparsers(
        dest="action", required=True
    )
    delete = mailboxes.add_parser("delete", help="delete mailboxes with their credentials and verdicts")
    delete.add_argument("emails", nargs="+", metavar="EMAIL")
    delete.add_argument("--workspace", default="default")
    delete.set_defaults(run=delete_mailboxes)
    retest = mailboxes.add_parser(
        "retest", help="let the next retest try mailboxes again, such as failed ones whose cause is mended"
    )
    retest.add_argument("emails", nargs="+", metavar="EMAIL")
    retest.add_argument("--workspace", default="default")
    retest.set_defaults(run=retest_mailboxes)
    limit = areas.add_parser("limit", help="hold all workers together to so many mailboxes at once on a host")
    limit.add_argument("host", metavar="HOST", help="such as outlook.office365.com")
    limit.add_argument("mailboxes", type=int, metavar="N", help="0 removes the limit")
    limit.set_defaults(run=limit_host)
    keys = areas.add_parser("keys", help="keys of the HTTP API").add_subparsers(dest="action", required=True)
    create = keys.add_parser("create", help="make a key and print it, this once")
    owner = create.add_mutually_exclusive_group()
    owner.add_argument("--workspace", type=label, default="default", help="default: %(default)s")
    owner.add_argument("--platform", action="store_true", help="for every workspace, named in X-Workspace")
    create.add_argument("--name", type=label, default="key", help="what the key is for")
    create.set_defaults(run=create_api_key)
    keys.add_parser("list", help="list the keys").set_defaults(run=list_api_keys)
    revoke = keys.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("prefix", metavar="PREFIX", help="the beginning of the key, as listed")
    revoke.set_defaults(run=revoke_api_key)
    setup = areas.add_parser(
        "deploy", help="set up work pool, deployments and automation on Prefect's server"
    )
    setup.set_defaults(run=set_up_deployments)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    try:
        code: int = options.run(options, load_settings())
    except SettingsError as error:
        sys.stderr.write(f"Settings: {error}\n")
        return USAGE
    return code


def set_up_deployments(_options: argparse.Namespace, _settings: Settings) -> int:
    from flows.deploy import DeployError, deploy  # imports Prefect

    try:
        deploy()
    except DeployError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    sys.stdout.write(
        "Deployments: import-outlook/manual, watch-inbox/every-minute, retest-pending/every-10-minutes\n"
    )
    return DONE


def upgrade_database(_options: argparse.Namespace, settings: Settings) -> int:
    engine = make_engine(url_of(settings))
    try:
        before = revision(engine)
        upgrade(engine)
    finally:
        engine.dispose()
    sys.stdout.write(f"The tables are at revision {schemas.migrations.HEAD} (before: {before or 'none'}).\n")
    return DONE


def limit_host(options: argparse.Namespace, settings: Settings) -> int:
    from tasks.limits import set_limit  # imports Prefect

    try:
        groups = asyncio.run(set_limit(options.host, options.mailboxes, settings.probe_group_size))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    held = f"{groups} groups of {settings.probe_group_size} mailboxes at once" if groups else "no limit"
    sys.stdout.write(f"{options.host}: {held}\n")
    return DONE


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


def create_api_key(options: argparse.Namespace, settings: Settings) -> int:
    from tasks.api_keys import create_key  # imports Prefect

    with database(settings) as mailboxes:
        key = create_key(mailboxes, None if options.platform else options.workspace, options.name)
    sys.stdout.write(f"{key}\n")
    sys.stderr.write("Keep it now: only its hash is stored, and it cannot be shown again.\n")
    return DONE


def list_api_keys(_options: argparse.Namespace, settings: Settings) -> int:
    from tasks.api_keys import list_keys  # imports Prefect

    with database(settings) as mailboxes:
        for key in list_keys(mailboxes):
            used = f"last used {key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never used"
            state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else used
            owner = f"workspace {key.workspace}" if key.workspace else "platform"
            sys.stdout.write(f"{key.prefix}…  {owner}  {key.name}  made {key.created_at:%Y-%m-%d}  {state}\n")
    return DONE


def revoke_api_key(options: argparse.Namespace, settings: Settings) -> int:
    from tasks.api_keys import revoke_key  # imports Prefect

    with database(settings) as mailboxes:
        if revoke_key(mailboxes, options.prefix.rstrip("…")):
            sys.stdout.write(f"Revoked {options.prefix}\n")
            return DONE
    sys.stderr.write("No key in use begins so: `keys list` shows them\n")
    return NOTHING_FOUND


if __name__ == "__main__":
    raise SystemExit(main())
