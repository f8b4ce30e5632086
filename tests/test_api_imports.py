"""Imports over HTTP: list and check them, download reports and hand-overs, and update passwords."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.outlook import running
from sandbox.script import Account
from schemas.handover import handover
from schemas.report_csv import report_csv
from schemas.settings import Settings
from schemas.tables import Import, Mailbox, Workspace
from tasks.hints import command
from tasks.storage.claims import find_due
from tasks.storage.outcomes import find_outcomes
from tests.conftest import rows_of
from tests.test_api import (
    IMPORT,
    NOWHERE,
    REFUSED_FILES,
    SAMPLE,
    Api,
    api_on,
    api_with,
    csv_of,
    data_of,
    error_of,
    send,
    wait_until,
)

CHECK = "/v1/imports/check"


def upload(client: httpx.Client, url: str, file: bytes, **fields: str) -> httpx.Response:
    return client.post(url, files={"file": ("m.csv", file)}, data=fields)


# Lists ---------------------------------------------------------------


def test_imports_are_listed_newest_first_by_page(either_api: Api) -> None:
    """Pages follow each other from the newest to the oldest import of the workspace, without gaps."""
    with either_api.client() as client, either_api.client("other") as other:
        numbers = [int(send(client, csv_of([f"u{n}@b.co", "p"])).headers["X-Import-Id"]) for n in range(5)]
        send(other, SAMPLE.read_bytes())
        listed: list[int] = []
        cursor: int | None = 0
        while cursor is not None:
            page = data_of(client.get(f"/v1/imports?limit=2&cursor={cursor}"))
            listed += [one["id"] for one in page["imports"]]
            cursor = page["next_cursor"]
        assert listed == numbers[::-1]
        newest = data_of(client.get("/v1/imports?limit=1"))["imports"][0]
        shown = data_of(client.get(f"/v1/imports/{numbers[-1]}"))
        assert {name: shown[name] for name in newest if name != "progress"} == {
            name: value for name, value in newest.items() if name != "progress"
        }
        error_of(client.get("/v1/imports?limit=0"), 400)


# Check ---------------------------------------------------------------


@pytest.mark.parametrize("update", ["false", "true"])
def test_a_check_answers_what_the_import_then_answers(either_api: Api, update: str) -> None:
    """Counts, errors and warnings of a check are those of the import after it, and it stores nothing."""
    stored = csv_of(["ann@contoso.com", "old"], ["bob@contoso.com", "pw"])
    file = csv_of(
        *(["ann@contoso.com", "new"], ["bob@contoso.com", "pw"], ["eve@contoso.com", " it’s"]),
        *(["eve@contoso.com", "q"], ["", "p"], ["x", "p"]),
    )
    with either_api.client() as client:
        send(client, stored)
        wait_until(lambda: all(row["tested_at"] for row in rows_of(either_api.db, Mailbox)))
        before = [rows_of(either_api.db, table) for table in (Import, Mailbox, Workspace)]
        checked = data_of(upload(client, CHECK, file, update=update))
        assert [rows_of(either_api.db, table) for table in (Import, Mailbox, Workspace)] == before
        rows = checked.pop("rows")
        assert sum(cause["rows"] for cause in checked.pop("causes")) >= len(rows)
        assert checked.pop("ignored") == []
        imported = data_of(upload(client, IMPORT, file, update=update))
    assert checked == imported
    assert checked["warnings"]
    assert [row["line"] for row in rows if row["result"] == "failed"] == [6, 7]
    skipped = [row["line"] for row in rows if row["result"] == "skipped"]
    assert skipped == ([3, 5] if update == "true" else [2, 3, 5])


def test_a_check_refuses_what_an_import_refuses(api: Api) -> None:
    """The sample, refused files, odd fields and missing workspaces give the same answers as an import."""
    with api.client() as client, api.client(None, **{"X-Workspace": "new"}) as platform:
        for file, message in REFUSED_FILES.values():
            assert error_of(upload(client, CHECK, file), 400) == message
        assert error_of(client.post(CHECK), 400) == "CSV file is required"
        assert error_of(upload(client, CHECK, SAMPLE.read_bytes(), update="1"), 400) == (
            "update: use true or false"
        )
        error_of(upload(platform, CHECK, SAMPLE.read_bytes()), 404)
        create = {"X-Create-Workspace": "true"}
        answer = platform.post(CHECK, files={"file": ("m.csv", SAMPLE.read_bytes())}, headers=create)
        assert (data_of(answer)["imported"], data_of(answer)["skipped"]) == (20, 2)
        similar = {**create, "X-Workspace": "DEFAULT"}
        error_of(platform.post(CHECK, files={"file": SAMPLE.read_bytes()}, headers=similar), 409)
    assert [row["name"] for row in rows_of(api.db, Workspace)] == ["default"]
    assert rows_of(api.db, Import) == []


def test_a_check_names_columns_that_are_not_used(api: Api) -> None:
    """Headers without a use are listed, with the reasons and remedies of the rows."""
    with api.client() as client:
        file = csv_of(["ann@contoso.com", "p", "1"], ["", "p", "2"], header="email,password,phone")
        checked = data_of(upload(client, CHECK, file))
    assert checked["ignored"] == ["phone"]
    (cause,) = checked["causes"]
    assert (cause["reason"], cause["rows"]) == ("Missing email or password", 1)
    assert checked["rows"] == [
        {"line": 3, "email": "unknown", "result": "failed", "code": "missing", "error": cause["reason"]}
    ]


# Reports and hand-overs ----------------------------------------------


def test_reports_are_those_of_the_command_line(either_api: Api) -> None:
    """CSV, workbook, page and hand-over are downloads with the content that the commands write."""
    with either_api.client() as client, either_api.client("other") as other:
        number = send(client, SAMPLE.read_bytes()).headers["X-Import-Id"]
        wait_until(lambda: all(row["tested_at"] for row in rows_of(either_api.db, Mailbox)))
        found = find_outcomes(either_api.db, "default", int(number))
        assert found is not None
        answers = {
            name: client.get(f"/v1/imports/{number}/{name}")
            for name in ("report.csv", "report.xlsx", "report.html", "handover.zip")
        }
        for name, answer in answers.items():
            assert answer.status_code == 200
            assert answer.headers["content-disposition"] == (f'attachment; filename="import-{number}-{name}"')
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-security-policy"].startswith("default-src 'none'")
            assert error_of(other.get(f"/v1/imports/{number}/{name}"), 404) == "No such import"
        assert error_of(client.get(f"/v1/imports/{number}/report.pdf"), 404) == "Not Found"
    assert answers["report.csv"].content == report_csv(found[1], found[0].notes)
    assert zipfile.ZipFile(io.BytesIO(answers["report.xlsx"].content)).testzip() is None
    assert answers["report.html"].text.startswith("<!doctype html>")
    archive = zipfile.ZipFile(io.BytesIO(answers["handover.zip"].content))
    files = handover(*found, program=command())
    assert {name: archive.read(name) for name in archive.namelist()} == files


# Updates -------------------------------------------------------------


def test_an_update_tests_the_mailboxes_that_it_updates(either_settings: Settings, tmp_path: Path) -> None:
    """After an update over HTTP both its new and its updated mailboxes get a verdict in the same run."""
    accounts = {name: Account("right") for name in ("ann@contoso.com", "bob@contoso.com", "eve@contoso.com")}
    with (
        running(accounts, folder=tmp_path) as outlook,
        api_on(outlook, either_settings) as api,
        api.client() as client,
    ):

        def statuses() -> dict[str, Any]:
            return {row["email"]: row["status"] for row in rows_of(api.db, Mailbox)}

        send(client, csv_of(["ann@contoso.com", "wrong"], ["bob@contoso.com", "wrong"]))
        wait_until(lambda: set(statuses().values()) == {"failed"})
        file = csv_of(*([email, "right"] for email in accounts))
        updated = data_of(upload(client, IMPORT, file, update="true"))
        assert (updated["imported"], updated["updated"]) == (1, 2)
        wait_until(lambda: "pending" not in statuses().values())
        assert statuses() == dict.fromkeys(accounts, "active")


def test_an_import_selects_its_updated_mailboxes_in_its_workspace_only(either_settings: Settings) -> None:
    """What is due for an import are the mailboxes that it created or updated, not equal ones elsewhere."""
    with (
        api_with(either_settings, servers=NOWHERE) as api,
        api.client("north") as north,
        api.client("south") as south,
    ):
        for client in (north, south):
            send(client, csv_of(["ann@contoso.com", "old"], ["bob@contoso.com", "p"]))
        file = csv_of(["ann@contoso.com", "new"], ["bob@contoso.com", "p"], ["eve@contoso.com", "p"])
        number = int(upload(north, IMPORT, file, update="true").headers["X-Import-Id"])
        ids = {row["id"]: (row["workspace_id"], row["email"]) for row in rows_of(api.db, Mailbox)}
        (stored,) = [row for row in rows_of(api.db, Import) if row["id"] == number]
        north_id = stored["workspace_id"]
        wanted = {(north_id, "ann@contoso.com"), (north_id, "eve@contoso.com")}

        def tested() -> bool:
            """Whether this import's run, which is the last one, is over."""
            rows = {(row["workspace_id"], row["email"]): row["tested_at"] for row in rows_of(api.db, Mailbox)}
            return all(rows.values()) and all(rows[one] > stored["created_at"] for one in wanted)

        wait_until(tested)
        due = find_due.fn(api.db, 100, None, held=False, import_id=number)
    assert {ids[target.mailbox_id] for target in due} == wanted
