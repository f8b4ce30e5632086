"""Several workers on one inbox, also killed ones: each file ends in one place, imported once."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import sleep

import pytest

from tasks.files.inbox import Folders
from tests.conftest import write_csv
from tests.support.machine import wait_for
from tests.support.scanner import Scanner, killed_at_last
from tests.support.shell import Shell

pytestmark = pytest.mark.slow

NOWHERE = '{"*": {"smtp": "127.0.0.1:9", "imap": "127.0.0.1:9"}}'
REFUSED = (
    b"",
    b"email,password\n",
    b"name,phone\nAnn,1\n",
    b"PK\x03\x04workbook",
    b'email,password\na@b.co,"x" y\n',
    b"email,password\n" + b"".join(b"many%d@contoso.com,p\n" % n for n in range(501)),
)


@dataclass(frozen=True)
class Dropped:
    """A file for the inbox, and its expected result; `mailboxes` is None for a refused file."""

    place: str
    content: bytes
    mailboxes: frozenset[str] | None
    failed: int = 0

    @property
    def stem(self) -> str:
        return Path(self.place).stem


@pytest.fixture
def folders(shell: Shell) -> Folders:
    shell.environment |= {
        "OUTLOOK_IMPORT_WATCH_FOLDER": str(shell.folder),
        "OUTLOOK_IMPORT_SETTLE_SECONDS": "0.1",
        "OUTLOOK_IMPORT_SERVERS": NOWHERE,
    }
    return Folders(shell.folder)


def good_file(number: int, rows: int, failed: int, dice: random.Random, folder: Path) -> Dropped:
    """A file of this many rows, from a shared set of mailboxes, so that files overlap."""
    mailboxes = {f"user{n}@contoso.com" for n in dice.sample(range(1500), rows)}
    lines = [[email, f"password of {email}"] for email in sorted(mailboxes)] + [["", "p"]] * failed
    content = write_csv(folder / "draft", lines).read_bytes()
    place = ("boxes", "spring/my boxes", "Frühling 26/Büchse")[number % 3]
    return Dropped(f"{place} {number}.csv", content, frozenset(mailboxes), failed)


def drop(dropped: Dropped, folders: Folders) -> None:
    path = folders.inbox / dropped.place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(dropped.content)
    if not dropped.content:
        os.utime(path, (0, 0))  # a new empty file would be left for a minute, to be filled


def all_done(folders: Folders) -> bool:
    """Whether all files are done; uses os.walk, because folders of claims vanish meanwhile."""
    return not any(names for top in (folders.inbox, folders.processing) for _, _, names in os.walk(top))


def names_in(folder: Path, ending: str) -> Counter[str]:
    """The number of outcomes per file, by its name without time and extension."""
    return Counter(path.name.split(".")[0] for path in folder.iterdir() if path.name.endswith(ending))


def check_places(dropped: list[Dropped], folders: Folders, shell: Shell) -> None:
    """Every file has one outcome, in one place, and the database has each distinct mailbox once."""
    good = [one for one in dropped if one.mailboxes is not None]
    refused = Counter(one.stem for one in dropped if one.mailboxes is None)
    assert all_done(folders)
    assert names_in(folders.processed, ".report.csv") == Counter(one.stem for one in good)
    assert names_in(folders.failed, ".csv") == Counter(one.stem for one in good if one.failed)
    assert names_in(folders.rejected, ".csv") == refused
    assert names_in(folders.rejected, ".error.txt") == refused
    contents = sorted(path.read_bytes() for path in folders.rejected.glob("*.csv"))
    assert contents == sorted(one.content for one in dropped if one.mailboxes is None)
    everything = [path.name for path in shell.folder.rglob("*") if path.is_file()]
    assert [name for name in everything if name.endswith(".tmp")] == []
    stored = [email for (email,) in shell.rows("SELECT email FROM mailbox")]
    distinct = frozenset[str]().union(*(one.mailboxes for one in good if one.mailboxes is not None))
    assert sorted(map(str, stored)) == sorted(distinct)


def imports(shell: Shell) -> Iterator[tuple[str, int]]:
    for name, imported in shell.rows("SELECT file_name, imported FROM import ORDER BY id"):
        yield Path(str(name)).stem, int(str(imported))


@pytest.mark.slow
def test_two_workers_import_each_of_40_files_once(shell: Shell, folders: Folders) -> None:
    """Two scanners give each of 40 files of 1 to 500 rows, 10 of them bad, one outcome."""
    dice = random.Random(40)  # noqa: S311
    sizes = [1, 500, *(dice.choice((dice.randint(1, 60), dice.randint(1, 500))) for _ in range(32))]
    dropped = [good_file(n, rows, n % 2 if n < 8 else 0, dice, shell.folder) for n, rows in enumerate(sizes)]
    dropped += [Dropped(f"refused {n}.csv", content, None) for n, content in enumerate(REFUSED)]
    assert (len(dropped), sum(bool(one.failed or one.mailboxes is None) for one in dropped)) == (40, 10)
    dice.shuffle(dropped)
    scanners = [Scanner(shell.environment, shell.folder, number) for number in range(2)]
    with killed_at_last(scanners):
        for one in dropped:
            drop(one, folders)
            sleep(0.02)
        wait_for("an empty inbox", lambda: all_done(folders), 300)
        for scanner in scanners:
            scanner.stop()
    said = [message for scanner in scanners for message in scanner.messages]
    counts = Counter[str]()
    for message in said:
        for part in message.split(", "):
            number, result = part.split(" ", 1)
            counts[result] += int(number)
    assert counts == {"imported": 34, "rejected": 6}
    assert all(scanner.messages for scanner in scanners)  # both did some of the work
    check_places(dropped, folders, shell)
    assert Counter(name for name, _ in imports(shell)) == Counter(
        one.stem for one in dropped if one.mailboxes is not None
    )


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_loses_and_duplicates_nothing(shell: Shell, folders: Folders, kills: int) -> None:
    """Two workers that are killed and restarted again and again get the same result as undisturbed ones."""
    dice = random.Random(9)  # noqa: S311
    dropped: list[Dropped] = []
    scanners: list[Scanner] = []
    with killed_at_last(scanners):
        scanners += [Scanner(shell.environment, shell.folder, number) for number in range(2)]
        for number in range(kills):
            new = [good_file(number, dice.randint(1, 40), number % 2, dice, shell.folder)]
            if number < len(REFUSED):
                new.append(Dropped(f"refused {number}.csv", REFUSED[number], None))
            for one in new:
                drop(one, folders)
            dropped += new
            sleep(dice.uniform(0.05, 1.5))
            victim = dice.randrange(2)
            scanners[victim].kill()
            scanners[victim] = Scanner(shell.environment, shell.folder, number + 2)
        wait_for("an empty inbox", lambda: all_done(folders), 120)
        for scanner in scanners:
            scanner.stop()
    check_places(dropped, folders, shell)
    imported = list(imports(shell))
    # A file interrupted between commit and outcome is imported again, and adds no mailbox.
    assert {name for name, _ in imported} == {one.stem for one in dropped if one.mailboxes is not None}
    assert len(imported) - len({name for name, _ in imported}) <= kills
    assert max(Counter(name for name, count in imported if count).values()) == 1
