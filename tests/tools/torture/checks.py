"""What must be true after the torture: nothing is lost, duplicated, stuck or leaked."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from sandbox.outlook import Seen
from schemas.reasons import Reason
from schemas.sealing import Owner, Sealer, UnsealError
from tests.support.canary import Canaries
from tests.tools.torture.files import MARKS, Counts, Import
from tests.tools.torture.lives import BUSY, MOST_ATTEMPTS, Lives, deserved
from tests.tools.torture.machine import RUNTIME
from tests.tools.torture.stored import Stored, counts_of

WORKSPACE = "default"
BUSY_REASONS = (Reason.THROTTLED, Reason.SERVER_BUSY)


class Check(NamedTuple):
    """One line of the result; it is good if it has no faults."""

    name: str
    counts: str
    faults: list[str]

    def __str__(self) -> str:
        lines = [f"{'FAIL' if self.faults else 'ok  '}  {self.name}: {self.counts}"]
        lines += [f"        {fault}" for fault in self.faults[:10]]
        return "\n".join(lines + ["        …"] * (len(self.faults) > 10))


# --- What was answered -----------------------------------------------


def check_answers(made: Collection[Import], stored: Stored) -> Iterator[Check]:
    """Each client got a correct answer, and each bad file was refused."""
    for way, imports in groupby(sorted(made, key=lambda one: one.way), lambda one: one.way):
        mine = list(imports)
        rows = sum(sum(one.counts) for one in mine if one.counts)
        counts = {
            "files": len(mine),
            f"imported with {rows} rows": sum(bool(one.counts) for one in mine),
            "refused": sum(bool(one.refused_with) for one in mine),
            "given up": sum(not one.answered for one in mine),
            "tried more than once": sum(one.tries > 1 for one in mine),
        }
        told = ", ".join(f"{number} {what}" for what, number in counts.items())
        faults = [
            f"{one.name}: {fault}" for one in mine for fault in (*one.faults, *wrong_answers(one, stored))
        ]
        yield Check(f"answers by {way}", told, faults)


def wrong_answers(one: Import, stored: Stored) -> Iterator[str]:
    """Yield each answer, or missing answer, that disagrees with the file or with what is stored."""
    imports = [row for row in stored.imports_of(one) if one.import_id in (0, row["id"])]
    if one.patient and not one.answered:
        yield f"never answered, tried {one.tries} times"
    if one.counts and one.counts not in map(counts_of, imports):
        yield f"told {one.counts}, stored {[*map(counts_of, imports)]}"
    if one.counts and sum(one.counts) != one.rows:
        yield f"told {one.counts} of {one.rows} rows"
    refused = bool(one.refused_with)
    if one.answered and (refused != bool(one.refusal) or not one.refused_with.startswith(one.refusal)):
        yield f"refused with {one.refused_with!r}, not {one.refusal!r}"


def check_imports(made: Collection[Import], stored: Stored) -> Iterator[Check]:
    """Each import is stored completely or not at all, and once for each key."""
    by_name = {one.name: one for one in made}
    updates = Counter(import_id for import_id, _ in stored.updates)
    faults = []
    for row in stored.imports:
        one, counts = by_name[row["file_name"]], counts_of(row)
        kept = (row["mailboxes"], row["errors"], updates[row["id"]])
        if one.refusal or sum(counts) != one.rows or kept != (counts.imported, one.failed, counts.updated):
            faults.append(f"{one.name}: import {row['id']} has {counts} of {one.rows} rows, kept {kept}")
    repeated = len(stored.imports) - len({row["file_name"] for row in stored.imports})
    yield Check("imports whole", f"{len(stored.imports)}, {repeated} of them repeated by a kill", faults)
    # The other ways in create a key for each run, which is not repeated.
    keys = Counter(key for row in stored.imports if (key := row["idempotency_key"]) in by_name)
    sent = sum(one.tries > 1 or one.sent_again for one in made if one.way == "API")
    doubled = [f"{key}: {number} imports" for key, number in keys.items() if number > 1]
    yield Check("one import a key", f"{len(keys)} keys, {sent} of them sent more than once", doubled)


# --- What is stored --------------------------------------------------


def check_mailboxes(
    made: Collection[Import], stored: Stored, lives: Lives, sealer: Sealer
) -> Iterator[Check]:
    """The stored mailboxes are exactly the distinct valid ones of the accepted files, with their values."""
    accepted = [one for one in made if one.counts or stored.imports_of(one)]
    wanted = {key for one in accepted for key in one.secrets}
    found = Counter(mailbox["email"].casefold() for mailbox in stored.mailboxes)
    faults = [f"{key}: lost" for key in sorted(wanted - found.keys())]
    faults += [f"{key}: of no accepted import" for key in sorted(found.keys() - wanted)]
    faults += [f"{key}: {number} times" for key, number in found.items() if number > 1]
    rows = sum(len(one.secrets) for one in accepted)
    yield Check("mailboxes", f"{found.total()} of {rows} valid rows in {len(accepted)} files", faults)
    firsts = first_secrets(made, stored)
    wrong, replaced = [], 0
    for mailbox in stored.mailboxes:
        key = mailbox["email_key"]
        password, totp = firsts[key]
        passwords = [password, *lives.of(key).passwords]
        replaced += len(passwords) > 1
        if opened(mailbox, sealer, "password") != passwords[-1] or opened(mailbox, sealer, "totp") != totp:
            wrong.append(f"{key} does not open to what its files say")
        if (old := opened(mailbox, sealer, "old_password")) and old not in passwords[:-1]:
            wrong.append(f"{key} keeps an old password that it did not have")
        if old and mailbox["status"] != "pending":
            wrong.append(f"{key} keeps its old password, although the new one has a verdict")
    totps = sum(mailbox["totp"] is not None for mailbox in stored.mailboxes)
    counts = f"{len(stored.mailboxes)} passwords, {replaced} of them replaced, {totps} TOTP secrets"
    yield Check("credentials open", counts, wrong)


def first_secrets(made: Collection[Import], stored: Stored) -> dict[str, tuple[str, str]]:
    """The secrets of the file that each mailbox came from, by its key."""
    by_name = {one.name: one for one in made}
    files = {row["id"]: by_name[row["file_name"]] for row in stored.imports}
    return {one["email_key"]: files[one["import_id"]].secrets[one["email_key"]] for one in stored.mailboxes}


def opened(mailbox: Mapping[str, Any], sealer: Sealer, field: str) -> str | None:
    """A secret of a mailbox; "" without one, and None if it does not open."""
    try:
        sealed = mailbox[field]
        return sealer.open(sealed, Owner(WORKSPACE, mailbox["email_key"], field)) if sealed else ""
    except UnsealError:
        return None


def is_put_off(mailbox: Mapping[str, Any]) -> bool:
    """Whether a mailbox waits for its next attempt, tested and unclaimed.

    One at a busy server is due every five minutes without end, so that it is not waited for.
    """
    if mailbox["status"] != "pending" or not mailbox["tested_at"] or mailbox["claimed_until"]:
        return False
    due = mailbox["next_attempt_at"]
    return bool(due and (due > datetime.now(UTC) or mailbox["smtp_reason"] in BUSY_REASONS))


def unfinished(mailboxes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The mailboxes that are waiting for a test now, or are being tested."""
    return [
        one
        for one in mailboxes
        if one["claimed_until"] or (one["status"] == "pending" and not is_put_off(one))
    ]


