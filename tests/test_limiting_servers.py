"""Mail servers that limit their clients during a run: no mailbox is demoted, lost or asked twice."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import tasks.probe
from schemas.settings import Settings
from schemas.tables import Mailbox
from tasks.storage.database import Database
from tests.conftest import StartOutlook, accounts, import_mailboxes, rows_of, with_changes
from tests.support.gate import TOO_MANY, Gate
from tests.support.receiver import receiving
from tests.test_recheck_active import Site

MAILBOXES = accounts(30, "contoso.com")
FREE = 10**6


class Gated(Site):
    """A site whose servers stand behind two gates."""

    smtp: Gate
    imap: Gate

    def limit(self, smtp: int, imap: int, delay: float = 0.0) -> None:
        """Pass on so many more connections, and every word so late."""
        self.smtp.left, self.imap.left = smtp, imap
        self.smtp.delay = self.imap.delay = delay

    def statuses(self) -> set[str]:
        return {row["status"] for row in rows_of(self.db, Mailbox)}


@pytest.fixture
async def site(
    db: Database, either_settings: Settings, start: StartOutlook, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gated]:
    """Thirty mailboxes that work, and have not been tested; the pauses of a run are short."""
    monkeypatch.setattr(tasks.probe, "SLOWER", (0.01,) * len(tasks.probe.SLOWER))
    outlook = await start(MAILBOXES)
    async with Gate(outlook.smtp_port).open() as smtp, Gate(outlook.imap_port).open() as imap:
        servers = {"smtp": f"localhost:{smtp.port}", "imap": f"127.0.0.1:{imap.port}"}
        changes = {"servers": {"*": servers}, "ca_file": outlook.ca_file}
        settings = with_changes(either_settings, **changes, probe_timeout=10, guard_after=1000)
        with receiving() as receiver:
            site = Gated(db, outlook, settings, receiver)
            site.smtp, site.imap = smtp, imap
            import_mailboxes(db, site.settings, MAILBOXES)
            yield site


@pytest.mark.parametrize(
    ("words", "smtp", "imap"),
    [(TOO_MANY, 8, FREE), (TOO_MANY, 8, 6), (b"", 8, 6), (b"", 8, FREE)],
    ids=["421", "421 and reset", "reset", "reset of SMTP"],
)
async def test_a_quota_ends_in_the_middle(site: Gated, words: bytes, smtp: int, imap: int) -> None:
    """What a quota leaves of a retest or a recheck is found by the next, with one login for each protocol."""
    site.smtp.refusal = words
    for run, left in ((site.retest, {"pending", "active"}), (site.recheck, {"active"})):
        before = site.logins()
        site.limit(smtp, imap)
        await run()
        assert site.statuses() == left
        assert site.logins() - before < 2 * len(MAILBOXES)
        site.limit(FREE, FREE)
        await run()
        assert site.statuses() == {"active"}
        if run == site.retest:
            assert site.logins() == 2 * len(MAILBOXES)
    assert site.receiver.told == []


async def test_a_tarpit(site: Gated) -> None:
    """A server that is slow is waited for; one that is too slow demotes no mailbox that works."""
    site.limit(FREE, FREE, delay=0.03)
    await site.retest()
    assert site.statuses() == {"active"}
    sent, patient = site.logins(), site.settings
    site.limit(FREE, FREE, delay=0.4)
    site.settings = patient.model_copy(update={"probe_timeout": 0.7})
    await site.recheck()
    assert (site.statuses(), site.logins()) == ({"active"}, sent)
    site.limit(FREE, FREE)
    site.settings = patient
    assert len((await site.recheck()).verdicts) == len(MAILBOXES)
    assert (site.statuses(), site.receiver.told) == ({"active"}, [])
