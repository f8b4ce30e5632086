"""A line-based connection to a mail server, and the credentials for it.

`smtp` and `imap` implement the logins without a client library. The login() of such a library tries several
mechanisms (three failed logins for one wrong password), hangs if the server sends very slowly, or loses the
text of the server's reply.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import random
import re
import socket
import ssl
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import SupportsIndex

from aiohappyeyeballs import AddrInfoType, start_connection

from schemas.plaintext import Plaintext
from schemas.providers import Endpoint, is_personal_domain
from schemas.reasons import Reason, Stage

LONGEST_LINE = 16 * 1024
MOST_LINES = 200
ADDRESS_SECONDS = 10.0
NEXT_ADDRESS_SECONDS = 0.25  # RFC 8305: one dead address of a host must not use up the whole deadline


class Credentials(Plaintext):
    """A sign-in name and its unsealed password, for one login.

    Attributes:
        user: The sign-in name: the email address, unless the mailbox has another.
        used: Whether the session has reached the login.
    """

    def __init__(self, user: str, password: str) -> None:
        self.user = user
        self.password = password
        self.used = False

    @property
    def personal(self) -> bool:
        """Whether the mailbox is a personal account at Microsoft."""
        return is_personal_domain(self.user.rpartition("@")[2].lower())

    @property
    def plain(self) -> str:
        """The credentials as a message of SASL PLAIN (RFC 4616)."""
        return f"\0{self.user}\0{self.password}"


class Stopped(Exception):  # noqa: N818  it is an outcome, not an error
    """The session ended without a login, for a reason that the server's reply or its offers show."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.text = text


class HostCache:
    """What a run remembers of its servers: their addresses for some seconds, and their TLS sessions.

    Without the addresses, each login waits for a thread that looks them up. A handshake that resumes a
    session takes less processor time. Keep them for one run only: a resumed session does not show that a
    certificate has expired meanwhile.

    Attributes:
        sessions: Endpoint → the TLS session of an earlier connection.
    """

    def __init__(self) -> None:
        self.sessions: dict[Endpoint, ssl.SSLSession] = {}
        self._addresses: dict[Endpoint, tuple[float, Sequence[AddrInfoType]]] = {}

    async def addresses(self, endpoint: Endpoint) -> Sequence[AddrInfoType]:
        """The addresses of an endpoint, in another order each time, so that all of its machines get logins.

        Raises:
            OSError: If its name is not found.
        """
        loop = asyncio.get_running_loop()
        until, found = self._addresses.get(endpoint, (0.0, []))
        if loop.time() >= until:
            found = await loop.getaddrinfo(endpoint.name, endpoint.port, type=socket.SOCK_STREAM)
            self._addresses[endpoint] = loop.time() + ADDRESS_SECONDS, found
        families = [family for family, *_ in found]  # the system's choice stays: IPv6 or IPv4 first
        return sorted(random.sample(found, len(found)), key=lambda info: families.index(info[0]))

    def forget_addresses(self, endpoint: Endpoint) -> None:
        """Look the addresses up again for the next connection, because none of them accepted this one."""
        self._addresses.pop(endpoint, None)


# asyncio offers no way to hand a session to a handshake.
_offered: ContextVar[ssl.SSLSession | None] = ContextVar("offered", default=None)


class _Resuming(ssl.SSLObject):
    """A TLS connection that offers to resume a session. If the server will not, the handshake is whole."""

    _begun = False

    def do_handshake(self) -> None:
        if not self._begun:
            self._begun = True
            if (session := _offered.get()) is not None:
                self.session = session
        super().do_handshake()


@cache
def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """The SSL context of the process, cached because each one takes 15 ms and 0.7 MB.

    Args:
        ca_file: Certificate authorities (PEM) to trust in addition to the system's.

    Raises:
        OSError: If the file cannot be read or contains no certificates.
    """
    context = ssl.create_default_context()
    context.sslobject_class = _Resuming
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


class _Reader(asyncio.StreamReader):
    """A reader that keeps what it received when the connection breaks.

    Attributes:
        received: The bytes that no line has used yet.
        fault: Why the connection broke; None if it did not, or if the server closed it.
    """

    def __init__(self) -> None:
        super().__init__(limit=LONGEST_LINE)
        self.received = bytearray()
        self.fault: Exception | None = None

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self.received += bytes(data)
        super().feed_data(data)

    def set_exception(self, exc: Exception) -> None:
        self.fault = exc
        self.feed_eof()

    async def more(self) -> None:
        """Wait until something is received that was not read before.

        Raises:
            OSError: If the connection broke.
            asyncio.IncompleteReadError: If the server closed it.
        """
        if not await self.read(LONGEST_LINE):
            raise self.fault or asyncio.IncompleteReadError(bytes(self.received), None)


