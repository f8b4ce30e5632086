"""What silent, slow and badly behaved clients can hold: a real server on loopback, and real sockets."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from flows.api.connections import Bounds, Server, address_of, bounded_server
from flows.api.errors import on_http_error
from flows.api.log import LOG_TO_STDERR, LogThrottle, WithoutQuery
from flows.api.middleware import Edge
from schemas.responses import BODY_TOO_SLOW, HEADERS_TOO_SLOW, TOO_MANY_BODIES, TOO_MANY_CONNECTIONS
from tests.support.machine import wait_for

# Short times, so that each limit is reached within a second or two.
QUICK = Bounds(
    header_seconds=0.5,
    idle_seconds=1,
    body_rate=1000,
    body_window_seconds=0.5,
    body_seconds=2,
    answer_seconds=1,
    drain_seconds=2,
)
BIG = 20_000_000
GET_BIG = b"GET /big?size=%d HTTP/1.1\r\nHost: x\r\n\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def app_with(bounds: Bounds) -> FastAPI:
    app = FastAPI(exception_handlers={HTTPException: on_http_error})
    app.add_middleware(Edge, limit=10**6, bounds=bounds)

    @app.get("/healthz")
    async def healthz() -> str:
        return "live"

    @app.post("/upload")
    async def upload(request: Request) -> int:
        return sum([len(piece) async for piece in request.stream()])

    @app.get("/big")
    async def big(size: int) -> Response:
        return Response(b"x" * size)

    @app.get("/work")
    def work(seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    return app


@contextmanager
def serving(bounds: Bounds) -> Iterator[tuple[int, Server]]:
    server = bounded_server(app_with(bounds), bounds, host="127.0.0.1", port=0, log_config=None)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield server.servers[0].sockets[0].getsockname()[1], server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def port() -> Iterator[int]:
    with serving(QUICK) as (port, _):
        yield port


class Client:
    """A client that sends exactly these bytes, when the test says so."""

    def __init__(self, port: int, data: bytes = b"", source: str = "127.0.0.1", buffer: int = 0) -> None:
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(10)
        self.socket.bind((source, 0))
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(data)
        self.born = time.monotonic()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """One response: status, headers and body; (0, {}, b"") if the server closes without one."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.socket.recv(65536)
            if not piece:
                assert data == b""
                return 0, {}, b""
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        while len(body) < int(headers["content-length"]) and (piece := self.socket.recv(65536)):
            body += piece
        return int(first.split()[1]), headers, body

    def is_closed(self) -> bool:
        """Wait for the server to close."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    @property
    def age(self) -> float:
        return time.monotonic() - self.born


def upload(length: int) -> bytes:
    return b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length


def message_of(body: bytes) -> str:
    text: str = json.loads(body)["error"]["message"]
    return text


def many(stack: ExitStack, port: int, count: int, source: str = "127.0.0.1") -> list[Client]:
    return [stack.enter_context(Client(port, source=source)) for _ in range(count)]


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Connections ---------------------------------------------------------


@pytest.mark.parametrize("limited", ["connections", "connections_per_address"])
def test_connections_beyond_the_cap_are_refused_and_the_others_served(limited: str) -> None:
    """The sixth connection gets 503 at once, open ones still work, and a free place is used again."""
    bounds = replace(QUICK, header_seconds=30, **{limited: 5})
    with serving(bounds) as (port, _), ExitStack() as stack:
        held = many(stack, port, 5)
        with Client(port, GET) as sixth:
            status, headers, body = sixth.answer()
            assert (status, message_of(body)) == (503, TOO_MANY_CONNECTIONS)
            assert int(headers["retry-after"]) > 0
            assert headers["connection"] == "close"
            assert sixth.is_closed()
        with Client(port) as silent:
            assert silent.answer()[0] == 503
            assert silent.is_closed()
        with Client(port, GET, source="127.0.0.2") as elsewhere:
            assert elsewhere.answer()[0] == (503 if limited == "connections" else 200)
        held[0].send(GET)
        assert held[0].answer()[0] == 200
        held[1].socket.close()
        time.sleep(0.1)
        with Client(port, GET) as next_one:
            assert next_one.answer()[0] == 200


def test_refusal_survives_a_body_that_is_still_being_sent() -> None:
    """A client that is still sending its body can read the 503."""
    with serving(replace(QUICK, connections_per_address=0)) as (port, _):
        for _ in range(20):
            with Client(port, upload(500_000) + b"x" * 300_000) as client:
                client.send(b"x" * 200_000)
                assert client.answer()[0] == 503


@pytest.mark.parametrize("reset", [False, True])
def test_refusal_of_a_client_that_has_left_logs_no_error(
    reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The response to a connection that is already closed or reset is dropped."""
    with serving(replace(QUICK, connections_per_address=0)) as (port, server):
        for _ in range(200):
            with Client(port) as client:
                if reset:
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: not server.server_state.connections)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_connections_are_counted_exactly() -> None:
    """A connection that has ended is no longer counted, however it ended."""
    with serving(replace(QUICK, connections=20)) as (port, server):
        endings = [
            b"",
            b"GET / HT",
            b"nonsense\r\n\r\n",
            GET,
            upload(10) + b"x",
            GET_BIG % BIG,
        ]
        for _ in range(5):
            with ExitStack() as stack:
                for data in endings * 5:
                    stack.enter_context(Client(port, data))
                time.sleep(0.05)
        wait_until(lambda: not server.server_state.connections)
        assert server.server_state._open == 0
        assert not server.server_state._by_address
        assert server.server_state._refusals_left == server.config.backlog


