"""Step 6: publish the results as artifacts of the flow run, and as a CSV with one line per row."""

from __future__ import annotations

import csv
import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.cache_policies import NO_CACHE

from schemas.refusals import Refusal
from schemas.summary import Result, Summary, defused, markdown_cell
from schemas.verdicts import ProbeReport
from tasks.files.private_files import write_privately
from tasks.files.safe_paths import OutsideError, folder_of

# The keys are fixed, because the Prefect UI keeps the history of a key. Its list shows only descriptions.
SUMMARY_KEY = "import-summary"
VERDICTS_KEY = "probe-verdicts"
MAILBOXES_KEY = "mailbox-verdicts"

REPORT_COLUMNS = ("line", "email", "result", "reason", "status", "diagnosis", "smtp", "imap")
REPORT_START = ",".join(REPORT_COLUMNS[:4]).encode("utf-8-sig")
NO_REPORT = "The report overwrites only an existing report: choose another file name"


@task(persist_result=False, cache_policy=NO_CACHE)
async def publish_refusal(refusal: Refusal, file_name: str) -> None:
    """Create the artifact of a refused file."""
    await acreate_markdown_artifact(
        f"## {markdown_cell(file_name)}: refused\n\n{markdown_cell(refusal)}\n\nNothing was changed.",
        key=SUMMARY_KEY,
        description=f"Refused: {refusal.message}",
    )


@task(persist_result=False, cache_policy=NO_CACHE)
async def publish_summary(summary: Summary, report: Path | None = None) -> None:
    """Create the artifact of a stored import, before the connection tests and the report."""
    place = f"\n\nThe report, with one line for each row, will be at `{report}`." if report else ""
    await acreate_markdown_artifact(summary.markdown() + place, key=SUMMARY_KEY, description=str(summary))


@task(persist_result=False, cache_policy=NO_CACHE)
async def publish_verdicts(report: ProbeReport) -> None:
    """Create the artifacts of finished connection tests: the reasons and the table of mailboxes."""
    await acreate_markdown_artifact(report.markdown(), key=VERDICTS_KEY, description=str(report))
    if report.verdicts:
        await acreate_table_artifact(
            report.table(), key=MAILBOXES_KEY, description="The verdict of each mailbox"
        )


@task(persist_result=False, cache_policy=NO_CACHE)
def write_report(
    path: Path, summary: Summary, report: ProbeReport | None, within: Sequence[Path] | None = None
) -> None:
    """Write the CSV report: one line per row of the file, with the verdict of its mailbox.

    Only the owner can read the report. The write is atomic, and the report is safe to open in a spreadsheet.

    Args:
        report: The verdicts; None if the mailboxes are not tested.
        within: Folders that may contain the report; None for any folder.

    Raises:
        OutsideError: If the report is outside these folders.
        OSError: If it cannot be written.
    """
    verdicts = {row["email"]: row for row in report.table()} if report else {}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, REPORT_COLUMNS)
    writer.writeheader()
    for outcome in summary.outcomes:
        row: dict[str, object] = outcome._asdict()
        if outcome.result is Result.IMPORTED:
            row |= {"status": "pending"} | verdicts.get(outcome.email, {})
        writer.writerow({column: defused(str(cell)) for column, cell in row.items()})
    write_privately(path, text.getvalue().encode("utf-8-sig"), within)  # Excel needs the byte order mark


def refuse_report(path: Path, within: Sequence[Path] | None) -> Refusal | None:
    """Refuse a report outside the allowed folders, or one that would overwrite anything but a report.

    Args:
        within: Folders that may contain the report; None for any folder.

    Returns:
        The refusal, or None if the report can be written.

    Raises:
        OSError: If the path cannot be checked, for example because its folder does not exist.
    """
    try:
        with folder_of(path, within) as (folder, name):
            if within is not None and path.suffix != ".csv":
                return Refusal("The report must be a separate .csv file")
            return None if _replaceable(name, folder) else Refusal(NO_REPORT)
    except OutsideError as error:
        return Refusal(str(error))


def _replaceable(name: str, folder: int) -> bool:
    """Whether the name is free, or belongs to an empty file or a report. A link is never replaceable."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return True
    if not stat.S_ISREG(status.st_mode):
        return False
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(descriptor, len(REPORT_START)) in (b"", REPORT_START)
    finally:
        os.close(descriptor)
