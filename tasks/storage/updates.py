"""Replace the passwords of stored mailboxes. Ids, tags and history stay."""

from __future__ import annotations

import csv
import hmac
import io
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, RowMapping, bindparam, select, update
from sqlmodel import col

from schemas.classify import CREDENTIALS_REJECTED
from schemas.reasons import Protocol
from schemas.refusals import Refusal
from schemas.row_reasons import SkipReason
from schemas.sealing import Owner, Sealer, UnsealError
from schemas.standing import MailboxStatus
from schemas.tables import Mailbox, now, table_of
from tasks.crash import unquoted
from tasks.storage.database import (
    Database,
    NoSuchWorkspaceError,
    SimilarWorkspaceError,
    for_reading,
    through_restarts,
    workspace_id_of,
)
from tasks.storage.mailboxes import in_parts, nothing_known, standings_of

if TYPE_CHECKING:
    from schemas.prepare import Prepared


class Known(NamedTuple):
    """A mailbox that the workspace has, and why its row is skipped; None if it is updated."""

    mailbox_id: int
    reason: SkipReason | None


def replace_passwords(
    connection: Connection,
    workspace_id: int,
    workspace: str,
    candidates: Sequence[Mapping[str, Any]],
    passwords: Mapping[str, str],
    sealer: Sealer,
) -> dict[str, Known]:
    """Give stored mailboxes their new passwords, and make them due.

    A run that is testing one with its old password loses its claim, so that its verdict is not stored. What a
    cell leaves empty (name, TOTP secret, sign-in name) stays. The old password is kept until the new one has
    a verdict.

    Args:
        candidates: The new values by column: sealed secrets, and `next_attempt_at` or None.
        passwords: Email key → new password.

    Returns:
        Email key → the mailbox, for all that the workspace has.
    """
    given = {str(candidate["email_key"]): candidate for candidate in candidates}
    found = _find(connection, workspace_id, given, lock=True)
    with unquoted():  # not around the statements: a lost database has to be recognised
        opened = {key: _open(row, workspace, sealer) for key, row in found.items()}
        known = {
            key: Known(row["id"], _unchanged(row, opened[key], passwords[key])) for key, row in found.items()
        }
        changes = []
        for key, one in known.items():
            if one.reason is None:
                old, owner = opened[key], Owner(workspace, key, "old_password")
                sealed = None if old is None else sealer.seal(old, owner)
                changes.append(_changes(found[key], given[key], sealed))
    if changes:
        columns = [name for name in changes[0] if name != "mailbox_id"]
        connection.execute(
            update(Mailbox)
            .where(col(Mailbox.id) == bindparam("mailbox_id"))
            .values({name.removeprefix("new_"): bindparam(name) for name in columns}),
            changes,
        )
    return known


def check_password(email: str, password: str) -> tuple[str, str] | str:
    """Check a password by the rules for a row.

    Returns:
        The cleaned password and its warning, or why it is no password.
    """
    from schemas.prepare import prepare_rows  # imports Polars, which other commands do not need

    file = io.StringIO(newline="")
    csv.writer(file).writerows([("email", "password"), (email, password)])
    domain = email.rpartition("@")[2].casefold()
    prepared = prepare_rows(file.getvalue().encode(), served={domain})
    if isinstance(prepared, Refusal):
        return prepared.message
    if prepared.errors:
        return prepared.errors[0].message
    cleaned, warning = prepared.kept.select("password", "password_warning").row(0)
    return cleaned, warning


@through_restarts
def replace_one(database: Database, workspace: str, key: str, password: tuple[str, str]) -> Known | None:
    """Give one mailbox a new password; None if the workspace has no such mailbox.

    Args:
        password: The password and its warning, as `check_password` returns them.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    text, warning = password
    candidate = {
        "email_key": key,
        "name": None,
        "totp": None,
        "login": None,
        "password": database.sealer.seal(text, Owner(workspace, key, "password")),
        "warning": warning,
        "diagnosis": "",
        "next_attempt_at": now(),
    }
    with database.engine.begin() as connection:
        try:
            workspace_id = workspace_id_of(connection, workspace, create=False)
        except (NoSuchWorkspaceError, SimilarWorkspaceError):
            return None
        return replace_passwords(
            connection, workspace_id, workspace, [candidate], {key: text}, database.sealer
        ).get(key)


def would_replace(database: Database, workspace: str, prepared: Prepared) -> dict[str, SkipReason | None]:
    """Find out what an update would do, without a change.

    Returns:
        Email key of each mailbox that the workspace has → why its row would be skipped, or None.
    """
    passwords = dict(prepared.kept.select("email_key", "password").iter_rows())
    with for_reading(database.engine).connect() as connection:
        try:
            workspace_id = workspace_id_of(connection, workspace, create=False)
        except (NoSuchWorkspaceError, SimilarWorkspaceError):
            return {}
        found = _find(connection, workspace_id, passwords)
    return {
        key: _unchanged(row, _open(row, workspace, database.sealer), passwords[key])
        for key, row in found.items()
    }


def _find(
    connection: Connection, workspace_id: int, keys: Collection[str], *, lock: bool = False
) -> dict[str, RowMapping]:
    """The stored mailboxes with these email keys.

    Args:
        lock: Whether to lock them, in the order in which all imports lock.
    """
    found: dict[str, RowMapping] = {}
    for part in in_parts(sorted(keys)):
        query = (
            select(table_of(Mailbox))
            .where(col(Mailbox.workspace_id) == workspace_id, col(Mailbox.email_key).in_(part))
            .order_by(col(Mailbox.email_key))
        )
        rows = connection.execute(query.with_for_update() if lock else query).mappings()
        found |= {row["email_key"]: row for row in rows}
    return found


def _unchanged(row: RowMapping, stored: str | None, password: str) -> SkipReason | None:
    """Why a row is skipped: its password is the stored one. None if it is another."""
    if stored is None or not hmac.compare_digest(stored.encode(), password.encode()):
        return None
    reasons = {one.reason for one in standings_of(row).values()}
    return SkipReason.REFUSED_BEFORE if reasons & CREDENTIALS_REJECTED else SkipReason.UNCHANGED


def _open(row: RowMapping, workspace: str, sealer: Sealer) -> str | None:
    try:
        return sealer.open(row["password"], Owner(workspace, row["email_key"], "password"))
    except UnsealError:  # its key is gone, so the new password can only be an improvement
        return None


def _changes(row: RowMapping, given: Mapping[str, Any], old_password: bytes | None) -> dict[str, Any]:
    kept = {name: given[name] if given[name] is not None else row[name] for name in ("name", "totp", "login")}
    fresh = {
        **kept,
        "password": given["password"],
        "old_password": old_password,
        "warning": given["warning"],
        "status": MailboxStatus.PENDING,
        "diagnosis": given["diagnosis"],
        "next_attempt_at": now() if given["next_attempt_at"] is not None else None,
        "claimed_until": None,
    }
    for protocol in Protocol:
        fresh |= nothing_known(protocol)
    return {"mailbox_id": row["id"], **{f"new_{name}": value for name, value in fresh.items()}}
