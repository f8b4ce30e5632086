"""Step 4: store the import, its row errors and its mailboxes in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import uuid4

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy import Connection, insert, select, update
from sqlmodel import col

from schemas.prepare import Prepared
from schemas.providers import Endpoint, servers_for
from schemas.row_reasons import SkipReason
from schemas.sealing import Owner, Sealer
from schemas.settings import Settings
from schemas.standing import MailboxStatus, Needs
from schemas.summary import MAX_ROWS_STORED, NOTE, Result, Summary, summarize
from schemas.tables import Import, ImportRow, Mailbox, now
from schemas.verdicts import Target
from tasks.crash import unquoted
from tasks.storage.database import Database, insert_for, through_restarts, workspace_id_of
from tasks.storage.mailboxes import Filters, choose_mailboxes
from tasks.storage.updates import Known, replace_passwords, would_replace

NOT_TESTED = "Not tested: imported without a connection test."


class Origin(NamedTuple):
    """Where an import comes from, and whether its mailboxes are tested right away.

    Attributes:
        file_name: The name of the file, without its folder.
        workspace: The workspace that gets the mailboxes.
        tag: The tag of all new mailboxes.
        test: Whether the run that stores the mailboxes also tests them.
        idempotency_key: The caller's key for this import; each workspace can use a key once. If None, `store`
            makes a random one, which identifies the import if the connection is lost.
        fingerprint: The sealed digest of the request that used the key.
        needs: What the mailboxes are needed for; None for the default of the settings.
        update: Whether to replace the passwords of mailboxes that the workspace has already.
    """

    file_name: str
    workspace: str
    tag: str | None
    test: bool
    idempotency_key: str | None = None
    fingerprint: bytes | None = None
    needs: Needs | None = None
    update: bool = False


class KeyTakenError(Exception):
    """Another import of the workspace already used this idempotency key."""


@dataclass(frozen=True)
class Stored:
    """A stored import: the result of each row, and the new mailboxes to test."""

    import_id: int
    summary: Summary
    targets: tuple[Target, ...]


@task(persist_result=False, cache_policy=NO_CACHE)
def store(prepared: Prepared, origin: Origin, database: Database, settings: Settings) -> Stored:
    """Seal the secrets and store the mailboxes.

    A mailbox that the workspace already has stays as it is, unless the import updates.

    Of the failed rows and of the repeated ones, the first 1,000 each are stored. The counts are those of all.

    Raises:
        KeyTakenError: If another import already used the idempotency key. Nothing is stored.
        SimilarWorkspaceError: If the name of a new workspace differs from another only in case. Nothing is
            stored.
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    if origin.idempotency_key is None:
        origin = origin._replace(idempotency_key=str(uuid4()))
    kept = seal(prepared.kept, origin.workspace, database.sealer)
    needs = origin.needs or settings.needs
    candidates = [_candidate(row, settings, needs, test=origin.test) for row in kept.iter_rows(named=True)]
    import_id, summary, due = _store_once(database, candidates, prepared, origin)
    targets = tuple(
        Target(
            due[candidate["email_key"]],
            Endpoint(candidate["smtp_host"], candidate["smtp_port"]),
            Endpoint(candidate["imap_host"], candidate["imap_port"]),
        )
        for candidate in candidates
        if candidate["email_key"] in due
    )
    return Stored(import_id, summary, targets)


@through_restarts
def would_store(database: Database, prepared: Prepared, origin: Origin) -> Summary:
    """Find the result that each row would have if it were stored now. Nothing is stored.

    Raises:
        DatabaseLostError: If the database goes away and does not come back in time.
    """
    keys = set(prepared.kept["email_key"])
    if origin.update:
        known = would_replace(database, origin.workspace, prepared)
        old = set(known)
    else:
        known = None
        old = set(choose_mailboxes(database, origin.workspace, Filters(), keys).values()) if keys else set()
    return summarize(prepared, origin.file_name, origin.workspace, origin.tag, keys - old, None, known)


@unquoted()
def seal(kept: pl.DataFrame, workspace: str, sealer: Sealer) -> pl.DataFrame:
    """Seal the secrets of the rows.

    Args:
        kept: Valid rows with the columns `email_key`, `password` and `totp` (all String) among others.

    Returns:
        The same frame, with `password` and `totp` as Binary.
    """

    def sealed(field: str) -> pl.Series:
        values = [
            None if secret is None else sealer.seal(secret, Owner(workspace, key, field))
            for key, secret in kept.select("email_key", field).iter_rows()
        ]
        return pl.Series(field, values, dtype=pl.Binary)

    return kept.with_columns(sealed("password"), sealed("totp"))


