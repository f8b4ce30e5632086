"""The Prefect server that commands leave for the next one: found, closed to others, and gone by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from flows.cli.temporary_server import NAME, TemporaryServer
from tests.support.machine import wait_for
from tests.support.shell import PROJECT

IDLE_SECONDS = 2
COMMAND = """
import time
from flows.cli.temporary_server import TemporaryServer
TemporaryServer(idle_seconds=2).wait()
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prefect's folder of the test, without settings from outside."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    return tmp_path


@contextmanager
def using(**options: bool) -> Iterator[TemporaryServer]:
    server = TemporaryServer(idle_seconds=IDLE_SECONDS, **options)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.mark.slow
def test_the_next_command_finds_the_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands share one closed server; it stays while one uses it, and then ends by itself."""
    with using() as first:
        with using() as second, using(verbose=True) as third:
            assert (first.found, second.found, third.found) == (False, True, True)
            assert first.url == second.url == third.url
            assert httpx.get(f"{second.url}/admin/version").status_code == 401
            user, _, password = second.login.partition(":")
            assert httpx.get(f"{second.url}/admin/version", auth=(user, password)).is_success
        state = home / f"{NAME}.json"
        assert state.stat().st_mode & 0o077 == 0
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert password not in listed
        with monkeypatch.context() as other:
            other.setenv("PREFECT_SERVER_UI_ENABLED", "false")
            with using() as own:  # what it needs is another server
                assert (own.found, own.kept) == (False, False)
                assert own.url != first.url
            assert own.has_ended()
        assert not first.has_ended()
    wait_for("the end of the server", first.has_ended, 30)
    assert not state.exists()


@pytest.mark.slow
def test_a_killed_server_is_replaced(home: Path) -> None:
    """After the server was killed, the next command starts another, and does not send the old login."""
    with using() as first:
        assert first._process is not None
        os.kill(first._process.pid, signal.SIGKILL)
        wait_for("the end of the server", first.has_ended, 30)
    old = json.loads((home / f"{NAME}.json").read_text())
    with using() as second:
        assert not second.found
        assert old["login"] != second.login
    wait_for("the end of the server", second.has_ended, 30)


@pytest.mark.slow
def test_a_killed_command_leaves_a_server_that_ends(home: Path) -> None:
    """The server of a command that was killed serves the next one, and ends when it is not used."""
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "ready\n"
        command.kill()
    with using() as next_one:
        assert next_one.found
    wait_for("the end of the server", lambda: not (home / f"{NAME}.json").exists(), 30)


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_without_an_idle_time_the_server_ends_with_the_command() -> None:
    """With an idle time of 0, nothing stays."""
    server = TemporaryServer(idle_seconds=0)
    server.wait()
    server.stop()
    assert (server.kept, server.has_ended()) == (False, True)
