"""Keys of the HTTP API: `keys create|list|revoke`."""

from __future__ import annotations

import argparse
import sys

from flows.command_line import label
from flows.managing.output import DONE, NOTHING_FOUND, Areas
from schemas.settings import Settings
from tasks.database import database


def add_arguments(areas: Areas) -> None:
    actions = areas.add_parser("keys", help="keys of the HTTP API").add_subparsers(
        dest="action", required=True
    )
    create = actions.add_parser("create", help="make a key and print it, this once")
    owner = create.add_mutually_exclusive_group()
    owner.add_argument("--workspace", type=label, default="default", help="default: %(default)s")
    owner.add_argument("--platform", action="store_true", help="for every workspace, named in X-Workspace")
    create.add_argument("--name", type=label, default="key", help="what the key is for")
    create.set_defaults(run=create_api_key)
    actions.add_parser("list", help="list the keys").set_defaults(run=list_api_keys)
    revoke = actions.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("prefix", metavar="PREFIX", help="the beginning of the key, as listed")
    revoke.set_defaults(run=revoke_api_key)


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
