"""Every place reports an import's result in the contract's form, with correct counts."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.damage import EDGE_SPACE
from schemas.row_reasons import RowError, RowReason, SkipReason
from schemas.rows import Duplicate
from schemas.summary import (
    MAX_ERRORS_SHOWN,
    Outcome,
    Result,
    Summary,
    markdown_cell,
)
from tests.support.rows import summary_of

ERRORS = (
    RowError(4, "unknown", RowReason.MISSING),
    RowError(6, "bert@", RowReason.INVALID_EMAIL),
    RowError(7, "cleo@", RowReason.INVALID_EMAIL),
)


def summary(
    errors: tuple[RowError, ...] = ERRORS, file: str = "mailboxes.csv", ignored: tuple[str, ...] = ()
) -> Summary:
    return summary_of(
        file,
        "sales",
        "spring",
        [(2, "anna@outlook.com", ""), (9, "dora@outlook.com", EDGE_SPACE)],
        [(3, "old@outlook.com")],
        [Duplicate(5, "ANNA@outlook.com"), Duplicate(8, "anna@outlook.com")],
        errors,
        ignored,
        import_id=7,
    )


def test_outcomes_follow_the_files_order() -> None:
    """Imported, skipped and failed rows are one list, ordered by line."""
    found = summary().outcomes
    assert [outcome.line for outcome in found] == list(range(2, 10))
    assert found[0] == Outcome(2, "anna@outlook.com", Result.IMPORTED, "")
    stored, repeated = SkipReason.ALREADY_STORED, SkipReason.DUPLICATE
    assert found[1] == Outcome(3, "old@outlook.com", Result.SKIPPED, stored.message, stored)
    assert found[2] == Outcome(4, "unknown", Result.FAILED, "Missing email or password", RowReason.MISSING)
    assert found[3] == Outcome(5, "ANNA@outlook.com", Result.SKIPPED, repeated.message, repeated)
    assert found[7] == Outcome(9, "dora@outlook.com", Result.IMPORTED, EDGE_SPACE)


def test_counts_add_up() -> None:
    """Imported, skipped and failed rows add up to all rows."""
    it = summary()
    assert (it.imported, it.skipped, it.failed) == (2, 3, 3)
    assert it.imported + it.skipped + it.failed == len(it.outcomes)
    assert str(it) == "imported 2, skipped 3, failed 3"


def test_the_envelope_names_warnings_beside_the_contracts_keys() -> None:
    """Warnings are beside the contract's keys, the notes about the file first."""
    it = replace(summary(), notes=("Line 1 was skipped: the header is on line 2",), header_line=2)
    assert it.envelope()["data"]["warnings"] == [
        {"line": 2, "email": None, "warning": "Line 1 was skipped: the header is on line 2"},
        {"line": 9, "email": "dora@outlook.com", "warning": EDGE_SPACE},
    ]


def test_the_envelope_is_the_contracts() -> None:
    """The envelope of a finished import without warnings has exactly the keys of the import API."""
    it = summary()
    plain = replace(it, outcomes=tuple(o._replace(reason="") for o in it.outcomes))
    assert json.loads(json.dumps(plain.envelope())) == {
        "success": True,
        "data": {
            "imported": 2,
            "skipped": 3,
            "failed": 3,
            "errors": [
                {"email": "unknown", "error": "Missing email or password"},
                {"email": "bert@", "error": "Invalid email address"},
                {"email": "cleo@", "error": "Invalid email address"},
            ],
        },
    }


def test_fifty_errors_are_shown_and_all_are_counted() -> None:
    """The envelope and the artifact have the first fifty errors and the total number."""
    errors = tuple(RowError(line, f"user{line}@", RowReason.INVALID_EMAIL) for line in range(10, 70))
    it = summary(errors)
    data = it.envelope()["data"]
    assert isinstance(data, dict)
    assert (data["failed"], len(data["errors"])) == (60, MAX_ERRORS_SHOWN)
    assert data["errors"][-1] == {"email": "user59@", "error": "Invalid email address"}
    assert "### Failed rows (the first 50 of 60)" in it.markdown()
    assert "user59@" in it.markdown()
    assert "user60@" not in it.markdown()


def test_causes_come_with_a_remedy_the_most_frequent_first() -> None:
    """Causes are listed once, with a remedy, failed rows first and the most frequent first."""
    assert [(cause.rows, cause.reason) for cause in summary().causes()] == [
        (2, "Invalid email address"),
        (1, "Missing email or password"),
        (2, SkipReason.DUPLICATE.message),
        (1, SkipReason.ALREADY_STORED.message),
    ]
    assert all(cause.remedy for cause in summary().causes())


def test_warnings_are_of_imported_rows() -> None:
    """Warnings on imported rows are listed apart from errors."""
    assert [(cause.rows, cause.reason) for cause in summary().warnings()] == [(1, EDGE_SPACE)]


def test_markdown_says_it_all() -> None:
    """The artifact has the counts, the causes, the failed rows, and the names of file, tag and import."""
    text = summary(ignored=("Phone", "Notes")).markdown()
    assert text.startswith("## mailboxes.csv: imported 2, skipped 3, failed 3\n")
    assert "Workspace **sales**, tag **spring**, import 7, 8 rows." in text
    assert "| 2 | imported |" in text
    assert "| 2 | Invalid email address | enter the full address" in text
    assert "| 4 | unknown | Missing email or password |" in text
    assert "Columns not used: “Phone”, “Notes”" in text


def test_markdown_omits_what_is_missing() -> None:
    """Without errors, tag, import and unused columns the artifact does not mention them."""
    it = summary_of("mailboxes.csv", "default", None, [(2, "anna@outlook.com", "")], [], [], ())
    text = it.markdown()
    assert not re.search(r"tag|import \d|Failed rows|Columns|Reason", text)


HOSTILE = "a|b <img src=x onerror=alert(1)> [click](http://evil.example) `c` **d** www.evil.example"


def test_markdown_escapes_text_from_a_file() -> None:
    """Names, headers and addresses from a file create no table cells, tags, links or emphasis."""
    errors = (RowError(2, HOSTILE, RowReason.INVALID_EMAIL),)
    text = summary(errors, file=HOSTILE, ignored=(HOSTILE,)).markdown()
    assert "<img" not in text
    assert not re.search(r"(?<!\\)[\[`]|http://|www\.evil|\*\*d", text)
    (row,) = [line for line in text.splitlines() if line.startswith("| 2 | a")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 4


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("plain text, anna@outlook.com", "plain text, anna@outlook.com"),
        ("two\nlines\tand  spaces", "two lines and spaces"),
        ("a|b", "a\\|b"),
        ("&lt;", "&amp;lt;"),
        ("back\\slash", "back\\\\slash"),
        ("https://x.example", "https\\://x.example"),
        ("Www.x.example", "Www\\.x.example"),
        ("12:30", "12:30"),
        (7, "7"),
    ],
)
def test_markdown_cell(value: object, cell: str) -> None:
    """A cell is one line of text without active markup."""
    assert markdown_cell(value) == cell


@given(st.text())
def test_markdown_cell_loses_nothing(text: str) -> None:
    """Escaped text can be unescaped to the original, except for its white space."""
    cell = markdown_cell(text)
    assert not re.search(r"(?<!\\)(\\\\)*[|`*_\[\]]|[<>\n]", cell.replace("\\\\", ""))
    assert html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cell)) == " ".join(text.split())
