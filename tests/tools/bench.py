"""The benchmark: every figure is a ratio of two measurements in one run, on this machine, at this load.

`python -m tests.tools.bench [PART …]`; without a part, all of them. Uses loopback only and ends by itself.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.machine import free_port
from tests.support.nasty_files import NASTY
from tests.support.workbooks import workbook_of

ROWS = 500
MIB = 1024 * 1024
LARGE_BYTES = 10 * MIB - 100  # within the default of MAX_FILE_BYTES
SAMPLE = Path(__file__).resolve().parents[2] / "data" / "samples" / "mailboxes.csv"

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


def show(what: str, ratio: float, limit: float, detail: str, *, least: bool = False) -> None:
    """Print a figure; the goal is to stay under the limit, or with `least` to reach it."""
    met = ratio >= limit if least else ratio <= limit
    verdict = "ok" if met else "UNDER" if least else "OVER"
    aim = "" if limit == math.inf else f"(at {'least' if least else 'most'} {limit:g}: {verdict})"
    sys.stdout.write(f"{what:<55} {ratio:6.2f}  {aim:<21} {detail}\n")
    sys.stdout.flush()


def mailboxes_csv(rows: int = ROWS) -> bytes:
    lines = [f"user{n}@outlook.com,pässword {n},User {n}" for n in range(rows)]
    return "\n".join(["email,password,name", *lines]).encode()


def pipeline(folder: Path) -> None:
    """Read, validate, dedupe, seal and store 500 rows in a warm process, with a limit of 150 ms."""
    best = plain_import(folder)
    show("read to store, 500 rows / 150 ms", best / 0.150, 1, f"{best * 1000:.0f} ms")


def plain_import(folder: Path) -> float:
    """Seconds that the plain functions take to read and store 500 rows."""
    from schemas.prepare import Prepared
    from schemas.settings import Settings
    from tasks.prepare import prepare
    from tasks.storage.database import database
    from tasks.store import Origin, store

    file = folder / "mailboxes.csv"
    file.write_bytes(mailboxes_csv())
    settings = Settings(database_url=f"sqlite:///{folder}/bench.db")
    with database(settings) as opened:
        seconds = []
        for turn in range(8):
            begun = time.perf_counter()
            workspace = f"turn{turn}"
            prepared = prepare.fn(file, settings.max_file_bytes)
            assert isinstance(prepared, Prepared)
            origin = Origin(file.name, workspace, None, test=True)
            stored = store.fn(prepared, origin, opened, settings)
            assert stored.summary.imported == ROWS
            seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


def workbook(_: Path) -> None:
    """Read, validate and dedupe 500 rows of an Excel workbook, compared with their CSV."""
    from schemas.prepare import Prepared, prepare_rows

    data = mailboxes_csv()
    book = workbook_of([line.split(",") for line in data.decode().splitlines()])

    def seconds(file: bytes) -> float:
        begun = time.perf_counter()
        assert isinstance(prepare_rows(file), Prepared)
        return time.perf_counter() - begun

    turns = [(seconds(book), seconds(data)) for _ in range(20)][2:]
    xlsx, plain = (statistics.median(column) for column in zip(*turns, strict=True))
    detail = f"{xlsx * 1000:.0f} ms / {plain * 1000:.0f} ms"
    show("read a workbook of 500 rows / its CSV", xlsx / plain, 2, detail)


def check(folder: Path) -> None:
    """`check` on 500 rows compared with importing Polars and Pandera."""
    file = folder / "check.csv"
    file.write_bytes(mailboxes_csv())
    env = dict(os.environ)
    whole = median(lambda: command("-m", "flows.cli", "check", str(file), env=env), 5)
    bare = median(lambda: command("-c", "import polars, pandera.polars", env=env), 5)
    show("check, 500 rows / importing polars and pandera", whole / bare, 2.5, f"{whole:.2f} s / {bare:.2f} s")


def start_up(folder: Path) -> None:
    """A whole `--no-test` run of the sample compared with an empty flow, and with the next one."""
    env = dict(os.environ) | {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "60",
        "OUTLOOK_IMPORT_DATABASE_URL": f"sqlite:///{folder}/start.db",
        "OUTLOOK_IMPORT_PREFECT_IDLE_SECONDS": "0",  # each with its own server
    }
    env.pop("PREFECT_API_URL", None)
    run = ("-m", "flows.cli", "import", str(SAMPLE), "--no-test")
    command("-c", EMPTY_FLOW, env=env)  # creates Prefect's database
    empty = median(lambda: command("-c", EMPTY_FLOW, env=env), 3)
    whole = median(lambda: command(*run, env=env), 3)
    show("--no-test run of the sample / an empty flow", whole / empty, 1.15, f"{whole:.1f} s / {empty:.1f} s")
    said = subprocess.run(
        [sys.executable, *run, "--verbose"], env=env, check=True, capture_output=True, text=True
    ).stderr
    started = float(said.partition("Prefect started in ")[2].split()[0])
    show("of it, until Prefect has started / the run", started / whole, math.inf, f"{started:.1f} s")
    env["OUTLOOK_IMPORT_PREFECT_IDLE_SECONDS"] = "20"
    command(*run, env=env)  # starts the server that stays
    second = median(lambda: command(*run, env=env), 3)
    show("--no-test run, the next one / the first", second / whole, 0.5, f"{second:.1f} s / {whole:.1f} s")
    while (folder / "prefect" / "outlook-import-server.json").exists():  # the server ends by itself
        time.sleep(0.5)


# What a user would write: threads, smtplib, imaplib, one SSL context. Prints the seconds of its logins.
THREADS = """
import csv, imaplib, json, os, smtplib, ssl, sys, time
from concurrent.futures import ThreadPoolExecutor