def test_an_ipv6_network_counts_as_one_address() -> None:
    """Addresses of one /64 network share a limit; an IPv4 address in IPv6 form is the IPv4 address."""
    assert (
        address_of(("2001:db8::1", 1))
        == address_of(("2001:db8::2:3", 1))
        != address_of(("2001:db8:0:1::1", 1))
    )
    assert address_of(("::ffff:192.0.2.1", 1)) == address_of(("192.0.2.1", 2)) == "192.0.2.1"
    assert address_of(("fe80::1%eth0", 1)) == "fe80::/64"
    assert address_of(None) == ""


def test_connections_use_at_most_half_of_the_files() -> None:
    """The limit follows the number of open files allowed, but permits at least one connection."""
    assert Bounds().within(1024).connections == 500
    assert Bounds().within(256).connections == 128
    assert Bounds().within(1).connections == 1


# Headers -------------------------------------------------------------


def test_silent_connection_is_closed(port: int) -> None:
    """A connection without a byte gets no response, which could be taken for that of a request."""
    with Client(port) as client:
        assert client.answer()[0] == 0
        assert 0.4 < client.age < 2


@pytest.mark.parametrize("drip", [False, True])
def test_headers_have_a_deadline(port: int, drip: bool) -> None:
    """A partial header ends with 408, whether the rest does not come or comes byte by byte."""
    with Client(port, b"GET /healthz HT") as client:
        while drip and client.age < 0.4:
            client.send(b"x")
            time.sleep(0.1)
        status, _, body = client.answer()
        assert (status, message_of(body)) == (408, HEADERS_TOO_SLOW)
        assert 0.4 < client.age < 2
        assert client.is_closed()


def test_idle_connection_is_closed_and_the_next_headers_have_their_own_deadline(port: int) -> None:
    """After a response a client has time until its next request, which has its own deadline."""
    with Client(port, GET) as idle, Client(port, GET) as slow:
        assert idle.answer()[0] == slow.answer()[0] == 200
        time.sleep(0.7)  # longer than headers may take, shorter than a connection may be idle
        slow.send(GET)
        assert slow.answer()[0] == 200
        slow.send(b"GET /hea")
        assert slow.answer()[0] == 408
        assert idle.answer()[0] == 0
        assert 0.9 < idle.age < 2.5


