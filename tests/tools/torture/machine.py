"""Everything that the torture test runs, and a restart for each part that has ended."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx

from flows.deployments import WORK_POOL
from sandbox.outlook import Outlook, Seen, running
from schemas.sealing import Sealer, new_key, parse_keys
from tasks.files.prefect_profile import VARIABLE, write_profile
from tests.support.machine import free_port, wait_for
from tests.support.postgresql import PostgreSql, bound, postgresql_binaries, postgresql_of
from tests.support.receiver import KEY, receiving
from tests.support.shell import PROJECT, at, environment
from tests.tools.torture.clients import upload
from tests.tools.torture.files import Files, make_accounts
from tests.tools.torture.lives import Lives
from tests.tools.torture.site import Site
from tests.tools.torture.stored import open_database

ACCOUNTS = 8000
REPLY_SECONDS = 0.03  # the stand-in's delay, so that kills hit logins in progress
NOTICE_SECONDS = 0.5  # the receiver's, so that kills hit notices that have arrived and are not yet answered
START_SECONDS = 120
RUNS_AT_ONCE = 3  # of each worker
RUNTIME = "runtime"  # where the parts keep their temporary files, like a RuntimeDirectory of systemd


class Form(NamedTuple):
    """The length and thoroughness of a run.

    Attributes:
        deck: How the kills are divided among the kinds of process.
        workers: Number of workers.
        pause: Minimum and maximum seconds between two kills.
        rest: Seconds that a client waits between two files.
        patience: Seconds that a client waits for the end of a run before it starts another one.
        probe_timeout: Seconds; the claims of a killed run expire after six times this, plus 10 s.
        quiet: Seconds that the remaining work may take.
        thorough: Wait until Prefect has found the runs whose process died, and until other processes may send
            their notices, which takes two minutes each.
    """

    deck: Mapping[str, int]
    workers: int
    pause: tuple[float, float]
    rest: float
    patience: float
    probe_timeout: float
    quiet: float
    thorough: bool


@dataclass
class Part:
    """A program that is restarted when it has ended, as systemd would do."""

    name: str
    words: list[str]
    site: Site
    not_always: str = ""  # a variable that every second start omits
    process: subprocess.Popen[bytes] | None = None
    due: float = 0.0
    starts: int = 0

    def tend(self) -> None:
        if self.process is not None and self.process.poll() is None:
            return
        if self.due == 0.0:
            self.due = time.monotonic() + 1
        if time.monotonic() >= self.due:
            self.start()

    def start(self) -> None:
        variables = self.site.environment | {"TMPDIR": str(self.site.folder / RUNTIME)}
        if self.starts % 2:
            variables.pop(self.not_always, None)
        with (self.site.folder / "logs" / f"{self.name}.log").open("ab") as log:
            words = bound([sys.executable, "-m", *self.words])
            self.process = subprocess.Popen(
                words, cwd=PROJECT, env=variables, stdout=log, stderr=log, start_new_session=True
            )
        self.due = 0.0
        self.starts += 1

    @property
    def lives(self) -> list[int]:
        return [self.process.pid] if self.process is not None and self.process.poll() is None else []


@dataclass
class Machine:
    """Everything that runs, and the number of kills; `postgresql` is None if the database is a file."""

    site: Site
    form: Form
    postgresql: PostgreSql | None
    seen: Seen
    server: Part
    api: Part
    workers: list[Part]
    killed: Counter[str] = field(default_factory=Counter)
    shown: set[bytes] = field(default_factory=set)

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.server, self.api, *self.workers)

    def tend(self) -> None:
        for part in self.parts:
            part.tend()

    def tend_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.tend()
            time.sleep(min(left, 0.1))

    def flow_runs(self) -> list[int]:
        """The processes of flow runs that workers have started."""
        return [number for number, variables in self.processes() if b"PREFECT__FLOW_RUN_ID=" in variables]

    def processes(self) -> Iterator[tuple[int, bytes]]:
        """The processes of this machine: process ids with their environments."""
        own = f"\0PREFECT_HOME={self.site.environment['PREFECT_HOME']}\0".encode()
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                variables = b"\0" + (entry / "environ").read_bytes() + b"\0"
                if own in variables and int(entry.name) != os.getpid():
                    self.shown.add((entry / "cmdline").read_bytes())
                    yield int(entry.name), variables

    def kill_rest(self) -> None:
        for number, _ in list(self.processes()):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


@contextmanager
def machine_of(form: Form, seed: int, *, on_postgresql: bool) -> Iterator[Machine]:
    """Set up everything, and stop it at the end."""
    accounts = make_accounts(ACCOUNTS, random.Random(seed))  # noqa: S311
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="torture-")))
        outlook = stack.enter_context(running(accounts, folder=folder, delay=REPLY_SECONDS))
        receiver = stack.enter_context(receiving())
        receiver.pause = NOTICE_SECONDS
        postgresql, address = None, f"sqlite:///{folder / 'database' / 'mailboxes.db'}"
        if on_postgresql:
            postgresql = stack.enter_context(postgresql_of(next(postgresql_binaries())))
            address = stack.enter_context(postgresql.new_database())
        key = new_key()
        opened = open_database(address, Sealer(parse_keys(key)))
        stack.callback(opened.engine.dispose)
        site = Site(
            folder,
            environment(),
            prefect_url=f"http://127.0.0.1:{free_port()}/api",
            profile=folder / "prefect.toml",
            api_url=f"http://127.0.0.1:{free_port()}",
            patience=form.patience,
            files=Files(accounts, seed),
            lives=Lives(outlook, accounts, seed),
            database=opened,
            receiver=receiver,
        )
        settings = {"DATABASE_URL": address, "ENCRYPTION_KEYS": key, "PROBE_TIMEOUT": str(form.probe_timeout)}
        configure(site, settings, outlook)
        prefect = ["prefect", "server", "start", "--host", "127.0.0.1", "--no-ui"]
        server = Part("prefect", [*prefect, "--port", port_of(site.prefect_url)], site)
        # Without Prefect the API tests the mailboxes itself; the kills must hit both ways.
        api = Part("api", ["flows.api", "--port", port_of(site.api_url)], site, VARIABLE)
        worker = ["prefect", "worker", "start", "--pool", WORK_POOL, "--limit", str(RUNS_AT_ONCE), "--name"]
        names = [f"worker-{number}" for number in range(1, form.workers + 1)]
        workers = [Part(name, [*worker, name], site) for name in names]
        machine = Machine(site, form, postgresql, outlook.seen, server, api, workers)
        stack.callback(machine.kill_rest)
        set_up(machine)
        yield machine


def port_of(url: str) -> str:
    return str(httpx.URL(url).port)


def configure(site: Site, settings: Mapping[str, str], outlook: Outlook) -> None:
    """Create the folders and Prefect's profile, and set the environment of all programs."""
    folder = site.folder
    for name in ("source", "reports", "downloads", "logs", "tmp", RUNTIME, "watched/inbox"):
        (folder / name).mkdir(parents=True)
    write_profile(site.profile, site.prefect_url.removesuffix("/api"))
    settings = {
        **settings,
        "WATCH_FOLDER": str(site.watched),
        "IMPORT_FOLDERS": json.dumps([str(site.source)]),
        "SETTLE_SECONDS": "0.5",
        "RECHECK_DAYS": "1",
        "WEBHOOK_URL": site.receiver.address,
        "WEBHOOK_SECRET": KEY,
    }
    site.environment |= {f"OUTLOOK_IMPORT_{name}": value for name, value in settings.items()}
    site.environment |= at(outlook)
    site.environment |= {
        "PREFECT_HOME": str(folder / "prefect"),
        VARIABLE: str(site.profile),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "TMPDIR": str(folder / "tmp"),
    }


