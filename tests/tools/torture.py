"""The torture test: imports by all four ways at once, while their programs are killed again and again.

    python -m tests.tools.torture [--kills 100] [--seed N] [--minutes LIMIT]

Command lines, workers with their flow runs, the API, Prefect's server and PostgreSQL get kill -9 at random
points, and are restarted after a moment, as systemd would do. Then the kills stop until all work is done,
and the test checks whether anything is lost, duplicated, stuck or leaked. If so, the exit code is 1.

Fewer than 25 kills make a short form: one worker, fewer files, and no wait until Prefect has found the
runs whose process died. Loopback only; Linux only; it ends by itself, and stops all that it started.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from flows.deployments import WORK_POOL
from sandbox.outlook import Outlook, Seen, running
from sandbox.script import Account
from schemas.sealing import Sealer, new_key, parse_keys
from tasks.files.prefect_profile import VARIABLE, write_profile
from tests.support.machine import free_port, wait_for
from tests.support.postgresql import PostgreSql, bound, postgresql_binaries, postgresql_of
from tests.support.shell import PROJECT, at, environment
from tests.tools.torture_checks import (
    RUNTIME,
    Check,
    check_answers,
    check_imports,
    check_leaks,
    check_mailboxes,
    check_places,
    check_verdicts,
    read_stored,
    unfinished,
)
from tests.tools.torture_imports import WAYS, Files, Site, feed, make_accounts

ACCOUNTS = 8000
REPLY_SECONDS = 0.03  # the stand-in's delay, so that kills hit logins in progress
START_SECONDS = 120
STOP_SECONDS = 10


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
        dead_runs: Wait until Prefect has found the runs whose process died, which takes two minutes.
    """

    deck: Mapping[str, int]
    workers: int
    pause: tuple[float, float]
    rest: float
    patience: float
    probe_timeout: float
    quiet: float
    dead_runs: bool


LONG = Form(
    {
        "flow run": 8,
        "worker": 3,
        "worker with its flow runs": 1,
        "worker with its flow runs, by SIGTERM": 1,
        "API": 4,
        "command line": 3,
        "PostgreSQL": 3,
        "a connection's PostgreSQL": 1,
        "Prefect's server": 1,
    },
    workers=2,
    pause=(0.5, 7.0),
    rest=2,
    patience=300,
    probe_timeout=5,
    quiet=1200,
    dead_runs=True,
)
SHORT = Form(
    {
        "flow run": 2,
        "worker": 1,
        "API": 2,
        "command line": 1,
        "PostgreSQL": 1,
        "a connection's PostgreSQL": 1,
    },
    workers=1,
    pause=(0.3, 1.5),
    rest=5,
    patience=40,
    probe_timeout=2,
    quiet=300,
    dead_runs=False,
)
SHORT_KILLS = 25
LOST_AFTER = timedelta(minutes=5)  # the automation marks a dead run as crashed after two


# --- Parts -----------------------------------------------------------


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
    """Everything that runs, and the number of kills."""

    site: Site
    form: Form
    postgresql: PostgreSql
    database: str
    sealer: Sealer
    accounts: Mapping[str, Account]
    seen: Seen
    server: Part
    api: Part
    workers: list[Part]
    killed: Counter[str] = field(default_factory=Counter)
    shown: set[bytes] = field(default_factory=set)

    def tend(self) -> None:
        for part in (self.server, self.api, *self.workers):
            part.tend()

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


def parent_of(number: int) -> int:
    try:
        return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@contextmanager
