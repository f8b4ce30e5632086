"""A line-based connection to a mail server, and the credentials that travel over it.

The dialogues are written out in `smtp` and `imap`, because a client library's login() tries one mechanism
after another (three failed logins for one wrong password), hangs on a server that drips, or loses the
server's words.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import ssl
from functools import cache
from pathlib import Path

from schemas.plaintext import Plaintext
from schemas.providers import Endpoint
from schemas.reasons import Reason, Stage

LONGEST_LINE = 16 * 1024
MOST_LINES = 200
NEXT_ADDRESS_SECONDS = 0.25  # RFC 8305: a host's dead address does not use up the deadline of its others


class Credentials(Plaintext):
    """An address and its unsealed password, for as long as a login takes.

    `used` says whether the dialogue has come as far as the login.
    """

    def __init__(self, user: str, password: str) -> None:
        self.user = user
        self.password = password
        self.used = False

    @property
    def plain(self) -> str:
        """The message of SASL PLAIN (RFC 4616)."""
        return f"\0{self.user}\0{self.password}"


class Stopped(Exception):  # noqa: N818  it is an outcome, not an error
    """The dialogue ended without a login, for a cause that the server's reply or its offers name."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.text = text


@cache
def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """The one SSL context of the process: each costs 15 ms and 0.7 MB to make."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


class Wire:
    """A line-based connection that knows how far its dialogue has come."""

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext) -> None:
        self.endpoint = endpoint
        self.context = context
        self.stage = Stage.CONNECT
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self, *, tls: bool) -> None:
        try:
            self._reader, self._writer = await asyncio.open_connection(
                *self.endpoint, limit=LONGEST_LINE, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS
            )
        except OSError as error:
            raise _of_last_address(error) from None
        if tls:
            await self.start_tls()

    async def start_tls(self) -> None:
        """Change to TLS with a new reader: whatever was sent in plain behind the last line is thrown away."""
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
        """This end's address as SMTP wants it for a client without a name of its own (RFC 5321, 4.1.3)."""
        assert self._writer is not None  # noqa: S101
        address = self._writer.get_extra_info("sockname")[0]
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    async def read_line(self) -> str:
        line = await self._reader.readuntil(b"\n")
        return line.decode("utf-8", "replace").rstrip("\r\n")

    async def send(self, data: bytes) -> None:
        assert self._writer is not None  # noqa: S101
        self._writer.write(data)
        await self._writer.drain()

    async def command(self, line: str) -> None:
        await self.send(f"{line}\r\n".encode())

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


def _of_last_address(error: OSError) -> OSError:
    """The fault of a host's last address, where each of several had one; asyncio gives only their texts."""
    numbers = re.findall(r"\[Errno (\d+)\]", str(error)) if error.errno is None else []
    return OSError(int(numbers[-1]), os.strerror(int(numbers[-1]))) if numbers else error


def to_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
