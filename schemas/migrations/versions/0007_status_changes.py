"""Changes of status: the history of a mailbox, and what has to be told

The status that a mailbox has now becomes the first entry of its history, so that the next change is news.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from schemas.tables import Key, UtcDateTime

revision = "0007"
down_revision = "0006"
INDEXED = ("mailbox_id", "at", "notice", "told_at")


def upgrade() -> None:
    op.create_table(
        "status_change",
        sa.Column("id", Key, nullable=False),
        sa.Column("mailbox_id", Key, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("before", sa.String(length=10), nullable=True),
        sa.Column("after", sa.String(length=10), nullable=False),
        sa.Column("smtp_reason", sa.String(length=40), nullable=False),
        sa.Column("imap_reason", sa.String(length=40), nullable=False),
        sa.Column("notice", sa.String(length=40), nullable=True),
        sa.Column("leased_until", UtcDateTime(), nullable=True),
        sa.Column("told_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["mailbox_id"], ["mailbox.id"], name="fk_status_change_mailbox_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_status_change"),
    )
    op.execute(
        "INSERT INTO status_change (mailbox_id, at, after, smtp_reason, imap_reason, told_at) "
        "SELECT id, coalesce(tested_at, created_at), status, smtp_reason, imap_reason, "
        "coalesce(tested_at, created_at) FROM mailbox WHERE status <> 'pending' ORDER BY id"
    )
    for name in INDEXED:
        op.create_index(f"ix_status_change_{name}", "status_change", [name])
    op.create_index("ix_mailbox_status_tested_at", "mailbox", ["status", "tested_at"])


def downgrade() -> None:
    op.drop_index("ix_mailbox_status_tested_at", "mailbox")
    op.drop_table("status_change")
