"""A file becomes mailboxes once, even during other imports, or nothing is stored at all."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from schemas.prepare import Prepared
from schemas.providers import Endpoint
from schemas.row_reasons import RowError, RowReason, SkipReason
from schemas.rows import Duplicate
from schemas.sealing import Owner, Sealer
from schemas.settings import Settings
from schemas.summary import MAX_ROWS_STORED, Result
from schemas.tables import Import, ImportRow, Mailbox, Workspace, now
from schemas.verdicts import Target
from tasks.prepare import prepare
from tasks.storage.database import Database
from tasks.storage.imports import find_import
from tasks.store import NOT_TESTED, Origin, seal, store
from tests.conftest import accounts, import_file, mailboxes_file, rows_of, with_changes, write_csv
from tests.support.rows import prepared_of


def write(path: Path, *rows: tuple[str, ...]) -> Path:
    return write_csv(path / "mailboxes.csv", rows, ("email", "password", "name", "totpsecret"))


def prepared(file: Path) -> Prepared:
    found = prepare.fn(file, 1_000_000)
    assert isinstance(found, Prepared)
    return found


def mailboxes(db: Database) -> dict[str, dict[str, Any]]:
    return {row["email"]: row for row in rows_of(db, Mailbox)}


def test_a_row_becomes_a_mailbox(db: Database, either_settings: Settings, tmp_path: Path) -> None:
    """A mailbox has its row's values, its servers, the tag, and secrets that only it can unseal."""
    file = write(tmp_path, ("Anna@Outlook.com", "pass word", " Anna ", "JBSW Y3DP EHPK 3PXP"))
    before = now()
    stored = import_file(db, either_settings, file, workspace="sales", tag="spring")
    (row,) = rows_of(db, Mailbox)
    owner = Owner("sales", "anna@outlook.com", "password")
    assert db.sealer.open(row["password"], owner) == "pass word"
    assert db.sealer.open(row["totp"], owner._replace(field="totp")) == "JBSWY3DPEHPK3PXP"
    assert (row["email"], row["email_key"], row["name"]) == ("Anna@Outlook.com", "anna@outlook.com", "Anna")
    assert (row["status"], row["diagnosis"], row["attempts"]) == ("pending", "", 0)
    assert (row["tag"], row["claimed_until"], row["tested_at"]) == ("spring", None, None)
    assert before <= row["created_at"] <= now()
    smtp, imap = Endpoint("smtp.office365.com", 587), Endpoint("outlook.office365.com", 993)
    assert stored.targets == (Target(row["id"], smtp, imap),)


def test_counts_and_outcomes(db: Database, either_settings: Settings, tmp_path: Path) -> None:
    """Every row is imported, skipped or failed, in the file's order, and the import has the same counts."""
    import_file(db, either_settings, write(tmp_path, ("old@outlook.com", "pw")))
    file = write(
        tmp_path,
        ("new@outlook.com", "pw"),
        ("nobody", "pw"),
        ("NEW@outlook.com", "other"),
        ("old@outlook.com", "pw"),
        ("edge@outlook.com", " pw"),
        ("", "pw"),
    )
    summary = import_file(db, either_settings, file).summary
    assert [(outcome.line, outcome.email, outcome.result) for outcome in summary.outcomes] == [
        (2, "new@outlook.com", Result.IMPORTED),
        (3, "nobody", Result.FAILED),
        (4, "NEW@outlook.com", Result.SKIPPED),
        (5, "old@outlook.com", Result.SKIPPED),
        (6, "edge@outlook.com", Result.IMPORTED),
        (7, "unknown", Result.FAILED),
    ]
    assert summary.outcomes[3].reason == SkipReason.ALREADY_STORED.message
    assert "space" in summary.outcomes[4].reason
    stored = rows_of(db, Import)[-1]
    assert (stored["imported"], stored["skipped"], stored["failed"]) == (2, 2, 2)
    assert (stored["id"], stored["file_name"]) == (summary.import_id, "mailboxes.csv")


