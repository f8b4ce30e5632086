"""What happens beside the imports: hand-overs that are filled in, revoked passwords, rechecks and reports."""

from __future__ import annotations

import csv
import io
import random
import zipfile
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from schemas.row_reasons import SKIP_MESSAGES, SkipReason
from schemas.standing import MailboxStatus
from tests.tools.torture.files import Import, Replacement
from tests.tools.torture.site import Person, Site
from tests.tools.torture.stored import LONG_AGO, let_a_day_pass, read_mailboxes, read_stored

FIX_PASSWORDS = "fix-passwords.csv"
FIX_COLUMNS = ("email", "name", "reason", "password")
MOST_FIXED = 20  # of the rows of a list
MOST_SPOILT = 2  # working mailboxes that get a mistyped password with them
REVOKED = 1  # passwords, each time
RECHECKED = 4  # mailboxes for which a day passes then
TROUBLED = 0.15  # of the times the receiver of notices is down for a moment
SUFFIXES = ("csv", "xlsx", "html")

Row = Mapping[str, Any]


# --- New passwords ---------------------------------------------------


def update_file(site: Site, way: str, dice: random.Random, person: Person) -> Import | None:
    """Fill in the list of wrong passwords of an import, as its hand-over has it; None if there is none.

    The mailboxes in it stay in hand. Some working ones are added, and get a mistyped password.
    """
    mailboxes = read_mailboxes(site.database)
    failed = sorted({row["import_id"] for row in mailboxes if is_idle(row, MailboxStatus.FAILED)})
    listed = fix_list(site, way, dice.choice(failed), person) if failed else []
    wrong = take_idle(site, listed, MOST_FIXED, MailboxStatus.FAILED)
    works = [row["email_key"] for row in mailboxes if is_idle(row, MailboxStatus.ACTIVE)]
    spoilt = take_idle(site, dice.sample(works, len(works)), MOST_SPOILT, MailboxStatus.ACTIVE)
    if not wrong and not spoilt:
        return None
    for key, row in spoilt.items():
        site.lives.of(key).disturbed |= row["tested_at"] == LONG_AGO
    passwords = {key: site.lives.renew(key) for key in wrong}
    passwords |= {key: site.lives.renew(key, mistyped=True) for key in spoilt}
    return site.files.make_update(way, passwords, FIX_COLUMNS)


def is_idle(row: Row, status: MailboxStatus) -> bool:
    """Whether a mailbox has this status, and no run has claimed it."""
    return row["status"] == status and row["claimed_until"] is None


def take_idle(site: Site, addresses: Sequence[str], most: int, status: MailboxStatus) -> dict[str, Row]:
    """Take mailboxes into hand that have this status and that nothing is about to change, by address."""
    taken = site.lives.take(addresses, most)
    rows = {row["email_key"]: row for row in read_mailboxes(site.database)}  # as they are in hand
    idle = [key for key in taken if is_idle(rows[key], status) and not site.lives.of(key).lost]
    site.lives.leave(set(taken) - set(idle))
    return {key: rows[key] for key in idle}


def fix_list(site: Site, way: str, import_id: int, person: Person) -> list[str]:
    """The addresses in `fix-passwords.csv` of an import, from the way's own hand-over."""
    content: bytes | None = None
    if way == "command line":
        folder = site.downloads / f"handover-{len(site.files.made)}-{import_id}"
        words = ("flows.manage", "imports", "handover", str(import_id), "--to", str(folder))
        code, _, _ = site.command("handover", *words)
        path = folder / FIX_PASSWORDS
        content = path.read_bytes() if code == 0 and path.exists() else None
    elif way == "page":
        answer = person.download(f"/imports/{import_id}/{FIX_PASSWORDS}")
        content = answer.content if answer is not None and answer.is_success else None
    else:
        content = fix_list_of_api(site, import_id)
    return addresses_in(content or b"")


def fix_list_of_api(site: Site, import_id: int) -> bytes | None:
    answer = site.api("GET", f"/v1/imports/{import_id}/handover.zip", site.page_key)
    if answer is None or not answer.is_success:
        return None
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return archive.read(FIX_PASSWORDS) if FIX_PASSWORDS in archive.namelist() else None


def addresses_in(content: bytes) -> list[str]:
    rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    return [row["email"].casefold() for row in rows]


def replace_one(site: Site, way: str, dice: random.Random) -> bool:
    """Give one mailbox with a wrong password another one, without a file; False if there is none."""
    wrong = [row["email_key"] for row in read_mailboxes(site.database) if is_idle(row, MailboxStatus.FAILED)]
    taken = take_idle(site, dice.sample(wrong, len(wrong)), 1, MailboxStatus.FAILED)
    for key, row in taken.items():
        one = Replacement(way, key, row["id"], site.lives.renew(key))
        site.replacements.append(one)
        while site.tries(one):
            one.done = type_password(site, one) if way == "command line" else put_password(site, one)
        if one.answered:
            site.lives.leave(taken)
    return bool(taken)


def type_password(site: Site, one: Replacement) -> bool:
    """Type the password at the command line; whether the mailbox has it now."""
    words = ("flows.manage", "mailboxes", "password", one.name)
    code, _, errors = site.command("password", *words, typed=f"{one.password}\n")
    had_it = (SKIP_MESSAGES[reason][0] for reason in (SkipReason.UNCHANGED, SkipReason.REFUSED_BEFORE))
    return code == 0 or any(message in errors for message in had_it)


