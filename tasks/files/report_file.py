"""The report of an import: a CSV with one line per row of the file."""

from __future__ import annotations

import csv
import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from schemas.refusals import Refusal
from schemas.summary import NOTE, Result, Summary, defused
from schemas.verdicts import ProbeReport
from tasks.files.private_files import write_privately
from tasks.files.safe_paths import OutsideError, folder_of

REPORT_COLUMNS = ("line", "email", "result", "reason", "status", "diagnosis", "smtp", "imap")
REPORT_START = ",".join(REPORT_COLUMNS[:4]).encode("utf-8-sig")
NO_REPORT = "The report overwrites only an existing report: choose another file name"


def write_report_file(
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
    for warned in summary.warned():
        if warned.email is None:
            note = {"line": warned.line, "result": NOTE, "reason": warned.warning}
            writer.writerow({column: defused(str(cell)) for column, cell in note.items()})
    stored = summary.import_id is not None
    for outcome in summary.outcomes:
        row: dict[str, object] = {column: getattr(outcome, column) for column in REPORT_COLUMNS[:4]}
        if outcome.result is Result.IMPORTED and stored:
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
