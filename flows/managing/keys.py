"""Keys of the HTTP API: `keys create|list|revoke`; of the secrets: see `encryption`."""

from __future__ import annotations

import argparse
import sys

from flows.command_line import label, print_json
from flows.managing import encryption
from flows.managing.output import (
    DONE,
    NOTHING_FOUND,
    Areas,
    add_action,
    add_area,
    add_json,
    print_rows,
)
from schemas.labels import DEFAULT_WORKSPACE
from schemas.settings import Settings
from tasks.api_keys import Listed, create_key, list_keys, revoke_key
from tasks.database import database


def add_arguments(areas: Areas) -> None:
    actions = add_area(areas, "keys", "Manage the keys of the HTTP API, and those that seal the secrets.")
    create = add_action(
        actions, "create", "Make a key of the HTTP API and print it, this once.", create_api_key
    )
    owner = create.add_mutually_exclusive_group()
    owner.add_argument(
        "--workspace", type=label, default=DEFAULT_WORKSPACE, help="Whose it is (default: %(default)s)."
    )
    owner.add_argument("--platform", action="store_true", help="For every workspace, named in X-Workspace.")
    create.add_argument("--name", type=label, default="key", help="What the key is for.")
    add_json(add_action(actions, "list", "List the keys of the HTTP API.", list_api_keys))
    revoke = add_action(actions, "revoke", "Refuse a key of the HTTP API from now on.", revoke_api_key)
    revoke.add_argument("prefix", metavar="PREFIX", help="The beginning of the key, as listed.")
    encryption.add_arguments(actions)


def create_api_key(options: argparse.Namespace, settings: Settings) -> int:
    with database(settings) as mailboxes:
        key = create_key(mailboxes, None if options.platform else options.workspace, options.name)
    sys.stdout.write(f"{key}\n")
    sys.stderr.write("Keep it now: only its hash is stored, and it cannot be shown again.\n")
    return DONE


def list_api_keys(options: argparse.Namespace, settings: Settings) -> int:
    with database(settings) as mailboxes:
        keys = list_keys(mailboxes)
    if options.json:
        print_json([key.model_dump(mode="json") for key in keys])
    elif keys:
        print_rows([_row(key) for key in keys], list(Listed.model_fields))
    else:
        sys.stderr.write("There is no key yet: `keys create` makes one.\n")
    return DONE if keys else NOTHING_FOUND


def _row(key: Listed) -> dict[str, object]:
    return key.model_dump() | {
        "prefix": f"{key.prefix}…",
        "workspace": key.workspace or "all (platform)",
    }


def revoke_api_key(options: argparse.Namespace, settings: Settings) -> int:
    with database(settings) as mailboxes:
        if revoke_key(mailboxes, options.prefix.rstrip("…")):
            sys.stdout.write(f"Revoked {options.prefix}\n")
            return DONE
    sys.stderr.write("No key in use begins so: `keys list` shows them.\n")
    return NOTHING_FOUND
