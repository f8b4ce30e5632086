"""The current code of a mailbox's TOTP secret: `totp EMAIL`."""

from __future__ import annotations

import argparse
import sys
import time

from flows.managing.choosing import add_workspace, keys_of
from flows.managing.output import DONE, NOTHING_FOUND, USAGE, Areas, add_action, cell
from schemas.labels import counted
from schemas.sealing import UnsealError
from schemas.settings import Settings
from tasks.database import database
from tasks.lookup import find_record
from tasks.upkeep import open_totp


def add_arguments(areas: Areas) -> None:
    about = "Show the current code of a mailbox's TOTP secret, on a terminal only."
    parser = add_action(areas, "totp", about, print_code)
    parser.add_argument("email", metavar="EMAIL")
    add_workspace(parser)


def print_code(options: argparse.Namespace, settings: Settings) -> int:
    if not sys.stdout.isatty():
        sys.stderr.write("A code is shown on a terminal only: it shall not end up in a file or a log.\n")
        return USAGE
    (key,) = keys_of([options.email]).values()
    with database(settings) as opened:
        try:
            totp = open_totp(opened, options.workspace, key)
        except UnsealError as error:
            sys.stderr.write(f"The TOTP secret cannot be opened: {error}.\n")
            return USAGE
        stored = totp is not None or find_record(opened, options.workspace, key) is not None
    if totp is None:
        what = "has no TOTP secret" if stored else f"is not in workspace {options.workspace!r}"
        sys.stderr.write(f"{cell(options.email)} {what}.\n")
        return NOTHING_FOUND
    moment = int(time.time())
    seconds = totp.interval - moment % totp.interval
    sys.stdout.write(f"{totp.at(moment)}  valid for {counted(seconds, 'more second')}\n")
    return DONE
