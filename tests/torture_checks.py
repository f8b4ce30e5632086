"""What has to be true once the torture is over: nothing lost, doubled, stuck or leaked."""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from sandbox.outlook import Seen
from sandbox.script import Account
from schemas.sealing import Owner, Sealer, UnsealError
from tests.canary import Canaries
from tests.torture_imports import MARKS, Counts, Import

# A refused password leaves once; a run that is killed between the login and the verdict may repeat it, and
# every repetition is a counted attempt, of which a mailbox has five (PROBE_ATTEMPTS).
MOST_WRONG_ATTEMPTS = 5
WORKSPACE = "default"
RUNTIME = "runtime"  # where the parts keep their temporary files, as a RuntimeDirectory of systemd


class Check(NamedTuple):
    """One line of the outcome; it is good when it has no faults."""

    name: str
    counts: str
    faults: list[str]

    def __str__(self) -> str:
        lines = [f"{'FAIL' if self.faults else 'ok  '}  {self.name}: {self.counts}"]
        lines += [f"        {fault}" for fault in self.faults[:10]]
        return "\n".join(lines + ["        …"] * (len(self.faults) > 10))


@dataclass(frozen=True)
class Stored:
    """What the database holds, as rows of its tables."""

    batches: list[dict[str, Any]]
    mailboxes: list[dict[str, Any]]

    def batches_of(self, one: Import) -> list[dict[str, Any]]:
        return [batch for batch in self.batches if batch["file_name"] == one.name]


def read_stored(address: str) -> Stored:
    batches = (
        "SELECT batch.*, (SELECT count(*) FROM mailbox WHERE batch_id = batch.id) AS mailboxes, "
        "(SELECT count(*) FROM batch_row_error WHERE batch_id = batch.id) AS errors "
        "FROM import_batch AS batch ORDER BY id"
    )
    with psycopg.connect(address, row_factory=dict_row) as connection:
        return Stored(
            connection.execute(batches).fetchall(),
            connection.execute("SELECT * FROM mailbox ORDER BY id").fetchall(),
        )


def counts_of(batch: Mapping[str, Any]) -> Counts:
    return Counts(batch["imported"], batch["skipped"], batch["failed"])


# --- What was answered -----------------------------------------------


def check_answers(made: Collection[Import], stored: Stored) -> Iterator[Check]:
    """Each client was told the truth, and each file that had to be refused was refused."""
    by_id = {batch["id"]: batch for batch in stored.batches}
    for way, imports in groupby(sorted(made, key=lambda one: one.way), lambda one: one.way):
        mine = list(imports)
        faults = [f"{one.name}: {fault}" for one in mine for fault in one.faults]
        for one in mine:
            of_file = stored.batches_of(one)
            told = [by_id[one.import_id]] if one.import_id in by_id else [] if one.import_id else of_file
            if one.patient and not one.answered:
                faults.append(f"{one.name}: never answered, tried {one.tries} times")
            if one.counts and one.counts not in [counts_of(batch) for batch in told]:
                faults.append(f"{one.name}: told {one.counts}, stored {[counts_of(b) for b in of_file]}")
            if one.counts and sum(one.counts) != one.rows:
                faults.append(f"{one.name}: told {one.counts} of {one.rows} rows")
            if one.answered and bool(one.refusal) != bool(one.refused_with):
                faults.append(f"{one.name}: refused with {one.refused_with!r}, not {one.refusal!r}")
            if not one.refused_with.startswith(one.refusal if one.answered else ""):
                faults.append(f"{one.name}: refused with {one.refused_with!r}, not {one.refusal!r}")
        rows = sum(sum(one.counts) for one in mine if one.counts)
        again = sum(one.tries > 1 for one in mine)
        yield Check(
            f"answers by {way}",
            f"{len(mine)} files, {sum(bool(one.counts) for one in mine)} imported with {rows} rows, "
            f"{sum(bool(one.refused_with) for one in mine)} refused, "
            f"{sum(not one.answered for one in mine)} given up, {again} tried more than once",
            faults,
        )


def check_batches(made: Collection[Import], stored: Stored) -> Iterator[Check]:
    """Each import is stored as a whole or not at all, and once for each key."""
    by_name = {one.name: one for one in made}
    faults = []
    for batch in stored.batches:
        one = by_name[batch["file_name"]]
        whole = sum(counts_of(batch)) == one.rows and batch["failed"] == one.failed
        if (
            one.refusal
            or not whole
            or (batch["mailboxes"], batch["errors"]) != (batch["imported"], one.failed)
        ):
            faults.append(
                f"{one.name}: batch {batch['id']} is not whole: {counts_of(batch)} of {one.rows} rows"
            )
    repeated = len(stored.batches) - len({batch["file_name"] for batch in stored.batches})
    yield Check("imports whole", f"{len(stored.batches)}, {repeated} of them repeated by a kill", faults)
    # The other ways in make a key for each run, and nobody repeats that one.
    keys = Counter(key for batch in stored.batches if (key := batch["idempotency_key"]) in by_name)
    sent = sum(one.tries > 1 or one.sent_again for one in made if one.way == "API")
    doubled = [f"{key}: {number} imports" for key, number in keys.items() if number > 1]
    yield Check("one import a key", f"{len(keys)} keys, {sent} of them sent more than once", doubled)


