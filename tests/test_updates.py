"""New passwords for stored mailboxes: same id, tag and history, and no password lost or sent twice."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.outlook import Account
from schemas.reasons import Reason
from schemas.sealing import Owner, Sealer, new_key, parse_keys
from schemas.settings import Settings
from schemas.standing import MailboxStatus
from schemas.tables import Import, ImportRow, Mailbox, ProbeResult, now
from tasks.prepare import prepare
from tasks.probe import Probing
from tasks.storage.claims import claim, save
from tasks.storage.database import Database
from tasks.storage.imports import find_import, find_imports
from tasks.storage.key_rotation import reseal
from tasks.storage.mailboxes import Filters, count_mailboxes, find_mailboxes
from tasks.storage.outcomes import find_outcomes
from tasks.storage.updates import would_replace
from tasks.store import Origin, Stored, store
from tests.conftest import StartOutlook, import_file, probe_targets, rows_of, with_servers, write_csv
from tests.test_probe import verdict_on

ANN, BOB, CAT = "ann@contoso.com", "bob@contoso.com", "cat@contoso.com"
HEADER = ("email", "password", "name", "totp")


def update(db: Database, settings: Settings, folder: Path, *rows: Sequence[str]) -> Stored:
    """Import rows with an update of what is stored."""
    file = write_csv(folder / "update.csv", rows, HEADER[: len(rows[0])])
    prepared = prepare.fn(file, settings.max_file_bytes, served=tuple(settings.overrides))
    origin = Origin(file.name, "default", None, test=True, update=True)
    return store.fn(prepared, origin, db, settings)  # type: ignore[arg-type]


def mailbox(db: Database, email: str) -> dict[str, Any]:
    return next(row for row in rows_of(db, Mailbox) if row["email_key"] == email)


def password_of(db: Database, email: str, field: str = "password") -> str | None:
    sealed = mailbox(db, email)[field]
    return None if sealed is None else db.sealer.open(sealed, Owner("default", email, field))


async def run(db: Database, settings: Settings, stored: Stored) -> None:
    probing = Probing(db, settings, [target.mailbox_id for target in stored.targets])
    await probe_targets(probing, stored.targets)


async def test_a_new_password_is_stored_and_tested(
    db: Database, either_settings: Settings, start: StartOutlook, tmp_path: Path
) -> None:
    """An update keeps id, tag and history, tests in the same run, and then forgets the old password."""
    outlook = await start({ANN: Account("right"), BOB: Account("good")})
    settings = with_servers(either_settings, outlook)
    first = write_csv(tmp_path / "first.csv", [(ANN, "wrong", "Ann", ""), (BOB, "good", "", "")], HEADER)
    await run(db, settings, import_file(db, settings, first, tag="spring"))
    before = mailbox(db, ANN)
    assert before["status"] == MailboxStatus.FAILED
    stored = update(db, settings, tmp_path, (ANN, "right", ""), (BOB, "good", "Bob"), (CAT, "new", ""))
    assert stored.summary.envelope()["data"] == {
        "imported": 1, "updated": 1, "skipped": 1, "failed": 0, "errors": []
    }  # fmt: skip
    assert password_of(db, ANN) == "right"
    assert password_of(db, ANN, "old_password") == "wrong"
    assert mailbox(db, ANN)["status"] == MailboxStatus.PENDING
    await run(db, settings, stored)
    after = mailbox(db, ANN)
    same = ("id", "import_id", "tag", "name", "created_at")
    assert [after[name] for name in same] == [before[name] for name in same]
    assert (after["status"], after["old_password"]) == (MailboxStatus.ACTIVE, None)
    answers = [row for row in rows_of(db, ProbeResult) if row["mailbox_id"] == after["id"]]
    assert [(row["attempt"], row["reason"]) for row in answers if row["protocol"] == "smtp"] == [
        (1, "wrong_credentials"),
        (2, "ok"),
    ]
    assert outlook.seen.logins["smtp", BOB] == 1  # an unchanged row is not tested again
    number = stored.import_id
    assert [(row["imported"], row["updated"]) for row in rows_of(db, Import) if row["id"] == number] == [
        (1, 1)
    ]
    results = {
        row["email"]: (row["result"], row["reason"])
        for row in rows_of(db, ImportRow)
        if row["import_id"] == number
    }
    assert results == {ANN: ("updated", ""), BOB: ("skipped", "unchanged"), CAT: ("imported", "")}
    found = find_outcomes(db, "default", number)
    assert found is not None
    assert [(one.email, one.result, one.status) for one in found[1]] == [
        (ANN, "updated", "active"),
        (BOB, "skipped", ""),
        (CAT, "imported", "failed"),
    ]


async def test_an_import_counts_the_mailboxes_that_it_updated(
    db: Database, either_settings: Settings, start: StartOutlook, tmp_path: Path
) -> None:
    """The progress of an import, its filter and its reasons mean the mailboxes that it created or updated."""
    settings = with_servers(either_settings, await start({ANN: Account("a"), BOB: Account("b")}))
    await run(
        db, settings, import_file(db, settings, write_csv(tmp_path / "1.csv", [(ANN, "x"), (BOB, "b")]))
    )
    changed = update(db, settings, tmp_path, (ANN, "y"), (CAT, "c"))
    await run(db, settings, changed)
    for number, addresses in ((1, [ANN, BOB]), (changed.import_id, [ANN, CAT])):
        filters = Filters(import_id=number)
        page = find_mailboxes(db, "default", 0, 50, filters)
        assert sorted(one.email for one in page.mailboxes) == addresses
        found = find_import(db, "default", number, 0, 0)
        assert found is not None
        progress = found.progress
        assert (progress.mailboxes, progress.tested) == (2, 2)
        assert progress.failed == count_mailboxes(
            db, "default", replace(filters, status=MailboxStatus.FAILED)
        )
        assert progress in [one.progress for one in find_imports(db, "default", 50) if one.id == number]


async def test_a_refused_password_is_not_sent_again(
    db: Database, either_settings: Settings, start: StartOutlook, tmp_path: Path
) -> None:
    """A row with the password that the servers refused is skipped, and says so; nothing is sent."""
    outlook = await start({ANN: Account("right")})
    settings = with_servers(either_settings, outlook)
    await run(db, settings, import_file(db, settings, write_csv(tmp_path / "a.csv", [(ANN, "wrong")])))
    stored = update(db, settings, tmp_path, (ANN, "wrong"))
    assert stored.targets == ()
    assert [(one.result, one.code) for one in stored.summary.outcomes] == [("skipped", "refused_before")]
    await run(db, settings, stored)
    assert outlook.seen.logins == {("smtp", ANN): 1}


async def test_a_new_password_that_is_refused(
    db: Database, either_settings: Settings, start: StartOutlook, tmp_path: Path
) -> None:
    """A mailbox whose new password is refused holds the new one, and says so."""
    outlook = await start({ANN: Account("right")})
    settings = with_servers(either_settings, outlook)
    await run(db, settings, import_file(db, settings, write_csv(tmp_path / "a.csv", [(ANN, "right")])))
    await run(db, settings, update(db, settings, tmp_path, (ANN, "mistyped")))
    row = mailbox(db, ANN)
    assert (row["status"], password_of(db, ANN), row["old_password"]) == ("failed", "mistyped", None)


def test_what_is_left_empty_stays(db: Database, either_settings: Settings, tmp_path: Path) -> None:
    """Name and TOTP secret change only where the cell is filled."""
    secret, other = "JBSWY3DPEHPK3PXP", "KRUGS4ZANFZSAYJA"
    rows = [(ANN, "a", "Ann", secret), (BOB, "b", "Bob", secret)]
    import_file(db, either_settings, write_csv(tmp_path / "a.csv", rows, HEADER), test=False)
    update(db, either_settings, tmp_path, (ANN, "a2", "", ""), (BOB, "b2", "Robert", other))
    assert [mailbox(db, email)["name"] for email in (ANN, BOB)] == ["Ann", "Robert"]
    assert [password_of(db, email, "totp") for email in (ANN, BOB)] == [secret, other]


def test_without_an_update_nothing_changes(db: Database, either_settings: Settings, tmp_path: Path) -> None:
    """An import without an update leaves stored mailboxes as they are."""
    import_file(db, either_settings, write_csv(tmp_path / "a.csv", [(ANN, "a")]), test=False)
    before = mailbox(db, ANN)
    stored = import_file(db, either_settings, write_csv(tmp_path / "b.csv", [(ANN, "b")]), test=False)
    assert "updated" not in stored.summary.envelope()["data"]
    assert mailbox(db, ANN) == before


def test_a_check_says_what_an_update_would_do(
    db: Database, either_settings: Settings, tmp_path: Path
) -> None:
    """The dry run has the same result for each stored mailbox, and changes nothing."""
    import_file(db, either_settings, write_csv(tmp_path / "a.csv", [(ANN, "a"), (BOB, "b")]), test=False)
    before = rows_of(db, Mailbox)
    file = write_csv(tmp_path / "b.csv", [(ANN, "a"), (BOB, "b2"), (CAT, "c")])
    prepared: Any = prepare.fn(file, either_settings.max_file_bytes)
    assert would_replace(db, "default", prepared) == {ANN: "unchanged", BOB: None}
    assert would_replace(db, "nobody", prepared) == {}
    assert rows_of(db, Mailbox) == before


def test_a_run_with_the_old_password_loses_its_claim(
    db: Database, either_settings: Settings, tmp_path: Path
) -> None:
    """The verdict on the old password, which arrives after the update, is not stored."""
    stored = import_file(db, either_settings, write_csv(tmp_path / "a.csv", [(ANN, "old")]))
    (claimed,) = claim(db, [stored.targets[0].mailbox_id], now(), now() + either_settings.claim_lease)
    update(db, either_settings, tmp_path, (ANN, "new"))
    save(db, [(claimed, verdict_on(claimed, Reason.WRONG_CREDENTIALS))])
    row = mailbox(db, ANN)
    assert (row["status"], row["smtp_state"], password_of(db, ANN)) == ("pending", "untested", "new")


def test_updates_at_once_leave_one_whole_result(
    db: Database, either_settings: Settings, tmp_path: Path
) -> None:
    """Of two updates at once one wins for each mailbox: password and name are of the same file."""
    emails = [f"user{n}@contoso.com" for n in range(40)]
    rows = [(email, "old", "Old", "") for email in emails]
    import_file(db, either_settings, write_csv(tmp_path / "a.csv", rows, HEADER), test=False)
    barrier = threading.Barrier(2)

    def one(word: str) -> None:
        (tmp_path / word).mkdir()
        barrier.wait(30)
        update(
            db,
            either_settings,
            tmp_path / word,
            *((email, word, word, "") for email in emails[:: 1 if word == "x" else -1]),
        )

    threads = [threading.Thread(target=one, args=(word,)) for word in ("x", "y")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for email in emails:
        row = mailbox(db, email)
        assert password_of(db, email) == row["name"] in ("x", "y")
        assert password_of(db, email, "old_password") in ({"old", "x", "y"} - {row["name"]})


def test_a_rotation_between_update_and_verdict(
    db: Database, either_settings: Settings, tmp_path: Path
) -> None:
    """Both passwords of a mailbox that waits for its verdict are re-encrypted."""
    key, next_key = parse_keys(f"{new_key()},{new_key()}")
    before, rotated = Database(db.engine, Sealer([key])), Database(db.engine, Sealer([next_key, key]))
    import_file(before, either_settings, write_csv(tmp_path / "a.csv", [(ANN, "old")]), test=False)
    update(before, either_settings, tmp_path, (ANN, "new"))
    assert reseal(rotated).values >= 2
    only_new = Database(db.engine, Sealer([next_key]))
    assert password_of(only_new, ANN) == "new"
    assert password_of(only_new, ANN, "old_password") == "old"


@pytest.mark.parametrize("field", ["password", "old_password"])
def test_no_secret_is_shown(db: Database, either_settings: Settings, tmp_path: Path, field: str) -> None:
    """Neither password is in the summary, the report or the repr of the mailbox."""
    import_file(db, either_settings, write_csv(tmp_path / "a.csv", [(ANN, "Canary-0ld")]), test=False)
    stored = update(db, either_settings, tmp_path, (ANN, "Canary-n3w"))
    sealed = mailbox(db, ANN)[field]
    assert b"Canary" not in sealed
    found = find_outcomes(db, "default", stored.import_id)
    assert "Canary" not in f"{stored} {stored.summary.markdown()} {stored.summary.envelope()} {found}"
