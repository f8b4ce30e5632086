"""An installation for the scale benchmark: its programs, and what they cost. Reads /proc: Linux only."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psycopg
from psycopg import sql

from schemas.sealing import new_key
from tasks.files.prefect_profile import VARIABLE, write_profile
from tests.support.machine import free_port, sign_in, wait_for
from tests.support.postgresql import PostgreSql, bound, ending
from tests.support.sampling import repeatedly
from tests.support.shell import PROJECT, environment

START_SECONDS = 120
PROGRAM_SECONDS = 600
TICKS = os.sysconf("SC_CLK_TCK")


class Bounds(NamedTuple):
    """How much the benchmark does."""

    imports: int
    rows: int
    workers: tuple[int, ...]
    stored: int


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
def installed(folder: Path, server: PostgreSql, outlook: dict[str, str]) -> Iterator[Installation]:
    """New databases, tables, and a Prefect server that asks for a login, as `outlook-import up` starts it."""
    with ExitStack() as stack:
        mailboxes = stack.enter_context(server.new_database())
        history = stack.enter_context(server.new_database())
        port, profile = free_port(), folder / "prefect.toml"
        origin = f"http://127.0.0.1:{port}"
        write_profile(profile, origin)
        env = environment(**outlook) | {
            VARIABLE: str(profile),
            "OUTLOOK_IMPORT_DATABASE_URL": mailboxes,
            "OUTLOOK_IMPORT_ENCRYPTION_KEYS": new_key(),
            "OUTLOOK_IMPORT_IMPORT_FOLDERS": json.dumps([str(folder)]),
            "OUTLOOK_IMPORT_PROBE_TIMEOUT": "300",  # a loaded machine is slow, and must not fail
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": history.replace("postgresql", "postgresql+asyncpg", 1),
            "DO_NOT_TRACK": "1",
        }
        run("-m", "flows.cli", "database", "upgrade", env=env)
        command = ("prefect", "server", "start", "--no-ui", "--host", "127.0.0.1", "--port", str(port))
        pid = stack.enter_context(part("server", *command, env=env, folder=folder))
        api = stack.enter_context(httpx.Client(base_url=f"{origin}/api", timeout=60))
        wait_for("Prefect's server", lambda: answers(api), START_SECONDS)
        sign_in(api, profile)
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
