"""A client for each way in, which imports file after file and retries until it gets an answer."""

from __future__ import annotations

import csv
import html
import io
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from http import HTTPStatus

import httpx

from tests.support.visitor import kept_in
from tests.tools.torture.changes import grow_older, look_at_reports, replace_one, update_file
from tests.tools.torture.files import Counts, Import
from tests.tools.torture.site import Person, Site

WAYS = ("command line", "watched folder", "form", "API", "page")
UPDATES = 0.5  # of the files that a client imports, if there are passwords to replace
SINGLE = 0.2  # of the updates replace one password without a file
MOST_DROPPED = 4  # files that wait in the inbox
POLL_SECONDS = 0.5
TESTS_ENDED = 286
REST = {"API": 3, "page": 2}  # times as long as the others, because they need almost no time
NOTHING = "There is nothing to import"
REFUSAL = re.compile(r"cannot be imported</h2>\s*<p><b>(.*?)\.</b>")


def feed(site: Site, pool: ThreadPoolExecutor, rest: float, seed: int) -> list[Future[None]]:
    """Start importing by all ways at once; each client waits this many seconds between two files."""
    clients: dict[str, Callable[[Site, Import], None]] = {
        "command line": run_command,
        "watched folder": drop,
        "form": fill_in_form,
        "API": upload,
    }

    def go_on(way: str, number: int) -> None:
        dice, person = random.Random(f"{seed} {number}"), Person(site)  # noqa: S311
        while not site.full.is_set():
            single = way in ("command line", "API") and dice.random() < SINGLE
            if not single or not replace_one(site, way, dice):
                import_next(way, dice, person)
            site.full.wait(REST.get(way, 1) * rest)

    def import_next(way: str, dice: random.Random, person: Person) -> None:
        wanted = way != "watched folder" and dice.random() < UPDATES
        one = (update_file(site, way, dice, person) if wanted else None) or site.files.make(way)
        if way == "page":
            import_on_page(site, one, person)
        else:
            clients[way](site, one)
        if one.update and one.answered:
            site.lives.leave(one.secrets)

    ways = (*WAYS, "form", "API")  # two of each of these at once
    started = [pool.submit(go_on, way, number) for number, way in enumerate(ways)]
    started.append(pool.submit(grow_older, site, 3 * rest, random.Random(seed)))  # noqa: S311
    started.append(pool.submit(look_at_reports, site, 3 * rest, random.Random(seed)))  # noqa: S311
    return started


def run_command(site: Site, one: Import) -> None:
    path = site.source / one.name
    path.write_bytes(one.content)
    words = ["flows.import_outlook", str(path), "--json", "--report", str(site.folder / "reports" / one.name)]
    words += ["--update"] if one.update else []
    while site.tries(one):
        code, output, _ = site.command(one.name, *words)
        if code in (0, 1):
            record_envelope(one, output)


def record_envelope(one: Import, text: str) -> None:
    """Record what the contract's envelope says."""
    try:
        envelope = json.loads(text)
    except ValueError:
        one.faults.append(f"no envelope but {text[:80]!r}")
        return
    if envelope["success"]:
        data = envelope["data"]
        one.counts = Counts(data["imported"], data["skipped"], data["failed"], data.get("updated", 0))
    else:
        one.refused_with = envelope["error"]["message"]


def drop(site: Site, one: Import) -> None:
    """Put a file into the inbox in one step; its outcome is checked at the end."""
    draft = site.watched / "inbox" / f".{one.name}"
    draft.write_bytes(one.content)
    draft.rename(draft.with_name(one.name))
    one.tries = 1
    while len(site.unfinished_files()) >= MOST_DROPPED and not site.full.wait(1):
        pass


# --- Prefect's form --------------------------------------------------


def fill_in_form(site: Site, one: Import) -> None:
    path = site.source / one.name
    path.write_bytes(one.content)
    while site.tries(one):
        key = f"{one.name} {one.tries}"
        run_id = site.create_run("import-outlook/manual", key, file=str(path), tag="form", update=one.update)
        if run_id is not None:
            record_run(one, watch_run(site, run_id))


