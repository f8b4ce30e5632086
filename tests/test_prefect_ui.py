"""An import by hand in the Prefect UI: its form, its run and its artifacts, in a real browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tasks.files.prefect_profile import read_profile
from tests.support.browser import chromium_running
from tests.support.machine import Machine
from tests.support.shell import SAMPLES

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Route

SAMPLE = str(SAMPLES / "mailboxes.csv")


@pytest.fixture
def page(machine: Machine) -> Iterator[Page]:
    """A page of a headless Chromium that can reach only the machine's own server."""
    own = f"http://127.0.0.1:{machine.port}/"

    foreign = []

    def only_own(route: Route) -> None:
        if route.request.url.startswith(own):
            route.continue_()
        else:
            foreign.append(route.request.url)
            route.abort()

    with chromium_running() as browser:
        opened = browser.new_page(base_url=f"{own}v2/", viewport={"width": 1280, "height": 920})
        opened.set_default_timeout(15_000)
        opened.route("**", only_own)
        sign_in(opened, machine)
        yield opened
        assert opened.get_by_text("Upgrade").count() == 0  # no promotion
    assert foreign == []  # no analytics, fonts or banner pictures


def open_form(page: Page, machine: Machine) -> None:
    page.goto(f"deployments/deployment/{machine.deployment('import-outlook/manual')['id']}/run")


def submit(page: Page) -> None:
    """Submit the form and open its run; retry if Prefect's SQLite was locked."""
    started = page.get_by_role("button", name="View run")
    refused = page.get_by_text("Error creating flow run")
    for _ in range(3):
        page.get_by_role("button", name="Submit").click()
        started.or_(refused).first.wait_for()
        if started.is_visible():
            break
        refused.wait_for(state="hidden")
    started.click()


def sign_in(page: Page, machine: Machine) -> None:
    """Sign in with the login of the machine's profile, as a person does."""
    page.goto("dashboard")
    page.get_by_placeholder("admin:pass").fill(read_profile(machine.profile)["PREFECT_API_AUTH_STRING"])
    page.get_by_role("button", name="Login").click()
    page.get_by_role("link", name="Flows").wait_for()


def open_artifact(page: Page, run_id: str, key: str) -> None:
    """Open one of the run's artifacts."""
    page.goto(f"runs/flow-run/{run_id}?tab=Artifacts")
    page.get_by_role("link", name=key).click()


def search_for(page: Page, words: str, until_hidden: Locator) -> None:
    """Fill in the table's search; retry if the page has redrawn its table and lost the text."""
    from playwright.sync_api import TimeoutError as NotInTimeError

    search = page.get_by_placeholder("Search")
    for _ in range(5):
        search.fill("")
        search.press_sequentially(words)
        with suppress(NotInTimeError):
            until_hidden.wait_for(state="hidden", timeout=3000)
            return
    until_hidden.wait_for(state="hidden")


def test_sample_is_imported_by_the_form(machine: Machine, page: Page, tmp_path: Path) -> None:
    """The filled-in form starts a run; its artifacts show 20, 2 and 1, and why mailboxes do not work."""
    open_form(page, machine)
    page.get_by_label("CSV file").fill(SAMPLE)
    page.get_by_label("Tag").fill("spring")
    page.screenshot(path=tmp_path / "form.png", full_page=True)
    submit(page)
    page.wait_for_url("**/runs/flow-run/**")
    run_id = page.url.split("/flow-run/")[1].partition("?")[0]
    run = machine.ended(run_id)
    tested = "1 can only send, 1 can only receive, 15 active, 2 failed, 1 to retry"
    message = f"imported 20, skipped 2, failed 1; {tested}"
    assert (run["state"]["name"], run["state"]["message"]) == ("Completed with failures", message)
    assert "spring" in run["tags"]
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("imported 20, skipped 2, failed 1").wait_for()
    page.screenshot(path=tmp_path / "run.png")

    open_artifact(page, run_id, "import-summary")
    page.get_by_role("heading", name="mailboxes.csv: imported 20, skipped 2, failed 1").wait_for()
    page.get_by_role("row", name="20 imported").wait_for()
    page.get_by_role("row", name="1 Missing email or password fill in both cells").wait_for()
    page.screenshot(path=tmp_path / "import-summary.png")

    open_artifact(page, run_id, "login-results")
    page.get_by_role("heading", name=tested).wait_for()
    page.get_by_text("1 mailbox: Wrong password.").wait_for()
    page.get_by_text("1 mailbox: SMTP AUTH is off for the organisation.").wait_for()
    page.screenshot(path=tmp_path / "login-results.png")

    open_artifact(page, run_id, "tested-mailboxes")
    another = page.get_by_test_id("table-display").get_by_text("fenella.coppersmythe@msn.com")
    another.wait_for()  # text typed before the table is there is lost
    search_for(page, "tobiah", until_hidden=another)
    page.get_by_role("row", name="tobiah.wrenfold@outlook.com failed Wrong password").wait_for()
    page.screenshot(path=tmp_path / "tested-mailboxes.png")