def test_stored_mailboxes_stay_untouched(db: Database, either_settings: Settings, tmp_path: Path) -> None:
    """A stored mailbox keeps its credentials byte for byte, whatever a later file contains."""
    import_file(db, either_settings, write(tmp_path, ("anna@outlook.com", "first", "Anna")), tag="one")
    before = rows_of(db, Mailbox)
    later = write(tmp_path, ("ANNA@outlook.com", "second", "Hanna"), ("bert@outlook.com", "pw", ""))
    stored = import_file(db, either_settings, later, tag="two")
    assert (stored.summary.imported, stored.summary.skipped) == (1, 1)
    assert rows_of(db, Mailbox)[0] == before[0]
    assert [target.mailbox_id for target in stored.targets] == [mailboxes(db)["bert@outlook.com"]["id"]]


def test_the_same_file_twice(db: Database, either_settings: Settings, tmp_path: Path) -> None:
    """The second import of a file adds and tests no mailbox, and reports that they already exist."""
    file = mailboxes_file(tmp_path / "mailboxes.csv", accounts(20))
    first = import_file(db, either_settings, file)
    before = rows_of(db, Mailbox)
    second = import_file(db, either_settings, file)
    assert (first.summary.imported, second.summary.imported, second.summary.skipped) == (20, 0, 20)
    assert second.targets == ()
    assert rows_of(db, Mailbox) == before


def test_a_file_without_a_good_row(db: Database, either_settings: Settings, tmp_path: Path) -> None:
    """A file whose every row fails leaves an import with its errors and no mailbox."""
    stored = import_file(db, either_settings, write(tmp_path, ("nobody", "pw"), ("anna@outlook.com", "")))
    assert (stored.summary.imported, stored.summary.failed, stored.targets) == (0, 2, ())
    assert rows_of(db, Mailbox) == []


def test_workspaces_do_not_see_each_other(db: Database, either_settings: Settings, tmp_path: Path) -> None:
    """The same mailbox in two workspaces is stored twice, and neither can unseal the other's secret."""
    file = write(tmp_path, ("anna@outlook.com", "pw"))
    assert import_file(db, either_settings, file, "one").summary.imported == 1
    assert import_file(db, either_settings, file, "two").summary.imported == 1
    assert [row["name"] for row in rows_of(db, Workspace)] == ["one", "two"]
    first, second = rows_of(db, Mailbox)
    assert first["workspace_id"] != second["workspace_id"]
    owner = Owner("one", "anna@outlook.com", "password")
    assert db.sealer.open(first["password"], owner) == "pw"
    with pytest.raises(Exception, match="damaged or belongs to another mailbox"):
        db.sealer.open(second["password"], owner)


def test_row_errors_are_kept(db: Database, either_settings: Settings, tmp_path: Path) -> None:
    """Every failed row is stored with its line and reason, even if the summary shows fewer."""
    file = write(tmp_path, *(("nobody", "pw") for _ in range(60)))
    summary = import_file(db, either_settings, file).summary
    rows = rows_of(db, ImportRow)
    assert [(row["import_id"], row["line"], row["email"], row["reason"]) for row in rows] == [
        (summary.import_id, line, "nobody", RowReason.INVALID_EMAIL) for line in range(2, 62)
    ]


def test_row_errors_are_stored_up_to_a_bound(db: Database, either_settings: Settings, tmp_path: Path) -> None:
    """Of 1,500 failed rows the first 1,000 are stored and all are counted."""
    file = write(tmp_path, *(("nobody", "pw") for _ in range(MAX_ROWS_STORED + 500)))
    summary = import_file(db, either_settings, file).summary
    assert (summary.failed, len(summary.errors), len(summary.outcomes)) == (1500, 1500, 1500)
    assert [row["line"] for row in rows_of(db, ImportRow)] == [*range(2, MAX_ROWS_STORED + 2)]
    found = find_import(db, "default", summary.import_id or 0, MAX_ROWS_STORED, 50)
    assert found is not None
    assert (found.failed, found.errors_stored) == (1500, MAX_ROWS_STORED)
    assert ([error.line for error in found.errors], found.next_cursor) == ([MAX_ROWS_STORED + 1], None)