# --- What is stored --------------------------------------------------


def check_mailboxes(made: Collection[Import], stored: Stored, sealer: Sealer) -> Iterator[Check]:
    """Exactly the distinct valid mailboxes of what was accepted, each with what its file said."""
    by_name = {one.name: one for one in made}
    accepted = [one for one in made if one.counts or stored.batches_of(one)]
    wanted = {key for one in accepted for key in one.secrets}
    found = Counter(mailbox["email"].casefold() for mailbox in stored.mailboxes)
    faults = [f"{key}: lost" for key in sorted(wanted - found.keys())]
    faults += [f"{key}: of no accepted import" for key in sorted(found.keys() - wanted)]
    faults += [f"{key}: {number} times" for key, number in found.items() if number > 1]
    rows = sum(len(one.secrets) for one in accepted)
    yield Check("mailboxes", f"{found.total()} of {rows} valid rows in {len(accepted)} files", faults)
    files = {batch["id"]: batch["file_name"] for batch in stored.batches}
    wrong = []
    for mailbox in stored.mailboxes:
        secrets = by_name[files[mailbox["batch_id"]]].secrets.get(mailbox["email_key"])
        if opened(mailbox, sealer) != secrets:
            wrong.append(f"{mailbox['email']} does not open to what its file says")
    totps = sum(mailbox["totp"] is not None for mailbox in stored.mailboxes)
    yield Check("credentials open", f"{len(stored.mailboxes)} passwords, {totps} TOTP secrets", wrong)


def opened(mailbox: Mapping[str, Any], sealer: Sealer) -> tuple[str, str] | None:
    key = mailbox["email_key"]
    try:
        password = sealer.open(mailbox["password"], Owner(WORKSPACE, key, "password"))
        if mailbox["totp"] is None:
            return password, ""
        return password, sealer.open(mailbox["totp"], Owner(WORKSPACE, key, "totp"))
    except UnsealError:
        return None


def is_put_off(mailbox: Mapping[str, Any]) -> bool:
    """Whether it waits for its next attempt, tested and not claimed by anybody."""
    due = mailbox["next_attempt_at"]
    return bool(
        mailbox["status"] == "pending"
        and mailbox["tested_at"]
        and mailbox["claimed_until"] is None
        and due
        and due > datetime.now(UTC)
    )


