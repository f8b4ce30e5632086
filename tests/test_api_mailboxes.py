"""Mailboxes over HTTP: filter, test, edit and delete them, replace passwords; and the scopes of keys."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows import manage
from sandbox.outlook import running
from sandbox.script import Account
from schemas.row_reasons import SkipReason
from schemas.scopes import Scope
from schemas.settings import Settings
from schemas.tables import Mailbox, now
from tasks.storage.api_keys import create_key, list_keys
from tasks.storage.database import database
from tests.conftest import rows_of
from tests.test_api import (
    CANARY,
    IMPORT,
    Api,
    api_on,
    api_with,
    changes_wait,
    csv_of,
    data_of,
    error_of,
    send,
    wait_until,
)

RETEST, EDIT, DELETE = (f"/v1/mailboxes/{verb}" for verb in ("retest", "edit", "delete"))


def by_email(client: httpx.Client, query: str = "") -> dict[str, Any]:
    rows = data_of(client.get(f"/v1/mailboxes?limit=200&{query}"))["mailboxes"]
    return {row["email"]: row for row in rows}


def settled(client: httpx.Client, email: str) -> str:
    """The status of a mailbox after its tests."""
    wait_until(lambda: by_email(client)[email]["status"] != "pending")
    return str(by_email(client)[email]["status"])


# One mailbox ---------------------------------------------------------


def test_a_new_password_is_tested(either_settings: Settings, tmp_path: Path) -> None:
    """The right password makes a failed mailbox active, and a stored or refused one gets 409."""
    with (
        running({"ann@contoso.com": Account("right")}, folder=tmp_path) as outlook,
        api_on(outlook, either_settings) as api,
        api.client() as client,
    ):
        send(client, csv_of(["ann@contoso.com", "wrong"]))
        assert settled(client, "ann@contoso.com") == "failed"
        url = f"/v1/mailboxes/{by_email(client)['ann@contoso.com']['id']}"
        test = data_of(client.get(f"{url}/connection-test"))
        assert (test["status"], test["smtp"], test["imap"]) == ("failed", "failed", "failed")
        refused = client.put(f"{url}/password", json={"password": "wrong"})
        reason = SkipReason.REFUSED_BEFORE
        assert error_of(refused, 409) == f"{reason.message}: {reason.remedy}"
        changed = data_of(client.put(f"{url}/password", json={"password": "right"}))
        assert (changed["status"], changed["warning"]) == ("pending", "")
        assert settled(client, "ann@contoso.com") == "active"
        test = data_of(client.get(f"{url}/connection-test"))
        assert (test["smtp"], test["imap"]) == ("passed", "passed")
        unchanged = client.put(f"{url}/password", json={"password": "right"})
        assert error_of(unchanged, 409).startswith(SkipReason.UNCHANGED.message)


def test_a_password_follows_the_rules_for_rows(api: Api) -> None:
    """What a row may not have gets 400, app passwords lose their spaces, and damage is warned of."""
    with api.client() as client:
        send(client, csv_of(["ann@contoso.com", "p"]))
        url = f"/v1/mailboxes/{by_email(client)['ann@contoso.com']['id']}/password"
        for wrong in ("\x07", "********", "#REF!", "x" * 257):
            message = error_of(client.put(url, json={"password": wrong}), 400)
            assert message.startswith("password: ")
            assert wrong not in message
        assert "quotes" in data_of(client.put(url, json={"password": "it’s"}))["warning"]
        data_of(client.put(url, json={"password": "abcd efgh ijkl mnop"}))
        same = client.put(url, json={"password": "abcdefghijklmnop"})
        assert error_of(same, 409).startswith(SkipReason.UNCHANGED.message)


def test_a_retest_withdraws_the_verdict_and_tests_again(either_settings: Settings, tmp_path: Path) -> None:
    """An active mailbox is pending after the request, and active again after its test."""
    with (
        running({"ann@contoso.com": Account("p")}, folder=tmp_path) as outlook,
        api_on(outlook, either_settings) as api,
        api.client() as client,
    ):
        send(client, csv_of(["ann@contoso.com", "p"]))
        assert settled(client, "ann@contoso.com") == "active"
        before = by_email(client)["ann@contoso.com"]
        answered = data_of(client.post(f"/v1/mailboxes/{before['id']}/retest"))
        assert answered["status"] == "pending"
        assert settled(client, "ann@contoso.com") == "active"
        assert by_email(client)["ann@contoso.com"]["tested_at"] > before["tested_at"]


def test_a_mailbox_is_edited(either_api: Api) -> None:
    """Tag, name and needs are set together or alone, and null removes a tag and a name."""
    with either_api.client() as client:
        send(client, csv_of(["ann@contoso.com", "p"]), "old")
        url = f"/v1/mailboxes/{by_email(client)['ann@contoso.com']['id']}"
        changed = data_of(client.patch(url, json={"tag": "new", "name": "Ann O’Neil", "needs": "smtp"}))
        assert (changed["tag"], changed["name"], changed["needs"]) == ("new", "Ann O’Neil", "smtp")
        assert data_of(client.get(f"{url}/connection-test"))["imap"] is None
        changed = data_of(client.patch(url, json={"tag": None, "name": None}))
        assert (changed["tag"], changed["name"], changed["needs"]) == (None, None, "smtp")
        for wrong, message in (
            ({}, "name at least one of tag, name and needs"),
            ({"tag": "<b>"}, "tag: use at most 100 letters"),
            ({"name": "a\0b"}, "name: use printable characters"),
            ({"needs": "pop"}, "needs: Input should be"),
            ({"needs": None}, "needs: Input should be"),
            ({"password": CANARY}, "Unknown parameter"),
        ):
            assert message in error_of(client.patch(url, json=wrong), 400)
    assert [row["needs"] for row in rows_of(either_api.db, Mailbox)] == ["smtp"]


def test_needs_decide_what_is_tested_at_once(settings: Settings, tmp_path: Path) -> None:
    """A mailbox needed for IMAP too is tested for it in the background."""
    with (
        running({"ann@contoso.com": Account("p")}, folder=tmp_path) as outlook,
        api_on(outlook, settings) as api,
        api.client() as client,
    ):
        client.post(IMPORT, files={"file": csv_of(["ann@contoso.com", "p"])}, data={"needs": "smtp"})
        assert settled(client, "ann@contoso.com") == "active"
        url = f"/v1/mailboxes/{by_email(client)['ann@contoso.com']['id']}"
        assert data_of(client.patch(url, json={"needs": "both"}))["status"] == "pending"
        assert settled(client, "ann@contoso.com") == "active"
        assert by_email(client)["ann@contoso.com"]["can"] == "can send and receive"


def test_a_deleted_mailbox_is_gone(either_api: Api) -> None:
    """After DELETE the mailbox is in no answer, and every request for it gets 404."""
    with either_api.client() as client:
        send(client, csv_of(["ann@contoso.com", "p"], ["bob@contoso.com", "p"]))
        url = f"/v1/mailboxes/{by_email(client)['ann@contoso.com']['id']}"
        assert data_of(client.delete(url)) == {"mailboxes": 1}
        for answer in requests_for(client, url):
            assert error_of(answer, 404) == "No such mailbox"
    assert [row["email"] for row in rows_of(either_api.db, Mailbox)] == ["bob@contoso.com"]


def requests_for(client: httpx.Client, url: str) -> list[httpx.Response]:
    """Every request about one mailbox."""
    return [
        client.get(url),
        client.get(f"{url}/connection-test"),
        client.post(f"{url}/retest"),
        client.put(f"{url}/password", json={"password": "new"}),
        client.patch(url, json={"tag": "t"}),
        client.delete(url),
    ]


def test_mailboxes_of_another_workspace_do_not_exist(either_api: Api) -> None:
    """Every request for a mailbox of another workspace gets 404, and filters select none of it."""
    with either_api.client("north") as north, either_api.client("south") as south:
        number = send(south, csv_of(["ann@contoso.com", "p"])).headers["X-Import-Id"]
        wait_until(lambda: by_email(south)["ann@contoso.com"]["tested_at"] is not None)
        before = rows_of(either_api.db, Mailbox)
        for answer in requests_for(north, f"/v1/mailboxes/{before[0]['id']}"):
            assert error_of(answer, 404) == "No such mailbox"
        for url in (RETEST, DELETE):
            for filters in ({}, {"batch": int(number)}, {"domain": "contoso.com"}):
                assert data_of(north.post(url, json={"filters": filters, "count": 0})) == {"mailboxes": 0}
                assert "0 mailboxes, not 1" in error_of(
                    north.post(url, json={"filters": filters, "count": 1}), 409
                )
    assert rows_of(either_api.db, Mailbox) == before


# Many mailboxes ------------------------------------------------------


def test_filters_mean_the_same_mailboxes_in_lists_and_changes(either_api: Api) -> None:
    """Each filter selects as many mailboxes for a change as it lists; another count changes nothing."""
    emails = ["ann@contoso.com", "bob@contoso.com", "ann@fabrikam.com", "a_n@example.org"]
    with either_api.client() as client:
        number = send(client, csv_of(*([email, "p"] for email in emails)), "one").headers["X-Import-Id"]
        send(client, csv_of(["eve@contoso.com", "p"]), "two")
        wait_until(lambda: all(row["tested_at"] for row in by_email(client).values()))
        before = rows_of(either_api.db, Mailbox)
        for filters, wanted in (
            ({"domain": "@Contoso.com"}, 3),
            ({"email": "ANN@"}, 2),
            ({"email": "a_n"}, 1),
            ({"tag": "one", "domain": "contoso.com"}, 2),
            ({"batch": int(number)}, 4),
            ({"reason": "refused_connection"}, None),
            ({"status": "pending"}, 5),
            ({"status": "active"}, 0),
            ({"domain": "no domain"}, 0),
            ({"tag": "\0"}, 0),
            ({}, 5),
        ):
            listed = client.get("/v1/mailboxes", params={k: str(v) for k, v in filters.items()})
            if wanted is None:  # not a reason
                assert error_of(listed, 400).startswith("reason: ")
                continue
            assert len(data_of(listed)["mailboxes"]) == wanted, filters
            for url in (RETEST, DELETE, EDIT):
                body: dict[str, Any] = {"filters": filters, "count": wanted + 1}
                body |= {"changes": {"tag": "x"}} if url == EDIT else {}
                message = error_of(client.post(url, json=body), 409)
                assert message.startswith(f"The filters select {wanted} mailbox")
        assert rows_of(either_api.db, Mailbox) == before
        reason = before[0]["smtp_reason"]
        assert len(by_email(client, f"reason={reason}")) == 5
        chosen = {"filters": {"domain": "contoso.com"}, "count": 3}
        assert data_of(client.post(EDIT, json={**chosen, "changes": {"tag": "x"}})) == {"mailboxes": 3}
        assert set(by_email(client, "tag=x")) == {f"{name}@contoso.com" for name in ("ann", "bob", "eve")}
        assert data_of(client.post(DELETE, json=chosen)) == {"mailboxes": 3}
        assert set(by_email(client)) == {"ann@fabrikam.com", "a_n@example.org"}


def test_many_are_tested_again(settings: Settings, tmp_path: Path) -> None:
    """A retest by filter gives each of its mailboxes a new verdict, and leaves the others alone."""
    accounts = {f"u{n}@contoso.com": Account("p") for n in range(30)} | {"x@fabrikam.com": Account("p")}
    with (
        running(accounts, folder=tmp_path) as outlook,
        api_on(outlook, settings) as api,
        api.client() as client,
    ):
        send(client, csv_of(*([email, "p"] for email in accounts)))
        wait_until(lambda: len(by_email(client, "status=active")) == 31)
        before = by_email(client)
        body = {"filters": {"domain": "contoso.com", "status": "active"}, "count": 30}
        assert data_of(client.post(RETEST, json=body)) == {"mailboxes": 30}
        wait_until(lambda: len(by_email(client, "status=active")) == 31)
        after = by_email(client)
    again = {email for email in after if after[email]["tested_at"] != before[email]["tested_at"]}
    assert again == set(accounts) - {"x@fabrikam.com"}


def test_more_retests_than_can_wait_are_left_for_the_next_retest(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mailboxes beyond the bound of the queue stay pending and due."""
    accounts = {f"u{n}@contoso.com": Account("p") for n in range(5)}
    with (
        running(accounts, folder=tmp_path) as outlook,
        api_on(outlook, settings) as api,
        api.client() as client,
    ):
        send(client, csv_of(*([email, "p"] for email in accounts)))
        wait_until(lambda: len(by_email(client, "status=active")) == 5)
        monkeypatch.setattr("tasks.background.MOST_WAITING", 2)
        assert data_of(client.post(RETEST, json={"filters": {}, "count": 5})) == {"mailboxes": 5}
        wait_until(lambda: len(by_email(client, "status=active")) == 2)
    with database(settings) as db:
        left = [row for row in rows_of(db, Mailbox) if row["status"] == "pending"]
    assert len(left) == 3
    assert all(row["next_attempt_at"] <= now() and row["claimed_until"] is None for row in left)


