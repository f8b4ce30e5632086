"""Links that sign in to the page on this machine, each once: made by a command, used by the server.

Whoever can write the file next to the database's key can read the key too, so the link proves no less than a
key. The file holds only the digest of the token.
"""

from __future__ import annotations

import hmac
import json
import secrets
from datetime import datetime, timedelta
from pathlib import Path

from schemas.settings import Settings, SettingsError
from schemas.tables import now
from tasks.files.private_files import read_secret_file, write_privately
from tasks.storage.api_keys import digest_of
from tasks.storage.database import database_file, url_of

LIFE = timedelta(minutes=10)


def link_file(settings: Settings) -> Path | None:
    """The file that holds the last link; None if the database is on a server, which is not this machine's."""
    file = database_file(url_of(settings))
    return None if file is None else file.with_name(f"{file.name}.page-link")


def make_link(settings: Settings, workspace: str) -> str | None:
    """Make a token that opens a workspace once within ten minutes. An earlier one is worth nothing from then.

    Returns:
        The token; None if the database is on a server.

    Raises:
        OSError: If its file cannot be written.
    """
    file = link_file(settings)
    if file is None:
        return None
    token = secrets.token_urlsafe(32)
    held = {"digest": digest_of(token).hex(), "workspace": workspace, "ends": (now() + LIFE).isoformat()}
    write_privately(file, json.dumps(held).encode())
    return token


def use_link(settings: Settings, token: str) -> str | None:
    """The workspace that a token opens; None if it is wrong, used or too old. It is used up."""
    file = link_file(settings)
    try:
        held = json.loads(read_secret_file(file)) if file is not None else {}
        right = hmac.compare_digest(str(held["digest"]), digest_of(token).hex())
        left = datetime.fromisoformat(held["ends"]) - now()
        if file is None or not right or not timedelta() <= left <= LIFE:
            return None
        file.unlink()  # of two that come at once, only one can do this
        return str(held["workspace"])
    except (OSError, ValueError, KeyError, TypeError, SettingsError):
        return None
