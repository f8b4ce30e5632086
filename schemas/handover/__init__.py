"""The hand-over of an import: files by who has to act, made of addresses and reasons, without a secret."""

from __future__ import annotations

import io
import zipfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from schemas.handover.admin import smtp_auth_off, to_admin
from schemas.handover.letters import letter
from schemas.handover.lists import PASSWORD_ERRORS, fix_passwords, fix_rows, oauth_list, personal_list
from schemas.handover.names import SafeNames
from schemas.handover.readme import (
    ADMIN_PAGE,
    FIX_PASSWORDS,
    FIX_ROWS,
    LETTERS,
    OAUTH,
    PERSONAL,
    README,
    readme,
)
from schemas.handover.script import SCRIPT_NAME, enable_smtp_auth
from schemas.outcomes import Action, Document, Outcome, actions, needs_password
from schemas.reasons import Actor


def handover(
    document: Document, outcomes: Iterable[Outcome], program: str = "outlook-import"
) -> dict[str, bytes]:
    """Make the files of a hand-over.

    A file exists only if it concerns a row. Texts are UTF-8, and the first line of each has a count.

    Args:
        program: How to call this program, for the commands in `README.txt`.

    Returns:
        The content of each file by its relative path with `/`, `README.txt` first. The paths are safe on
        every file system.
    """
    rows = list(outcomes)
    found = actions(rows)
    members = {
        FIX_PASSWORDS: _solved_by_password(found, {one.email.lower() for one in rows if one.status}),
        OAUTH: _of(found, Actor.NOBODY),
    }
    members[FIX_ROWS] = _without(_of(found, Actor.UPLOADER), members[FIX_PASSWORDS])
    members[PERSONAL] = _where(members[OAUTH], [one for one in rows if one.personal])
    makers = {
        FIX_PASSWORDS: fix_passwords,
        FIX_ROWS: fix_rows,
        PERSONAL: personal_list,
        OAUTH: oauth_list,
    }
    lists = {name: make(members[name]) for name, make in makers.items() if members[name]}

    names = SafeNames(*makers, LETTERS, README)
    folders = {
        names.name(domain): _admin_files(document, domain, theirs)
        for domain, theirs in _by_domain(found).items()
    }
    letters = _letters(_of(found, Actor.OWNER))
    overview = readme(
        document,
        found,
        {folder: {name: count for name, (_, count) in files.items()} for folder, files in folders.items()},
        {name: _count(members[name]) for name in lists},
        len(letters),
        program,
    )
    by_folder = {
        f"{folder}/{name}": made for folder, files in folders.items() for name, (made, _) in files.items()
    }
    return {
        README: overview.encode(),
        **by_folder,
        **lists,
        **{f"{LETTERS}/{name}": text for name, text in letters.items()},
    }


def zipped(files: Mapping[str, bytes]) -> bytes:
    """The files as one ZIP archive."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def _of(found: Sequence[Action], actor: Actor) -> list[Action]:
    return [action for action in found if action.actor is actor]


def _solved_by_password(found: Sequence[Action], stored: Collection[str]) -> list[Action]:
    """The mailboxes and rows for which a filled row of `fix-passwords.csv` is enough."""
    mailboxes = [action for action in _of(found, Actor.OWNER) if needs_password(action)]
    errors = [action for action in _of(found, Actor.UPLOADER) if action.code in PASSWORD_ERRORS]
    seen = set(stored)
    rows = []
    for outcome in (outcome for action in errors for outcome in action.outcomes):
        # A row without an address cannot be imported; that of a stored mailbox, or a second one, need not be.
        if "@" in outcome.email and outcome.email.lower() not in seen:
            seen.add(outcome.email.lower())
            rows.append(outcome)
    return mailboxes + _where(errors, rows)


def _where(found: Iterable[Action], wanted: Collection[Outcome]) -> list[Action]:
    """The actions with these outcomes only."""
    chosen = set(map(id, wanted))
    kept = ((action, tuple(one for one in action.outcomes if id(one) in chosen)) for action in found)
    return [action._replace(outcomes=members) for action, members in kept if members]


def _without(found: Iterable[Action], others: Iterable[Action]) -> list[Action]:
    taken = {id(outcome) for action in others for outcome in action.outcomes}
    kept = list(found)
    return _where(kept, [one for action in kept for one in action.outcomes if id(one) not in taken])


def _count(found: Iterable[Action]) -> int:
    return sum(len(action.outcomes) for action in found)


def _letters(found: Iterable[Action]) -> dict[str, bytes]:
    names = SafeNames()
    return {
        names.name(outcome.email, ".txt"): letter(action, outcome).encode()
        for action in found
        for outcome in action.outcomes
    }


def _by_domain(found: Sequence[Action]) -> dict[str, list[Action]]:
    """The admins' actions, split by domain; the domains in alphabetical order."""
    theirs = _of(found, Actor.ADMIN)
    split: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in (outcome for action in theirs for outcome in action.outcomes):
        split[outcome.domain].append(outcome)
    return {domain: _where(theirs, split[domain]) for domain in sorted(split)}


def _admin_files(document: Document, domain: str, found: Sequence[Action]) -> dict[str, tuple[bytes, int]]:
    """The files of one domain, each with its number of mailboxes."""
    files = {ADMIN_PAGE: (to_admin(document, domain, found).encode(), _count(found))}
    emails = [outcome.email for one in found for outcome in one.outcomes if smtp_auth_off(outcome)]
    if emails:
        files[SCRIPT_NAME] = (enable_smtp_auth(sorted(emails, key=str.casefold)), len(emails))
    return files
