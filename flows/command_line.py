"""The command line of the import: `python -m flows.import_outlook FILE`.

The file is read and judged before Prefect is imported, so that a person sees its counts, or why it was
refused, in half a second. Standard output carries the result and nothing else; progress goes to standard
error.

Exit codes: 0 the file was imported (whatever its rows), 1 it was refused, 2 wrong usage or settings,
3 the run broke off, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from flows.temporary_server import ServerNotStartedError, TemporaryServer
from schemas.csv_file import CSV_REQUIRED, Refusal, parse, read_bytes
from schemas.labels import DEFAULT_WORKSPACE, LABEL_RULE, counted, is_label
from schemas.rows import dedupe, judge
from schemas.settings import Settings, SettingsError, load_settings
from schemas.summary import MAX_ERRORS_SHOWN, Result, Summary, outcomes_of
from schemas.verdicts import MailboxStatus, ProbeReport
from tasks.crash import StepError, leave_no_core_file, outline, unquoted

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from flows.attended import Ended, Start

DONE, REFUSED, USAGE, FAILED, INTERRUPTED = 0, 1, 2, 3, 130
SAFE = "What is stored stays stored; running the same again adds nothing twice."


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.import_outlook",
        description="Import a CSV of Outlook mailboxes with app passwords, and test each login once.",
        epilog="Exit codes: 0 imported, 1 the file was refused, 2 wrong usage or settings, "
        "3 the run broke off, 130 stopped by Ctrl-C.",
    )
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="The CSV file.")
    parser.add_argument("--tag", type=label, help="Label for the mailboxes of this import.")
    parser.add_argument(
        "--workspace",
        type=label,
        default=DEFAULT_WORKSPACE,
        help="Whose mailboxes they are (default: %(default)s).",
    )
    parser.add_argument("--encoding", help="Text encoding of a file that is not UTF-8, such as cp1252.")
    parser.add_argument("--check", action="store_true", help="Only read and judge the file; store nothing.")
    parser.add_argument(
        "--no-test", action="store_true", help="Store the mailboxes without testing the logins."
    )
    parser.add_argument(
        "--report", type=report_path, metavar="PATH", help="Write a CSV with a line for each row."
    )
    parser.add_argument("--json", action="store_true", help="Print the result as the import API's JSON.")
    parser.add_argument("--verbose", action="store_true", help="Show Prefect's own log lines too.")
    return parser


def label(text: str) -> str:
    if not is_label(text):
        raise argparse.ArgumentTypeError(LABEL_RULE)
    return text


def report_path(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError("its folder is not there")
    return path


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    say = Console(stderr=True, highlight=False, soft_wrap=True)
    return guarded(lambda: judge_and_run(options, say), say)


def judge_and_run(options: argparse.Namespace, say: Console) -> int:
    preview = check(options, load_settings())
    if isinstance(preview, Refusal):
        return print_refusal(preview, options, say)
    if options.check:
        print_summary(preview, options)
        return DONE
    return run(options, preview, say)


def guarded(work: Callable[[], int], say: Console) -> int:
    """Do the work; wrong settings, a server that does not start, and Ctrl-C end it with a sentence."""
    leave_no_core_file()
    try:
        return work()
    except SettingsError as error:
        say.print(f"Settings: {error}", style="red", markup=False)
        return USAGE
    except ServerNotStartedError as error:
        say.print(f"Nothing was changed: {error}", style="red", markup=False)
        return FAILED
    except StepError as error:
        say.print(f"Nothing was changed: a fault of this program: {error}", style="red", markup=False)
        return FAILED
    except KeyboardInterrupt:
        say.print(f"Stopped. {SAFE}")
        return INTERRUPTED


@unquoted()
def check(options: argparse.Namespace, settings: Settings) -> Summary | Refusal:
    """Judge the file without storing anything; `imported` then counts the rows that would be tried."""
    if options.file is None:
        return Refusal(CSV_REQUIRED, "name a file")
    data = read_bytes(options.file, settings.max_file_bytes)
    table = data if isinstance(data, Refusal) else parse(data, options.encoding)
    if isinstance(table, Refusal):
        return table
    judged = judge(table)
    deduped = dedupe(judged.valid)
    if isinstance(deduped, Refusal):
        return deduped
    kept, duplicates = deduped
    imported = kept.select("line", "email", "warning").iter_rows()
    return Summary(
        file=options.file.name,
        workspace=options.workspace,
        tag=options.tag,
        outcomes=outcomes_of(imported, (), duplicates, judged.errors),
        errors=judged.errors,
        ignored=table.ignored,
    )


def run(options: argparse.Namespace, preview: Summary, say: Console) -> int:
    """Run the import flow and show what came of it."""
    mailboxes = counted(preview.imported, "mailbox", "mailboxes")
    counts = f"{mailboxes}, {preview.skipped} repeated, {preview.failed} failed"
    rows = counted(len(preview.outcomes), "row")
    say.print(f"{preview.file}: {rows}, {counts}. Starting Prefect …", markup=False)

    def start() -> Awaitable[State[Any]]:
        from flows.import_outlook import import_outlook

        return import_outlook(
            file=options.file.absolute(),
            tag=options.tag,
            workspace=options.workspace,
            test=not options.no_test,
            encoding=options.encoding,
            report=options.report.absolute() if options.report else None,
            return_state=True,
        )

    return attend(start, show_import, options, say)


def attend(
    start: Start,
    show: Callable[[Ended, argparse.Namespace, Console], int],
    options: argparse.Namespace,
    say: Console,
) -> int:
    """Run a flow on the configured Prefect server, or on one of its own for as long as it takes."""
    os.environ.setdefault("DO_NOT_TRACK", "1")  # nothing about a run is told to anybody but its operator
    if not options.verbose:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    from prefect.settings import PREFECT_API_URL

    server = None if PREFECT_API_URL.value() else TemporaryServer(verbose=options.verbose)
    try:
        from flows.attended import drain, run_attended  # the rest of Prefect, while the server starts

        try:
            ended = run_attended(start, say, server)
        except ServerNotStartedError:
            raise
        except Exception as error:  # noqa: BLE001  what is not caught would exit as a refused file does
            what = outline(error) if options.verbose else type(error).__name__
            cause = f"Prefect failed with {what}; check that its server (PREFECT_API_URL) answers."
            return print_failure(cause, options, say)
        if isinstance(ended.outcome, SettingsError):
            raise ended.outcome
        code = show(ended, options, say)
        if server is not None:
            drain(server, ended.state)
        return code
    finally:
        if server is not None:
            server.stop()


def show_import(ended: Ended, options: argparse.Namespace, say: Console) -> int:
    """Show what an import came to; returns the exit code."""
    state, outcome = ended
    if isinstance(outcome, Refusal):  # the file was changed since it was judged
        return print_refusal(outcome, options, say)
    if not isinstance(outcome, tuple):
        return print_failure(str(state.message), options, say)
    summary, verdicts = outcome
    print_summary(summary, options)
    if verdicts is not None:
        print_verdicts(verdicts, Console(stderr=options.json), with_mailboxes=options.report is None)
    if options.report is not None:
        say.print(f"Report: {options.report}", markup=False)
    return INTERRUPTED if state.is_cancelled() else DONE


def retest_main(argv: Sequence[str] | None = None) -> int:
    """The command `python -m flows.retest_pending`."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.retest_pending",
        description="Test again the mailboxes that are pending and due.",
    )
    parser.add_argument("--workspace", type=label, help="Only this workspace's mailboxes (default: all).")
    parser.add_argument(
        "--held",
        action="store_true",
        help="Also those that wait until somebody asks: held back by the guard, or imported untested.",
    )
    parser.add_argument("--verbose", action="store_true", help="Show Prefect's own log lines too.")
    parser.set_defaults(json=False)
    options = parser.parse_args(argv)

    def start() -> Awaitable[State[Any]]:
        from flows.retest_pending import retest_pending

        return retest_pending(workspace=options.workspace, held=options.held, return_state=True)

    say = Console(stderr=True, highlight=False, soft_wrap=True)
    return guarded(lambda: attend(start, show_retest, options, say), say)


