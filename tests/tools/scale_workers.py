"""Parts of the scale benchmark: several workers, and the mailboxes in a task run."""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg

from tests.support.machine import wait_for
from tests.support.postgresql import postgresql_binaries, postgresql_of
from tests.tools.bench import sandbox, show
from tests.tools.scale_site import (
    START_SECONDS,
    Bounds,
    Installation,
    cpu_seconds,
    figures,
    installed,
    own_cpu_seconds,
    part,
    run,
    watched_memory,
    write_files,
)

DELAY = 0.1
POOL = "outlook-import"
SECONDS_AN_IMPORT = 60  # no import of one worker takes this long, even on a loaded machine
GROUP_SIZES = (1, 10, 25, 50, 100)
GROUP_TURNS = 2
PLAIN_TURNS = 2
CORES = len(os.sched_getaffinity(0))


# CPU seconds of this project's code without a flow run around it: `libraries` to import what Prefect has not
# imported yet, `work` for one import from reading the file to the last verdict.
PLAIN = """
import asyncio, json, logging, sys, time
from pathlib import Path
import prefect, prefect.artifacts, prefect.concurrency.sync, prefect.flow_engine, prefect.task_engine
began = time.process_time()
from flows.import_outlook import Origin, Probing, database, load_settings, prepare, store
imported = time.process_time()

async def main(file, workspace):
    settings = load_settings()
    with database(settings) as mailboxes:
        prepared = prepare.fn(file, settings.max_file_bytes, served=tuple(settings.overrides))
        stored = store.fn(prepared, Origin(file.name, workspace, None, True), mailboxes, settings)
        probing = Probing(mailboxes, settings, [target.mailbox_id for target in stored.targets])

        async def together(groups):
            logger = logging.getLogger("bench")
            await asyncio.gather(*(probing.test_group(group, logger) for group in groups))

        report = await probing.run(stored.targets, together)
        assert str(report) == f"{len(stored.targets)} active, 0 failed", report
        stored.summary.markdown(), report.markdown(), report.table()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
print(json.dumps({"libraries": imported - began, "work": time.process_time() - imported}))
"""

# One import as a flow run: its seconds, its process's CPU seconds and its peak memory in MB.
FLOW = """
import asyncio, json, resource, sys, time
from pathlib import Path
from flows.import_outlook import import_outlook

began = time.perf_counter()
state = asyncio.run(import_outlook(Path(sys.argv[1]), workspace=sys.argv[2], return_state=True))
seconds = time.perf_counter() - began
assert state.is_completed() and state.message.endswith(" active, 0 failed"), state
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "cpu": time.process_time(), "memory": memory}))
"""


# --- Part: workers ----------------------------------------------------


class Shift(NamedTuple):
    """What some workers did: `seconds` from the first run's start to the last one's end.

    `waiting`, `starting` and `running` are a worker's average seconds per import: from one run's end to the
    claim of the next, from there to the flow's start, and from there to its end. `cpu` has CPU seconds per
    import by process, `memory` peaks in MB, `growth` rows and bytes per import in Prefect's database.
    """

    seconds: float
    waiting: float
    starting: float
    running: float
    cpu: dict[str, float]
    memory: dict[str, float]
    growth: dict[str, float]


def workers(folder: Path, bounds: Bounds) -> None:
    """The same imports with 1, 2 and 4 workers on PostgreSQL."""
    accounts, files = write_files(folder, bounds.imports, bounds.rows)
    plain: dict[str, float] = {}
    base: float | None = None
    with (
        sandbox(accounts, DELAY) as (outlook, stand_in),
        postgresql_of(next(postgresql_binaries()), durable=True) as server,
    ):
        for number in bounds.workers:
            with installed(folder, server, outlook) as site:
                run("-m", "flows.cli", "deploy", env=site.environment)
                plain = plain or plain_figures(site, files[0])
                shift = work(site, files, number, stand_in)
                assert site.statuses("default") == {"active": bounds.imports * bounds.rows}
            a_minute = 60 * bounds.imports / shift.seconds
            base = base or a_minute
            show_shift(shift, plain, number, bounds)
            if number != bounds.workers[0]:
                limit = 1.7 if (bounds.workers[0], number) == (1, 4) else math.inf
                what = f"imports a minute, {number} workers / {bounds.workers[0]}"
                show(what, a_minute / base, limit, f"{a_minute:.1f} / {base:.1f}", least=True)


