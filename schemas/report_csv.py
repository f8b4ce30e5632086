"""The report of a past import as CSV, with the columns of the report of a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from schemas.labels import shortened
from schemas.outcomes import (
    Outcome,
    said,
)
from schemas.summary import NOTE, defused

COLUMNS = (
    *("line", "email", "result", "reason", "status", "diagnosis", "smtp", "imap"),
    *("code", "remedy"),
)


def report_csv(outcomes: Iterable[Outcome], notes: Iterable[tuple[int, str]] = ()) -> bytes:
    """Make the report: a line for each row, safe to open in a spreadsheet, in UTF-8.

    Args:
        notes: Line and text of the notes about the file. They come first, with the result “note”.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for line, note in notes:
        cells = (str(line), "", NOTE, note, *[""] * (len(COLUMNS) - 4))
        writer.writerow([defused(shortened(cell, 1000)) for cell in cells])
    for outcome in outcomes:
        cells = (
            "" if outcome.line is None else str(outcome.line),
            outcome.email,
            outcome.result,
            outcome.sentence or outcome.warning,
            outcome.status,
            outcome.diagnosis,
            said(outcome.smtp, outcome),
            said(outcome.imap, outcome),
            outcome.code,
            outcome.remedy,
        )
        writer.writerow([defused(shortened(cell, 1000)) for cell in cells])
    return text.getvalue().encode("utf-8-sig")  # Excel needs the byte order mark