def show_retest(ended: Ended, options: argparse.Namespace, say: Console) -> int:
    """Show what a retest came to; returns the exit code."""
    state, report = ended
    if not isinstance(report, ProbeReport):
        return print_failure(str(state.message), options, say)
    print_verdicts(report, Console(), with_mailboxes=True)
    return INTERRUPTED if state.is_cancelled() else DONE


def print_refusal(refusal: Refusal, options: argparse.Namespace, say: Console) -> int:
    if options.json:
        print_json(refusal.envelope())
    else:
        say.print(f"Refused: {refusal.message}", style="bold red", markup=False)
        if refusal.detail:
            say.print(refusal.detail[0].upper() + refusal.detail[1:] + ".", markup=False)
        say.print("Nothing was changed.")
    return REFUSED


def print_failure(message: str, options: argparse.Namespace, say: Console) -> int:
    """Tell of a run that broke off: a fault of the set-up or of this program, not of the file."""
    if options.json:
        error = {"code": "INTERNAL_ERROR", "message": "The import did not come to its end"}
        print_json({"success": False, "error": error})
    say.print(f"The run did not come to its end: {message}", style="red", markup=False)
    say.print(SAFE)
    return FAILED


def print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_summary(summary: Summary, options: argparse.Namespace) -> None:
    if options.json:
        print_json(summary.envelope())
        return
    out = Console(highlight=False)
    checked = " (only checked, nothing stored)" if options.check else ""
    rows = counted(len(summary.outcomes), "row")
    out.print(f"{summary.file}: {rows}{checked}", style="bold", markup=False)
    counts = Table()
    for result in Result:
        counts.add_column(result.value.capitalize(), justify="right")
    counts.add_row(str(summary.imported), str(summary.skipped), str(summary.failed))
    out.print(counts)
    if causes := summary.causes() + summary.warnings():
        out.print(reasons_table("Rows", [(cause.rows, cause.reason, cause.remedy) for cause in causes]))
    for error in summary.errors[:MAX_ERRORS_SHOWN]:
        out.print(f"  line {error.line}: {error.email}: {error.reason.message}", markup=False)
    if hidden := len(summary.errors[MAX_ERRORS_SHOWN:]):
        out.print(f"  … and {hidden} more; --report PATH lists them all")
    if summary.ignored:
        out.print(f"Columns not used: {', '.join(summary.ignored)}", markup=False)