def plain_figures(site: Installation, file: Path) -> dict[str, float]:
    turns = [figures(PLAIN, file, f"plain{turn}", env=site.environment) for turn in range(PLAIN_TURNS)]
    return {name: min(turn[name] for turn in turns) for name in turns[0]}


def work(site: Installation, files: Sequence[Path], number: int, stand_in: int) -> Shift:
    """Import the files with this many workers, one import at a time each."""
    order(site, files)
    before = site.footprint()
    limit = START_SECONDS + SECONDS_AN_IMPORT * math.ceil(len(files) / number)
    with ExitStack() as stack:
        pids = [stack.enter_context(worker(site, f"worker{n}")) for n in range(number)]
        peaks = stack.enter_context(watched_memory(pids))
        owners = {"Prefect's server": site.server, "PostgreSQL": site.postgresql, "stand-in": stand_in}
        spent = {name: -cpu_seconds(pid) for name, pid in owners.items()}
        wait_for("the end of all imports", lambda: ended(site) >= len(files), limit)
        time.sleep(1)  # until the last process has ended, and counts among its worker's
        spent = {name: spent[name] + cpu_seconds(pid) for name, pid in owners.items()}
        spent["workers"] = own_cpu_seconds(pids)
        spent["flows"] = cpu_seconds(*pids) - spent["workers"]
        growth = site.footprint()
    seconds, whole, starting, running = run_times(site)
    imports = len(files)
    return Shift(
        seconds,
        number * whole / imports - starting - running,
        starting,
        running,
        {name: value / imports for name, value in spent.items()},
        peaks,
        {name: (value - before.get(name, 0)) / imports for name, value in growth.items()},
    )


def order(site: Installation, files: Sequence[Path]) -> None:
    """Request all the runs, and pause the schedules, which would only disturb the measurement."""
    for one in site.api.post("/deployments/filter", json={}).raise_for_status().json():
        place = f"/deployments/{one['id']}"
        if one["name"] != "manual":
            site.api.post(f"{place}/pause_deployment").raise_for_status()
            continue
        for file in files:
            wanted = {"parameters": {"file": str(file)}, "state": {"type": "SCHEDULED"}}
            site.api.post(f"{place}/create_flow_run", json=wanted).raise_for_status()


@contextmanager
def worker(site: Installation, name: str) -> Iterator[int]:
    command = ("prefect", "worker", "start", "--pool", POOL, "--limit", "1", "--name", name)
    with part(name, *command, env=site.environment, folder=site.folder) as pid:
        yield pid


def ended(site: Installation) -> int:
    """How many imports have ended, all of them successfully."""
    with psycopg.connect(site.history) as connection:
        query = "SELECT state_type, count(*) FROM flow_run WHERE end_time IS NOT NULL GROUP BY state_type"
        found: dict[str, int] = dict(connection.execute(query).fetchall())
    assert set(found) <= {"COMPLETED"}, found
    time.sleep(0.5)
    return found.get("COMPLETED", 0)


def run_times(site: Installation) -> tuple[float, ...]:
    """Seconds to the last run's end, from the first start and from the first claim by a worker; and the
    averages per run, from its claim to its start and from its start to its end.
    """
    query = """
        SELECT extract(epoch FROM max(end_time) - min(start_time)),
            extract(epoch FROM max(end_time) - min(taken)),
            avg(extract(epoch FROM start_time - taken)), avg(extract(epoch FROM end_time - start_time))
        FROM flow_run JOIN (
            SELECT flow_run_id, min(timestamp) AS taken FROM flow_run_state WHERE type = 'PENDING' GROUP BY 1
        ) AS pending ON flow_run_id = flow_run.id
    """
    with psycopg.connect(site.history) as connection:
        return tuple(map(float, connection.execute(query).fetchone() or ()))