def test_work_of_the_server_has_no_deadline(port: int) -> None:
    """A request that takes the server itself a long time is answered."""
    with Client(port, b"GET /work?seconds=1.3 HTTP/1.1\r\nHost: x\r\n\r\n") as client:
        assert client.answer()[0] == 200


def test_malformed_body_after_the_answer_began_ends_the_connection_quietly(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """h11 allows no second response, and the log has no traceback."""
    begin = b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    with Client(port, begin) as client:
        assert client.answer()[0] == 405
        client.send(b"zz\r\n")
        assert client.is_closed()
        assert client.age < 1.5
    assert not [record for record in caplog.records if record.exc_info]


# Bodies --------------------------------------------------------------


def test_stalled_body_ends_with_408(port: int) -> None:
    """Half a body gets 408 in the envelope, and the connection is closed."""
    with Client(port, upload(100) + b"x" * 50) as client:
        status, headers, body = client.answer()
        assert (status, message_of(body)) == (408, BODY_TOO_SLOW)
        assert headers["connection"] == "close"
        assert 0.4 < client.age < 2


def test_body_that_stalls_after_a_fast_start_ends_with_408(port: int) -> None:
    """Half a megabyte at once gives no extra time for the rest."""
    with Client(port, upload(900_000) + b"x" * 500_000) as client:
        assert client.answer()[0] == 408
        assert client.age < 3


def test_body_below_the_minimum_rate_ends_with_408(port: int) -> None:
    """A body that keeps arriving, but too slowly, ends with 408 as well."""
    with Client(port, upload(10_000)) as client:
        while client.age < 0.45:
            client.send(b"x" * 10)  # 200 bytes a second
            time.sleep(0.05)
        assert client.answer()[0] == 408
        assert client.age < 2


def test_slow_body_above_the_minimum_rate_is_read_to_its_end(port: int) -> None:
    """A body that takes more than two windows is accepted."""
    with Client(port, upload(2400)) as client:
        for _ in range(12):
            client.send(b"x" * 200)  # 2,000 bytes a second
            time.sleep(0.1)
        assert client.answer()[::2] == (200, b"2400")
        assert client.age > 1.1


def test_body_has_a_deadline(port: int) -> None:
    """A body above the minimum rate still has a deadline."""
    with Client(port, upload(10**6)) as client:
        client.socket.settimeout(0.1)
        while client.age < 6:
            client.send(b"x" * 200)
            with suppress(TimeoutError):
                assert client.answer()[0] == 408
                break
        assert 1.9 < client.age < 4


def test_bodies_share_a_limit_on_memory() -> None:
    """Received bytes count, announced ones do not, and the end of a request frees its own."""
    bounds = replace(QUICK, body_memory=1000, body_window_seconds=30)
    with serving(bounds) as (port, _), Client(port, upload(900)) as first:
        time.sleep(0.1)
        for _ in range(3):
            with Client(port, upload(900) + b"x" * 900) as client:
                assert client.answer()[::2] == (200, b"900")
        first.send(b"x" * 600)
        time.sleep(0.1)
        with Client(port, upload(900) + b"x" * 900) as client:
            status, headers, body = client.answer()
            assert (status, message_of(body)) == (503, TOO_MANY_BODIES)
            assert int(headers["retry-after"]) > 0
        first.send(b"x" * 300)
        assert first.answer()[0] == 200


# Answers -------------------------------------------------------------


@pytest.mark.parametrize("size", [50_000, BIG])
def test_reader_that_does_not_read_is_disconnected(size: int) -> None:
    """A client that reads nothing for a second is disconnected, even if asyncio can buffer the response."""
    with serving(QUICK) as (port, server):
        # Sockets that the server accepts inherit this, so that little of the response fits into the kernel.
        server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with Client(port, GET_BIG % size, buffer=4096) as client:
            wait_until(lambda: bool(server.server_state.connections))
            wait_until(lambda: not server.server_state.connections)
            assert 0.9 < client.age < 5
            with suppress(ConnectionError):
                assert len(client.answer()[2]) < size


def test_slow_reader_gets_it_all() -> None:
    """A pause in reading that is shorter than the limit does no harm."""
    with (
        serving(replace(QUICK, answer_seconds=10)) as (port, _),
        Client(port, GET_BIG % BIG, buffer=65536) as client,
    ):
        time.sleep(0.7)
        assert len(client.answer()[2]) == BIG


# The log -------------------------------------------------------------


def test_log_is_throttled_and_counts_what_it_left_out() -> None:
    """Warnings of one kind beyond the limit are dropped and counted; others and the access log pass."""
    throttle = LogThrottle(most=3, seconds=10)

    def passed(moment: float, text: str, level: int = logging.WARNING) -> str | None:
        record = logging.LogRecord("flows", level, "", 0, text, (7,), None)
        record.created = moment
        return record.getMessage() if throttle.filter(record) else None

    assert [passed(n, "Refused %d") for n in range(9)].count("Refused 7") == 3
    assert passed(9, "Failed %d") == "Failed 7"
    assert all(passed(9, "Served %d", logging.INFO) for _ in range(9))
    assert passed(11, "Refused %d") == "Refused 7 (and 6 more like it)"
    assert passed(11, "Refused %d") == "Refused 7"
    assert passed(11, "Failed %d") == "Failed 7"


def test_the_access_log_leaves_out_what_is_searched_for() -> None:
    """A line about a request has its path without the query, which may hold a part of an address."""
    arguments = ("127.0.0.1:5", "GET", "/imports/1?q=anna%40contoso", "1.1", 200)
    record = logging.LogRecord(
        "uvicorn.access", logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d', arguments, None
    )
    assert WithoutQuery().filter(record)
    assert record.getMessage() == '127.0.0.1:5 - "GET /imports/1 HTTP/1.1" 200'
    record.args = ("127.0.0.1:5", "GET", "/" * 60_000, "1.1", 404)
    assert WithoutQuery().filter(record)
    assert len(record.getMessage()) < 300


# The process ---------------------------------------------------------


class Process:
    """The server in a separate process."""

    def __init__(self, folder: Path, files: int, **bounds: Any) -> None:
        self._log = folder / "log"

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

        with self._log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, __file__, json.dumps(bounds)], stderr=log, stdout=log, preexec_fn=limit
            )
        deadline = time.monotonic() + 20
        while not (found := re.search(r"running on http://127.0.0.1:(\d+)", self.log)):
            assert self.popen.poll() is None, self.log
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.port = int(found[1])

    @property
    def log(self) -> str:
        return self._log.read_text()

    def cpu_seconds(self) -> float:
        user, system = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def files(self) -> int:
        return len(list(Path(f"/proc/{self.popen.pid}/fd").iterdir()))

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """The exit code, and the seconds from the signal to the server's end, by its log.

        How long Python then takes to end depends on the machine's other work.
        """
        self.popen.send_signal(number)
        code = self.popen.wait(30)
        found = re.findall(r"(?m)^(\S+ \S+),(\d+) .*: (?:Shutting down|Finished server process.*)$", self.log)
        began, ended = (datetime.fromisoformat(f"{moment}.{part}") for moment, part in found)
        return code, (ended - began).total_seconds()


