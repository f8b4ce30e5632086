"""The progress of an import as server-sent events, over a real connection."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import sqlalchemy as sa

from sandbox.outlook import running
from sandbox.script import Account
from schemas.settings import Settings
from schemas.tables import Mailbox, now
from tasks.storage.api_keys import revoke_key
from tasks.storage.database import Database
from tests.conftest import import_file, rows_of, with_changes, write_csv
from tests.support.shell import LIMIT_SECONDS
from tests.test_api import NOWHERE, Api, api_on, api_with, csv_of, data_of, error_of, send, wait_until


class Event(NamedTuple):
    """One event of a stream."""

    name: str
    data: Any
    id: str | None


def events_of(lines: Iterator[str]) -> Iterator[Event]:
    """The events in the lines of a stream; comments and `retry` are left out."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            if "event" in fields:
                yield Event(fields["event"], json.loads(fields["data"]), fields.get("id"))
            fields = {}


def follow(client: httpx.Client, number: int | str, **headers: str) -> list[Event]:
    """All events until the server ends the stream."""
    with client.stream("GET", f"/v1/imports/{number}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(events_of(answer.iter_lines()))


def named(events: list[Event], name: str) -> list[Event]:
    return [event for event in events if event.name == name]


def untested(db: Database, settings: Settings, folder: Path, *emails: str) -> int:
    """An import whose mailboxes wait for a test that this process never starts."""
    file = write_csv(folder / "in.csv", [[email, "p"] for email in emails])
    return import_file(db, with_changes(settings, servers=NOWHERE), file).import_id


def give_verdict(db: Database, email: str, at: datetime) -> None:
    """Store a verdict, as another process does."""
    with db.engine.begin() as connection:
        connection.execute(
            sa.update(Mailbox)
            .where(sa.column("email") == email)
            .values(status="active", tested_at=at, next_attempt_at=None, diagnosis="")
        )


def test_every_verdict_reaches_the_stream(either_settings: Settings, tmp_path: Path) -> None:
    """A stream has each mailbox once with its verdict, the progress, and an end when all tests are over."""
    accounts = {f"u{n}@contoso.com": Account("p") for n in range(20)}
    with (
        running(accounts, folder=tmp_path, delay=0.05) as outlook,
        api_on(outlook, either_settings) as api,
        api.client() as client,
    ):
        rows = [[email, "p" if email != "u7@contoso.com" else "wrong"] for email in accounts]
        number = send(client, csv_of(*rows)).headers["X-Import-Id"]
        events = follow(client, number)
        assert sorted(event.data["email"] for event in named(events, "verdict")) == sorted(accounts)
        listed = data_of(client.get("/v1/mailboxes?limit=200"))["mailboxes"]
        verdicts = {event.data["id"]: event.data for event in named(events, "verdict")}
        assert sorted(verdicts.values(), key=lambda one: one["id"]) == listed
        progress = named(events, "progress")[-1].data
        assert progress == data_of(client.get(f"/v1/imports/{number}"))["progress"]
        assert (progress["active"], progress["failed"], progress["pending"]) == (19, 1, 0)
        assert events[-1] == Event("end", {"reason": "done"}, None)
        assert follow(client, number)[-1].data == {"reason": "done"}


def test_verdicts_of_other_processes_and_late_ones_are_told(
    either_settings: Settings, tmp_path: Path
) -> None:
    """Verdicts are read from the database, also one whose time is before the last one that was told."""
    with api_with(either_settings) as api, api.client() as client:
        number = untested(api.db, either_settings, tmp_path, "ann@b.co", "bob@b.co", "eve@b.co")
        moment = now() + timedelta(seconds=20)
        told: list[str] = []
        with client.stream("GET", f"/v1/imports/{number}/events") as answer:
            for event in events_of(answer.iter_lines()):
                if event.name == "verdict":
                    told.append(event.data["email"])
                elif event.name == "progress":
                    match event.data["active"]:
                        case 0:
                            give_verdict(api.db, "ann@b.co", moment)
                        case 1:
                            give_verdict(api.db, "bob@b.co", moment - timedelta(seconds=5))
                        case 2:
                            give_verdict(api.db, "eve@b.co", moment + timedelta(seconds=1))
        assert told == ["ann@b.co", "bob@b.co", "eve@b.co"]
        assert event.data == {"reason": "done"}


def test_a_stream_is_resumed_after_the_last_event(either_settings: Settings, tmp_path: Path) -> None:
    """With `Last-Event-ID` only verdicts from shortly before that event on are sent again."""
    with api_with(either_settings) as api, api.client() as client:
        number = untested(api.db, either_settings, tmp_path, "ann@b.co", "bob@b.co", "eve@b.co")
        for minutes, email in enumerate(("ann@b.co", "bob@b.co", "eve@b.co"), 1):
            give_verdict(api.db, email, now() + timedelta(minutes=minutes))
        verdicts = named(follow(client, number), "verdict")
        assert [event.data["email"] for event in verdicts] == ["ann@b.co", "bob@b.co", "eve@b.co"]
        tested = datetime.fromisoformat(verdicts[1].data["tested_at"])
        assert datetime.fromtimestamp(int(str(verdicts[1].id)) / 10**6, UTC) - tested < timedelta(
            milliseconds=1
        )
        resumed = follow(client, number, **{"Last-Event-ID": str(verdicts[1].id)})
        assert [event.data["email"] for event in named(resumed, "verdict")] == ["bob@b.co", "eve@b.co"]
        for wrong in ("", "x", "-1", "9" * 17, "1.5"):
            refused = client.get(f"/v1/imports/{number}/events", headers={"Last-Event-ID": wrong})
            assert error_of(refused, 400) == "last-event-id: use the id of an event"


def test_an_update_is_followed_too(settings: Settings, tmp_path: Path) -> None:
    """The events of an import that updates are about the mailboxes that it updates."""
    with (
        running({"ann@contoso.com": Account("right")}, folder=tmp_path) as outlook,
        api_on(outlook, settings) as api,
        api.client() as client,
    ):
        first = send(client, csv_of(["ann@contoso.com", "wrong"])).headers["X-Import-Id"]
        assert named(follow(client, first), "verdict")[0].data["status"] == "failed"
        file = {"file": csv_of(["ann@contoso.com", "right"])}
        answer = client.post("/v1/mailboxes/import/outlook", files=file, data={"update": "true"})
        events = follow(client, answer.headers["X-Import-Id"])
    assert [event.data["status"] for event in named(events, "verdict")] == ["active"]
    assert named(events, "progress")[-1].data["active"] == 1


def test_a_mailbox_that_is_put_off_is_not_waited_for(api: Api) -> None:
    """When the servers put the mailboxes off, the stream ends although they are pending."""
    with api.client() as client:
        events = follow(client, send(client, csv_of(["ann@b.co", "p"])).headers["X-Import-Id"])
    assert named(events, "progress")[-1].data["pending"] == 1
    assert events[-1].data == {"reason": "done"}


def test_imports_of_another_workspace_are_not_followed(either_api: Api) -> None:
    """The events of an import that the workspace does not have are a 404."""
    with either_api.client("north") as north, either_api.client("south") as south:
        number = send(south, csv_of(["ann@b.co", "p"])).headers["X-Import-Id"]
        assert error_of(north.get(f"/v1/imports/{number}/events"), 404) == "No such import"
        assert error_of(north.get("/v1/imports/99/events"), 404) == "No such import"


def test_a_stream_ends_after_its_time(settings: Settings, tmp_path: Path) -> None:
    """A stream whose tests do not end tells the client to reconnect."""
    with api_with(settings, api_stream_seconds=0.3) as api, api.client() as client:
        events = follow(client, untested(api.db, settings, tmp_path, "ann@b.co"))
    assert events[-1].data == {"reason": "time"}


@pytest.mark.parametrize("limits", [{"api_streams_per_key": 2}, {"api_streams": 2}])
def test_open_streams_are_limited(settings: Settings, tmp_path: Path, limits: dict[str, int]) -> None:
    """A stream too many gets 429, and one that a client has left makes room for the next."""
    with api_with(settings, **limits) as api, api.client() as client:
        number = untested(api.db, settings, tmp_path, "ann@b.co")
        url = f"/v1/imports/{number}/events"
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(client.stream("GET", url))
            refused = client.get(url)
            assert error_of(refused, 429) == "Too many open event streams"
            assert int(refused.headers["Retry-After"]) > 0

        def status() -> int:
            with client.stream("GET", url) as answer:
                return answer.status_code

        wait_until(lambda: status() == 200)
        give_verdict(api.db, "ann@b.co", now())


def test_a_revoked_key_ends_its_streams(either_settings: Settings, tmp_path: Path) -> None:
    """A stream ends once its key is revoked, and says so."""
    with api_with(either_settings) as api:
        key = api.key()
        number = untested(api.db, either_settings, tmp_path, "ann@b.co")
        with (
            httpx.Client(base_url=api.url, headers={"X-Api-Key": key}) as client,
            client.stream("GET", f"/v1/imports/{number}/events") as answer,
        ):
            events = events_of(answer.iter_lines())
            assert next(events).name == "progress"
            assert revoke_key(api.db, key[:11])
            assert [(event.name, event.data) for event in events] == [("end", {"reason": "key"})]


def test_a_shutdown_ends_the_streams(settings: Settings, tmp_path: Path) -> None:
    """When the server stops, each stream gets its end, and the server does not wait for the client."""
    with ExitStack() as stack:
        api = stack.enter_context(api_with(settings))
        number = untested(api.db, settings, tmp_path, "ann@b.co")
        client = api.client()
        events: list[Event] = []
        begun = threading.Event()

        def read() -> None:
            with client, client.stream("GET", f"/v1/imports/{number}/events") as answer:
                for event in events_of(answer.iter_lines()):
                    events.append(event)
                    begun.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(LIMIT_SECONDS)
        stack.close()  # stops the server
        reader.join(LIMIT_SECONDS)
    assert events[-1].data == {"reason": "shutdown"}


def test_idle_streams_are_kept_alive(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream without news sends comments, for longer than a client has for its headers."""
    monkeypatch.setattr("flows.api.events.KEEP_ALIVE_SECONDS", 0.1)
    with api_with(settings, api_header_seconds=0.2) as api, api.client() as client:
        number = untested(api.db, settings, tmp_path, "ann@b.co")
        with client.stream("GET", f"/v1/imports/{number}/events") as answer:
            pings = (line for line in answer.iter_lines() if line.startswith(":"))
            assert [next(pings) for _ in range(3)] == [": ping"] * 3
        assert [row["status"] for row in rows_of(api.db, Mailbox)] == ["pending"]
