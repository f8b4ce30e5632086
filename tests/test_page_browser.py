"""The page in a real browser: the support person's job from file to report, attacks, and accessibility."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from sandbox.outlook import running
from sandbox.script import Account
from schemas.settings import Settings
from schemas.tables import Import, Mailbox
from tests.conftest import accounts, rows_of, with_servers, write_csv
from tests.support.browser import chromium_running
from tests.test_api import Api, api_with, csv_of

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page

RIGHT, WRONG = "the right password", "not the right one"
WORKING, BROKEN = 20, 30
TROUBLED = {f"broken{n}@fabrikam.com": Account(RIGHT) for n in range(1, BROKEN + 1)}
TENANT_OFF = {"admin@northwind.com": Account("p", smtp="smtp-auth-disabled-tenant")}
NARROW, WIDE = 390, 1280
EVIL = '<img src=x onerror="document.title=1">'


@pytest.fixture
def api(settings: Settings, tmp_path: Path) -> Iterator[Api]:
    """A server whose mailboxes are at a stand-in: 20 work, 30 have other passwords than the file says."""
    mailboxes = accounts(WORKING, "contoso.com") | TROUBLED | TENANT_OFF
    with running(mailboxes, folder=tmp_path) as outlook:
        changed = with_servers(settings, outlook)
        with api_with(settings, servers=changed.servers, ca_file=changed.ca_file, guard_after=100) as started:
            yield started


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless Chromium."""
    with chromium_running() as browser:
        yield browser


class Complaints:
    """What a browser complains about: refused by the policy, broken scripts, requests to elsewhere."""

    def __init__(self, context: BrowserContext, own: str) -> None:
        self.heard: list[str] = []
        context.on("console", self._hear)
        context.on("weberror", lambda error: self.heard.append(str(error.error)))
        context.on(
            "request",
            lambda request: (
                None if request.url.startswith((own, "data:")) else self.heard.append(request.url)
            ),
        )

    def _hear(self, line: ConsoleMessage) -> None:
        # Chromium also complains about each error page, which tests ask for.
        if line.type == "error" and not line.text.startswith("Failed to load resource"):
            self.heard.append(line.text)


OpenPage = Callable[..., "Page"]


