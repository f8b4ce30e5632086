"""Limit what silent and slow clients can hold: connections, request headers and unread responses.

uvicorn has no such limits. `flows.api.bodies` limits slow request bodies.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import resource
import signal
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from flows.api.errors import RETRY_LATER, error_response
from schemas.responses import HEADERS_TOO_SLOW, TOO_MANY_CONNECTIONS

ACCEPTED_AT_ONCE = 64
QUEUE = 1024  # connections that the kernel holds until the server accepts them
REFUSAL_SECONDS = 1.0
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bounds:
    """How much a client can hold, and for how long. Times are in seconds, sizes in bytes.

    Attributes:
        connections: Maximum number of open connections.
        connections_per_address: The same for one IPv4 address or IPv6 /64 network.
        header_seconds: Time for the headers of a request.
        idle_seconds: Time between two requests on a connection.
        body_rate: Minimum rate of a body, per second, in each window.
        body_window_seconds: Length of a window.
        body_seconds: Time for a whole body.
        body_memory: Maximum size of all bodies together.
        answer_seconds: Time in which the client has to read what was sent.
        drain_seconds: Time from SIGTERM to the end.
    """

    connections: int = 500
    connections_per_address: int = 100
    header_seconds: float = 10
    idle_seconds: int = 5
    body_rate: int = 1000
    body_window_seconds: float = 10
    body_seconds: float = 600
    body_memory: int = 256 * 2**20
    answer_seconds: float = 60
    drain_seconds: int = 30

    def within(self, files: int) -> Bounds:
        """The same bounds, with connections using at most half of the files that the process can open."""
        return replace(self, connections=max(min(self.connections, files // 2), 1))


class Connections(ServerState):
    """What all connections share: uvicorn's state, and how many are open from each address."""

    def __init__(self, bounds: Bounds, refusals_at_once: int) -> None:
        super().__init__()
        self.bounds = bounds
        self._open = 0
        self._by_address: Counter[str] = Counter()
        self._refusals_left = refusals_at_once

    def admit(self, address: str) -> bool:
        """Count a new connection, or return False if there are too many."""
        from_there = self._by_address[address]
        if self._open >= self.bounds.connections or from_there >= self.bounds.connections_per_address:
            LOGGER.warning("Refused a connection: %d are open, %d from its address", self._open, from_there)
            return False
        self._open += 1
        self._by_address[address] += 1
        return True

    def release(self, address: str) -> None:
        """Stop counting a connection that `admit` counted."""
        self._open -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def begin_refusal(self) -> bool:
        """Whether one more refused connection can stay open until its client has read why."""
        if not self._refusals_left:
            return False
        self._refusals_left -= 1
        return True

    def end_refusal(self) -> None:
        self._refusals_left += 1

    def cut(self) -> None:
        """Abort all connections. Their requests see a client that has left, and end without an error."""
        for connection in list(self.connections):
            connection.transport.abort()


