"""A Prefect server for one command, when none is configured.

Prefect can start one itself, but only at the first flow run, after all imports, and it outlives a killed run.
This one starts while the command is still importing Prefect, and ends with the process that started it,
however that process ends.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time

from tasks.files.prefect_profile import RECORDER_SETTINGS, closed, new_login

START_SECONDS = 90  # on a machine that is busy with other work; 4 on a quiet one


class ServerNotStartedError(Exception):
    """The temporary server did not start."""


class TemporaryServer:
    """A server process that may still be starting; `verbose` lets it log to standard error."""

    def __init__(self, *, verbose: bool = False) -> None:
        # The server inherits the bound socket: a port that is only looked up can be taken before it starts.
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            origin = f"http://127.0.0.1:{bound.getsockname()[1]}"
            self.url, self.login = f"{origin}/api", new_login()
            self._process = subprocess.Popen(  # noqa: S603  it is this module
                [sys.executable, "-m", "flows.cli.temporary_server", str(bound.fileno())],
                stdin=subprocess.PIPE,  # closing it tells the server that this process is gone
                stdout=subprocess.DEVNULL,
                stderr=None if verbose else subprocess.DEVNULL,
                pass_fds=[bound.fileno()],
                # With a login of its own, because every user of the machine can reach it.
                env=RECORDER_SETTINGS
                | os.environ
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
            while time.monotonic() < deadline and self._process.poll() is None:
                try:
                    if client.get(f"{self.url}/health").is_success:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.05)
        code = self._process.poll()
        what = f"did not answer within {START_SECONDS} seconds" if code is None else f"ended with code {code}"
        raise ServerNotStartedError(f"Prefect's temporary server {what}: --verbose shows why")

    def stop(self) -> None:
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def _serve(descriptor: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn

    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error")
    server = uvicorn.Server(config)
    server.run(sockets=[socket.socket(fileno=descriptor)])
    if not server.started:
        sys.exit("Prefect did not start.")


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
