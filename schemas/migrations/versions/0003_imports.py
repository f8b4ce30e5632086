"""Imports are called imports, not batches

Everything is renamed in place: no table is rebuilt and no row changes. SQLite cannot rename an index, so
three indexes are dropped and created. It cannot rename a constraint either: on SQLite, old names such as
`fk_mailbox_batch_id` stay, and a later migration that rebuilds a table has to expect them.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

# Tables and columns have their new names in all of these.
INDEXES = (
    ("import", ["workspace_id"], "ix_import_batch_workspace_id", "ix_import_workspace_id"),
    (
        *("import", ["workspace_id", "idempotency_key"]),
        *("ix_import_batch_idempotency_key", "ix_import_idempotency_key"),
    ),
    ("mailbox", ["import_id"], "ix_mailbox_batch_id", "ix_mailbox_import_id"),
)
CONSTRAINTS = (
    ("import", "pk_import_batch", "pk_import"),
    ("import", "fk_import_batch_workspace_id", "fk_import_workspace_id"),
    ("import_row_error", "pk_batch_row_error", "pk_import_row_error"),
    ("import_row_error", "fk_batch_row_error_batch_id", "fk_import_row_error_import_id"),
    ("mailbox", "fk_mailbox_batch_id", "fk_mailbox_import_id"),
)
UNIQUE = ("ix_import_batch_idempotency_key", "ix_import_idempotency_key")


def upgrade() -> None:
    op.rename_table("import_batch", "import")
    op.rename_table("batch_row_error", "import_row_error")
    for table in ("import_row_error", "mailbox"):
        op.execute(f"ALTER TABLE {table} RENAME COLUMN batch_id TO import_id")
    for table, columns, old, new in INDEXES:
        _rename_index(table, columns, old, new)
    if _on_postgresql():
        for table, old, new in CONSTRAINTS:
            op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}")
        op.execute("ALTER SEQUENCE import_batch_id_seq RENAME TO import_id_seq")


def downgrade() -> None:
    if _on_postgresql():
        op.execute("ALTER SEQUENCE import_id_seq RENAME TO import_batch_id_seq")
        for table, old, new in CONSTRAINTS:
            op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {new} TO {old}")
    for table, columns, old, new in INDEXES:
        _rename_index(table, columns, new, old)
    for table in ("import_row_error", "mailbox"):
        op.execute(f"ALTER TABLE {table} RENAME COLUMN import_id TO batch_id")
    op.rename_table("import_row_error", "batch_row_error")
    op.rename_table("import", "import_batch")


def _rename_index(table: str, columns: list[str], old: str, new: str) -> None:
    if _on_postgresql():
        op.execute(f"ALTER INDEX {old} RENAME TO {new}")
    else:
        op.drop_index(old, table_name=table)
        op.create_index(new, table, columns, unique=new in UNIQUE)


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"