def put_password(site: Site, one: Replacement) -> bool:
    """Send the password to the API; whether the mailbox has it now."""
    path = f"/v1/mailboxes/{one.mailbox_id}/password"
    answer = site.api("PUT", path, json={"password": one.password})
    if answer is None:
        return False
    if answer.status_code in (HTTPStatus.OK, HTTPStatus.CONFLICT):  # the latter if it has it already
        return True
    if answer.status_code not in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        one.faults.append(f"answered with {answer.status_code}")
    return False


# --- Revoked passwords -----------------------------------------------


def grow_older(site: Site, rest: float, dice: random.Random) -> None:
    """Revoke passwords of working mailboxes again and again, let a day pass for them, and recheck."""
    while not site.full.is_set():
        revoke_some(site, dice)
        if dice.random() < TROUBLED:
            site.receiver.answers += [int(HTTPStatus.SERVICE_UNAVAILABLE)] * dice.randint(1, 5)
        pass_day(site, interrupted(read_mailboxes(site.database)))
        site.create_run("recheck-active/scheduled")
        site.full.wait(rest)


def revoke_some(site: Site, dice: random.Random) -> None:
    """Revoke some passwords. The recheck tests more mailboxes, or the lockout guard would stop it."""
    mailboxes = read_mailboxes(site.database)
    works = [row["email_key"] for row in mailboxes if is_idle(row, MailboxStatus.ACTIVE)]
    taken = take_idle(site, dice.sample(works, len(works)), RECHECKED, MailboxStatus.ACTIVE)
    # One whose day has passed already may be under test at any moment.
    rested = [key for key, row in taken.items() if row["tested_at"] > LONG_AGO]
    for key in rested[:REVOKED] if len(rested) > REVOKED else []:
        site.lives.revoke(key)
    pass_day(site, [taken[key] for key in rested])
    site.lives.leave(taken)


def pass_day(site: Site, rows: Collection[Row]) -> None:
    names = {row["id"]: row["email_key"] for row in rows}
    passed = let_a_day_pass(site.database, list(names))
    site.lives.pass_day(names[number] for number in passed)


def find_out(site: Site, mailboxes: Sequence[Row]) -> None:
    """Recheck what no recheck has found out yet."""
    late = [row for row in undiscovered(site, mailboxes) if row["tested_at"] > LONG_AGO]
    pass_day(site, [*interrupted(mailboxes), *late])
    site.create_run("recheck-active/scheduled")


def interrupted(mailboxes: Sequence[Row]) -> list[Row]:
    """The mailboxes whose recheck was killed."""
    moment = datetime.now(UTC)
    claimed = [row for row in mailboxes if row["claimed_until"] is not None]
    return [
        row for row in claimed if row["status"] != MailboxStatus.PENDING and row["claimed_until"] < moment
    ]


def undiscovered(site: Site, mailboxes: Sequence[Row]) -> list[Row]:
    """The mailboxes whose password was revoked without that any test has seen it."""
    works = [row for row in mailboxes if row["status"] == MailboxStatus.ACTIVE]
    return [row for row in works if site.lives.of(row["email_key"]).lost]


# --- Reports ---------------------------------------------------------


def look_at_reports(site: Site, rest: float, dice: random.Random) -> None:
    """Make reports of past imports again and again, by each way and in each format."""
    person = Person(site)
    while not site.full.is_set():
        if imports := read_stored(site.database).imports:
            look_at_report(site, dice.choice(imports), dice, person)
        site.full.wait(rest)


def look_at_report(site: Site, one: Row, dice: random.Random, person: Person) -> None:
    way, suffix = dice.choice(("command line", "API", "page")), dice.choice(SUFFIXES)
    path = site.downloads / f"report-{len(site.exports)}-{one['id']}.{suffix}"
    if way == "command line":
        words = ("imports", "report", str(one["id"]), "--to", str(path))
        code, _, errors = site.command("report", "flows.manage", *words)
        # After a kill, the file is whole or not there. The database may be away just when the command starts.
        if code in (1, 2) and "the database cannot be opened" not in errors:
            site.export_faults.append(f"the command line ended with {code} for a {suffix}")
    elif way == "API":
        answer = site.api("GET", f"/v1/imports/{one['id']}/report.{suffix}", site.page_key)
    else:
        answer = person.download(f"/imports/{one['id']}/report.{suffix}")
    if way != "command line" and answer is not None:
        if answer.is_success:
            path.write_bytes(answer.content)
        elif answer.status_code not in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
            site.export_faults.append(f"{way} answered {answer.status_code} for a {suffix}")
    if path.exists():
        site.exports.append(f"{way} {suffix}")
        if fault := fault_in(path.read_bytes(), suffix, sum(one[name] for name in RESULTS)):
            site.export_faults.append(f"{way}: {path.name}: {fault}")


RESULTS = ("imported", "updated", "skipped", "failed")


def fault_in(content: bytes, suffix: str, rows: int) -> str:
    """What is wrong with a report of so many rows, or ""."""
    if suffix == "csv":
        text = io.StringIO(content.decode("utf-8-sig"), newline="")
        found = sum(row["result"] in RESULTS for row in csv.DictReader(text))
        return "" if found == rows else f"{found} of {rows} rows"
    if suffix == "html":
        return "" if content.rstrip().endswith(b"</html>") else "no whole page"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.testzip() or ""
