"""The tables. Timestamps are aware UTC datetimes. Secrets are sealed bytes, and `repr` leaves them out."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy
from sqlalchemy import BigInteger, DateTime, Dialect, Index, Integer, MetaData, Text, UniqueConstraint, text
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

from schemas.scopes import ALL_SCOPES, written
from schemas.standing import MailboxStatus, Needs, State

# SQLite can only alter constraints that have a name.
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

# SQLite numbers rows only if the key is an INTEGER.
Key = BigInteger().with_variant(Integer(), "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime. SQLite stores no time zone, so it stores and returns UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)


def _partial(name: str, *columns: str, where: str) -> Index:
    """An index of the rows that meet a condition. A query has to imply it in literal words to use it."""
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class Table(SQLModel):
    """The base of all tables: they share one set of metadata."""

    metadata = MetaData(naming_convention=NAMING)


class Workspace(Table, table=True):
    """The owner of mailboxes and imports. One workspace cannot see anything of another."""

    __tablename__ = "workspace"

    id: int | None = Field(default=None, primary_key=True, sa_type=Key)
    name: str = Field(max_length=100, unique=True)
    created_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)


class ApiKey(Table, table=True):
    """A key of the HTTP API: its digest, and its first characters so that people can recognise it.

    `workspace_id` is None for a platform key: each of its requests names the workspace. `scopes` says what
    it may do; see `scopes.written`.
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
    scopes: str = Field(
        default=written(ALL_SCOPES), max_length=40, sa_column_kwargs={"server_default": written(ALL_SCOPES)}
    )


class Import(Table, table=True):
    """One import of one file. Its counts add up to the rows of the file.

    `idempotency_key` comes from the caller of the HTTP API; all other imports get a random one. `fingerprint`
    identifies the request that used the key. It is a digest, sealed because anyone who has the database could
    use a plain one to guess passwords.
    """

    __tablename__ = "import"
    # An index, not a constraint: SQLite can add an index without rebuilding the table.
    __table_args__ = (Index("ix_import_idempotency_key", "workspace_id", "idempotency_key", unique=True),)

    id: int | None = Field(default=None, primary_key=True, sa_type=Key)
    workspace_id: int = Field(foreign_key="workspace.id", index=True, sa_type=Key)
    file_name: str = Field(max_length=255)
    tag: str | None = Field(default=None, max_length=100)
    imported: int
    skipped: int
    failed: int
    updated: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    created_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)
    idempotency_key: str | None = Field(default=None, max_length=255)
    fingerprint: bytes | None = Field(default=None, repr=False)


class ImportRow(Table, table=True):
    """A row of an imported file, or a note about the file, which has the line of the header.

    All rows that became mailboxes are kept, and the first of the others: `summary.MAX_ROWS_STORED` of each
    result. `email_key` is None if the row belongs to no mailbox.
    """

    __tablename__ = "import_row"
    __table_args__ = (
        _partial("ix_import_row_import_id_email_key", "import_id", "email_key", where="result = 'updated'"),
    )

    import_id: int = Field(foreign_key="import.id", ondelete="CASCADE", primary_key=True, sa_type=Key)
    line: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    email: str = Field(max_length=254)
    reason: str = Field(max_length=40)
    result: str = Field(max_length=10, sa_column_kwargs={"server_default": "failed"})
    email_key: str | None = Field(default=None, max_length=254)
    warning: str = Field(default="", sa_type=Text, sa_column_kwargs={"server_default": ""})


_UNTESTED = {"server_default": "untested"}
_EMPTY = {"server_default": ""}


class Mailbox(Table, table=True):
    """A mailbox: its sealed credentials, its servers, and what is known about each protocol.

    `claimed_until` is when the claim of the run that tests the mailbox expires. Any run may claim it then.
    `login` is the sign-in name if it is not the address. `warning` says how the password may have been
    damaged in the file that it came from. The state, reason and attempts of each protocol are those of
    `standing.Standing`, with "" for no reason; `due` is when it is asked again, if it is put off.
    `old_password` is the password that an update has replaced, until the new one is tested.
    """

    __tablename__ = "mailbox"
    __table_args__ = (
        UniqueConstraint("workspace_id", "email_key"),
        Index("ix_mailbox_status_next_attempt_at", "status", "next_attempt_at"),
        Index("ix_mailbox_status_tested_at", "status", "tested_at"),
        # Each of these gives a page of a list in the order of ids. The first one also serves searches for a
        # part of the address, which read no mailbox that they do not find.
        Index("ix_mailbox_workspace_id_id_email_key", "workspace_id", "id", "email_key"),
        Index("ix_mailbox_workspace_id_status_id", "workspace_id", "status", "id"),
        _partial("ix_mailbox_workspace_id_tag_id", "workspace_id", "tag", "id", where="tag IS NOT NULL"),
        *(
            _partial(
                f"ix_mailbox_workspace_id_{reason}_id", "workspace_id", reason, "id", where=f"{reason} <> ''"
            )
            for reason in ("smtp_reason", "imap_reason")
        ),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=Key)
    workspace_id: int = Field(foreign_key="workspace.id", sa_type=Key)
    import_id: int = Field(foreign_key="import.id", index=True, sa_type=Key)
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
    needs: str = Field(default=Needs.BOTH, max_length=4, sa_column_kwargs={"server_default": "both"})
    smtp_state: str = Field(default=State.UNTESTED, max_length=10, sa_column_kwargs=_UNTESTED)
    smtp_reason: str = Field(default="", max_length=40, sa_column_kwargs=_EMPTY)
    smtp_attempts: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    smtp_due: datetime | None = Field(default=None, sa_type=UtcDateTime)
    imap_state: str = Field(default=State.UNTESTED, max_length=10, sa_column_kwargs=_UNTESTED)
    imap_reason: str = Field(default="", max_length=40, sa_column_kwargs=_EMPTY)
    imap_attempts: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    imap_due: datetime | None = Field(default=None, sa_type=UtcDateTime)
    old_password: bytes | None = Field(default=None, repr=False)
    login: str | None = Field(default=None, max_length=254)
    warning: str = Field(default="", sa_type=Text, sa_column_kwargs={"server_default": ""})


class ProbeResult(Table, table=True):
    """The answer of one protocol in one attempt, with the server's own words (credentials removed)."""

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


class StatusChange(Table, table=True):
    """A change of a mailbox's status between `active`, `partial` and `failed`. The newest are kept.

    `before` is None for the first verdict, which no notice tells. `notice` is the id of the notice that tells
    the change, `leased_until` how long one process may send it, and `told_at` when it arrived.
    """

    __tablename__ = "status_change"
    # Without the first verdicts, which are nearly all rows.
    __table_args__ = (_partial("ix_status_change_at", "at", where="before IS NOT NULL"),)

    id: int | None = Field(default=None, primary_key=True, sa_type=Key)
    mailbox_id: int = Field(foreign_key="mailbox.id", ondelete="CASCADE", index=True, sa_type=Key)
    at: datetime = Field(sa_type=UtcDateTime)
    before: str | None = Field(default=None, max_length=10)
    after: str = Field(max_length=10)
    smtp_reason: str = Field(default="", max_length=40)
    imap_reason: str = Field(default="", max_length=40)
    notice: str | None = Field(default=None, max_length=40, index=True)
    leased_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    told_at: datetime | None = Field(default=None, index=True, sa_type=UtcDateTime)


def table_of(model: type[Table]) -> sqlalchemy.Table:
    """Return the table behind a model, for code that goes through all of its columns."""
    return Table.metadata.tables[str(model.__tablename__)]
