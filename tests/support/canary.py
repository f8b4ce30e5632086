"""Known secrets, and a search for them in everything that is written, in every encoding.

A canary contains a core of letters and digits that appears nowhere else. The search looks for the core, so
that it finds the secret even if an encoding changes the characters around it.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import logging
import secrets
import shutil
import sqlite3
import string
import sys
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NoReturn

from tests.support.sampling import repeatedly

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

CORE_LENGTH = 20


def new_core(letters: str = string.ascii_letters + string.digits) -> str:
    return "".join(secrets.choice(letters) for _ in range(CORE_LENGTH))


class Canaries:
    """The secrets of one test, each under the name of the way in that it uses."""

    def __init__(self) -> None:
        self._cores: dict[str, str] = {}

    def password(self, way: str) -> str:
        """A new password; the text around its core needs quotes in CSV and IMAP, and an encoding in a URL."""
        return f'{self._new(way, new_core())} +"ä%'

    def app_password(self, way: str) -> str:
        """A new password with the letters and the length of Microsoft's app passwords."""
        return self._new(way, new_core(string.ascii_lowercase)[:16])

    def totp_secret(self, way: str) -> str:
        return self._new(way, new_core("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")[:16])

    def add(self, way: str, secret: str) -> None:
        """Also search for a secret that was created elsewhere, such as a key."""
        self._cores[way] = secret

    def _new(self, way: str, core: str) -> str:
        assert way not in self._cores
        self._cores[way] = core
        return core

    def in_bytes(self, data: bytes) -> list[str]:
        """Which secrets the data contains, and in which form."""
        # Base64 is split into lines, and the lines are embedded in JSON.
        joined = data.replace(b"\r", b"").replace(b"\n", b"").replace(b"\\n", b"")
        return [
            f"{way} ({form})"
            for way, core in self._cores.items()
            for form, trace in forms(core).items()
            if trace in data or ("base64" in form and trace in joined)
        ]

    def in_files(self, folder: Path, spared: Iterable[Path] = ()) -> list[str]:
        """Which secrets the files below a folder contain, except the files in `spared`.

        A SQLite database is also read by its tables, because it splits long values across pages.
        """
        kept = set(spared)
        found = []
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not path.is_file() or kept & {path, *path.parents}:
                continue
            with suppress(FileNotFoundError):  # Prefect still deletes temporary files
                data = path.read_bytes()
                if data.startswith(b"SQLite format 3\0"):
                    data += dump(path)
                found += [f"{path.relative_to(folder)}: {one}" for one in self.in_bytes(data)]
        return found


