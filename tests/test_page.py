"""The page for people, without a browser: a real server on loopback, a real database, real mail servers."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from http.server import HTTPServer, SimpleHTTPRequestHandler
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from hatchling.builders.wheel import WheelBuilder
from sqlalchemy import update

from flows.api.multipart import Upload
from flows.api.page import past_imports
from flows.api.page.people import POLICY
from flows.api.page.rendering import FOLDER, static_file
from flows.api.page.sessions import (
    IDLE_SECONDS,
    KEPT_PER_SESSION,
    KEPT_SECONDS,
    LONGEST_SECONDS,
    MOST_SESSIONS,
    Sessions,
)
from flows.cli.app import main
from sandbox.outlook import Outlook, running
from sandbox.script import Account
from schemas.scopes import Scope
from schemas.settings import Settings
from schemas.tables import Import, Mailbox, ProbeResult
from tasks.storage import page_links
from tasks.storage.api_keys import Holder, create_key, list_keys, revoke_key
from tasks.storage.page_links import link_file, make_link
from tests.conftest import accounts, rows_of, with_servers
from tests.support.shell import PROJECT
from tests.support.visitor import BROWSER, Visitor, kept_in, text_of
from tests.test_api import Api, api_with, csv_of, wait_until

CANARY = "canary-5ecret-pass"
HOLDER = Holder(1, "default")
TEMPLATES = sorted((FOLDER / "templates").glob("*.html"))
EVIL = "<img src=x onerror=alert(1)>"
WRONG = Account("the right one")


@pytest.fixture
def api(settings: Settings) -> Iterator[Api]:
    """A server whose mailboxes are on no server."""
    with api_with(settings) as started:
        yield started


@pytest.fixture
def visitor(api: Api) -> Iterator[Visitor]:
    """A person who has signed in."""
    with Visitor(api.url, api.key()) as person:
        yield person


@pytest.fixture
def outlook(tmp_path: Path) -> Iterator[Outlook]:
    """A stand-in with 6 working mailboxes, and 4 whose passwords differ from those of the file."""
    wrong = {f"wrong{n}@contoso.com": WRONG for n in range(1, 5)}
    with running(accounts(6, "contoso.com") | wrong, folder=tmp_path) as started:
        yield started


@pytest.fixture
def tested(settings: Settings, outlook: Outlook) -> Iterator[Visitor]:
    """A person who has imported these 10 mailboxes and 1 row without a password, as import 1."""
    changed = with_servers(settings, outlook)
    with (
        api_with(settings, servers=changed.servers, ca_file=changed.ca_file, guard_after=100) as api,
        Visitor(api.url, api.key()) as person,
    ):
        file = csv_of(
            *([f"user{n}@contoso.com", f"pass word {n}"] for n in range(1, 7)),
            *([f"wrong{n}@contoso.com", CANARY] for n in range(1, 5)),
            ["nobody@contoso.com", ""],
        )
        page = person.import_file(file, tag="spring")
        assert page.url.path == "/imports/1"
        wait_until_tested(person)
        yield person


def wait_until_tested(person: Visitor, import_id: int = 1) -> None:
    wait_until(lambda: person.get(f"/imports/{import_id}/live", **{"HX-Request": "true"}).status_code == 286)


def addresses(page: httpx.Response) -> list[str]:
    """The mailboxes in the table of a page."""
    return re.findall(r'<td><a href="/mailboxes/\d+"><bdi>([^<]+)</bdi>', page.text)


# Sessions ------------------------------------------------------------


def test_nothing_is_shown_without_a_session(api: Api) -> None:
    """Each page leads to the sign-in, and a part of a page tells the browser to go there."""
    with Visitor(api.url) as stranger:
        for path in ("/", "/imports", "/imports/1", "/mailboxes/1", "/imports/1/report.csv"):
            assert stranger.get(path).url.path == "/sign-in", path
        part = stranger.get("/imports/1/live", **{"HX-Request": "true"})
        assert (part.status_code, part.headers["HX-Redirect"]) == (401, "/sign-in")
        assert stranger.post("/imports").status_code == 401


def test_sign_in_leads_to_the_page_that_was_asked_for(api: Api) -> None:
    """After the sign-in the person is where they wanted to be, and never on another site."""
    key = api.key()
    with Visitor(api.url) as person:
        assert person.get("/imports").url.query == b"to=/imports"
        assert person.sign_in(key, to="/imports").url.path == "/imports"
    with Visitor(api.url) as person:
        assert person.sign_in(key, to="//evil.example/").url.path == "/"


@pytest.mark.parametrize("proxies", ["", "127.0.0.1"], ids=["no proxy", "a proxy"])
def test_cookie_is_closed_to_scripts_and_other_sites(settings: Settings, proxies: str) -> None:
    """The cookie is HttpOnly and SameSite=Strict, and Secure behind HTTPS; another port has another one."""
    with api_with(settings, api_proxies=proxies) as api:
        check_cookie(api, behind_proxy=bool(proxies))


def check_cookie(api: Api, *, behind_proxy: bool) -> None:
    key = api.key()
    for scheme, secure in (("http", False), ("https", behind_proxy)):
        answer = httpx.post(
            f"{api.url}/sign-in", data={"key": key}, headers={**BROWSER, "X-Forwarded-Proto": scheme}
        )
        name, _, flags = answer.headers["set-cookie"].partition("=")
        assert re.fullmatch(r"[\w-]{43}; HttpOnly; Max-Age=43200; Path=/; SameSite=strict(; Secure)?", flags)
        assert flags.endswith("Secure") is secure
        assert name == f"outlook_import_{httpx.URL(api.url).port}"


def test_stolen_cookie_is_dead_after_sign_out(visitor: Visitor) -> None:
    """Sign-out ends the session on the server: the same cookie opens nothing any more."""
    stolen = dict(visitor.client.cookies)
    assert visitor.post("/sign-out").url.path == "/sign-in"
    visitor.client.cookies.update(stolen)
    assert visitor.get("/imports").url.path == "/sign-in"


def test_revoked_key_ends_its_sessions(api: Api, visitor: Visitor) -> None:
    """A session ends with the key that began it."""
    (key,) = list_keys(api.db)
    assert visitor.get("/imports").url.path == "/imports"
    assert revoke_key(api.db, key.prefix)
    assert visitor.get("/imports").url.path == "/sign-in"


def test_wrong_key_is_told_and_limited(api: Api) -> None:
    """A wrong key gets a sentence and is not repeated; after 20 in a minute no more are tried."""
    with Visitor(api.url) as person:
        for number in range(20):
            page = person.sign_in(f"sk_{number:043}")
            assert page.status_code == 401
            assert "This is not a valid key" in page.text
            assert f"{number:043}" not in page.text
        assert person.sign_in("sk_" + "x" * 43).status_code == 429
        assert person.sign_in(EVIL).status_code == 401


def test_platform_key_needs_a_workspace(api: Api) -> None:
    """A platform key opens the workspace that is named, if it exists; a workspace key opens only its own."""
    platform, own = api.key(None), api.key("sales")
    with Visitor(api.url) as person:
        assert "Name the one" in person.sign_in(platform).text
        assert "no such workspace" in person.sign_in(platform, "nothing").text
        assert "letters, digits" in person.sign_in(platform, EVIL).text
        assert "belongs to another workspace" in person.sign_in(own, "other").text
        assert "Workspace sales" in text_of(person.sign_in(platform, "sales"))


def test_key_without_a_scope_cannot_do_more_on_the_page(api: Api, visitor: Visitor) -> None:
    """A key that can only read sees everything and changes nothing; one that cannot read is not let in."""
    visitor.import_file(csv_of(["ann@b.co", "p"]))
    reading = create_key(api.db, "default", "reader", [Scope.READ])
    with Visitor(api.url, reading) as reader:
        assert "but not import" in reader.get("/").text
        for path in ("/imports/1", "/mailboxes/1"):
            assert not re.search(r"Delete|Replace|Test .* again", text_of(reader.get(path))), path
        assert reader.check(csv_of(["bob@b.co", "p"])).status_code == 403
        for path in (
            "/mailboxes/1/delete",
            "/mailboxes/1/retest",
            "/mailboxes/1/password",
            "/mailboxes/1/edit",
            "/imports/1/retest",
        ):
            assert reader.post(path, password="q").status_code == 403, path
        assert reader.post("/imports/1/delete", count="1").status_code == 403
    with Visitor(api.url) as person:
        page = person.sign_in(create_key(api.db, "default", "importer", [Scope.IMPORT]))
        assert (page.status_code, "lacks the scope “read”" in page.text) == (400, True)
    assert len(rows_of(api.db, Mailbox)) == 1


def test_other_workspaces_are_closed(api: Api, visitor: Visitor) -> None:
    """A person cannot see or change what another workspace has."""
    visitor.import_file(csv_of(["ann@b.co", "p"]))
    with Visitor(api.url, api.key("sales")) as other:
        for path in ("/imports/1", "/imports/1/live", "/imports/1/handover.zip", "/mailboxes/1"):
            assert other.get(path).status_code == 404, path
        for path in (
            "/mailboxes/1/delete",
            "/mailboxes/1/retest",
            "/mailboxes/1/password",
            "/mailboxes/1/edit",
        ):
            assert other.post(path, password="p").status_code == 404, path
        assert other.post("/imports/1/delete", count="1").status_code == 404
    assert len(rows_of(api.db, Mailbox)) == 1


def test_sessions_end_by_themselves() -> None:
    """A session ends after half an hour without a request, and after 12 hours in any case."""
    moment = 0.0
    sessions = Sessions(100, clock=lambda: moment)
    cookie = sessions.begin(HOLDER)
    moment = IDLE_SECONDS - 1
    assert sessions.find(cookie)
    moment += IDLE_SECONDS
    assert sessions.find(cookie) is None
    cookie = sessions.begin(HOLDER)
    end = moment + LONGEST_SECONDS
    while moment + IDLE_SECONDS - 1 < end:
        assert sessions.find(cookie)
        moment += IDLE_SECONDS - 1
    moment = end
    assert sessions.find(cookie) is None


def test_number_of_sessions_is_limited() -> None:
    """Of too many sessions the one that was idle longest ends."""
    moment = 0.0
    sessions = Sessions(100, clock=lambda: moment)
    cookies = []
    for _ in range(MOST_SESSIONS + 1):
        moment += 1
        cookies.append(sessions.begin(HOLDER))
        if len(cookies) == 1:
            continue
        assert sessions.find(cookies[0]) or len(cookies) > MOST_SESSIONS
    assert sessions.find(cookies[1]) is None
    assert sessions.find(cookies[0])
    assert sessions.find(cookies[-1])


async def test_kept_uploads_are_wiped() -> None:
    """An upload is kept for ten minutes, a few for each session, and no longer than the session."""
    moment = 0.0
    sessions = Sessions(100, clock=lambda: moment)
    session = sessions.find(sessions.begin(HOLDER))
    assert session
    first = sessions.keep(session, Upload(b"x" * 10, "a.csv"))
    for _ in range(KEPT_PER_SESSION):
        last = sessions.keep(session, Upload(b"x" * 10, "a.csv"))
    assert first not in session.kept
    moment = KEPT_SECONDS
    sessions.find("")
    assert last not in session.kept
    sessions.keep(session, Upload(b"x", "a.csv"))
    sessions.end(session)
    assert not session.kept


def test_two_servers_on_one_machine_share_a_browser(settings: Settings) -> None:
    """Signing in to a second server on another port does not sign out of the first."""
    with (
        api_with(settings) as first,
        api_with(settings) as second,
        Visitor(first.url, first.key()) as person,
    ):
        person.client.base_url = httpx.URL(second.url)
        assert person.get("/").url.path == "/sign-in"
        person.sign_in(second.key())
        for api in (first, second):
            person.client.base_url = httpx.URL(api.url)
            assert person.get("/imports").url.path == "/imports"


# Links of this machine -----------------------------------------------


def link_of(capsys: pytest.CaptureFixture[str], api: Api, *options: str) -> httpx.URL:
    capsys.readouterr()
    assert main(["open", "--port", str(httpx.URL(api.url).port), *options]) == 0
    return httpx.URL(capsys.readouterr().out.strip())


@pytest.mark.sqlite
def test_link_signs_in_once(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """`open` prints a link that signs in one browser, once; a later link replaces an earlier one."""
    old = link_of(capsys, api)
    link = link_of(capsys, api)
    with Visitor(api.url) as person:
        assert "used already" in person.get(old.path).text
        assert "Import mailboxes" in person.get(link.path).text
        assert person.import_file(csv_of(["ann@b.co", "p"])).url.path == "/imports/1"
    with Visitor(api.url) as other:
        assert "used already" in other.get(link.path).text
        assert other.get("/").url.path == "/sign-in"


@pytest.mark.sqlite
def test_link_is_private_and_short_lived(
    api: Api, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the digest of a link is stored, for the owner alone, and it expires."""
    file = link_file(settings)
    assert file
    monkeypatch.setattr(page_links, "LIFE", timedelta(0))
    token = make_link(settings, "default")
    assert token
    assert token not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    with Visitor(api.url) as person:
        assert "too old" in person.get(f"/open/{token}").text