def check_verdicts(made: Collection[Import], stored: Stored, lives: Lives, seen: Seen) -> Iterator[Check]:
    """Each mailbox has the expected status, none is claimed, and no password was sent too often."""
    waiting = unfinished(stored.mailboxes)
    stuck = [f"{one['email']}: {one['status']}, claimed until {one['claimed_until']}" for one in waiting]
    put_off = [one for one in stored.mailboxes if is_put_off(one)]
    statuses = Counter(one["status"] for one in stored.mailboxes)
    counts = ", ".join(f"{number} {status}" for status, number in sorted(statuses.items()))
    yield Check("no mailbox stuck", f"{counts}; {len(put_off)} put off until later", stuck)
    wanted = {key: found[-1] for key, found in wanted_statuses(made, stored, lives).items()}
    others = [one for one in stored.mailboxes if one["status"] != wanted[one["email_key"]]]
    # A mailbox that only fails temporarily fails with its last attempt, and a loaded machine delays logins.
    wrong = [
        f"{one['email']}: {one['status']}, not {wanted[one['email_key']]}: {one['diagnosis']}"
        for one in others
        if not is_put_off(one)
        and not (wanted[one["email_key"]] == "pending" and one["attempts"] >= MOST_ATTEMPTS)
    ]
    late = sum(map(is_put_off, others))
    yield Check("verdicts", f"{len(wanted)} mailboxes, {late} put off by this machine's load", wrong)
    yield from check_attempts(made, stored, lives, seen)


