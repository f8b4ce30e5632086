"""The torture test: imports by all ways at once, while their programs are killed again and again.

    python -m tests.tools.torture [--database sqlite|postgresql] [--kills 100] [--seed N] [--minutes LIMIT]

Besides the imports, wrong passwords are replaced from hand-overs, passwords are revoked and found out by
rechecks, reports are made, and a receiver gets the notices. Command lines, workers with their flow runs, the
API with its page, Prefect's server and PostgreSQL get kill -9 at random points, and are restarted after a
moment, as systemd would do. Then the kills stop until all work is done, and the test checks whether anything
is lost, duplicated, stuck, leaked or told twice. If so, the exit code is 1.

With SQLite, the mailboxes are in a file, and the kills of PostgreSQL go to the other programs. Fewer than 25
kills make a short form: one worker, fewer files, and no wait until Prefect has found the runs whose process
died. Loopback only; Linux only; it ends by itself, and stops all that it started.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.receiver import KEY
from tests.support.shell import PROJECT
from tests.tools.torture.changes import find_out, interrupted, undiscovered
from tests.tools.torture.checks import (
    Check,
    check_answers,
    check_imports,
    check_leaks,
    check_mailboxes,
    check_places,
    check_verdicts,
    unfinished,
)
from tests.tools.torture.checks_of_changes import (
    check_changes,
    check_closed,
    check_handovers,
    check_notices,
    check_updates,
)
from tests.tools.torture.clients import feed
from tests.tools.torture.kills import LONG, SHORT, torture
from tests.tools.torture.machine import RUNS_AT_ONCE, Form, Machine, machine_of, say
from tests.tools.torture.site import Site
from tests.tools.torture.stored import Stored, let_leases_pass, read_stored

LONG_FORM = Form(
    LONG,
    workers=2,
    pause=(0.5, 7.0),
    rest=2,
    patience=300,
    probe_timeout=5,
    quiet=1200,
    thorough=True,
)
SHORT_FORM = Form(
    SHORT,
    workers=1,
    pause=(0.3, 1.5),
    rest=5,
    patience=40,
    probe_timeout=2,
    quiet=300,
    thorough=False,
)
SHORT_KILLS = 25
MOST_CLIENTS = 12
LOST_AFTER = timedelta(minutes=5)  # the automation marks a dead run as crashed after two
# What the deployment trim-history does with runs that have not ended for a day.
CLEAN_UP = (
    "import asyncio; from tasks.trim import end_forgotten_runs; from schemas.tables import now; "
    "asyncio.run(end_forgotten_runs.fn(now()))"
)


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
        stored = read_stored(site.database)
        left = still_to_do(machine, clients, stored)
        if not left or time.monotonic() > deadline:
            return [f"{number} {what}" for what, number in left.items()]
        say(f"still to do: {', '.join(f'{number} {what}' for what, number in left.items())}")
        if site.waiting_runs():
            continue  # or the workers would never be done
        if site.unfinished_files():
            site.create_run("watch-inbox/scheduled")  # Prefect refuses it while one is running
        if left.keys() & {"interrupted rechecks", "revoked passwords"}:
            find_out(site, stored.mailboxes)
        if [*left] == ["untold changes"] and not machine.form.thorough:
            let_leases_pass(site.database)
        if due(stored.mailboxes) or "untold changes" in left:
            site.create_run("retest-pending/scheduled")


def still_to_do(machine: Machine, clients: Collection[Future[None]], stored: Stored) -> dict[str, int]:
    mailboxes = stored.mailboxes
    found = {
        "clients": sum(not client.done() for client in clients),
        "files": len(machine.site.unfinished_files()),
        "mailboxes": len(unfinished(mailboxes)),
        "interrupted rechecks": len(interrupted(mailboxes)),
        "revoked passwords": len(undiscovered(machine.site, mailboxes)),
        "untold changes": len(stored.untold),
        "runs": len(unended_runs(machine.site, LOST_AFTER)) if machine.form.thorough else 0,
    }
    return {what: number for what, number in found.items() if number}


def due(mailboxes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a retest would find a mailbox to test now."""
    moment = datetime.now(UTC)
    free = (one for one in unfinished(mailboxes) if (one["claimed_until"] or moment) <= moment)
    return any(one["status"] == "pending" and one["next_attempt_at"] <= moment for one in free)


def unended_runs(site: Site, younger: timedelta = timedelta.max) -> list[dict[str, Any]]:
    """The flow runs that Prefect considers running, or about to start, for less than this time.

    A worker starts a run ten seconds early, and the run waits: that one is not counted.
    """
    wanted = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}}
    found: list[dict[str, Any]] | None = site.prefect("POST", "/flow_runs/filter", wanted)
    if found is None:
        return [{"id": "", "name": "unknown", "state_name": "unknown"}]
    moment = datetime.now(UTC)

    def age(run: Mapping[str, Any], field: str) -> timedelta:
        return moment - datetime.fromisoformat(run[field])

    return [
        run
        for run in found
        if age(run, "expected_start_time") > timedelta(0) and age(run["state"], "timestamp") < younger
    ]


