"""The stand-in: an SMTP server and an IMAP server on free ports of 127.0.0.1."""

import asyncio
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Self

import trustme

from sandbox import imap
from sandbox.certificates import server_context
from sandbox.imap import Imap
from sandbox.script import Account, Play, Protocol, ServerFaults, mailbox_play, server_play
from sandbox.seen import Seen
from sandbox.smtp import Smtp
from sandbox.wire import Connection, Mailbox, Service

__all__ = ["Account", "Outlook", "Seen", "ServerFaults", "running"]

ADDRESS = "127.0.0.1"
# Names under .invalid never exist (RFC 2606).
UNKNOWN_HOST = "outlook.invalid"
# All mailboxes of an import may connect at the same time.
BACKLOG = 1024


class Outlook:
    """Outlook's two mail servers on `localhost`. An async context manager that runs them.

    Args:
        mailboxes: Address, in any case → account.
        server: Faults of the servers themselves.
        delay: Seconds to wait before each reply.
        connections: How many connections each server takes at once; 0 for any number.
        ca: Signs the certificates; a new one by default.
        folder: Where to write the certificate of the authority, as PEM.
        ports: SMTP and IMAP port; 0, or a port that is in use, means a free one.

    Raises:
        ScriptError: If a behaviour is unknown.
    """

    smtp_port: int
    imap_port: int
    ca_file: Path
    seen: Seen

    def __init__(
        self,
        mailboxes: Mapping[str, Account],
        *,
        server: ServerFaults | None = None,
        delay: float = 0.0,
        connections: int = 0,
        ca: trustme.CA | None = None,
        folder: Path,
        ports: tuple[int, int] = (0, 0),
    ) -> None:
        self.seen = Seen()
        self._faults = server or ServerFaults()
        self._plays: dict[Protocol, Play] = {
            "smtp": server_play("smtp", self._faults.smtp),
            "imap": server_play("imap", self._faults.imap),
        }
        self._mailboxes: dict[Protocol, dict[str, Mailbox]] = {"smtp": {}, "imap": {}}
        for name, account in mailboxes.items():
            self.change(name, account)
        self._delay = delay
        self._connections = connections
        self._ca = ca
        self._folder = folder
        self._ports = ports
        self._servers: list[asyncio.Server] = []
        self._listeners: list[socket.socket] = []
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Self:
        ca = self._ca or trustme.CA()
        smtp_port, imap_port = self._ports
        self.smtp_port = await self._serve(Smtp, ca, _mechanisms(self._faults), smtp_port)
        self.imap_port = await self._serve(Imap, ca, _capabilities(self._faults), imap_port)
        self.ca_file = self._folder / f"outlook-ca-{self.smtp_port}.pem"
        ca.cert_pem.write_to_path(self.ca_file)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # When a server closes, asyncio loses connections that it has accepted but not yet handed over.
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
        await _settle()
        for server in self._servers:
            server.close()
        for listener in self._listeners:
            listener.close()
        tasks = list(self._open)
        for task, writer in self._open.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _settle()

    def change(self, mailbox: str, account: Account) -> None:
        """Give a mailbox another password or behaviour, or add it, from the next login on.

        Raises:
            ScriptError: If a behaviour is unknown.
        """
        name = mailbox.lower()
        self._mailboxes["smtp"][name] = _mailbox("smtp", account.password, account.smtp)
        self._mailboxes["imap"][name] = _mailbox("imap", account.password, account.imap)

    def address(self, protocol: Protocol) -> str:
        """HOST:PORT of one of the servers, as a client's settings need it."""
        host = UNKNOWN_HOST if self._plays[protocol].name == "unknown-name" else "localhost"
        return f"{host}:{self.smtp_port if protocol == 'smtp' else self.imap_port}"

    async def _serve(self, connection: type[Connection], ca: trustme.CA, offers: str, port: int) -> int:
        """Listen on this port or a free one, and return it. A server that refuses connections only binds."""
        protocol = connection.protocol
        listener = socket.socket()
        self._listeners.append(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((ADDRESS, port))
        except OSError:  # in use by another process
            listener.bind((ADDRESS, 0))
        port = listener.getsockname()[1]
        play = self._plays[protocol]
        if play.name in ("refused", "unknown-name"):
            return port
        context = server_context(ca, play.name)
        mailboxes, most = self._mailboxes[protocol], self._connections
        service = Service(play, context, offers, mailboxes, self._delay, self.seen, most)
        accept = partial(self._accept, connection, service)
        self._servers.append(await asyncio.start_server(accept, sock=listener, backlog=BACKLOG))
        return port

    def _accept(
        self,
        connection: type[Connection],
        service: Service,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        task = asyncio.create_task(connection(service, reader, writer).run())
        self._open[task] = writer
        task.add_done_callback(self._open.pop)


@contextmanager
def running(
    mailboxes: Mapping[str, Account],
    *,
    server: ServerFaults | None = None,
    delay: float = 0.0,
    ca: trustme.CA | None = None,
    folder: Path,
) -> Iterator[Outlook]:
    """Run the stand-in on its own thread and event loop, for tests that are not asynchronous.

    See `Outlook` for the arguments.
    """
    outlook = Outlook(mailboxes, server=server, delay=delay, ca=ca, folder=folder)
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="outlook")
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(outlook.__aenter__(), loop).result()
        try:
            yield outlook
        finally:
            asyncio.run_coroutine_threadsafe(outlook.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _settle() -> None:
    """Let asyncio finish pending work.

    A connection takes four iterations of the loop from the accept of its socket to the end of its task, and
    two from the abort of its transport to the last callback.
    """
    for _ in range(5):
        await asyncio.sleep(0)


def _mailbox(protocol: Protocol, password: str, behaviour: str) -> Mailbox:
    return Mailbox(password.encode(), mailbox_play(protocol, behaviour))


def _mechanisms(faults: ServerFaults) -> str:
    return {"no-auth": "", "xoauth2-only": "XOAUTH2"}.get(faults.smtp, faults.smtp_auth)


def _capabilities(faults: ServerFaults) -> str:
    if faults.imap == "login-disabled":
        return imap.MODERN_CAPABILITIES
    return faults.imap_capabilities or imap.CAPABILITIES
