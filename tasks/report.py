"""Step 6: publish the results as artifacts of the flow run, and as a CSV with one line per row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.cache_policies import NO_CACHE

from schemas.refusals import Refusal
from schemas.summary import Summary, markdown_cell
from schemas.verdicts import ProbeReport
from tasks.files.report_file import write_report_file
from tasks.storage.database import Database
from tasks.storage.outcomes import find_outcomes

# The keys are fixed, because the Prefect UI keeps the history of a key. Its list shows only descriptions.
SUMMARY_KEY = "import-summary"
VERDICTS_KEY = "login-results"
MAILBOXES_KEY = "tested-mailboxes"


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
async def publish_verdicts(report: ProbeReport, who_acts: str = "") -> None:
    """Create the artifacts of finished connection tests: the reasons and the table of mailboxes.

    Args:
        who_acts: Who has to act now, in one sentence.
    """
    await acreate_markdown_artifact(report.markdown(who_acts), key=VERDICTS_KEY, description=str(report))
    if report.verdicts:
        await acreate_table_artifact(
            report.table(), key=MAILBOXES_KEY, description="The verdict of each mailbox"
        )


@task(persist_result=False, cache_policy=NO_CACHE)
def write_report(
    path: Path, database: Database, summary: Summary, within: Sequence[Path] | None = None
) -> None:
    """Write the report of a stored import as it is now; see `report_file.write_report_file`."""
    found = find_outcomes(database, summary.workspace, summary.import_id or 0)
    assert found is not None  # noqa: S101  it was stored by this run
    write_report_file(path, *found, within)