def test_form_asks_for_each_parameter_and_refuses_a_wrong_one(
    machine: Machine, page: Page, tmp_path: Path
) -> None:
    """Each parameter has a title and a description; an invalid value is named and starts no run."""
    open_form(page, machine)
    for title in ("CSV file", "Tag", "Workspace", "Test the logins", "Text encoding", "Report"):
        page.get_by_text(title, exact=False).first.wait_for()
    schema = machine.deployment("import-outlook/manual")["parameter_openapi_schema"]
    for parameter in schema["properties"].values():
        assert parameter["title"][0].isupper()
        page.get_by_text(parameter["description"]).wait_for()
    page.get_by_label("CSV file").fill(SAMPLE)
    page.get_by_label("Workspace").fill("a/b")
    before = machine.api.post("/flow_runs/count", json={}).json()
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("'a/b' does not match").first.wait_for()
    page.screenshot(path=tmp_path / "refused.png", full_page=True)
    assert machine.api.post("/flow_runs/count", json={}).json() == before


@pytest.mark.parametrize(
    "parameters",
    [
        {"file": ""},
        {"file": SAMPLE, "workspace": ""},
        {"file": SAMPLE, "workspace": "a/b"},
        {"file": SAMPLE, "workspace": "x" * 101},
        {"file": SAMPLE, "tag": "<b>"},
        {"file": SAMPLE, "tag": "x" * 101},
        {"file": SAMPLE, "test": "perhaps"},
        {"file": 7},
        {},
    ],
)
def test_wrong_parameters_make_no_run(machine: Machine, parameters: dict[str, object]) -> None:
    """An invalid parameter is refused before a run is created."""
    assert machine.create_run(**parameters).status_code in (HTTPStatus.CONFLICT, 422)


def test_run_reads_and_writes_only_what_it_may(machine: Machine, tmp_path: Path) -> None:
    """A link out of the folders, a pipe, or a report over another file fails the run and changes nothing."""
    secret = "b8a1-the-password-of-somebody-else"
    outside = tmp_path / "outside.csv"
    outside.write_text(f"email,password\nann@contoso.com,{secret}\n")
    link, pipe = machine.watched / "link to outside.csv", machine.watched / "pipe.csv"
    link.symlink_to(outside)
    os.mkfifo(pipe)
    database = machine.watched / "mailboxes.db"
    database.write_bytes(b"untouched")
    lies_outside = "The path is outside the folders in OUTLOOK_IMPORT_IMPORT_FOLDERS"
    expected = {
        machine.create_run(file=str(link)).json()["id"]: lies_outside,
        machine.create_run(file=str(pipe)).json()["id"]: "CSV file is required",
        machine.create_run(file=SAMPLE, report=str(database)).json()["id"]: (
            "The report must be a separate .csv, .xlsx or .html file"
        ),
    }
    for run_id, sentence in expected.items():
        run = machine.ended(run_id)
        assert (run["state"]["type"], run["state"]["message"]) == ("FAILED", sentence)
        (artifact,) = machine.artifacts(run_id).values()
        assert artifact["description"] == f"Refused: {sentence}"
        assert secret not in str(artifact)
    assert database.read_bytes() == b"untouched"
    assert secret in outside.read_text()
