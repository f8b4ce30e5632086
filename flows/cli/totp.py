"""`totp`: the current code of a mailbox's TOTP secret."""

from __future__ import annotations

import sys
import time

from flows.cli.exit_codes import DONE, NOTHING_FOUND
from flows.cli.options import Email, Workspace
from flows.cli.output import cell, tell, wrong_usage
from flows.cli.selection import keys_of
from schemas.labels import DEFAULT_WORKSPACE, counted
from schemas.sealing import UnsealError
from tasks.configuration import load_settings
from tasks.storage.database import database
from tasks.storage.mailbox_changes import open_totp
from tasks.storage.mailboxes import find_record


def totp(email: Email, /, *, workspace: Workspace = DEFAULT_WORKSPACE) -> int:
    """Show the current code of a mailbox's TOTP secret, on a terminal only."""
    settings = load_settings()
    if not sys.stdout.isatty():
        return wrong_usage("A code is shown on a terminal only, so that it ends up in no file and no log.")
    (key,) = keys_of([email]).values()
    with database(settings) as opened:
        try:
            secret = open_totp(opened, workspace, key)
        except UnsealError as error:
            return wrong_usage(f"The TOTP secret cannot be opened: {error}.")
        stored = secret is not None or find_record(opened, workspace, key) is not None
    if secret is None:
        what = "has no TOTP secret" if stored else f"is not in workspace {workspace!r}"
        tell(f"{cell(email)} {what}.")
        return NOTHING_FOUND
    moment = int(time.time())
    seconds = secret.interval - moment % secret.interval
    sys.stdout.write(f"{secret.at(moment)}  valid for {counted(seconds, 'more second')}\n")
    return DONE