servers = json.loads(os.environ["OUTLOOK_IMPORT_SERVERS"])["*"]
context = ssl.create_default_context(cafile=os.environ["OUTLOOK_IMPORT_CA_FILE"])

def split(address):
    host, _, port = address.rpartition(":")
    return host, int(port)

def smtp(email, password):
    with smtplib.SMTP(*split(servers["smtp"]), timeout=30) as server:
        server.starttls(context=context)
        server.login(email, password)
    return True

def imap(email, password):
    host, port = split(servers["imap"])
    with imaplib.IMAP4_SSL(host, port, ssl_context=context, timeout=30) as server:
        server.login(email, password)
        server.namespace()
    return True

def test(row):
    return smtp(row["email"], row["password"]) and imap(row["email"], row["password"])

with open(sys.argv[1], newline="") as file:
    rows = list(csv.DictReader(file))
begun = time.perf_counter()
with ThreadPoolExecutor(50) as pool:
    good = sum(pool.map(test, rows))
assert good == len(rows), good
print(time.perf_counter() - begun)
"""

# The same logins with only this project's login code.
BARE = """
import asyncio, csv, os, sys, time
from schemas.reasons import Protocol, Reason
from tasks.configuration import load_settings
from tasks.login.session import log_in
from tasks.login.wire import Credentials, tls_context

async def main():
    settings = load_settings()
    servers = settings.overrides["*"]
    context = tls_context(settings.ca_file)
    slots = asyncio.Semaphore(int(os.environ["SLOTS"]))

    async def test(row):
        async with slots:
            credentials = Credentials(row["email"], row["password"])
            for protocol, endpoint in zip(Protocol, servers):
                answer = await log_in(protocol, endpoint, credentials, context, 30)
                assert answer.reason is Reason.OK, answer

    with open(sys.argv[1], newline="") as file:
        rows = list(csv.DictReader(file))
    begun = time.perf_counter()
    await asyncio.gather(*map(test, rows))
    print(time.perf_counter() - begun)

asyncio.run(main())
"""

# The flow itself; prints the seconds from its first probe to its last verdict.
FLOW = """
import asyncio, sys, time
from pathlib import Path
from flows.import_outlook import import_outlook
from tasks.probe import Observer, observer

