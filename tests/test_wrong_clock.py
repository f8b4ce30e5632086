"""A clock that was a year ahead or behind for a while: what was stored then delays and loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest

import tasks.probe
import tasks.store
from flows.api.page.sessions import Sessions
from sandbox.outlook import Account
from schemas.settings import Settings
from schemas.standing import MailboxStatus
from schemas.tables import Mailbox, now
from schemas.verdicts import Target
from tasks import tell_changes as telling
from tasks.probe import Probing
from tasks.storage import changes, claims, page_links
from tasks.storage.changes import take_notice
from tasks.storage.claims import claim, find_due, find_to_recheck
from tasks.storage.database import Database
from tasks.storage.page_links import make_link, use_link
from tasks.tell_changes import tell_changes
from tests.conftest import StartOutlook, import_file, probe_targets, rows_of, with_servers, write_csv
from tests.support.receiver import Receiver, receiving
from tests.test_status_changes import OK, WRONG, settle

ANN, BOB, CAT = "ann@contoso.com", "bob@contoso.com", "cat@contoso.com"
YEAR = timedelta(days=365)
MODULES: tuple[ModuleType, ...] = (tasks.probe, tasks.store, claims, changes, telling, page_links)


class Clock:
    """The clock of everything that stores or compares times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jump = timedelta()
        for module in MODULES:
            monkeypatch.setattr(module, "now", self.now)

    def now(self) -> datetime:
        return now() + self.jump


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver of notices; the pauses before a repeat are short."""
    monkeypatch.setattr(telling, "FIRST_PAUSE", 0.01)
    with receiving() as listening:
        yield listening


async def probe(db: Database, settings: Settings, targets: tuple[Target, ...]) -> None:
    await probe_targets(Probing(db, settings, [target.mailbox_id for target in targets]), targets)


@pytest.mark.parametrize("jump", [YEAR, -YEAR], ids=["ahead", "behind"])
async def test_no_mailbox_waits_for_a_wrong_time(
    jump: timedelta,
    clock: Clock,
    db: Database,
    either_settings: Settings,
    start: StartOutlook,
    tmp_path: Path,
) -> None:
    """What was put off, claimed and tested under a wrong clock is tested at once when it is right again."""
    outlook = await start({ANN: Account("p", smtp="server-busy"), BOB: Account("p"), CAT: Account("p")})
    settings = with_servers(either_settings, outlook, probe_timeout=2)
    clock.jump = jump
    file = write_csv(tmp_path / "in.csv", [(email, "p") for email in (ANN, BOB, CAT)])
    ann, bob, cat = import_file(db, settings, file).targets
    await probe(db, settings, (ann, bob))
    killed = claim(db, [cat.mailbox_id], clock.now(), clock.now() + settings.claim_lease)
    assert [one.email for one in killed] == [CAT]
    assert {row["status"] for row in rows_of(db, Mailbox)} == {MailboxStatus.PENDING, MailboxStatus.ACTIVE}

    clock.jump = timedelta()
    outlook.change(ANN, Account("p"))
    due = find_due.fn(db, 100, None, held=False)
    assert sorted(target.mailbox_id for target in due) == [ann.mailbox_id, cat.mailbox_id]
    await probe(db, settings, due)
    assert {row["status"] for row in rows_of(db, Mailbox)} == {MailboxStatus.ACTIVE}
    before = now() - timedelta(days=7)
    again = find_to_recheck.fn(db, 100, before, None)
    assert [target.mailbox_id for target in again] == [bob.mailbox_id]
    probing = Probing(db, settings, [bob.mailbox_id], before)
    await probe_targets(probing, again)
    assert len(probing.report().verdicts) == 1
    assert max(outlook.seen.logins.values()) == 2


async def test_a_notice_waits_for_the_right_time(
    clock: Clock, db: Database, either_settings: Settings, receiver: Receiver, tmp_path: Path
) -> None:
    """A receiver that checks the timestamp refuses it under a wrong clock, and gets it once when it is right.

    So it is if the process was killed while it sent the notice.
    """
    file = write_csv(tmp_path / "in.csv", [(ANN, "p")])
    (target,) = import_file(db, either_settings, file).targets
    for reason in (OK, WRONG):
        settle(db, target.mailbox_id, reason)
    settings = receiver.on(either_settings)
    clock.jump = timedelta(days=6)
    await tell_changes(db, settings)
    assert receiver.told == []
    clock.jump = timedelta(days=5)  # still news
    taken = take_notice(db)
    assert taken is not None
    clock.jump = timedelta()
    for _ in range(2):
        await tell_changes(db, settings)
    assert list(receiver.notices) == [taken.id]
    assert receiver.told == [(ANN, "active", "failed")]


@pytest.mark.sqlite
def test_a_sign_in_link_lives_no_longer(clock: Clock, settings: Settings) -> None:
    """A link that was made while the clock was ahead, or behind, is worth nothing when it is right."""
    for jump in (YEAR, -YEAR):
        clock.jump = jump
        token = make_link(settings, "default")
        assert token is not None
        clock.jump = timedelta()
        assert use_link(settings, token) is None


def test_sessions_do_not_look_at_the_clock() -> None:
    """A session of the page ends after its time, whatever happens to the clock of the machine."""
    assert Sessions(0).clock.__name__ == "monotonic"