@pytest.fixture
def visit(api: Api, chromium: Browser) -> Iterator[OpenPage]:
    """Open a page in a new browser, signed in; nothing may have been refused by the policy at the end."""
    contexts: list[tuple[BrowserContext, Complaints]] = []

    def opened(width: int = WIDE, scheme: str = "light", *, key: str | None = None) -> Page:
        context = chromium.new_context(
            base_url=api.url,
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        contexts.append((context, Complaints(context, api.url)))
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.goto("/")
        page.get_by_label("API key").fill(key or api.key())
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Import mailboxes").wait_for()
        return page

    yield opened
    heard = [line for context, complaints in contexts for line in complaints.heard]
    for context, _ in contexts:
        context.close()
    assert heard == []


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with 60 % failing mailboxes, with a row error and a repeated row."""
    working = [(address, one.password) for address, one in accounts(WORKING, "contoso.com").items()]
    rows = [*working, *((address, WRONG) for address in TROUBLED), ("", "p"), working[0]]
    return write_csv(tmp_path / "mailboxes.csv", rows)


def choose(page: Page, file: Path) -> Locator:
    """Choose a file; the result of its check."""
    page.get_by_label("Drop a file here").set_input_files(file)
    result = page.locator("#result")
    result.wait_for()
    return result


def import_checked(page: Page) -> None:
    """Press the button that imports, and wait until the tests have ended."""
    page.locator("#import-button").click()
    page.wait_for_url("**/imports/*")
    page.get_by_role("link", name="Hand-over (.zip)").wait_for()


def shoot(page: Page, folder: Path, name: str) -> None:
    page.screenshot(path=folder / f"{name}.png", full_page=True)


def test_support_person_repairs_an_import(api: Api, visit: OpenPage, file: Path, tmp_path: Path) -> None:
    """From a file with 60 % failures to a report of working mailboxes, with nothing but the page."""
    page = visit()
    result = choose(page, file)
    assert "50 new mailboxes" in " ".join(result.inner_text().split())
    assert "Missing email or password" in result.inner_text()
    assert rows_of(api.db, Import) == []
    import_checked(page)
    page.locator(".who", has_text="30 need a new app password from their owner").wait_for()

    page.get_by_role("link", name="Wrong password 30").click()
    page.get_by_role("heading", name="Mailboxes 30 of 50").wait_for()
    assert page.locator("table.mailboxes tbody tr").count() == BROKEN
    assert page.url.endswith("?reason=wrong_credentials")
    page.get_by_role("link", name="broken1@fabrikam.com").click()
    page.get_by_text("535 5.7.139 Authentication unsuccessful").wait_for()
    page.go_back()
    page.get_by_role("heading", name="Mailboxes 30 of 50").wait_for()

    with page.expect_download() as download:
        page.get_by_role("link", name="fix-passwords.csv").click()
    fixed = tmp_path / "fix-passwords.csv"
    header, *rows = download.value.path().read_text("utf-8-sig").splitlines()
    assert len(rows) == BROKEN
    fixed.write_text("\n".join([header, *(row + RIGHT for row in rows)]))

    page.get_by_role("link", name="New import").click()
    assert "There is nothing to import" in choose(page, fixed).inner_text()
    page.get_by_label("Replace passwords").check()
    page.get_by_role("button", name="Update 30 mailboxes").wait_for()
    import_checked(page)
    page.locator(".who", has_text="There is nothing to do.").wait_for()

    page.get_by_role("link", name="Past imports").click()
    page.get_by_role("link", name="1: mailboxes.csv").click()
    page.get_by_role("img", name="50 work, 1 fail, 1 skipped").wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name=".csv", exact=True).click()
    report = download.value.path().read_text("utf-8-sig")
    assert report.count("active") >= WORKING + BROKEN
    assert RIGHT not in report


def test_page_follows_the_tests_by_itself(visit: OpenPage, file: Path) -> None:
    """The page shows progress without a reload, then the result, and then asks the server no more."""
    page = visit()
    choose(page, file)
    page.locator("#import-button").click()
    page.get_by_text("Testing the logins").wait_for()
    page.get_by_text("All tests are done.").wait_for(state="attached")
    page.locator("table.mailboxes td.fails").first.wait_for()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with page.expect_response("**/mailboxes*"):
        page.get_by_role("link", name="Wrong password 30").click()
    assert [url for url in asked if "/live" in url] == []


def test_columns_are_chosen_on_the_page(visit: OpenPage, tmp_path: Path) -> None:
    """A header that leaves it open gets a choice, and choosing shows the new result at once."""
    page = visit()
    file = tmp_path / "odd.csv"
    file.write_text("Login,Geheim\nuser1@contoso.com,pass word 1\n")
    result = choose(page, file)
    assert "CSV must have email and password columns" in result.inner_text()
    page.get_by_label("App password").select_option("Geheim")
    page.get_by_role("button", name="Import 1 mailbox").click()
    page.locator(".who", has_text="There is nothing to do.").wait_for()


def test_whole_way_by_keyboard(visit: OpenPage, file: Path) -> None:
    """After the file dialog, the result has the focus, and Tab and Enter lead through import and filter."""
    page = visit()
    choose(page, file)
    page.wait_for_function("document.activeElement.id === 'result'")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "import-button"
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Hand-over (.zip)").wait_for()
    chip = page.get_by_role("link", name="Wrong password 30")
    chip.focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Mailboxes 30 of 50").wait_for()
    assert page.evaluate("document.activeElement.id") == "reason-wrong_credentials"
    page.keyboard.press("Home")
    page.goto("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"


def test_page_works_without_scripts(api: Api, chromium: Browser, file: Path) -> None:
    """Check, import and filters work in a browser that runs no scripts."""
    context = chromium.new_context(base_url=api.url, java_script_enabled=False)
    page = context.new_page()
    page.goto("/imports")
    page.get_by_label("API key").fill(api.key())
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="New import").click()
    page.get_by_label("Drop a file here").set_input_files(file)
    page.get_by_role("button", name="Check the file").click()
    page.get_by_role("button", name="Import 50 mailboxes").click()
    page.get_by_role("heading", name="Import 1: mailboxes.csv").wait_for()
    page.get_by_label("Address contains").fill("user1@")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="Show all").wait_for()
    context.close()


def test_dropped_file_is_checked(visit: OpenPage) -> None:
    """A file that is dropped on the zone is checked at once."""
    page = visit()
    dropped = page.evaluate_handle(
        """() => { const data = new DataTransfer();
        data.items.add(new File(["email,password\\nuser1@contoso.com,pass word 1\\n"], "dropped.csv"));
        return data; }"""
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    page.get_by_role("heading", name="dropped.csv: 1 row, checked").wait_for()


# Accessibility -------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_axe_finds_nothing(
    api: Api, visit: OpenPage, file: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    """No page has a fault that axe calls moderate or worse, and none is wider than the screen."""
    from axe_playwright_python.sync_playwright import Axe

    page = visit(width, scheme)
    faults: dict[str, str] = {}

    def look(name: str) -> None:
        shoot(page, tmp_path, f"{name}-{width}-{scheme}")
        found = Axe().run(page).response["violations"]
        faults.update(
            {
                f"{name}: {one['id']}": str(one["nodes"][0]["html"])
                for one in found
                if one["impact"] != "minor"
            }
        )
        if page.evaluate("document.documentElement.scrollWidth") > width:
            faults[f"{name}: width"] = str(page.evaluate("document.documentElement.scrollWidth"))

    look("start")
    choose(page, file)
    look("checked")
    import_checked(page)
    look("import")
    page.get_by_role("link", name="Wrong password 30").click()
    page.get_by_role("heading", name="Mailboxes 30 of 50").wait_for()
    look("filtered")
    page.get_by_role("link", name="broken1@fabrikam.com").click()
    page.get_by_role("button", name="Replace and test").wait_for()
    look("mailbox")
    page.get_by_label("App password", exact=True).fill(WRONG)
    page.get_by_role("button", name="Replace and test").click()
    page.get_by_text("Nothing was changed").or_(page.locator("#fault")).first.wait_for()
    look("refused")
    for name, place in (
        ("past", "/imports"),
        ("delete", "/imports/1/delete?status=failed"),
        ("missing", "/no"),
    ):
        page.goto(place)
        look(name)
    page.goto("/")
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Sign in").wait_for()
    look("sign-in")
    assert faults == {}
    assert len(rows_of(api.db, Mailbox)) == WORKING + BROKEN


# Attacks -------------------------------------------------------------


@contextmanager
def other_site(body: str) -> Iterator[int]:
    """Another site on this machine with one page; yield its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = f"<!doctype html><title>other</title>{body}".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_form_of_another_site_changes_nothing(api: Api, chromium: Browser, file: Path, host: str) -> None:
    """Neither another site nor another port of this machine can use the person's session."""
    context = chromium.new_context(base_url=api.url)
    page = context.new_page()
    page.goto("/")
    page.get_by_label("API key").fill(api.key())
    page.get_by_role("button", name="Sign in").click()
    choose(page, file)
    token = page.locator("#import [name=token]").get_attribute("value")
    kept = page.locator("#result [name=kept]").first.get_attribute("value")
    form = (
        f'<form method="post" action="{api.url}/imports">'
        f'<input name="token" value="{escape(str(token))}"><input name="kept" value="{escape(str(kept))}">'
        "<button>Win a prize</button></form>"
    )
    with other_site(form) as port:
        evil = context.new_page()
        evil.goto(f"http://{host}:{port}/")
        evil.get_by_role("button").click()
        evil.get_by_role("heading", name="Not allowed").wait_for()
    with other_site(f'<iframe src="{api.url}/"></iframe>') as port:
        evil.goto(f"http://{host}:{port}/")
        assert "Import mailboxes" not in (evil.frames[1].content() if len(evil.frames) > 1 else "")
    assert rows_of(api.db, Import) == []
    context.close()


def test_stolen_cookie_is_dead_after_sign_out(api: Api, chromium: Browser) -> None:
    """Another browser with the cookie is signed out together with the one it was stolen from."""
    context = chromium.new_context(base_url=api.url)
    page = context.new_page()
    page.goto("/")
    page.get_by_label("API key").fill(api.key())
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Import mailboxes").wait_for()
    assert page.evaluate("document.cookie") == ""
    thief = chromium.new_context(base_url=api.url)
    thief.add_cookies(
        [{"name": one["name"], "value": one["value"], "url": api.url} for one in context.cookies()]
    )
    stolen = thief.new_page()
    stolen.goto("/imports")
    stolen.get_by_role("heading", name="Past imports").wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Sign in").wait_for()
    stolen.goto("/imports")
    stolen.get_by_role("heading", name="Sign in").wait_for()
    thief.close()
    context.close()


def test_markup_in_a_file_is_text(visit: OpenPage, tmp_path: Path) -> None:
    """HTML in a file's name, headers, names and addresses is shown as text, and runs nothing."""
    page = visit()
    file = tmp_path / "<b onmouseover=alert(1)>.csv"
    file.write_bytes(
        csv_of(
            ["user1@contoso.com", "pass word 1", f'"{EVIL.replace(chr(34), chr(34) * 2)}"', "1"],
            ["<i>@contoso", "p", "x", "1"],
            header="email,password,name,<u>secret</u>",
        )
    )
    result = choose(page, file)
    assert "<b onmouseover" in result.inner_text()
    assert "<u>secret</u>" in result.inner_text()
    import_checked(page)
    page.get_by_role("link", name="user1@contoso.com").click()
    page.get_by_text(EVIL).wait_for()
    assert page.locator("img, b[onmouseover], u").count() == 0
    assert page.title() == "user1@contoso.com · Mailbox import"


def test_file_of_10_mb_is_refused_before_it_is_sent(visit: OpenPage, tmp_path: Path) -> None:
    """A file that is too large is refused in words by the page itself, and a smaller one goes on."""
    page = visit()
    large = tmp_path / "large.csv"
    large.write_bytes(b"email,password\n" + b"x" * (10 * 2**20))
    page.get_by_label("Drop a file here").set_input_files(large)
    page.get_by_role("alert").get_by_text("The file is too large: at most 10 MB").wait_for()
    small = tmp_path / "small.csv"
    small.write_bytes(csv_of(["user1@contoso.com", "pass word 1"]))
    choose(page, small)
    page.get_by_role("button", name="Import 1 mailbox").wait_for()
    assert page.locator("#notice").inner_text() == ""


def test_two_tabs_do_not_mix(api: Api, visit: OpenPage, tmp_path: Path) -> None:
    """Two tabs of one session each import the file that they show; signing out in one ends both."""
    first = visit()
    second = first.context.new_page()
    second.goto("/")
    for number, page in ((1, first), (2, second)):
        file = tmp_path / f"tab{number}.csv"
        file.write_bytes(csv_of([f"user{number}@contoso.com", f"pass word {number}"]))
        choose(page, file)
    for number, page in ((1, first), (2, second)):
        import_checked(page)
        page.get_by_role("heading", name=f"Import {number}: tab{number}.csv").wait_for()
    assert [row["email"] for row in rows_of(api.db, Mailbox)] == ["user1@contoso.com", "user2@contoso.com"]
    second.get_by_role("button", name="Sign out").click()
    second.get_by_role("heading", name="Sign in").wait_for()
    first.get_by_role("link", name="Past imports").click()
    first.get_by_role("heading", name="Sign in").wait_for()
