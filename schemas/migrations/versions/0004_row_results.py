"""Every row of an import with its result and its warning; a sign-in name beside the address

The table of row errors becomes the table of rows: it is renamed in place and gets columns, and the rows in it
are the failed ones of earlier imports.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

CONSTRAINTS = (
    ("pk_import_row_error", "pk_import_row"),
    ("fk_import_row_error_import_id", "fk_import_row_import_id"),
)


def upgrade() -> None:
    op.rename_table("import_row_error", "import_row")
    op.add_column(
        "import_row", sa.Column("result", sa.String(length=10), server_default="failed", nullable=False)
    )
    op.add_column("import_row", sa.Column("email_key", sa.String(length=254), nullable=True))
    op.add_column("import_row", sa.Column("warning", sa.Text(), server_default="", nullable=False))
    op.add_column("mailbox", sa.Column("login", sa.String(length=254), nullable=True))
    op.add_column("mailbox", sa.Column("warning", sa.Text(), server_default="", nullable=False))
    _rename_constraints(CONSTRAINTS)


def downgrade() -> None:
    _rename_constraints(tuple((new, old) for old, new in CONSTRAINTS))
    op.drop_column("mailbox", "warning")
    op.drop_column("mailbox", "login")
    op.execute("DELETE FROM import_row WHERE result <> 'failed'")
    op.drop_column("import_row", "warning")
    op.drop_column("import_row", "email_key")
    op.drop_column("import_row", "result")
    op.rename_table("import_row", "import_row_error")


def _rename_constraints(names: tuple[tuple[str, str], ...]) -> None:
    if op.get_bind().dialect.name == "postgresql":
        for old, new in names:
            op.execute(f"ALTER TABLE import_row RENAME CONSTRAINT {old} TO {new}")
