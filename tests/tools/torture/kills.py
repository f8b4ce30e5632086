"""Kill at random points, and restart what has ended."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.tools.torture.machine import Machine, say

STOP_SECONDS = 10
POSTGRESQL = {"PostgreSQL": 3, "a connection's PostgreSQL": 1}
LONG = {
    "flow run": 8,
    "worker": 3,
    "worker with its flow runs": 1,
    "worker with its flow runs, by SIGTERM": 1,
    "API": 4,
    "command line": 3,
    "sender of a notice": 2,
    "Prefect's server": 1,
    **POSTGRESQL,
}
SHORT = {"flow run": 2, "worker": 1, "API": 2, "command line": 1, **dict.fromkeys(POSTGRESQL, 1)}


def torture(machine: Machine, kills: int, dice: random.Random, deadline: float) -> None:
    """Kill at random points, and restart what has ended."""
    for number, victim in enumerate(deck(machine, kills, dice), 1):
        machine.tend_for(dice.uniform(*machine.form.pause))
        if victim == "sender of a notice":
            wait_for_notice(machine)
        elif dice.random() < 0.5:
            wait_for_work(machine, dice)
        for choice in (victim, "flow run", "API"):
            if killed := kill(machine, choice, dice):
                break
        machine.killed[choice] += 1
        say(f"{number:3} {choice}: {', '.join(map(str, killed))}")
        trigger(machine, dice)
        if time.monotonic() > deadline:
            return


def deck(machine: Machine, kills: int, dice: random.Random) -> list[str]:
    """The victims in random order. Without PostgreSQL, its share goes to the others."""
    shares: Mapping[str, int] = machine.form.deck
    if machine.postgresql is None:
        shares = {name: share for name, share in shares.items() if name not in POSTGRESQL}
    cards: list[str] = []
    while len(cards) < kills:
        cards += dice.sample(list(shares), counts=list(shares.values()), k=sum(shares.values()))
    return cards[:kills]


def wait_for_work(machine: Machine, dice: random.Random) -> None:
    """Wait for a login in progress or a file in processing/, or most kills would hit starting programs."""
    until = time.monotonic() + 4
    before = machine.seen.passwords_received
    processing = machine.site.watched / "processing"
    while time.monotonic() < until and machine.seen.passwords_received == before:
        if dice.random() < 0.3 and processing.exists() and any(processing.iterdir()):
            return
        machine.tend()
        time.sleep(0.05)
    time.sleep(dice.uniform(0, 0.5))


def wait_for_notice(machine: Machine) -> None:
    """Wait for a notice that has arrived and whose sender waits for the answer."""
    until = time.monotonic() + 30
    while time.monotonic() < until and not senders(machine):
        machine.tend()
        time.sleep(0.05)


def kill(machine: Machine, victim: str, dice: random.Random) -> list[int]:
    """Kill one of these; return the process ids, none if there is no such process at this moment."""
    by = signal.SIGTERM if victim.endswith("SIGTERM") else signal.SIGKILL
    if victim == "PostgreSQL":
        assert machine.postgresql is not None
        numbers = machine.postgresql.workers()
        machine.postgresql.kill()
        machine.tend_for(dice.uniform(0.1, 3))
        machine.postgresql.start()
        return numbers
    found = candidates(machine)[victim.removesuffix(", by SIGTERM")]
    if not found:
        return []
    numbers = dice.choice(found)
    for number in numbers:
        with suppress(ProcessLookupError):
            os.kill(number, by)
    for part in machine.parts:
        if part.process is not None and part.process.pid in numbers:
            end_of(part.process)
            part.due = time.monotonic() + dice.uniform(0.2, 2)
    return numbers


def end_of(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process that was signalled, with a time-out like systemd's."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    process.kill()
    process.wait()


def candidates(machine: Machine) -> dict[str, list[list[int]]]:
    """The processes that may be killed now: process ids, each with those that die with it."""
    runs = machine.flow_runs()
    workers = [part.lives for part in machine.workers if part.lives]
    with_runs = [(lives, [one for one in runs if parent_of(one) in lives]) for lives in workers]
    connections = machine.postgresql.workers() if machine.postgresql is not None else []
    return {
        # If its worker is already dead, only Prefect itself finds the run, two minutes later.
        "flow run": [[one] for one in runs if machine.form.thorough or [parent_of(one)] in workers],
        "worker": workers,
        "worker with its flow runs": [lives + mine for lives, mine in with_runs if mine],
        "API": [machine.api.lives] if machine.api.lives else [],
        "command line": [[process.pid] for process in tuple(machine.site.commands)],
        "sender of a notice": [[one] for one in senders(machine)],
        "a connection's PostgreSQL": [[number] for number in connections],
        "Prefect's server": [machine.server.lives] if machine.server.lives else [],
    }


def senders(machine: Machine) -> list[int]:
    """The processes that have sent a notice and wait for its answer."""
    ports = {f"{port:04X}" for port in tuple(machine.site.receiver.waiting)}
    if not ports:
        return []
    # Columns: number, local address, remote address, …, inode. An address is IP:PORT in hexadecimal.
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1].rpartition(":")[2] in ports}
    return [number for number, _ in machine.processes() if sockets & open_files(number)]


def open_files(number: int) -> set[str]:
    found = set()
    with suppress(OSError):
        for entry in Path(f"/proc/{number}/fd").iterdir():
            with suppress(OSError):
                found.add(str(entry.readlink()))
    return found


def parent_of(number: int) -> int:
    try:
        return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def trigger(machine: Machine, dice: random.Random) -> None:
    """Sometimes request an extra scan or retest, as an impatient operator would."""
    if dice.random() < 0.5 and machine.site.unfinished_files():
        machine.site.create_run("watch-inbox/scheduled")
    if dice.random() < 0.1:
        machine.site.create_run("retest-pending/scheduled")
