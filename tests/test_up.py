"""`make up`: everything on one machine, from a file in the inbox to Ctrl-C."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from http.server import HTTPServer, SimpleHTTPRequestHandler

import httpx
import pytest

from tests.support.machine import Machine, wait_for
from tests.support.shell import PROJECT, Shell
from tests.support.visitor import Visitor

pytestmark = pytest.mark.slow

TWO_TICKS = 120


def test_dropped_file_is_done_within_two_ticks(machine: Machine) -> None:
    """A file in the inbox is imported within two ticks of the schedule, without any other step."""
    left = machine.dropped_at + TWO_TICKS - time.monotonic()
    done = machine.watched / "processed"
    (report,) = wait_for("the report", lambda: list(done.glob("dropped.*.report.csv")), max(left, 1))
    with report.open(newline="", encoding="utf-8-sig") as file:
        assert [row["result"] for row in csv.DictReader(file)] == ["imported", "failed"]
    wait_for("the failed row", lambda: list((machine.watched / "failed").glob("dropped.*.csv")), 5)
    wait_for("an empty inbox", lambda: not list((machine.watched / "inbox").iterdir()), 5)


def test_page_is_up(machine: Machine) -> None:
    """The address of the page is told first, and a link of `open` signs in to it on the same database."""
    page = f"http://127.0.0.1:{machine.page_port}"
    assert 0 < machine.said.index(f"Page: {page}\n") < machine.said.index("Ready.")
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "open", "--port", str(machine.page_port)],
        cwd=PROJECT,
        env=machine.signed_in,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{page}/open/")
    with Visitor(page) as person:
        assert "Sign out" in person.get(done.stdout.strip().removeprefix(page)).text
        wait_for("the import", lambda: "dropped.csv" in person.get("/imports").text, TWO_TICKS)


def test_ctrl_c_ends_everything(machine: Machine) -> None:
    """Ctrl-C ends server, worker and their child processes, with exit code 0, and nothing keeps running."""
    assert {"prefect server start", "prefect worker start"} <= {
        " ".join(command.split()[2:5]) for command in machine.processes().values()
    }
    machine.process.send_signal(signal.SIGINT)
    assert machine.process.wait(30) == 0
    assert machine.processes() == {}
    with pytest.raises(httpx.TransportError):
        machine.api.get("/health")


def test_taken_port_is_named(offline: Shell) -> None:
    """If the port is in use, nothing is started and a message says so."""
    offline.environment["OUTLOOK_IMPORT_WATCH_FOLDER"] = str(offline.folder)
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        offline.run("--port", str(server.server_port), module="flows.up", code=1)
    assert f"Port {server.server_port} is in use" in offline.last.stderr
