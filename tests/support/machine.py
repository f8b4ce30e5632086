"""Everything on one machine, as `make up` runs it, for tests to share; and a webhook receiver."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import httpx

from sandbox.outlook import Outlook
from tasks.files.prefect_profile import read_profile
from tests.support.shell import PROJECT, SAMPLES, at, environment, on_sqlite

START_SECONDS = 240
STOP_SECONDS = 40
T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def wait_for(what: str, look: Callable[[], T | None], seconds: float) -> T:
    """Poll until there is a result, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds} seconds: {what}"
        time.sleep(0.1)
    return found


# --- A webhook -------------------------------------------------------


@dataclass
class Webhook:
    """A real HTTP receiver on loopback; the path of its address is its secret."""

    port: int
    bodies: list[str] = field(default_factory=list)
    ids: list[str | None] = field(default_factory=list)
    secret = "T0k3n-of-the-webhook"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.secret}"

    @property
    def texts(self) -> list[str]:
        return [json.loads(body)["text"] for body in self.bodies]


@contextmanager
def webhook_listening(
    status: int = HTTPStatus.NO_CONTENT, before_answer: Callable[[], None] = lambda: None
) -> Iterator[Webhook]:
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            webhook.bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            webhook.ids.append(self.headers["webhook-id"])
            before_answer()
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        webhook = Webhook(server.server_port)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield webhook
        finally:
            server.shutdown()
            thread.join()


# --- Everything ------------------------------------------------------


@dataclass
class Machine:
    """A running `python -m flows.up`, with one file dropped into its inbox as soon as it was ready."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int
    page_port: int
    environment: dict[str, str]
    webhook: Webhook
    api: httpx.Client
    dropped_at: float = 0.0

    @property
    def watched(self) -> Path:
        return self.folder / "watched"

    @property
    def profile(self) -> Path:
        return self.folder / "prefect.toml"

    @property
    def signed_in(self) -> dict[str, str]:
        """The variables that let commands use the machine's server."""
        return self.environment | {"PREFECT_PROFILES_PATH": str(self.profile)}

    @property
    def said(self) -> str:
        return (self.folder / "up.log").read_text(errors="replace")

    def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/deployments/name/{name}").raise_for_status().json()
        return found

    def create_run(self, **parameters: object) -> httpx.Response:
        """Create a run of the import by hand, as the form does; retry while Prefect's SQLite is locked."""
        place = f"/deployments/{self.deployment('import-outlook/manual')['id']}/create_flow_run"
        wanted = {"parameters": parameters, "state": {"type": "SCHEDULED"}}

        def ask() -> tuple[httpx.Response] | None:
            answer = self.api.post(place, json=wanted)
            return None if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE else (answer,)

        return wait_for("an answer to the wish for a run", ask, 20)[0]

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/flow_runs/{run_id}").json()
        return found

    def ended(self, run_id: str, seconds: float = 60) -> dict[str, Any]:
        """Wait until a run ends, and return it."""
        ends = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")

        def look() -> dict[str, Any] | None:
            run = self.run(run_id)
            return run if run["state"]["type"] in ends else None

        return wait_for(f"the end of run {run_id}", look, seconds)

    def artifacts(self, run_id: str) -> dict[str, dict[str, Any]]:
        wanted = {"flow_runs": {"id": {"any_": [run_id]}}}
        return {one["key"]: one for one in self.api.post("/artifacts/filter", json=wanted).json()}

    def processes(self, name: str = "PREFECT_HOME", value: str = "") -> dict[int, str]:
        """Processes with this value of a variable, as process ids with their commands. Linux only.

        By default, all processes of this machine.
        """
        wanted = f"{name}={value or self.environment[name]}".encode()
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ").strip()
            except OSError:
                continue
        return found


@contextmanager
def machine_running(folder: Path, port: int, outlook: Outlook, webhook: Webhook) -> Iterator[Machine]:
    """Start everything, wait until it is ready, and end it with Ctrl-C."""
    folders = {"OUTLOOK_IMPORT_WATCH_FOLDER": str(folder / "watched")}
    folders["OUTLOOK_IMPORT_IMPORT_FOLDERS"] = json.dumps([str(SAMPLES)])
    settings = folders | {
        "OUTLOOK_IMPORT_PREFECT_PROFILE": str(folder / "prefect.toml"),
        "PREFECT_HOME": str(folder / "prefect"),
        "OUTLOOK_IMPORT_SETTLE_SECONDS": "0.5",
        "OUTLOOK_IMPORT_NOTIFY_WEBHOOK": webhook.address,
    }
    variables = environment(**on_sqlite(folder), **settings, **at(outlook))
    page_port = free_port()
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.up", "--port", str(port), "--page-port", str(page_port)],
            cwd=PROJECT,
            env=variables,
            stderr=log,
            start_new_session=True,
        )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=30) as api:
        machine = Machine(process, folder, port, page_port, variables, webhook, api)
        try:
            wait_for("Ready", lambda: "Ready." in machine.said or process.poll() is not None, START_SECONDS)
            assert process.poll() is None, machine.said
            sign_in(api, folder / "prefect.toml")
            yield machine
        finally:
            end(machine)


def sign_in(api: httpx.Client, profile: Path) -> None:
    """Give a client the login of a closed Prefect server, and the token that its writes need."""
    user, _, password = read_profile(profile)["PREFECT_API_AUTH_STRING"].partition(":")
    api.auth = httpx.BasicAuth(user, password)
    token = api.get("/csrf-token", params={"client": "tests"}).raise_for_status().json()["token"]
    api.headers.update({"Prefect-Csrf-Client": "tests", "Prefect-Csrf-Token": token})


def end(machine: Machine) -> None:
    """Send Ctrl-C, then kill what is left, so that a failed test leaves nothing running."""
    if machine.process.poll() is None:
        machine.process.send_signal(signal.SIGINT)
    try:
        machine.process.wait(STOP_SECONDS)
    finally:
        for number in machine.processes():
            os.kill(number, signal.SIGKILL)
