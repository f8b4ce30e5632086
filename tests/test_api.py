"""The HTTP API, as its callers use it: a real server on loopback, real clients, real databases."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from http.client import HTTPConnection
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from schemathesis import CheckFunction, GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from flows import manage
from flows.api.known_keys import FRESH_SECONDS
from flows.api.server import server
from flows.cli.app import main
from flows.cli.serve import is_loopback
from flows.retest_pending import retest_pending
from sandbox.outlook import Outlook, running
from sandbox.script import Account
from schemas.envelope import ERROR_CODES
from schemas.labels import LABEL_RULE
from schemas.responses import KEY_USED
from schemas.sealing import Owner
from schemas.settings import PREFIX, Settings
from schemas.tables import ApiKey, Import, ImportRow, Mailbox, ProbeResult, Workspace, now
from tasks.background import DEPLOYMENT, BackgroundTests, handed_to_prefect
from tasks.storage.api_keys import create_key, revoke_key
from tasks.storage.database import Database, SimilarWorkspaceError, database
from tests.conftest import import_file, rows_of, with_changes, with_servers, write_csv
from tests.support.machine import free_port, wait_for
from tests.support.shell import LIMIT_SECONDS, PROJECT, SAMPLES, Shell, at
from tests.test_retest_pending import let_time_pass, statuses

SAMPLE = SAMPLES / "mailboxes.csv"
IMPORT = "/v1/mailboxes/import/outlook"
CONTRACT = {
    "success": True,
    "data": {
        "imported": 20,
        "skipped": 2,
        "failed": 1,
        "errors": [{"email": "unknown", "error": "Missing email or password"}],
    },
}
NOWHERE = {"*": {"smtp": "127.0.0.1:9", "imap": "127.0.0.1:9"}}
CANARY = "Canary-5ecret"
# More than a megabyte, so that the multipart parser would use a temporary file.
MEGABYTES = b"email,password,note\n" + b"".join(b"m%d@b.co,p,%s\n" % (n, b"x" * 6000) for n in range(500))


@dataclass
class Api:
    """A running server and its database."""

    url: str
    db: Database

    def key(self, workspace: str | None = "default") -> str:
        return create_key(self.db, workspace, "test")

    def client(self, workspace: str | None = "default", **headers: str) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers={"X-Api-Key": self.key(workspace), **headers}, timeout=60
        )


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """A server in its own thread, without a Prefect server; yield its address."""
    running_server = server(settings, "127.0.0.1", 0)

    def run() -> None:
        with temporary_settings(restore_defaults={PREFECT_API_URL}):
            running_server.run()

    thread = threading.Thread(target=run, name="api")
    thread.start()
    try:
        while not running_server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        port = running_server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        running_server.should_exit = True
        thread.join(LIMIT_SECONDS)


StartApi = Callable[..., Any]


@contextmanager
def api_with(settings: Settings, **changes: Any) -> Iterator[Api]:
    """A server whose mailboxes are on no server, unless the changes say otherwise."""
    changed = with_changes(settings, **({"servers": NOWHERE, "api_requests_per_minute": 10**6} | changes))
    with database(changed) as db, serving(changed) as url:
        yield Api(url, db)


@contextmanager
def api_on(outlook: Outlook, settings: Settings, **changes: Any) -> Iterator[Api]:
    """A server whose mailboxes are on the stand-in."""
    servers = with_servers(settings, outlook)
    with api_with(settings, servers=servers.servers, ca_file=servers.ca_file, **changes) as started:
        yield started


def csv_of(*rows: Sequence[str], header: str = "email,password") -> bytes:
    return "\n".join([header, *(",".join(row) for row in rows)]).encode()


def send(client: httpx.Client, data: bytes, tag: str | None = None, **headers: str) -> httpx.Response:
    fields = {} if tag is None else {"tag": tag}
    return client.post(IMPORT, files={"file": ("mailboxes.csv", data)}, data=fields, headers=headers)


def answers_at_once(api: Api, file: bytes, times: int) -> set[tuple[int, str, str]]:
    """Send a file several times at the same moment with one key; the different answers and import ids."""
    key = api.key()
    barrier = threading.Barrier(times)

    def request(_: int) -> tuple[int, str, str]:
        with httpx.Client(base_url=api.url, headers={"X-Api-Key": key}, timeout=60) as client:
            barrier.wait(30)
            answer = send(client, file, **{"Idempotency-Key": "once"})
        return answer.status_code, answer.text, answer.headers["X-Import-Id"]

    with ThreadPoolExecutor(times) as pool:
        return set(pool.map(request, range(times)))


@contextmanager
def changes_wait(db: Database) -> Iterator[None]:
    """Let every change of a mailbox wait until the end of the block."""
    with db.engine.begin() as connection:  # SQLite has one writer
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("LOCK TABLE mailbox IN EXCLUSIVE MODE"))
        yield


def error_of(answer: httpx.Response, status: int) -> str:
    """The message of an error, after a check of its envelope."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    message: str = body["error"]["message"]
    body["error"].pop("details", None)  # what is known beside the contract's keys
    assert body == {"success": False, "error": {"code": ERROR_CODES[status], "message": message}}
    return message


