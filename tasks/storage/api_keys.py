"""The keys of the HTTP API: made, found, listed and revoked.

A key is 32 random bytes behind `sk_` (of one workspace) or `sk_user_` (of the platform). Only its SHA-256 is
stored: a slow hash protects what people think up, and 256 random bits cannot be tried out anyway.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from typing import NamedTuple

from pydantic import BaseModel
from sqlalchemy import or_, select

from schemas.tables import ApiKey, Workspace, columns_of, now
from tasks.storage.database import Database, for_reading, through_restarts, workspace_id_of

WORKSPACE_KIND, PLATFORM_KIND = "sk_", "sk_user_"
KEY_BYTES = 32
VISIBLE = 8  # characters of the secret part; the 35 others are 210 bits
LONGEST = 100
NOTED_EVERY = timedelta(minutes=1)


class Holder(NamedTuple):
    """Whose key a request came with; `workspace` is None for a platform key."""

    key_id: int
    workspace: str | None


class Listed(BaseModel):
    """A key as it is shown; `workspace` is None for a platform key."""

    prefix: str
    workspace: str | None
    name: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


def create_key(database: Database, workspace: str | None, name: str) -> str:
    """Make a key for a workspace, or for the platform, and return it: it cannot be shown again."""
    kind = PLATFORM_KIND if workspace is None else WORKSPACE_KIND
    key = kind + secrets.token_urlsafe(KEY_BYTES)
    with database.engine.begin() as connection:
        owner = None if workspace is None else workspace_id_of(connection, workspace)
        connection.execute(
            columns_of(ApiKey)
            .insert()
            .values(
                workspace_id=owner,
                name=name,
                prefix=_visible(key),
                digest=_digest(key),
                created_at=now(),
            )
        )
    return key


def list_keys(database: Database) -> list[Listed]:
    key, owner = columns_of(ApiKey), columns_of(Workspace)
    query = (
        select(
            *(key.c.prefix, owner.c.name.label("workspace"), key.c.name),
            *(key.c.created_at, key.c.last_used_at, key.c.revoked_at),
        )
        .select_from(key.outerjoin(owner, owner.c.id == key.c.workspace_id))
        .order_by(key.c.id)
    )
    with for_reading(database.engine).connect() as connection:
        return [Listed.model_validate(row) for row in connection.execute(query).mappings()]


def revoke_key(database: Database, prefix: str) -> bool:
    """Refuse a key from now on; False when there is none that begins so, or it was revoked before."""
    key = columns_of(ApiKey)
    with database.engine.begin() as connection:
        revoked = connection.execute(
            key.update().where(key.c.prefix == prefix, key.c.revoked_at.is_(None)).values(revoked_at=now())
        )
        return bool(revoked.rowcount)


@through_restarts
def find_key(database: Database, presented: str) -> Holder | None:
    """Whose key that is; None when it is nobody's, or revoked."""
    if not presented.startswith(WORKSPACE_KIND) or len(presented) > LONGEST:
        return None
    key, owner = columns_of(ApiKey), columns_of(Workspace)
    query = (
        select(key.c.id, key.c.digest, key.c.last_used_at, owner.c.name)
        .select_from(key.outerjoin(owner, owner.c.id == key.c.workspace_id))
        .where(key.c.prefix == _visible(presented), key.c.revoked_at.is_(None))
    )
    with for_reading(database.engine).connect() as connection:
        row = connection.execute(query).one_or_none()
    if row is None or not hmac.compare_digest(row.digest, _digest(presented)):
        return None
    if row.last_used_at is None or row.last_used_at < now() - NOTED_EVERY:
        _note_use(database, row.id)
    return Holder(row.id, row.name)


def _note_use(database: Database, key_id: int) -> None:
    key = columns_of(ApiKey)
    stale = or_(key.c.last_used_at.is_(None), key.c.last_used_at < now() - NOTED_EVERY)
    with database.engine.begin() as connection:
        connection.execute(key.update().where(key.c.id == key_id, stale).values(last_used_at=now()))


def _visible(key: str) -> str:
    kind = PLATFORM_KIND if key.startswith(PLATFORM_KIND) else WORKSPACE_KIND
    return key[: len(kind) + VISIBLE]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
