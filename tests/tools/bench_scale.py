"""The scale benchmark: many workers, the size of a task run's group, and a table that grows.

`python -m tests.tools.bench_scale [PART …] [--imports 200] [--rows 500] [--workers 1,2,4]`; without a part,
all of them. One PostgreSQL holds the mailboxes and Prefect's data; the Outlook stand-in answers after
100 ms. Uses loopback only, limits every wait, and leaves nothing behind. Reads /proc: Linux only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import psycopg
from psycopg import sql
from sqlalchemy import Engine, text

from schemas.sealing import new_key
from tests.support.machine import free_port, wait_for
from tests.support.postgresql import PostgreSql, bound, ending, postgresql_binaries, postgresql_of
from tests.support.sampling import repeatedly
from tests.support.shell import PROJECT, environment
from tests.tools.bench import ROWS, sandbox, show

if TYPE_CHECKING:
    from schemas.settings import Settings
    from tasks.storage.database import Database

DELAY = 0.1
POOL = "outlook-import"
START_SECONDS = 120
PROGRAM_SECONDS = 600
SECONDS_AN_IMPORT = 60  # no import of one worker takes this long, even on a loaded machine
GROUP_SIZES = (1, 10, 25, 50, 100)
GROUP_TURNS = 3
STORED = (1_000, 100_000, 1_000_000)
STORE_TURNS = 40
PLAIN_TURNS = 2
TICKS = os.sysconf("SC_CLK_TCK")
CORES = len(os.sched_getaffinity(0))


class Bounds(NamedTuple):
    """How much the benchmark does."""

    imports: int
    rows: int
    workers: tuple[int, ...]


# --- Programs in their own process -------------------------------------

# CPU seconds of this project's code without a flow run around it: `libraries` to import what Prefect has not
# imported yet, `work` for one import from reading the file to the last verdict.
PLAIN = """
import asyncio, json, logging, sys, time
from pathlib import Path
import prefect, prefect.artifacts, prefect.concurrency.sync, prefect.flow_engine, prefect.task_engine
began = time.process_time()
from flows.import_outlook import (
    Origin, Probing, database, dedupe, group_targets, load_settings, read_csv, store, validate
)
imported = time.process_time()

async def main(file, workspace):
    settings = load_settings()
    with database(settings) as mailboxes:
        validated = validate.fn(read_csv.fn(file, settings.max_file_bytes), workspace, mailboxes.sealer)
        origin = Origin(file.name, workspace, None, True)
        stored = store.fn(*dedupe.fn(validated.valid), validated, origin, mailboxes, settings)
        probing = Probing(mailboxes, settings, [target.mailbox_id for target in stored.targets])
        groups = group_targets(stored.targets, settings.probe_group_size)
        await asyncio.gather(*(probing.test_group(group, logging.getLogger("bench")) for group in groups))
        report = probing.report()
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


def run(*arguments: str | Path, env: dict[str, str]) -> str:
    """Run a program in this project's environment; return its output."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False, timeout=PROGRAM_SECONDS
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def figures(program: str, *arguments: str | Path, env: dict[str, str]) -> dict[str, float]:
    """The figures in the last line that a program prints."""
    found: dict[str, float] = json.loads(run("-c", program, *arguments, env=env).splitlines()[-1])
    return found


def medians(turns: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}


# --- Processes --------------------------------------------------------


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (the state); see proc(5)."""
    return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    children = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            children[int(stat(int(entry.name))[1])].append(int(entry.name))
        except OSError:  # it has just ended
            continue
    found = [pid]
    for one in found:
        found += children[one]
    return found


def cpu_seconds(*pids: int) -> float:
    """CPU time, user and system, of processes, their descendants, and all of those that have ended."""
    total = 0
    for member in {one for pid in pids for one in family(pid)}:
        try:
            total += sum(map(int, stat(member)[11:15]))
        except OSError:
            continue
    return total / TICKS


def own_cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time of these processes alone."""
    return sum(sum(map(int, stat(pid)[11:13])) for pid in pids) / TICKS


def peak_mb(pid: int) -> float:
    """The peak resident memory of a process in MB; 0 if it has ended."""
    try:
        status = (Path("/proc") / str(pid) / "status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+)", status)
    return int(found[1]) / 1024 if found else 0.0


@contextmanager
def watched_memory(workers: Sequence[int]) -> Iterator[dict[str, float]]:
    """Measure every half second; yield peaks in MB: of a worker's own process, and of one it started."""
    peaks = {"worker": 0.0, "flow": 0.0}

    def look() -> None:
        for worker in workers:
            peaks["worker"] = max(peaks["worker"], peak_mb(worker))
            peaks["flow"] = max([peaks["flow"], *map(peak_mb, family(worker)[1:])])

    with repeatedly(look, 0.5):
        yield peaks