def data_of(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["success"] is True
    return body["data"]


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# The contract, with every client ------------------------------------

NODE = """
const [url, key, file] = process.argv.slice(1);
const form = new FormData();
form.append("file", new Blob([require("fs").readFileSync(file)], {type: "text/csv"}), "mailboxes.csv");
form.append("tag", "outreach");
fetch(url, {method: "POST", headers: {"X-Api-Key": key}, body: form})
  .then(answer => answer.text()).then(text => process.stdout.write(text));
"""

GO = """
package main

import (
	"bytes"
	"io"
	"mime/multipart"
	"net/http"
	"os"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("file", "mailboxes.csv")
	check(err)
	data, err := os.ReadFile(os.Args[3])
	check(err)
	_, err = part.Write(data)
	check(err)
	check(form.WriteField("tag", "outreach"))
	check(form.Close())
	request, err := http.NewRequest("POST", os.Args[1], &body)
	check(err)
	request.Header.Set("Content-Type", form.FormDataContentType())
	request.Header.Set("X-Api-Key", os.Args[2])
	answer, err := http.DefaultClient.Do(request)
	check(err)
	_, err = io.Copy(os.Stdout, answer.Body)
	check(err)
}
"""

RUBY = """
require "net/http"
url, key, file = ARGV
uri = URI(url)
request = Net::HTTP::Post.new(uri, "X-Api-Key" => key)
request.set_form([["file", File.open(file)], ["tag", "outreach"]], "multipart/form-data")
print Net::HTTP.start(uri.host, uri.port) { |http| http.request(request) }.body
"""


def by_requests(url: str, key: str, _folder: Path) -> str:
    with SAMPLE.open("rb") as file:
        answer = requests.post(
            url, headers={"X-Api-Key": key}, files={"file": file}, data={"tag": "outreach"}, timeout=30
        )
    return answer.text


def by_curl(url: str, key: str, _folder: Path) -> str:
    form = ["-F", f"file=@{SAMPLE}", "-F", "tag=outreach"]
    return run_client("curl", "--silent", "-H", f"X-Api-Key: {key}", *form, url)


def by_node(url: str, key: str, _folder: Path) -> str:
    return run_client("node", "-e", NODE, url, key, str(SAMPLE))


def by_go(url: str, key: str, folder: Path) -> str:
    program = folder / "client.go"
    program.write_text(GO)
    return run_client("go", "run", str(program), url, key, str(SAMPLE))


def by_ruby(url: str, key: str, _folder: Path) -> str:
    return run_client("ruby", "-e", RUBY, url, key, str(SAMPLE))


def run_client(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not on this machine")
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("client", [by_curl, by_requests, by_node, by_go, by_ruby])
def test_every_client_gets_the_contracts_example(
    api: Api, tmp_path: Path, client: Callable[[str, str, Path], str]
) -> None:
    """The sample, sent as the contract describes, gives exactly the contract's envelope."""
    assert json.loads(client(api.url + IMPORT, api.key(), tmp_path)) == CONTRACT
    assert {row["tag"] for row in rows_of(api.db, Mailbox)} == {"outreach"}


def test_second_import_adds_nothing(either_api: Api) -> None:
    """The same file again gives the same failed rows and skips all mailboxes."""
    with either_api.client() as client:
        assert send(client, SAMPLE.read_bytes()).json() == CONTRACT
        again = data_of(send(client, SAMPLE.read_bytes()))
        assert (again["imported"], again["skipped"], again["failed"]) == (0, 22, 1)
    assert len(rows_of(either_api.db, Mailbox)) == 20


# Refusals -----------------------------------------------------------

REFUSED_FILES = {
    "nothing in it": (b"", "CSV file is empty"),
    "a header and no rows": (b"email,password\n", "CSV file is empty"),
    "no such columns": (b"name,phone\nAnn,1\n", "CSV must have email and password columns"),
    "501 mailboxes": (
        csv_of(*([f"u{n}@b.co", "p"] for n in range(501))),
        "Maximum 500 mailboxes per import",
    ),
    "a damaged workbook": (
        b"PK\x03\x04",
        "The Excel workbook is damaged: open it in Excel and save it again, or copy it again from its source",
    ),
}


def test_refused_file_gives_its_message_and_changes_nothing(api: Api) -> None:
    """Each cause of a refusal gives 400 and the contract's message, and leaves no import."""
    with api.client() as client:
        for content, message in REFUSED_FILES.values():
            assert error_of(send(client, content), 400) == message
    assert rows_of(api.db, Import) == rows_of(api.db, Mailbox) == []


def test_request_without_an_upload_gets_a_message(api: Api) -> None:
    """No file, a plain form value named file, an empty input and no multipart give one message."""
    with api.client() as client:
        answers = [
            client.post(IMPORT),
            client.post(IMPORT, json={"file": "email,password"}),
            client.post(IMPORT, data={"file": "email,password\na@b.co,p"}),
            client.post(IMPORT, content=SAMPLE.read_bytes(), headers={"Content-Type": "text/csv"}),
            client.post(IMPORT, files={"other": ("a.csv", SAMPLE.read_bytes())}),
            client.post(IMPORT, files={"tag": (None, "t")}),
            client.post(IMPORT, files={"file": (None, "email,password\na@b.co,p")}),
            client.post(IMPORT, files={"file": ("", b"")}),
        ]
        assert [error_of(answer, 400) for answer in answers] == ["CSV file is required"] * len(answers)


def test_odd_forms_are_refused_with_a_sentence(api: Api) -> None:
    """Two files, an invalid tag, a file as a tag, and broken multipart each have a message."""
    sample = ("a.csv", SAMPLE.read_bytes())
    with api.client() as client:
        twice = client.post(IMPORT, files=[("file", sample), ("file", sample)])
        assert error_of(twice, 400) == "Only one file and one tag per import"
        for tag in ("<b>", "a" * 101, "nul\0", " .x"):
            assert error_of(send(client, SAMPLE.read_bytes(), tag), 400) == f"tag: {LABEL_RULE}"
        file_tag = client.post(IMPORT, files={"file": sample, "tag": sample})
        assert error_of(file_tag, 400) == f"tag: {LABEL_RULE}"
        for kind in ("multipart/form-data", "multipart/form-data; boundary=other"):
            broken = client.post(IMPORT, content=b"--x\r\n\r\n--x--", headers={"Content-Type": kind})
            assert error_of(broken, 400) == "The request is not valid multipart/form-data"
    assert rows_of(api.db, Import) == []


def test_file_names_are_stored_without_folders_and_control_characters(either_api: Api) -> None:
    """The import is listed under a bare, printable file name, whatever the client sends."""
    names = {"C:\\files\\a.csv": "a.csv", "../../etc/passwd": "passwd", "a\x7f\u202e.csv": "a.csv"}
    names |= {"grüße.csv": "grüße.csv", "x" * 300: "x" * 255, "/": "upload.csv"}
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    with either_api.client() as client:
        for name in names:
            head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
            body = head.encode() + SAMPLE.read_bytes() + b"\r\n--b--"
            answer = client.post(IMPORT, content=body, headers=kind)
            shown = data_of(client.get(f"/v1/imports/{answer.headers['X-Import-Id']}"))
            assert shown["file"] == names[name]


def test_charset_of_the_form_makes_no_difference(api: Api) -> None:
    """A charset parameter, which RFC 7578 does not define, neither breaks a request nor changes a name."""
    for charset in ("idna", "rot13", "unicode_escape", "utf-16", "undefined"):
        with api.client() as client:
            request = client.build_request("POST", IMPORT, files={"file": ("ä.csv", SAMPLE.read_bytes())})
            request.headers["Content-Type"] += f"; charset={charset}"
            assert client.send(request).status_code == 200
    assert {row["file_name"] for row in rows_of(api.db, Import)} == {"ä.csv"}


def test_unknown_paths_methods_and_parameters_get_the_envelope(api: Api) -> None:
    """404, 405 and 400 use the envelope, and never repeat a parameter's value."""
    with api.client() as client:
        assert error_of(client.get("/nowhere"), 404) == "Not Found"
        assert error_of(client.get("/v1/mailboxes/"), 404) == "Not Found"
        error_of(client.get(IMPORT), 405)
        wrong_method = client.delete("/v1/mailboxes")
        error_of(wrong_method, 405)
        assert wrong_method.headers["Allow"] == "GET"
        misspelt = client.get("/v1/mailboxes?stauts=active")
        assert error_of(misspelt, 400) == "Unknown parameter"
        for query in (
            f"limit={CANARY}",
            "limit=201",
            "cursor=-1",
            f"status={CANARY}",
            "batch=99999999999999999999",
        ):
            message = error_of(client.get(f"/v1/mailboxes?{query}"), 400)
            assert message.startswith(f"{query.partition('=')[0]}: ")
            assert CANARY not in message
        assert error_of(client.get("/v1/mailboxes/1"), 404) == "No such mailbox"
        assert error_of(client.get("/v1/imports/1"), 404) == "No such import"


def test_numbers_are_written_in_digits_only(api: Api) -> None:
    """An id that `int()` would accept, but that is not plain digits, gets 404."""
    with api.client() as client:
        number = send(client, csv_of(*([f"u{n}@b.co", "p"] for n in range(10)))).headers["X-Import-Id"]
        data_of(client.get(f"/v1/imports/{number}"))
        assert data_of(client.get("/v1/mailboxes/10"))["id"] == 10
        odd = ["1_0", "10.0", "+10", "%2010", "10%20", "10%0A", "%D9%A1%D9%A0", "010", "1e1", "0", "-10"]
        for text in [*odd, "9" * 19, "9" * 5000, CANARY]:
            for path in ("imports", "mailboxes"):
                assert error_of(client.get(f"/v1/{path}/{text}"), 404) == "Not Found"
        for text in ("1_0", "1.0", "%2B1", "%201", "%D9%A1"):
            for name in ("batch", "cursor", "limit"):
                message = error_of(client.get(f"/v1/mailboxes?{name}={text}"), 400)
                assert message == f"{name}: Input should be a whole number, written in digits only"
        paths = client.get("/openapi.json").json()["paths"]
        for path in ("/v1/imports/{import_id}", "/v1/mailboxes/{mailbox_id}"):
            schema = paths[path]["get"]["parameters"][0]["schema"]
            assert (schema["type"], schema["pattern"]) == ("integer", "^[1-9][0-9]{0,17}$")


def test_bytes_that_are_not_http_get_the_envelope(api: Api) -> None:
    """Bytes that are not an HTTP request get a 400 in the envelope too."""
    with connect(api) as connection:
        connection.sendall(b"\x00\x01 nonsense\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "VALIDATION_ERROR"


def test_internal_error_is_a_500_without_details(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """When the database fails, the response says nothing more, and the log names only the place."""
    with api.client() as client:
        data_of(send(client, csv_of(["ann@b.co", "p"])))
        wait_until(lambda: len(rows_of(api.db, ProbeResult)) == 2)
        with api.db.engine.begin() as connection:
            connection.execute(sa.text("ALTER TABLE mailbox RENAME COLUMN totp TO gone"))
        message = error_of(send(client, csv_of([f"{CANARY}@b.co", CANARY])), 500)
    assert message == "Internal error"
    assert re.search(f"POST {IMPORT!r}: (Operational|Programming)Error at ", caplog.text)
    assert CANARY not in caplog.text


# Keys and workspaces ------------------------------------------------


def test_keys_are_refused_unless_they_are_right(either_api: Api) -> None:
    """A missing key, a wrong, partly correct or revoked one all get the same 401."""
    key = either_api.key()
    revoked = either_api.key()
    assert revoke_key(either_api.db, revoked[:11])
    wrong = [
        key[:-1],
        key + "x",
        key[:11] + "x" * 35,
        "sk_",
        "sk_user_" + key[3:],
        "nonsense",
        "ü",
        "",
        revoked,
    ]
    with httpx.Client(base_url=either_api.url) as client:
        answers = [client.get("/v1/mailboxes")]
        answers += [client.get("/v1/mailboxes", headers=[(b"X-Api-Key", word.encode())]) for word in wrong]
        answers.append(client.post(IMPORT, files={"file": ("a.csv", SAMPLE.read_bytes())}))
        for answer in answers:
            assert error_of(answer, 401) == "A valid X-Api-Key is required"
        assert client.get("/v1/mailboxes", headers={"X-Api-Key": key}).status_code == 200
    assert rows_of(either_api.db, Import) == []


def test_keys_are_managed_from_the_command_line(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key is shown once, listed by its prefix, refused when revoked, and stored only as a hash."""

    def run(*arguments: str, code: int = 0) -> str:
        assert manage.main(["keys", *arguments]) == code
        return capsys.readouterr().out

    own, platform = (
        run("create", "--workspace", "sales", "--name", "crm").strip(),
        run("create", "--platform").strip(),
    )
    assert own.startswith("sk_")
    assert platform.startswith("sk_user_")
    assert len(own) == 3 + 43
    with api_with(settings) as api, httpx.Client(base_url=api.url) as client:

        def status(key: str) -> int:
            return client.get("/v1/mailboxes", headers={"X-Api-Key": key}).status_code

        assert (status(own), status(platform)) == (200, 200)
        shown = run("list").splitlines()[2:]
        assert shown[0].split()[:3] == [f"{own[:11]}…", "sales", "crm"]
        assert shown[1].split()[:4] == [f"{platform[:16]}…", "all", "(platform)", "key"]
        listed = json.loads(run("list", "--json"))
        assert [(key["prefix"], key["workspace"]) for key in listed] == [
            (own[:11], "sales"),
            (platform[:16], None),
        ]
        assert all(key["last_used_at"] and not key["revoked_at"] for key in listed)
        run("revoke", own[:11])
        run("revoke", own[:11], code=1)
        time.sleep(FRESH_SECONDS)
        assert (status(own), status(platform)) == (401, 200)
        assert [bool(key["revoked_at"]) for key in json.loads(run("list", "--json"))] == [True, False]
        for file in tmp_path.iterdir():
            assert own[11:].encode() not in file.read_bytes()


@contextmanager
def lookups_counted() -> Iterator[list[str]]:
    """Yield the statements of any engine in this process that read an API key."""
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if re.search(r"FROM api_key\b", statement):
            statements.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def status_with(api: Api, key: str) -> int:
    return httpx.get(f"{api.url}/v1/mailboxes", headers={"X-Api-Key": key}).status_code


def test_text_that_cannot_be_a_key_is_not_looked_up(api: Api) -> None:
    """A key of another length, kind or alphabet gets 401 without a query to the database."""
    key = api.key()
    wrong = ["sk_", key[:-1], key + "x", "pk_" + key[3:], key[:-1] + "=", key[:-1] + " x", "sk_user_x"]
    with lookups_counted() as lookups:
        assert [status_with(api, text) for text in wrong * 5] == [401] * 35
        assert lookups == []
        assert status_with(api, key) == 200
        assert len(lookups) == 1


@pytest.mark.slow
def test_wrong_keys_are_limited_per_address(api: Api) -> None:
    """After 20 wrong keys, at any speed, only keys that the server has seen are looked up."""
    known, unknown = api.key(), api.key()
    assert status_with(api, known) == 200
    with lookups_counted() as lookups, ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda n: status_with(api, f"sk_{n:043}"), range(60)))
        assert sorted(answers) == [401] * 20 + [429] * 40
        assert len(lookups) == 20
        refused = httpx.get(f"{api.url}/v1/mailboxes", headers={"X-Api-Key": unknown})
        assert error_of(refused, 429) == "Too many wrong keys from this address"
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert len(lookups) == 20
        with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as elsewhere:
            listed = elsewhere.get(f"{api.url}/v1/mailboxes", headers={"X-Api-Key": unknown})
            assert listed.status_code == 200
        pretended = {"X-Api-Key": api.key(), "X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7"}
        assert httpx.get(f"{api.url}/v1/mailboxes", headers=pretended).status_code == 429
    time.sleep(FRESH_SECONDS)
    assert status_with(api, known) == 200


def test_limits_behind_a_proxy_count_its_clients(settings: Settings) -> None:
    """From a proxy that the settings name, the address of the client is believed, and from no one else."""
    with api_with(settings, api_proxies="127.0.0.2") as api, lookups_counted() as lookups:

        def status(number: int, source: str, client: str) -> int:
            headers = {"X-Api-Key": f"sk_{number:043}", "X-Forwarded-For": client}
            with httpx.Client(transport=httpx.HTTPTransport(local_address=source)) as caller:
                return caller.get(f"{api.url}/v1/mailboxes", headers=headers).status_code

        assert [status(n, "127.0.0.2", f"203.0.113.{n}") for n in range(25)] == [401] * 25
        direct = [status(n, "127.0.0.1", f"203.0.113.{n}") for n in range(30, 55)]
        assert direct == [401] * 20 + [429] * 5
        assert len(lookups) == 45


def test_right_key_is_looked_up_every_two_seconds(api: Api) -> None:
    """Requests share a look-up, but a revoked key is refused within two seconds."""
    key, began = api.key(), time.monotonic()
    with lookups_counted() as lookups, ThreadPoolExecutor(10) as pool:
        assert set(pool.map(lambda _: status_with(api, key), range(30))) == {200}
        assert 1 <= len(lookups) <= 1 + (time.monotonic() - began) / FRESH_SECONDS
    assert revoke_key(api.db, key[:11])
    time.sleep(FRESH_SECONDS)
    assert status_with(api, key) == 401


def test_last_use_is_recorded_once_a_minute(api: Api) -> None:
    """The first request with a key records its time, and later ones at most once a minute."""
    with api.client() as client:

        def used() -> Any:
            assert client.get("/v1/mailboxes").status_code == 200
            return rows_of(api.db, ApiKey)[0]["last_used_at"]

        first = used()
        assert now() - first < timedelta(seconds=10)
        assert used() == first
        with api.db.engine.begin() as connection:
            earlier = now() - timedelta(seconds=61)
            connection.execute(sa.update(ApiKey).values(last_used_at=earlier))
        time.sleep(FRESH_SECONDS)
        assert used() > first


def test_workspaces_do_not_see_each_other_over_http(either_api: Api) -> None:
    """Two workspaces import one file in full, and neither sees the other's mailboxes."""
    with either_api.client("north") as north, either_api.client("south") as south:
        sent = [send(client, SAMPLE.read_bytes(), "t") for client in (north, south)]
        assert [answer.json() for answer in sent] == [CONTRACT, CONTRACT]
        ids = [
            {row["id"] for row in data_of(client.get("/v1/mailboxes"))["mailboxes"]}
            for client in (north, south)
        ]
        assert [len(found) for found in ids] == [20, 20]
        assert not ids[0] & ids[1]
        theirs = sent[1].headers["X-Import-Id"]
        assert data_of(north.get(f"/v1/mailboxes?batch={theirs}"))["mailboxes"] == []
        error_of(north.get(f"/v1/imports/{theirs}"), 404)
        error_of(north.get(f"/v1/mailboxes/{min(ids[1])}"), 404)
        assert error_of(north.get("/v1/mailboxes", headers={"X-Workspace": "south"}), 403)
        assert north.get("/v1/mailboxes", headers={"X-Workspace": "north"}).status_code == 200


def test_platform_key_names_its_workspace(api: Api) -> None:
    """A platform key works on the workspace of X-Workspace, or on the default one."""
    with api.client(None) as client, api.client("Büro") as owner, api.client() as default:
        data_of(send(client, SAMPLE.read_bytes()))
        assert len(data_of(default.get("/v1/mailboxes"))["mailboxes"]) == 20
        data_of(send(owner, csv_of(["ann@b.co", "p"])))
        for encoded in ("Büro".encode(), "Büro".encode("latin-1")):
            listed = client.get("/v1/mailboxes", headers=[(b"X-Workspace", encoded)])
            assert len(data_of(listed)["mailboxes"]) == 1
        no_label = client.get("/v1/mailboxes", headers={"X-Workspace": "<b>"})
        assert error_of(no_label, 400) == f"X-Workspace: {LABEL_RULE}"


def test_platform_key_creates_a_workspace_only_on_request(either_api: Api) -> None:
    """An import needs X-Create-Workspace for a new workspace, and reading a missing one finds nothing."""
    new = {"X-Workspace": "new"}
    with either_api.client(None) as client:
        for headers in ({}, new, new | {"X-Create-Workspace": "false"}):
            refused = send(client, SAMPLE.read_bytes(), **headers)
            expected = "No such workspace: to create it, send X-Create-Workspace: true"
            assert error_of(refused, 404) == expected
        unclear = send(client, SAMPLE.read_bytes(), **new, **{"X-Create-Workspace": "yes"})
        assert error_of(unclear, 400) == "x-create-workspace: Input should be 'true' or 'false'"
        error_of(send(client, b"", **new, **{"X-Create-Workspace": "true"}), 400)
        assert rows_of(either_api.db, Workspace) == rows_of(either_api.db, Import) == []
        assert data_of(client.get("/v1/mailboxes", headers=new))["mailboxes"] == []
        assert error_of(client.get("/v1/imports/1", headers=new), 404) == "No such import"
        created = send(client, SAMPLE.read_bytes(), **new, **{"X-Create-Workspace": "true"})
        assert created.json() == CONTRACT
        assert data_of(send(client, SAMPLE.read_bytes(), **new))["skipped"] == 22
    assert [row["name"] for row in rows_of(either_api.db, Workspace)] == ["new"]


SIMILAR = "The workspace “Büro Nord” exists, and names must differ in more than upper and lower case"


def test_workspace_that_differs_only_in_case_is_refused(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The API, `keys create` and `import` name the existing workspace and store nothing."""
    with api_with(shell.settings) as api:
        api.key("Büro Nord")
        with api.client(None, **{"X-Create-Workspace": "true"}) as client:
            similar = [(b"X-Workspace", "BÜRO NORD".encode())]
            for header in (b"true", b"false"):
                refused = client.post(
                    IMPORT,
                    files={"file": SAMPLE.read_bytes()},
                    headers=[*similar, (b"X-Create-Workspace", header)],
                )
                assert error_of(refused, 409) == SIMILAR
            assert data_of(client.get("/v1/mailboxes", headers=similar))["mailboxes"] == []
        for name, value in shell.environment.items():
            monkeypatch.setenv(name, value)
        assert main(["keys", "create", "--workspace", "büro nord"]) == 2
        assert capsys.readouterr().err == f"{SIMILAR}.\n"
        shell.run(SAMPLE, "--workspace", "Büro nord", "--json", code=1)
        assert json.loads(shell.last.stdout)["error"] == {"code": "VALIDATION_ERROR", "message": SIMILAR}
        assert [row["name"] for row in rows_of(api.db, Workspace)] == ["Büro Nord"]
        assert rows_of(api.db, Import) == []


def test_similar_workspaces_created_at_once_become_one(either_api: Api) -> None:
    """If keys for one name in three spellings are created at once, one spelling wins."""
    for turn in range(5):
        names = [name for word in ("sales", "Sales", "SALES") for name in [f"{word} {turn}"] * 2]
        barrier = threading.Barrier(len(names))

        def create(name: str, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait(30)
            with suppress(SimilarWorkspaceError):
                return bool(create_key(either_api.db, name, "test"))
            return False

        with ThreadPoolExecutor(len(names)) as pool:
            assert list(pool.map(create, names)).count(True) == 2
    assert len(rows_of(either_api.db, Workspace)) == 5


# What a caller reads -------------------------------------------------


def test_mailboxes_are_listed_by_page_and_filter(either_api: Api) -> None:
    """Pages follow each other without gaps, and filter by status, tag and import."""
    with either_api.client() as client:
        first = send(client, csv_of(*([f"a{n}@b.co", "p"] for n in range(25))), "one").headers["X-Import-Id"]
        send(client, csv_of(*([f"b{n}@b.co", "p"] for n in range(10))), "two")

        def listed(query: str) -> list[str]:
            found: list[str] = []
            cursor: int | None = 0
            while cursor is not None:
                page = data_of(client.get(f"/v1/mailboxes?{query}&cursor={cursor}"))
                found += [row["email"] for row in page["mailboxes"]]
                cursor = page["next_cursor"]
            return found

        assert sorted(listed("limit=7")) == sorted(listed("limit=35")) == sorted(listed("limit=200"))
        assert len(set(listed("limit=7"))) == len(listed("limit=7")) == 35
        assert len(listed("limit=10&tag=two")) == 10
        assert {email[0] for email in listed(f"limit=4&batch={first}")} == {"a"}
        assert (
            listed("status=active") == listed("tag=three") == listed("tag=%00") == listed("batch=999") == []
        )
        assert len(listed("status=pending&tag=one")) == 25


def test_import_shows_all_row_errors_by_page(either_api: Api) -> None:
    """The response has the first 50 row errors and the total, and the import's own page has all."""
    with either_api.client() as client:
        answer = send(client, csv_of(*([f"bad{n}", "p"] for n in range(120)), ["ann@b.co", "p"]))
        assert (data_of(answer)["failed"], len(data_of(answer)["errors"])) == (120, 50)
        lines: list[int] = []
        cursor: int | None = 0
        while cursor is not None:
            page = data_of(
                client.get(f"/v1/imports/{answer.headers['X-Import-Id']}?limit=50&cursor={cursor}")
            )
            lines += [error["line"] for error in page["errors"]]
            cursor = page["next_cursor"]
        assert lines == list(range(2, 122))
        assert page["errors"][-1] == {"line": 121, "email": "unknown", "error": "Invalid email address"}
        assert (page["imported"], page["skipped"], page["failed"]) == (1, 0, 120)


def test_verdicts_follow_the_response(either_settings: Settings, tmp_path: Path) -> None:
    """Logins are tested automatically, and a mailbox shows the answer of each protocol."""
    accounts = {"good@contoso.com": Account("right"), "bad@contoso.com": Account("other")}
    file = csv_of(["good@contoso.com", "right"], ["bad@contoso.com", CANARY])
    with running(accounts, folder=tmp_path) as outlook:
        servers = with_servers(either_settings, outlook)
        with (
            api_with(either_settings, servers=servers.servers, ca_file=servers.ca_file) as api,
            api.client() as client,
        ):
            number = send(client, file).headers["X-Import-Id"]
            wait_until(lambda: data_of(client.get(f"/v1/imports/{number}"))["progress"]["tested"] == 2)
            progress = data_of(client.get(f"/v1/imports/{number}"))["progress"]
            told = {"mailboxes": 2, "tested": 2, "active": 1, "partial": 0, "failed": 1, "pending": 0}
            assert progress == told
            (failed,) = data_of(client.get("/v1/mailboxes?status=failed"))["mailboxes"]
            shown = data_of(client.get(f"/v1/mailboxes/{failed['id']}"))
            (result,) = shown.pop("results")
            assert shown == failed
            assert (result["protocol"], result["reason"], result["stage"]) == (
                "smtp",
                "wrong_credentials",
                "login",
            )
            assert result["title"] == "Wrong password"
            assert result["server_text"].startswith("535 ")
            (active,) = data_of(client.get("/v1/mailboxes?status=active"))["mailboxes"]
            results = data_of(client.get(f"/v1/mailboxes/{active['id']}"))["results"]
            assert [(result["protocol"], result["reason"]) for result in results] == [
                ("smtp", "ok"),
                ("imap", "ok"),
            ]


# Idempotency --------------------------------------------------------


def test_idempotency_key_gives_one_import_and_one_answer(either_api: Api) -> None:
    """A repeated request gets the first response; the key with another file or tag is a conflict."""
    with either_api.client() as client, either_api.client("other") as other:
        first = send(client, SAMPLE.read_bytes(), "t", **{"Idempotency-Key": "order-1"})
        again = send(client, SAMPLE.read_bytes(), "t", **{"Idempotency-Key": "order-1"})
        assert again.json() == first.json() == CONTRACT
        assert again.headers["X-Import-Id"] == first.headers["X-Import-Id"]
        for data, tag in ((SAMPLE.read_bytes(), None), (csv_of(["new@b.co", "p"]), "t")):
            conflict = send(client, data, tag, **{"Idempotency-Key": "order-1"})
            assert error_of(conflict, 409) == "This Idempotency-Key was already used with another file or tag"
        assert send(other, SAMPLE.read_bytes(), "t", **{"Idempotency-Key": "order-1"}).json() == CONTRACT
        for key in ("", "two words", "ü", "x" * 256):
            refused = client.post(IMPORT, files={"file": b""}, headers={b"Idempotency-Key": key.encode()})
            assert error_of(refused, 400).startswith("Idempotency-Key: ")
    assert len(rows_of(either_api.db, Import)) == 2


def test_refused_file_uses_up_no_idempotency_key(api: Api) -> None:
    """After a refusal the same key accepts the corrected file."""
    with api.client() as client:
        error_of(send(client, b"", **{"Idempotency-Key": "k"}), 400)
        assert send(client, SAMPLE.read_bytes(), **{"Idempotency-Key": "k"}).json() == CONTRACT


def test_a_repeated_request_gets_the_warnings_again(api: Api) -> None:
    """The answer to a repeated request is the first answer, with its warnings and notes."""
    file = "Title\nemail,password,name\nann@contoso.com,it’s,N/A\nbob@contoso.com,pw,Bob\nx,pw,\n".encode()
    with api.client() as client:
        first = data_of(send(client, file, **{"Idempotency-Key": "k"}))
        again = data_of(send(client, file, **{"Idempotency-Key": "k"}))
    assert again == first
    assert [(one["line"], one["email"]) for one in first["warnings"]] == [
        (2, None),
        (2, None),
        (3, "ann@contoso.com"),
    ]


def test_form_fields_settle_how_the_file_is_read(api: Api) -> None:
    """`map`, `encoding` and `trim` do over HTTP what the options do at the command line."""
    file = "Kennung;Mail;Kennwort\nx@old.example;jörg@contoso.com; pw\n".replace("jörg", "jo").encode(
        "cp1252"
    )
    fields = {
        "map": ["email=Mail", "password=Kennwort", "login=Kennung"],
        "encoding": "cp1252",
        "trim": "true",
    }
    with api.client() as client:
        refused = client.post(IMPORT, files={"file": ("m.csv", file)})
        assert refused.json()["error"]["details"]["missing"] == ["password"]
        answer = client.post(IMPORT, files={"file": ("m.csv", file)}, data=fields)
        assert data_of(answer) == {"imported": 1, "skipped": 0, "failed": 0, "errors": []}
        for name, value, message in (
            ("map", "mail=Mail", "Column choice “mail=Mail” is not FIELD=HEADER"),
            ("trim", "yes", "trim: use true or false"),
            ("encoding", "klingon", "Unknown text encoding 'klingon': try cp1252 or utf-16"),
        ):
            odd = client.post(IMPORT, files={"file": ("m.csv", file)}, data=fields | {name: value})
            assert error_of(odd, 400) == message
    (row,) = rows_of(api.db, Mailbox)
    assert (row["email"], row["login"]) == ("jo@contoso.com", "x@old.example")


def test_an_update_over_http(api: Api) -> None:
    """`update=true` replaces passwords, counts them, and a repeated request gets the same answer."""
    with api.client() as client:
        send(client, csv_of(["ann@contoso.com", "old"], ["bob@contoso.com", "pw"]))
        file = {"file": ("m.csv", csv_of(["ann@contoso.com", "new"], ["bob@contoso.com", "pw"]))}
        plain = data_of(client.post(IMPORT, files=file))
        assert plain == {"imported": 0, "skipped": 2, "failed": 0, "errors": []}
        keyed = {"Idempotency-Key": "k"}
        first = client.post(IMPORT, files=file, data={"update": "true"}, headers=keyed)
        assert data_of(first) == {"imported": 0, "updated": 1, "skipped": 1, "failed": 0, "errors": []}
        again = client.post(IMPORT, files=file, data={"update": "true"}, headers=keyed)
        assert (again.json(), again.headers["X-Import-Id"]) == (first.json(), first.headers["X-Import-Id"])
        assert error_of(client.post(IMPORT, files=file, headers=keyed), 409) == KEY_USED
        number = first.headers["X-Import-Id"]
        assert data_of(client.get(f"/v1/imports/{number}"))["updated"] == 1
        listed = data_of(client.get(f"/v1/imports/{number}/rows", params={"status": "updated"}))["rows"]
        assert [row["email"] for row in listed] == ["ann@contoso.com"]
        assert error_of(client.post(IMPORT, files=file, data={"update": "1"}), 400) == (
            "update: use true or false"
        )
    ann = next(row for row in rows_of(api.db, Mailbox) if row["email"] == "ann@contoso.com")
    assert api.db.sealer.open(ann["password"], Owner("default", "ann@contoso.com", "password")) == "new"


def test_rows_of_an_import(api: Api) -> None:
    """All rows can be read with their results by page, and by result, reason and warning."""
    file = csv_of(["ann@contoso.com", " p"], ["ann@contoso.com", "q"], ["bob@contoso.com", "p"], ["x", "p"])
    with api.client() as client:
        number = send(client, file).headers["X-Import-Id"]
        url = f"/v1/imports/{number}/rows"
        rows = data_of(client.get(url))["rows"]
        assert [(row["line"], row["result"], row["code"]) for row in rows] == [
            (2, "imported", ""),
            (3, "skipped", "duplicate_differs"),
            (4, "imported", ""),
            (5, "failed", "invalid_email"),
        ]
        # The password of line 3 is lost, so its row has a warning as well.
        assert [row["line"] for row in data_of(client.get(url, params={"warned": "true"}))["rows"]] == [2, 3]
        assert [row["line"] for row in data_of(client.get(url, params={"status": "failed"}))["rows"]] == [5]
        by_reason = client.get(url, params={"reason": "duplicate_differs"})
        assert [row["line"] for row in data_of(by_reason)["rows"]] == [3]
        page = data_of(client.get(url, params={"limit": 3}))
        rest = data_of(client.get(url, params={"cursor": page["next_cursor"]}))
        assert (len(page["rows"]), [row["line"] for row in rest["rows"]], rest["next_cursor"]) == (
            3,
            [5],
            None,
        )
        error_of(client.get("/v1/imports/99/rows"), 404)
        error_of(client.get(url, params={"status": "odd"}), 400)


def test_the_same_request_many_times_at_once_is_one_import(either_api: Api) -> None:
    """Sixteen equal requests with one key at the same moment give equal responses and one import."""
    file = csv_of(*([f"u{n}@b.co", "p"] for n in range(200)), ["bad", "p"])
    ((status, text, _),) = answers_at_once(either_api, file, 16)
    assert status == 200
    assert json.loads(text)["data"]["imported"] == 200
    assert len(rows_of(either_api.db, Import)) == 1
    assert len(rows_of(either_api.db, ImportRow)) == 201


# Limits -------------------------------------------------------------


def test_requests_a_minute_are_limited_per_key(settings: Settings) -> None:
    """One key's sixth request gets 429 with a time to wait, and another key still works."""
    with api_with(settings, api_requests_per_minute=5) as api, api.client() as client, api.client() as other:
        assert [client.get("/v1/mailboxes").status_code for _ in range(5)] == [200] * 5
        refused = client.get("/v1/mailboxes")
        assert error_of(refused, 429) == "Too many requests with this key"
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert other.get("/v1/mailboxes").status_code == 200


def test_imports_at_once_are_limited_per_key(settings: Settings) -> None:
    """While one import is stored, others with the same key get 429; half an upload uses no slot."""
    with api_with(settings, api_imports_at_once=1) as api, api.client() as client, connect(api) as half:
        data_of(client.get("/v1/mailboxes"))  # records the use of the key, which a locked database delays
        half.sendall(upload_head(client.headers["X-Api-Key"], b"Content-Length: 1000") + b"--b\r\n")
        with ThreadPoolExecutor(3) as pool:
            with changes_wait(api.db):
                uploads = [pool.submit(send, client, csv_of(["a@b.co", "p"])) for _ in range(3)]
                wait_until(lambda: sum(upload.done() for upload in uploads) == 2)
            stored, *refused = sorted((upload.result() for upload in uploads), key=lambda a: a.status_code)
        assert data_of(stored)["imported"] == 1
        for answer in refused:
            assert error_of(answer, 429) == "Too many concurrent imports with this key"
            assert answer.headers["Retry-After"] == "1"
        assert send(client, SAMPLE.read_bytes()).json() == CONTRACT


def test_limits_on_connections_come_from_the_settings(settings: Settings) -> None:
    """A second connection is refused, and slow headers end with 408, if the settings say so."""
    changes = {"api_header_seconds": 0.5, "api_connections_per_address": 1}
    with api_with(settings, **changes) as api, connect(api) as slow:
        slow.sendall(b"GET /healthz HT")
        began = time.monotonic()
        refused = httpx.get(f"{api.url}/healthz")
        assert error_of(refused, 503) == "Too many connections"
        assert int(refused.headers["Retry-After"]) > 0
        answer = b"".join(iter(lambda: slow.recv(4096), b""))
        assert time.monotonic() - began < 5
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "REQUEST_TIMEOUT"


def connect(api: Api) -> socket.socket:
    return socket.create_connection(("127.0.0.1", httpx.URL(api.url).port or 0), timeout=20)


def upload_head(key: str, length: bytes) -> bytes:
    lines = [f"POST {IMPORT} HTTP/1.1".encode(), b"Host: x", f"X-Api-Key: {key}".encode(), length]
    return b"\r\n".join([*lines, b"Content-Type: multipart/form-data; boundary=b", b"", b""])


@pytest.mark.parametrize("announced", [True, False])
def test_body_over_the_limit_is_not_read_to_its_end(settings: Settings, announced: bool) -> None:
    """A body of a gigabyte gets 413 and a closed connection long before it has been sent."""
    with api_with(settings, max_file_bytes=100_000) as api:
        length = b"Content-Length: 1073741824" if announced else b"Transfer-Encoding: chunked"
        head = upload_head(api.key(), length)
        start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
        block = b"x" * 65536
        if not announced:
            start, block = (b"%x\r\n%s\r\n" % (len(part), part) for part in (start, block))
        sent = 0
        with connect(api) as connection:
            try:
                connection.sendall(head + start)
                while sent < 2**30:
                    connection.sendall(block)
                    sent += len(block)
            except OSError:
                pass  # the server has closed
            answer = connection.recv(65536)
        assert sent < 50 * 2**20  # what the two sockets have buffered
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "PAYLOAD_TOO_LARGE"


def test_clients_a_little_over_the_limit_can_read_their_answer(settings: Settings, tmp_path: Path) -> None:
    """curl, requests and Node's fetch all get the 413 for a body that is too large, and a 401."""
    with api_with(settings, max_file_bytes=1_000_000) as api:
        big = tmp_path / "big.csv"
        big.write_bytes(b"x" * 1_800_000)
        url, key = api.url + IMPORT, api.key()
        for word, code in ((key, "PAYLOAD_TOO_LARGE"), ("wrong", "PAYLOAD_TOO_LARGE")):
            with big.open("rb") as file:
                answer = requests.post(url, headers={"X-Api-Key": word}, files={"file": file}, timeout=30)
            assert answer.json()["error"]["code"] == code
        if shutil.which("curl"):
            text = run_client("curl", "--silent", "-H", f"X-Api-Key: {key}", "-F", f"file=@{big}", url)
            assert json.loads(text)["error"]["code"] == "PAYLOAD_TOO_LARGE"
        if shutil.which("node"):
            assert (
                json.loads(run_client("node", "-e", NODE, url, key, str(big)))["error"]["code"]
                == "PAYLOAD_TOO_LARGE"
            )
        big.write_bytes(b"x" * 900_000)
        with big.open("rb") as file:
            answer = requests.post(url, headers={"X-Api-Key": "wrong"}, files={"file": file}, timeout=30)
        assert answer.json()["error"]["code"] == "UNAUTHORIZED"


def test_file_between_the_two_limits_is_refused_with_a_sentence(settings: Settings) -> None:
    """A file over its limit in a request below the request limit gets the importer's own message."""
    with api_with(settings, max_file_bytes=1000) as api, api.client() as client:
        message = error_of(send(client, b"x" * 1001), 400)
        assert message == "CSV file is larger than 1,000 bytes: split it into files of at most 500 mailboxes"


def test_uploads_touch_no_temporary_file(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload of three megabytes is imported without a temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    with api.client() as client:
        assert data_of(send(client, MEGABYTES))["imported"] == 500


# Under fire ----------------------------------------------------------


def malformed(chance: random.Random) -> tuple[str, bytes]:
    """A malformed content type and body: broken multipart, or an invalid file."""
    boundary = "".join(chance.choices("abcdef0123456789-", k=chance.randint(1, 40)))
    columns = chance.choice(["email,password", "name,phone", "email", "password;email", "\0", ""])
    part = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n'
    part += f"Content-Type: text/csv\r\n\r\n{columns}\n{CANARY}@b.co,{CANARY}\n\r\n--{boundary}--\r\n"
    body = bytearray(part.encode())
    kind = f"multipart/form-data; boundary={boundary}"
    match chance.randrange(7):
        case 0:
            del body[chance.randrange(len(body) - len(boundary) - 6) :]
        case 1:
            kind = chance.choice(
                ["multipart/form-data", "multipart/mixed", "text/csv", "", ";", kind[:-1] + "~"]
            )
        case 2:
            body = bytearray(chance.randbytes(chance.randrange(2000)))
        case 3:
            body[2:2] = chance.randbytes(chance.randint(3, 50))  # before it they would be a preamble
        case 4:
            body = body.replace(
                b'name="file"', chance.choice([b"", b'name="', b'name="x"', b"name", b"\xff\xfe"])
            )
        case 5:
            body = body.replace(CANARY.encode(), chance.choice([b"\0", b"\xff\xfe\xff", b'a"b', b'"x"y']))
        case _:
            body = body.replace(b"email", b"user").replace(b"password", b"word")
            for _ in range(chance.randint(1, 8)):
                body[chance.randrange(len(body))] = chance.randrange(256)
    return kind, bytes(body)


@pytest.mark.slow
def test_malformed_bodies_get_nothing_but_4xx_envelopes(api: Api) -> None:
    """Two thousand malformed bodies give 4xx in the envelope, quote nothing, and store nothing."""
    chance = random.Random(5)  # noqa: S311  the same bodies each time
    connection = HTTPConnection(api.url.removeprefix("http://"), timeout=20)
    headers = {"X-Api-Key": api.key()}
    for number in range(2000):
        kind, body = malformed(chance)
        connection.request("POST", IMPORT, body, headers | {"Content-Type": kind})
        answer = connection.getresponse()
        text = answer.read()
        assert 400 <= answer.status < 500, (number, kind, body, text)
        envelope = json.loads(text)
        assert envelope["success"] is False
        assert envelope["error"]["code"] == ERROR_CODES[answer.status]
        assert CANARY not in envelope["error"]["message"]
    connection.close()
    assert rows_of(api.db, Import) == rows_of(api.db, Mailbox) == []


@pytest.mark.slow
def test_openapi_document_is_what_the_server_does(settings: Settings) -> None:
    """Schemathesis finds no response that the document does not describe."""
    with api_with(settings, api_stream_seconds=0.2) as api, api.client() as client:
        send(client, SAMPLE.read_bytes())
        check_document(api)


def check_document(api: Api) -> None:
    schema = schemathesis.openapi.from_url(f"{api.url}/openapi.json")
    key = api.key(None)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) == 22
    for operation, mode in product(operations, GenerationMode):
        if mode is GenerationMode.NEGATIVE and not operation.path.startswith("/v1/"):
            continue  # it has no parameters that could be wrong
        # A schema cannot describe a valid CSV, so a refused file in the right form is not a failure here.
        unclear = (IMPORT, "/v1/imports/check", "/v1/mailboxes/{mailbox_id}/password")
        excluded: list[CheckFunction] = [positive_data_acceptance] if operation.path in unclear else []

        @given(case=operation.as_strategy(generation_mode=mode))
        @hypothesis_settings(
            max_examples=25,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def check(case: schemathesis.Case[Any], excluded: list[CheckFunction]) -> None:
            case.call_and_validate(headers={"X-Api-Key": key}, excluded_checks=excluded)

        check(excluded=excluded)


@pytest.mark.slow
def test_32_clients_with_overlapping_files_store_the_exact_union(either_api: Api) -> None:
    """No mailbox is lost or stored twice, and the counts of all responses match what is stored."""
    chance = random.Random(32)  # noqa: S311  the same files each time
    everybody = [f"u{n}@b.co" for n in range(1000)]
    files = [chance.sample(everybody, 100) for _ in range(32)]
    key = either_api.key()

    def upload(emails: list[str]) -> Any:
        with httpx.Client(base_url=either_api.url, headers={"X-Api-Key": key}, timeout=60) as client:
            return data_of(send(client, csv_of(*([email, "p"] for email in emails))))

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(upload, files))
    union = {email for file in files for email in file}
    assert {row["email"] for row in rows_of(either_api.db, Mailbox)} == union
    assert len(rows_of(either_api.db, Mailbox)) == len(union)
    assert sum(answer["imported"] for answer in answers) == len(union)
    assert all(answer["imported"] + answer["skipped"] == 100 and not answer["failed"] for answer in answers)
    imports = rows_of(either_api.db, Import)
    assert sum(row["imported"] for row in imports) == len(union)


# Shutdown and restart ------------------------------------------------


def key_for(shell: Shell) -> str:
    with database(shell.settings) as db:
        return create_key(db, "default", "test")


@contextmanager
def started(shell: Shell, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The API in its own process; yield it and its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with shell.start("--port", str(port), *arguments, module="flows.api") as process:
        try:
            wait_until(lambda: process.poll() is not None or is_live(url))
            assert process.poll() is None, process.communicate()
            yield process, url
        finally:
            process.kill()


def is_live(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_killed_server_loses_nothing_that_it_answered(shell: Shell) -> None:
    """After kill -9 right after the response every mailbox is stored, and a retest gives each its verdict."""
    rows = [[f"user{n}@contoso.com", f"p{n}"] for n in range(100)]
    with running({e: Account(p) for e, p in rows}, folder=shell.folder, delay=0.1) as outlook:
        shell.environment |= at(outlook)
        prefect = shell.environment.pop("PREFECT_API_URL")
        key = key_for(shell)
        with (
            started(shell) as (process, url),
            httpx.Client(base_url=url, headers={"X-Api-Key": key}) as client,
        ):
            answer = send(client, csv_of(*rows))
            process.kill()
            process.communicate()
        assert data_of(answer)["imported"] == 100
        assert statuses(shell)["pending"] == 100
        let_time_pass(shell)
        shell.environment["PREFECT_API_URL"] = prefect
        shell.run(module="flows.retest_pending")
        assert statuses(shell) == {"active": 100}


def test_stopped_server_leaves_the_untested_pending_and_unclaimed(settings: Settings, tmp_path: Path) -> None:
    """A shutdown during the tests releases every claim, and leaves the untested mailboxes due."""
    rows = [[f"user{n}@contoso.com", f"p{n}"] for n in range(100)]
    with running({e: Account(p) for e, p in rows}, folder=tmp_path, delay=0.3) as outlook:
        servers = with_servers(settings, outlook)
        with database(settings) as db:
            with (
                api_with(settings, servers=servers.servers, ca_file=servers.ca_file) as api,
                api.client() as client,
            ):
                send(client, csv_of(*rows))
                wait_until(lambda: any(row["claimed_until"] for row in rows_of(db, Mailbox)))
            left = rows_of(db, Mailbox)
    pending = [row for row in left if row["status"] == "pending"]
    assert len(left) == 100
    assert pending
    assert all(row["claimed_until"] is None and row["next_attempt_at"] is not None for row in pending)


def test_nothing_reveals_a_password(shell: Shell) -> None:
    """No response, log line or file contains a password, whatever is sent and whatever fails."""
    totp = "JBSWY3DPEHPK3PXP"
    good = csv_of(*([f"u{n}@b.co", CANARY, totp] for n in range(50)), header="email,password,totpsecret")
    odd_rows = (
        f'x@b.co,"{CANARY}',
        f"x@b.co,{CANARY},{CANARY},{CANARY}",
        f"{CANARY},,",
        f"x@b.co,{CANARY}\x07,",
    )
    files = [good, *(good + f"\n{row}".encode() for row in odd_rows), good + CANARY.encode("utf-16")]
    del shell.environment["PREFECT_API_URL"]
    shell.environment["TMPDIR"] = str(shell.folder)
    key = key_for(shell)
    with running({f"u{n}@b.co": Account("other") for n in range(50)}, folder=shell.folder) as outlook:
        shell.environment |= at(outlook)
        with (
            started(shell) as (process, url),
            httpx.Client(base_url=url, headers={"X-Api-Key": key}) as client,
        ):
            told = [send(client, file, **{"Idempotency-Key": f"k{n}"}).text for n, file in enumerate(files)]
            told.append(client.post(IMPORT, content=good).text)
            wait_until(lambda: bool(client.get("/v1/mailboxes?status=failed").json()["data"]["mailboxes"]))
            paths = ("mailboxes?limit=200", "imports/1", "mailboxes/1", f"mailboxes?limit={CANARY}")
            told += [client.get(f"/v1/{path}").text for path in paths]
            shell.change("ALTER TABLE mailbox RENAME COLUMN totp TO gone")
            broken = send(client, csv_of(["z@b.co", CANARY]))
            process.terminate()
            told += [error_of(broken, 500), *process.communicate(timeout=30)]
    everything = (
        "".join(told).replace(f"/v1/mailboxes?limit={CANARY}", "").encode()
    )  # the line in the access log
    assert b"u1@b.co: failed" in everything
    everything += b"".join(file.read_bytes() for file in shell.folder.iterdir() if file.is_file())
    for form in (CANARY, totp, CANARY[2:]):
        assert form.encode() not in everything
        assert base64.b64encode(form.encode())[:-3] not in everything


def test_wrong_settings_give_a_message(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that cannot open its database says why and does not start."""
    assert settings
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", "nonsense")
    assert main(["serve"]) == 2
    assert capsys.readouterr().err.startswith("Settings: OUTLOOK_IMPORT_DATABASE_URL is not a database addr")


# With Prefect ---------------------------------------------------------


async def test_prefect_gets_one_run_per_import(prefect_server: str, settings: Settings) -> None:
    """If the retest deployment exists, each import and what is due is handed to it, and is found there."""
    async with get_client() as client:
        flow_id = await client.create_flow(retest_pending)
        existing = await client.read_deployments()
        if DEPLOYMENT.partition("/")[2] not in [found.name for found in existing]:
            assert not await handed_to_prefect(6)
        deployment = await client.create_deployment(flow_id, DEPLOYMENT.partition("/")[2])
        try:
            for import_id in (7, 7, None):
                assert await handed_to_prefect(import_id)
            runs = [run for run in await client.read_flow_runs() if run.deployment_id == deployment]
            assert sorted(run.parameters.get("import_id", 0) for run in runs) == [0, 7]
            (seventh,) = (run for run in runs if run.parameters)
            with database(settings) as opened:
                tests = BackgroundTests(opened, settings)
                tests.submit(7)
                await asyncio.to_thread(wait_for, "the run", lambda: tests.page_of_run(7), 30)
                await tests.close()
            assert str(tests.page_of_run(7)).endswith(f"/runs/flow-run/{seventh.id}")
        finally:
            await client.delete_deployment(deployment)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert not await handed_to_prefect(7)
    assert prefect_server


RUN_FOR_IMPORT_1 = (
    "import asyncio; from flows.retest_pending import retest_pending; "
    "asyncio.run(retest_pending(import_id=1))"
)


def test_run_for_an_import_tests_it_once_and_before_it_is_due(shell: Shell) -> None:
    """The run that the API requests tests one import's pending mailboxes once, and no others."""
    settings = shell.settings
    accounts = {name: Account("p") for name in ("mine@contoso.com", "theirs@contoso.com")}
    accounts["busy@contoso.com"] = Account("p", smtp="service-not-available")
    with running(accounts, folder=shell.folder) as outlook, database(settings) as db:
        for emails in (["mine@contoso.com", "busy@contoso.com"], ["theirs@contoso.com"]):
            file = write_csv(shell.folder / "in.csv", [[email, "p"] for email in emails])
            import_file(db, with_servers(settings, outlook), file)
        shell.environment |= at(outlook)
        command = [sys.executable, "-c", RUN_FOR_IMPORT_1]
        subprocess.run(command, cwd=PROJECT, env=shell.environment, capture_output=True, check=True)
        found = {row["email"]: (row["status"], row["attempts"]) for row in rows_of(db, Mailbox)}
    assert found == {
        "mine@contoso.com": ("active", 1),
        "busy@contoso.com": ("pending", 1),
        "theirs@contoso.com": ("pending", 0),
    }


# Other endpoints -----------------------------------------------------


def test_readiness_follows_the_database(api: Api) -> None:
    """`/healthz` checks the process only, `/readyz` a database at the current revision."""
    with httpx.Client(base_url=api.url) as client:
        assert data_of(client.get("/healthz")) == {"status": "live"}
        assert data_of(client.get("/readyz")) == {"status": "ready"}
        with api.db.engine.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
        assert "not up to date" in error_of(client.get("/readyz"), 503)
        assert data_of(client.get("/healthz")) == {"status": "live"}


def test_docs_work_without_a_network(api: Api) -> None:
    """The documentation page loads everything from the server itself, and the document is complete."""
    with httpx.Client(base_url=api.url) as client:
        page = client.get("/docs").text
        links = [part.split('"')[0] for word in ('src="', 'href="') for part in page.split(word)[1:]]
        assert links
        for link in links:
            assert link.startswith("/")
            assert client.get(link).status_code == 200
        assert "://" not in page
        document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert "422" not in operation["responses"]
            for status, answer in operation["responses"].items():
                if status == "200" and "application/json" not in answer["content"]:
                    continue  # a file or a stream
                example = answer["content"]["application/json"]["example"]
                assert example["success"] is (status == "200"), (path, status)
    upload = document["paths"][IMPORT]["post"]
    assert "example" in upload["requestBody"]["content"]["multipart/form-data"]
    statuses = {200, 400, 401, 403, 404, 408, 409, 413, 429, 500, 503}
    assert set(upload["responses"]) == set(map(str, statuses))


def test_only_loopback_needs_no_warning() -> None:
    """A server that listens beyond loopback warns that keys and passwords need TLS in front of it."""
    assert [is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")] == [True] * 4
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.0.2.1", "example.com", "")))  # noqa: S104