def show_shift(shift: Shift, plain: dict[str, float], number: int, bounds: Bounds) -> None:
    def tell(what: str, figure: float, detail: str, limit: float = math.inf) -> None:
        show(f"{number} workers: {what}", figure, limit, detail)

    imports, cpu = bounds.imports, shift.cpu
    whole = shift.waiting + shift.starting + shift.running
    ours = plain["work"] + plain["libraries"]
    prefect = cpu["flows"] - ours + cpu["workers"]
    tell("imports a minute", 60 * imports / shift.seconds, f"{imports} in {shift.seconds:.0f} s")
    logins = 2 * imports * bounds.rows
    tell("probes (logins) a second", logins / shift.seconds, f"{logins} over SMTP and IMAP")
    tell(
        "seconds of a worker per import",
        whole,
        f"{shift.waiting:.1f} until it takes the run, {shift.starting:.1f} until the flow starts, "
        f"{shift.running:.1f} in the flow",
    )
    tell("seconds until it takes the run / 2", shift.waiting / 2, f"{shift.waiting:.1f} s", 1)
    tell(
        "share of them: our code, CPU %",
        100 * ours / whole,
        f"{ours:.1f} s: the import without a flow run "
        f"({plain['work']:.1f}) and its libraries ({plain['libraries']:.1f})",
    )
    tell(
        "share: Prefect, CPU %",
        100 * prefect / whole,
        f"{prefect:.1f} s: the rest of the flow's processes, and the worker's own {cpu['workers']:.1f}",
    )
    tell(
        "share: waiting %",
        100 * (whole - ours - prefect) / whole,
        "the rest: mail servers, Prefect's server, databases, a free core, the next poll",
    )
    everything = sum(cpu.values())
    detail = ", ".join(f"{name} {value:.1f}" for name, value in cpu.items())
    tell("CPU seconds per import / 10", everything / 10, f"{everything:.1f}: {detail}", 1)
    tell("cores busy with it", everything * imports / shift.seconds, f"of {CORES}")
    tell(
        "peak MB of a flow's process",
        shift.memory["flow"],
        f"of a worker's own: {shift.memory['worker']:.0f}",
    )
    tell("Prefect's database, kB per import", shift.growth["bytes"] / 1000, rows_of(shift.growth))


def rows_of(growth: dict[str, float]) -> str:
    found = sorted(growth.items(), key=lambda item: -item[1])
    return "rows: " + ", ".join(f"{name} {rows:.0f}" for name, rows in found if name != "bytes" and rows >= 1)


# --- Part: groups -----------------------------------------------------


def groups(folder: Path, bounds: Bounds) -> None:
    """One import at a time, by the mailboxes in a task run."""
    accounts, (file,) = write_files(folder, 1, bounds.rows)
    head = (
        f"{'mailboxes in a task run':>24} {'s in the flow':>14} {'CPU s':>6} {'MB':>5} {'kB in Prefect':>14}"
    )
    sys.stdout.write(f"{head}  rows\n")
    with (
        sandbox(accounts, DELAY) as (outlook, _),
        postgresql_of(next(postgresql_binaries()), durable=True) as server,
        installed(folder, server, outlook) as site,
    ):
        figures(FLOW, file, "warm", env=site.environment)
        for size in GROUP_SIZES:
            env = site.environment | {"OUTLOOK_IMPORT_PROBE_GROUP_SIZE": str(size)}
            before = site.footprint()
            turns = [figures(FLOW, file, f"{size} {turn}", env=env) for turn in range(GROUP_TURNS)]
            after = site.footprint()
            growth = {name: (value - before.get(name, 0)) / GROUP_TURNS for name, value in after.items()}
            run = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
            sys.stdout.write(
                f"{size:>24} {run['seconds']:>14.1f} {run['cpu']:>6.1f} {run['memory']:>5.0f} "
                f"{growth['bytes'] / 1000:>14.0f}  {rows_of(growth)}\n"
            )
            sys.stdout.flush()