@contextmanager
def part(name: str, *command: str, env: dict[str, str], folder: Path) -> Iterator[int]:
    """A program in this project's environment that runs next to this one and ends with it; yield its id."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            bound([sys.executable, "-m", *command]), cwd=PROJECT, env=env, stdout=log, stderr=log
        )
    with ending(process, signal.SIGINT):
        yield process.pid


# --- An installation --------------------------------------------------


@dataclass(frozen=True)
class Installation:
    """Prefect's server and empty tables on a PostgreSQL, and the settings of the programs that use them.

    Attributes:
        history: Address of the database of Prefect's server.
        postgresql: Process id of PostgreSQL, which has both databases.
    """

    folder: Path
    environment: dict[str, str]
    mailboxes: str
    history: str
    api: httpx.Client
    server: int
    postgresql: int

    def statuses(self, workspace: str) -> dict[str, int]:
        """How many mailboxes of a workspace have each status."""
        query = """
            SELECT status, count(*) FROM mailbox JOIN workspace ON workspace.id = workspace_id
            WHERE workspace.name = %s GROUP BY status
        """
        with psycopg.connect(self.mailboxes) as connection:
            return dict(connection.execute(query, [workspace]).fetchall())

    def footprint(self) -> dict[str, int]:
        """What Prefect has written: rows by table, and "bytes", once nothing more arrives."""
        with psycopg.connect(self.history, autocommit=True) as connection:
            self._settle(connection)
            connection.execute("VACUUM")
            connection.execute("CHECKPOINT")
            query = "SELECT relname FROM pg_stat_user_tables"
            tables = [name for (name,) in connection.execute(query)]
            return {
                "bytes": _number(connection, sql.SQL("SELECT pg_database_size(current_database())")),
                **{name: _rows(connection, name) for name in tables},
            }

    def _settle(self, connection: psycopg.Connection[Any]) -> None:
        """Wait, because task runs and events reach the tables after their run has ended."""
        seen: list[tuple[int, ...]] = []

        def settled() -> bool:
            time.sleep(1)
            seen.append(tuple(_rows(connection, name) for name in ("events", "log", "task_run_state")))
            open_runs = "SELECT count(*) FROM task_run WHERE end_time IS NULL"
            return len(seen) > 3 and len(set(seen[-4:])) == 1 and not _number(connection, sql.SQL(open_runs))

        wait_for("all that Prefect writes", settled, START_SECONDS)


def _number(connection: psycopg.Connection[Any], query: sql.SQL | sql.Composed) -> int:
    (number,) = connection.execute(query).fetchone() or (0,)
    return int(number)


def _rows(connection: psycopg.Connection[Any], table: str) -> int:
    return _number(connection, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table)))


@contextmanager
def postgresql() -> Iterator[PostgreSql]:
    with postgresql_of(next(postgresql_binaries()), durable=True) as server:
        yield server


@contextmanager
def installed(folder: Path, server: PostgreSql, outlook: dict[str, str]) -> Iterator[Installation]:
    """New databases, tables, and a Prefect server that answers."""
    from tasks.files.prefect_profile import RECORDER_SETTINGS

    with ExitStack() as stack:
        mailboxes = stack.enter_context(server.new_database())
        history = stack.enter_context(server.new_database())
        port = free_port()
        url = f"http://127.0.0.1:{port}/api"
        env = environment(**RECORDER_SETTINGS, **outlook) | {
            "OUTLOOK_IMPORT_DATABASE_URL": mailboxes,
            "OUTLOOK_IMPORT_ENCRYPTION_KEYS": new_key(),
            "OUTLOOK_IMPORT_IMPORT_FOLDERS": json.dumps([str(folder)]),
            "OUTLOOK_IMPORT_PROBE_TIMEOUT": "300",  # a loaded machine is slow, and must not fail
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": url,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": history.replace("postgresql", "postgresql+asyncpg", 1),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        }
        run("-m", "flows.manage", "database", "upgrade", env=env)
        command = ("prefect", "server", "start", "--no-ui", "--host", "127.0.0.1", "--port", str(port))
        pid = stack.enter_context(part("server", *command, env=env, folder=folder))
        api = stack.enter_context(httpx.Client(base_url=url, timeout=60))
        wait_for("Prefect's server", lambda: answers(api), START_SECONDS)
        with psycopg.connect(mailboxes) as connection:
            backend = connection.info.backend_pid
            postmaster = int(stat(backend)[1])
        yield Installation(folder, env, mailboxes, history, api, pid, postmaster)


def answers(api: httpx.Client) -> bool:
    try:
        return api.get("/health").is_success
    except httpx.TransportError:
        return False


def write_files(folder: Path, imports: int, rows: int) -> tuple[Path, list[Path]]:
    """Files of different mailboxes, and one with all of them for the stand-in."""
    together, files = folder / "accounts.csv", []
    with together.open("w") as accounts:
        accounts.write("email,password\n")
        for number in range(imports):
            lines = "".join(f"user{n}@import{number}.test.com,password {n}\n" for n in range(rows))
            accounts.write(lines)
            file = folder / f"import{number}.csv"
            file.write_text(f"email,password\n{lines}")
            files.append(file)
    return together, files


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
    with sandbox(accounts, DELAY) as (outlook, stand_in), postgresql() as server:
        for number in bounds.workers:
            with installed(folder, server, outlook) as site:
                run("-m", "flows.manage", "deploy", env=site.environment)
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
    def tell(what: str, figure: float, detail: str) -> None:
        show(f"{number} workers: {what}", figure, math.inf, detail)

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
    tell("CPU seconds per import", everything, detail)
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
        postgresql() as server,
        installed(folder, server, outlook) as site,
    ):
        figures(FLOW, file, "warm", env=site.environment)
        for size in GROUP_SIZES:
            env = site.environment | {"OUTLOOK_IMPORT_PROBE_GROUP_SIZE": str(size)}
            before = site.footprint()
            turns = [figures(FLOW, file, f"{size} {turn}", env=env) for turn in range(GROUP_TURNS)]
            after = site.footprint()
            growth = {name: (value - before.get(name, 0)) / GROUP_TURNS for name, value in after.items()}
            run = medians(turns)
            sys.stdout.write(
                f"{size:>24} {run['seconds']:>14.1f} {run['cpu']:>6.1f} {run['memory']:>5.0f} "
                f"{growth['bytes'] / 1000:>14.0f}  {rows_of(growth)}\n"
            )
            sys.stdout.flush()


# --- Part: store ------------------------------------------------------

SERIES = {
    "sqlite": "WITH RECURSIVE series(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < {})",
    "postgresql": "WITH series(n) AS (SELECT generate_series(1::bigint, {}))",
}
# Addresses in random-looking order: squares modulo a prime. Evenly spread ones would fill every index page
# at the same moment, and the next import would split them all.
SCATTER = "(n * n % 4294967291 * 2654435 % 4294967291)"
SCATTERED = {
    "sqlite": f"printf('%08x.%d', {SCATTER}, n)",
    "postgresql": f"lpad(to_hex({SCATTER}), 8, '0') || '.' || n",
}
# Most mailboxes are in the first of ten workspaces, and every tenth is pending and due.
FILL = (
    "{ten} INSERT INTO workspace (name, created_at) SELECT 'workspace ' || n, CURRENT_TIMESTAMP FROM series",
    "{imports} INSERT INTO import (workspace_id, file_name, imported, skipped, failed, created_at)"
    " SELECT 1, 'mailboxes.csv', 500, 0, 0, CURRENT_TIMESTAMP FROM series",
    "{mailboxes} INSERT INTO mailbox (workspace_id, import_id, email, email_key, name, password, smtp_host,"
    " smtp_port, imap_host, imap_port, status, diagnosis, attempts, next_attempt_at, created_at)"
    " SELECT CASE WHEN n % 5 = 0 THEN 1 + n / 5 % 10 ELSE 1 END, (n + 499) / 500,"
    " {hex} || '@outlook.com', {hex} || '@outlook.com', 'Somebody', :password,"
    " 'smtp.office365.com', 587, 'outlook.office365.com', 993,"
    " CASE WHEN n % 10 = 3 THEN 'pending' ELSE 'active' END, 'Works over SMTP and IMAP.', 1,"
    " CASE WHEN n % 10 = 3 THEN CURRENT_TIMESTAMP END, CURRENT_TIMESTAMP FROM series",
)


def store_step(folder: Path, bounds: Bounds) -> None:
    """Storing one import, by the number of mailboxes already stored."""
    with postgresql() as server, ExitStack() as stack:
        for name in SERIES:
            stores = {}
            for stored in STORED:
                address = f"sqlite:///{folder}/{stored}.db"
                if name == "postgresql":
                    address = stack.enter_context(server.new_database())
                stores[stored] = stack.enter_context(filled(address, stored))
            # In turn, so that other load on the machine affects all of them equally.
            seconds: dict[int, list[float]] = {stored: [] for stored in STORED}
            for turn in range(STORE_TURNS + 1):
                for stored, once in stores.items():
                    took = once(folder, bounds.rows)
                    if turn:
                        seconds[stored].append(took)
            show_growth(name, seconds)


def show_growth(name: str, seconds: dict[int, list[float]]) -> None:
    least, *more = STORED
    small = quarter(seconds[least])
    for stored in more:
        big = quarter(seconds[stored])
        means = " / ".join(f"{1000 * statistics.mean(seconds[size]):.0f} ms" for size in (stored, least))
        show(
            f"{name}: storing among {stored:,} mailboxes / {least:,}",
            big / small,
            1.5,
            f"{1000 * big:.0f} ms / {1000 * small:.0f} ms; means {means}",
        )


def quarter(seconds: Sequence[float]) -> float:
    """The maximum of the fastest quarter.

    About every other commit waits longer for the disk than everything else takes, at any table size, so a
    median would be random.
    """
    return statistics.quantiles(seconds, n=4)[0]


@contextmanager
def filled(address: str, stored: int) -> Iterator[Callable[[Path, int], float]]:
    """A database with this many mailboxes; yield a function that stores a file of others and times it."""
    from schemas.settings import Settings
    from tasks.storage.database import database, make_engine, upgrade, url_of

    settings = Settings(database_url=address, encryption_keys=new_key())
    engine = make_engine(url_of(settings))
    upgrade(engine)
    fill(engine, stored)
    engine.dispose()
    with database(settings) as opened:
        yield lambda folder, rows: store_once(folder, rows, opened, settings)


def fill(engine: Engine, stored: int) -> None:
    name = engine.dialect.name
    series = {"ten": 10, "imports": math.ceil(stored / 500), "mailboxes": stored}
    texts = {key: SERIES[name].format(number) for key, number in series.items()}
    with engine.begin() as connection:
        for statement in FILL:
            filling = text(statement.format(hex=SCATTERED[name], **texts))
            connection.execute(
                filling, {"password": secrets.token_bytes(52)} if ":password" in statement else {}
            )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE" if name == "sqlite" else "VACUUM ANALYZE")


def store_once(folder: Path, rows: int, opened: Database, settings: Settings) -> float:
    from schemas.prepare import Prepared
    from tasks.prepare import prepare
    from tasks.store import Origin, store

    file = folder / "more.csv"
    lines = "".join(f"{secrets.token_hex(4)}.{n}@outlook.com,password {n}\n" for n in range(rows))
    file.write_text(f"email,password\n{lines}")
    prepared = prepare.fn(file, settings.max_file_bytes)
    assert isinstance(prepared, Prepared)
    begun = time.perf_counter()
    done = store.fn(prepared, Origin(file.name, "workspace 1", None, test=True), opened, settings)
    seconds = time.perf_counter() - begun
    assert done.summary.imported == rows, done.summary
    return seconds


# --- The command ------------------------------------------------------

PARTS: dict[str, Callable[[Path, Bounds], None]] = {
    "workers": workers,
    "groups": groups,
    "store": store_step,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.bench_scale", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--imports", type=int, default=200, help="how many for each number of workers")
    parser.add_argument("--rows", type=int, default=ROWS, help="mailboxes in an import")
    parser.add_argument("--workers", default="1,2,4", help="numbers of workers, separated by commas")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    bounds = Bounds(options.imports, options.rows, tuple(map(int, options.workers.split(","))))
    # However this ends, its programs and folders are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for name in options.parts or PARTS:
        sys.stdout.write(f"\n{name}: {PARTS[name].__doc__} {bounds}\n")
        sys.stdout.flush()
        with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder:
            PARTS[name](Path(folder), bounds)


if __name__ == "__main__":
    main()
