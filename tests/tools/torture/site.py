"""The addresses and folders that the clients of the torture test use, and what each of them asks there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from threading import Event
from typing import Any

import httpx

from tasks.files.prefect_profile import read_profile
from tasks.storage.database import Database
from tests.support.machine import sign_in
from tests.support.postgresql import bound
from tests.support.receiver import Receiver
from tests.support.shell import PROJECT
from tests.support.visitor import Visitor
from tests.tools.torture.files import Files, Replacement, Request
from tests.tools.torture.lives import Lives


@dataclass
class Site:
    """What the clients share.

    Attributes:
        api_key: The key of the API's clients.
        page_key: The key of the people at the page.
        patience: Seconds that a client waits for the end of a run before it starts another one.
        replacements: The single passwords that were replaced.
        exports: The files that were downloaded or written, by kind.
        export_faults: What was wrong with them.
        full: Set when no new import may start.
        closed: Set when clients must stop retrying.
        commands: The command lines that are running.
    """

    folder: Path
    environment: dict[str, str]
    prefect_url: str
    profile: Path
    api_url: str
    patience: float
    files: Files
    lives: Lives
    database: Database
    receiver: Receiver
    api_key: str = ""
    page_key: str = ""
    replacements: list[Replacement] = field(default_factory=list)
    exports: list[str] = field(default_factory=list)
    export_faults: list[str] = field(default_factory=list)
    full: Event = field(default_factory=Event)
    closed: Event = field(default_factory=Event)
    commands: set[subprocess.Popen[bytes]] = field(default_factory=set)

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def watched(self) -> Path:
        return self.folder / "watched"

    @property
    def downloads(self) -> Path:
        return self.folder / "downloads"

    @property
    def prefect_login(self) -> str:
        return read_profile(self.profile)["PREFECT_API_AUTH_STRING"]

    def unfinished_files(self) -> list[str]:
        """The files in the inbox or in processing/; os.walk, because folders of claims vanish meanwhile."""
        places = (self.watched / "inbox", self.watched / "processing")
        return [name for place in places for _, _, names in os.walk(place) for name in names]

    def tries(self, one: Request) -> bool:
        """Whether to try again, after a pause unless it is the first time."""
        if one.answered or (one.tries and not one.patient) or (one.tries and self.closed.wait(1)):
            return False
        one.tries += 1
        return True

    # The command line.

    def command(self, log: str, *words: str, typed: str = "") -> tuple[int, str, str]:
        """Run a command to its end, which may be a kill: exit code, output and errors."""
        process = subprocess.Popen(
            bound([sys.executable, "-m", *words]),
            cwd=PROJECT,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.commands.add(process)
        output, errors = process.communicate(typed.encode())
        self.commands.discard(process)
        with (self.folder / "logs" / f"{log}.log").open("ab") as file:
            file.write(output + errors)
        return process.returncode, output.decode(), errors.decode()

    # The API.

    def api(self, method: str, path: str, key: str = "", **options: Any) -> httpx.Response | None:
        """The API's answer; None without one."""
        headers = {"X-Api-Key": key or self.api_key, **options.pop("headers", {})}
        try:
            return httpx.request(method, f"{self.api_url}{path}", headers=headers, timeout=30, **options)
        except httpx.TransportError:
            return None

    # Prefect.

    def create_run(self, deployment: str, key: str = "", **parameters: object) -> str | None:
        """Create a run on Prefect's server, as the form does; return its id, or None without an answer."""
        wanted: dict[str, Any] = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        if key:
            wanted["idempotency_key"] = key
        found = self.prefect("GET", f"/deployments/name/{deployment}")
        run = found and self.prefect("POST", f"/deployments/{found['id']}/create_flow_run", wanted)
        return str(run["id"]) if run else None

    def waiting_runs(self) -> int:
        """How many runs wait for a worker; one if Prefect's server does not answer."""
        late = {"before_": datetime.now(UTC).isoformat()}
        wanted = {"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": late}
        found = self.prefect("POST", "/flow_runs/count", {"flow_runs": wanted})
        return 1 if found is None else int(found)

    def prefect(self, method: str, path: str, body: object = None) -> Any:
        """An answer of Prefect's server; None if there is none, or an error."""
        try:
            with httpx.Client(base_url=self.prefect_url, timeout=20) as client:
                sign_in(client, self.profile)
                answer = client.request(method, path, json=body)
        except httpx.HTTPError:
            return None
        return answer.json() if answer.is_success else None


class Person:
    """A person at the page, who signs in again whenever the server has forgotten them."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._visitor: Visitor | None = None

    def ask(self, do: Callable[[Visitor], httpx.Response]) -> httpx.Response | None:
        """The answer to a step; None without one, and then the next step begins with the sign-in."""
        known = self._visitor is not None
        visitor = self._visitor = self._visitor or Visitor(self._site.api_url)
        answer = None
        with suppress(httpx.TransportError):
            if known or _is_in(visitor.sign_in(self._site.page_key)):
                answer = do(visitor)
        self._keep(visitor)
        if answer is not None and _is_in(answer):
            return answer
        visitor.client.close()
        self._visitor = None
        return None

    def get(self, path: str, **headers: str) -> httpx.Response | None:
        return self.ask(lambda visitor: visitor.get(path, **headers))

    def download(self, path: str) -> httpx.Response | None:
        return self.ask(lambda visitor: visitor.client.get(path))

    def _keep(self, visitor: Visitor) -> None:
        """Keep what was shown, for the search for secrets."""
        with (self._site.downloads / "pages.txt").open("a") as file:
            file.writelines(visitor.seen)
        visitor.seen.clear()


def _is_in(answer: httpx.Response) -> bool:
    return answer.status_code != HTTPStatus.UNAUTHORIZED and answer.url.path != "/sign-in"
