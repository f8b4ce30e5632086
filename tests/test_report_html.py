"""The HTML report: complete, self-contained, safe whatever the file and the servers said, and readable."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from schemas.outcomes import Outcome
from schemas.reasons import Reason
from schemas.report_html import report_html
from schemas.row_reasons import RowReason
from tests.support.browser import chromium_running
from tests.support.outcomes import (
    HOSTILE_TEXTS,
    OFF,
    SENTENCE,
    document,
    hostile,
    mailbox,
    realistic,
    row_error,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TAGS = """
html head meta title style script body header h1 h2 h3 p b bdi small code a span button figure svg rect
figcaption ul li aside section form input select option optgroup output table thead tbody tr th td
"""
ATTRIBUTES = """
lang charset http-equiv content name class id viewbox preserveaspectratio role aria-label x width height
type data-k hidden placeholder value label scope href
"""
EMPTY = {"meta", "input", "rect"}


class Parsed(HTMLParser):
    """The elements of a document, its text, and whether every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def made(*outcomes: Outcome) -> str:
    return report_html(document(outcomes), outcomes)


@pytest.fixture(scope="module")
def page() -> str:
    return report_html(document(realistic()), realistic())


def test_the_report_of_a_realistic_import(page: str) -> None:
    """The report has the counts, the sentence, the forecast, a section for each reason, and each row."""
    found = Parsed(page)
    assert found.open == []
    assert f"{SENTENCE}." in page
    assert "28 mailboxes send through Exchange Online with a password" in page
    assert (
        'aria-label="140 work, 28 can only send or only receive, 13 wait for a test, 197 fail, 22 skipped"'
        in page
    )
    assert "366 imported, 22 skipped, 12 failed" in page
    assert found.count("section") == 15
    assert found.count("tr") == 401
    assert (
        page.index("For the Microsoft 365 admin")
        < page.index("For the owners")
        < page.index("No password opens")
    )


def test_the_remedy_is_filled_in(page: str) -> None:
    """The command for an admin has an address of the import, quoted for PowerShell."""
    assert "-Identity</span> &#x27;anna.170@contoso.com&#x27; <span>-SmtpClientAuthenticationDisabled" in page
    assert "ADDRESS" not in page
    quoted = made(mailbox("o'brien@contoso.com", Reason.SMTP_AUTH_OFF_TENANT, None))
    assert "&#x27;o&#x27;&#x27;brien@contoso.com&#x27;" in quoted


def test_rows_that_need_something_come_first(page: str) -> None:
    """The table starts with the rows that need the admin, and ends with those that were skipped."""
    lines = [int(line) for line in re.findall(r"<tr data-k=\"[^\"]*\"><td>(\d+)</td>", page)]
    assert lines[0] == 170
    assert lines[-1] == 389
    assert sorted(lines) == list(range(2, 402))


def test_the_size_is_bounded(page: str) -> None:
    """The report of 500 rows stays under 250 KB, and texts of any length are cut."""
    assert len(page.encode()) < 200_000
    long = "x" * 40_000
    row = mailbox(f"{long}@contoso.com", Reason.SMTP_AUTH_OFF_TENANT, OFF, name=long, text=long)
    assert len(made(row)) < 20_000


def test_the_policy_allows_only_its_own_style_and_script(page: str) -> None:
    """The Content-Security-Policy allows the style sheet and the script by their hashes, and nothing else."""
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_the_report_requests_nothing(page: str) -> None:
    """No element refers to anything outside, and the style sheet and the script load nothing."""
    for tag, attributes in Parsed(page).elements:
        assert not {"src", "style", "srcset", "action", "background"} & set(attributes)
        assert (attributes.get("href") or "#").startswith("#"), tag
    assert not re.search(r"url\(|@import|fetch|XMLHttp|innerHTML|eval", page)


def test_hostile_texts_stay_text() -> None:
    """Whatever the file and the servers said, the report has only its own elements and attributes."""
    rows = hostile()
    about = document(rows, file=HOSTILE_TEXTS[1], tag=HOSTILE_TEXTS[2], workspace=HOSTILE_TEXTS[3])
    page = report_html(about, rows)
    page.encode()
    found = Parsed(page)
    assert found.open == []
    assert {tag for tag, _ in found.elements} <= set(TAGS.split())
    assert {name for _, attributes in found.elements for name in attributes} <= set(ATTRIBUTES.split())
    assert (found.count("script"), found.count("style"), found.count("tr")) == (1, 1, len(rows) + 1)
    assert all((attributes.get("href") or "#r1").startswith("#r") for _, attributes in found.elements)
    assert not [char for char in page if not char.isprintable() and char != "\n"]