@contextmanager
def process(folder: Path, files: int = 1024, **bounds: Any) -> Iterator[Process]:
    started = Process(folder, files, **bounds)
    try:
        yield started
    finally:
        if started.popen.poll() is None:
            started.popen.kill()
            started.popen.wait()


@pytest.mark.slow
@pytest.mark.parametrize("per_address", [100, 2000])
def test_1100_silent_connections_cost_next_to_nothing(tmp_path: Path, per_address: int) -> None:
    """With 1,024 files, the server refuses connections before it runs out of files, and stays idle."""
    with (
        process(tmp_path, connections_per_address=per_address, header_seconds=6) as server,
        ExitStack() as stack,
    ):
        before, began = server.cpu_seconds(), time.monotonic()
        most = 0
        for _ in range(110):
            many(stack, server.port, 10)
            most = max(most, server.files())
        with Client(server.port, GET, source="127.0.0.2") as other:
            assert other.answer()[0] == (200 if per_address == 100 else 503)
        time.sleep(2)
        took = time.monotonic() - began
        assert took < 6, "this has to be measured before the silent connections are closed"
        assert (server.cpu_seconds() - before) / took < 0.5
        assert most < 1024
        assert len(server.log) < 20_000
        assert "Traceback" not in server.log
        stack.close()
        time.sleep(0.5)
        with Client(server.port, GET) as after:
            assert after.answer()[0] == 200
        assert server.files() < 50
        assert server.end()[0] == 0


