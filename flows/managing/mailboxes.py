"""Stored mailboxes: `mailboxes list|show|delete|retest|tag`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from flows.command_line import print_json
from flows.managing.choosing import add_filters, add_workspace, filters_of, keys_of
from flows.managing.output import (
    DONE,
    NOTHING_FOUND,
    USAGE,
    Areas,
    add_action,
    add_area,
    add_json,
    add_limit,
    cell,
    plain_table,
    print_rows,
    tell_hidden,
    terminal,
)
from schemas.labels import LABEL_RULE, counted, is_label
from schemas.responses import Mailbox, MailboxRecord, ProtocolResult
from schemas.settings import Settings
from schemas.tables import now
from schemas.verdicts import MailboxStatus
from tasks.database import Database, database
from tasks.lookup import Filters, choose_mailboxes, count_mailboxes, find_mailboxes, find_record
from tasks.upkeep import delete_mailboxes, make_due, tag_mailboxes

COLUMNS = ("email", "status", "tag", "tested_at", "next_attempt", "why")
MOST_NAMED = 5

# Changes the mailboxes with these ids as far as the filters still let them through; yields their addresses.
Change = Callable[[Database, Collection[int], Filters], Iterator[list[str]]]


def add_arguments(areas: Areas) -> None:
    actions = add_area(areas, "mailboxes", "List, show, delete, retest and tag stored mailboxes.")
    about = "List mailboxes with what the last test says of them."
    listing = add_action(actions, "list", about, print_list)
    add_limit(listing)
    add_json(listing)
    add_filters(listing)
    about = "Show all that is known of a mailbox, but for its secrets."
    show = add_action(actions, "show", about, print_mailbox)
    show.add_argument("email", metavar="EMAIL")
    add_json(show)
    add_workspace(show)
    about = "Delete mailboxes with their credentials and verdicts."
    _add_choice(add_action(actions, "delete", about, delete))
    about = (
        "Let the next retest try mailboxes again, such as failed ones whose cause is mended. A wrong "
        "password stays wrong, and trying it too often locks the account."
    )
    _add_choice(add_action(actions, "retest", about, retest))
    about = "Give mailboxes a tag in place of the one that they have."
    tagging = add_action(actions, "tag", about, tag)
    tagging.usage = "%(prog)s [options] (NEWTAG | --no-tag) [EMAIL ...]"
    tagging.add_argument("--no-tag", action="store_true", help="Take the tag away that they have.")
    tagging.add_argument("emails", nargs="*", metavar="NEWTAG EMAIL", help="The tag, then the mailboxes.")
    _add_choice(tagging)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    if parser.get_default("run") is not tag:
        parser.add_argument("emails", nargs="*", metavar="EMAIL", help="These mailboxes.")
    parser.add_argument("--all", action="store_true", help="Every mailbox of the workspace.")
    parser.add_argument("--yes", action="store_true", help="Do not ask before changing what options choose.")
    add_filters(parser)


def print_list(options: argparse.Namespace, settings: Settings) -> int:
    filters = filters_of(options)
    with database(settings) as opened:
        page = find_mailboxes(opened, options.workspace, 0, options.limit, filters)
        total = count_mailboxes(opened, options.workspace, filters)
    if options.json:
        print_json([mailbox.model_dump(mode="json") for mailbox in page.mailboxes])
    elif not page.mailboxes:
        sys.stderr.write(f"No such mailbox in workspace {options.workspace!r}.\n")
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


def print_mailbox(options: argparse.Namespace, settings: Settings) -> int:
    (key,) = keys_of([options.email]).values()
    with database(settings) as opened:
        record = find_record(opened, options.workspace, key)
    if record is None:
        sys.stderr.write(f"{cell(options.email)} is not in workspace {options.workspace!r}.\n")
        return NOTHING_FOUND
    if options.json:
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
        "TOTP secret": "stored" if record.has_totp else "none",
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


def delete(options: argparse.Namespace, settings: Settings) -> int:
    will = "will be deleted, with their credentials and verdicts"
    return _change(options, settings, will, "Deleted", delete_mailboxes)


def retest(options: argparse.Namespace, settings: Settings) -> int:
    return _change(options, settings, "will be tested again by the next retest", "Due", make_due)


def tag(options: argparse.Namespace, settings: Settings) -> int:
    new = None
    if not options.no_tag:
        if not options.emails:
            return _refused("Name the new tag, or say --no-tag.")
        new, *options.emails = options.emails
    if new and not is_label(new):
        return _refused(f"That is no tag: {LABEL_RULE}.")
    will, word = ("will lose their tag", "Untagged") if not new else (f"will get the tag {new!r}", "Tagged")
    return _change(options, settings, will, word, partial(tag_mailboxes, tag=new or None))


def _change(options: argparse.Namespace, settings: Settings, will: str, word: str, change: Change) -> int:
    """Change the mailboxes that the options choose, and say which they were and which are not there."""
    keys, filters = keys_of(options.emails), filters_of(options)
    by_options = options.all or filters != Filters()
    if not keys and not by_options:
        return _refused("Name mailboxes or choose some by options; --all means every one of the workspace.")
    with database(settings) as opened:
        chosen = choose_mailboxes(opened, options.workspace, filters, keys.values())
        if chosen and by_options:
            _announce(chosen, options.workspace, will)
            if not options.yes and (code := _confirmed()) != DONE:
                return code
        changed = 0
        for emails in change(opened, chosen, filters):
            changed += len(emails)
            sys.stdout.writelines(f"{word}: {email}\n" for email in emails)
    there = set(chosen.values())
    missing = [email for email, key in keys.items() if key not in there]
    for email in missing:
        sys.stderr.write(f"Not in workspace {options.workspace!r}, or not among those: {cell(email)}\n")
    if not chosen and not missing:
        sys.stderr.write(f"No such mailbox in workspace {options.workspace!r}.\n")
    return DONE if chosen and not missing and changed == len(chosen) else NOTHING_FOUND


def _announce(chosen: Mapping[int, str], workspace: str, will: str) -> None:
    named = "".join(f"  {key}\n" for key in list(chosen.values())[:MOST_NAMED])
    hidden = len(chosen) - MOST_NAMED
    rest = f"  … and {hidden} more\n" if hidden > 0 else ""
    boxes = counted(len(chosen), "mailbox", "mailboxes")
    sys.stderr.write(f"{boxes} of workspace {workspace!r} {will}:\n{named}{rest}")


def _confirmed() -> int:
    """Ask the person at the terminal; DONE is a yes."""
    if not sys.stdin.isatty():
        return _refused("Nothing was changed: there is no terminal to ask at; --yes does it without asking.")
    sys.stderr.write("Go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return DONE
    sys.stderr.write("Nothing was changed.\n")
    return NOTHING_FOUND


def _refused(sentence: str) -> int:
    sys.stderr.write(f"{sentence}\n")
    return USAGE
