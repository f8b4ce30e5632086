"""`up`: everything on one machine until Ctrl-C: Prefect's server, the deployments and a worker.

For a server that stays up, `docs/deployments.md` has systemd units.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Annotated, TypeAlias

import httpx
from cyclopts import Parameter

from flows.cli.exit_codes import DONE, NOTHING_FOUND
from flows.cli.output import tell
from flows.cli.temporary_server import RECORDER_SETTINGS
from flows.deployments import HEARTBEAT_SECONDS, WORK_POOL
from tasks.configuration import load_settings
from tasks.files.inbox import Folders

START_SECONDS = 90
STOP_SECONDS = 15


class NotUpError(Exception):
    """A part did not start, or ended on its own; the text says which."""


Part: TypeAlias = "subprocess.Popen[bytes]"


def up(*, port: Annotated[int, Parameter(help="Port of the Prefect server.")] = 4200) -> int:
    """Run Prefect's server, the deployments and a worker on this machine until Ctrl-C."""
    stop = threading.Event()

    def stopped(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stopped)
    try:
        inbox = Folders(load_settings().watch_folder).inbox
        with ExitStack() as parts:
            run(port, inbox, parts, stop)
            tell("Stopping …")
    except NotUpError as error:
        tell(str(error))
        return NOTHING_FOUND
    return DONE


def run(port: int, inbox: Path, parts: ExitStack, stop: threading.Event) -> None:
    """Start the parts one after another, each when the one before it answers, and watch them until `stop`."""
    url = f"http://127.0.0.1:{port}/api"
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise NotUpError(f"Port {port} is in use. Choose another with --port.")
    os.environ.update(environment(url, parts.enter_context(TemporaryDirectory(prefix="outlook-import-"))))
    tell("Starting Prefect's server …")
    server = parts.enter_context(
        process("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    )
    if not ready("Prefect's server", server, stop, lambda: httpx.get(f"{url}/health").is_success):
        return
    tell("Setting up the deployments …")
    # In a process of its own: Prefect reads its settings at import, and this process has imported it.
    setup = parts.enter_context(process("flows.cli", "deploy"))
    if not ready("The set-up of the deployments", setup, stop, lambda: setup.poll() == 0):
        return
    tell("Starting a worker …")
    name = f"up-{os.getpid()}"
    worker = parts.enter_context(process("prefect", "worker", "start", "--pool", WORK_POOL, "--name", name))
    workers = f"{url}/work_pools/{WORK_POOL}/workers/filter"

    def online() -> bool:
        found = httpx.post(workers, json={}).json()
        return (name, "ONLINE") in [(one["name"], one["status"]) for one in found]

    if not ready("The worker", worker, stop, online):
        return
    tell(f"Ready. Prefect: http://127.0.0.1:{port}  Inbox: {inbox}  Stop: Ctrl-C")
    while not stop.wait(1):
        for what, part in (("Prefect's server", server), ("The worker", worker)):
            if part.poll() is not None:
                raise NotUpError(f"{what} has ended on its own, so everything stops. Its messages are above.")


def environment(url: str, folder: str) -> dict[str, str]:
    """Variables of the parts, in addition to the environment of this process."""
    return RECORDER_SETTINGS | {
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_UI_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # In memory, a restart of the server would forget which scan holds the one slot.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # The worker writes its environment, keys included, to this folder, which is removed at the end.
        "TMPDIR": folder,
        # The automation listens for heartbeats to find runs whose process has died.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    }


@contextmanager
def process(module: str, *arguments: str) -> Iterator[Part]:
    """Run a part in a session of its own, so that Ctrl-C reaches only us; ask it to end, then kill it."""
    part = subprocess.Popen(  # noqa: S603  our own words
        [sys.executable, "-m", module, *arguments], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield part
    finally:
        part.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            part.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(part.pid, signal.SIGKILL)  # it, or what it left running
        part.wait()


def ready(what: str, part: Part, stop: threading.Event, answers: Callable[[], bool]) -> bool:
    """Wait until a part answers; False if the user stops everything meanwhile.

    Raises:
        NotUpError: When the part ends on its own, or takes too long.
    """
    deadline = time.monotonic() + START_SECONDS
    while not stop.is_set():
        with suppress(httpx.TransportError, ValueError):
            if answers():
                return True
        if part.poll() or time.monotonic() > deadline:
            raise NotUpError(f"{what} did not start.")
        stop.wait(0.2)
    return False