def test_the_direction_of_foreign_text_is_isolated() -> None:
    """Right-to-left text in addresses, names and replies does not move what is around it."""
    row = mailbox("אנה@contoso.com", Reason.WRONG_CREDENTIALS, None, name="אנה", text="535 שלום")
    for text in ("אנה@contoso.com", "אנה", "535 שלום"):
        assert f"<bdi>{text}</bdi>" in made(row)


def test_an_import_that_works() -> None:
    """If all works, the report says that there is nothing to do, and has no section."""
    page = made(mailbox("ann@northwind.example", Reason.OK, Reason.OK, "active", smtp_host="mail.example"))
    assert "There is nothing to do." in page
    assert "<section" not in page
    assert "December 2026" not in page
    assert "SMTP and IMAP: accepted" in page


def test_an_import_without_rows() -> None:
    """An import whose rows are no longer stored has a report without a picture of nothing."""
    page = report_html(document([], imported=7), [])
    assert "7 rows: 7 imported" in page
    assert "<rect" not in page


def test_rows_of_older_imports() -> None:
    """Rows without a line are in the report, and their section says so."""
    page = made(replace(row_error(RowReason.MISSING), line=None))
    assert "Lines not stored." in page
    assert "<td></td>" in page


def test_a_warning_is_shown() -> None:
    """The warning of an imported row is in the table."""
    row = mailbox("ann@hotmial.com", Reason.OK, Reason.OK, "active")
    assert "Warning: <bdi>did you mean &lt;b&gt;?</bdi>" in made(replace(row, warning="did you mean <b>?"))


# --- In a browser ----------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium_running() as opened:
        yield opened


def opened(browser: Browser, path: Path, text: str, width: int) -> tuple[Page, list[str]]:
    """The report in a window of this width, and the list in which faults and requests will be."""
    path.write_text(text, "utf-8")
    shown, noted = browser.new_page(viewport={"width": width, "height": 900}), list[str]()
    shown.on("request", lambda request: noted.append(request.url))
    shown.on("console", lambda message: noted.append(message.text))
    shown.on("pageerror", lambda error: noted.append(str(error)))
    shown.on("dialog", lambda dialog: noted.append(dialog.message))
    shown.goto(path.as_uri())
    return shown, noted


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("rows", [realistic, hostile])
def test_the_report_fits_the_window(
    browser: Browser, tmp_path: Path, width: int, rows: Callable[[], list[Outcome]]
) -> None:
    """In a wide and in a narrow window nothing sticks out, nothing fails, and only the file is requested."""
    outcomes = rows()
    path = tmp_path / "report.html"
    shown, noted = opened(browser, path, made(*outcomes), width)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert noted == [path.as_uri()]
    shown.close()


@pytest.mark.slow
def test_the_table_can_be_searched(browser: Browser, tmp_path: Path) -> None:
    """Words, a choice and the button of a section filter the table, and the number of rows is told."""
    path = tmp_path / "report.html"
    shown, noted = opened(browser, path, made(*realistic()), 1280)
    rows, told = shown.locator("tbody tr:visible"), shown.locator("output")
    assert told.inner_text() == "400 of 400 rows"
    shown.get_by_role("searchbox").fill("ANNA fabrikam")
    assert told.inner_text() == f"{rows.count()} of 400 rows"
    assert 0 < rows.count() < 10
    shown.get_by_role("searchbox").fill("")
    shown.get_by_role("combobox").select_option("skipped")
    assert rows.count() == 22
    shown.get_by_role("button", name="Show in the table").first.click()
    assert told.inner_text() == "60 of 400 rows"
    assert noted == [path.as_uri()]
    shown.close()


@pytest.mark.slow
def test_the_report_prints(browser: Browser, tmp_path: Path) -> None:
    """Printed, the report has its rows but neither the search nor the buttons."""
    shown, _ = opened(browser, tmp_path / "report.html", made(*realistic()), 1280)
    shown.emulate_media(media="print")
    assert not shown.locator("form").is_visible()
    assert not shown.locator("button:visible").count()
    assert shown.locator("tbody tr:visible").count() == 400
    assert shown.pdf(format="A4").startswith(b"%PDF")
    shown.close()