def wanted_statuses(made: Collection[Import], stored: Stored, lives: Lives) -> dict[str, list[str]]:
    """The statuses that each stored mailbox must have had, in order, by its key."""
    firsts = first_secrets(made, stored)
    return {
        key: [deserved(lives.originals[key], password), *lives.of(key).statuses]
        for key, (password, _) in firsts.items()
    }


def check_attempts(made: Collection[Import], stored: Stored, lives: Lives, seen: Seen) -> Iterator[Check]:
    """Every login was counted before its password was sent, and a rejected password was not repeated."""
    # A recheck is not an attempt of its own: it starts to count again. A busy server uses up none.
    attempts = {
        key: one["attempts"]
        for one in stored.mailboxes
        if not lives.of(key := one["email_key"]).days and lives.originals[key].smtp != BUSY
    }
    faults = [
        f"{key}: {number} logins over {protocol}, {attempts[key]} attempts counted"
        for (protocol, key), number in seen.logins.items()
        if number > attempts.get(key, number)
    ]
    faults += [f"{key}: a login without a stored mailbox" for _, key in unknown_logins(stored, seen)]
    yield Check("attempts counted", f"{seen.passwords_received} logins, none beyond those counted", faults)
    firsts = first_secrets(made, stored)
    foreign = [
        f"{key}: got a password over {protocol} that it never had"
        for protocol, key, password in seen.tries
        if key in firsts and password.decode() not in (firsts[key][0], *lives.of(key).passwords)
    ]
    pairs = [(key, *pair) for key, found in lives.wrong_tries().items() for pair in found]
    often = [
        f"{key}: {number} times over {protocol}, at most {most} allowed"
        for (protocol, key), number, most in pairs
        if number > most
    ]
    spread = sorted(Counter(number for _, number, _ in pairs).items())
    told = ", ".join(f"{number} times {passwords}" for number, passwords in spread)
    yield Check(
        "refused passwords", f"sent {told or 'never'}, each at most as often as allowed", foreign + often
    )
    at_once = [
        f"{key}: {number} at once"
        for key, number in seen.mailbox_logins_at_once.items()
        # A recheck with the old password may still be under way when the new one is tested.
        if number > 1 + (key in lives.changed and lives.of(key).disturbed)
    ]
    yield Check("one login at a time", f"{len(seen.mailbox_logins_at_once)} mailboxes logged in to", at_once)


def unknown_logins(stored: Stored, seen: Seen) -> list[tuple[str, str]]:
    known = {one["email_key"] for one in stored.mailboxes}
    return [login for login in seen.logins if login[1] not in known]


# --- What the folders contain ----------------------------------------