def test_jobs_at_once_are_limited_per_key(settings: Settings) -> None:
    """While four changes of many mailboxes wait for the database, the fifth gets 429."""
    with api_with(settings) as api, api.client() as client:
        send(client, csv_of(["ann@contoso.com", "p"]))
        wait_until(lambda: by_email(client)["ann@contoso.com"]["tested_at"] is not None)
        body = {"filters": {}, "count": 1, "changes": {"tag": "t"}}
        with ThreadPoolExecutor(5) as pool:
            with changes_wait(api.db):
                changes = [pool.submit(client.post, EDIT, json=body) for _ in range(5)]
                wait_until(lambda: any(change.done() for change in changes))
            answers = sorted((change.result() for change in changes), key=lambda one: one.status_code)
        assert [data_of(answer) for answer in answers[:4]] == [{"mailboxes": 1}] * 4
        assert error_of(answers[4], 429) == "Too many concurrent reports and bulk changes with this key"


# Bodies --------------------------------------------------------------


def test_bodies_are_read_after_the_key_is_checked_and_never_quoted(api: Api) -> None:
    """Another type, broken JSON, wrong fields and a large body each get their answer, without their text."""
    with api.client() as client, httpx.Client(base_url=api.url) as stranger:
        send(client, csv_of(["ann@contoso.com", "p"]))
        url = f"/v1/mailboxes/{by_email(client)['ann@contoso.com']['id']}/password"
        assert error_of(stranger.put(url, content=b"x" * 10**6), 401)
        kind = {"Content-Type": "application/json"}
        for content, headers, status in (
            (json.dumps({"password": CANARY}), {"Content-Type": "text/plain"}, 400),
            (f'{{"password": "{CANARY}', kind, 400),
            (json.dumps([CANARY]), kind, 400),
            (json.dumps({"password": {CANARY: CANARY}}), kind, 400),
            (json.dumps({"password": "p", CANARY: 1}), kind, 400),
            ('{"password": "\\ud800"}', kind, 400),
            (b"\xff\xfe", kind, 400),
            (b"", kind, 400),
            (json.dumps({"password": CANARY * 10_000}), kind, 413),
        ):
            assert CANARY not in error_of(client.put(url, content=content, headers=headers), status)
        for count in ("1", True, 1.5, -1, None):
            assert error_of(client.post(DELETE, json={"filters": {}, "count": count}), 400)
        assert error_of(client.post(DELETE, json={"count": 1}), 400).startswith("filters: ")
    assert len(rows_of(api.db, Mailbox)) == 1


