"""Step 4: the batch, its errors and its mailboxes are stored in one transaction, or nothing is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import uuid4

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy import Connection, Table, insert, select

from schemas.prepare import Prepared
from schemas.providers import Endpoint, servers_for
from schemas.rows import RowError
from schemas.sealing import Owner, Sealer
from schemas.settings import Settings
from schemas.summary import Summary, summarize
from schemas.tables import BatchRowError, ImportBatch, Mailbox, columns_of, now
from schemas.verdicts import MailboxStatus, Target
from tasks.crash import unquoted
from tasks.storage.database import Database, insert_for, through_restarts, workspace_id_of

NOT_TESTED = "Not tested: imported without a connection test."


class Origin(NamedTuple):
    """Where a batch comes from, and whether its mailboxes are due for a test at once.

    A workspace takes an idempotency key once: a second batch with it raises `KeyTakenError`. Where the caller
    has none, `store` makes one up: by it a batch is known again.
    """

    file_name: str
    workspace: str
    tag: str | None
    test: bool
    idempotency_key: str | None = None
    fingerprint: bytes | None = None


class KeyTakenError(Exception):
    """Another import has the idempotency key."""


@dataclass(frozen=True)
class Stored:
    """A stored import: what became of each row, and the new mailboxes, which are to be tested."""

    import_id: int
    summary: Summary
    targets: tuple[Target, ...]


@task(persist_result=False, cache_policy=NO_CACHE)
def store(prepared: Prepared, origin: Origin, database: Database, settings: Settings) -> Stored:
    """Seal the secrets and store the mailboxes; one that the workspace has already is left as it is."""
    if origin.idempotency_key is None:
        origin = origin._replace(idempotency_key=str(uuid4()))
    kept = seal(prepared.kept, origin.workspace, database.sealer)
    candidates = [_candidate(row, settings, test=origin.test) for row in kept.iter_rows(named=True)]
    import_id, ids = _store_once(database, candidates, len(prepared.duplicates), prepared.errors, origin)
    summary = summarize(prepared, origin.file_name, origin.workspace, origin.tag, ids, import_id)
    targets = tuple(
        Target(
            ids[candidate["email_key"]],
            Endpoint(candidate["smtp_host"], candidate["smtp_port"]),
            Endpoint(candidate["imap_host"], candidate["imap_port"]),
        )
        for candidate in candidates
        if candidate["email_key"] in ids
    )
    return Stored(import_id, summary, targets)


@unquoted()
def seal(kept: pl.DataFrame, workspace: str, sealer: Sealer) -> pl.DataFrame:
    """Seal the secrets of the rows: `password` and `totp` (String) become Binary."""

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
    repeated: int,
    errors: Sequence[RowError],
    origin: Origin,
) -> tuple[int, dict[str, int]]:
    """Store a batch, or find it where it was stored already and the connection lost before the answer.

    Args:
        repeated: How many rows of the file were left out for an earlier one of the same mailbox.

    Returns:
        The batch's id; email key → mailbox id of those that are new.
    """
    mailbox, batch = columns_of(Mailbox), columns_of(ImportBatch)
    with database.engine.begin() as connection:
        workspace_id = workspace_id_of(connection, origin.workspace)
        batch_id = connection.scalar(
            insert_for(connection, batch)
            .values(
                workspace_id=workspace_id,
                file_name=origin.file_name[:255],
                tag=origin.tag,
                imported=0,
                skipped=0,
                failed=len(errors),
                created_at=now(),
                idempotency_key=origin.idempotency_key,
                fingerprint=origin.fingerprint,
            )
            .on_conflict_do_nothing(index_elements=["workspace_id", "idempotency_key"])
            .returning(batch.c.id)
        )
        if batch_id is None:
            return _stored_before(connection, workspace_id, origin)
        shared = {"workspace_id": workspace_id, "batch_id": batch_id, "tag": origin.tag}
        ids = _insert_new(connection, mailbox, [candidate | shared for candidate in candidates])
        skipped = len(candidates) - len(ids) + repeated
        connection.execute(
            batch.update().where(batch.c.id == batch_id).values(imported=len(ids), skipped=skipped)
        )
        if errors:
            rows = [{"batch_id": batch_id, **error._asdict()} for error in errors]
            connection.execute(insert(columns_of(BatchRowError)), rows)
        return batch_id, ids


def _stored_before(connection: Connection, workspace_id: int, origin: Origin) -> tuple[int, dict[str, int]]:
    """What `_store_once` returned when it stored this very batch.

    A fingerprint is sealed anew for every request, so that no two have the same one.
    """
    mailbox, batch = columns_of(Mailbox), columns_of(ImportBatch)
    batch_id = connection.scalar(
        select(batch.c.id).where(
            batch.c.workspace_id == workspace_id,
            batch.c.idempotency_key == origin.idempotency_key,
            batch.c.fingerprint == origin.fingerprint,
        )
    )
    if batch_id is None:
        raise KeyTakenError
    rows = connection.execute(select(mailbox.c.email_key, mailbox.c.id).where(mailbox.c.batch_id == batch_id))
    return batch_id, {row.email_key: row.id for row in rows}


def _candidate(row: dict[str, Any], settings: Settings, *, test: bool) -> dict[str, Any]:
    servers = servers_for(row["email_key"], settings.overrides)
    return {
        **{column: row[column] for column in ("email", "email_key", "name", "password", "totp")},
        "smtp_host": servers.smtp.host,
        "smtp_port": servers.smtp.port,
        "imap_host": servers.imap.host,
        "imap_port": servers.imap.port,
        "status": MailboxStatus.PENDING,
        "diagnosis": "" if test else NOT_TESTED,
        "attempts": 0,
        "created_at": now(),
        # This run tests it now; if the run is killed behind the commit, the mailbox comes due for a retest.
        "next_attempt_at": now() + settings.claim_lease if test else None,
    }


def _insert_new(connection: Connection, mailbox: Table, candidates: list[dict[str, Any]]) -> dict[str, int]:
    """Insert what is not there yet; returns email key → mailbox id of the new ones."""
    if not candidates:
        return {}
    # In one order for everybody: two imports that overlap wait for each other and never deadlock.
    ordered = sorted(candidates, key=lambda candidate: str(candidate["email_key"]))
    statement = (
        insert_for(connection, mailbox).on_conflict_do_nothing().returning(mailbox.c.email_key, mailbox.c.id)
    )
    return {row.email_key: row.id for row in connection.execute(statement, ordered)}
