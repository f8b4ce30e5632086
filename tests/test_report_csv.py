"""The CSV report of a past import: the columns of a run's report, and nothing that a spreadsheet runs."""

from __future__ import annotations

import csv
import io

from schemas.outcomes import Outcome
from schemas.reasons import Reason
from schemas.report_csv import report_csv
from schemas.row_reasons import RowReason
from schemas.summary import defused
from tests.support.outcomes import hostile, mailbox, realistic, row_error


def read(*outcomes: Outcome) -> list[dict[str, str]]:
    text = report_csv(outcomes).decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_every_row_has_a_line() -> None:
    """Each row is one line, whatever its mailbox answered."""
    assert len(read(*realistic())) == 400


def test_a_line_for_each_row() -> None:
    """Each row has its result, its error or warning, and what the servers said."""
    wrong, error, untested = read(
        mailbox("ann@contoso.com", Reason.WRONG_CREDENTIALS, None),
        row_error(RowReason.MISSING, line=3),
        mailbox("bob@contoso.com", None, None, "pending"),
    )
    assert wrong["smtp"].startswith("Wrong password: 535 5.7.139 ")
    assert (wrong["line"], wrong["status"], wrong["imap"]) == ("2", "failed", "not tried")
    assert (error["email"], error["reason"], error["smtp"]) == ("unknown", "Missing email or password", "")
    assert (untested["status"], untested["smtp"]) == ("pending", "")


def test_hostile_texts_are_text() -> None:
    """Whatever the file and the servers said, no cell is a formula or has control characters."""
    rows = read(*hostile())
    assert len(rows) == len(hostile())
    for row in rows:
        for cell in row.values():
            assert defused(cell) == cell
            assert cell.isprintable()