def test_no_answer_has_a_password(either_api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of an old or a new password is in an answer or a log line of any request."""
    caplog.set_level("INFO")
    with either_api.client() as client:
        send(client, csv_of(["ann@contoso.com", f"{CANARY}-1"]))
        url = f"/v1/mailboxes/{by_email(client)['ann@contoso.com']['id']}"
        told = [client.put(f"{url}/password", json={"password": f"{CANARY}-{n}"}).text for n in (1, 2, 2)]
        told += [answer.text for answer in requests_for(client, url)]
    assert CANARY not in "".join(told) + caplog.text
    assert re.search(r"API key \d+ deletes 1 mailbox$", caplog.text, re.MULTILINE)


# Scopes --------------------------------------------------------------


def test_a_key_does_what_its_scopes_allow(either_api: Api) -> None:
    """Each request needs one scope; without it the answer names the scope and nothing happens."""
    with either_api.client() as client:
        number = send(client, csv_of(["ann@contoso.com", "p"])).headers["X-Import-Id"]
        mailbox = f"/v1/mailboxes/{by_email(client)['ann@contoso.com']['id']}"
        wait_until(lambda: by_email(client)["ann@contoso.com"]["tested_at"] is not None)
    file = {"file": ("m.csv", csv_of(["bob@contoso.com", "p"]))}
    many = {"filters": {}, "count": 9}
    requests: list[tuple[Scope, str, str, dict[str, Any]]] = [
        *((Scope.READ, "GET", path, {}) for path in ("/v1/imports", "/v1/mailboxes", mailbox)),
        *((Scope.READ, "GET", f"/v1/imports/{number}{tail}", {}) for tail in ("", "/rows", "/events")),
        *((Scope.READ, "GET", f"/v1/imports/{number}/report.{kind}", {}) for kind in ("csv", "xlsx", "html")),
        (Scope.READ, "GET", f"/v1/imports/{number}/handover.zip", {}),
        (Scope.READ, "GET", f"{mailbox}/connection-test", {}),
        (Scope.IMPORT, "POST", "/v1/imports/check", {"files": file}),
        (Scope.IMPORT, "POST", IMPORT, {"files": file}),
        (Scope.MANAGE, "POST", f"{mailbox}/retest", {}),
        (Scope.MANAGE, "PUT", f"{mailbox}/password", {"json": {"password": "new"}}),
        (Scope.MANAGE, "PATCH", mailbox, {"json": {"tag": "t"}}),
        *((Scope.MANAGE, "POST", path, {"json": many}) for path in (RETEST, DELETE)),
        (Scope.MANAGE, "POST", EDIT, {"json": many | {"changes": {"tag": "t"}}}),
        (Scope.MANAGE, "DELETE", mailbox, {}),
    ]
    for scope in Scope:
        key = create_key(either_api.db, "default", "test", {scope})
        with httpx.Client(base_url=either_api.url, headers={"X-Api-Key": key}, timeout=60) as client:
            wait_until(lambda: all(row["tested_at"] for row in rows_of(either_api.db, Mailbox)))
            before = rows_of(either_api.db, Mailbox)
            for needed, method, path, options in requests:
                if needed is not scope:
                    assert error_of(client.request(method, path, **options), 403) == needed.missing
            assert rows_of(either_api.db, Mailbox) == before
            for needed, method, path, options in requests:
                if needed is scope:
                    assert client.request(method, path, **options).status_code in (200, 409), path


def test_scopes_are_chosen_at_the_command_line(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """`keys create --scope` limits a key, `keys list` shows it, and without it a key may do everything."""
    for scopes in (["--scope", "read", "--scope", "import"], []):
        assert manage.main(["keys", "create", *scopes]) == 0
    assert manage.main(["keys", "create", "--scope", "admin"]) == 2
    capsys.readouterr()
    assert manage.main(["keys", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [key["scopes"] for key in listed] == [["read", "import"], ["read", "import", "manage"]]
    with api_with(settings) as api:
        assert [len(key.scopes) for key in list_keys(api.db)] == [2, 3]
