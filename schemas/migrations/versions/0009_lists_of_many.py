"""Indexes for pages of long lists of mailboxes, and statistics for SQLite."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

# Columns of each index on `mailbox` after the workspace, and the condition of the partial ones.
LISTS = {
    ("id", "email_key"): None,
    ("status", "id"): None,
    ("tag", "id"): "tag IS NOT NULL",
    ("smtp_reason", "id"): "smtp_reason <> ''",
    ("imap_reason", "id"): "imap_reason <> ''",
}

# What SQLite is told about each index: its rows, then the average number of rows with the same first column,
# with the same first two columns, and so on. These are the figures of a large database. Without them SQLite
# assumes that ten mailboxes have the same status or workspace, and goes through all of them to find the few
# that a statement names by id. PostgreSQL collects its own statistics.
# Source: SQLite's documentation, “ANALYZE”, section “Fixed results of ANALYZE”.
STATISTICS = {
    "workspace": {"sqlite_autoindex_workspace_1": "10 1"},
    "import": {
        "ix_import_workspace_id": "2000 200",
        "ix_import_idempotency_key": "2000 200 1",
    },
    "import_row": {
        "sqlite_autoindex_import_row_1": "1000000 500 1",
        "ix_import_row_import_id_email_key": "10000 100 1",
    },
    "mailbox": {
        "sqlite_autoindex_mailbox_1": "1000000 100000 1",
        "ix_mailbox_import_id": "1000000 500",
        "ix_mailbox_status_next_attempt_at": "1000000 250000 10",
        "ix_mailbox_status_tested_at": "1000000 250000 10",
        "ix_mailbox_workspace_id_id_email_key": "1000000 100000 1 1",
        "ix_mailbox_workspace_id_status_id": "1000000 100000 25000 1",
        "ix_mailbox_workspace_id_tag_id": "1000000 100000 1000 1",
        "ix_mailbox_workspace_id_smtp_reason_id": "100000 10000 1000 1",
        "ix_mailbox_workspace_id_imap_reason_id": "100000 10000 1000 1",
    },
    "probe_result": {"sqlite_autoindex_probe_result_1": "2000000 2 2 1"},
    "status_change": {
        "ix_status_change_mailbox_id": "1000000 1",
        "ix_status_change_at": "10000 10",
        "ix_status_change_notice": "1000000 1000",
        "ix_status_change_told_at": "1000000 10",
    },
}


def upgrade() -> None:
    for columns, where in LISTS.items():
        create("mailbox", ("workspace_id", *columns), where)
    op.drop_index("ix_status_change_at", "status_change")
    create("status_change", ("at",), "before IS NOT NULL")
    create("import_row", ("import_id", "email_key"), "result = 'updated'")
    if op.get_bind().dialect.name == "sqlite":
        tell_statistics()


def create(table: str, columns: tuple[str, ...], where: str | None) -> None:
    condition = None if where is None else sa.text(where)
    name = "_".join(("ix", table, *columns))
    op.create_index(name, table, list(columns), sqlite_where=condition, postgresql_where=condition)


def tell_statistics() -> None:
    op.execute("ANALYZE sqlite_schema")  # creates their table
    op.execute("DELETE FROM sqlite_stat1")
    told = sa.table("sqlite_stat1", sa.column("tbl"), sa.column("idx"), sa.column("stat"))
    op.bulk_insert(
        told,
        [
            {"tbl": table, "idx": index, "stat": stat}
            for table, indexes in STATISTICS.items()
            for index, stat in indexes.items()
        ],
    )
    op.execute("ANALYZE sqlite_schema")  # this connection reads them; the others do so when they open


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DELETE FROM sqlite_stat1")
    op.drop_index("ix_import_row_import_id_email_key", "import_row")
    op.drop_index("ix_status_change_at", "status_change")
    op.create_index("ix_status_change_at", "status_change", ["at"])
    for columns in LISTS:
        op.drop_index("_".join(("ix", "mailbox", "workspace_id", *columns)), "mailbox")
