"""Step 6: what happened is told: as artifacts of the flow run, and as a CSV with a line per row."""

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

# Fixed keys: the Prefect UI keeps the history of a key. Of an artifact its list shows the description only.
SUMMARY_KEY = "import-summary"
VERDICTS_KEY = "probe-verdicts"
MAILBOXES_KEY = "mailbox-verdicts"

REPORT_COLUMNS = ("line", "email", "result", "reason", "status", "diagnosis", "smtp", "imap")
REPORT_START = ",".join(REPORT_COLUMNS[:4]).encode("utf-8-sig")
NO_REPORT = "The report would replace what is no report: give it a name of its own"


@task(persist_result=False, cache_policy=NO_CACHE)
async def publish_refusal(refusal: Refusal, file_name: str) -> None:
    """Make the artifact of a refused file."""
    await acreate_markdown_artifact(
        f"## {markdown_cell(file_name)}: refused\n\n{markdown_cell(refusal)}\n\nNothing was changed.",
        key=SUMMARY_KEY,
        description=f"Refused: {refusal.message}",
    )


@task(persist_result=False, cache_policy=NO_CACHE)
async def publish_summary(summary: Summary, report: Path | None = None) -> None:
    """Make the artifact of a stored batch; the connection tests, and the report, come after it."""
    place = f"\n\nThe report, with a line for each row, will be at `{report}`." if report else ""
    await acreate_markdown_artifact(summary.markdown() + place, key=SUMMARY_KEY, description=str(summary))


@task(persist_result=False, cache_policy=NO_CACHE)
async def publish_verdicts(report: ProbeReport) -> None:
    """Make the artifacts of a finished run of connection tests: the reasons, and the table of mailboxes."""
    await acreate_markdown_artifact(report.markdown(), key=VERDICTS_KEY, description=str(report))
    if report.verdicts:
        await acreate_table_artifact(
            report.table(), key=MAILBOXES_KEY, description="The verdict on each mailbox"
        )


@task(persist_result=False, cache_policy=NO_CACHE)
def write_report(
    path: Path, summary: Summary, report: ProbeReport | None, within: Sequence[Path] | None = None
) -> None:
    """Write the CSV report: a line per row of the file, and the verdicts on the mailboxes that came of them.

    Readable by its owner only, in place as a whole or not at all, and safe to open in a spreadsheet.

    Args:
        within: Folders of which one has to hold it; None for any place.

    Raises:
        OutsideError: When none does.
        OSError: When it cannot be written.
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
    write_privately(path, text.getvalue().encode("utf-8-sig"), within)  # the mark is for Excel


def refuse_report(path: Path, within: Sequence[Path] | None) -> Refusal | None:
    """Hold a report to its folders, and to taking no other file's place but an earlier report's.

    Raises:
        OSError: When its place cannot be looked at, such as in a folder that is not there.
    """
    try:
        with folder_of(path, within) as (folder, name):
            if within is not None and path.suffix != ".csv":
                return Refusal("The report has to be a .csv file of its own")
            return None if _replaceable(name, folder) else Refusal(NO_REPORT)
    except OutsideError as error:
        return Refusal(str(error))


def _replaceable(name: str, folder: int) -> bool:
    """Whether there is nothing of that name, an empty file or a report. A link is none of them."""
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
