"""`import` and `check`: the file is validated before Prefect is imported.

So a person sees its counts, or why it was refused, in half a second. Standard output carries the result and
nothing else; progress goes to standard error.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from flows.cli.exit_codes import DONE, FAILED, INTERRUPTED
from flows.cli.options import LABEL, Json, Verbose, Workspace
from flows.cli.output import cell, print_json, wrong_usage
from flows.cli.results import print_next, print_refusal, print_summary, print_verdicts
from flows.cli.run_flow import attend, print_failure
from schemas.labels import DEFAULT_WORKSPACE, counted
from schemas.prepare import Prepared, prepare_rows
from schemas.preview import preview
from schemas.reading import Reading, parse_columns
from schemas.refusals import CSV_REQUIRED, Refusal
from schemas.row_reasons import SkipReason
from schemas.settings import Settings
from schemas.standing import Needs
from schemas.summary import Summary, summarize
from tasks.configuration import load_settings
from tasks.crash import StepError, unquoted
from tasks.files.read_file import read_bytes
from tasks.files.report_file import refuse_report, write_report_file
from tasks.storage.stored_keys import UnreadableError, stored_keys

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from flows.cli.attended import Ended


def _check_report(_type: object, path: Path | None) -> None:
    if path is not None and not path.parent.is_dir():
        raise ValueError("Its folder does not exist.")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """What `import` and `check` both take."""

    workspace: Workspace = DEFAULT_WORKSPACE
    tag: Annotated[str | None, LABEL, Parameter(help="Label for the mailboxes of this import.")] = None
    encoding: Annotated[
        str | None, Parameter(help="Text encoding of a file that is not UTF-8, such as cp1252.")
    ] = None
    map: Annotated[
        tuple[str, ...],
        Parameter(
            name="--map",
            help="The column of a field: FIELD=HEADER, such as email=Login. Repeat it for each field.",
        ),
    ] = ()
    trim: Annotated[bool, Parameter(help="Remove spaces around passwords.")] = False
    update: Annotated[bool, Parameter(help="Give mailboxes that are stored already their new passwords.")] = (
        False
    )
    report: Annotated[
        Path | None,
        Parameter(
            validator=_check_report,
            help="Write a report with a line for each row: .csv, .xlsx or .html. Overwrites only a report.",
        ),
    ] = None
    json: Json = False

    def reading(self) -> Reading | Refusal:
        """How to read the file, or the refusal of the choices."""
        columns = parse_columns(self.map)
        return columns if isinstance(columns, Refusal) else Reading(self.encoding, columns, self.trim)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ImportOptions(FileOptions):
    """What `import` takes."""

    check: Annotated[
        bool, Parameter(help="Only read and validate the file, as the command `check` does.")
    ] = False
    no_test: Annotated[bool, Parameter(help="Store the mailboxes without testing the logins.")] = False
    needs: Annotated[
        Needs | None,
        Parameter(help="What the mailboxes are needed for: only that is tested. The default is a setting."),
    ] = None
    verbose: Verbose = False


NO_FILE_OPTIONS, NO_OPTIONS = FileOptions(), ImportOptions()
File = Annotated[Path | None, Parameter(name="FILE", help="The CSV file or Excel workbook (.xlsx).")]


def check_file(file: File = None, /, *, options: FileOptions = NO_FILE_OPTIONS) -> int:
    """Read and validate a CSV file; store nothing."""
    return import_file(file, options=ImportOptions(**vars(options), check=True))


def import_file(file: File = None, /, *, options: ImportOptions = NO_OPTIONS) -> int:
    """Import a CSV file of Outlook mailboxes with app passwords, and test each login once."""
    say = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        settings = load_settings()
        prepared = prepare_file(file, options.reading(), settings)
    except StepError as error:
        say.print(f"Nothing was changed. Internal error: {error}", style="red", markup=False)
        return FAILED
    if isinstance(prepared, Refusal):
        return print_refusal(prepared, say, as_json=options.json)
    assert file is not None  # noqa: S101  it was read
    if options.check:
        return show_check(file, options, prepared, settings, say)
    return run(file, options, summarize(prepared, file.name, options.workspace, options.tag), say)


def show_check(
    file: Path, options: ImportOptions, prepared: Prepared, settings: Settings, say: Console
) -> int:
    """Show what an import would do, with its counts."""
    if options.report and options.report.suffix in (".xlsx", ".html"):
        return print_refusal(Refusal("check writes its report as CSV"), say, as_json=options.json)
    if options.report and (refusal := refuse_report(options.report, None)):
        return print_refusal(refusal, say, as_json=options.json)
    keys = set(prepared.kept["email_key"])
    stored = known_passwords(options, settings, prepared) if options.update else None
    old = stored_before(options, settings, keys, say) if stored is None else set(stored)
    summary = summarize(prepared, file.name, options.workspace, options.tag, keys - old, None, stored)
    show_summary(summary, options)
    if options.report:
        try:
            write_report_file(options.report, *preview(summary))
        except OSError as error:
            return wrong_usage(f"{cell(options.report)} cannot be written: {error.strerror}.")
        say.print(f"Report: {options.report}", markup=False)
    return DONE


def known_passwords(
    options: ImportOptions, settings: Settings, prepared: Prepared
) -> dict[str, SkipReason | None]:
    """Email key of each mailbox that the workspace has → why an update would skip it, or None."""
    from tasks.storage.database import database
    from tasks.storage.updates import would_replace

    with database(settings) as opened:
        return would_replace(opened, options.workspace, prepared)


def stored_before(options: ImportOptions, settings: Settings, keys: set[str], say: Console) -> set[str]:
    """The mailboxes of the file that the workspace has; none, and a sentence, if that cannot be found out."""
    try:
        return stored_keys(settings, options.workspace, sorted(keys))
    except UnreadableError:
        say.print(
            "The database cannot be read: mailboxes that are stored already are counted as imported.",
            markup=False,
        )
        return set()


@unquoted()
def prepare_file(file: Path | None, reading: Reading | Refusal, settings: Settings) -> Prepared | Refusal:
    if file is None:
        return Refusal(CSV_REQUIRED)
    if isinstance(reading, Refusal):
        return reading
    data = read_bytes(file, settings.max_file_bytes)
    return prepare_rows(data, reading, settings.bounds, tuple(settings.overrides))


def run(file: Path, options: ImportOptions, preview: Summary, say: Console) -> int:
    """Run the import flow and show its result."""
    mailboxes = counted(preview.imported, "mailbox", "mailboxes")
    rows = counted(len(preview.outcomes), "row")
    counts = f"{mailboxes}, {preview.skipped} repeated, {preview.failed} failed"
    say.print(f"{preview.file}: {rows}, {counts}.", markup=False)

    def start() -> Awaitable[State[Any]]:
        from flows.import_outlook import import_outlook

        return import_outlook(
            file=file.absolute(),
            tag=options.tag,
            workspace=options.workspace,
            test=not options.no_test,
            encoding=options.encoding,
            report=options.report.absolute() if options.report else None,
            columns=options.map,
            trim=options.trim,
            needs=options.needs,
            update=options.update,
            return_state=True,
        )

    def show(ended: Ended) -> int:
        return show_import(ended, options, say)

    return attend(start, show, say, verbose=options.verbose, as_json=options.json)


def show_import(ended: Ended, options: ImportOptions, say: Console) -> int:
    """Show the result of an import; returns the exit code."""
    state, outcome = ended
    if isinstance(outcome, Refusal):  # the file has changed since it was checked
        return print_refusal(outcome, say, as_json=options.json)
    if not isinstance(outcome, tuple):
        return print_failure(str(state.message), say, as_json=options.json)
    summary, verdicts = outcome
    show_summary(summary, options)
    if verdicts is not None:
        print_verdicts(verdicts, Console(stderr=options.json, highlight=False), summary, acting(summary))
    if options.report is not None:
        say.print(f"Report: {options.report}", markup=False)
    print_next(summary, verdicts, say)
    return INTERRUPTED if state.is_cancelled() else DONE


def acting(summary: Summary) -> str:
    """Who has to act for the mailboxes of an import, or "" if nobody has to."""
    from tasks.storage.database import database
    from tasks.storage.outcomes import who_acts

    with database(load_settings()) as opened:
        return who_acts(opened, summary.workspace, summary.import_id or 0)


def show_summary(summary: Summary, options: ImportOptions) -> None:
    if options.json:
        print_json(summary.envelope())
    else:
        print_summary(summary)
