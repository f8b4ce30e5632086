"""What is known about each protocol of a mailbox, and what the mailbox is needed for

What earlier versions knew is taken from the answers of the last test. A mailbox with one protocol that works
and the other was refused was `failed` and is `partial` now.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

# As they were when this migration was written: a later change of the rules must not change old data again.
CREDENTIALS_REJECTED = (
    "('wrong_credentials', 'app_password_required', 'wrong_or_protocol_off', 'login_refused')"
)
EXPLAIN_BOTH = (
    "('wrong_credentials', 'password_sign_in_disabled', 'security_defaults', 'conditional_access', "
    "'account_blocked', 'not_at_microsoft')"
)
COLUMNS = (
    ("state", sa.String(length=10), "untested"),
    ("reason", sa.String(length=40), ""),
    ("attempts", sa.Integer(), "0"),
)


def upgrade() -> None:
    op.add_column("mailbox", sa.Column("needs", sa.String(length=4), server_default="both", nullable=False))
    for protocol in ("smtp", "imap"):
        for name, kind, default in COLUMNS:
            op.add_column(
                "mailbox", sa.Column(f"{protocol}_{name}", kind, server_default=default, nullable=False)
            )
        op.add_column("mailbox", sa.Column(f"{protocol}_due", sa.DateTime(timezone=True), nullable=True))
    for protocol in ("smtp", "imap"):
        _take_over(protocol)
    for mine, other in (("smtp", "imap"), ("imap", "smtp")):
        op.execute(
            f"UPDATE mailbox SET {mine}_reason = 'refused_though_right' "  # noqa: S608
            f"WHERE {mine}_reason IN {CREDENTIALS_REJECTED} AND {other}_state = 'accepted'"
        )
        op.execute(
            f"UPDATE mailbox SET {mine}_reason = {other}_reason "  # noqa: S608
            f"WHERE {mine}_reason = 'login_refused' AND {other}_reason IN {EXPLAIN_BOTH}"
        )
    op.execute(
        "UPDATE mailbox SET status = 'partial' WHERE status = 'failed' AND "
        "(smtp_state = 'accepted' AND imap_state = 'refused' OR "
        "smtp_state = 'refused' AND imap_state = 'accepted')"
    )


def _take_over(protocol: str) -> None:
    """Set the state of a protocol from its answer in the last test, unless that verdict was withdrawn."""
    last = (
        "SELECT {column} FROM probe_result WHERE probe_result.mailbox_id = mailbox.id "  # noqa: S608
        f"AND probe_result.protocol = '{protocol}' AND probe_result.at = mailbox.tested_at"
    )
    reason = last.format(column="reason")
    op.execute(
        f"UPDATE mailbox SET {protocol}_attempts = attempts, "  # noqa: S608
        f"{protocol}_state = CASE WHEN ({reason}) = 'ok' THEN 'accepted' "
        "WHEN status = 'pending' THEN 'put_off' ELSE 'refused' END, "
        f"{protocol}_reason = CASE WHEN ({reason}) = 'ok' THEN '' ELSE ({reason}) END, "
        f"{protocol}_due = CASE WHEN ({reason}) = 'ok' THEN NULL ELSE next_attempt_at END "
        f"WHERE diagnosis <> '' AND EXISTS ({last.format(column='1')})"
    )


def downgrade() -> None:
    op.execute("UPDATE mailbox SET status = 'failed' WHERE status = 'partial'")
    for protocol in ("smtp", "imap"):
        for name in ("due", "attempts", "reason", "state"):
            op.drop_column("mailbox", f"{protocol}_{name}")
    op.drop_column("mailbox", "needs")
