"""Step 6: what happened is told: as artifacts of the flow run, and as a CSV with a line per row."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from prefect import task
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.cache_policies import NO_CACHE

from schemas.csv_file import Refusal
from schemas.summary import Result, Summary, markdown_cell
from schemas.verdicts import ProbeReport

# Fixed keys: the Prefect UI keeps the history of a key. Of an artifact its list shows the description only.
SUMMARY_KEY = "import-summary"
VERDICTS_KEY = "probe-verdicts"
MAILBOXES_KEY = "mailbox-verdicts"

REPORT_COLUMNS = ("line", "email", "result", "reason", "status", "diagnosis", "smtp", "imap")


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
def write_report(path: Path, summary: Summary, report: ProbeReport | None) -> None:
    """Write the CSV report: a line per row of the file, and the verdicts on the mailboxes that came of them.

    Readable by its owner only, in place as a whole or not at all, and safe to open in a spreadsheet.
    """
    verdicts = {row["email"]: row for row in report.table()} if report else {}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, REPORT_COLUMNS)
    writer.writeheader()
    for outcome in summary.outcomes:
        row: dict[str, object] = outcome._asdict()
        if outcome.result is Result.IMPORTED:
            row |= {"status": "pending"} | verdicts.get(outcome.email, {})
        writer.writerow({column: _defused(str(cell)) for column, cell in row.items()})
    write_privately(path, text.getvalue().encode("utf-8-sig"))  # the mark is for Excel


def _defused(cell: str) -> str:
    """Keep a spreadsheet from running a cell as a formula.

    Source: OWASP, CSV injection.
    """
    return f"'{cell}" if cell.startswith(tuple("=+-@＝＋－＠\t\r\n")) else cell


def write_privately(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.tmp")
    draft.unlink(missing_ok=True)  # of a run that was killed
    draft.touch(mode=0o600, exist_ok=False)
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
