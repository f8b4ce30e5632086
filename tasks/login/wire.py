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
import re
import socket
import ssl
from functools import cache
from pathlib import Path

from aiohappyeyeballs import start_connection

from schemas.plaintext import Plaintext
from schemas.providers import Endpoint
from schemas.reasons import Reason, Stage

LONGEST_LINE = 16 * 1024
MOST_LINES = 200
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
    def plain(self) -> str:
        """The credentials as a message of SASL PLAIN (RFC 4616)."""
        return f"\0{self.user}\0{self.password}"


class Stopped(Exception):  # noqa: N818  it is an outcome, not an error
    """The session ended without a login, for a reason that the server's reply or its offers show."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.text = text


@cache
def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """The SSL context of the process, cached because each one takes 15 ms and 0.7 MB.

    Args:
        ca_file: Certificate authorities (PEM) to trust in addition to the system's.

    Raises:
        OSError: If the file cannot be read or contains no certificates.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


class Wire:
    """A line-based connection that records the stage of its session."""

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext) -> None:
        self.endpoint = endpoint
        self.context = context
        self.stage = Stage.CONNECT
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self, *, tls: bool) -> None:
        """Connect to the endpoint, and start TLS at once if `tls` is true.

        Raises:
            OSError: If no address of the host accepts the connection.
        """
        loop = asyncio.get_running_loop()
        addresses = await loop.getaddrinfo(*self.endpoint, type=socket.SOCK_STREAM)
        try:
            # asyncio's own race loses a socket if it is cancelled at the moment an address has accepted.
            connection = await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS)
        except OSError as error:
            raise _most_telling(error) from None
        self._reader, self._writer = await asyncio.open_connection(sock=connection, limit=LONGEST_LINE)
        if tls:
            await self.start_tls()

    async def start_tls(self) -> None:
        """Start TLS with a new reader, which discards plain text that was injected after the last line."""
        assert self._writer is not None  # noqa: S101
        self.stage = Stage.TLS
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=LONGEST_LINE)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = await loop.start_tls(
            self._writer.transport, protocol, self.context, server_hostname=self.endpoint.host
        )
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
        line = await self._reader.readuntil(b"\n")
        return line.decode("utf-8", "replace").rstrip("\r\n")

    async def send(self, data: bytes) -> None:
        """Send bytes unchanged."""
        assert self._writer is not None  # noqa: S101
        self._writer.write(data)
        await self._writer.drain()

    async def command(self, line: str) -> None:
        """Send one line."""
        await self.send(f"{line}\r\n".encode())

    def close(self) -> None:
        """Close the connection at once."""
        if self._writer is not None:
            self._writer.transport.abort()


def _most_telling(error: OSError) -> OSError:
    """The error of one address of several: a refusal tells more than a host that cannot be reached."""
    numbers = [int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))]
    if not numbers:
        return error
    number = errno.ECONNREFUSED if errno.ECONNREFUSED in numbers else numbers[-1]
    return OSError(number, os.strerror(number))


def to_base64(text: str) -> str:
    """Encode text as UTF-8 in base64."""
    return base64.b64encode(text.encode()).decode()
