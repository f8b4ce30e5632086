"""Step 4: the batch, its errors and its mailboxes are stored in one transaction, or nothing is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy import Connection, Table, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from schemas.providers import Endpoint, servers_for
from schemas.rows import Duplicate
from schemas.settings import Settings
from schemas.summary import Summary, outcomes_of
from schemas.tables import BatchRowError, ImportBatch, Mailbox, Workspace, columns_of, now
from schemas.verdicts import MailboxStatus, Target
from tasks.database import Database
from tasks.validate import Validated

NOT_TESTED = "Not tested: imported without a connection test."


class Origin(NamedTuple):
    """Where a batch comes from, and whether its mailboxes are due for a test at once.

    A workspace takes an idempotency key once: a second batch with it raises `IntegrityError`.
    """

    file_name: str
    workspace: str
    tag: str | None
    test: bool
    idempotency_key: str | None = None
    fingerprint: bytes | None = None


@dataclass(frozen=True)
class Stored:
    """A stored batch: what became of each row, and the new mailboxes, which are to be tested."""

    summary: Summary
    targets: tuple[Target, ...]


@task(persist_result=False, cache_policy=NO_CACHE)
def store(
    kept: pl.DataFrame,
    duplicates: tuple[Duplicate, ...],
    validated: Validated,
    origin: Origin,
    database: Database,
    settings: Settings,
) -> Stored:
    """Store the kept rows of a file; a mailbox that the workspace has already is left as it is.

    Args:
        kept: The rows that are to become mailboxes, with the columns of `Validated.valid`.
    """
    mailbox = columns_of(Mailbox)
    batch = columns_of(ImportBatch)
    with database.engine.begin() as connection:
        workspace_id = workspace_id_of(connection, origin.workspace)
        batch_id = connection.scalars(
            insert(batch)
            .values(
                workspace_id=workspace_id,
                file_name=origin.file_name[:255],
                tag=origin.tag,
                imported=0,
                skipped=0,
                failed=len(validated.errors),
                created_at=now(),
                idempotency_key=origin.idempotency_key,
                fingerprint=origin.fingerprint,
            )
            .returning(batch.c.id)
        ).one()
        shared = {"workspace_id": workspace_id, "batch_id": batch_id, "tag": origin.tag}
        candidates = [
            _candidate(row, settings, test=origin.test) | shared for row in kept.iter_rows(named=True)
        ]
        ids = _insert_new(connection, mailbox, candidates)
        summary = _summary(kept, ids, duplicates, validated, origin, batch_id)
        connection.execute(
            batch.update()
            .where(batch.c.id == batch_id)
            .values(imported=summary.imported, skipped=summary.skipped)
        )
        if validated.errors:
            errors = [{"batch_id": batch_id, **error._asdict()} for error in validated.errors]
            connection.execute(insert(columns_of(BatchRowError)), errors)
    targets = tuple(
        Target(
            ids[candidate["email_key"]],
            Endpoint(candidate["smtp_host"], candidate["smtp_port"]),
            Endpoint(candidate["imap_host"], candidate["imap_port"]),
        )
        for candidate in candidates
        if candidate["email_key"] in ids
    )
    return Stored(summary, targets)


def insert_for(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that knows ON CONFLICT, in the dialect of the database."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def workspace_id_of(connection: Connection, name: str) -> int:
    """The workspace of that name, made where it does not exist."""
    table = columns_of(Workspace)
    connection.execute(
        insert_for(connection, table).values(name=name, created_at=now()).on_conflict_do_nothing()
    )
    return int(connection.execute(select(table.c.id).where(table.c.name == name)).scalar_one())


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


def _summary(
    kept: pl.DataFrame,
    ids: dict[str, int],
    duplicates: tuple[Duplicate, ...],
    validated: Validated,
    origin: Origin,
    batch_id: int,
) -> Summary:
    is_new = pl.col("email_key").is_in(list(ids))
    return Summary(
        file=origin.file_name,
        workspace=origin.workspace,
        tag=origin.tag,
        outcomes=outcomes_of(
            kept.filter(is_new).select("line", "email", "warning").iter_rows(),
            kept.filter(~is_new).select("line", "email").iter_rows(),
            duplicates,
            validated.errors,
        ),
        errors=validated.errors,
        ignored=validated.ignored,
        batch_id=batch_id,
    )
