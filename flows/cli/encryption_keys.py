"""Encryption keys: `keys encryption list|add|rotate|remove`.

Keys in the key file can change while everything runs: every process that holds the keys follows the file.
With keys in the settings, each process knows what it was started with: all of them have to know a new key,
behind the others, before it may stand first in any.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Annotated

from cyclopts import Parameter

from flows.cli.exit_codes import DONE, NOTHING_FOUND, USAGE
from flows.cli.options import Json
from flows.cli.output import print_json, print_rows, tell, wrong_usage
from schemas.labels import counted
from schemas.sealing import key_id, new_key, parse_keys
from schemas.settings import PREFIX, Settings
from tasks.configuration import load_settings
from tasks.hints import command
from tasks.storage.database import database, key_file, url_of
from tasks.storage.key_rotation import (
    KeyNeededError,
    Resealed,
    add_key,
    count_sealed,
    remove_keys,
    reseal,
)

SETTING = f"{PREFIX}ENCRYPTION_KEYS"
SEALED_FIELDS = {"passwords": "password", "totp_secrets": "totp", "fingerprints": "fingerprint"}


def list_keys(*, json: Json = False) -> int:
    """List the ids of the keys and how much each has sealed."""
    with database(load_settings()) as opened:
        first, *others = opened.sealer.key_ids
        sealed = count_sealed(opened.engine)
    states = {first: "seals", **dict.fromkeys(others, "opens")}
    rows = [
        {"key": name.hex(), "state": states.get(name, "missing")}
        | {title: sealed.get(name, Counter())[field] for title, field in SEALED_FIELDS.items()}
        for name in (*states, *(sealed.keys() - states))
    ]
    if json:
        print_json(rows)
    else:
        print_rows(rows, list(rows[0]))
    return DONE


def add() -> int:
    """Create a key that seals from now on."""
    settings, key = load_settings(), new_key()
    rotate_line = command("keys", "encryption", "rotate")
    if settings.encryption_keys is not None:
        sys.stdout.write(f"{key}\n")
        tell(
            "Save it now: it is stored nowhere and cannot be shown again. Put it first in the list in "
            f"{SETTING}, restart every process, and run `{rotate_line}`. If several run at once, "
            "restart them all with it last in the list before: none may meet a key that it does not know."
        )
        return DONE
    with database(settings):  # makes the key file where there is none yet
        path = key_file(url_of(settings))
        add_key(path, key)
    sys.stdout.write(
        f"Key {key_id(*parse_keys(key)).hex()} is the first in {path} and seals from now on, in running "
        f"processes too. Back up the file, then run `{rotate_line}`.\n"
    )
    return DONE


def rotate(*, json: Json = False) -> int:
    """Re-encrypt everything that the first key has not sealed."""
    settings = load_settings()
    with database(settings) as opened:
        resealed = reseal(opened)
        first, *others = opened.sealer.key_ids
        sealed = count_sealed(opened.engine)
    unneeded = [name.hex() for name in others if name not in sealed]
    if json:
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
        sys.stdout.write(f"Re-encrypted with key {first.hex()}: {counted(resealed.values, 'value')}\n")
        if unneeded:
            sys.stdout.write(f"No longer needed: {', '.join(unneeded)}. {_ending(settings, unneeded)}\n")
    tell_rest(resealed)
    return NOTHING_FOUND if resealed.unopened or resealed.left else DONE


def _ending(settings: Settings, unneeded: list[str]) -> str:
    kept = "Keep a copy for as long as you keep older backups."
    if settings.encryption_keys is None:
        return f"In an hour, run `{command('keys', 'encryption', 'remove', *unneeded)}`. {kept}"
    return f"Remove it from {SETTING} after every process has been restarted with the new list. {kept}"


def tell_rest(resealed: Resealed) -> None:
    """Say on standard error what is not sealed with the first key."""
    for value in resealed.unopened:
        tell(f"Cannot be opened: {value.table} {value.id}, {value.field}: {value.fault}")
    if resealed.unopened:
        tell(
            f"{len(resealed.unopened)} values cannot be opened. If a key is missing, put it back. A damaged "
            "value is lost: delete the mailbox and import it again."
        )
    if resealed.left:
        tell(
            f"{resealed.left} values were in use all the time, or were sealed with an old key meanwhile: "
            "check that every process has the new list of keys, and rotate again."
        )


def remove(
    *ids: Annotated[str, Parameter(name="ID", help="Key ids, as `keys encryption list` shows them.")],
) -> int:
    """Remove keys that are no longer needed from the key file."""
    settings = load_settings()
    try:
        names = [bytes.fromhex(word) for word in ids]
    except ValueError:  # perhaps a key, so it is not quoted
        return wrong_usage("An id is eight hexadecimal digits.")
    if not names:
        return wrong_usage("Name the ids of the keys to remove.")
    if settings.encryption_keys is not None:
        tell(f"The keys are not in a key file: remove the key from {SETTING}.")
        return USAGE
    path = key_file(url_of(settings))
    with database(settings) as opened:
        try:
            remove_keys(path, opened.engine, names)
        except KeyNeededError as error:
            tell(f"Nothing was removed: {error}")
            return NOTHING_FOUND
    sys.stdout.write(f"Removed from {path}: {', '.join(name.hex() for name in names)}\n")
    return DONE