@pytest.mark.slow
def test_shutdown_is_quiet_and_in_time_whatever_clients_do(tmp_path: Path) -> None:
    """SIGTERM ends the server within the drain time with code 0 and no error, and finishes its work."""
    with (
        process(tmp_path, drain_seconds=3, header_seconds=60, body_window_seconds=60) as server,
        ExitStack() as stack,
    ):
        for data in (b"", b"GET / HT", upload(100) + b"x", GET + b"GET /he"):
            stack.enter_context(Client(server.port, data))
        stack.enter_context(Client(server.port, GET_BIG % BIG, buffer=4096))
        stack.enter_context(
            Client(server.port, GET_BIG.replace(b"x", b"x\r\nConnection: close") % BIG, buffer=4096)
        )
        working = stack.enter_context(
            Client(server.port, b"GET /work?seconds=1.5 HTTP/1.1\r\nHost: x\r\n\r\n")
        )
        time.sleep(0.5)
        code, seconds = server.end()
        assert code == 0
        assert seconds < 3, "before uvicorn would cancel what is left"
        assert "Traceback" not in server.log
        assert "ERROR" not in server.log
        assert working.answer()[0] == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_shutdown_with_silent_connections_only_is_immediate(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C end an idle server within a second, with code 0."""
    with process(tmp_path, header_seconds=60) as server, ExitStack() as stack:
        many(stack, server.port, 20)
        with Client(server.port, GET) as idle:
            assert idle.answer()[0] == 200
            code, seconds = server.end(number)
        assert code == 0
        assert seconds < 1
        assert "Traceback" not in server.log


def test_a_second_ctrl_c_waits_for_no_request(tmp_path: Path) -> None:
    """While requests are open, a second Ctrl-C ends the server at once, with code 0 and no traceback."""
    with process(tmp_path, drain_seconds=30) as server, Client(server.port, GET_BIG % BIG, buffer=4096):
        time.sleep(0.3)
        server.popen.send_signal(signal.SIGINT)
        wait_for("its shutdown", lambda: "Waiting for connections to close" in server.log, 10)
        code, seconds = server.end(signal.SIGINT)
    assert code == 0
    assert seconds < 5
    assert "Traceback" not in server.log
    assert "ERROR" not in server.log


@pytest.mark.slow
def test_shutdown_is_quiet_when_work_outlasts_it(tmp_path: Path) -> None:
    """The server ends in time, and the process when its thread has ended, because it cannot be stopped."""
    with process(tmp_path, drain_seconds=1) as server:
        with Client(server.port, b"GET /work?seconds=3 HTTP/1.1\r\nHost: x\r\n\r\n") as client:
            time.sleep(0.3)
            code, seconds = server.end()
            assert client.is_closed()
        assert code == 0
        assert seconds < 2
        assert "Traceback" not in server.log


def serve(changes: dict[str, Any]) -> None:
    bounds = replace(Bounds(), **changes)
    bounded_server(app_with(bounds), bounds, host="127.0.0.1", port=0, log_config=LOG_TO_STDERR).run()


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
