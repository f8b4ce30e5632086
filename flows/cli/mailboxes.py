"""Stored mailboxes: `mailboxes list|show|history|retest|tag|delete`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from getpass import getpass
from typing import Annotated

from cyclopts import Parameter
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from flows.cli.exit_codes import DONE, NOTHING_FOUND
from flows.cli.options import Csv, Email, Json, Limit, Verbose, Workspace
from flows.cli.output import (
    cell,
    no_such_mailbox,
    one_of,
    plain_table,
    print_json,
    print_list,
    print_rows,
    tell,
    tell_hidden,
    terminal,
    wrong_usage,
)
from flows.cli.retest import retest_now
from flows.cli.selection import MOST_NAMED, Selection, keys_of, why_nothing
from schemas.changes import Change as StatusChange
from schemas.labels import DEFAULT_WORKSPACE, LABEL_RULE, counted, is_label
from schemas.responses import Mailbox, MailboxRecord, ProtocolResult
from schemas.standing import MailboxStatus, Needs
from schemas.tables import now
from tasks.configuration import load_settings
from tasks.storage import mailbox_changes
from tasks.storage.changes import find_history
from tasks.storage.database import Database, database
from tasks.storage.mailboxes import Filters, choose_mailboxes, count_mailboxes, find_mailboxes, find_record
from tasks.storage.updates import check_password, replace_one

COLUMNS = ("email", "status", "tag", "tested_at", "next_attempt", "why")
EVERY = Selection()

# Changes the mailboxes with these ids as far as the filters still let them through; yields their addresses.
Change = Callable[[Database, Collection[int], Filters], Iterator[list[str]]]

Emails = Annotated[str, Parameter(name="EMAIL", help="These mailboxes.")]
All = Annotated[bool, Parameter(name="--all", help="Every mailbox of the workspace.")]
Later = Annotated[bool, Parameter(name="--later", help="Leave the test to the next scheduled retest.")]
Yes = Annotated[bool, Parameter(name="--yes", help="Change what the options select without asking.")]


def list_mailboxes(
    *, limit: Limit = 50, csv: Csv = False, json: Json = False, selection: Selection = EVERY
) -> int:
    """List mailboxes with the result of the last test."""
    if (code := one_of(as_csv=csv, as_json=json)) is not None:
        return code
    with database(load_settings()) as opened:
        page = find_mailboxes(opened, selection.workspace, 0, limit, selection.filters)
        total = len(page.mailboxes)
        if page.next_cursor is not None:
            total = count_mailboxes(opened, selection.workspace, selection.filters)
        nothing = "" if total else why_nothing(opened, selection.workspace, selection.filters)
    if json or csv:
        records = [mailbox.model_dump(mode="json") for mailbox in page.mailboxes]
        print_list(records, list(Mailbox.model_fields), as_csv=csv, as_json=json)
    elif nothing:
        tell(nothing)
    elif sys.stdout.isatty():
        terminal().print(_stacked(page.mailboxes))
    else:
        print_rows([_row(mailbox) for mailbox in page.mailboxes], COLUMNS)
    tell_hidden(len(page.mailboxes), total)
    return DONE if page.mailboxes else NOTHING_FOUND


def _row(mailbox: Mailbox) -> dict[str, object]:
    return mailbox.model_dump() | {"why": mailbox.diagnosis, "next_attempt": next_attempt(mailbox)}


def _stacked(mailboxes: Sequence[Mailbox]) -> Table:
    """Two lines for each mailbox, so that an address and a reason have room on a terminal."""
    table = plain_table(
        Column("email\n  why", ratio=1),
        Column("status\ntag", overflow="fold"),
        Column("tested at (UTC)\nnext attempt", no_wrap=True),
    )
    for mailbox in mailboxes:
        why = Text(f"  {cell(mailbox.diagnosis)}", style="dim", no_wrap=True, overflow="ellipsis")
        table.add_row(
            Group(Text(cell(mailbox.email), overflow="fold"), why),
            f"{mailbox.status}\n{cell(mailbox.tag)}",
            f"{cell(mailbox.tested_at) or 'not tested'}\n{next_attempt(mailbox)}",
        )
    return table


def next_attempt(mailbox: Mailbox) -> str:
    """When a mailbox is tested again, in words where it is no time to come; "" for never."""
    if mailbox.status != MailboxStatus.PENDING:
        return ""
    if mailbox.next_attempt_at is None:
        return "when asked for"
    return "due now" if mailbox.next_attempt_at <= now() else cell(mailbox.next_attempt_at)


def show_mailbox(email: Email, /, *, workspace: Workspace = DEFAULT_WORKSPACE, json: Json = False) -> int:
    """Show everything stored about a mailbox, except its secrets."""
    (key,) = keys_of([email]).values()
    with database(load_settings()) as opened:
        record = find_record(opened, workspace, key)
    if record is None:
        return no_such_mailbox(email, workspace)
    if json:
        print_json(record.model_dump(mode="json"))
        return DONE
    out = terminal()
    out.print(f"{record.email}: {record.status}", style="bold")
    if record.diagnosis:
        out.print(cell(record.diagnosis))
    elif record.results:
        out.print("Waits for a new test; what the servers said was before.")
    out.print()
    out.print(_grid(_facts(record)))
    for result in record.results:
        out.print()
        earlier = " (not in the last test)" if result.at != record.tested_at else ""
        out.print(f"{result.protocol.upper()}: {result.title}{earlier}", style="bold")
        out.print(_grid(_answer(result)))
    return DONE


def show_history(email: Email, /, *, workspace: Workspace = DEFAULT_WORKSPACE, json: Json = False) -> int:
    """Show when a mailbox started or stopped working, and why; the newest change first."""
    (key,) = keys_of([email]).values()
    with database(load_settings()) as opened:
        changes = find_history(opened, workspace, key)
    if changes is None:
        return no_such_mailbox(email, workspace)
    if json:
        print_json([_told(change) for change in changes])
    elif not changes:
        tell(f"{cell(email)} has no verdict yet.")
    else:
        print_rows([_history_row(change) for change in changes], ("time", "change", "why"))
    return DONE if changes else NOTHING_FOUND


def _told(change: StatusChange) -> dict[str, object]:
    return change.told() | {"told_at": change.told_at.isoformat() if change.told_at else None}


def _history_row(change: StatusChange) -> dict[str, object]:
    why = (f"{protocol.upper()}: {reason.explanation.title}" for protocol, reason in change.reasons.items())
    return {
        "time": change.at,
        "change": f"{change.before or 'not tested'} → {change.after}",
        "why": ", ".join(why),
    }


def _grid(facts: Mapping[str, object]) -> Table:
    grid = Table.grid("", "", padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(f"  {name}", Text(cell(value), overflow="fold"))
    return grid


def _facts(record: MailboxRecord) -> dict[str, object]:
    held = f"yes, until {record.claimed_until:%H:%M:%S} UTC at the latest" if record.claimed_until else "no"
    return {
        "Name": record.name or "–",
        "Tag": record.tag or "–",
        "Workspace": record.workspace,
        "Import": f"{record.import_id}, {cell(record.created_at)} UTC, {record.file}",
        "SMTP server": record.smtp,
        "IMAP server": record.imap,
        "Sign-in name": record.login or "the address",
        "Needed for": record.needs,
        "TOTP secret": "stored" if record.has_totp else "none",
        **({"Warning": record.warning} if record.warning else {}),
        "Tested at": f"{cell(record.tested_at)} UTC" if record.tested_at else "never",
        "Attempts": record.attempts,
        "Next attempt": next_attempt(record) or "none",
        "In a test now": held,
    }


def _answer(result: ProtocolResult) -> dict[str, object]:
    return {
        "It means": result.meaning,
        "What to do": result.remedy,
        "Server said": result.server_text or "–",
        "Where": f"{result.host}, at stage {result.stage}",
        "When": f"{cell(result.at)} UTC, attempt {result.attempt}, took {result.milliseconds} ms",
        "Reason code": result.reason,
    }


def delete_mailboxes(
    *emails: Emails, selection: Selection = EVERY, all_: All = False, yes: Yes = False
) -> int:
    """Delete mailboxes with their credentials and verdicts."""
    will = "will be deleted; their passwords cannot be got back"
    return _change(emails, selection, will, "Deleted", mailbox_changes.delete_mailboxes, all_=all_, yes=yes)


def retest_mailboxes(
    *emails: Emails,
    selection: Selection = EVERY,
    all_: All = False,
    yes: Yes = False,
    later: Later = False,
    verbose: Verbose = False,
) -> int:
    """Test mailboxes again now, such as failed ones whose cause is fixed.

    A wrong password stays wrong, and trying it too often locks the account.
    """
    due: list[int] = []

    def make_due(opened: Database, chosen: Collection[int], filters: Filters) -> Iterator[list[str]]:
        due.extend(chosen)
        return mailbox_changes.make_due(opened, chosen, filters)

    code = _change(emails, selection, "will be tested again", "Due", make_due, all_=all_, yes=yes)
    return code if later or not due else max(code, retest_now(due, verbose=verbose))


def tag_mailboxes(
    *words: Annotated[str, Parameter(name="NEWTAG EMAIL", help="The new tag, then the mailboxes.")],
    no_tag: Annotated[bool, Parameter(help="Remove the tag.")] = False,
    selection: Selection = EVERY,
    all_: All = False,
    yes: Yes = False,
) -> int:
    """Set or remove the tag of mailboxes."""
    if not (words or no_tag):
        return wrong_usage("Name the new tag, or use --no-tag.")
    new, emails = (None, words) if no_tag else (words[0], words[1:])
    if new and not is_label(new):
        return wrong_usage(f"Not a valid tag: {LABEL_RULE}.")
    will, word = ("will lose their tag", "Untagged") if not new else (f"will get the tag {new!r}", "Tagged")
    change = partial(mailbox_changes.edit_mailboxes, changes={"tag": new or None})
    return _change(emails, selection, will, word, change, all_=all_, yes=yes)


def replace_password(
    email: Email,
    /,
    *,
    workspace: Workspace = DEFAULT_WORKSPACE,
    later: Later = False,
    verbose: Verbose = False,
) -> int:
    """Give a mailbox a new password, typed twice without being shown or from standard input, and test it."""
    (key,) = keys_of([email]).values()
    if sys.stdin.isatty():
        password = getpass("New password: ")
        if getpass("The same again: ") != password:
            return wrong_usage("The two passwords differ. Nothing was changed.")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    checked = check_password(email, password)
    if isinstance(checked, str):
        return wrong_usage(f"{checked}. Nothing was changed.")
    with database(load_settings()) as opened:
        known = replace_one(opened, workspace, key, checked)
    if known is None:
        return no_such_mailbox(email, workspace)
    if known.reason is not None:
        tell(f"{known.reason.message}: {known.reason.remedy}.")
        return NOTHING_FOUND
    sys.stdout.write(f"Replaced: {cell(email)}.\n")
    sys.stdout.flush()
    return DONE if later else retest_now([known.mailbox_id], verbose=verbose)


def set_needs(
    needs: Annotated[Needs, Parameter(name="NEEDS", help="both (send and receive), smtp or imap.")],
    /,
    *emails: Emails,
    selection: Selection = EVERY,
    all_: All = False,
    yes: Yes = False,
) -> int:
    """Set what mailboxes are needed for; what is not needed is not tested."""
    will = f"will be needed for {needs}"
    change = partial(mailbox_changes.edit_mailboxes, changes={"needs": needs})
    return _change(emails, selection, will, "Set", change, all_=all_, yes=yes)


def _change(
    emails: Sequence[str],
    selection: Selection,
    will: str,
    word: str,
    change: Change,
    *,
    all_: bool,
    yes: bool,
) -> int:
    """Change the mailboxes that the words and options select; say which they were and which are missing."""
    keys, filters, workspace = keys_of(emails), selection.filters, selection.workspace
    by_options = all_ or filters != Filters()
    if not keys and not by_options:
        return wrong_usage(
            "Name mailboxes or select some by options; --all means every one of the workspace."
        )
    with database(load_settings()) as opened:
        chosen = choose_mailboxes(opened, workspace, filters, keys.values())
        if chosen and by_options:
            _announce(chosen, workspace, will)
            if not yes and (code := _confirmed()) != DONE:
                return code
        changed = 0
        for part in change(opened, chosen, filters):
            changed += len(part)
            sys.stdout.writelines(f"{word}: {email}\n" for email in part)
        nothing = "" if chosen or keys else why_nothing(opened, workspace, filters)
    there = set(chosen.values())
    missing = [email for email, key in keys.items() if key not in there]
    for email in missing:
        tell(f"Not in workspace {workspace!r}, or not selected by the options: {cell(email)}")
    if nothing:
        tell(nothing)
    return DONE if chosen and not missing and changed == len(chosen) else NOTHING_FOUND


def _announce(chosen: Mapping[int, str], workspace: str, will: str) -> None:
    named = "".join(f"\n  {key}" for key in list(chosen.values())[:MOST_NAMED])
    hidden = len(chosen) - MOST_NAMED
    rest = f"\n  … and {hidden} more" if hidden > 0 else ""
    boxes = counted(len(chosen), "mailbox", "mailboxes")
    tell(f"{boxes} of workspace {workspace!r} {will}:{named}{rest}")


def _confirmed() -> int:
    """Ask the person at the terminal; DONE is a yes."""
    if not sys.stdin.isatty():
        return wrong_usage("Nothing was changed: there is no terminal to ask at. --yes skips the question.")
    sys.stderr.write("Go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return DONE
    tell("Nothing was changed.")
    return NOTHING_FOUND