# --- The outcome -----------------------------------------------------


def checks_of(
    machine: Machine, clients: Collection[Future[None]], left: list[str], kills: int
) -> Iterator[Check]:
    """The checks of a machine at rest, which stop it before they search its files."""
    site = machine.site
    made, lives = site.files.made, site.lives
    told = ", ".join(f"{number} {victim}" for victim, number in machine.killed.items())
    few = [f"{kills} were wanted"] if machine.killed.total() < kills else []
    yield Check("kills", f"{machine.killed.total()}: {told}", few)
    ended = [f"a client ended with {error!r}" for one in clients if one.done() and (error := one.exception())]
    yield Check("all work done", ", ".join(left) or "nothing left", left + ended)
    stored = read_stored(site.database)
    yield from check_places(made, site.watched)
    yield from check_answers(made, stored)
    yield from check_imports(made, stored)
    yield from check_mailboxes(made, stored, lives, site.database.sealer)
    yield from check_verdicts(made, stored, lives, machine.seen)
    yield from check_updates(site, stored)
    yield from check_changes(made, stored, lives)
    yield from check_notices(site.receiver, stored)
    yield from check_handovers(site, stored)
    yield check_closed(site)
    if machine.form.thorough:
        yield check_runs(machine)
    machine.kill_rest()
    keys = {
        "a key of the API": site.api_key,
        "the page's key": site.page_key,
        "the encryption key": site.environment["OUTLOOK_IMPORT_ENCRYPTION_KEYS"],
        "the key of the notices": KEY.removeprefix("whsec_"),
        "the receiver's address": site.receiver.secret,
        "Prefect's login": site.prefect_login.partition(":")[2],
    }
    others = [machine.postgresql.folder] if machine.postgresql is not None else []
    yield from check_leaks(site.folder, others, keys, machine.shown, site.receiver.raw, site.profile)


def check_runs(machine: Machine) -> Check:
    """Every run whose process died has ended, except for those that Prefect's server has forgotten.

    The server keeps its events in memory. When it is killed, it forgets those of runs that are starting or
    ending, at most as many as the workers have slots. The daily clean-up ends them.
    """
    site, states = machine.site, Counter[str]()
    for offset in range(0, 10_000, 200):
        page = site.prefect("POST", "/flow_runs/filter", {"limit": 200, "offset": offset}) or []
        states.update(run["state"]["name"] for run in page)
        if len(page) < 200:
            break
    counts = ", ".join(f"{number} {name}" for name, number in states.most_common())
    forgotten = {run["id"]: f"{run['name']}: {run['state_name']}" for run in unended_runs(site)}
    most = machine.killed["Prefect's server"] * len(machine.workers) * RUNS_AT_ONCE
    faults = list(forgotten.values()) if len(forgotten) > most else []
    program = [sys.executable, "-c", CLEAN_UP]
    subprocess.run(program, cwd=PROJECT, env=site.environment, check=True, timeout=60)
    left = forgotten.keys() & {run["id"] for run in unended_runs(site)}
    faults += [f"{forgotten[one]}, still after the clean-up" for one in left]
    return Check(
        "flow runs ended", f"{counts}; {len(forgotten)} forgotten, {len(left)} after the clean-up", faults
    )


def main() -> int:
    about = __doc__.partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.tools.torture", description=about)
    databases = ("sqlite", "postgresql")
    parser.add_argument(
        "--database", choices=databases, default="postgresql", help="of the mailboxes (default: %(default)s)"
    )
    parser.add_argument("--kills", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=6, help="of the random choices (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=40, help="kill no longer (default: %(default)s)")
    parser.add_argument("--logs", type=Path, help="folder that gets the logs of all programs at the end")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # for a clean exit
    form = SHORT_FORM if options.kills < SHORT_KILLS else LONG_FORM
    dice = random.Random(options.seed)  # noqa: S311
    deadline = time.monotonic() + 60 * options.minutes
    on_postgresql = options.database == "postgresql"
    with (
        machine_of(form, options.seed, on_postgresql=on_postgresql) as machine,
        ThreadPoolExecutor(MOST_CLIENTS) as pool,
    ):
        say("Killing …")
        clients = feed(machine.site, pool, form.rest, options.seed)
        try:
            torture(machine, options.kills, dice, deadline)
            machine.site.full.set()
            left = finish_work(machine, clients)
        finally:
            machine.site.full.set()
            machine.site.closed.set()
            if options.logs:
                shutil.copytree(machine.site.folder / "logs", options.logs, dirs_exist_ok=True)
        failed = 0
        for check in checks_of(machine, clients, left, options.kills):
            say(check)
            failed += bool(check.faults)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
