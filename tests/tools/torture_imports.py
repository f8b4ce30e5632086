"""What the torture test imports, and a client for each way in that retries until it gets an answer.

Every password starts with one mark and every TOTP secret with another, so that one search finds them all.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from threading import Event, Lock
from typing import Any, NamedTuple

import httpx

from sandbox.script import Account
from tests.support.machine import sign_in
from tests.support.postgresql import bound
from tests.support.shell import PROJECT

MARK = "Kq7ZrN4vXw2TbY9mLc5H"
TOTP_MARK = "ZQ7KNR5WXVJ2HBTM"
MARKS = {"a password": MARK, "a TOTP secret": TOTP_MARK}
BROKEN_QUOTE = "Line 2: "
NO_COLUMNS = "CSV must have email and password columns"
WAYS = ("command line", "watched folder", "form", "API")

# How the stand-in treats a mailbox, and how many in a hundred.
KINDS = {"ok": 72, "slow:1+ok": 12, "wrong-credentials": 9, "server-busy": 7}
STALE = 0.05  # of the rows have a different password from the mailbox
REFUSED = 0.12  # of the files
REPEATED = 0.3  # of the answered requests are sent again
IMPATIENT = 0.2  # of the requests are given up without an answer
FEWEST, MOST = 5, 60
MOST_DROPPED = 4  # files that wait in the inbox
REST = {"API": 6}  # times as long as the others, because it needs almost no time


class Counts(NamedTuple):
    imported: int
    skipped: int
    failed: int


@dataclass
class Import:
    """A file, its expected result, and the answers that its client got.

    Attributes:
        secrets: Password and TOTP secret of each mailbox in it, by the key of its address.
        refusal: The start of the message that must refuse it; "" for a good file.
        patient: Its client retries until it gets an answer.
        sent_again: Its client sends it once more after the answer.
        counts: The reported counts of the import; None until they are reported.
        import_id: The API's number for it.
        faults: Answers that its client should not have got.
    """

    way: str
    name: str
    content: bytes
    secrets: dict[str, tuple[str, str]]
    rows: int
    failed: int
    refusal: str = ""
    patient: bool = True
    sent_again: bool = False
    counts: Counts | None = None
    refused_with: str = ""
    import_id: int = 0
    tries: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def answered(self) -> bool:
        return self.counts is not None or bool(self.refused_with)


# --- Files -----------------------------------------------------------


def make_accounts(number: int, dice: random.Random) -> dict[str, Account]:
    """This many mailboxes of the stand-in, of every kind."""
    kinds = dice.choices(list(KINDS), list(KINDS.values()), k=number)
    return {
        f"user{n}@contoso.com": Account(f'{MARK}{n} +"ä%{dice.getrandbits(40):x}', smtp=kind)
        for n, kind in enumerate(kinds)
    }


class Files:
    """Creates files of 5 to 60 mailboxes: most are new, some were in an earlier file, by any way in."""

    def __init__(self, accounts: Mapping[str, Account], seed: int) -> None:
        self.made: list[Import] = []
        self._accounts = accounts
        self._addresses = list(accounts)
        self._begun = 1
        self._dice = random.Random(seed)  # noqa: S311
        self._lock = Lock()

    def make(self, way: str) -> Import:
        with self._lock:
            number = len(self.made)
            name = f"{way.replace(' ', '-')}-{number}.csv"
            make = self._refused if self._dice.random() < REFUSED else self._good
            made = make(way, name)
            made.patient = way != "API" or self._dice.random() >= IMPATIENT
            made.sent_again = way == "API" and self._dice.random() < REPEATED
            self.made.append(made)
        return made

    def _good(self, way: str, name: str) -> Import:
        size = self._dice.randint(FEWEST, MOST)
        first = self._begun
        self._begun = min(first + size * 3 // 4, len(self._addresses))
        old = self._dice.sample(self._addresses[:first], min(first, size - (self._begun - first)))
        secrets = {address: self._secrets(address) for address in self._addresses[first : self._begun] + old}
        lines = [(address, password, totp) for address, (password, totp) in secrets.items()]
        lines.append((lines[0][0].upper(), f"{MARK}of a later row", ""))  # the first row counts
        failed = self._dice.randint(0, 3)
        lines += [("", f"{MARK}without address", ""), ("user@", f"{MARK}bad", ""), ("a@b.co", "", "")][
            :failed
        ]
        self._dice.shuffle(rest := lines[1:])
        return Import(way, name, as_csv([lines[0], *rest]), secrets, len(lines), failed)

    def _refused(self, way: str, name: str) -> Import:
        if self._dice.random() < 0.5:
            content = as_csv([("Ann", f"{MARK}unread", "")], ("name", "password", "totpsecret"))
            return Import(way, name, content, {}, 1, 0, refusal=NO_COLUMNS)
        content = f'email,password\na@b.co,"{MARK}unread" x\n'.encode()
        return Import(way, name, content, {}, 1, 0, refusal=BROKEN_QUOTE)

    def _secrets(self, address: str) -> tuple[str, str]:
        password = self._accounts[address].password
        if self._dice.random() < STALE:
            password += " of yesterday"
        totp = TOTP_MARK + "".join(self._dice.choices("ABCDEFGH", k=8))
        return password, totp if self._dice.random() < 0.3 else ""


def as_csv(
    lines: list[tuple[str, ...]], header: tuple[str, ...] = ("email", "password", "totpsecret")
) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *lines])
    return text.getvalue().encode()


# --- Clients ---------------------------------------------------------


@dataclass
class Site:
    """The addresses and folders that the clients use.

    Attributes:
        full: Set when no new import may start.
        patience: Seconds that a client waits for the end of a run before it starts another one.
        closed: Set when clients must stop retrying.
        commands: The command lines that are running.
    """

    folder: Path
    environment: dict[str, str]
    prefect_url: str
    profile: Path
    api_url: str
    api_key: str
    files: Files
    patience: float
    full: Event = field(default_factory=Event)
    closed: Event = field(default_factory=Event)
    commands: set[subprocess.Popen[bytes]] = field(default_factory=set)

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def watched(self) -> Path:
        return self.folder / "watched"

    def unfinished_files(self) -> list[str]:
        """The files in the inbox or in processing/; os.walk, because folders of claims vanish meanwhile."""
        places = (self.watched / "inbox", self.watched / "processing")
        return [name for place in places for _, _, names in os.walk(place) for name in names]

    def create_run(self, deployment: str, key: str = "", **parameters: object) -> str | None:
        """Create a run on Prefect's server, as the form does; return its id, or None without an answer."""
        wanted: dict[str, Any] = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        if key:
            wanted["idempotency_key"] = key
        found = self.prefect("GET", f"/deployments/name/{deployment}")
        run = found and self.prefect("POST", f"/deployments/{found['id']}/create_flow_run", wanted)
        return str(run["id"]) if run else None

    def prefect(self, method: str, path: str, body: object = None) -> Any:
        """An answer of Prefect's server; None if there is none, or an error."""
        try:
            with httpx.Client(base_url=self.prefect_url, timeout=20) as client:
                sign_in(client, self.profile)
                answer = client.request(method, path, json=body)
        except httpx.HTTPError:
            return None
        return answer.json() if answer.is_success else None


