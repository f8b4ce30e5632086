"""The report of an import as an Excel workbook."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC

from xlsxwriter import Workbook
from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from schemas.labels import shortened
from schemas.outcomes import (
    Action,
    Document,
    Outcome,
    actions,
    filled_in,
    forecast,
    result_of,
    said,
    utc,
    who_has_to_act,
)
from schemas.reasons import Actor

WHO = {
    Actor.ADMIN: "Microsoft 365 admin",
    Actor.OWNER: "owner",
    Actor.UPLOADER: "person who made the file",
    Actor.OPERATOR: "operator of this program",
    Actor.WAIT: "",
    Actor.NOBODY: "nobody: OAuth only",
}
# The columns of the rows and their widths in characters.
COLUMNS = {
    "line": 7,
    "email": 34,
    "name": 22,
    "result": 11,
    "outcome": 18,
    "who has to act": 24,
    "reason": 38,
    "diagnosis": 50,
    "smtp": 60,
    "imap": 45,
    "tested": 21,
}
ACTION_COLUMNS = {"Rows": 9, "Who has to act": 26, "Reason": 40, "What it means": 60, "What to do": 70}


def report_xlsx(document: Document, outcomes: Iterable[Outcome]) -> bytes:
    """Make the report of an import as a workbook with a sheet “Summary” and a sheet “Rows”.

    Every text is a text cell, never a formula or a link, without control characters, and cut to 500
    characters. The same input gives the same bytes.
    """
    rows = list(outcomes)
    found = actions(rows)
    file = io.BytesIO()
    options = {
        "in_memory": True,
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
    }
    with Workbook(file, options) as workbook:
        workbook.set_properties({"created": document.created_at.astimezone(UTC).replace(tzinfo=None)})
        bold = workbook.add_format({"bold": True, "valign": "top"})
        wrapped = workbook.add_format({"text_wrap": True, "valign": "top"})
        _fill_summary(workbook.add_worksheet("Summary"), document, rows, found, bold, wrapped)
        _fill_rows(workbook.add_worksheet("Rows"), rows, found, bold, wrapped)
    return file.getvalue()


def _fill_summary(
    sheet: Worksheet,
    document: Document,
    rows: Sequence[Outcome],
    found: Sequence[Action],
    bold: Format,
    wrapped: Format,
) -> None:
    last = len(ACTION_COLUMNS) - 1
    sentence = who_has_to_act(rows)
    counts = Counter(map(result_of, rows))
    texts = [
        f"Import {document.import_id}: {document.file}",
        f"{utc(document.created_at)}, workspace {document.workspace}"
        + (f", tag {document.tag}" if document.tag else ""),
        str(document),
        ", ".join(f"{name}: {count:,}" for name, count in counts.most_common()),
        f"{sentence}." if sentence else "There is nothing to do.",
        forecast(rows),
    ]
    for at, text in enumerate(filter(None, texts)):
        sheet.merge_range(at, 0, at, last, "", wrapped)
        sheet.write_string(at, 0, shortened(text, 1000), wrapped if at else bold)
        sheet.set_row(at, 15 * (1 + len(text) // 190))
    top = len(texts) + 1
    _write_header(sheet, top, ACTION_COLUMNS, bold)
    for at, action in enumerate(found, start=top + 1):
        sheet.write_number(at, 0, len(action.outcomes), wrapped)
        remedy = filled_in(action.remedy, action.outcomes[0])
        cells = (WHO[action.actor], action.title, action.meaning, remedy)
        for column, text in enumerate(cells, start=1):
            sheet.write_string(at, column, shortened(text), wrapped)


def _fill_rows(
    sheet: Worksheet, rows: Sequence[Outcome], found: Sequence[Action], bold: Format, wrapped: Format
) -> None:
    action_of = {id(outcome): action for action in found for outcome in action.outcomes}
    _write_header(sheet, 0, COLUMNS, bold)
    sheet.freeze_panes(1, 0)
    for at, outcome in enumerate(rows, start=1):
        if outcome.line is not None:
            sheet.write_number(at, 0, outcome.line, wrapped)
        for column, text in enumerate(_cells(outcome, action_of.get(id(outcome))), start=1):
            sheet.write_string(at, column, shortened(text), wrapped)
    sheet.autofilter(0, 0, len(rows), len(COLUMNS) - 1)


def _cells(outcome: Outcome, action: Action | None) -> tuple[str, ...]:
    reason = action.title if action else outcome.sentence
    return (
        outcome.email,
        outcome.name or "",
        outcome.result,
        result_of(outcome),
        WHO[action.actor] if action else "",
        "; ".join(filter(None, (reason, outcome.warning))),
        outcome.diagnosis,
        said(outcome.smtp, outcome),
        said(outcome.imap, outcome),
        utc(outcome.tested_at) if outcome.tested_at else "",
    )


def _write_header(sheet: Worksheet, row: int, columns: dict[str, int], bold: Format) -> None:
    for at, (name, width) in enumerate(columns.items()):
        sheet.write_string(row, at, name, bold)
        sheet.set_column(at, at, width)