class Deadline:
    """A timer. Starting it while it runs changes nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float, end: Callable[[], None]) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, end)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with limits, and with the envelope in every error response."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(server_state, Connections)  # noqa: S101  `Server` makes both
        self._shared = server_state
        self._bounds = server_state.bounds
        self._address = ""
        self._admitted = self._refusing = False
        self._deadline = Deadline(self.loop)  # for the headers, or for the refusal
        self._answer_deadline = Deadline(self.loop)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        # Without a buffer, asyncio calls `pause_writing` for every byte that the client does not read.
        transport.set_write_buffer_limits(high=0)
        self._address = address_of(self.client)
        self._admitted = self._shared.admit(self._address)
        if self._admitted:
            self._watch_headers()
        else:
            self._refuse()

    def _refuse(self) -> None:
        self._answer(HTTPStatus.SERVICE_UNAVAILABLE, TOO_MANY_CONNECTIONS, RETRY_LATER)
        self._refusing = self._shared.begin_refusal()
        if self._refusing:
            # Closing while the client still sends would reset the connection, and lose the response.
            with suppress(OSError):  # the client has already left
                self.transport.write_eof()
            self._deadline.start(REFUSAL_SECONDS, self.transport.close)
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._admitted:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._deadline.stop()
        self._answer_deadline.stop()
        if self._admitted:
            self._shared.release(self._address)
        elif self._refusing:
            self._shared.end_refusal()

    # Headers -----------------------------------------------------------

    def handle_events(self) -> None:
        super().handle_events()
        self._watch_headers()

    def _watch_headers(self) -> None:
        """Run the deadline while headers are due: when the connection opens, later from their first byte."""
        begun, _ = self.conn.trailing_data
        if self.conn.their_state is h11.IDLE and (self.cycle is None or begun):
            self._deadline.start(self._bounds.header_seconds, self._end_headers)
        else:
            self._deadline.stop()

    def _end_headers(self) -> None:
        begun, _ = self.conn.trailing_data
        if begun:  # otherwise the client could take this for the response to its next request
            self._answer(HTTPStatus.REQUEST_TIMEOUT, HEADERS_TOO_SLOW)
        self.transport.close()

    # Responses ---------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the request ends as if the client had left
            self.cycle.message_event.set()
        # h11 allows no second response, and no body in the response to HEAD.
        malformed_body = self.conn.our_state is h11.SEND_RESPONSE and self.scope["method"] != "HEAD"
        if self.conn.our_state is h11.IDLE or malformed_body:
            self._answer(HTTPStatus.BAD_REQUEST, msg)
        self.transport.close()

    def _answer(self, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> None:
        answer = error_response(status, message, {**(headers or {}), "connection": "close"})
        reason = status.phrase.encode()
        events = (
            h11.Response(status_code=status, headers=answer.raw_headers, reason=reason),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        )
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer_deadline.start(self._bounds.answer_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._answer_deadline.stop()


def address_of(client: tuple[str, int] | None) -> str:
    """The address that limits count by: an IPv4 address, or an IPv6 /64 network, which is one customer."""
    try:
        address = ipaddress.ip_address(client[0].partition("%")[0] if client else "")
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.IPv6Network((address, 64), strict=False))
    return str(address)


class Server(uvicorn.Server):
    """A uvicorn server that limits its clients, and shuts down quietly and in time."""

    server_state: Connections

    def __init__(self, config: uvicorn.Config, bounds: Bounds, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._bounds = bounds
        self._end_streams = end_streams
        self.server_state = Connections(bounds, refusals_at_once=config.backlog)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  uvicorn's signature
        """Begin the shutdown; with a second Ctrl-C, wait for no request.

        uvicorn would raise the signal again at the end, and skip the end of the application at the second:
        a traceback each.
        """
        if self.should_exit and sig == signal.SIGINT:
            # uvicorn handles signals only while its loop runs, in the loop's thread.
            asyncio.get_running_loop().call_soon_threadsafe(self.server_state.cut)
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # asyncio uses `backlog` twice: as the kernel's queue, and as the number of connections to accept at
        # once. Only the second has to be small. With a short queue, clients wait for seconds in a burst.
        for server in self.servers:
            for listener in server.sockets:
                with listener.dup() as same:
                    same.listen(QUEUE)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end_streams()
        # Shortly before uvicorn cancels the remaining requests, which logs a traceback for each.
        cut = asyncio.get_running_loop().call_later(0.9 * self._bounds.drain_seconds, self.server_state.cut)
        await super().shutdown(sockets)
        cut.cancel()


def bounded_server(
    app: ASGIApp, bounds: Bounds, end_streams: Callable[[], None] = lambda: None, **options: Any
) -> Server:
    """A server, ready to run.

    Args:
        end_streams: Called when the shutdown begins, which waits for open responses.
        options: Options of `uvicorn.Config`, such as host and port.
    """
    bounds = bounds.within(files := open_files())
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        loop="asyncio",  # the next line depends on how it accepts connections
        # Up to three times as many are open before the first can be refused, and each one is an open file.
        backlog=max(min(ACCEPTED_AT_ONCE, files // 16), 1),
        timeout_keep_alive=bounds.idle_seconds,
        timeout_graceful_shutdown=bounds.drain_seconds,
        **options,
    )
    return Server(config, bounds, end_streams)


def open_files() -> int:
    """How many files this process can open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 2**20
