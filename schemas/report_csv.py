"""The report of a past import as CSV, with the columns of the report of a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from schemas.outcomes import Outcome, said, shortened
from schemas.summary import defused

COLUMNS = ("line", "email", "result", "reason", "status", "diagnosis", "smtp", "imap")


def report_csv(outcomes: Iterable[Outcome]) -> bytes:
    """Make the report: a line for each row, safe to open in a spreadsheet, in UTF-8."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
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
        )
        writer.writerow([defused(shortened(cell, 1000)) for cell in cells])
    return text.getvalue().encode("utf-8-sig")  # Excel needs the byte order mark
