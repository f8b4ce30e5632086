"""Changes of status, and the notice that tells them: addresses, statuses and reasons, but no secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from schemas.reasons import Protocol, Reason

MOST_TOLD = 100
TYPE = "mailboxes.changed"


class Change(NamedTuple):
    """A change of the status of a mailbox.

    Attributes:
        before: The status before; None for the first verdict.
        reasons: Why a protocol does not work.
        told_at: When the notice arrived; for a change that no notice tells, when it was stored.
    """

    mailbox_id: int
    email: str
    workspace: str
    at: datetime
    before: str | None
    after: str
    reasons: Mapping[Protocol, Reason]
    told_at: datetime | None

    def told(self) -> dict[str, Any]:
        """The change for a program: JSON values, with the remedy of each reason."""
        return {
            "id": self.mailbox_id,
            "email": self.email,
            "workspace": self.workspace,
            "at": self.at.isoformat(),
            "before": self.before,
            "after": self.after,
            "reasons": [
                {
                    "protocol": protocol.value,
                    "code": reason.value,
                    "title": reason.explanation.title,
                    "remedy": reason.explanation.remedy,
                }
                for protocol, reason in self.reasons.items()
            ],
        }


class Notice(NamedTuple):
    """Changes that are told together.

    Attributes:
        id: Stays the same however often the notice is sent.
        changes: The first `MOST_TOLD` of them, the oldest first.
        total: How many there are.
        again: Whether it was sent before, or may have been.
    """

    id: str
    changes: tuple[Change, ...]
    total: int
    again: bool

    @property
    def body(self) -> str:
        """The JSON of the webhook. Its timestamp is that of the last change shown."""
        return json.dumps(
            {
                "type": TYPE,
                "timestamp": self.changes[-1].at.isoformat(),
                "data": {"total": self.total, "changes": [change.told() for change in self.changes]},
            },
            ensure_ascii=False,
        )
