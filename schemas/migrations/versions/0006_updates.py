"""Passwords that an import replaces: the earlier one until the new one is tested, and how many there were"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("mailbox", sa.Column("old_password", sa.LargeBinary(), nullable=True))
    op.add_column("import", sa.Column("updated", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("import", "updated")
    op.drop_column("mailbox", "old_password")
