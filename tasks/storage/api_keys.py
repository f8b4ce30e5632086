"""The keys of the HTTP API: make, find, list and revoke them.

A key is `sk_` (for one workspace) or `sk_user_` (for the platform) and 32 random bytes. Only its SHA-256 is
stored. A slow hash would add nothing: it protects passwords that can be guessed, and 256 random bits cannot.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pydantic import BaseModel
from sqlalchemy import Select, insert, or_, select, update
from sqlalchemy.exc import DBAPIError
from sqlmodel import col

from schemas.scopes import ALL_SCOPES, Scope, read_scopes, written
from schemas.tables import ApiKey, Workspace, now
from tasks.storage.database import Database, for_reading, is_unusable, through_restarts, workspace_id_of

WORKSPACE_KIND, PLATFORM_KIND = "sk_", "sk_user_"
KEY_BYTES = 32
VISIBLE = 8  # characters of the secret part; the other 35 are 210 bits
FORM = re.compile(rf"{WORKSPACE_KIND}(user_)?[A-Za-z0-9_-]{{43}}")  # 43 characters hold 32 bytes
NOTED_EVERY = timedelta(minutes=1)  # how precise `last_used_at` is


class Holder(NamedTuple):
    """The owner of the key that a request sent. `workspace` is None for a platform key."""

    key_id: int
    workspace: str | None
    scopes: frozenset[Scope] = ALL_SCOPES


class Listed(BaseModel):
    """A key as lists show it. `workspace` is None for a platform key."""

    prefix: str
    workspace: str | None
    name: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
    scopes: list[Scope]


def create_key(
    database: Database, workspace: str | None, name: str, scopes: Collection[Scope] = ALL_SCOPES
) -> str:
    """Make a key and return it. It cannot be shown again.

    Args:
        workspace: Its workspace, which is created if needed; None for a platform key.
        name: What people call the key.
        scopes: What the key may do.

    Raises:
        SimilarWorkspaceError: If the name of a new workspace differs from another only in case.
    """
    kind = PLATFORM_KIND if workspace is None else WORKSPACE_KIND
    key = kind + secrets.token_urlsafe(KEY_BYTES)
    with database.engine.begin() as connection:
        owner = None if workspace is None else workspace_id_of(connection, workspace)
        connection.execute(
            insert(ApiKey).values(
                workspace_id=owner,
                name=name,
                prefix=_visible(key),
                digest=digest_of(key),
                created_at=now(),
                scopes=written(scopes),
            )
        )
    return key


def list_keys(database: Database) -> list[Listed]:
    """List all keys, oldest first, revoked ones too."""
    query: Select[*tuple[Any, ...]] = (
        select(
            col(ApiKey.prefix),
            col(Workspace.name).label("workspace"),
            col(ApiKey.name),
            col(ApiKey.created_at),
            col(ApiKey.last_used_at),
            col(ApiKey.revoked_at),
            col(ApiKey.scopes),
        )
        .select_from(ApiKey)
        .outerjoin(Workspace, col(Workspace.id) == col(ApiKey.workspace_id))
        .order_by(col(ApiKey.id))
    )
    with for_reading(database.engine).connect() as connection:
        return [
            Listed(**{**row, "scopes": sorted(read_scopes(row["scopes"]), key=list(Scope).index)})
            for row in connection.execute(query).mappings()
        ]


def revoke_key(database: Database, prefix: str) -> bool:
    """Revoke a key. Returns False if no key has this prefix, or it is already revoked."""
    with database.engine.begin() as connection:
        revoked = connection.execute(
            update(ApiKey)
            .where(col(ApiKey.prefix) == prefix, col(ApiKey.revoked_at).is_(None))
            .values(revoked_at=now())
        )
        return bool(revoked.rowcount)


@through_restarts
def find_key(database: Database, presented: str) -> Holder | None:
    """Find the owner of a key; None if there is no such key, or it is revoked.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    query = (
        select(
            *(col(ApiKey.id), col(ApiKey.digest), col(ApiKey.last_used_at), col(ApiKey.scopes)),
            col(Workspace.name),
        )
        .select_from(ApiKey)
        .outerjoin(Workspace, col(Workspace.id) == col(ApiKey.workspace_id))
        .where(col(ApiKey.prefix) == _visible(presented), col(ApiKey.revoked_at).is_(None))
    )
    with for_reading(database.engine).connect() as connection:
        row = connection.execute(query).one_or_none()
    if row is None or not hmac.compare_digest(row.digest, digest_of(presented)):
        return None
    if row.last_used_at is None or row.last_used_at < now() - NOTED_EVERY:
        try:
            _note_use(database, row.id)
        except DBAPIError as error:
            if not is_unusable(error):  # a database that is full or read-only can still be read
                raise
    return Holder(row.id, row.name, read_scopes(row.scopes))


@through_restarts
def key_is_active(database: Database, key_id: int) -> bool:
    """Whether a key still works: it is there and not revoked.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    query = select(col(ApiKey.id)).where(col(ApiKey.id) == key_id, col(ApiKey.revoked_at).is_(None))
    with for_reading(database.engine).connect() as connection:
        return connection.scalar(query) is not None


def _note_use(database: Database, key_id: int) -> None:
    stale = or_(col(ApiKey.last_used_at).is_(None), col(ApiKey.last_used_at) < now() - NOTED_EVERY)
    with database.engine.begin() as connection:
        connection.execute(update(ApiKey).where(col(ApiKey.id) == key_id, stale).values(last_used_at=now()))


def _visible(key: str) -> str:
    kind = PLATFORM_KIND if key.startswith(PLATFORM_KIND) else WORKSPACE_KIND
    return key[: len(kind) + VISIBLE]


def has_form_of_key(presented: str) -> bool:
    """Whether a text can be a key. If not, it does not need a look-up."""
    return FORM.fullmatch(presented) is not None


def digest_of(key: str) -> bytes:
    """The digest of a key, as it is stored."""
    return hashlib.sha256(key.encode()).digest()
