"""The tables. Timestamps are aware UTC; secrets are sealed bytes that `repr` leaves out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Index, Integer, MetaData, Text, UniqueConstraint
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

from schemas.verdicts import MailboxStatus

# Without names of their own, constraints cannot be altered on SQLite.
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

# SQLite numbers rows by itself only where the key is an INTEGER.
Key = BigInteger().with_variant(Integer(), "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime; SQLite, which keeps no zone, gets and gives it as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def now() -> datetime:
    return datetime.now(UTC)


class Table(SQLModel):
    metadata = MetaData(naming_convention=NAMING)


class Workspace(Table, table=True):
    """Whoever mailboxes belong to; nothing of one workspace is seen from another."""

    __tablename__ = "workspace"

    id: int | None = Field(default=None, primary_key=True, sa_type=Key)
    name: str = Field(max_length=100, unique=True)
    created_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)


class ApiKey(Table, table=True):
    """A key of the HTTP API: its digest, and the beginning of it for people to know it by.

    `workspace_id` is None for a platform key, which names its workspace with each request.
    """

    __tablename__ = "api_key"

    id: int | None = Field(default=None, primary_key=True, sa_type=Key)
    workspace_id: int | None = Field(default=None, foreign_key="workspace.id", sa_type=Key)
    name: str = Field(max_length=100)
    prefix: str = Field(max_length=20, unique=True)
    digest: bytes = Field(repr=False)
    created_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)
    last_used_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class ImportBatch(Table, table=True):
    """One import of one file: its counts, which add up to its rows.

    `idempotency_key` is the caller's, of an import over HTTP, else a random one. `fingerprint` is what the
    caller's came with, sealed: a digest in clear would let who has the database try out passwords with it.
    """

    __tablename__ = "import_batch"
    # An index and no constraint: SQLite adds it without making the table anew.
    __table_args__ = (
        Index("ix_import_batch_idempotency_key", "workspace_id", "idempotency_key", unique=True),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=Key)
    workspace_id: int = Field(foreign_key="workspace.id", index=True, sa_type=Key)
    file_name: str = Field(max_length=255)
    tag: str | None = Field(default=None, max_length=100)
    imported: int
    skipped: int
    failed: int
    created_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)
    idempotency_key: str | None = Field(default=None, max_length=255)
    fingerprint: bytes | None = Field(default=None, repr=False)


class BatchRowError(Table, table=True):
    """A row that failed; kept so that every error of an import can be read later, not only the first 50."""

    __tablename__ = "batch_row_error"

    batch_id: int = Field(foreign_key="import_batch.id", ondelete="CASCADE", primary_key=True, sa_type=Key)
    line: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    email: str = Field(max_length=254)
    reason: str = Field(max_length=40)


class Mailbox(Table, table=True):
    """A mailbox, its sealed credentials, its servers and what the tests say of it.

    `claimed_until` belongs to the run that is testing the mailbox; once it has passed, anybody may take over.
    """

    __tablename__ = "mailbox"
    __table_args__ = (
        UniqueConstraint("workspace_id", "email_key"),
        Index("ix_mailbox_status_next_attempt_at", "status", "next_attempt_at"),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=Key)
    workspace_id: int = Field(foreign_key="workspace.id", sa_type=Key)
    batch_id: int = Field(foreign_key="import_batch.id", index=True, sa_type=Key)
    email: str = Field(max_length=254)
    email_key: str = Field(max_length=254)
    name: str | None = Field(default=None, max_length=200)
    password: bytes = Field(repr=False)
    totp: bytes | None = Field(default=None, repr=False)
    tag: str | None = Field(default=None, max_length=100)
    smtp_host: str = Field(max_length=255)
    smtp_port: int
    imap_host: str = Field(max_length=255)
    imap_port: int
    status: str = Field(default=MailboxStatus.PENDING, max_length=10)
    diagnosis: str = Field(default="", sa_type=Text)
    attempts: int = 0
    next_attempt_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    claimed_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    created_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)
    tested_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class ProbeResult(Table, table=True):
    """What one protocol said in one attempt, with the server's own words (credentials stripped)."""

    __tablename__ = "probe_result"

    mailbox_id: int = Field(foreign_key="mailbox.id", ondelete="CASCADE", primary_key=True, sa_type=Key)
    attempt: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    protocol: str = Field(primary_key=True, max_length=4)
    reason: str = Field(max_length=40)
    stage: str = Field(max_length=12)
    server_text: str = Field(default="", sa_type=Text)
    host: str = Field(max_length=255)
    milliseconds: int
    at: datetime = Field(default_factory=now, sa_type=UtcDateTime)


def columns_of(model: type[Table]) -> Any:
    """The table behind a model, for statements that name columns."""
    return model.__table__  # type: ignore[attr-defined]
