"""A run of connection tests: every mailbox once, every verdict stored, nothing tried that could lock it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from sandbox.outlook import Account, Outlook, ServerFaults
from schemas.providers import Endpoint
from schemas.reasons import Protocol, Reason, Stage
from schemas.sealing import Sealer, UnsealError, new_key, parse_keys
from schemas.settings import Settings
from schemas.tables import Mailbox, ProbeResult, columns_of, now
from schemas.verdicts import Answer, MailboxStatus, Target, Verdict, judge_answers
from tasks.database import Database
from tasks.probe import (
    GUARD_TRIPPED,
    HELD_BACK,
    INTERRUPTED,
    LockoutGuard,
    Observer,
    Probing,
    claim,
    observer,
    release,
    save,
)
from tests.conftest import (
    StartOutlook,
    accounts,
    import_mailboxes,
    probe_targets,
    rows_of,
    with_servers,
)

SMTP, IMAP = Protocol.SMTP, Protocol.IMAP
ADDRESS = "user1@outlook.com"
LEASE = timedelta(minutes=5)


class Run:
    """Stand-in, database and settings of one test, and what to do with them."""

    def __init__(self, db: Database, outlook: Outlook, settings: Settings, targets: Sequence[Target]) -> None:
        self.db = db
        self.outlook = outlook
        self.settings = settings
        self.targets = targets
        self.ids = [target.mailbox_id for target in targets]

    def probing(self) -> Probing:
        return Probing(self.db, self.settings, self.ids)

    async def probe(self) -> Probing:
        """A whole run over all mailboxes."""
        probing = self.probing()
        await probe_targets(probing, self.targets, self.settings.probe_group_size)
        return probing

    def mailboxes(self) -> dict[str, dict[str, Any]]:
        return {row["email"]: row for row in rows_of(self.db, Mailbox)}

    def mailbox(self, address: str = ADDRESS) -> dict[str, Any]:
        return self.mailboxes()[address]

    def results(self) -> list[tuple[int, int, str, str]]:
        """Mailbox, attempt, protocol and reason of every stored answer."""
        rows = rows_of(self.db, ProbeResult)
        return [(row["mailbox_id"], row["attempt"], row["protocol"], row["reason"]) for row in rows]

    def logins(self, protocol: Protocol) -> Counter[str]:
        """How often a password came in, by address."""
        return Counter({key[1]: n for key, n in self.outlook.seen.logins.items() if key[0] == protocol})

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  the stand-in has no events
                await asyncio.sleep(0.01)


Set = Callable[..., Awaitable[Run]]


@pytest.fixture
def arrange(db: Database, either_settings: Settings, start: StartOutlook) -> Set:
    """Starts a stand-in with these mailboxes, which are imported with the right passwords."""

    async def run(
        mailboxes: dict[str, Account],
        server: ServerFaults | None = None,
        delay: float = 0.0,
        *,
        kind: type[Settings] = Settings,
        **settings: Any,
    ) -> Run:
        outlook = await start(mailboxes, server, delay)
        # What does not trip it by purpose shall not trip it at all.
        chosen = with_servers(either_settings, outlook, **({"guard_after": 1000} | settings))
        chosen = kind(**{name: getattr(chosen, name) for name in Settings.model_fields if name != "servers"}, **_servers(outlook))
        return Run(db, outlook, chosen, import_mailboxes(db, chosen, mailboxes))

    return run


def _servers(outlook: Outlook) -> dict[str, Any]:
    # Two names of one machine: each protocol then has slots of its own, as with Microsoft.
    return {
        "servers": {
            "*": {"smtp": f"localhost:{outlook.smtp_port}", "imap": f"127.0.0.1:{outlook.imap_port}"}
        }
    }
