"""`up`: everything on one machine until Ctrl-C: the page, Prefect's server, the deployments and a worker.

For a server that stays up, `docs/deployments.md` has systemd units.
"""

from __future__ import annotations

import asyncio
import os
import signal
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
from flows.cli.ports import taken
from flows.cli.serve import address, how_to_sign_in
from tasks.configuration import load_settings
from tasks.files.inbox import Folders
from tasks.files.prefect_profile import VARIABLE, read_profile, write_profile

LOOPBACK = "127.0.0.1"
START_SECONDS = 90
STOP_SECONDS = 15


class NotUpError(Exception):
    """A part did not start, or ended on its own; the text says which."""


Part: TypeAlias = "subprocess.Popen[bytes]"


def up(
    *,
    port: Annotated[int, Parameter(help="Port of the Prefect server.")] = 4200,
    page_port: Annotated[int, Parameter(help="Port of the page and the HTTP API.")] = 8000,
) -> int:
    """Run the page, Prefect's server, the deployments and a worker on this machine until Ctrl-C."""
    stop = threading.Event()

    def stopped(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stopped)
    settings = load_settings()
    inbox, profile = Folders(settings.watch_folder).inbox, settings.prefect_profile.absolute()
    try:
        with ExitStack() as parts:
            refuse_taken(port, "--port")
            refuse_taken(page_port, "--page-port")
            folder = parts.enter_context(TemporaryDirectory(prefix="outlook-import-"))
            use_profile(profile, f"http://127.0.0.1:{port}", folder)
            if running := start(port, page_port, parts, stop):
                tell(f"Page: {address(LOOPBACK, page_port)}")
                tell(how_to_sign_in(settings, page_port))
                tell(f"Ready. Prefect: http://127.0.0.1:{port}  Inbox: {inbox}  Stop: Ctrl-C")
                tell(f"To sign in to Prefect, paste the PREFECT_API_AUTH_STRING of {profile}.")
                tell(f"For commands in another terminal: export {VARIABLE}={profile}")
                watch(running, stop)
            tell("Stopping …")
    except NotUpError as error:
        tell(str(error))
        return NOTHING_FOUND
    return DONE


def refuse_taken(port: int, option: str) -> None:
    if fault := taken(LOOPBACK, port, option):
        raise NotUpError(fault)


def use_profile(profile: Path, origin: str, folder: str) -> None:
    """Write the Prefect profile and make this process and its parts use it.

    Args:
        folder: Where the worker writes its environment, keys included; the caller removes it at the end.
    """
    write_profile(profile, origin)
    for name in read_profile(profile):  # the environment would win
        os.environ.pop(name, None)
    os.environ |= {VARIABLE: str(profile), "DO_NOT_TRACK": "1", "TMPDIR": folder}


def start(port: int, page_port: int, parts: ExitStack, stop: threading.Event) -> dict[str, Part]:
    """Start each part when the one before it answers; empty if the user stops everything meanwhile."""
    tell("Starting Prefect's server …")
    server = parts.enter_context(
        process("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    )
    health = f"http://127.0.0.1:{port}/api/health"
    if not ready("Prefect's server", server, stop, lambda: httpx.get(health).is_success):
        return {}
    tell("Setting up the deployments …")
    setup = parts.enter_context(process("flows.cli", "deploy"))
    if not ready("The set-up of the deployments", setup, stop, lambda: setup.poll() == 0):
        return {}
    tell("Starting a worker …")
    from flows.deployments import WORK_POOL, online_workers  # imports Prefect, which then reads the profile

    name = f"up-{os.getpid()}"
    worker = parts.enter_context(process("prefect", "worker", "start", "--pool", WORK_POOL, "--name", name))
    if not ready("The worker", worker, stop, lambda: name in asyncio.run(online_workers())):
        return {}
    tell("Starting the page …")
    page = parts.enter_context(process("flows.cli", "serve", "--port", str(page_port), "--quiet"))
    if not ready(
        "The page", page, stop, lambda: httpx.get(f"{address(LOOPBACK, page_port)}/readyz").is_success
    ):
        return {}
    return {"Prefect's server": server, "The worker": worker, "The page": page}


def watch(running: dict[str, Part], stop: threading.Event) -> None:
    """Wait for `stop`, and end everything if a part ends on its own."""
    while not stop.wait(1):
        for what, part in running.items():
            if part.poll() is not None:
                raise NotUpError(f"{what} has ended on its own, so everything stops. Its messages are above.")


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
        with suppress(httpx.HTTPError, ValueError):
            if answers():
                return True
        if part.poll() or time.monotonic() > deadline:
            raise NotUpError(f"{what} did not start.")
        stop.wait(0.2)
    return False