@pytest.mark.usefixtures("settings")
def test_link_needs_a_workspace_that_exists(capsys: pytest.CaptureFixture[str]) -> None:
    """A link to a workspace that does not exist is not made."""
    assert main(["open", "--workspace", "nothing"]) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("settings")
def test_taken_port_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """`serve` says that its port is in use, and which option chooses another."""
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as other:
        assert main(["serve", "--port", str(other.server_port)]) == 1
    assert f"Port {other.server_port} is in use. Choose another with --port." in capsys.readouterr().err


# Other sites ---------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {},
    ],
)
def test_form_of_another_site_is_refused(api: Api, visitor: Visitor, headers: dict[str, str]) -> None:
    """A request that another site causes changes nothing, even with the cookie and the right token."""
    visitor.import_file(csv_of(["ann@b.co", "p"]))
    kept = kept_in(visitor.check(csv_of(["bob@b.co", "p"])))
    del visitor.client.headers["Sec-Fetch-Site"]
    visitor.client.headers.update(headers)
    for path, fields in (
        ("/imports", {"kept": kept}),
        ("/mailboxes/1/delete", {}),
        ("/mailboxes/1/password", {"password": "q"}),
        ("/mailboxes/1/edit", {"tag": "q", "needs": "both"}),
        ("/imports/1/delete", {"count": "1"}),
        ("/sign-out", {}),
    ):
        assert visitor.post(path, **fields).status_code == 403, path
    assert visitor.check(csv_of(["bob@b.co", "p"])).status_code == 403
    assert visitor.sign_in(api.key()).status_code == 403
    assert [row["email"] for row in rows_of(api.db, Mailbox)] == ["ann@b.co"]


