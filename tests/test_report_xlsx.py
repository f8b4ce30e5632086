"""The Excel report: each row, the sentence, and nothing that Excel would run."""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from pathlib import Path

from python_calamine import CalamineWorkbook

from schemas.outcomes import forecast
from schemas.reasons import Reason
from schemas.report_xlsx import COLUMNS, report_xlsx
from tests.support.outcomes import HOSTILE_TEXTS, SENTENCE, document, hostile, mailbox, realistic


def sheets(content: bytes) -> dict[str, list[list[object]]]:
    workbook = CalamineWorkbook.from_filelike(io.BytesIO(content))
    return {
        name: [list(row) for row in workbook.get_sheet_by_name(name).to_python()]
        for name in workbook.sheet_names
    }


def parts(content: bytes) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name).decode() for name in file.namelist()}


def test_each_row_and_the_summary() -> None:
    """The workbook has a line for each row in the order of the file, and a summary with the sentence."""
    found = sheets(report_xlsx(document(realistic()), realistic()))
    header, *rows = found["Rows"]
    assert header == list(COLUMNS)
    assert [row[0] for row in rows] == [float(one.line or 0) for one in realistic()]
    assert Counter(row[4] for row in rows)["Fails"] == 185
    admin = next(row for row in rows if row[1] == "anna.170@contoso.com")
    assert admin[5:7] == ["Microsoft 365 admin", "SMTP AUTH is off for the organisation"]
    assert str(admin[8]).startswith("SMTP AUTH is off for the organisation: 535 5.7.139")
    summary = [str(cell) for row in found["Summary"] for cell in row if cell != ""]
    assert f"{SENTENCE}." in summary
    assert forecast(realistic()) in summary
    assert "Import 12: mailboxes of autumn.csv" in summary
    assert any("Set-CASMailbox -Identity 'anna.170@contoso.com'" in cell for cell in summary)


def test_the_header_is_frozen_and_can_be_filtered() -> None:
    """The header of the rows stays visible, and each column has a filter."""
    rows = parts(report_xlsx(document(realistic()), realistic()))["xl/worksheets/sheet2.xml"]
    assert re.search(r'<pane ySplit="1"[^>]* state="frozen"', rows)
    assert '<autoFilter ref="A1:K401"/>' in rows


def test_hostile_texts_are_text_cells() -> None:
    """Whatever the file and the servers said, no cell is a formula or a link, and long texts are cut."""
    rows = hostile()
    about = document(rows, file=HOSTILE_TEXTS[5], tag=HOSTILE_TEXTS[5], workspace=HOSTILE_TEXTS[6])
    content = report_xlsx(about, rows)
    for name, text in parts(content).items():
        assert "<f>" not in text, name
        assert "<hyperlink " not in text, name
        assert "externalLink" not in name
    found = sheets(content)
    assert len(found["Rows"]) == len(rows) + 1
    texts = [str(cell) for sheet in found.values() for row in sheet for cell in row]
    assert '=HYPERLINK("http://evil.example","x")' in texts
    assert max(map(len, texts)) <= 1000
    assert not [text for text in texts if not text.isprintable()]


def test_an_import_without_rows() -> None:
    """An import whose rows are no longer stored has a workbook with its counts."""
    found = sheets(report_xlsx(document([], imported=7), []))
    assert found["Rows"] == [list(COLUMNS)]
    assert [row[0] for row in found["Summary"]][2:3] == ["7 rows: 7 imported, 0 skipped, 0 failed"]


def test_nothing_but_the_input_decides_the_bytes(tmp_path: Path) -> None:
    """The same input gives the same workbook, which any tool can open from a file."""
    rows = [mailbox("ann@contoso.com", Reason.WRONG_CREDENTIALS, None)]
    content = report_xlsx(document(rows), rows)
    assert report_xlsx(document(rows), rows) == content
    path = tmp_path / "report.xlsx"
    path.write_bytes(content)
    assert CalamineWorkbook.from_path(path).sheet_names == ["Summary", "Rows"]