class Clock(Observer):
    def begin(self, probing, total):
        self.begun = time.perf_counter()
    def verdict(self, verdict):
        self.ended = time.perf_counter()
        assert verdict.status == "active", verdict

clock = Clock()
observer.set(clock)
asyncio.run(import_outlook(Path(sys.argv[1])))
print(clock.ended - clock.begun)
"""


@contextmanager
def sandbox(accounts: Path, delay: float, connections: int = 0) -> Iterator[tuple[dict[str, str], int]]:
    """The stand-in in a separate process; yield the settings that use it, and its process id."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "sandbox", "--accounts", str(accounts)),
            *("--delay", str(delay), "--connections", str(connections)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        exports = [shlex.split(process.stdout.readline()) for _ in range(3)]
        yield dict(word.split("=", 1) for _, word in exports), process.pid
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def prefect_server(folder: Path) -> Iterator[dict[str, str]]:
    """A running Prefect server; yield the settings of its clients."""
    from flows.cli.temporary_server import TemporaryServer

    os.environ["PREFECT_HOME"] = str(folder / "prefect")
    server = TemporaryServer()
    try:
        server.wait()
        yield {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": server.url,
            "PREFECT_API_AUTH_STRING": server.login,
        }
    finally:
        server.stop()


def timed(program: str, file: Path, env: dict[str, str]) -> tuple[float, float]:
    """Run a program; return the seconds that it prints, and those that it took in total."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)], env=env, check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout.split()[-1]), time.perf_counter() - begun


def mailboxes_on_stand_in(folder: Path) -> Path:
    """Write a CSV of mailboxes; it serves as the accounts of the stand-in too."""
    file = folder / "mailboxes.csv"
    rows = "".join(f"user{n}@contoso.com,password{n}\n" for n in range(ROWS))
    file.write_text(f"email,password\n{rows}")
    return file


def probing(folder: Path, delay: float = 0.0, turns: int = 3) -> None:
    """500 mailboxes, SMTP and IMAP, 50 at once: the flow, a bare asyncio program, and a thread pool."""
    file = mailboxes_on_stand_in(folder)
    seconds: dict[str, list[tuple[float, float]]] = {"flow": [], "bare": [], "threads": []}
    with sandbox(file, delay) as (settings, _), prefect_server(folder) as prefect:
        for turn in range(turns):
            env = os.environ | settings | prefect
            env |= {
                "OUTLOOK_IMPORT_DATABASE_URL": f"sqlite:///{folder}/{turn}.db",
                "PREFECT_LOGGING_LEVEL": "ERROR",
                "SLOTS": "50",
            }
            for name, program in (("flow", FLOW), ("bare", BARE), ("threads", THREADS)):
                seconds[name].append(timed(program, file, env))
    best = {
        name: [statistics.median(column) for column in zip(*runs, strict=True)]
        for name, runs in seconds.items()
    }
    late = f", server {delay * 1000:.0f} ms late" if delay else ""
    for other, limit in (("bare", 1.05 if delay else 1.15), ("threads", 1.05 if delay else 1.0)):
        for part, at, most in (("probing", 0, limit), ("whole run", 1, math.inf)):
            flow, reference = best["flow"][at], best[other][at]
            show(f"{part}, flow / {other}{late}", flow / reference, most, f"{flow:.1f} s / {reference:.1f} s")


def probing_late(folder: Path) -> None:
    """The same with a server that waits 200 ms before each reply."""
    probing(folder, delay=0.2, turns=1)


def five_connections(folder: Path) -> None:
    """500 mailboxes on a host that takes five connections: the flow, and a bare program that opens five."""
    file = mailboxes_on_stand_in(folder)
    with sandbox(file, 0.02, 5) as (settings, _), prefect_server(folder) as prefect:
        env = os.environ | settings | prefect | {"PREFECT_LOGGING_LEVEL": "ERROR", "SLOTS": "5"}
        env["OUTLOOK_IMPORT_DATABASE_URL"] = f"sqlite:///{folder}/five.db"
        flow, bare = timed(FLOW, file, env)[0], timed(BARE, file, env)[0]
    show("probing a host that takes 5, flow / bare", flow / bare, 1.2, f"{flow:.1f} s / {bare:.1f} s")


@contextmanager
def api_server(folder: Path) -> Iterator[Any]:
    """The HTTP API in a separate process, whose mailboxes are on no server; yield a client."""
    import httpx

    from schemas.settings import Settings
    from tasks.storage.api_keys import create_key
    from tasks.storage.database import database

    address = f"sqlite:///{folder}/api.db"
    with database(Settings(database_url=address)) as opened:
        key = create_key(opened, None, "bench")
    env = dict(os.environ) | {
        "OUTLOOK_IMPORT_DATABASE_URL": address,
        "OUTLOOK_IMPORT_SERVERS": '{"*": {"smtp": "127.0.0.1:9", "imap": "127.0.0.1:9"}}',
        "OUTLOOK_IMPORT_API_IMPORTS_AT_ONCE": "32",
        "OUTLOOK_IMPORT_API_REQUESTS_PER_MINUTE": "100000",
    }
    env.pop("PREFECT_API_URL", None)
    port = str(free_port())
    command = [sys.executable, "-m", "flows.api", "--port", port]
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    limits = httpx.Limits(max_connections=None)
    headers = {"X-Api-Key": key}
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers=headers, limits=limits, timeout=120
        ) as client:
            while not is_live(client):
                time.sleep(0.05)
            yield client
    finally:
        process.terminate()
        process.wait()


def is_live(client: Any) -> bool:
    import httpx

    try:
        return bool(client.get("/healthz").is_success)
    except httpx.TransportError:
        return False


def upload(client: Any, data: bytes, workspace: str) -> float:
    """Seconds from sending 500 rows to a correct response."""
    begun = time.perf_counter()
    answer = client.post(
        "/v1/mailboxes/import/outlook",
        files={"file": ("mailboxes.csv", data)},
        headers={"X-Workspace": workspace, "X-Create-Workspace": "true"},
    )
    seconds = time.perf_counter() - begun
    counts = {"imported": ROWS, "skipped": 0, "failed": 0, "errors": []}
    assert answer.json() == {"success": True, "data": counts}, answer.text
    return seconds


def import_alone(client: Any, data: bytes, workspace: str, import_id: int) -> float:
    """Seconds of an upload of 500 rows; waits until its tests, which begin then, are over."""
    seconds = upload(client, data, workspace)
    progress = {"tested": 0}
    while progress["tested"] < ROWS:
        time.sleep(0.05)
        shown = client.get(f"/v1/imports/{import_id}", headers={"X-Workspace": workspace}).json()
        progress = shown["data"]["progress"]
    return seconds


def api(folder: Path) -> None:
    """A 500-row upload, alone and 32 at once, compared with the same rows through the plain functions."""
    plain = plain_import(folder)
    data = mailboxes_csv()
    with api_server(folder) as client:
        each = [import_alone(client, data, f"turn{turn}", turn + 1) for turn in range(8)]
        best = statistics.median(each[1:])
        show(
            "upload of 500 rows / the plain functions",
            best / plain,
            3,
            f"{best * 1000:.0f} ms / {plain * 1000:.0f} ms",
        )
        begun = time.perf_counter()
        with ThreadPoolExecutor(32) as pool:
            each = list(pool.map(lambda n: upload(client, data, f"client{n}"), range(32)))
        whole = time.perf_counter() - begun
        show(
            "32 uploads at once / 32 times the plain functions",
            whole / (32 * plain),
            3,
            f"{whole:.1f} s, the slowest answer {max(each):.1f} s",
        )


def page(folder: Path) -> None:
    """The page of an import with 500 mailboxes, and its progress, compared with the JSON they are made of."""
    import httpx

    data = mailboxes_csv()
    with api_server(folder) as client:
        import_alone(client, data, "page", 1)
        key = {"key": client.headers["X-Api-Key"], "workspace": "page"}
        same = {"Sec-Fetch-Site": "same-origin", "Accept": "text/html"}
        with httpx.Client(base_url=client.base_url, headers=same, timeout=120) as browser:
            assert browser.post("/sign-in", data=key).headers["location"] == "/"

            def seconds(ask: Any, path: str) -> float:
                begun = time.perf_counter()
                answer = ask.get(path, headers={"X-Workspace": "page"})
                assert answer.status_code in (200, 286), answer.text
                return time.perf_counter() - begun

            def as_json() -> float:
                cursors = (0, ROWS // 5 * 2, ROWS // 5 * 4)
                pages = (f"/v1/mailboxes?batch=1&limit=200&cursor={cursor}" for cursor in cursors)
                return sum(seconds(client, path) for path in (*pages, "/v1/imports/1?limit=200"))

            json_seconds = median(as_json, 15)
            page_seconds = median(lambda: seconds(browser, "/imports/1"), 15)
            detail = f"{page_seconds * 1000:.0f} ms / {json_seconds * 1000:.0f} ms"
            show("page of 500 mailboxes / its JSON", page_seconds / json_seconds, 3, detail)
            size = len(browser.get("/imports/1").content)
            show("its size / 200 kB", size / 200_000, 1, f"{size / 1000:.0f} kB")
            for number in range(4):
                upload(client, data, f"beside {number}")
            slowest = max(seconds(browser, "/imports/1/live") for _ in range(20))
            bare = max(seconds(client, "/healthz") for _ in range(20))
            detail = f"the slowest {slowest * 1000:.0f} ms; of /healthz {bare * 1000:.0f} ms"
            show("progress while 4 imports are tested / a second", slowest, 1, detail)


# Imports 500 rows, then the file that is named; prints the seconds and the peak memory in bytes after each.
LARGE = """
import json, re, sys, time
from pathlib import Path
from schemas.prepare import Prepared
from schemas.settings import Settings
from tasks.prepare import prepare
from tasks.storage.database import database
from tasks.store import Origin, store

folder = Path(sys.argv[1]).parent
settings = Settings(database_url=f"sqlite:///{folder}/large.db")

def measured(path, workspace):
    begun = time.perf_counter()
    prepared = prepare.fn(Path(path), settings.max_file_bytes, bounds=settings.bounds)
    if isinstance(prepared, Prepared):
        stored = store.fn(prepared, Origin("mailboxes.csv", workspace, None, test=True), opened, settings)
        stored.summary.envelope()
        stored.summary.markdown()
    seconds = time.perf_counter() - begun
    # Not getrusage(): its peak includes that of the process that started this one.
    return seconds, 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

with database(settings) as opened:
    usual = [measured(sys.argv[1], f"turn{time.time()}") for _ in range(6)][1:]
    print(json.dumps([min(usual), measured(sys.argv[2], "large")]))
"""


def large(folder: Path) -> None:
    """10 MB of anything: time, and peak memory of the process, against an import of 500 rows."""
    usual, file = folder / "mailboxes.csv", folder / "large.csv"
    usual.write_bytes(mailboxes_csv())
    for name, make in NASTY.items():
        file.write_bytes(make(LARGE_BYTES))
        done = subprocess.run(
            [sys.executable, "-c", LARGE, str(usual), str(file)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        (usual_seconds, usual_bytes), (seconds, peak) = json.loads(done.stdout)
        detail = f"{seconds:.2f} s / {usual_seconds:.3f} s"
        show(f"{name}, 10 MB / 500 rows", seconds / usual_seconds, 20, detail)
        detail = f"{peak / MIB:.0f} MB / {usual_bytes / MIB:.0f} MB"
        show("  its peak memory / that of 500 rows", peak / usual_bytes, 2, detail)


# Sends one upload after the other until it is stopped.
UPLOADER = """
import http.client, sys
host, port, key, workspace, path = sys.argv[1:]
with open(path, "rb") as file:
    data = file.read()
head = b'--x\\r\\nContent-Disposition: form-data; name="file"; filename="large.csv"\\r\\n\\r\\n'
body = head + data + b"\\r\\n--x--\\r\\n"
headers = {"X-Api-Key": key, "X-Workspace": workspace, "X-Create-Workspace": "true"}
headers["Content-Type"] = "multipart/form-data; boundary=x"
while True:
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    connection.request("POST", "/v1/mailboxes/import/outlook", body, headers)
    answer = connection.getresponse()
    answer.read()
    print(answer.status, flush=True)
    connection.close()
"""

# The first four cost nothing but their reception, which is the floor for the others.
AT_ONCE = {
    "refused at once": ("only NUL", "only NUL", "only NUL", "only NUL"),
    "slow to parse": ("rows of quotes", "10,000 TOTP secrets", "three returns", "10,000 failed rows"),
}


@contextmanager
def uploads(client: Any, folder: Path, names: Iterable[str]) -> Iterator[list[Path]]:
    """Four processes that upload 10 MB without a pause; yields the files to which they write each status."""
    processes, written = [], []
    for number, name in enumerate(names):
        file, output = folder / f"large{number}.csv", folder / f"large{number}.txt"
        file.write_bytes(NASTY[name](LARGE_BYTES))
        url, key = client.base_url, client.headers["X-Api-Key"]
        words = [url.host, str(url.port), key, f"large{number}", str(file)]
        with output.open("w") as stdout:
            processes.append(subprocess.Popen([sys.executable, "-c", UPLOADER, *words], stdout=stdout))
        written.append(output)
    try:
        while not all(output.stat().st_size for output in written):
            time.sleep(0.05)
        yield written
    finally:
        for process in processes:
            process.kill()
            process.wait()


def healthz(client: Any, seconds: float) -> list[float]:
    """Seconds of each of many requests, with a pause between two of them."""
    found, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        begun = time.perf_counter()
        assert client.get("/healthz").is_success
        found.append(time.perf_counter() - begun)
        time.sleep(0.01)
    return found


def load(folder: Path) -> None:
    """`/healthz` and an import of another workspace, while four clients upload 10 MB after 10 MB."""
    data = mailboxes_csv()
    with api_server(folder) as client:
        for turn in range(3):
            import_alone(client, data, f"warm{turn}", turn + 1)
        quiet = healthz(client, 5)
        alone = [upload(client, data, f"alone{turn}") for turn in range(6)]
        time.sleep(15)  # until the tests of these imports are over
        for kind, names in AT_ONCE.items():
            with uploads(client, folder, names) as written:
                busy = healthz(client, 15)
                beside = [upload(client, data, f"{kind} {turn}") for turn in range(6)]
                statuses = Counter(status for output in written for status in output.read_text().split())
            answers = ", ".join(f"{number} × {status}" for status, number in statuses.items())
            for what, usual, loaded in (("/healthz", quiet, busy), ("500 rows", alone, beside)):
                was, found = statistics.median(usual), statistics.median(loaded)
                detail = f"{found * 1000:.1f} ms / {was * 1000:.1f} ms, {answers}"
                show(f"{what} beside uploads {kind} / alone", found / was, 2, detail)
                show("  the slowest / the slowest alone", max(loaded) / max(usual), math.inf, "")
            time.sleep(15)


PARTS: dict[str, Callable[[Path], None]] = {
    "pipeline": pipeline,
    "workbook": workbook,
    "large": large,
    "api": api,
    "page": page,
    "load": load,
    "check": check,
    "start-up": start_up,
    "probing": probing,
    "probing-late": probing_late,
    "five-connections": five_connections,
}


def main() -> None:
    for name in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder))


if __name__ == "__main__":
    main()