def print_verdicts(report: ProbeReport, out: Console, *, with_mailboxes: bool) -> None:
    out.print()
    out.print(f"Connections: {report}", style="bold", markup=False)
    if report.stopped:
        out.print(report.stopped, style="bold yellow", markup=False)
    if reasons := report.reasons():
        rows = [(count, r.explanation.title, r.explanation.remedy) for r, count in reasons]
        out.print(reasons_table("Mailboxes", rows))
    troubled = [verdict for verdict in report.sorted() if verdict.status != MailboxStatus.ACTIVE]
    if with_mailboxes:
        for verdict in troubled[:MAX_ERRORS_SHOWN]:
            line = f"  {verdict.email}: {verdict.status}. {verdict.headline}"
            out.print(line, markup=False, highlight=False, soft_wrap=True)
        if hidden := len(troubled[MAX_ERRORS_SHOWN:]):
            out.print(f"  … and {hidden} more; --report PATH lists them all")
    if any(verdict.status == MailboxStatus.PENDING for verdict in troubled) or report.untested:
        out.print("To test what is pending and due: python -m flows.retest_pending", highlight=False)


def reasons_table(what: str, rows: Sequence[tuple[int, str, str]]) -> Table:
    table = Table(Column(what, justify="right"), "Reason", Column("What to do", overflow="fold"))
    for count, reason, remedy in rows:
        table.add_row(str(count), escape(reason), escape(remedy))
    return table
