"""Encryption keys are added, rotated and removed while everything else runs, and are never shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest
from pydantic import SecretStr
from sqlalchemy import delete, insert, select, update
from sqlmodel import col

import tasks.storage.key_rotation
from flows.manage import main
from schemas.sealing import Owner, Sealer, UnsealError, key_id, new_key, parse_keys
from schemas.settings import PREFIX, Settings
from schemas.tables import Import, Mailbox, now, table_of
from tasks.configuration import load_settings
from tasks.probe import Probing
from tasks.storage.database import Database, database, key_file, url_of, workspace_id_of
from tasks.storage.key_rotation import SETTLING_SECONDS, count_sealed, reseal
from tests.conftest import (
    StartOutlook,
    accounts,
    import_file,
    import_mailboxes,
    probe_targets,
    with_changes,
    with_servers,
    write_csv,
)
from tests.support.postgresql import ending
from tests.support.shell import PROJECT

OLD, NEW = BOTH = new_key(), new_key()
ENCRYPTION = ("keys", "encryption")
SECRETS = {"ann@contoso.com": ("Canary pass", "JBSWY3DPEHPK3PXP"), "bob@contoso.com": ("Canary p2", "")}
FINGERPRINT = Owner("default", "key-1", "fingerprint")


def id_of(*keys: str) -> str:
    return ", ".join(key_id(key).hex() for key in parse_keys(",".join(keys)))


@pytest.fixture
def either_database(either_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """SQLite, then PostgreSQL, whose keys come from the settings; at first with the old key only."""
    monkeypatch.setenv(f"{PREFIX}ENCRYPTION_KEYS", OLD)
    return with_changes(either_settings, encryption_keys=SecretStr(OLD))


def fill(settings: Settings, folder: Path) -> None:
    """Two mailboxes, one with a TOTP secret, and an import with an idempotency key."""
    rows = [(email, *secrets) for email, secrets in SECRETS.items()]
    file = write_csv(folder / "in.csv", rows, ("email", "password", "totp"))
    with database(settings) as opened:
        import_file(opened, settings, file)
        sealed = opened.sealer.seal("Canary digest", FINGERPRINT)
        with opened.engine.begin() as connection:
            connection.execute(update(Import).values(idempotency_key="key-1", fingerprint=sealed))


def everything_in(settings: Settings, *keys: str) -> list[str]:
    """Every stored secret, unsealed with these keys only."""
    sealer = Sealer(parse_keys(",".join(keys)))
    with database(settings) as opened, opened.engine.connect() as connection:
        found = [
            sealer.open(row[field], Owner("default", row["email_key"], field))
            for row in connection.execute(select(table_of(Mailbox)).order_by(col(Mailbox.id))).mappings()
            for field in ("password", "totp")
            if row[field] is not None
        ]
        sealed = connection.scalars(select(col(Import.fingerprint)))
        return found + [sealer.open(value, FINGERPRINT) for value in sealed if value is not None]


# Rotation, on both databases.


def test_rotation_seals_everything_with_the_first_key(
    either_database: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A rotation lets the first key alone unseal all stored secrets, and prints none of them."""
    fill(either_database, tmp_path)
    before = everything_in(either_database, OLD)
    assert len(before) == 4
    monkeypatch.setenv(f"{PREFIX}ENCRYPTION_KEYS", f"{NEW},{OLD}")
    assert main([*ENCRYPTION, "rotate"]) == 0
    assert everything_in(either_database, NEW) == before
    with pytest.raises(UnsealError):
        everything_in(either_database, OLD)
    said = capsys.readouterr()
    assert f"Re-encrypted with key {id_of(NEW)}: 4 values" in said.out
    assert f"No longer needed: {id_of(OLD)}. Remove it from {PREFIX}ENCRYPTION_KEYS" in said.out
    assert not [secret for secret in ("Canary", "JBSWY", NEW, OLD) if secret in said.out + said.err]

    assert main([*ENCRYPTION, "rotate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "key": id_of(NEW),
        "resealed": 0,
        "left": 0,
        "unopened": [],
        "no_longer_needed": [id_of(OLD)],
    }


def test_values_that_do_not_open_are_named_and_the_others_rotated(
    either_database: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A damaged value and one with a missing key are named by mailbox, with exit code 1, and left as is."""
    fill(either_database, tmp_path)
    lost = Sealer(parse_keys(new_key()))
    with database(either_database) as opened, opened.engine.begin() as connection:
        ann, bob = connection.scalars(select(col(Mailbox.id)).order_by(col(Mailbox.id))).all()
        sealed = connection.scalars(select(col(Mailbox.totp)).where(col(Mailbox.id) == ann)).one()
        assert sealed is not None
        damaged = {"totp": sealed[:-1] + bytes([sealed[-1] ^ 1])}
        connection.execute(update(Mailbox).where(col(Mailbox.id) == ann).values(damaged))
        foreign = {"password": lost.seal("x", Owner("default", "bob@contoso.com", "password"))}
        connection.execute(update(Mailbox).where(col(Mailbox.id) == bob).values(foreign))
    monkeypatch.setenv(f"{PREFIX}ENCRYPTION_KEYS", f"{NEW},{OLD}")
    for resealed in (2, 0):
        assert main([*ENCRYPTION, "rotate"]) == 1
        said = capsys.readouterr()
        assert f": {resealed} values" in said.out
        assert "No longer needed" not in said.out
        assert f"mailbox {ann}, totp: the value is damaged" in said.err
        assert f"mailbox {bob}, password: no encryption key has the id {lost.key_ids[0].hex()}" in said.err
    with database(load_settings()) as opened:
        assert count_sealed(opened.engine)[lost.key_ids[0]] == {"password": 1}
    assert main([*ENCRYPTION, "list", "--json"]) == 0
    states = {row["key"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert states == {id_of(NEW): "seals", id_of(OLD): "opens", lost.key_ids[0].hex(): "missing"}


def test_rotation_skips_locked_rows(
    on_postgresql: dict[str, str],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row that another transaction has locked on PostgreSQL is skipped, counted, and rotated next time."""
    address = SecretStr(on_postgresql[f"{PREFIX}DATABASE_URL"])
    keyed = with_changes(settings, database_url=address, encryption_keys=SecretStr(OLD))
    fill(keyed, tmp_path)
    monkeypatch.setattr(tasks.storage.key_rotation, "PAUSE_SECONDS", 0.01)
    with database(with_changes(keyed, encryption_keys=SecretStr(f"{NEW},{OLD}"))) as opened:
        with opened.engine.begin() as connection:
            connection.execute(
                update(Mailbox).where(col(Mailbox.email) == "bob@contoso.com").values(tag="held")
            )
            assert reseal(opened)[:2] == (3, ())
        assert (reseal(opened).values, everything_in(keyed, NEW)[2]) == (1, "Canary p2")


ROWS = 20_000


@contextmanager
def working_on(settings: Settings, folder: Path) -> Iterator[list[str]]:
    """Import small files and delete a mailbox of each, repeatedly, on one open database.

    Yields the addresses that must be stored at the end.
    """
    stop, kept = Event(), list[str]()

    def work() -> None:
        with database(settings) as opened:
            number = 0
            while not stop.is_set():
                number += 1
                emails = [f"import{number}-{n}@contoso.com" for n in range(5)]
                file = write_csv(folder / f"{number}.csv", [(email, f"p of {email}") for email in emails])
                import_file(opened, settings, file)
                with opened.engine.begin() as connection:
                    connection.execute(delete(Mailbox).where(col(Mailbox.email) == emails[0]))
                kept.extend(emails[1:])

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            yield kept
        finally:
            stop.set()
            working.result()


def fill_up(opened: Database, number: int) -> None:
    """This many mailboxes, so that a rotation takes a while."""
    with opened.engine.begin() as connection:
        workspace = workspace_id_of(connection, "default")
        counts = {"imported": number, "skipped": 0, "failed": 0}
        row = {"workspace_id": workspace, "file_name": "x", "created_at": now(), **counts}
        import_id = connection.scalars(insert(Import).values(row).returning(col(Import.id))).one()
        servers = {"smtp_host": "x", "smtp_port": 1, "imap_host": "x", "imap_port": 1}
        shared = {"workspace_id": workspace, "import_id": import_id, "status": "active", **servers}
        shared |= {"diagnosis": "", "attempts": 1, "created_at": now()}
        connection.execute(
            insert(Mailbox),
            [
                {"email": email, "email_key": email, "password": sealed, **shared}
                for email in (f"user{n}@contoso.com" for n in range(number))
                for sealed in [opened.sealer.seal(f"p of {email}", Owner("default", email, "password"))]
            ],
        )


def rotation() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.manage", *ENCRYPTION, "rotate"],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_killed_rotation_during_imports_loses_nothing(
    either_database: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After kill -9 during a rotation next to imports and deletions, a second rotation finishes."""
    # Programs that run meanwhile still seal with the old key and know the new one, as the manual says.
    beside = with_changes(either_database, encryption_keys=SecretStr(f"{OLD},{NEW}"))
    monkeypatch.setenv(f"{PREFIX}ENCRYPTION_KEYS", f"{NEW},{OLD}")
    new, old = (key_id(*parse_keys(key)) for key in (NEW, OLD))
    with database(either_database) as opened:
        fill_up(opened, ROWS)
        with working_on(beside, tmp_path) as kept:
            process = rotation()
            with ending(process):
                while new not in (sealed := count_sealed(opened.engine)):
                    assert process.poll() is None
                    time.sleep(0.01)
                process.kill()
                process.wait()
            assert 0 < sealed[new]["password"] < ROWS
            assert sum(count_sealed(opened.engine)[old].values()) > 0
            with ending(again := rotation()):
                again.wait(120)
        assert main([*ENCRYPTION, "rotate"]) == 0
        assert set(count_sealed(opened.engine)) == {new}
    emails = [*(f"user{n}@contoso.com" for n in range(ROWS)), *kept]
    assert len(kept) > 0
    assert sorted(everything_in(either_database, NEW)) == sorted(f"p of {email}" for email in emails)


async def test_mailboxes_are_tested_during_rotations(
    either_settings: Settings, monkeypatch: pytest.MonkeyPatch, start: StartOutlook
) -> None:
    """Logins during rotations use the correct passwords, and no verdict is lost."""
    monkeypatch.setattr(tasks.storage.key_rotation, "ROWS_AT_ONCE", 3)
    mailboxes = accounts(20)
    outlook = await start(mailboxes, delay=0.01)
    lists = [
        with_changes(either_settings, encryption_keys=SecretStr(f"{a},{b}")) for a, b in (BOTH, BOTH[::-1])
    ]
    chosen = with_servers(lists[0], outlook, probe_concurrency=5)
    ended = Event()

    def rotate() -> int:
        values = 0
        while not ended.is_set():
            for settings in lists:
                with database(settings) as opened:
                    values += reseal(opened).values
        return values

    with database(chosen) as opened, ThreadPoolExecutor(1) as pool:
        targets = import_mailboxes(opened, chosen, mailboxes)
        probing = Probing(opened, chosen, [target.mailbox_id for target in targets])
        rotations = pool.submit(rotate)
        await probe_targets(probing, targets, 3)
        ended.set()
        assert rotations.result() >= 20
    assert [str(verdict.status) for verdict in probing.verdicts] == ["active"] * 20
    assert sorted(everything_in(lists[0], *BOTH)) == sorted(a.password for a in mailboxes.values())


# The key file.


def keys_in(settings: Settings) -> list[str]:
    return key_file(url_of(settings)).read_text().split()


def an_hour_later(settings: Settings) -> None:
    path = key_file(url_of(settings))
    then = path.stat().st_mtime - SETTLING_SECONDS - 1
    os.utime(path, (then, then))


@pytest.mark.sqlite
def test_running_programs_use_an_added_key(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that opened the database before a key was added seals with the new key and unseals both."""
    fill(settings, tmp_path)
    with database(settings) as running:
        (old,) = keys_in(settings)
        assert main([*ENCRYPTION, "add"]) == 0
        new, *others = keys_in(settings)
        assert others == [old]
        assert Sealer(parse_keys(new)).open(running.sealer.seal("x", FINGERPRINT), FINGERPRINT) == "x"
        assert main([*ENCRYPTION, "rotate"]) == 0
        assert len(everything_in(settings, new)) == 4
        assert main([*ENCRYPTION, "add"]) == 0
        with database(settings) as newer:
            sealed = newer.sealer.seal("y", FINGERPRINT)
        assert running.sealer.open(sealed, FINGERPRINT) == "y"
    assert key_file(url_of(settings)).stat().st_mode & 0o777 == 0o600
    said = capsys.readouterr()
    assert f"Key {id_of(new)} is the first in" in said.out
    assert not [key for key in keys_in(settings) if key in said.out + said.err]


@pytest.mark.sqlite
def test_process_goes_on_where_the_key_file_cannot_be_read(settings: Settings) -> None:
    """A program that has its keys keeps working while the key file is missing or broken."""
    path = key_file(url_of(settings))
    with database(settings) as running:
        kept = path.read_text()
        path.write_text("nonsense")
        sealed = running.sealer.seal("x", FINGERPRINT)
        path.unlink()
        assert running.sealer.open(sealed, FINGERPRINT) == "x"
        path.write_text(f"{NEW}\n{kept}")
        assert running.sealer.key_ids[0] == key_id(*parse_keys(NEW))


@pytest.mark.sqlite
def test_keys_added_at_once_are_all_kept(settings: Settings, tmp_path: Path) -> None:
    """Eight keys added at once are all in the file, next to the first one, and no temporary file is left."""
    with database(settings):
        pass
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(main, [[*ENCRYPTION, "add"]] * 8)) == [0] * 8
    assert len(set(keys_in(settings))) == 9
    assert {path.name for path in tmp_path.iterdir() if ".db" not in path.name} == {"mailboxes.key"}


@pytest.mark.sqlite
def test_key_is_removed_only_when_nothing_needs_it(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key that seals, one that has sealed something, and one just replaced cannot be removed."""
    fill(settings, tmp_path)
    (old,) = keys_in(settings)

    def removal(*keys: str) -> tuple[int, str]:
        code = main([*ENCRYPTION, "remove", *(id_of(key) for key in keys)])
        return code, capsys.readouterr().err

    an_hour_later(settings)
    assert removal(old) == (1, f"Nothing was removed: {id_of(old)} is the key that seals\n")
    assert removal(NEW)[0] == 1
    main([*ENCRYPTION, "add"])
    new = keys_in(settings)[0]
    an_hour_later(settings)
    code, said = removal(old)
    assert (code, "has sealed 4 stored values: rotate first" in said) == (1, True)
    main([*ENCRYPTION, "rotate"])
    key_file(url_of(settings)).touch()
    code, said = removal(old)
    assert (code, "within the last hour" in said) == (1, True)
    assert keys_in(settings) == [new, old]
    an_hour_later(settings)
    assert removal(old) == (0, "")
    assert keys_in(settings) == [new]
    assert len(everything_in(settings, new)) == 4


# The keys in the settings.


@pytest.mark.usefixtures("either_database")
def test_key_for_the_settings_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    """If keys come from the settings, `add` prints a new one on standard output and changes nothing."""
    assert main([*ENCRYPTION, "add"]) == 0
    said = capsys.readouterr()
    (key,) = parse_keys(said.out)
    assert key_id(key).hex() != id_of(OLD)
    assert f"first in the list in {PREFIX}ENCRYPTION_KEYS" in said.err
    assert main([*ENCRYPTION, "remove", id_of(OLD)]) == 2
    assert f"remove the key from {PREFIX}ENCRYPTION_KEYS" in capsys.readouterr().err


def test_key_in_place_of_an_id_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    """A key given instead of its id is not repeated in the error."""
    assert main([*ENCRYPTION, "remove", NEW]) == 2
    assert NEW not in capsys.readouterr().err