def test_duplicates_are_not_sealed(db: Database, either_settings: Settings, tmp_path: Path) -> None:
    """Of 5,000 rows of one mailbox, one is sealed and stored."""
    file = write(tmp_path, *(("anna@outlook.com", f"pw {n}") for n in range(5000)))
    it = prepared(file)
    assert (it.kept.height, len(it.duplicates)) == (1, 4999)
    counts = import_file(db, either_settings, file).summary
    assert (counts.imported, counts.skipped, len(counts.outcomes)) == (1, 4999, 5000)
    assert len(rows_of(db, Mailbox)) == 1


def test_five_hundred_rows(db: Database, either_settings: Settings, tmp_path: Path) -> None:
    """The maximum of 500 mailboxes is stored in one import, each under its own number."""
    file = mailboxes_file(tmp_path / "mailboxes.csv", accounts(500))
    stored = import_file(db, either_settings, file)
    assert stored.summary.imported == 500
    found = mailboxes(db)
    addresses = [f"user{n}@outlook.com" for n in range(1, 501)]
    assert [target.mailbox_id for target in stored.targets] == [found[each]["id"] for each in addresses]
    for n in (1, 250, 500):
        owner = Owner("default", f"user{n}@outlook.com", "password")
        assert db.sealer.open(found[f"user{n}@outlook.com"]["password"], owner) == f"pass word {n}"


def test_servers_by_provider_and_by_override(db: Database, either_settings: Settings, tmp_path: Path) -> None:
    """A mailbox is tested on its provider's servers, or on those that the settings name for its domain."""
    servers = {"contoso.com": {"smtp": "mail.contoso.com:587", "imap": "mail.contoso.com:993"}}
    settings = with_changes(either_settings, servers=servers)
    file = write(
        tmp_path,
        ("anna@outlook.com", "pw"),
        ("anna@hotmail.co.uk", "pw"),
        ("anna@Contoso.com", "pw"),
        ("anna@sub.contoso.com", "pw"),
    )
    targets = import_file(db, settings, file).targets
    assert [str(target.smtp) for target in targets] == [
        "smtp.office365.com:587",
        "smtp.office365.com:587",
        "mail.contoso.com:587",
        "smtp.office365.com:587",
    ]
    assert [str(target.imap) for target in targets] == [
        "outlook.office365.com:993",
        "imap-mail.outlook.com:993",
        "mail.contoso.com:993",
        "outlook.office365.com:993",
    ]


def test_mailboxes_imported_without_a_test_are_not_due(
    db: Database, either_settings: Settings, tmp_path: Path
) -> None:
    """Without a test a mailbox is held; with one, a retest finds it if this run is killed."""
    import_file(db, either_settings, write(tmp_path, ("quiet@outlook.com", "pw")), test=False)
    import_file(db, either_settings, write(tmp_path, ("tested@outlook.com", "pw")))
    found = mailboxes(db)
    assert found["quiet@outlook.com"]["next_attempt_at"] is None
    assert found["quiet@outlook.com"]["diagnosis"] == NOT_TESTED
    wait = found["tested@outlook.com"]["next_attempt_at"] - now()
    assert timedelta(0) < wait <= either_settings.claim_lease


