"""The scale benchmark: many workers, the size of a task run's group, and a million mailboxes.

`python -m tests.tools.bench_scale [PART …]`; without a part, all of them, in 20 minutes on two cores. One
PostgreSQL holds the mailboxes and Prefect's data; the Outlook stand-in answers after 100 ms. Uses loopback
only, limits every wait, and leaves nothing behind. Reads /proc: Linux only.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.tools.bench import ROWS
from tests.tools.scale_site import Bounds
from tests.tools.scale_tables import tables
from tests.tools.scale_workers import groups, workers

PARTS: dict[str, Callable[[Path, Bounds], None]] = {
    "workers": workers,
    "groups": groups,
    "tables": tables,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.bench_scale", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--imports", type=int, default=12, help="how many for each number of workers")
    parser.add_argument("--rows", type=int, default=ROWS, help="mailboxes in an import")
    parser.add_argument("--workers", default="1,2,4", help="numbers of workers, separated by commas")
    parser.add_argument("--stored", type=int, default=1_000_000, help="mailboxes in the large table")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    numbers = tuple(map(int, options.workers.split(",")))
    bounds = Bounds(options.imports, options.rows, numbers, options.stored)
    # However this ends, its programs and folders are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for name in options.parts or PARTS:
        sys.stdout.write(f"\n{name}: {PARTS[name].__doc__}\n")
        sys.stdout.flush()
        with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder:
            PARTS[name](Path(folder), bounds)


if __name__ == "__main__":
    main()