class Wire:
    """A line-based connection that records the stage of its session.

    Attributes:
        heard: The lines of the reply that is being read, so that a reply which never ends is not lost.
        personal: Whether the login is to a personal account at Microsoft.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        context: ssl.SSLContext,
        hosts: HostCache | None = None,
        *,
        personal: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self.context = context
        self._hosts = HostCache() if hosts is None else hosts
        self.stage = Stage.CONNECT
        self.heard: list[str] = []
        self.personal = personal
        self._reader = _Reader()
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self, *, tls: bool) -> None:
        """Connect to the endpoint, and start TLS at once if `tls` is true.

        Raises:
            OSError: If no address of the host accepts the connection.
        """
        loop = asyncio.get_running_loop()
        addresses = await self._hosts.addresses(self.endpoint)
        try:
            # asyncio's own race loses a socket if it is cancelled at the moment an address has accepted.
            connection = await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS)
        except OSError as error:
            self._hosts.forget_addresses(self.endpoint)
            raise _most_telling(error) from None
        protocol = asyncio.StreamReaderProtocol(self._reader)
        transport, _ = await loop.create_connection(lambda: protocol, sock=connection)
        self._writer = asyncio.StreamWriter(transport, protocol, self._reader, loop)
        if tls:
            await self.start_tls()

    async def start_tls(self) -> None:
        """Start TLS with a new reader, which discards plain text that was injected after the last line."""
        assert self._writer is not None  # noqa: S101
        self.stage = Stage.TLS
        loop = asyncio.get_running_loop()
        reader = _Reader()
        protocol = asyncio.StreamReaderProtocol(reader)
        offer = _offered.set(self._hosts.sessions.get(self.endpoint))
        try:
            transport = await loop.start_tls(
                self._writer.transport, protocol, self.context, server_hostname=self.endpoint.name
            )
        finally:
            _offered.reset(offer)
        if transport is None:
            raise ConnectionResetError
        protocol.connection_made(transport)
        self._plain = self._writer  # closes the connection when it is collected
        self._reader = reader
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)

    @property
    def address_literal(self) -> str:
        """The address of this client, as SMTP needs it for a client without a host name (RFC 5321, 4.1.3)."""
        assert self._writer is not None  # noqa: S101
        address = self._writer.get_extra_info("sockname")[0]
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    async def read_line(self) -> str:
        """Read one line, without its line ending; � replaces bytes that are not UTF-8."""
        received = self._reader.received
        while (end := received.find(b"\n")) < 0 and len(received) <= LONGEST_LINE:
            await self._reader.more()
        if not 0 <= end <= LONGEST_LINE:
            raise asyncio.LimitOverrunError("the line does not end", LONGEST_LINE)
        line = _text(received[:end])
        del received[: end + 1]
        self.heard.append(line)
        return line

    async def read_bytes(self, number: int) -> str:
        """Read so many bytes, as text."""
        received = self._reader.received
        while len(received) < number:
            await self._reader.more()
        text = _text(received[:number])
        del received[:number]
        return text

    def unread(self) -> list[str]:
        """The lines that were received but not read; the last one may be unfinished."""
        return [_text(line) for line in self._reader.received.split(b"\n") if line]

    async def send(self, data: bytes) -> None:
        """Send bytes unchanged."""
        assert self._writer is not None  # noqa: S101
        self._writer.write(data)
        await self._writer.drain()

    async def command(self, line: str) -> None:
        """Send one line."""
        await self.send(f"{line}\r\n".encode())

    def close(self) -> None:
        """Close the connection at once, and remember its TLS session."""
        if self._writer is not None:
            secured = self._writer.get_extra_info("ssl_object")
            # Only a new one: a copy costs as much as a handshake saves, and a ticket serves more than once.
            if secured is not None and not secured.session_reused:
                session = secured.session
                if session is not None and session.has_ticket:
                    self._hosts.sessions[self.endpoint] = session
            self._writer.transport.abort()


def _most_telling(error: OSError) -> OSError:
    """The error of one address of several: a refusal tells more than a host that cannot be reached."""
    numbers = [int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))]
    if not numbers:
        return error
    number = errno.ECONNREFUSED if errno.ECONNREFUSED in numbers else numbers[-1]
    return OSError(number, os.strerror(number))


def _text(data: bytes | bytearray) -> str:
    return data.decode("utf-8", "replace").rstrip("\r\n")


def to_base64(text: str) -> str:
    """Encode text as UTF-8 in base64."""
    return base64.b64encode(text.encode()).decode()