@through_restarts
def _store_once(
    database: Database,
    candidates: list[dict[str, Any]],
    prepared: Prepared,
    origin: Origin,
) -> tuple[int, Summary, dict[str, int]]:
    """Store an import, or find it if it was stored and the connection was lost before the answer.

    Args:
        candidates: A mailbox for each row that was kept.

    Returns:
        The import's id, the result of each row, and email key → mailbox id of what there is to test.
    """
    with database.engine.begin() as connection:
        workspace_id = workspace_id_of(connection, origin.workspace)
        import_id = connection.scalar(
            insert_for(connection, Import)
            .values(
                workspace_id=workspace_id,
                file_name=origin.file_name[:255],
                tag=origin.tag,
                imported=0,
                skipped=0,
                failed=len(prepared.errors),
                created_at=now(),
                idempotency_key=origin.idempotency_key,
                fingerprint=origin.fingerprint,
            )
            .on_conflict_do_nothing(index_elements=["workspace_id", "idempotency_key"])
            .returning(col(Import.id))
        )
        if import_id is None:
            return _told(prepared, origin, *_stored_before(connection, workspace_id, origin))
        shared = {"workspace_id": workspace_id, "import_id": import_id, "tag": origin.tag}
        ids = _insert_new(connection, [candidate | shared for candidate in candidates])
        known: dict[str, Known] = {}
        if origin.update:
            old = [candidate for candidate in candidates if candidate["email_key"] not in ids]
            passwords = dict(prepared.kept.select("email_key", "password").iter_rows())
            known = replace_passwords(
                connection, workspace_id, origin.workspace, old, passwords, database.sealer
            )
        _, summary, due = _told(prepared, origin, import_id, ids, known)
        counts = {"imported": summary.imported, "updated": summary.updated, "skipped": summary.skipped}
        connection.execute(update(Import).where(col(Import.id) == import_id).values(counts))
        if rows := list(_rows(prepared, summary)):
            connection.execute(insert(ImportRow), [{"import_id": import_id, **row} for row in rows])
        return import_id, summary, due


def _told(
    prepared: Prepared, origin: Origin, import_id: int, new: dict[str, int], known: Mapping[str, Known]
) -> tuple[int, Summary, dict[str, int]]:
    """What `_store_once` returns.

    Args:
        new: Email key → mailbox id of the new mailboxes.
        known: The mailboxes that the workspace had, for an import that updates.
    """
    stored = {key: one.reason for key, one in known.items()} if origin.update else None
    summary = summarize(prepared, origin.file_name, origin.workspace, origin.tag, new, import_id, stored)
    updated = {key: one.mailbox_id for key, one in known.items() if one.reason is None}
    return import_id, summary, new | updated


def _rows(prepared: Prepared, summary: Summary) -> Iterator[dict[str, Any]]:
    """The rows to store, each with the same columns: those of mailboxes, and the first of the others."""
    keys = dict(prepared.kept.select("line", "email_key").iter_rows())
    others: Counter[Result] = Counter()
    if prepared.notes:
        yield _row(prepared.header_line, NOTE, warning="\n".join(prepared.notes))
    for row in summary.outcomes:
        others[row.result] += row.line not in keys
        if row.line in keys or others[row.result] <= MAX_ROWS_STORED:
            yield _row(row.line, row.result, row.email[:254], row.code, keys.get(row.line), row.warning)


def _row(
    line: int, result: str, email: str = "", reason: str = "", key: str | None = None, warning: str = ""
) -> dict[str, Any]:
    return {
        "line": line,
        "email": email,
        "result": result,
        "reason": reason,
        "email_key": key,
        "warning": warning,
    }


def _stored_before(
    connection: Connection, workspace_id: int, origin: Origin
) -> tuple[int, dict[str, int], dict[str, Known]]:
    """Return what `_store_once` returned when it stored this same import.

    Each request seals its fingerprint with a new nonce, so two requests never have the same one.

    Raises:
        KeyTakenError: If another import used the key.
    """
    import_id = connection.scalar(
        select(col(Import.id)).where(
            col(Import.workspace_id) == workspace_id,
            col(Import.idempotency_key) == origin.idempotency_key,
            col(Import.fingerprint) == origin.fingerprint,
        )
    )
    if import_id is None:
        raise KeyTakenError
    query = select(col(Mailbox.email_key), col(Mailbox.id)).where(col(Mailbox.import_id) == import_id)
    new = {row.email_key: row.id for row in connection.execute(query)}
    rows = (
        select(col(ImportRow.email_key), col(ImportRow.reason), col(Mailbox.id))
        .join(Mailbox, col(Mailbox.email_key) == col(ImportRow.email_key))
        .where(col(ImportRow.import_id) == import_id, col(Mailbox.workspace_id) == workspace_id)
    )
    known = {
        row.email_key: Known(row.id, SkipReason(row.reason) if row.reason else None)
        for row in connection.execute(rows)
        if row.email_key not in new
    }
    return import_id, new, known


def _candidate(row: dict[str, Any], settings: Settings, needs: Needs, *, test: bool) -> dict[str, Any]:
    servers = servers_for(row["email_key"], settings.overrides)
    return {
        **{column: row[column] for column in ("email", "email_key", "name", "password", "totp", "login")},
        "warning": row["password_warning"],
        "smtp_host": servers.smtp.host,
        "smtp_port": servers.smtp.port,
        "imap_host": servers.imap.host,
        "imap_port": servers.imap.port,
        "status": MailboxStatus.PENDING,
        "diagnosis": "" if test else NOT_TESTED,
        "needs": needs,
        "attempts": 0,
        "created_at": now(),
        # This run tests the mailbox now. If the run is killed after the commit, a retest finds it due.
        "next_attempt_at": now() + settings.claim_lease if test else None,
    }


def _insert_new(connection: Connection, candidates: list[dict[str, Any]]) -> dict[str, int]:
    """Insert the mailboxes that the workspace does not have; return email key → mailbox id of those."""
    if not candidates:
        return {}
    # All imports insert in the same order: two that overlap wait for each other and never deadlock.
    ordered = sorted(candidates, key=lambda candidate: str(candidate["email_key"]))
    statement = (
        insert_for(connection, Mailbox)
        .on_conflict_do_nothing()
        .returning(col(Mailbox.email_key), col(Mailbox.id))
    )
    return {row.email_key: row.id for row in connection.execute(statement, ordered)}