def feed(site: Site, pool: ThreadPoolExecutor, rest: float) -> list[Future[None]]:
    """Start importing by all four ways at once; each client waits this many seconds between two files."""
    clients = {
        "command line": run_command,
        "watched folder": drop,
        "form": fill_in_form,
        "API": upload,
    }

    def go_on(way: str, client: Callable[[Site, Import], None]) -> None:
        while not site.full.is_set():
            client(site, site.files.make(way))
            site.full.wait(REST.get(way, 1) * rest)

    ways = (*WAYS, "form", "API")  # two of each of these at once
    return [pool.submit(go_on, way, clients[way]) for way in ways]


def tries(site: Site, one: Import) -> bool:
    """Whether to try again, after a pause unless it is the first time."""
    if one.answered or (one.tries and not one.patient) or (one.tries and site.closed.wait(1)):
        return False
    one.tries += 1
    return True


def run_command(site: Site, one: Import) -> None:
    path = site.source / one.name
    path.write_bytes(one.content)
    report = site.folder / "reports" / one.name
    words = [sys.executable, "-m", "flows.import_outlook", str(path), "--json", "--report", str(report)]
    while tries(site, one):
        with (site.folder / "logs" / f"{one.name}.log").open("ab") as log:
            process = subprocess.Popen(
                bound(words), cwd=PROJECT, env=site.environment, stdout=subprocess.PIPE, stderr=log
            )
            site.commands.add(process)
            output, _ = process.communicate()
            site.commands.discard(process)
            log.write(output)
        if process.returncode in (0, 1):
            record_envelope(one, output.decode())


