"""Which mailboxes of a file a workspace has already, found without the import of SQLAlchemy where possible.

`check` needs this and nothing else of the database, and takes half a second.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from schemas.settings import Settings

EMBEDDED = "sqlite:///"
BUSY_SECONDS = 5


class UnreadableError(Exception):
    """The database cannot be read."""


def stored_keys(settings: Settings, workspace: str, keys: Sequence[str]) -> set[str]:
    """Return which of these email keys a workspace has. Nothing is created, upgraded or written.

    Args:
        keys: At most 500.

    Raises:
        UnreadableError: If the database exists and cannot be read.
    """
    address = settings.database_url.get_secret_value()
    if not address.startswith(EMBEDDED):
        return _of_server(settings, workspace, keys)
    file = Path(address.removeprefix(EMBEDDED).partition("?")[0])
    if not file.exists():
        return set()
    query = (
        "SELECT email_key FROM mailbox JOIN workspace ON workspace.id = workspace_id "  # noqa: S608  no values
        f"WHERE workspace.name = ? AND email_key IN ({','.join('?' * len(keys))})"
    )
    try:
        uri = f"{file.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as connection:
            return {key for (key,) in connection.execute(query, [workspace, *keys])}
    except sqlite3.Error:
        raise UnreadableError from None


def _of_server(settings: Settings, workspace: str, keys: Sequence[str]) -> set[str]:
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    from schemas.settings import SettingsError
    from schemas.tables import Mailbox, table_of
    from tasks.storage.database import for_reading, make_engine, url_of
    from tasks.storage.mailboxes import belongs_to

    column = table_of(Mailbox).c.email_key
    try:
        engine = make_engine(url_of(settings))
        try:
            with for_reading(engine).connect() as connection:
                query = column.in_(keys) & belongs_to(workspace, Mailbox)
                return set(connection.scalars(column.table.select().with_only_columns(column).where(query)))
        finally:
            engine.dispose()
    except (OSError, SettingsError, DBAPIError, SQLAlchemyError):
        raise UnreadableError from None
