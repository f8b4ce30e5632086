"""A disk that fills up while something is written: a sentence, nothing by halves, and later it works."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.cli.app import main
from schemas.settings import PREFIX, Settings
from schemas.standing import MailboxStatus
from schemas.tables import Mailbox, now
from tasks import tell_changes as telling
from tasks.doctor.installation import check_disk
from tasks.storage.changes import Settled, record_changes
from tasks.storage.database import Database, DatabaseLostError, database
from tasks.tell_changes import tell_changes
from tests.conftest import import_file, rows_of, write_csv
from tests.support.receiver import receiving
from tests.support.shell import PROJECT, Shell
from tests.support.standings import standings_after
from tests.support.visitor import Visitor, text_of
from tests.test_api import api_with, csv_of
from tests.test_canary_faults import full, needs_root, small_folder
from tests.test_status_changes import OK, WRONG
from tests.test_updates import mailbox, password_of, update

ANN = "ann@contoso.com"
NO_SPACE = "cannot be written: No space left on device."
ROWS = [(f"user{n}@contoso{n % 5}.com", "p" * 200) for n in range(300)]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    with small_folder(folder):
        yield folder


@contextmanager
def nearly_full(folder: Path, left: int) -> Iterator[None]:
    """Fill the file system of a folder up to this many bytes."""
    with full(folder):
        filler = folder / ".filler"
        with filler.open("r+b") as file:
            file.truncate(filler.stat().st_size - left)
        yield


def visible(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name != ".filler"]


@needs_root
@pytest.mark.sqlite
def test_files_are_written_whole_or_not_at_all(
    settings: Settings, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without room for all of it, a hand-over, a report or a check's report leaves nothing, and says so."""
    file = write_csv(tmp_path / "in.csv", [*ROWS, *((f"bad{n}", "p") for n in range(40))])
    with database(settings) as db:
        import_file(db, settings, file)
    commands = [
        ["imports", "handover", "1", "--to", str(small / "handed")],
        *(["imports", "report", "1", "--to", str(small / f"report{kind}")] for kind in (".xlsx", ".html")),
        ["imports", "report", "1", "--to", str(small / "report.csv")],
        ["check", str(file), "--report", str(small / "checked.csv")],
    ]
    assert main(commands[-2]) == 0
    before = (small / "report.csv").read_bytes()
    with nearly_full(small, 4096):  # room for a folder and a small file
        for words in commands:
            capsys.readouterr()
            assert main(words) == 2
            assert NO_SPACE in " ".join(capsys.readouterr().err.split())
        assert visible(small) == ["report.csv"]
        assert (small / "report.csv").read_bytes() == before
    assert [main(words) for words in commands] == [0] * len(commands)
    assert sorted(visible(small / "handed")) == ["README.txt", "fix-rows.csv"]


def test_output_that_cannot_be_written_is_named(offline: Shell) -> None:
    """A list that does not fit into its file ends with code 3 and a sentence, and is no internal error."""
    with database(offline.settings) as db:
        import_file(db, offline.settings, write_csv(offline.folder / "in.csv", ROWS))
    with Path("/dev/full").open("w") as output:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "mailboxes", "list", "--csv", "--limit", "300"],
            cwd=PROJECT,
            env=offline.environment,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    told = f"The output {NO_SPACE} Free some space and run the command again."
    assert (done.returncode, " ".join(done.stderr.split())) == (3, told)


@pytest.fixture
def on_small(small: Path) -> Settings:
    """Settings whose database is there."""
    return Settings.model_validate({"database_url": f"sqlite:///{small / 'mailboxes.db'}"})


@pytest.fixture
def small_db(on_small: Settings) -> Iterator[Database]:
    with database(on_small) as db:
        yield db


@needs_root
@pytest.mark.sqlite
def test_an_update_keeps_every_old_password(
    small: Path, on_small: Settings, small_db: Database, tmp_path: Path
) -> None:
    """An update that fills the disk changes no mailbox; repeated with room, it changes all."""
    import_file(small_db, on_small, write_csv(tmp_path / "in.csv", ROWS))
    before = rows_of(small_db, Mailbox)
    new = [(email, "q" * 250) for email, _ in ROWS]
    with full(small), pytest.raises(DatabaseLostError, match="database or disk is full"):
        update(small_db, on_small, tmp_path, *new)
    assert rows_of(small_db, Mailbox) == before
    assert update(small_db, on_small, tmp_path, *new).summary.updated == len(ROWS)
    assert password_of(small_db, ROWS[0][0]) == "q" * 250


@needs_root
@pytest.mark.sqlite
def test_a_command_leads_to_the_full_disk(
    small: Path,
    on_small: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A command that cannot open the database says what to check, the doctor finds it, and no key is lost."""
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", on_small.database_url.get_secret_value())
    with database(on_small):
        key = (small / "mailboxes.key").read_bytes()
    with full(small):
        for words in (["mailboxes", "list"], ["keys", "encryption", "add"]):
            assert main(words) == 2
            told = " ".join(capsys.readouterr().err.split())
            assert "the database cannot be opened: disk I/O error: check that its disk has room" in told
        assert "only 0 MiB free" in " ".join(found.text for found in check_disk(on_small))
    assert (small / "mailboxes.key").read_bytes() == key
    assert main(["mailboxes", "list"]) == 1  # there is none


@needs_root
@pytest.mark.sqlite
def test_the_page_can_be_read_and_says_that_it_is_not_ready(small: Path, on_small: Settings) -> None:
    """With a full disk, sign-in and pages work; an import and a password get 503, and both work later."""
    with api_with(on_small) as api, Visitor(api.url, api.key()) as person:
        assert person.import_file(csv_of([ANN, "p"])).url.path == "/imports/1"
        unused, many = api.key(), csv_of(*ROWS)
        with full(small):
            with Visitor(api.url, unused) as other:
                assert other.get("/imports/1/report.csv").status_code == 200
            for answer in (
                person.import_file(many),
                person.post("/mailboxes/1/password", password="p" * 200),
            ):
                assert (answer.status_code, "Not ready at the moment" in text_of(answer)) == (503, True)
            assert "Waits for a test" in text_of(person.get("/mailboxes/1"))
            assert [row["email"] for row in rows_of(api.db, Mailbox)] == [ANN]
        assert person.import_file(many).url.path == "/imports/2"
        assert "password is replaced" in text_of(person.post("/mailboxes/1/password", password="new"))
        assert mailbox(api.db, ANN)["old_password"] is not None


@needs_root
@pytest.mark.sqlite
async def test_changes_are_told_once_there_is_room(
    small: Path,
    on_small: Settings,
    small_db: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A run whose changes cannot be told because the disk is full does not fail, and the next one tells."""
    monkeypatch.setattr(telling, "FIRST_PAUSE", 0.01)
    targets = import_file(small_db, on_small, write_csv(tmp_path / "in.csv", ROWS)).targets
    with small_db.engine.begin() as connection:
        for status, reason in ((MailboxStatus.ACTIVE, OK), (MailboxStatus.FAILED, WRONG)):
            standings = standings_after(reason, reason)
            settled = [Settled(target.mailbox_id, status, standings) for target in targets]
            record_changes(connection, settled, now())
    with receiving() as receiver:
        settings = receiver.on(on_small)
        with full(small):
            await tell_changes(small_db, settings)
            assert caplog.messages == ["Changes of mailboxes were not told: DatabaseLostError"]
        for _ in range(2):
            await tell_changes(small_db, settings)
        assert list(receiver.asked.values()) == [1]
        assert len(receiver.told) == 100
