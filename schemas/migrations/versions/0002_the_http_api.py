"""Keys of the HTTP API, and the imports' idempotency keys"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from schemas.tables import Key, UtcDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", Key, nullable=False),
        sa.Column("workspace_id", Key, nullable=True),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("prefix", sa.String(length=20), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("last_used_at", UtcDateTime(), nullable=True),
        sa.Column("revoked_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name=op.f("fk_api_key_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("prefix", name=op.f("uq_api_key_prefix")),
    )
    # Not as a batch operation, which would rebuild the table and delete the rows that refer to it.
    op.add_column("import_batch", sa.Column("idempotency_key", sa.String(length=255), nullable=True))
    op.add_column("import_batch", sa.Column("fingerprint", sa.LargeBinary(), nullable=True))
    op.create_index(
        "ix_import_batch_idempotency_key", "import_batch", ["workspace_id", "idempotency_key"], unique=True
    )


def downgrade() -> None:
    op.drop_index("ix_import_batch_idempotency_key", table_name="import_batch")
    op.drop_column("import_batch", "fingerprint")
    op.drop_column("import_batch", "idempotency_key")
    op.drop_table("api_key")
