"""The report of an import as a file: CSV, Excel workbook or web page, by its name."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from schemas.outcomes import Document, Outcome
from schemas.refusals import Refusal
from schemas.report_csv import COLUMNS, report_csv
from schemas.report_style import GENERATOR
from tasks.files.private_files import write_privately
from tasks.files.safe_paths import OutsideError, folder_of

REPORT_START = ",".join(COLUMNS[:4]).encode("utf-8-sig")
# How a page of ours begins. A workbook has no such mark, so no workbook is overwritten.
LONGEST_START = 200
SUFFIXES = (".csv", ".xlsx", ".html")
NO_REPORT = "The report overwrites only an existing report: choose another file name"


def write_report_file(
    path: Path, document: Document, outcomes: Sequence[Outcome], within: Sequence[Path] | None = None
) -> None:
    """Write a report. Only the owner can read it, and the write is atomic.

    Args:
        path: Its suffix decides the format: .xlsx, .html, or else CSV.
        within: Folders that may contain the report; None for any folder.

    Raises:
        OutsideError: If the report is outside these folders.
        OSError: If it cannot be written.
    """
    write_privately(path, report_content(path.suffix, document, outcomes), within)


def report_content(suffix: str, document: Document, outcomes: Sequence[Outcome]) -> bytes:
    """The content of a report: .xlsx, .html, or else CSV."""
    if suffix == ".xlsx":
        from schemas.report_xlsx import report_xlsx  # imports a library that nothing else needs

        return report_xlsx(document, outcomes)
    if suffix == ".html":
        from schemas.report_html import report_html

        return report_html(document, outcomes).encode()
    return report_csv(outcomes, document.notes)


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
            if within is not None and path.suffix not in SUFFIXES:
                return Refusal("The report must be a separate .csv, .xlsx or .html file")
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
        start = os.read(descriptor, LONGEST_START)
        return start == b"" or start.startswith(REPORT_START) or GENERATOR.encode() in start
    finally:
        os.close(descriptor)
