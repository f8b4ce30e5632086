"""The overview of a hand-over: what each file is and for whom."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from schemas.handover.script import BEFORE_NAME, SCRIPT_NAME
from schemas.labels import DEFAULT_WORKSPACE, counted, shortened
from schemas.outcomes import (
    Action,
    Document,
    utc,
    who_has_to_act,
)
from schemas.reasons import Actor

WIDTH = 100
README = "README.txt"
ADMIN_PAGE = "to-admin.md"
FIX_PASSWORDS, FIX_ROWS = "fix-passwords.csv", "fix-rows.csv"
PERSONAL, OAUTH = "personal.csv", "oauth.csv"
LETTERS = "letters"


def readme(
    document: Document,
    found: Sequence[Action],
    folders: Mapping[str, Mapping[str, int]],
    lists: Mapping[str, int],
    letters: int,
    program: str,
) -> str:
    """The text of `README.txt`.

    Args:
        folders: For the folder of each domain, the names of its files and their numbers of mailboxes.
        lists: The names of the CSV files and their numbers of rows.
        program: How to call this program.
    """
    concerned = [outcome for action in found for outcome in action.outcomes]
    sentence = who_has_to_act(concerned)
    blocks = [
        f"{len(concerned):,} of {counted(document.rows, 'row')} do not fully work: import "
        f"{document.import_id}, {shortened(document.file, 60)}, {utc(document.created_at)}.",
        _text(f"{sentence}." if sentence else "There is nothing to do."),
        "No file here contains a password.",
        *_for_admins(folders),
        *_for_the_uploader(document, lists, program),
        *_for_owners(letters),
        *_for_oauth(lists),
        *_without_a_file(document, found, program),
    ]
    return "\n\n".join(blocks) + "\n"


def _for_admins(folders: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    if not folders:
        return
    listed = [
        f"{folder}/{name}: {counted(count, 'mailbox', 'mailboxes')}"
        for folder, files in folders.items()
        for name, count in files.items()
    ]
    yield _heading("For the Microsoft 365 admins, a folder for each domain")
    yield "\n".join(f"  {line}" for line in listed)
    yield _text(
        f"Send each admin the folder of the domain. {ADMIN_PAGE} says what is wrong and what to do. "
        f"{SCRIPT_NAME} turns on SMTP AUTH: it only shows what it would do unless it is called with -Apply, "
        f"and it records the earlier state in {BEFORE_NAME}."
    )


def _for_the_uploader(document: Document, lists: Mapping[str, int], program: str) -> Iterator[str]:
    if FIX_PASSWORDS in lists or FIX_ROWS in lists:
        yield _heading("For the person who made the file")
    if FIX_PASSWORDS in lists:
        call = _call(document, program, "import", FIX_PASSWORDS, "--update")
        yield _text(
            f"{FIX_PASSWORDS}: {counted(lists[FIX_PASSWORDS], 'row')}. Fill in the column “password” with "
            "the new app passwords, delete the rows without one, then run:"
        )
        yield f"    {call}"
        yield _text("Delete the filled file afterwards.")
    if FIX_ROWS in lists:
        yield _text(
            f"{FIX_ROWS}: {counted(lists[FIX_ROWS], 'row')}. These rows of the file need correcting, by "
            "line. Import the corrected file again: rows that are stored already are skipped."
        )


def _for_owners(letters: int) -> Iterator[str]:
    if letters:
        yield _heading("For the owners of the mailboxes")
        yield _text(
            f"{LETTERS}/: {counted(letters, 'letter')}, one for each owner who has to act. Each is named "
            "after the address that it is for."
        )


def _for_oauth(lists: Mapping[str, int]) -> Iterator[str]:
    if OAUTH not in lists:
        return
    yield _heading("What no password opens")
    yield _text(
        f"{OAUTH}: {counted(lists[OAUTH], 'mailbox', 'mailboxes')} that only OAuth sign-in opens, for tools "
        "that have it. A new app password does not help."
    )
    if PERSONAL in lists:
        yield _text(
            f"{PERSONAL}: the {counted(lists[PERSONAL], 'personal account')} among them (outlook.com, "
            "hotmail.com and others). Microsoft has turned off password sign-in for these accounts, and no "
            "admin can turn it on."
        )


def _without_a_file(document: Document, found: Sequence[Action], program: str) -> Iterator[str]:
    mine = [action for action in found if action.actor is Actor.OPERATOR]
    if mine:
        yield _heading("For the operator of this program (no file)")
        yield "\n".join(_reason(action) for action in mine)
        yield _text("Then test the mailboxes again:")
        yield f"    {_call(document, program, 'mailboxes', 'retest', '--import', str(document.import_id))}"
    if waiting := [action for action in found if action.actor is Actor.WAIT]:
        yield _heading("Tested again without you (no file)")
        yield "\n".join(_reason(action) for action in waiting)


def _reason(action: Action) -> str:
    return _text(f"{len(action.outcomes):,}: {action.heading} {action.remedy}", indent="  ")


def _call(document: Document, program: str, *words: str) -> str:
    elsewhere = () if document.workspace == DEFAULT_WORKSPACE else ("--workspace", document.workspace)
    return f"{program} {shlex.join([*words, *elsewhere])}"


def _heading(text: str) -> str:
    return f"{text}\n{'-' * len(text)}"


def _text(text: str, indent: str = "") -> str:
    return textwrap.fill(
        shortened(text, 2000),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=2 * indent,
        break_on_hyphens=False,
    )
