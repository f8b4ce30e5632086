"""One connection of either protocol: reading, replying, TLS, and all faults."""

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar, NoReturn

from sandbox.script import OK, Play, Protocol
from sandbox.seen import Seen

CHUNK = 65536
DRIP_INTERVAL = 0.2
OVERLONG = 2**20
# How soon a waiting server notices that the client has hung up.
WATCH_INTERVAL = 0.1
# How long the server waits for the client to close TLS.
GOODBYE_SECONDS = 1.0
# The start of a handshake record of 16 KiB. A client waits for the rest of it.
TLS_RECORD = b"\x16\x03\x03\x40\x00"
# RFC 8446, 6.2: fatal, protocol_version.
TLS_ALERT = b"\x15\x03\x01\x00\x02\x02\x46"
# SO_LINGER on with zero seconds: closing sends RST.
RST = struct.pack("ii", 1, 0)


class HungUp(Exception):  # noqa: N818  # an end, not an error
    """The session is over."""


class Refused(Exception):  # noqa: N818  # a reply, not an error
    """The server rejects a command. The text is the reply."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """The password and the behaviour of a mailbox. With the password None, every login fails."""

    password: bytes | None = field(default=None, repr=False)
    play: Play = OK


STRANGER = Mailbox()


@dataclass(frozen=True, slots=True)
class Service:
    """What all connections of one server share.

    Attributes:
        server: The fault of the server.
        offers: Its AUTH mechanisms (SMTP) or capabilities (IMAP), separated by spaces.
        mailboxes: Address in lower case → mailbox.
        delay: Seconds to wait before each reply.
        most: How many connections it takes at once; 0 for any number.
        clients: The connections that it has taken.
    """

    server: Play
    context: ssl.SSLContext
    offers: str
    mailboxes: Mapping[str, Mailbox]
    delay: float
    seen: Seen
    most: int = 0
    clients: set["Connection"] = field(default_factory=set)


class Connection:
    """A client's connection. Subclasses implement the protocol in `converse`.

    Attributes:
        protocol: The protocol.
        goodbyes: Start of each line after which the server closes the connection.
        too_many: The greeting of a server that takes no more connections.
    """

    protocol: ClassVar[Protocol]
    goodbyes: ClassVar[tuple[str, ...]]
    too_many: ClassVar[str]

    def __init__(self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.service = service
        self.reader = reader
        self.writer = writer
        self.address: str | None = None
        self.mailbox = STRANGER
        self.logged_in = False

    async def run(self) -> None:
        """Run the whole session; returns when the connection is closed."""
        self.service.seen.connected(self.protocol)
        try:
            with suppress(HungUp, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                if fault := self.fault_at("connect"):
                    await self.send(await self.misbehave(fault, b""))
                await self.converse()
        finally:
            self.leave()
            self.service.clients.discard(self)
            self.service.seen.disconnected(self.protocol)
            self.writer.transport.abort()

    async def converse(self) -> None:
        """Run the session from the greeting on, until an exception ends it."""
        raise NotImplementedError

    async def line(self) -> bytes:
        """Read one line, without its line ending."""
        return (await self.reader.readuntil(b"\n")).rstrip(b"\r\n")

    async def say(self, stage: str, *lines: str) -> None:
        """Send these lines, or play the fault of this stage. After a goodbye, close the connection."""
        await self.pause(self.service.delay)
        if stage == "greeting":
            if self.service.most and len(self.service.clients) >= self.service.most:
                lines = (self.too_many,)
            else:
                self.service.clients.add(self)
        text = "".join(f"{line}\r\n" for line in lines).encode()
        if fault := self.fault_at(stage):
            text = await self.misbehave(fault, text)
        await self.send(text)
        if any(line.startswith(self.goodbyes) for line in lines):
            await self.hang_up()

    async def send(self, text: bytes) -> None:
        self.writer.write(text)
        await self.writer.drain()

    async def secure(self) -> None:
        """Start TLS, unless the server has a fault in the handshake."""
        old = self.service.server.name == "old-tls"
        fault = self.fault_at("tls")
        if not (fault or old):
            await self.writer.start_tls(self.service.context)
            secured = self.writer.get_extra_info("ssl_object")
            self.service.seen.secured(self.protocol, resumed=bool(secured.session_reused))
            return
        await self.reader.read(CHUNK)
        await self.send(TLS_ALERT if old else await self.misbehave(fault, TLS_RECORD))
        await self.wait_for_the_end()

    def fault_at(self, stage: str) -> str:
        """The fault of the server or the mailbox at a stage, or ""."""
        plays = (self.service.server, self.mailbox.play)
        return next((play.fault for play in plays if play.fault and play.stage == stage), "")

    def stage(self, before_login: str = "") -> str:
        """The stage of a reply: "after" once the client is logged in, otherwise the given one."""
        return "after" if self.logged_in else before_login

    async def misbehave(self, fault: str, text: bytes) -> bytes:
        """Play a fault instead of sending `text`.

        Returns:
            The bytes to send instead.

        Raises:
            HungUp: If the fault ends the session.
        """
        first, _, rest = text.partition(b"\r\n")
        if fault == "garbage":
            return b"\xff\xfe" + os.urandom(62).replace(b"\n", b"") + b"\n"
        if fault == "overlong":
            return first.ljust(OVERLONG, b"x") + b"\r\n" + rest
        if fault == "drip":
            await self.drip(first)
        if fault == "hang":
            await self.wait_for_the_end()
        if fault == "reset":
            # The abort at the end of `run` closes the socket.
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        raise HungUp

    async def drip(self, text: bytes) -> NoReturn:
        """Send this one byte at a time, then dots, until the client hangs up."""
        position = 0
        while True:
            await self.send(text[position : position + 1] or b".")
            position += 1
            await self.pause(DRIP_INTERVAL)

    async def wait_for_the_end(self) -> NoReturn:
        while await self.reader.read(CHUNK):
            pass
        raise HungUp

    async def pause(self, seconds: float) -> None:
        """Wait, but stop if the client hangs up."""
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while (left := end - clock()) > 0:
            await asyncio.sleep(min(left, WATCH_INTERVAL))
            if self.reader.at_eof() or self.writer.is_closing():
                raise HungUp

    async def hang_up(self) -> NoReturn:
        """Close the connection after everything written has been sent."""
        self.leave()
        self.writer.close()
        with suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self.writer.wait_closed()
        raise HungUp

    def meet(self, name: bytes) -> None:
        """Remember which mailbox the client logs in to."""
        self.leave()
        self.address = name.decode("utf-8", "replace").lower()
        self.mailbox = self.service.mailboxes.get(self.address, STRANGER)
        self.service.seen.entered(self.protocol, self.address)

    def leave(self) -> None:
        if self.address is not None:
            self.service.seen.left(self.protocol, self.address)
            self.address = None

    def overhear(self, name: bytes, password: bytes) -> None:
        """Record a password that the server did not ask for."""
        self.meet(name)
        self.hear(password)

    def hear(self, password: bytes) -> None:
        self.service.seen.tried(self.protocol, self.address or "", password)

    async def check_password(self, password: bytes, good: str, bad: str) -> tuple[str, ...]:
        """The reply to a login: from the script of the mailbox, or `good` or `bad`."""
        self.hear(password)
        await self.pause(self.mailbox.play.seconds)
        return self.mailbox.play.lines or (good if password == self.mailbox.password else bad,)


def plain_credentials(message: bytes) -> tuple[bytes, bytes]:
    """The user name and the password of a PLAIN message (RFC 4616).

    Raises:
        ValueError: If it is not a PLAIN message.
    """
    _, name, password = message.split(b"\0")
    return name, password
