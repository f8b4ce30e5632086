"""What each key of the HTTP API may do. Keys from before may do everything, as they could."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column(
        "api_key",
        sa.Column("scopes", sa.String(length=40), server_default="read,import,manage", nullable=False),
    )


def downgrade() -> None:
    op.drop_column("api_key", "scopes")