def test_own_origin_is_enough_without_fetch_metadata(api: Api, visitor: Visitor) -> None:
    """A browser that sends only Origin can use the page."""
    del visitor.client.headers["Sec-Fetch-Site"]
    visitor.client.headers["Origin"] = api.url
    assert visitor.import_file(csv_of(["ann@b.co", "p"])).url.path == "/imports/1"


def test_form_of_another_session_is_refused(api: Api, visitor: Visitor) -> None:
    """Each form needs the token of its own session, and an upload is imported only by who checked it."""
    kept = kept_in(visitor.check(csv_of(["ann@b.co", "p"])))
    with Visitor(api.url, api.key()) as other:
        assert other.post("/imports", kept=kept).status_code == 400
        other.token = visitor.token
        assert other.post("/sign-out").status_code == 403
        assert other.check(csv_of(["ann@b.co", "p"])).status_code == 403
    assert rows_of(api.db, Import) == []


def test_reading_changes_nothing(api: Api, visitor: Visitor) -> None:
    """What changes something answers only to a form that is sent."""
    visitor.import_file(csv_of(["ann@b.co", "p"]))
    for path in ("/sign-out", "/check", "/imports/1/retest", "/mailboxes/1/password", "/mailboxes/1/edit"):
        assert visitor.get(path).status_code in (404, 405), path
    visitor.get("/mailboxes/1/delete")
    assert len(rows_of(api.db, Mailbox)) == 1


