"""A Prefect server for the commands of a few minutes, when none is configured.

Prefect can start one itself, but only at the first flow run, after all imports, and it outlives a killed run.
This one starts while the command is still importing Prefect. It stays for the next command, which then starts
faster, and ends by itself.

Two locks in Prefect's folder say how things stand, and no crash leaves them wrong: the server holds the first
as long as it lives, and each command that uses it a share of the second. Its address and login are in a file
of this user alone. They are used only while the first lock is held: no other program can have the port then.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from importlib.metadata import version
from io import BufferedRandom
from pathlib import Path
from typing import Any

from schemas.settings import PREFIX, SettingsError
from tasks.files.prefect_profile import RECORDER_SETTINGS, closed, new_login
from tasks.files.private_files import read_secret_file, write_privately

START_SECONDS = 90  # on a machine that is busy with other work; 4 on a quiet one
PROJECT = Path(__file__).resolve().parents[2]
NAME = "outlook-import-server"


class ServerNotStartedError(Exception):
    """The temporary server did not start."""


class TemporaryServer:
    """A server process that may still be starting.

    Args:
        verbose: Let a server that is started now log to standard error, and end it with this process.
        idle_seconds: How long the server stays without a command; 0 ends it with this process.

    Attributes:
        url: Where its API is.
        login: User name and password.
        kept: Whether it stays for the next command.
        found: Whether an earlier command has started it.
    """

    def __init__(self, *, verbose: bool = False, idle_seconds: int = 0) -> None:
        self.kept = self.found = False
        self._process: subprocess.Popen[bytes] | None = None
        self._lives: BufferedRandom | None = None
        self._locks = ExitStack()
        if idle_seconds:
            # A folder that cannot be used costs only time.
            with suppress(OSError, ValueError, KeyError, SettingsError), self._locks:
                self._share(idle_seconds, verbose=verbose)
        if not self.kept:
            self._start([sys.executable, "-m", "flows.cli.temporary_server"], verbose=verbose)

    def _share(self, idle_seconds: int, *, verbose: bool) -> None:
        """Use the server that an earlier command has left, or start one that stays."""
        folder = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect").expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
        uses, lives = (
            self._locks.enter_context(_opened(folder / f"{NAME}.{name}")) for name in ("uses", "lives")
        )
        fcntl.flock(uses, fcntl.LOCK_SH)  # waits only for a server that is about to end
        state = folder / f"{NAME}.json"
        if _is_free(lives):
            if verbose:
                return
            self._start(
                [sys.executable, "-m", "flows.cli.temporary_server", str(folder), str(idle_seconds)],
                lock=lives,
                state=state,
            )
        else:
            found = json.loads(read_secret_file(state))
            if found["for"] != _environment_digest():
                return
            self.url, self.login, self.found = found["url"], found["login"], True
        self.kept, self._lives, self._locks = True, lives, self._locks.pop_all()

    def _start(
        self,
        command: list[str],
        *,
        verbose: bool = False,
        lock: BufferedRandom | None = None,
        state: Path | None = None,
    ) -> None:
        kept = [] if lock is None else [lock.fileno()]
        # The server inherits the bound socket: a port that is only looked up can be taken before it starts.
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            origin = f"http://127.0.0.1:{bound.getsockname()[1]}"
            self.url, self.login = f"{origin}/api", new_login()
            if state is not None:
                told = {"url": self.url, "login": self.login, "for": _environment_digest()}
                write_privately(state, json.dumps(told).encode())
            needed = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
            self._process = subprocess.Popen(  # noqa: S603  it is this module
                [*command, str(bound.fileno())],
                stdin=subprocess.DEVNULL if kept else subprocess.PIPE,  # the pipe's end ends the server
                stdout=subprocess.DEVNULL,
                stderr=None if verbose else subprocess.DEVNULL,
                pass_fds=[bound.fileno(), *kept],
                cwd=PROJECT,
                # With a login of its own, because every user of the machine can reach it.
                env=RECORDER_SETTINGS
                | needed
                | closed(origin, self.login)
                | {"PREFECT__SERVER_EPHEMERAL": "1"},
                start_new_session=True,  # Ctrl-C is for the import, which needs the server until its end
            )

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            ServerNotStartedError: When it does not answer within START_SECONDS, or has ended.
        """
        import httpx

        deadline = time.monotonic() + START_SECONDS
        with httpx.Client() as client:
            while time.monotonic() < deadline and not self.has_ended():
                try:
                    if client.get(f"{self.url}/health").is_success:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.05)
        what = "ended" if self.has_ended() else f"did not answer within {START_SECONDS} seconds"
        raise ServerNotStartedError(f"Prefect's temporary server {what}: --verbose shows why")

    def has_ended(self) -> bool:
        """Whether the server is gone."""
        if self._process is not None:
            return self._process.poll() is not None
        return self._lives is None or _is_free(self._lives)

    def stop(self) -> None:
        """Let go of it; if it is not kept, wait for its end."""
        self._locks.close()
        self._lives = None
        if self.kept or self._process is None:
            return
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _opened(path: Path) -> BufferedRandom:
    """A lock file, which others cannot open."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "r+b")


def _is_free(lock: BufferedRandom) -> bool:
    """Take a lock if no other process holds it; whether it was free."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _environment_digest() -> str:
    """A digest of what a server depends on: a command with another environment starts one of its own."""
    settings: list[Any] = [
        (name, value)
        for name, value in sorted(os.environ.items())
        if name.startswith("PREFECT_") and not name.startswith("PREFECT_LOGGING_")
    ]
    return hashlib.sha256(repr([settings, sys.executable, version("prefect")]).encode()).hexdigest()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def _end_when_idle(folder: Path, seconds: float) -> None:
    uses, last = _opened(folder / f"{NAME}.uses"), time.monotonic()
    while True:
        time.sleep(1)
        if not _is_free(uses):
            last = time.monotonic()
        elif time.monotonic() - last >= seconds:
            (folder / f"{NAME}.json").unlink(missing_ok=True)
            os._exit(0)  # it still has this lock, so the next command waits until it is gone
        else:
            fcntl.flock(uses, fcntl.LOCK_UN)


def _serve(descriptor: int, *watch: str) -> None:
    target, arguments = (
        (_end_when_idle, (Path(watch[0]), float(watch[1]))) if watch else (_end_with_parent, ())
    )
    threading.Thread(target=target, args=arguments, daemon=True).start()
    import uvicorn

    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error")
    server = uvicorn.Server(config)
    server.run(sockets=[socket.socket(fileno=descriptor)])
    if not server.started:
        sys.exit("Prefect did not start.")


if __name__ == "__main__":
    _serve(int(sys.argv[-1]), *sys.argv[1:-1])
