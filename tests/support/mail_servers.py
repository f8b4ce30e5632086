"""Mail servers for tests of a login: Outlook's stand-in, and servers that say what a test scripts."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trustme

from sandbox.certificates import server_context
from sandbox.outlook import Outlook
from schemas.providers import Endpoint
from schemas.reasons import Protocol
from schemas.verdicts import Answer
from tasks.login.session import log_in
from tasks.login.wire import Credentials, tls_context

ADDRESS = "anna@contoso.com"
PASSWORD = "abcdefghijklmnop"
# For logins that succeed, and for faults that use up the whole deadline.
PATIENCE = 10.0
DEADLINE = 1.0

SMTP, IMAP = Protocol.SMTP, Protocol.IMAP


async def ask(
    outlook: Outlook,
    protocol: Protocol,
    password: str | None = PASSWORD,
    user: str = ADDRESS,
    timeout: float = PATIENCE,  # noqa: ASYNC109  the login's deadline, not this function's
) -> Answer:
    """Log in to the stand-in, or run a preflight without a password."""
    host, _, port = outlook.address(protocol.value).rpartition(":")
    credentials = None if password is None else Credentials(user, password)
    return await log_in(
        protocol, Endpoint(host, int(port)), credentials, tls_context(outlook.ca_file), timeout
    )


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@asynccontextmanager
async def scripted(ca: trustme.CA, ca_file: Path, replies: Mapping[str, str]) -> AsyncIterator[Outlook]:
    """A server of either protocol that answers each command word with this text; `%` is replaced by the tag.

    `greeting` is sent first; a word without an answer ends the connection, and so does a final goodbye or an
    answer that ends in `$`, which is not sent.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "STARTTLS" not in replies:
            await writer.start_tls(context)
        words = ["greeting"]
        while word := next((word for word in words if word in replies), None):
            reply = replies[word].replace("%", words[0])
            writer.write(reply.removesuffix("$").encode(errors="surrogateescape"))
            await writer.drain()
            if word == "STARTTLS":
                await writer.start_tls(context)
            if reply.endswith("$") or reply.splitlines()[-1].startswith("* BYE"):
                writer.close()
                await writer.wait_closed()
                break
            words = (await reader.readline()).decode().split()[:2]

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(answer(reader, writer))
        task.add_done_callback(lambda _: writer.transport.abort())
        talks.append((task, writer))

    talks: list[tuple[asyncio.Task[None], asyncio.StreamWriter]] = []
    context = server_context(ca, "ok")
    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    outlook = Outlook({}, folder=ca_file.parent)
    outlook.smtp_port = outlook.imap_port = listening.sockets[0].getsockname()[1]
    outlook.ca_file = ca_file
    try:
        yield outlook
    finally:
        listening.close()
        for _, writer in talks:
            writer.transport.abort()
        await asyncio.gather(*(task for task, _ in talks), return_exceptions=True)
        await asyncio.sleep(0.01)  # the transports' last callbacks


TALK: dict[Protocol, dict[str, str]] = {
    SMTP: {
        "greeting": "220-several\r\n220 lines\r\n",
        "EHLO": "250-mail\r\n250-STARTTLS\r\n250 AUTH LOGIN\r\n",
        "STARTTLS": "220 go\r\n",
        "AUTH": "334 VXNlcm5hbWU6\r\n",
        b64(ADDRESS): "334 UGFzc3dvcmQ6\r\n",
        b64(PASSWORD): "235 yes\r\n",
        "QUIT": "221 bye\r\n",
    },
    IMAP: {
        "greeting": "* OK hello\r\n",
        "CAPABILITY": "* CAPABILITY IMAP4rev1\r\n% OK\r\n",
        "LOGIN": "* 1 EXISTS\r\n% OK\r\n",
        "LIST": '* LIST () "/" ""\r\n% OK\r\n',
        "LOGOUT": "* BYE\r\n% OK\r\n",
    },
}