def forms(core: str) -> Mapping[str, bytes]:
    """The forms that a secret can take."""
    plain = core.encode()
    found = {
        "plain": plain,
        "UTF-16": core.encode("utf-16-le"),
        "UTF-16, big-endian": core.encode("utf-16-be"),
        "hex": plain.hex().encode(),
        "HEX": plain.hex().upper().encode(),
        "URL-encoded": "".join(f"%{byte:02X}" for byte in plain).encode(),
    }
    for before in range(3):  # its base64 depends on how many bytes come before it
        whole = base64.b64encode(bytes(before) + plain)
        trace = whole[(before * 8 + 5) // 6 : (before + len(plain)) * 8 // 6]
        found[f"base64 behind {before} bytes"] = trace
        found[f"URL-safe base64 behind {before} bytes"] = trace.replace(b"+", b"-").replace(b"/", b"_")
    return found


def dump(path: Path) -> bytes:
    """Every value in a SQLite database."""
    values: list[bytes] = []
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
    connection.text_factory = bytes
    try:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in tables:
            for row in connection.execute(f'SELECT * FROM "{name.decode()}"'):  # noqa: S608  its own names
                values += (value if isinstance(value, bytes) else str(value).encode() for value in row)
    finally:
        connection.close()
    return b"\n".join(values)


@contextmanager
def processes_watched(mark: str) -> Iterator[set[bytes]]:
    """Collect command lines and environments of processes whose environment contains `mark`. Linux only."""
    seen: set[bytes] = set()

    def look() -> None:
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                environment = (entry / "environ").read_bytes()
                if mark.encode() in environment:
                    seen.update((environment, (entry / "cmdline").read_bytes()))

    with repeatedly(look, 0.05):
        yield seen


# --- A fault in each step of the flow --------------------------------

# Step → the function that gets the step's data.
STEPS = {
    "read": "schemas.csv_file:_read_with_polars",
    "validate": "schemas.prepare:validate",
    "dedupe": "schemas.prepare:dedupe",
    "seal": "schemas.sealing:Sealer.seal",
    "store": "tasks.store:_insert_new",
    "summary": "tasks.report:acreate_markdown_artifact",
    "probe": "tasks.login.smtp:to_base64",
    "verdict": "tasks.probe:decide_verdict",
    "report": "tasks.files.report_file:write_privately",
}


def quoting(*arguments: object, **named: object) -> NoReturn:
    """The worst kind of fault: it quotes and carries all its arguments."""
    raise ValueError(f"no good: {arguments!r} {named!r}", arguments, named)


@contextmanager
def breaking(place: str) -> Iterator[None]:
    """Replace a function with the fault."""
    owner, _, name = place.rpartition("." if "." in place.partition(":")[2] else ":")
    whole = resolve_name(owner)
    before = getattr(whole, name)
    setattr(whole, name, quoting)
    try:
        yield
    finally:
        setattr(whole, name, before)


def break_every_step(folder: Path) -> None:
    """Import `folder/STEP.csv` with a fault in that step, for every step, then scan the inbox with one.

    Runs in a separate process, and prints how each run ended.
    """
    from flows.import_outlook import import_outlook
    from flows.watch_inbox import watch_inbox

    async def import_file(name: str, report: Path | None = None) -> str:
        state: State[Any] = await import_outlook(folder / name, report=report, return_state=True)
        return f"{state.name} {state.message}"

    async def scan() -> str:
        state: State[Any] = await watch_inbox(return_state=True)
        return str(state.message)

    def tell(what: str, ended: Coroutine[Any, Any, str]) -> None:
        sys.stdout.write(f"{what}: {asyncio.run(ended)}\n")

    for step, place in STEPS.items():
        with breaking(place):
            tell(step, import_file(f"{step}.csv", folder / f"{step}.report.csv"))
    tell("integrity", import_file("integrity.csv"))
    tell("scan", scan())
    for name in ("failed rows.csv", "last.csv"):
        shutil.copy(folder / name, folder / "watched" / "inbox")
    with breaking("tasks.files.inbox:extract_rows"):
        tell("broken scan", scan())


# --- Every library's log ---------------------------------------------

LIBRARIES = (
    *("alembic", "asyncio", "fastapi", "flows", "h11", "httpcore", "httpx", "prefect", "python_multipart"),
    *("sqlalchemy", "sqlalchemy.engine", "sqlalchemy.pool", "tasks", "uvicorn"),
    *("websockets", "websockets.client", "websockets.server"),
)


@contextmanager
def everything_logged(file: Path) -> Iterator[None]:
    """Log what every library says at DEBUG to a file, and each statement with its result."""
    import prefect  # noqa: F401  importing it configures logging, which would undo this
    from sqlalchemy import create_engine

    import tasks.storage.database

    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [
        logging.getLogger(name) for name in (None, *sorted({*LIBRARIES, *logging.root.manager.loggerDict}))
    ]
    before = [(logger, logger.level, logger.propagate, [*logger.handlers]) for logger in loggers]
    names = vars(tasks.storage.database)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.propagate = True
    logging.getLogger().addHandler(handler)
    names["create_engine"] = partial(create_engine, echo="debug")
    try:
        yield
    finally:
        names["create_engine"] = create_engine
        for logger, level, propagate, handlers in before:
            logger.setLevel(level)
            logger.propagate, logger.handlers[:] = propagate, handlers
        handler.close()


def run_command(log: Path, busy_seconds: float, *words: str) -> int:
    """Run a command of the command line with all logs. For a process of its own."""
    with everything_logged(log):
        import tasks.storage.database
        from flows.cli.app import main

        vars(tasks.storage.database)["BUSY_SECONDS"] = busy_seconds
        return main(words)


def run_on_request(log: Path, busy_seconds: float) -> None:
    """Run flows as lines on standard input ask for them. For a process of its own.

    A line is a list in JSON: ["import", FILE, REPORT], ["scan"], or ["break", PLACE] to put a fault in the
    place of a function until ["repair"]. The answer is a line too: the type and the message of the state.
    """
    with everything_logged(log), ExitStack() as broken:
        import tasks.storage.database
        from flows.import_outlook import import_outlook
        from flows.watch_inbox import watch_inbox

        vars(tasks.storage.database)["BUSY_SECONDS"] = busy_seconds

        async def run(what: str, *paths: str) -> State[Any]:
            if what == "scan":
                found: State[Any] = await watch_inbox(return_state=True)
            else:
                file, report = map(Path, paths)
                found = await import_outlook(file, report=report, return_state=True)
            return found

        for line in sys.stdin:
            what, *words = json.loads(line)
            answer = ["", ""]
            if what == "break":
                broken.enter_context(breaking(words[0]))
            elif what == "repair":
                broken.close()
            else:
                state = asyncio.run(run(what, *words))
                answer = [state.type.value, str(state.message)]
                del state
                gc.collect()  # an exception keeps its connection to the database
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