# What a browser may do with a page -----------------------------------


def test_every_response_has_the_headers(visitor: Visitor) -> None:
    """Pages, parts, downloads, errors and static files have the policy; browsers keep only static files."""
    visitor.import_file(csv_of(["ann@b.co", "p"]))
    paths = [
        "/",
        "/imports",
        "/imports/1",
        "/imports/1/live",
        "/imports/1/report.html",
        "/mailboxes/1",
        "/no",
    ]
    for path in [*paths, "/static/page.css"]:
        answer = visitor.get(path)
        assert answer.headers["content-security-policy"] == POLICY, path
        assert answer.headers["x-content-type-options"] == "nosniff", path
        assert answer.headers["referrer-policy"] == "same-origin", path
        kept = "public, max-age=31536000, immutable" if path.startswith("/static") else "no-store"
        assert answer.headers["cache-control"] == kept, path


def test_api_is_as_it_was(api: Api) -> None:
    """The HTTP API has no cookies, and its errors are JSON for browsers too."""
    answer = httpx.get(f"{api.url}/v1/mailboxes", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/json")
    assert httpx.get(f"{api.url}/nothing").json()["error"]["code"] == "NOT_FOUND"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_templates_have_nothing_inline(template: Path) -> None:
    """No template has a script, a style or a handler of its own, an address elsewhere, or evaluated htmx."""
    text = template.read_text()
    assert not re.search(r"<script(?! src)|<style|\sstyle=|\son\w+=|javascript:|https?://", text)
    assert not re.search(r"hx-(on|vals|vars|headers)|js:|hx-trigger=\"[^\"]*\[", text)
    safe = set(re.findall(r"[^\s{]*\|\s*safe", text))
    assert safe <= {"one.remedy|commands|safe", "quoted)|on_page|commands|safe"}


def test_htmx_is_the_file_that_was_published() -> None:
    """The vendored file has the digest that its note names, and its licence is beside it."""
    note = (FOLDER / "static" / "htmx-VERSION.txt").read_text()
    found = re.search(r"sha256: ([0-9a-f]{64})", note)
    assert found
    assert hashlib.sha256(static_file("htmx.min.js")).hexdigest() == found[1]
    assert f'version:"{re.findall(r"htmx ([0-9.]+),", note)[0]}"' in static_file("htmx.min.js").decode()
    assert "Zero-Clause BSD" in (FOLDER / "static" / "htmx-LICENSE.txt").read_text()


def test_wheel_has_the_files_of_the_page() -> None:
    """An installed program has every template and static file."""
    packed = {Path(file.path) for file in WheelBuilder(str(PROJECT)).recurse_included_files()}
    assert {path for path in FOLDER.rglob("*.*") if path.suffix != ".pyc"} <= packed


# Check and import ----------------------------------------------------


def test_check_shows_what_an_import_would_do(api: Api, visitor: Visitor) -> None:
    """The check counts rows and names errors by line, and stores nothing; the import then does just that."""
    file = csv_of(["ann@b.co", "p"], ["ann@b.co", "p"], ["", "p"], ["bob@contoso.com", "p"])
    page = visitor.check(file, tag="spring")
    words = text_of(page)
    assert "mailboxes.csv: 4 rows, checked" in words
    assert "2 new mailboxes 1 skipped 1 not imported" in words
    assert "4 unknown Missing email or password" in words
    assert rows_of(api.db, Import) == []
    assert "4 rows: 2 imported, 1 skipped, 1 failed" in text_of(visitor.post("/imports", kept=kept_in(page)))
    assert {row["tag"] for row in rows_of(api.db, Mailbox)} == {"spring"}


def test_second_click_leads_to_the_same_import(api: Api, visitor: Visitor) -> None:
    """The same upload is imported once, however often its form is sent."""
    kept = kept_in(visitor.check(csv_of(["ann@b.co", "p"])))
    assert {visitor.post("/imports", kept=kept).url.path for _ in range(3)} == {"/imports/1"}
    assert len(rows_of(api.db, Import)) == 1


def test_columns_can_be_chosen(visitor: Visitor) -> None:
    """Where the header leaves it open, the page offers the columns, and reads the kept file by the choice."""
    page = visitor.check(b"Login,Geheim\nann@b.co,p\n")
    words = text_of(page)
    assert "cannot be imported" in words
    assert "--map" not in words
    assert '<option value="password=Geheim">' in page.text
    again = visitor.check(b"", "", kept=kept_in(page), map="password=Geheim")
    assert "1 new mailbox" in text_of(again)
    assert visitor.post("/imports", kept=kept_in(again)).url.path == "/imports/1"


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        (b"Login,Geheim,2fa\nann@b.co,p,\n", {"column-password": "Geheim"}),
        ("email,password,name\nann@b.co,p,Jürgen\n".encode("cp1252"), {"encoding": "cp1252"}),
        (b'email,password\nann@b.co," abcd efgh "\nbob@b.co," q"\n', {"trim": "true"}),
        (b"email,password,2fa\nann@b.co,p,JBSWY3DPEHPK3PXP\n", {"map": "totpsecret=2fa"}),
        (b"a,password,b\nann@b.co,p,bob@b.co\n", {"map": "email=a"}),
        (b"email,e-mail 2,mail,password\nann@b.co,,bob@b.co,p\n", {"map": "email=email"}),
    ],
)
def test_texts_name_the_steps_of_the_page(visitor: Visitor, file: bytes, fields: dict[str, str]) -> None:
    """Refusals and warnings name no option of the command line, and the page can do what they advise."""
    page = visitor.check(file)
    assert not re.search(r"--\w", text_of(page))
    again = visitor.check(b"", "", kept=kept_in(page), **fields)
    assert "import-button" in again.text
    for name, value in fields.items():
        assert f'name="{name}" value=' in page.text or f'value="{value}"' in page.text


