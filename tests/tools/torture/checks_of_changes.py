"""What must be true of new passwords, changes of status, notices and hand-overs after the torture."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from datetime import datetime
from http import HTTPStatus
from itertools import groupby
from typing import Any

import httpx

from schemas.changes import MOST_TOLD
from schemas.standing import MailboxStatus
from tests.support.receiver import Receiver
from tests.tools.torture.changes import addresses_in, fix_list_of_api
from tests.tools.torture.checks import Check, is_put_off, wanted_statuses
from tests.tools.torture.files import Import
from tests.tools.torture.lives import BUSY, Lives
from tests.tools.torture.site import Site
from tests.tools.torture.stored import Stored

NOTHING: dict[str, Any] = {"data": {"total": 0, "changes": []}}  # instead of a notice that did not arrive


def check_updates(site: Site, stored: Stored) -> Iterator[Check]:
    """Each file replaced each password at most once, and each single password got its answer."""
    files = {row["id"]: row["file_name"] for row in stored.imports}
    mine = [one for one in site.files.made if one.update]
    names = {one.name for one in mine}
    replaced = Counter((files[import_id], key) for import_id, key in stored.updates)
    faults = [
        f"{name} replaced {key} {number} times" for (name, key), number in replaced.items() if number > 1
    ]
    faults += [f"{name} replaced {key}" for name, key in replaced if name not in names]
    singles = site.replacements
    faults += [f"{one.name}: never answered, tried {one.tries} times" for one in singles if not one.answered]
    faults += [f"{one.name}: {fault}" for one in singles for fault in one.faults]
    ways = Counter(one.way for one in mine)
    told = ", ".join(f"{number} by {way}" for way, number in sorted(ways.items()))
    again = sum(one.tries > 1 for one in (*mine, *singles))
    counts = (
        f"{len(mine)} files ({told}) with {len(replaced)} new passwords, {len(singles)} single ones, "
        f"{again} tried more than once"
    )
    yield Check("updates", counts, faults)


def check_changes(made: Collection[Import], stored: Stored, lives: Lives) -> Iterator[Check]:
    """Each mailbox has exactly the changes of status that its passwords caused, each once and in order."""
    wanted = wanted_statuses(made, stored, lives)
    by_mailbox: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for change in stored.changes:
        by_mailbox[change["mailbox_id"]].append(change)
    faults = []
    for mailbox in stored.mailboxes:
        key, changes = mailbox["email_key"], by_mailbox[mailbox["id"]]
        chain = [None, *(change["after"] for change in changes)]
        if [change["before"] for change in changes] != chain[:-1]:
            faults.append(f"{key}: its changes do not follow each other")
        if mailbox["status"] != "pending" and chain[-1] != mailbox["status"]:
            faults.append(f"{key}: {mailbox['status']}, but changed last to {chain[-1]}")
        expected = [status for status, _ in groupby(wanted[key])]
        # What waits for its next attempt has no verdict on its last password yet.
        allowed = [expected, expected[:-1]] if is_put_off(mailbox) else [expected]
        if lives.originals[key].smtp != BUSY and chain[1:] not in allowed:
            faults.append(f"{key}: was {chain[1:]}, not {expected}")
    news = sum(change["before"] is not None for change in stored.changes)
    revoked = sum(bool(life.tried) for life in lives.changed.values())
    days = sum(life.days for life in lives.changed.values())
    counts = f"{len(stored.changes)}, {news} of them after the first verdict; {revoked} passwords revoked"
    yield Check("changes of status", f"{counts}, {days} rechecks due", faults)


def check_notices(receiver: Receiver, stored: Stored) -> Iterator[Check]:
    """Each change is in one notice, which has arrived, always with the same contents under the same id."""
    faults = [f"{change['id']}: never told" for change in stored.untold]
    notices: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for change in stored.changes:
        if (change["before"] is None) != (change["notice"] is None):
            faults.append(f"{change['id']}: in notice {change['notice']}, before {change['before']}")
        elif change["notice"]:
            notices[change["notice"]].append(change)
    for name, changes in notices.items():
        data = receiver.notices.get(name, NOTHING)["data"]
        arrived = [
            (one["id"], datetime.fromisoformat(one["at"]), one["before"], one["after"])
            for one in data["changes"]
        ]
        told = [(one["mailbox_id"], one["at"], one["before"], one["after"]) for one in changes]
        if (data["total"], arrived) != (len(told), told[:MOST_TOLD]):
            faults.append(f"{name}: {data['total']} changes arrived of {len(told)}")
    faults += [f"{name}: arrived, but no change is in it" for name in receiver.notices if name not in notices]
    faults += [f"{name}: arrived with different contents" for name in receiver.differing]
    repeated = receiver.asked.total() - len(receiver.asked)
    counts = f"{len(notices)} with {sum(map(len, notices.values()))} changes"
    yield Check("notices", f"{counts}; {repeated} deliveries repeated with the same id", faults)


def check_handovers(site: Site, stored: Stored) -> Iterator[Check]:
    """The hand-over of each import lists exactly its mailboxes with a wrong password."""
    keys = {one["email_key"] for one in stored.mailboxes}
    settled = {one["email_key"] for one in stored.mailboxes if one["status"] != MailboxStatus.PENDING}
    wanted: defaultdict[int, set[str]] = defaultdict(set)
    for one in stored.mailboxes:
        if one["status"] == MailboxStatus.FAILED:
            wanted[one["import_id"]].add(one["email_key"])
    failed = {key for found in wanted.values() for key in found}
    for import_id, key in stored.updates:
        wanted[import_id] |= {key} & failed
    faults = []
    for row in stored.imports:
        listed = addresses_in(fix_list_of_api(site, row["id"]) or b"")
        if len(listed) > len(set(listed)) or set(listed) & settled & keys != wanted[row["id"]]:
            faults.append(f"import {row['id']}: lists {len(listed)}, not {len(wanted[row['id']])}")
    faults += site.export_faults
    reports = ", ".join(f"{number} {kind}" for kind, number in sorted(Counter(site.exports).items()))
    counts = f"{len(stored.imports)} list {len(failed)} wrong passwords; reports: {reports or 'none'}"
    yield Check("hand-overs", counts, faults)


def check_closed(site: Site) -> Check:
    """Nothing of Prefect's API works without its login, and no write without the token of a client."""
    login = httpx.BasicAuth(*site.prefect_login.split(":", 1))
    writing = f"{site.prefect_url}/flow_runs/filter"
    found = {
        "without a login": httpx.get(f"{site.prefect_url}/admin/version", timeout=30).status_code,
        "without a token": httpx.post(writing, json={}, auth=login, timeout=30).status_code,
    }
    wanted = {"without a login": HTTPStatus.UNAUTHORIZED, "without a token": HTTPStatus.FORBIDDEN}
    faults = [f"{how}: {status}" for how, status in found.items() if status != wanted[how]]
    return Check("Prefect is closed", ", ".join(f"{how} {status}" for how, status in found.items()), faults)
