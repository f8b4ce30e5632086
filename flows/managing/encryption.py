"""Keys that seal the secrets: `keys encryption list|add|rotate|remove`.

Where they lie in the key file, encryption keys can change while everything runs: whoever holds the keys
follows the file. Where they come from the settings, each process knows what it was started with: a new key
has to be known to all of them, behind the others, before it may stand first in any.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from flows.command_line import print_json
from flows.managing.output import (
    DONE,
    NOTHING_FOUND,
    USAGE,
    Areas,
    add_action,
    add_area,
    add_json,
    print_rows,
)
from schemas.labels import counted
from schemas.sealing import key_id, new_key, parse_keys
from schemas.settings import PREFIX, Settings
from tasks.database import database, key_file, url_of
from tasks.reseal import KeyNeededError, Resealed, add_key, count_sealed, remove_keys, reseal

SETTING = f"{PREFIX}ENCRYPTION_KEYS"
SEALED_FIELDS = {"passwords": "password", "totp_secrets": "totp", "fingerprints": "fingerprint"}


def add_arguments(areas: Areas) -> None:
    steps = add_area(areas, "encryption", "List, add, rotate and remove keys that seal the secrets.")
    about = "List the keys' ids, and how much each has sealed."
    add_json(add_action(steps, "list", about, list_encryption_keys))
    add_action(steps, "add", "Make a key that seals from now on.", add_encryption_key)
    about = "Seal anew whatever the first key has not sealed."
    add_json(add_action(steps, "rotate", about, rotate_encryption_keys))
    about = "Take keys that are no longer needed out of the key file."
    remove = add_action(steps, "remove", about, remove_encryption_keys)
    remove.add_argument("ids", nargs="+", metavar="ID", type=_id, help="As `list` shows it.")


def _id(word: str) -> bytes:
    try:
        return bytes.fromhex(word)
    except ValueError:  # perhaps a key, which is not to be quoted
        raise argparse.ArgumentTypeError("an id is eight hexadecimal digits") from None


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
    if options.json:
        print_json(rows)
    else:
        print_rows(rows, list(rows[0]))
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
        sys.stdout.write(f"Sealed anew with key {first.hex()}: {counted(resealed.values, 'value')}\n")
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
        sys.stderr.write(f"The keys are not in a key file: take the key out of {SETTING}.\n")
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