def machine_of(form: Form, seed: int) -> Iterator[Machine]:
    """Set up everything, and stop it at the end."""
    accounts = make_accounts(ACCOUNTS, random.Random(seed))  # noqa: S311
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="torture-")))
        outlook = stack.enter_context(running(accounts, folder=folder, delay=REPLY_SECONDS))
        postgresql = stack.enter_context(postgresql_of(next(postgresql_binaries())))
        database = stack.enter_context(postgresql.new_database())
        key = new_key()
        site = site_of(folder, database, key, outlook, Files(accounts, seed), form)
        prefect = ["prefect", "server", "start", "--host", "127.0.0.1", "--no-ui"]
        server = Part("prefect", [*prefect, "--port", port_of(site.prefect_url)], site)
        # Without Prefect the API tests the mailboxes itself; the kills must hit both ways.
        api = Part("api", ["flows.api", "--port", port_of(site.api_url)], site, VARIABLE)
        worker = ["prefect", "worker", "start", "--pool", WORK_POOL, "--limit", "3", "--name"]
        names = [f"worker-{number}" for number in range(1, form.workers + 1)]
        workers = [Part(name, [*worker, name], site) for name in names]
        sealer = Sealer(parse_keys(key))
        machine = Machine(
            site, form, postgresql, database, sealer, accounts, outlook.seen, server, api, workers
        )
        stack.callback(machine.kill_rest)
        set_up(machine)
        yield machine


def port_of(url: str) -> str:
    return str(httpx.URL(url).port)


def site_of(folder: Path, database: str, key: str, outlook: Outlook, files: Files, form: Form) -> Site:
    for name in ("source", "reports", "logs", "tmp", RUNTIME, "watched/inbox"):
        (folder / name).mkdir(parents=True)
    prefect_url = f"http://127.0.0.1:{free_port()}/api"
    settings = {
        "DATABASE_URL": database,
        "ENCRYPTION_KEYS": key,
        "WATCH_FOLDER": str(folder / "watched"),
        "IMPORT_FOLDERS": json.dumps([str(folder / "source")]),
        "SETTLE_SECONDS": "0.5",
        "PROBE_TIMEOUT": str(form.probe_timeout),
    }
    variables = {f"OUTLOOK_IMPORT_{name}": value for name, value in settings.items()}
    variables |= at(outlook)
    profile = folder / "prefect.toml"
    write_profile(profile, prefect_url.removesuffix("/api"))
    variables |= {
        "PREFECT_HOME": str(folder / "prefect"),
        VARIABLE: str(profile),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "TMPDIR": str(folder / "tmp"),
    }
    api_url = f"http://127.0.0.1:{free_port()}"
    return Site(folder, environment(**variables), prefect_url, profile, api_url, "", files, form.patience)


def set_up(machine: Machine) -> None:
    """Start the parts in turn; the tables are created while Prefect's server starts."""
    site = machine.site
    say("Starting …")
    machine.server.start()
    run(site, "flows.manage", "database", "upgrade")
    site.api_key = run(site, "flows.manage", "keys", "create").strip()
    machine.api.start()
    wait_for("Prefect's server answers", lambda: answers(f"{site.prefect_url}/health"), START_SECONDS)
    run(site, "flows.manage", "deploy")
    for worker in machine.workers:
        worker.start()
    wait_for("the API answers", lambda: answers(f"{site.api_url}/readyz"), START_SECONDS)


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


# --- Killing ---------------------------------------------------------


def torture(machine: Machine, kills: int, dice: random.Random, deadline: float) -> None:
    """Kill at random points, and restart what has ended."""
    for number, victim in enumerate(deck(machine.form, kills, dice), 1):
        tend_for(machine, dice.uniform(*machine.form.pause))
        if dice.random() < 0.5:
            wait_for_work(machine, dice)
        for choice in (victim, "flow run", "API"):
            if killed := kill(machine, choice, dice):
                break
        machine.killed[choice] += 1
        say(f"{number:3} {choice}: {', '.join(map(str, killed))}")
        trigger(machine, dice)
        if time.monotonic() > deadline:
            return


def deck(form: Form, kills: int, dice: random.Random) -> list[str]:
    cards: list[str] = []
    while len(cards) < kills:
        cards += dice.sample(list(form.deck), counts=list(form.deck.values()), k=sum(form.deck.values()))
    return cards[:kills]