def test_past_imports_have_pages(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of imports goes on where a page ends."""
    monkeypatch.setattr(past_imports, "LISTED", 2)
    for number in range(3):
        visitor.import_file(csv_of([f"user{number}@b.co", "p"]))
    page = visitor.get("/imports")
    assert re.findall(r'href="/imports/(\d)"', page.text) == ["3", "2"]
    assert 'href="/imports?before=2"' in page.text
    assert re.findall(r'href="/imports/(\d)"', visitor.get("/imports?before=2").text) == ["1"]
    assert "no older imports" in visitor.get("/imports?before=1").text


@pytest.mark.parametrize(
    ("file", "name", "said"),
    [
        (b"", "a.csv", "CSV file is empty"),
        (b"email,password\n", "a.csv", "CSV file is empty"),
        (b"", "", "CSV file is required"),
        (b"%PDF-1.7", "a.csv", "a PDF document"),
        (b"a,b\n1,2\n", "a.csv", "CSV must have email and password columns"),
        (csv_of(*([f"u{n}@b.co", "p"] for n in range(501))), "a.csv", "Maximum 500 mailboxes per import"),
    ],
)
def test_refused_file_says_why(visitor: Visitor, file: bytes, name: str, said: str) -> None:
    """A file that cannot be imported gets the API's sentence, and no button."""
    page = visitor.check(file, name)
    assert page.status_code == 200
    assert said in text_of(page)
    assert "import-button" not in page.text


def test_file_that_is_too_large_gets_a_page(visitor: Visitor) -> None:
    """A file of more than 10 MB is refused in words, and the session goes on."""
    page = visitor.check(b"email,password\n" + b"x" * (10 * 2**20 + 100_000))
    assert (page.status_code, page.headers["content-type"]) == (413, "text/html; charset=utf-8")
    assert "The file is too large" in page.text
    page = visitor.check(b"email,password\n" + b"x" * (10 * 2**20))
    assert "larger than 10,485,760 bytes" in page.text
    assert visitor.import_file(csv_of(["ann@b.co", "p"])).url.path == "/imports/1"


def test_update_replaces_passwords_and_tests_them(tested: Visitor) -> None:
    """The list of wrong passwords, filled in and imported with an update, makes the mailboxes work."""
    listed = tested.get("/imports/1/fix-passwords.csv").text.splitlines()
    assert len(listed) == 6  # a header, 4 mailboxes, and the row without a password
    filled = "\n".join(
        [listed[0], *(line + WRONG.password for line in listed[1:] if "wrong" in line)]
    ).encode()
    page = tested.check(filled, "fix-passwords.csv", update="true")
    assert "4 new passwords" in text_of(page)
    assert tested.post("/imports", kept=kept_in(page)).url.path == "/imports/2"
    wait_until_tested(tested, 2)
    assert "4 work" in text_of(tested.get("/imports/2"))
    assert "10 work" in text_of(tested.get("/imports/1"))


# An import and its mailboxes -----------------------------------------


def test_page_of_an_import_says_who_has_to_act(tested: Visitor) -> None:
    """The sentence, the picture, the reasons and the row that failed are there when the tests have ended."""
    words = text_of(tested.get("/imports/1"))
    assert "4 need a new app password from their owner, 1 row needs correcting in the file." in words
    assert "6 work 5 fail" in words
    assert "Wrong password 4 mailboxes" in words
    assert "12 nobody@contoso.com Missing email or password" in words


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("status=active", "user"),
        ("status=failed", "wrong"),
        ("reason=wrong_credentials", "wrong"),
        ("actor=owner", "wrong"),
        ("reason=wrong_credentials&actor=owner&q=WRONG", "wrong"),
        ("actor=admin", ""),
        ("q=wrong1", "wrong1"),
    ],
)
def test_filters_and_their_counts_mean_the_same_mailboxes(tested: Visitor, query: str, expected: str) -> None:
    """A filter shows the mailboxes that its chip counts, in the page and in the part that htmx asks for."""
    page = tested.get(f"/imports/1?{query}")
    shown = addresses(page)
    assert shown == addresses(tested.get(f"/imports/1/mailboxes?{query}", **{"HX-Request": "true"}))
    assert bool(shown) is bool(expected)
    assert all(address.startswith(expected) for address in shown)
    chip = re.search(rf'href="/imports/1\?{query}#[^>]*aria-current="true">[^<]*<b>(\d+)</b>', page.text)
    assert chip is None or int(chip[1]) == len(shown)


