"""Keys of the HTTP API: `keys create|list|revoke`; of the secrets: `keys encryption list|add|rotate|remove`.

Where they lie in the key file, encryption keys can change while everything runs: whoever holds the keys
follows the file. Where they come from the settings, each process knows what it was started with: a new key
has to be known to all of them, behind the others, before it may stand first in any.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from flows.command_line import label
from flows.managing.output import DONE, NOTHING_FOUND, USAGE, Areas, print_json, print_rows
from schemas.sealing import key_id, new_key, parse_keys
from schemas.settings import PREFIX, Settings
from tasks.database import database, key_file, url_of
from tasks.reseal import KeyNeededError, Resealed, add_key, count_sealed, remove_keys, reseal

SETTING = f"{PREFIX}ENCRYPTION_KEYS"
SEALED_FIELDS = {"passwords": "password", "totp_secrets": "totp", "fingerprints": "fingerprint"}


def add_arguments(areas: Areas) -> None:
    actions = areas.add_parser("keys", help="keys of the HTTP API and of the secrets").add_subparsers(
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
    encryption = actions.add_parser("encryption", help="keys that seal passwords and TOTP secrets")
    _add_encryption(encryption.add_subparsers(dest="step", required=True))


def _add_encryption(steps: Areas) -> None:
    listing = steps.add_parser("list", help="the keys' ids, and how much each has sealed")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=list_encryption_keys)
    steps.add_parser("add", help="make a key that seals from now on").set_defaults(run=add_encryption_key)
    rotate = steps.add_parser("rotate", help="seal anew whatever the first key has not sealed")
    rotate.add_argument("--json", action="store_true", help="print JSON")
    rotate.set_defaults(run=rotate_encryption_keys)
    remove = steps.add_parser("remove", help="take keys that are no longer needed out of the key file")
    remove.add_argument("ids", nargs="+", metavar="ID", type=_id, help="as `list` shows it")
    remove.set_defaults(run=remove_encryption_keys)


def _id(word: str) -> bytes:
    try:
        return bytes.fromhex(word)
    except ValueError:  # perhaps a key, which is not to be quoted
        raise argparse.ArgumentTypeError("an id is eight hexadecimal digits") from None


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


def list_encryption_keys(options: argparse.Namespace, settings: Settings) -> int:
    with database(settings) as mailboxes:
        first, *others = mailboxes.sealer.key_ids
        sealed = count_sealed(mailboxes.engine)
    states = {first: "seals", **dict.fromkeys(others, "opens")}
    rows = [
        {"key": name.hex(), "state": states.get(name, "missing")}
        | {title: sealed.get(name, Counter())[field] for title, field in SEALED_FIELDS.items()}
        for name in (*states, *(sealed.keys() - states))
    ]
    print_rows(rows, list(rows[0]), as_json=options.json)
    return DONE


def add_encryption_key(_options: argparse.Namespace, settings: Settings) -> int:
    key = new_key()
    if settings.encryption_keys is not None:
        sys.stdout.write(f"{key}\n")
        sys.stderr.write(
            "Keep it now: it is stored nowhere, and cannot be shown again. Put it first in the list in "
            f"{SETTING}, start every process anew, and run `keys encryption rotate`. Where several run at "
            "once, start them all with it last in the list before: none may meet a key it does not know.\n"
        )
        return DONE
    with database(settings):  # makes the key file where there is none yet
        path = key_file(url_of(settings))
        add_key(path, key)
    sys.stdout.write(
        f"Key {key_id(*parse_keys(key)).hex()} is the first in {path} and seals from now on, in running "
        "processes too. Back the file up. Then `keys encryption rotate`.\n"
    )
    return DONE


def rotate_encryption_keys(options: argparse.Namespace, settings: Settings) -> int:
    with database(settings) as mailboxes:
        resealed = reseal(mailboxes)
        first, *others = mailboxes.sealer.key_ids
        sealed = count_sealed(mailboxes.engine)
    unneeded = [name.hex() for name in others if name not in sealed]
    if options.json:
        print_json(
            {
                "key": first.hex(),
                "resealed": resealed.values,
                "left": resealed.left,
                "unopened": [value._asdict() for value in resealed.unopened],
                "no_longer_needed": unneeded,
            }
        )
    else:
        sys.stdout.write(f"Sealed anew with key {first.hex()}: {resealed.values} values\n")
        if unneeded:
            sys.stdout.write(f"No longer needed: {', '.join(unneeded)}. {_ending(settings, unneeded)}\n")
    tell_rest(resealed)
    return NOTHING_FOUND if resealed.unopened or resealed.left else DONE


def _ending(settings: Settings, unneeded: list[str]) -> str:
    kept = "Keep a copy as long as backups from before are kept."
    if settings.encryption_keys is None:
        return f"In an hour: `keys encryption remove {' '.join(unneeded)}`. {kept}"
    return f"Take it out of {SETTING} once every process has been started anew with the new list. {kept}"


def tell_rest(resealed: Resealed) -> None:
    """Say on standard error what is not sealed with the first key."""
    for value in resealed.unopened:
        sys.stderr.write(f"Does not open: {value.table} {value.id}, {value.field}: {value.fault}\n")
    if resealed.unopened:
        sys.stderr.write(
            f"{len(resealed.unopened)} values do not open. Where a key is missing, put it back; a damaged "
            "value is lost: delete the mailbox and import it again.\n"
        )
    if resealed.left:
        sys.stderr.write(
            f"{resealed.left} values were in use all the time, or were sealed with an old key meanwhile: see "
            "that every process has the new list of keys, and rotate again.\n"
        )


def remove_encryption_keys(options: argparse.Namespace, settings: Settings) -> int:
    if settings.encryption_keys is not None:
        sys.stderr.write(f"The keys are not in a key file: take the key out of {SETTING}\n")
        return USAGE
    path = key_file(url_of(settings))
    with database(settings) as mailboxes:
        try:
            remove_keys(path, mailboxes.engine, options.ids)
        except KeyNeededError as error:
            sys.stderr.write(f"Nothing was removed: {error}\n")
            return NOTHING_FOUND
    sys.stdout.write(f"Removed from {path}: {', '.join(name.hex() for name in options.ids)}\n")
    return DONE