def tend_for(machine: Machine, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        machine.tend()
        time.sleep(min(left, 0.1))


def wait_for_work(machine: Machine, dice: random.Random) -> None:
    """Wait for a login in progress or a file in processing/, or most kills would hit starting programs."""
    until = time.monotonic() + 4
    before = machine.seen.passwords_received
    processing = machine.site.watched / "processing"
    while time.monotonic() < until and machine.seen.passwords_received == before:
        if dice.random() < 0.3 and processing.exists() and any(processing.iterdir()):
            return
        machine.tend()
        time.sleep(0.05)
    time.sleep(dice.uniform(0, 0.5))


def kill(machine: Machine, victim: str, dice: random.Random) -> list[int]:
    """Kill one of these; return the process ids, none if there is no such process at this moment."""
    by = signal.SIGTERM if victim.endswith("SIGTERM") else signal.SIGKILL
    if victim == "PostgreSQL":
        numbers = machine.postgresql.workers()
        machine.postgresql.kill()
        tend_for(machine, dice.uniform(0.1, 3))
        machine.postgresql.start()
        return numbers
    found = candidates(machine)[victim.removesuffix(", by SIGTERM")]
    if not found:
        return []
    numbers = dice.choice(found)
    for number in numbers:
        with suppress(ProcessLookupError):
            os.kill(number, by)
    for part in (machine.server, machine.api, *machine.workers):
        if part.process is not None and part.process.pid in numbers:
            end_of(part.process)
            part.due = time.monotonic() + dice.uniform(0.2, 2)
    return numbers


def end_of(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process that was signalled, with a time-out like systemd's."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    process.kill()
    process.wait()


def candidates(machine: Machine) -> dict[str, list[list[int]]]:
    """The processes that may be killed now: process ids, each with those that die with it."""
    runs = machine.flow_runs()
    workers = [part.lives for part in machine.workers if part.lives]
    with_runs = [(lives, [one for one in runs if parent_of(one) in lives]) for lives in workers]
    return {
        # If its worker is already dead, only Prefect itself finds the run, two minutes later.
        "flow run": [[one] for one in runs if machine.form.dead_runs or [parent_of(one)] in workers],
        "worker": workers,
        "worker with its flow runs": [lives + mine for lives, mine in with_runs if mine],
        "API": [machine.api.lives] if machine.api.lives else [],
        "command line": [[process.pid] for process in tuple(machine.site.commands)],
        "a connection's PostgreSQL": [[number] for number in machine.postgresql.workers()],
        "Prefect's server": [machine.server.lives] if machine.server.lives else [],
    }


def trigger(machine: Machine, dice: random.Random) -> None:
    """Sometimes request an extra scan or retest, as an impatient operator would."""
    if dice.random() < 0.5 and machine.site.unfinished_files():
        machine.site.create_run("watch-inbox/scheduled")
    if dice.random() < 0.1:
        machine.site.create_run("retest-pending/scheduled")


# --- The quiet time --------------------------------------------------


def finish_work(machine: Machine, clients: Collection[Future[None]]) -> list[str]:
    """Restart everything until all work is done; return what is still left when the time is over."""
    site, deadline, looked = machine.site, time.monotonic() + machine.form.quiet, 0.0
    while True:
        machine.tend()
        time.sleep(0.5)
        if time.monotonic() < looked + 5:
            continue
        looked = time.monotonic()
        left = still_to_do(machine, clients)
        if not left or time.monotonic() > deadline:
            return left
        say(f"still to do: {', '.join(left)}")
        if site.unfinished_files():
            site.create_run("watch-inbox/scheduled")  # Prefect refuses it while one is running
        if due(machine):
            site.create_run("retest-pending/scheduled")


def still_to_do(machine: Machine, clients: Collection[Future[None]]) -> list[str]:
    mailboxes = read_stored(machine.database).mailboxes
    found = {
        "clients": sum(not client.done() for client in clients),
        "files": len(machine.site.unfinished_files()),
        "mailboxes": len(unfinished(mailboxes)),
        "runs": len(unended_runs(machine.site, LOST_AFTER)) if machine.form.dead_runs else 0,
    }
    return [f"{number} {what}" for what, number in found.items() if number]


def due(machine: Machine) -> bool:
    """Whether a retest would find a mailbox to test now."""
    mailboxes = read_stored(machine.database).mailboxes
    moment = datetime.now(UTC)
    free = (one for one in mailboxes if (one["claimed_until"] or moment) <= moment)
    return any(one["status"] == "pending" and one["next_attempt_at"] <= moment for one in free)


def unended_runs(site: Site, younger: timedelta = timedelta.max) -> list[dict[str, Any]]:
    """The flow runs that Prefect considers running, or about to start, for less than this time."""
    wanted = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}}
    found: list[dict[str, Any]] | None = site.prefect("POST", "/flow_runs/filter", wanted)
    if found is None:
        return [{"name": "unknown", "state_name": "unknown"}]
    moment = datetime.now(UTC)
    return [run for run in found if moment - datetime.fromisoformat(run["state"]["timestamp"]) < younger]


