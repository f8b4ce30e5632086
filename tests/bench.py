"""The benchmark: every figure is a ratio of two measurements of one run, on this machine, at this load.

`python -m tests.bench [PART …]`; without a part, all of them. Loopback only; it ends by itself.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROWS = 500
SAMPLE = Path(__file__).resolve().parent.parent / "data" / "samples" / "mailboxes.csv"

EMPTY_FLOW = """
import asyncio
from prefect import flow
@flow
async def empty(): pass
asyncio.run(empty())
"""


def median(measure: Callable[[], float], times: int) -> float:
    return statistics.median(measure() for _ in range(times))


def command(*arguments: str, env: dict[str, str]) -> float:
    """Seconds that a command takes."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=env, check=True, capture_output=True)
    return time.perf_counter() - begun


def show(what: str, ratio: float, limit: float, detail: str) -> None:
    mark = "ok" if ratio <= limit else "OVER"
    sys.stdout.write(f"{what:<58} {ratio:6.2f}  (at most {limit:g}: {mark})  {detail}\n")
    sys.stdout.flush()


def mailboxes_csv(rows: int = ROWS) -> bytes:
    lines = [f"user{n}@outlook.com,pässword {n},User {n}" for n in range(rows)]
    return "\n".join(["email,password,name", *lines]).encode()


def pipeline(folder: Path) -> None:
    """Read, judge, seal, dedupe and store 500 rows in a warm process, against the 150 ms they may take."""
    from schemas.csv_file import CsvTable
    from schemas.settings import Settings
    from tasks.database import database
    from tasks.dedupe import dedupe
    from tasks.read_csv import read_csv
    from tasks.store import Origin, store
    from tasks.validate import validate

    file = folder / "mailboxes.csv"
    file.write_bytes(mailboxes_csv())
    settings = Settings(database_url=f"sqlite:///{folder}/bench.db")  # type: ignore[arg-type]
    with database(settings) as opened:
        seconds = []
        for turn in range(8):
            begun = time.perf_counter()
            workspace = f"turn{turn}"
            table = read_csv.fn(file, settings.max_file_bytes)
            assert isinstance(table, CsvTable)
            validated = validate.fn(table, workspace, opened.sealer)
            deduped = dedupe.fn(validated.valid)
            assert isinstance(deduped, tuple)
            origin = Origin(file.name, workspace, None, test=True)
            stored = store.fn(*deduped, validated, origin, opened, settings)
            assert stored.summary.imported == ROWS
            seconds.append(time.perf_counter() - begun)
    best = statistics.median(seconds[1:])
    show("read to store, 500 rows / 150 ms", best / 0.150, 1, f"{best * 1000:.0f} ms")


def check(folder: Path) -> None:
    """`--check` on 500 rows against importing Polars and Pandera."""
    file = folder / "check.csv"
    file.write_bytes(mailboxes_csv())
    env = dict(os.environ)
    whole = median(lambda: command("-m", "flows.import_outlook", str(file), "--check", env=env), 5)
    bare = median(lambda: command("-c", "import polars, pandera.polars", env=env), 5)
    show(
        "--check, 500 rows / importing polars and pandera", whole / bare, 2.5, f"{whole:.2f} s / {bare:.2f} s"
    )


def start_up(folder: Path) -> None:
    """A whole `--no-test` run of the sample against an empty flow, each with a server of its own."""
    env = dict(os.environ) | {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "60",
        "OUTLOOK_IMPORT_DATABASE_URL": f"sqlite:///{folder}/start.db",
    }
    env.pop("PREFECT_API_URL", None)
    run = ("-m", "flows.import_outlook", str(SAMPLE), "--no-test")
    command("-c", EMPTY_FLOW, env=env)  # makes Prefect's database
    empty = median(lambda: command("-c", EMPTY_FLOW, env=env), 3)
    whole = median(lambda: command(*run, env=env), 3)
    show("--no-test run of the sample / an empty flow", whole / empty, 1.15, f"{whole:.1f} s / {empty:.1f} s")


PARTS = {"pipeline": pipeline, "check": check, "start-up": start_up}


def main() -> None:
    for name in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder))


if __name__ == "__main__":
    main()
