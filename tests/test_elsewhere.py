"""A mailbox at another provider fails by name at every way in, unless the settings have servers for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.settings import PREFIX, Settings
from schemas.tables import ImportRow, Mailbox
from tasks.storage.database import Database
from tasks.storage.imports import FAILED_ROWS, find_rows
from tests.conftest import import_file, rows_of, with_changes, write_csv
from tests.support.shell import Shell
from tests.test_api import NOWHERE, api_with, csv_of, data_of, send

SERVERS = {"contoso.com": NOWHERE["*"], "hotmial.com": NOWHERE["*"]}
ROWS = [("joe@gmail.com", "pw"), ("Kim@Yahoo.de", "pw"), ("ann@contoso.com", "pw"), ("max@hotmial.com", "pw")]
ERRORS = [
    {"email": "joe@gmail.com", "error": "Not hosted at Microsoft: Gmail"},
    {"email": "Kim@Yahoo.de", "error": "Not hosted at Microsoft: Yahoo"},
]


@pytest.mark.parametrize(
    ("servers", "failed", "warned"),
    [
        ({}, 2, True),
        (SERVERS, 2, False),
        ({"gmail.com": NOWHERE["*"]}, 1, True),
        (NOWHERE, 2, True),
    ],
)
def test_check(offline: Shell, servers: dict[str, object], failed: int, warned: bool) -> None:
    """`check` shows the provider of each failed row, and warns of a misspelled domain."""
    offline.environment[f"{PREFIX}SERVERS"] = json.dumps(servers)
    file = write_csv(offline.folder / "mailboxes.csv", ROWS)
    data = json.loads(offline.run("check", file, "--json", module="flows.cli"))["data"]
    assert (data["imported"], data["failed"]) == (4 - failed, failed)
    assert data["errors"] == ERRORS[2 - failed :]
    shown = offline.run("check", file, module="flows.cli")
    assert ("line 3: Kim@Yahoo.de: Not hosted at Microsoft: Yahoo" in shown) is (failed > 0)
    assert ("hotmial.com: did you mean" in shown) is warned


def test_stored_errors(db: Database, either_settings: Settings, tmp_path: Path) -> None:
    """The reason is stored as a code, and the provider is named whenever the rows of an import are shown."""
    settings = with_changes(either_settings, servers=SERVERS)
    stored = import_file(db, settings, write_csv(tmp_path / "mailboxes.csv", ROWS), test=False)
    assert stored.summary.envelope()["data"]["errors"] == ERRORS
    assert {row["reason"] for row in rows_of(db, ImportRow)} == {"", "not_at_microsoft"}
    assert stored.summary.import_id is not None
    faults = find_rows(db, stored.summary.import_id, FAILED_ROWS)
    assert [{"email": fault.email, "error": fault.message} for fault in faults] == ERRORS
    assert [row["email"] for row in rows_of(db, Mailbox)] == ["ann@contoso.com", "max@hotmial.com"]


def test_over_http(settings: Settings) -> None:
    """The HTTP API gives the same errors."""
    with api_with(settings, servers=SERVERS) as api, api.client() as client:
        data = data_of(send(client, csv_of(*ROWS)))
        assert (data["imported"], data["failed"], data["errors"]) == (2, 2, ERRORS)