# --- The outcome -----------------------------------------------------


def checks_of(machine: Machine, left: list[str], kills: int) -> Iterator[Check]:
    """The checks of a machine at rest, which stop it before they search its files."""
    site = machine.site
    made = site.files.made
    told = ", ".join(f"{number} {victim}" for victim, number in machine.killed.items())
    few = [f"{kills} were wanted"] if machine.killed.total() < kills else []
    yield Check("kills", f"{machine.killed.total()}: {told}", few)
    yield Check("all work done", ", ".join(left) or "nothing left", left)
    stored = read_stored(machine.database)
    yield from check_places(made, site.watched)
    yield from check_answers(made, stored)
    yield from check_imports(made, stored)
    yield from check_mailboxes(made, stored, machine.sealer)
    yield from check_verdicts(made, stored, machine.accounts, machine.seen)
    if machine.form.dead_runs:
        yield check_runs(site, machine.killed["Prefect's server"])
    machine.kill_rest()
    keys = {
        "the API's key": site.api_key,
        "the encryption key": site.environment["OUTLOOK_IMPORT_ENCRYPTION_KEYS"],
    }
    yield from check_leaks(site.folder, [machine.postgresql.folder], keys, machine.shown)


def check_runs(site: Site, lost: int) -> Check:
    """Every run whose process died has ended, except for those that Prefect's server has forgotten.

    The server keeps fired automations in memory, and if it is killed at that moment, never runs them.

    Args:
        lost: The maximum number of forgotten runs: one per kill of the server.
    """
    states: Counter[str] = Counter()
    for offset in range(0, 10_000, 200):
        page = site.prefect("POST", "/flow_runs/filter", {"limit": 200, "offset": offset}) or []
        states.update(run["state"]["name"] for run in page)
        if len(page) < 200:
            break
    counts = ", ".join(f"{number} {name}" for name, number in states.most_common())
    stuck = [f"{run['name']}: {run['state_name']}" for run in unended_runs(site)]
    return Check("flow runs ended", f"{counts}; {len(stuck)} forgotten", stuck if len(stuck) > lost else [])


def main() -> int:
    about = __doc__.partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.tools.torture", description=about)
    parser.add_argument("--kills", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=6, help="of the random choices (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=40, help="kill no longer (default: %(default)s)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # for a clean exit
    form = SHORT if options.kills < SHORT_KILLS else LONG
    dice = random.Random(options.seed)  # noqa: S311
    deadline = time.monotonic() + 60 * options.minutes
    with machine_of(form, options.seed) as machine, ThreadPoolExecutor(len(WAYS) + 2) as pool:
        say("Killing …")
        clients = feed(machine.site, pool, form.rest)
        try:
            torture(machine, options.kills, dice, deadline)
            machine.site.full.set()
            left = finish_work(machine, clients)
        finally:
            machine.site.full.set()
            machine.site.closed.set()
        failed = 0
        for check in checks_of(machine, left, options.kills):
            say(check)
            failed += bool(check.faults)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