def check_places(made: Collection[Import], watched: Path) -> Iterator[Check]:
    """Every file of the inbox has left one outcome in one place; records what the reports say."""
    places = {
        "processed": outcomes(watched / "processed", ".report.csv"),
        "failed": outcomes(watched / "failed", ".csv"),
        "rejected": outcomes(watched / "rejected", ".csv"),
        "explained": outcomes(watched / "rejected", ".error.txt"),
    }
    dropped = [one for one in made if one.way == "watched folder"]
    faults = []
    for one in dropped:
        found = {name: files[one.name.removesuffix(".csv")] for name, files in places.items()}
        good, refused = int(not one.refusal), int(bool(one.refusal))
        wanted = [good, int(bool(one.failed)), refused, refused]
        if [*map(len, found.values())] != wanted:
            faults.append(f"{one.name}: {[*map(len, found.values())]} in {[*found]}, not {wanted}")
        elif not record_outcome(one, found):
            faults.append(f"{one.name}: its failed rows, or the refused file, are not what they were")
    left = [path for place in ("inbox", "processing") for path in (watched / place).rglob("*.csv")]
    left += watched.rglob("*.tmp")
    faults += [f"{path}: left behind" for path in left]
    sums = ", ".join(f"{sum(map(len, files.values()))} {name}" for name, files in places.items())
    yield Check("places", f"{len(dropped)} files dropped: {sums}, {len(left)} left behind", faults)


def record_outcome(one: Import, found: Mapping[str, list[Path]]) -> bool:
    """Record the outcome of a file; return False if it was moved with other rows than it arrived with."""
    if one.refusal:
        one.refused_with = found["explained"][0].read_text().strip()
        return found["rejected"][0].read_bytes() == one.content
    results = Counter(row["result"] for row in read_rows(found["processed"][0]))
    one.counts = Counts(results["imported"], results["skipped"], results["failed"])
    return not one.failed or len(read_rows(found["failed"][0])) == one.failed


def outcomes(folder: Path, ending: str) -> defaultdict[str, list[Path]]:
    found = defaultdict(list)
    for path in folder.glob(f"*{ending}"):
        found[path.name.split(".")[0]].append(path)
    return found


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


# --- What must not be readable ---------------------------------------


def check_leaks(
    folder: Path,
    others: Collection[Path],
    keys: Mapping[str, str],
    shown: Iterable[bytes],
    sent: bytes,
    profile: Path,
) -> Iterator[Check]:
    """Only the CSV files contain secrets, and no process had one in its arguments.

    Prefect's worker writes its environment, and so the encryption key, into a private temporary folder for
    each run, and leaves it there when it is killed: those folders must be removed with the service.

    Args:
        folder: Everything except the database.
        others: More folders to search, such as the database's.
        keys: Keys and logins; all other secrets are recognised by their marks.
        shown: The arguments of processes.
        sent: What the receiver of notices got; the address has its secret.
        profile: Prefect's profile, which has its login.
    """
    marks, anything = Canaries(), Canaries()
    for canaries, sought in ((marks, MARKS), (anything, {**MARKS, **keys})):
        for name, secret in sought.items():
            canaries.add(name, secret)
    runtime = folder / RUNTIME
    csv_places = [folder / "source"]
    csv_places += [folder / "watched" / name for name in ("inbox", "processing", "rejected", "failed")]
    faults = anything.in_files(folder, [runtime, profile, *csv_places]) + marks.in_files(runtime)
    faults += [f"a notice: {name}" for name in anything.in_bytes(sent)]
    faults += [fault for other in others for fault in anything.in_files(other)]
    faults += [f"arguments of a process: {name}" for text in shown for name in anything.in_bytes(text)]
    found = marks.in_files(folder / "source")
    if not found:
        faults.append("the search finds nothing in the CSV files either")
    sizes = [
        path.stat().st_size for place in (folder, *others) for path in place.rglob("*") if path.is_file()
    ]
    counts = f"{len(sizes)} files, {sum(sizes) / 1e6:.0f} MB searched"
    yield Check("nothing secret", f"{counts}; the search finds {len(found)} in the CSV files", faults)