def test_nothing_slow_happens_in_the_transaction(
    db: Database, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While secrets are sealed, no connection is open, so other imports can write."""
    file = mailboxes_file(tmp_path / "mailboxes.csv", accounts(20))
    open_connections: list[int] = []
    pool = db.engine.pool
    assert isinstance(pool, sa.QueuePool)

    def sealed(kept: pl.DataFrame, workspace: str, sealer: Sealer) -> pl.DataFrame:
        open_connections.append(pool.checkedout())
        return seal(kept, workspace, sealer)

    monkeypatch.setattr("tasks.store.seal", sealed)
    assert import_file(db, settings, file).summary.imported == 20
    assert open_connections == [0]


# At once.


@pytest.mark.slow
@pytest.mark.parametrize("workspaces", [("one", "one"), ("one", "two")])
def test_two_imports_at_once(
    db: Database, either_settings: Settings, tmp_path: Path, workspaces: tuple[str, str]
) -> None:
    """Two overlapping files imported at once, in opposite orders, store each mailbox once, no deadlock."""
    everybody = list(accounts(450).items())
    expected = 450 if workspaces[0] == workspaces[1] else 800
    for turn in range(6):
        names = [f"{workspace} {turn}" for workspace in workspaces]
        with db.engine.begin() as connection:  # otherwise the second import would wait for the first one
            for name in set(names):
                connection.execute(sa.insert(Workspace).values(name=name, created_at=now()))
        ready = [
            prepared(mailboxes_file(tmp_path / "up.csv", dict(everybody[:400]))),
            prepared(mailboxes_file(tmp_path / "down.csv", dict(everybody[:49:-1]))),
        ]
        barrier = threading.Barrier(2)

        def run(at: int, ready: list[Prepared] = ready, names: list[str] = names) -> tuple[int, int]:
            origin = Origin("mailboxes.csv", names[at], None, test=True)
            barrier.wait()  # noqa: B023  it belongs to this iteration
            summary = store.fn(ready[at], origin, db, either_settings).summary
            return summary.imported, summary.skipped

        with ThreadPoolExecutor(2) as pool:
            counts = list(pool.map(run, range(2)))
        assert [imported + skipped for imported, skipped in counts] == [400, 400]
        assert sum(imported for imported, _ in counts) == expected
    assert len(rows_of(db, Mailbox)) == 6 * expected


# All or nothing.


def test_nothing_is_stored_when_something_fails(
    db: Database, either_settings: Settings, tmp_path: Path
) -> None:
    """A fault in the last statement rolls back the workspace, the import and every mailbox."""
    file = write(tmp_path, ("anna@outlook.com", "pw"), ("nobody", "pw"))
    good = prepared(file)
    twice = replace(good, errors=good.errors * 2)  # one line cannot fail twice
    origin = Origin(file.name, "default", None, test=True)
    with pytest.raises(sa.exc.IntegrityError) as error:
        store.fn(twice, origin, db, either_settings)
    assert "SQL parameters hidden" in str(error.value)
    for model in (Workspace, Import, ImportRow, Mailbox):
        assert rows_of(db, model) == []


# Before it is stored.


def test_sealed_rows_show_nothing(db: Database, tmp_path: Path) -> None:
    """Sealed rows contain no password, prepared rows show none, and errors show only the address."""
    file = write(tmp_path, ("anna@outlook.com", "hunter2hunter2"), ("x@outlook.com", "hunter2\x01"))
    it = prepared(file)
    sealed = seal(it.kept, "default", db.sealer)
    assert "hunter2" not in repr(it)
    assert b"hunter2" not in sealed["password"][0]
    assert "hunter2" not in repr((sealed, sealed.to_dicts()))
    assert it.errors == (RowError(3, "x@outlook.com", RowReason.CONTROL_CHARACTERS),)
    assert sealed.schema["totp"] == pl.Binary


def test_store_counts_duplicates_and_kept_rows(db: Database, either_settings: Settings) -> None:
    """Duplicates are counted from the result of `dedupe`, and kept rows from the frame alone."""
    nothing = prepared_of(duplicates=(Duplicate(3, "anna@outlook.com"),), ignored=("Phone",))
    origin = Origin("mailboxes.csv", "default", None, test=True)
    stored = store.fn(nothing, origin, db, either_settings)
    assert (stored.summary.skipped, stored.summary.ignored) == (1, ("Phone",))


def test_an_invalid_file_gives_a_refusal(tmp_path: Path) -> None:
    """Reading an invalid file returns the contract's refusal, and raises nothing."""
    refusal = prepare.fn(tmp_path / "missing.csv", 1000)
    assert str(getattr(refusal, "message", "")) == "CSV file is required"