def unfinished(mailboxes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The mailboxes that wait for a test at this moment, or are being tested."""
    return [
        one
        for one in mailboxes
        if one["claimed_until"] or (one["status"] == "pending" and not is_put_off(one))
    ]


def check_verdicts(
    made: Collection[Import], stored: Stored, accounts: Mapping[str, Account], seen: Seen
) -> Iterator[Check]:
    """Each mailbox has the status that it deserves, nobody holds one, and no password left too often."""
    stuck = [
        f"{one['email']}: {one['status']}, claimed until {one['claimed_until']}"
        for one in unfinished(stored.mailboxes)
    ]
    statuses = Counter(one["status"] for one in stored.mailboxes)
    put_off = sum(is_put_off(one) for one in stored.mailboxes)
    counts = ", ".join(f"{number} {status}" for status, number in sorted(statuses.items()))
    yield Check("no mailbox stuck", f"{counts}; {put_off} put off until later", stuck)
    by_name = {one.name: one for one in made}
    files = {batch["id"]: batch["file_name"] for batch in stored.batches}
    late, wrong = 0, []
    refused = set()
    for mailbox in stored.mailboxes:
        key = mailbox["email_key"]
        account = accounts[key]
        password, _ = by_name[files[mailbox["batch_id"]]].secrets[key]
        deserved = "failed" if password != account.password else DESERVED[account.smtp]
        if deserved == "failed":
            refused.add(key)
        if mailbox["status"] == deserved or (deserved == "pending" and mailbox["attempts"] >= 5):
            continue
        if is_put_off(mailbox):  # its server was too slow for this machine's load
            late += 1
        else:
            wrong.append(f"{key}: {mailbox['status']}, not {deserved}: {mailbox['diagnosis']}")
    yield Check(
        "verdicts", f"{len(stored.mailboxes)} mailboxes, {late} put off by this machine's load", wrong
    )
    yield from check_attempts(stored, refused, seen)


DESERVED = {"ok": "active", "slow:1+ok": "active", "wrong-credentials": "failed", "server-busy": "pending"}


def check_attempts(stored: Stored, refused: Collection[str], seen: Seen) -> Iterator[Check]:
    attempts = {mailbox["email_key"]: mailbox["attempts"] for mailbox in stored.mailboxes}
    faults = [
        f"{key}: {number} logins over {protocol}, {attempts.get(key, 0)} attempts counted"
        for (protocol, key), number in seen.logins.items()
        if number > attempts.get(key, 0)
    ]
    yield Check("attempts counted", f"{seen.passwords_received} logins, none beyond those counted", faults)
    wrong = {login: number for login, number in seen.logins.items() if login[1] in refused}
    often = [
        f"{key}: {number} wrong passwords over {protocol}"
        for (protocol, key), number in wrong.items()
        if number > MOST_WRONG_ATTEMPTS
    ]
    spread = Counter(wrong.values())
    told = ", ".join(f"{n} times for {logins}" for n, logins in sorted(spread.items()))
    yield Check("refused passwords", f"tried {told or 'never'} (at most {MOST_WRONG_ATTEMPTS})", often)
    at_once = [f"{key}: {n} at once" for key, n in seen.mailbox_logins_at_once.items() if n > 1]
    yield Check("one login at a time", f"{len(seen.mailbox_logins_at_once)} mailboxes logged in to", at_once)


# --- What lies in the folders ----------------------------------------


def check_places(made: Collection[Import], watched: Path) -> Iterator[Check]:
    """Every file of the inbox has left one outcome in one place; takes down what the reports say."""
    places = {
        name: outcomes(watched / name, ending)
        for name, ending in (("processed", ".report.csv"), ("failed", ".csv"), ("rejected", ".csv"))
    }
    errors = outcomes(watched / "rejected", ".error.txt")
    dropped = [one for one in made if one.way == "watched folder"]
    faults = []
    for one in dropped:
        stem = one.name.removesuffix(".csv")
        found = [len(places[name][stem]) for name in places]
        wanted = [int(not one.refusal), int(bool(one.failed)), int(bool(one.refusal))]
        if found != wanted or len(errors[stem]) != wanted[-1]:
            faults.append(f"{one.name}: processed, failed, rejected: {found}, not {wanted}")
            continue
        if one.refusal:
            one.refused_with = errors[stem][0].read_text().strip()
            if places["rejected"][stem][0].read_bytes() != one.content:
                faults.append(f"{one.name}: not untouched")
            continue
        results = Counter(row["result"] for row in read_rows(places["processed"][stem][0]))
        one.counts = Counts(results["imported"], results["skipped"], results["failed"])
        if one.failed and len(read_rows(places["failed"][stem][0])) != one.failed:
            faults.append(f"{one.name}: not its failed rows")
    left = [
        name
        for place in ("inbox", "processing")
        for _, _, names in os.walk(watched / place)
        for name in names
    ]
    left += [str(path) for path in watched.rglob("*.tmp")]
    faults += [f"{name}: left behind" for name in left]
    sums = ", ".join(f"{sum(map(len, found.values()))} {name}" for name, found in places.items())
    yield Check("places", f"{len(dropped)} files dropped: {sums}, {len(left)} left behind", faults)


def outcomes(folder: Path, ending: str) -> defaultdict[str, list[Path]]:
    found = defaultdict(list)
    for path in folder.glob(f"*{ending}"):
        found[path.name.split(".")[0]].append(path)
    return found


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


# --- What nobody may read --------------------------------------------


def check_leaks(
    folder: Path, others: Collection[Path], keys: Mapping[str, str], shown: Iterable[bytes]
) -> Iterator[Check]:
    """No secret lies in any file but the CSV files themselves, nor stood among a process's arguments.

    Prefect's worker writes its environment, and so the encryption key, into a private temporary folder for
    each run, and leaves it there when it is killed: those folders have to go with the service.

    Args:
        folder: Everything but the database.
        others: Folders to search besides, such as the database's.
        keys: The encryption key and the API's key; all other secrets are known by their marks.
        shown: The arguments of processes.
    """
    marks, anything = Canaries(), Canaries()
    for canaries, sought in ((marks, MARKS), (anything, {**MARKS, **keys})):
        for name, secret in sought.items():
            canaries.add(name, secret)
    runtime = folder / RUNTIME
    csv_places = [folder / "source"]
    csv_places += [folder / "watched" / name for name in ("inbox", "processing", "rejected", "failed")]
    faults = anything.in_files(folder, [runtime, *csv_places]) + marks.in_files(runtime)
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