def record_envelope(one: Import, text: str) -> None:
    """Record what the contract's envelope says."""
    try:
        envelope = json.loads(text)
    except ValueError:
        one.faults.append(f"no envelope but {text[:80]!r}")
        return
    if envelope["success"]:
        data = envelope["data"]
        one.counts = Counts(data["imported"], data["skipped"], data["failed"])
    else:
        one.refused_with = envelope["error"]["message"]


def drop(site: Site, one: Import) -> None:
    """Put a file into the inbox in one step; its outcome is checked at the end."""
    draft = site.watched / "inbox" / f".{one.name}"
    draft.write_bytes(one.content)
    draft.rename(draft.with_name(one.name))
    one.tries = 1
    while len(site.unfinished_files()) >= MOST_DROPPED and not site.full.wait(1):
        pass


def fill_in_form(site: Site, one: Import) -> None:
    path = site.source / one.name
    path.write_bytes(one.content)
    while tries(site, one):
        run_id = site.create_run(
            "import-outlook/manual", f"{one.name} {one.tries}", file=str(path), tag="form"
        )
        if run_id is not None:
            record_run(one, watch_run(site, run_id))


def watch_run(site: Site, run_id: str) -> dict[str, str]:
    """The state in which a run ends; empty if that takes longer than the client waits."""
    deadline = time.monotonic() + site.patience
    while time.monotonic() < deadline and not site.closed.wait(1):
        run = site.prefect("GET", f"/flow_runs/{run_id}")
        if run and run["state"]["type"] in ("COMPLETED", "FAILED", "CANCELLED", "CRASHED"):
            return {"type": run["state"]["type"], "message": run["state"]["message"] or ""}
    return {}


def record_run(one: Import, state: Mapping[str, str]) -> None:
    if state.get("type") == "COMPLETED":
        words = state["message"].partition(";")[0].replace(",", "").split()
        one.counts = Counts(*map(int, words[1::2]))
    elif state.get("type") == "FAILED" and one.refusal and state["message"].startswith(one.refusal):
        one.refused_with = state["message"]


def upload(site: Site, one: Import) -> None:
    """A client of the HTTP API: each retry has the same key, and sometimes it repeats an answered request."""
    while tries(site, one):
        post(site, one)
    if one.counts is not None and one.sent_again:
        post(site, one)


def post(site: Site, one: Import) -> None:
    try:
        answer = httpx.post(
            f"{site.api_url}/v1/mailboxes/import/outlook",
            headers={"X-Api-Key": site.api_key, "Idempotency-Key": one.name},
            files={"file": (one.name, one.content)},
            timeout=30,
        )
    except httpx.TransportError:
        return
    record_answer(one, answer)


def record_answer(one: Import, answer: httpx.Response) -> None:
    if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        time.sleep(int(answer.headers["Retry-After"]))
    elif answer.status_code in (HTTPStatus.OK, HTTPStatus.BAD_REQUEST):
        before = (one.counts, one.import_id) if one.counts else None
        record_envelope(one, answer.text)
        one.import_id = int(answer.headers.get("X-Import-Id", 0))
        if before not in (None, (one.counts, one.import_id)):
            one.faults.append("another answer to the same key")
    elif answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        one.faults.append(f"answered with {answer.status_code}")