def watch_run(site: Site, run_id: str) -> dict[str, str]:
    """The state in which a run ends; empty if that takes longer than the client waits."""
    deadline = time.monotonic() + site.patience
    while time.monotonic() < deadline and not site.closed.wait(1):
        run = site.prefect("GET", f"/flow_runs/{run_id}")
        if run and run["state"]["type"] in ("COMPLETED", "FAILED", "CANCELLED", "CRASHED"):
            return {"type": run["state"]["type"], "message": run["state"]["message"] or ""}
        if run and run["state"]["type"] == "SCHEDULED":  # no worker has taken it yet
            deadline = time.monotonic() + site.patience
    return {}


def record_run(one: Import, state: Mapping[str, str]) -> None:
    if state.get("type") == "COMPLETED":
        words = state["message"].partition(";")[0].replace(",", "").split()
        one.counts = Counts(**dict(zip(words[::2], map(int, words[1::2]), strict=True)))
    elif state.get("type") == "FAILED" and one.refusal and state["message"].startswith(one.refusal):
        one.refused_with = state["message"]


# --- The API ---------------------------------------------------------


def upload(site: Site, one: Import) -> None:
    """A client of the HTTP API: each retry has the same key, and sometimes it repeats an answered request."""
    while site.tries(one):
        post(site, one)
    if one.counts is not None and one.sent_again:
        post(site, one)


def post(site: Site, one: Import) -> None:
    answer = site.api(
        "POST",
        "/v1/mailboxes/import/outlook",
        headers={"Idempotency-Key": one.name},
        files={"file": (one.name, one.content)},
        data={"update": "true"} if one.update else {},
    )
    if answer is None:
        return
    if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        time.sleep(int(answer.headers["Retry-After"]))
    elif answer.status_code in (HTTPStatus.OK, HTTPStatus.BAD_REQUEST):
        before = (one.counts, one.import_id) if one.counts else None
        record_envelope(one, answer.text)
        one.import_id = int(answer.headers.get("X-Import-Id", 0))
        if before not in (None, (one.counts, one.import_id)):
            one.faults.append("another answer to the same key")
    elif answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
        one.faults.append(f"answered with {answer.status_code}")


# --- The page --------------------------------------------------------


def import_on_page(site: Site, one: Import, person: Person) -> None:
    """Choose a file, look at what its import would do, import it, and watch its tests."""
    fields = {"update": "true"} if one.update else {}
    while site.tries(one):
        page = person.ask(lambda visitor: visitor.check(one.content, one.name, **fields))
        if not is_good(one, page) or page is None:
            continue
        if refusal := REFUSAL.search(page.text):
            one.refused_with = html.unescape(refusal[1])
            continue
        if NOTHING not in page.text:
            kept = kept_in(page)
            page = person.ask(lambda visitor, kept=kept: visitor.post("/imports", kept=kept))  # type: ignore[misc]
            number = re.fullmatch(r"/imports/(\d+)", page.url.path) if page is not None else None
            if not is_good(one, page) or number is None:
                continue
            one.import_id = int(number[1])
            watch_tests(site, one, person)
        elif page := person.get("/imports"):  # stored by an earlier try whose answer was lost
            found = re.search(rf'href="/imports/(\d+)">\d+: <bdi>{re.escape(one.name)}<', page.text)
            one.import_id, one.nothing = int(found[1]) if found else 0, found is None
        if one.import_id:
            one.counts = counts_in_report(one, person)


def is_good(one: Import, answer: httpx.Response | None) -> bool:
    """Whether a step succeeded. Records an answer that no kill explains."""
    if answer is None or answer.is_success:
        return answer is not None
    # A checked upload is gone when the server was killed, and with it the session.
    expected = {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}
    if answer.status_code not in expected:
        one.faults.append(f"the page answered with {answer.status_code}")
    return False


def watch_tests(site: Site, one: Import, person: Person) -> None:
    """Follow the tests as a browser does, until they end or the person loses patience."""
    deadline = time.monotonic() + site.patience
    while time.monotonic() < deadline and not site.closed.wait(POLL_SECONDS):
        answer = person.get(f"/imports/{one.import_id}/live", **{"HX-Request": "true"})
        if is_good(one, answer) and answer is not None and answer.status_code == TESTS_ENDED:
            person.get(f"/imports/{one.import_id}")
            return


def counts_in_report(one: Import, person: Person) -> Counts | None:
    answer = person.download(f"/imports/{one.import_id}/report.csv")
    if not is_good(one, answer) or answer is None:
        return None
    rows = csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"), newline=""))
    results = Counter(row["result"] for row in rows)
    return Counts(results["imported"], results["skipped"], results["failed"], results["updated"])