def test_unknown_filter_is_refused(tested: Visitor) -> None:
    """A filter that does not exist is an error, because it would select every mailbox."""
    assert tested.get("/imports/1?reason=nonsense").status_code == 400
    assert tested.post("/imports/1/delete?reasn=wrong_credentials", count="10").status_code == 400
    assert tested.post("/imports/1/delete?status=nonsense", count="10").status_code == 400


def test_progress_ends_by_itself(settings: Settings, tmp_path: Path) -> None:
    """While tests run the page asks each second; an import whose tests are over asks no more."""
    with running({"ann@b.co": Account("p", smtp="hang:auth")}, folder=tmp_path) as outlook:
        changed = with_servers(settings, outlook, probe_timeout=2)
        options = {"servers": changed.servers, "ca_file": changed.ca_file, "probe_timeout": 2}
        with api_with(settings, **options) as api, Visitor(api.url, api.key()) as person:
            page = person.import_file(csv_of(["ann@b.co", "p"]))
            assert "Testing the logins: 0 of 1 mailbox done" in text_of(page)
            assert 'hx-trigger="every 500ms"' in page.text
            wait_until_tested(person)
            assert 'hx-trigger="every 500ms"' not in person.get("/imports/1").text


def test_delete_by_filter_asks_for_the_count(tested: Visitor) -> None:
    """Mailboxes are deleted by a filter only if the person gives their number."""
    place = "/imports/1/delete?reason=wrong_credentials"
    assert "Delete 4 mailboxes?" in text_of(tested.get(place))
    assert "does not match" in tested.post(place, count="10").text
    assert len(addresses(tested.get("/imports/1"))) == 10
    assert "Deleted 4 mailboxes." in tested.post(place, count="4").text
    assert len(addresses(tested.get("/imports/1"))) == 6