def set_up(machine: Machine) -> None:
    """Start the parts in turn; the tables are created while Prefect's server starts."""
    site = machine.site
    say("Starting …")
    machine.server.start()
    run(site, "flows.manage", "database", "upgrade")
    site.api_key, site.page_key = (run(site, "flows.manage", "keys", "create").strip() for _ in range(2))
    machine.api.start()
    wait_for("Prefect's server answers", lambda: answers(f"{site.prefect_url}/health"), START_SECONDS)
    wait_for("the API answers", lambda: answers(f"{site.api_url}/readyz"), START_SECONDS)
    # The API tests these itself while there are no deployments yet, so there is something to update at once.
    while not any(one.counts for one in site.files.made):
        upload(site, site.files.make("API"))
    run(site, "flows.manage", "deploy")
    for worker in machine.workers:
        worker.start()


def run(site: Site, *words: str) -> str:
    command = [sys.executable, "-m", *words]
    return subprocess.run(
        command, cwd=PROJECT, env=site.environment, check=True, stdout=subprocess.PIPE, text=True, timeout=120
    ).stdout


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


BEGUN = time.monotonic()


def say(line: object) -> None:
    sys.stdout.write(f"{time.monotonic() - BEGUN:5.0f} s  {line}\n")
    sys.stdout.flush()
