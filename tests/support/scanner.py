"""Repeated scans of the inbox, in processes that can be killed at any moment.

They are forked from a process that has already imported the flow, so that a kill hits the work and not the
start-up. Two of them behave like two workers, but without the deployment's concurrency limit, which allows
one scan at a time.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["flows.watch_inbox"])
LIMIT_SECONDS = 330  # a scanner ends by itself after this time


class Scanner:
    """A process that scans until it is stopped or killed."""

    def __init__(self, variables: Mapping[str, str], folder: Path, number: int) -> None:
        self.log = folder / f"scanner-{number}.log"
        self._stop = folder / f"scanner-{number}.stop"
        self._process: BaseProcess = FORKS.Process(
            target=scan_repeatedly, args=(dict(variables), self.log, self._stop)
        )
        self._process.start()

    @property
    def messages(self) -> list[str]:
        """The result of each scan, without the scans that found no file."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line != "no file"]

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        """Let it finish its scan, and end."""
        self._stop.touch()
        self._process.join(60)
        assert self._process.exitcode == 0, self.messages


@contextmanager
def killed_at_last(scanners: list[Scanner]) -> Iterator[None]:
    try:
        yield
    finally:
        for scanner in scanners:
            scanner.kill()


def scan_repeatedly(variables: dict[str, str], log: Path, stop: Path) -> None:
    os.environ.update(variables)
    from prefect.context import refresh_global_settings_context

    from flows.watch_inbox import watch_inbox

    refresh_global_settings_context()
    logging.disable(logging.INFO)
    deadline = time.monotonic() + LIMIT_SECONDS

    async def scan() -> str | None:
        return (await watch_inbox(return_state=True)).message

    while not stop.exists() and time.monotonic() < deadline:
        message = asyncio.run(scan())
        with log.open("a") as file:
            file.write(f"{message}\n")