def test_mailbox_shows_what_the_server_said(tested: Visitor) -> None:
    """The page of a mailbox has both protocols, the server's words and what to do, in words of the page."""
    (wrong, *_) = re.findall(r'href="(/mailboxes/\d+)"><bdi>wrong', tested.get("/imports/1").text)
    words = text_of(tested.get(wrong))
    assert "535 5.7.139 Authentication unsuccessful" in words
    assert "open the mailbox and type it" in words
    assert "--update" not in words


def test_new_password_is_tested_at_once(tested: Visitor) -> None:
    """A new password follows the rules of a row, replaces the stored one, and the mailbox works."""
    (wrong, *_) = re.findall(r'href="(/mailboxes/\d+)"><bdi>wrong', tested.get("/imports/1").text)
    refused = tested.post(f"{wrong}/password", password=CANARY)
    assert (refused.status_code, "refused" in refused.text) == (400, True)
    assert tested.post(f"{wrong}/password", password="").status_code == 400
    assert "Testing the mailbox" in tested.post(f"{wrong}/password", password=WRONG.password).text
    wait_until(lambda: "Works" in tested.get(wrong).text)


def test_tag_name_and_needs_are_edited(tested: Visitor) -> None:
    """Tag, name and needs are changed by the API's rules, and a fault in one changes nothing."""
    (first, *_) = re.findall(r'href="(/mailboxes/\d+)"><bdi>wrong', tested.get("/imports/1").text)
    kept = {"tag": "spring", "name": "", "needs": "both"}
    assert "Nothing was changed." in tested.post(f"{first}/edit", **kept).text
    assert "Saved." in tested.post(f"{first}/edit", tag="second try", name=" Ann  Lee ", needs="both").text
    words = text_of(tested.get(first))
    assert ("second try" in words, "Ann Lee" in words, "send and receive" in words) == (True, True, True)
    for changed, fault in (
        ({"tag": "<b>"}, "tag: use at most 100 letters"),
        ({"name": "a\0b"}, "name: use printable characters"),
        ({"needs": "pop3"}, "needs: "),
    ):
        refused = tested.post(f"{first}/edit", **(kept | changed))
        assert refused.status_code == 400
        assert fault in text_of(refused)
        assert "Nothing was changed." in text_of(refused)
    assert "Saved." in tested.post(f"{first}/edit", tag="", name="Ann Lee", needs="smtp").text
    wait_until(lambda: tested.get(f"{first}/live").status_code == 286)
    words = text_of(tested.get(first))
    assert ("second try" in words, "Needed to send" in words) == (False, True)


def test_retest_and_delete_of_one_mailbox(tested: Visitor, outlook: Outlook) -> None:
    """A mailbox is tested again when asked for, alone, and deleted after a question."""
    (wrong, *_) = re.findall(r'href="(/mailboxes/\d+)"><bdi>wrong', tested.get("/imports/1").text)
    before = outlook.seen.logins
    assert "Testing the mailbox again." in tested.post(f"{wrong}/retest").text
    wait_until(lambda: tested.get(f"{wrong}/live").status_code == 286)
    ((_, address),) = {login[:2] for login in outlook.seen.logins - before}
    assert f"Delete {address}?" in text_of(tested.get(f"{wrong}/delete"))
    assert f"Deleted {address}." in tested.post(f"{wrong}/delete").text
    assert tested.get(wrong).status_code == 404


def test_retest_of_a_selection(tested: Visitor) -> None:
    """The mailboxes of a filter are tested again, except those that work."""
    assert "Testing 4 mailboxes again." in tested.post("/imports/1/retest?status=failed").text
    wait_until_tested(tested)
    assert "Nothing to test: these mailboxes work." in tested.post("/imports/1/retest?status=active").text


