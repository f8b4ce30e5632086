"""The result of a run as a person reads it at a terminal: summary, verdicts, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from flows.cli.exit_codes import REFUSED
from flows.cli.output import print_json
from schemas.labels import DEFAULT_WORKSPACE, counted
from schemas.refusals import Refusal, sentence
from schemas.standing import MailboxStatus
from schemas.summary import MAX_ERRORS_SHOWN, Summary
from schemas.verdicts import ProbeReport
from tasks.hints import command

WORTH_LISTING = {
    MailboxStatus.FAILED: "The mailboxes that failed",
    MailboxStatus.PARTIAL: "The mailboxes that can only send or only receive",
}
REPORT_LISTS_ALL = "--report PATH writes them all"


def print_refusal(refusal: Refusal, say: Console, *, as_json: bool) -> int:
    if as_json:
        print_json(refusal.envelope())
    else:
        say.print(f"Refused: {refusal.message}", style="bold red", markup=False)
        if refusal.detail:
            say.print(sentence(refusal.detail), markup=False)
        say.print("Nothing was changed.")
    return REFUSED


def print_summary(summary: Summary) -> None:
    out = Console(highlight=False)
    checked = "" if summary.import_id else " (only checked, nothing stored)"
    rows = counted(len(summary.outcomes), "row")
    out.print(f"{summary.file}: {rows}{checked}", style="bold", markup=False)
    counts = Table()
    for result in summary.results:
        counts.add_column(result.value.capitalize(), justify="right")
    counts.add_row(*(str(getattr(summary, result)) for result in summary.results))
    out.print(counts)
    if causes := summary.causes() + summary.warnings():
        out.print(reasons_table("Rows", [(cause.rows, cause.reason, cause.remedy) for cause in causes]))
    for error in summary.errors[:MAX_ERRORS_SHOWN]:
        out.print(f"  line {error.line}: {error.email}: {error.message}", markup=False, soft_wrap=True)
    if hidden := len(summary.errors[MAX_ERRORS_SHOWN:]):
        listing = of_import("imports", "errors", summary) if summary.import_id else REPORT_LISTS_ALL
        out.print(f"  … and {hidden} more: {listing}", markup=False, soft_wrap=True)
    warned = summary.warned()
    for one in warned[:MAX_ERRORS_SHOWN]:
        about = f"line {one.line}: {one.email}" if one.email is not None else "note"
        out.print(f"  {about}: {one.warning}", markup=False, soft_wrap=True)
    if hidden := len(warned[MAX_ERRORS_SHOWN:]):
        listing = of_import("imports", "warnings", summary) if summary.import_id else REPORT_LISTS_ALL
        out.print(f"  … and {hidden} more warnings: {listing}", markup=False, soft_wrap=True)
    if summary.ignored:
        out.print(f"Columns not used: {', '.join(summary.ignored)}", markup=False)


def print_verdicts(
    report: ProbeReport, out: Console, summary: Summary | None = None, who_acts: str = ""
) -> None:
    out.print()
    out.print(f"Connections: {report}", style="bold", markup=False)
    if who_acts:
        out.print(f"{who_acts}.", style="bold", markup=False)
    if meaning := report.meaning_of_partial():
        out.print(meaning, style="bold", markup=False)
    if report.stopped:
        out.print(report.why_stopped, style="bold yellow", markup=False)
    if reasons := report.reasons():
        rows = [(count, r.explanation.title, r.explanation.remedy) for r, count in reasons]
        # Leaves room for the names of an admin's commands: to be copied, they have to stay whole.
        out.print(reasons_table("Mailboxes", rows, widest=24))
    troubled = [verdict for verdict in report.sorted() if verdict.status != MailboxStatus.ACTIVE]
    for verdict in troubled[:MAX_ERRORS_SHOWN]:
        line = f"  {verdict.email}: {verdict.status}. {verdict.headline}"
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if hidden := len(troubled[MAX_ERRORS_SHOWN:]):
        chosen = ["--import", summary.import_id] if summary else []
        listing = command("mailboxes", "list", *chosen, *in_workspace(summary), "--limit", len(troubled))
        out.print(f"  … and {hidden} more: {listing}", markup=False, highlight=False, soft_wrap=True)


def print_next(summary: Summary, report: ProbeReport | None, say: Console) -> None:
    """The commands that make sense now, as they can be pasted."""
    steps = [("The result again, with every reason", of_import("imports", "show", summary))]
    if summary.import_id and report is not None and report.reasons():
        steps += [
            ("What each person needs who has to act", to_file("handover", summary, "handover")),
            ("A report to print or to send", to_file("report", summary, "import", ".html")),
        ]
    if summary.errors:
        steps.append(("The rows that failed", of_import("imports", "errors", summary)))
    for status, what in WORTH_LISTING.items():
        if report is not None and report.count(status):
            chosen = ("--import", summary.import_id, "--status", status)
            steps.append((what, command("mailboxes", "list", *chosen, *in_workspace(summary))))
    if report is not None and (report.count(MailboxStatus.PENDING) or report.untested):
        steps.append(("Test again what is due", command("retest", *in_workspace(summary))))
    say.print("\nNext", style="bold")
    for what, line in steps:
        say.print(f"  {what}:\n    {line}", markup=False)


def of_import(area: str, action: str, summary: Summary) -> str:
    return command(area, action, summary.import_id, *in_workspace(summary))


def to_file(action: str, summary: Summary, name: str, suffix: str = "") -> str:
    place = f"{name}-{summary.import_id}{suffix}"
    return command("imports", action, summary.import_id, *in_workspace(summary), "--to", place)


def in_workspace(summary: Summary | None) -> tuple[str, ...]:
    named = summary is not None and summary.workspace != DEFAULT_WORKSPACE
    return ("--workspace", summary.workspace) if named and summary else ()


def reasons_table(what: str, rows: Sequence[tuple[int, str, str]], widest: int | None = None) -> Table:
    """Counts, reasons and remedies; `widest` bounds the reasons."""
    reasons = Column("Reason", max_width=widest)
    table = Table(Column(what, justify="right"), reasons, Column("What to do", overflow="fold"))
    for count, reason, remedy in rows:
        table.add_row(str(count), escape(reason), escape(remedy))
    return table
