"""`outlook-import`: one program with a command for each job.

Each command is a module of this package and is imported only when it is called: `check` takes half a second
because it needs neither Prefect nor the database.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError
from rich.console import Console

from flows.cli.exit_codes import DONE, EXPLAINED, FAILED, INTERRUPTED, NOTHING_FOUND, USAGE
from schemas.labels import printable
from schemas.settings import SettingsError
from tasks.crash import StepError, leave_no_core_file, outline
from tasks.hints import SCRIPT, command

# The disk or a quota is full, or a file would be larger than allowed.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "": {
        "import": ("import_file:import_file", "Import a CSV file and test each login once."),
        "check": ("import_file:check_file", "Read and validate a CSV file; store nothing."),
        "retest": ("retest:retest", "Test the mailboxes that are pending and due."),
        "mailboxes": ("", "List, show, retest, tag and delete stored mailboxes."),
        "imports": ("", "List and show past imports, and the rows that failed."),
        "keys": ("", "Manage the keys of the HTTP API and the encryption keys."),
        "limit": ("limit:limit", "Limit concurrent tests per host across all workers."),
        "doctor": ("doctor:doctor", "Check settings, keys, database, folders, Prefect and mail servers."),
        "totp": ("totp:totp", "Show the current code of a mailbox's TOTP secret."),
        "template": ("template:template", "Write an empty CSV file with the right header."),
        "database": ("", "Manage the tables."),
        "prefect-profile": (
            "prefect_profile:prefect_profile",
            "Write the login and settings of a Prefect server.",
        ),
        "deploy": ("deploy:deploy", "Set up work pool, deployments and automation on the Prefect server."),
        "serve": ("serve:serve", "Serve the page and the HTTP API."),
        "open": ("page_link:print_link", "Print a link that signs in to the page on this machine."),
        "up": ("up:up", "Run the page, Prefect's server, the deployments and a worker on this machine."),
        "completion": ("completion:completion", "Print the completion script of a shell."),
    },
    "mailboxes": {
        "list": ("mailboxes:list_mailboxes", "List mailboxes with the result of the last test."),
        "show": ("mailboxes:show_mailbox", "Show everything stored about a mailbox, except its secrets."),
        "history": ("mailboxes:show_history", "Show when a mailbox started or stopped working, and why."),
        "retest": ("mailboxes:retest_mailboxes", "Test mailboxes again now."),
        "password": ("mailboxes:replace_password", "Give a mailbox a new password."),
        "needs": ("mailboxes:set_needs", "Set what mailboxes are needed for: both, smtp or imap."),
        "tag": ("mailboxes:tag_mailboxes", "Set or remove the tag of mailboxes."),
        "delete": ("mailboxes:delete_mailboxes", "Delete mailboxes with their credentials and verdicts."),
    },
    "imports": {
        "list": ("imports:list_imports", "List imports, newest first."),
        "show": ("imports:show_import", "Show the result of an import, the reasons and what to do."),
        "errors": ("imports:list_errors", "List the rows of an import that failed, by line."),
        "warnings": ("imports:list_warnings", "List the warnings of an import, by line."),
        "report": ("handover:write_report", "Write a report of an import as it is now: .csv, .xlsx, .html."),
        "handover": ("handover:write_handover", "Write what each person needs who has to act."),
    },
    "keys": {
        "create": ("keys:create_api_key", "Create a key of the HTTP API and print it, this once."),
        "list": ("keys:list_api_keys", "List the keys of the HTTP API."),
        "revoke": ("keys:revoke_api_key", "Refuse a key of the HTTP API from now on."),
        "encryption": ("", "List, add, rotate and remove encryption keys."),
    },
    "keys encryption": {
        "list": ("encryption_keys:list_keys", "List the ids of the keys and how much each has sealed."),
        "add": ("encryption_keys:add", "Create a key that seals from now on."),
        "rotate": ("encryption_keys:rotate", "Re-encrypt everything that the first key has not sealed."),
        "remove": ("encryption_keys:remove", "Remove keys that are no longer needed from the key file."),
    },
    "database": {
        "upgrade": ("database:upgrade_tables", "Bring the tables up to date."),
    },
}
OLD_NAMES = {"template": "import-template"}


def build(area: str = "", place: int = 0) -> App:
    """The program, or one of its areas with the commands in it."""
    app = App(
        name=area.rpartition(" ")[2] or SCRIPT,
        sort_key=place,
        help="Import Outlook and Hotmail mailboxes with app passwords." if not area else _about(area),
        help_epilogue=EXPLAINED,
        help_format="plaintext",
        version_flags=(),
        default_parameter=Parameter(negative=(), show_default=_worth_showing),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
    )
    for place, (name, (target, about)) in enumerate(GROUPS[area].items()):
        if target:
            names = [name, *filter(None, [OLD_NAMES.get(name)])]
            app.command(f"flows.cli.{target}", name=names, help=about, sort_key=place)
        else:
            app.command(build(f"{area} {name}".strip(), place))
    return app


def _about(area: str) -> str:
    above, _, name = area.rpartition(" ")
    return GROUPS[above][name][1]


def _worth_showing(default: object) -> str | None:
    """A default as the help shows it: nothing where an option is off or empty by default."""
    return None if default in (None, False, "", ()) else str(default)


def door(name: str) -> int:
    """`python -m flows.…`: the command of this name, with the words of the command line."""
    return main([name, *sys.argv[1:]])


def main(words: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; every failure ends it with a sentence.

    Args:
        words: The command line without the program's name; by default that of this process.
    """
    words = sys.argv[1:] if words is None else words
    leave_no_core_file()
    say = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        code = build()(list(words))
        sys.stdout.flush()
    except CycloptsError as error:
        say.print(str(error), markup=False)
        say.print(f"See {command(*_words_of(words), '--help')}", markup=False)
        return USAGE
    except SettingsError as error:
        say.print(f"Settings: {error}", style="red", markup=False)
        return USAGE
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _discard_output()
        return NOTHING_FOUND
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  the outermost edge: the text may quote a secret
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            _discard_output()
        say.print(_explained(error), style="red", markup=False)
        return FAILED
    return DONE if code is None else int(code)


def _discard_output() -> None:
    """Throw away what is still to be written to standard output, or Python's own end would fail with it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _words_of(words: Sequence[str]) -> list[str]:
    """The words at the beginning that name a command."""
    found: list[str] = []
    for word in words:
        if word not in GROUPS.get(" ".join(found), {}):
            break
        found.append(word)
    return found


def _explained(error: Exception) -> str:
    if isinstance(error, StepError):
        return f"Internal error: {error}. Please report it."
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        where = printable(str(error.filename)) if error.filename else "The output"
        return f"{where} cannot be written: {error.strerror}. Free some space and run the command again."
    from tasks.storage.database import DATABASE_FAULTS, cause_of  # imports SQLAlchemy

    if isinstance(error, DATABASE_FAULTS):
        return f"The database failed: {cause_of(error)}. What was reported as done is done."
    return f"Internal error: {outline(error)}. Please report it."