def test_downloads(tested: Visitor) -> None:
    """Report and hand-over are downloads with a name, whatever the file is called."""
    for kind, start in (("csv", b"\xef\xbb\xbf"), ("xlsx", b"PK"), ("html", b"<!doctype html>")):
        answer = tested.client.get(f"/imports/1/report.{kind}")
        assert answer.content.startswith(start)
        assert answer.headers["content-disposition"] == f'attachment; filename="import-1-report.{kind}"'
    with zipfile.ZipFile(BytesIO(tested.client.get("/imports/1/handover.zip").content)) as archive:
        assert {"README.txt", "fix-passwords.csv"} <= set(archive.namelist())
    assert tested.get("/imports/1/report.exe").status_code == 400


def test_held_back_mailboxes_wait_for_a_person(settings: Settings, outlook: Outlook) -> None:
    """Mailboxes that wait until someone asks are told as such, and a click tests them."""
    changed = with_servers(settings, outlook)
    with (
        api_with(settings, servers=changed.servers, ca_file=changed.ca_file, guard_after=1) as api,
        Visitor(api.url, api.key()) as person,
    ):
        person.import_file(csv_of(*([f"wrong{n}@contoso.com", CANARY] for n in range(1, 3))))
        wait_until_tested(person)
        held = {"status": "pending", "next_attempt_at": None, "claimed_until": None}
        with api.db.engine.begin() as connection:
            connection.execute(update(Mailbox).values(held))
        page = person.get("/imports/1")
        assert "2 mailboxes wait until you ask for a test." in text_of(page)
        assert "every 500ms" not in page.text
        assert "Testing 2 mailboxes again." in person.post("/imports/1/retest?status=pending").text
        wait_until_tested(person)
        assert "2 fail" in text_of(person.get("/imports/1"))


# Secrets and markup --------------------------------------------------


def test_no_password_comes_back(tested: Visitor) -> None:
    """Nothing that the page ever sent has a password in it: not check, import, mailbox, report or error."""
    (wrong, *_) = re.findall(r'href="(/mailboxes/\d+)"><bdi>wrong', tested.get("/imports/1").text)
    tested.post(f"{wrong}/password", password=f"{CANARY} ")
    tested.post(f"{wrong}/password", password=f"{CANARY}\0")
    tested.check(f"email,password,extra\nann@b.co,{CANARY}\n,{CANARY}\n".encode())
    tested.check(f"email,geheim\nann@b.co,{CANARY}\n".encode())
    tested.check(f"{CANARY},ann@b.co\n".encode())
    tested.sign_in(CANARY)
    for path in (wrong, "/imports", "/imports/1/report.csv", "/imports/1/report.html", "/"):
        tested.get(path)
    tested.seen.append(str(tested.client.get("/imports/1/report.xlsx").content))
    assert len(tested.seen) > 15
    assert [text[:300] for text in tested.seen if CANARY in text] == []


def test_markup_of_others_stays_text(api: Api, visitor: Visitor) -> None:
    """HTML in names, headers, file names, addresses and server texts is shown as text everywhere."""
    file = f'email,password,name,"{EVIL}"\nann@b.co,p,"{EVIL}",1\n"{EVIL}@b.co",p,x,1\n'.encode()
    assert visitor.import_file(file, f"{EVIL}.csv").url.path == "/imports/1"
    assert "tag: use at most" in visitor.check(file, tag=EVIL).text
    wait_until_tested(visitor)
    with api.db.engine.begin() as connection:
        connection.execute(update(ProbeResult).values(server_text=EVIL, host=EVIL))
        connection.execute(update(Mailbox).values(tag=EVIL, login=EVIL, warning=EVIL, email=f"{EVIL}@b.co"))
    for path in ("/", "/imports", "/imports/1", "/mailboxes/1", f"/imports/1?q={EVIL}"):
        visitor.get(path)
    visitor.post(f"/imports/1/delete?q={EVIL}", count=EVIL)
    visitor.get("/imports/1/delete?q=ann")
    assert sum("&lt;img" in text for text in visitor.seen) >= 6
    assert [text for text in visitor.seen if EVIL in text] == []


# Size ----------------------------------------------------------------


def test_page_of_500_mailboxes_is_small(visitor: Visitor) -> None:
    """The page of an import with 500 mailboxes has less than 200 kB."""
    file = csv_of(*([f"some.longer.name{n}@customer.example.com", "p"] for n in range(500)))
    page = visitor.import_file(file)
    assert len(addresses(page)) == 500
    wait_until_tested(visitor)
    assert len(visitor.get("/imports/1").content) < 200_000
