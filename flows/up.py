"""Everything on one machine until Ctrl-C: Prefect's server, the deployments, and a worker.

`python -m flows.up [--port N]`. For a server that stays up see the README's systemd units.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType

import httpx

from flows.deploy import WORK_POOL
from flows.temporary_server import RECORDER_SETTINGS
from schemas.settings import SettingsError, load_settings
from tasks.inbox import Folders

START_SECONDS = 90
STOP_SECONDS = 15


class NotUpError(Exception):
    """A part did not start; the text says which."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.up", description="Run everything on this machine.")
    parser.add_argument("--port", type=int, default=4200, help="port of the Prefect server (default: 4200)")
    port = parser.parse_args(argv).port
    stop = threading.Event()

    def stopped(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stopped)
    try:
        settings = load_settings()
        with ExitStack() as parts:
            run(port, parts, stop)
            if not stop.is_set():
                inbox = Folders(settings.watch_folder).inbox
                say(f"Ready. Prefect: http://127.0.0.1:{port}  Inbox: {inbox}  End: Ctrl-C")
            while not stop.wait(1):
                pass
            say("Ending …")
    except (NotUpError, SettingsError) as error:
        say(f"{error}")
        return 1
    return 0


def run(port: int, parts: ExitStack, stop: threading.Event) -> None:
    """Start the parts in turn, each once the one before it answers."""
    url = f"http://127.0.0.1:{port}/api"
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise NotUpError(
                f"Port {port} is taken: something runs there already. Choose another with --port."
            )
    os.environ.update(
        RECORDER_SETTINGS
        | {
            "PREFECT_API_URL": url,
            "PREFECT_SERVER_UI_API_URL": url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # What the automation listens for, to find runs whose process has died.
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        }
    )
    say("Starting Prefect's server …")
    server = parts.enter_context(
        process("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    )
    wait_for("Prefect's server", server, stop, lambda: httpx.get(f"{url}/health").is_success)
    say("Setting up the deployments …")
    # A process of its own: Prefect reads its settings when it is imported, and this one has imported it.
    done = subprocess.run(
        [sys.executable, "-m", "flows.manage", "deploy"], stdout=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise NotUpError("The deployments could not be set up.")
    say("Starting a worker …")
    worker = parts.enter_context(process("prefect", "worker", "start", "--pool", WORK_POOL))
    workers = f"{url}/work_pools/{WORK_POOL}/workers/filter"

    def online() -> bool:
        found = httpx.post(workers, json={}).json()
        return any(one["status"] == "ONLINE" for one in found)

    wait_for("The worker", worker, stop, online)


@contextmanager
def process(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A part in a session of its own: Ctrl-C reaches it only through us. It is asked to end, then killed."""
    part = subprocess.Popen(  # noqa: S603  our own words
        [sys.executable, "-m", module, *arguments], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield part
    finally:
        part.send_signal(signal.SIGINT)
        try:
            part.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(part.pid, signal.SIGKILL)
            part.wait()


def wait_for(
    what: str, part: subprocess.Popen[bytes], stop: threading.Event, ready: Callable[[], bool]
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not stop.is_set():
        try:
            if ready():
                return
        except (httpx.TransportError, ValueError):
            pass
        if part.poll() is not None or time.monotonic() > deadline:
            raise NotUpError(f"{what} did not start.")
        stop.wait(0.2)


def say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main())
