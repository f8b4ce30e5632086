"""One login over SMTP or IMAP, on asyncio streams: one connection, one attempt, one total deadline.

The dialogues are written out here because a client library's login() tries one mechanism after the other
(three failed logins for one wrong password), hangs on a server that drips, or loses the server's words.
Sources: RFC 5321, 3207 and 4954 for SMTP, RFC 3501, 2595 and 7888 for IMAP.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from schemas.csv_file import Plaintext
from schemas.providers import Endpoint
from schemas.reasons import Protocol, Reason, Reply, Stage, backoff_named, classify, one_line
from schemas.verdicts import Answer

LONGEST_LINE = 16 * 1024
MOST_LINES = 200
GOODBYE_SECONDS = 1.0
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


class _Stopped(Exception):  # noqa: N818  it is an outcome, not an error
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


# The most specific first. A broken connection is never a word about the password.
_FAULTS: tuple[tuple[type[Exception], Reason], ...] = (
    (ssl.SSLCertVerificationError, Reason.CERTIFICATE_NOT_TRUSTED),
    (ssl.SSLError, Reason.TLS_FAILURE),
    (TimeoutError, Reason.TIMED_OUT),
    (socket.gaierror, Reason.NAME_NOT_FOUND),
    (UnicodeError, Reason.NAME_NOT_FOUND),  # a host name that IDNA cannot encode
    (ConnectionRefusedError, Reason.CONNECTION_REFUSED),
    (ConnectionError, Reason.DROPPED),
    (asyncio.IncompleteReadError, Reason.DROPPED),
    (asyncio.LimitOverrunError, Reason.PROTOCOL_ERROR),
    (OSError, Reason.UNREACHABLE),
)


async def log_in(
    protocol: Protocol,
    endpoint: Endpoint,
    credentials: Credentials | None,
    context: ssl.SSLContext,
    timeout: float,  # noqa: ASYNC109  it is a total over the whole dialogue, and its end is an answer
) -> Answer:
    """Log in once and say how it went; nothing but a cancellation is raised.

    Args:
        credentials: None for a preflight: everything up to the point where a password would be sent.
        timeout: Seconds from looking up the name to the verdict; the goodbye may take one more.
    """
    wire = Wire(endpoint, context)
    begun = time.monotonic()
    reason, text = Reason.OK, ""
    try:
        try:
            async with asyncio.timeout(timeout):
                await _DIALOGUES[protocol](wire, credentials)
        except _Stopped as stopped:
            reason, text = stopped.reason, stopped.text
        milliseconds = round((time.monotonic() - begun) * 1000)
        await _leave(wire, protocol)
    except tuple(fault for fault, _ in _FAULTS) as error:
        milliseconds = round((time.monotonic() - begun) * 1000)
        reason = next(reason for fault, reason in _FAULTS if isinstance(error, fault))
        text = _fault_text(error, timeout)
    finally:
        wire.close()
    return Answer(
        protocol,
        endpoint,
        reason,
        wire.stage,
        one_line(text, *((credentials.password, _base64(credentials.plain)) if credentials else ())),
        milliseconds,
        backoff_named(text),
        tried=credentials is not None and credentials.used,
    )


def _fault_text(error: Exception, timeout: float) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return error.verify_message
        case ssl.SSLError():
            return (error.reason or "").replace("_", " ").lower()
        case TimeoutError():
            return f"no complete answer within {timeout:g} s"
        case asyncio.IncompleteReadError():
            return "the server closed the connection"
        case asyncio.LimitOverrunError():
            return "a line without end"
        case OSError():
            return error.strerror or ""
    return ""


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


# --- SMTP ------------------------------------------------------------


async def _smtp(wire: Wire, credentials: Credentials | None) -> None:
    await wire.connect(tls=False)
    wire.stage = Stage.GREETING
    _expect(wire, await _smtp_reply(wire), "220")
    offers = await _ehlo(wire)
    if "STARTTLS" not in offers:
        raise _Stopped(Reason.STARTTLS_MISSING, _offered(offers))
    wire.stage = Stage.STARTTLS
    _expect(wire, await _smtp_command(wire, "STARTTLS"), "220")
    await wire.start_tls()
    offers = await _ehlo(wire)
    mechanisms = offers.get("AUTH", "").upper().split()
    if not {"PLAIN", "LOGIN"} & set(mechanisms):
        raise _Stopped(Reason.MECHANISM_NOT_OFFERED, _offered(offers))
    if credentials is not None:
        wire.stage = Stage.LOGIN
        credentials.used = True
        login = _auth_plain if "PLAIN" in mechanisms else _auth_login
        _expect(wire, await login(wire, credentials), "235")
        wire.stage = Stage.CHECK


async def _ehlo(wire: Wire) -> dict[str, str]:
    """Say EHLO; returns what the server offers: keyword → parameters."""
    wire.stage = Stage.CAPABILITY
    reply = _expect(wire, await _smtp_command(wire, f"EHLO {wire.address_literal}"), "250")
    # Some servers say AUTH=LOGIN for clients of the last century.
    lines = [re.sub(r"^AUTH=", "AUTH ", line, flags=re.IGNORECASE) for line in reply.text.split("\n")[1:]]
    return {keyword.upper(): parameters for keyword, _, parameters in (line.partition(" ") for line in lines)}


def _offered(offers: dict[str, str]) -> str:
    return "offered: " + ", ".join(
        f"{keyword} {parameters}".strip() for keyword, parameters in offers.items()
    )


async def _auth_plain(wire: Wire, credentials: Credentials) -> Reply:
    return await _smtp_command(wire, f"AUTH PLAIN {_base64(credentials.plain)}")


async def _auth_login(wire: Wire, credentials: Credentials) -> Reply:
    for line in ("AUTH LOGIN", _base64(credentials.user)):
        reply = await _smtp_command(wire, line)
        if reply.code != "334":
            return reply
    return await _smtp_command(wire, _base64(credentials.password))


async def _smtp_command(wire: Wire, line: str) -> Reply:
    await wire.command(line)
    return await _smtp_reply(wire)


async def _smtp_reply(wire: Wire) -> Reply:
    """Read one reply; its lines are joined by line feeds."""
    lines = []
    for _ in range(MOST_LINES):
        line = await wire.read_line()
        parts = re.fullmatch(r"([2-5]\d\d)(?:([ -])(.*))?", line)
        if parts is None:
            raise _Stopped(Reason.PROTOCOL_ERROR, line)
        lines.append(parts[3] or "")
        if parts[2] != "-":
            return Reply(parts[1], "\n".join(lines))
    raise _Stopped(Reason.PROTOCOL_ERROR, "a reply without end")


def _expect(wire: Wire, reply: Reply, code: str) -> Reply:
    if reply.code != code:
        raise _Stopped(classify(Protocol.SMTP, wire.stage, reply), str(reply))
    return reply


# --- IMAP ------------------------------------------------------------


async def _imap(wire: Wire, credentials: Credentials | None) -> None:
    await wire.connect(tls=True)
    wire.stage = Stage.GREETING
    offers = await _imap_greeting(wire)
    wire.stage = Stage.CAPABILITY
    if not offers:
        for line in await _imap_command(wire, "a1", b"CAPABILITY"):
            offers |= _capabilities(line)
    if "LOGINDISABLED" in offers:
        raise _Stopped(Reason.PASSWORD_SIGN_IN_DISABLED, f"CAPABILITY {' '.join(sorted(offers))}")
    if credentials is not None:
        wire.stage = Stage.LOGIN
        credentials.used = True
        user, password = (_imap_string(text, offers) for text in (credentials.user, credentials.password))
        await _imap_command(wire, "a2", b"LOGIN ", *user, b" ", *password)
        wire.stage = Stage.CHECK
        await _imap_command(wire, "a3", b"NAMESPACE" if "NAMESPACE" in offers else b'LIST "" ""')


async def _imap_greeting(wire: Wire) -> set[str]:
    """Read the greeting; returns the capabilities that it names, which may be none."""
    line = await wire.read_line()
    if line.upper().startswith("* BYE"):
        raise _refused(wire, "BYE", line[5:])
    if not line.upper().startswith("* OK"):  # PREAUTH too: nobody has to sign in there, so nothing is tested
        raise _Stopped(Reason.PROTOCOL_ERROR, line)
    code = re.search(r"\[(CAPABILITY [^\]]*)\]", line, re.IGNORECASE)
    return _capabilities(f"* {code[1]}") if code else set()


def _capabilities(line: str) -> set[str]:
    words = line.upper().split()
    return set(words[2:]) if words[:2] == ["*", "CAPABILITY"] else set()


async def _imap_command(wire: Wire, tag: str, *parts: bytes) -> list[str]:
    """Send one command; returns the untagged lines of a good answer.

    Where a part ends in a synchronising literal's `{n}` the server is asked first whether it wants to go on.
    """
    lines: list[str] = []
    await wire.send(tag.encode() + b" ")
    for part in parts:
        await wire.send(part)
        if part.endswith(b"}\r\n") and not part.endswith(b"+}\r\n"):
            await _imap_answer(wire, "+", lines)
    await wire.send(b"\r\n")
    await _imap_answer(wire, tag, lines)
    return lines


async def _imap_answer(wire: Wire, wanted: str, lines: list[str]) -> None:
    """Read up to the line that begins with `wanted`, a tag or `+`; gathers the untagged lines before it."""
    bye = None
    for _ in range(MOST_LINES):
        try:
            line = await wire.read_line()
        except (asyncio.IncompleteReadError, ConnectionError):
            if bye is None:
                raise
            raise _refused(wire, "BYE", bye) from None
        first, _, rest = line.partition(" ")
        status, _, text = rest.partition(" ")
        if first == "+" or (first == wanted and status.upper() == "OK"):
            if first != wanted:
                raise _Stopped(Reason.PROTOCOL_ERROR, line)
            return
        if first.startswith("a") and status.upper() in ("NO", "BAD"):
            raise _refused(wire, status.upper(), text)
        if first != "*":
            raise _Stopped(Reason.PROTOCOL_ERROR, line)
        if status.upper() == "BYE":
            bye = text
        lines.append(line)
    raise _Stopped(Reason.PROTOCOL_ERROR, "an answer without end")


def _refused(wire: Wire, code: str, text: str) -> _Stopped:
    reply = Reply(code, text.strip())
    return _Stopped(classify(Protocol.IMAP, wire.stage, reply), str(reply))


def _imap_string(text: str, offers: set[str]) -> tuple[bytes, ...]:
    """A string as IMAP takes it: quoted where that is enough, else a literal (RFC 3501, 4.3)."""
    data = text.encode()
    if data.isascii() and not set(data) & set(b'"\\'):
        return (b'"' + data + b'"',)
    plus = "+" if offers & {"LITERAL+", "LITERAL-"} else ""
    return f"{{{len(data)}{plus}}}\r\n".encode(), data


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# --- Both ------------------------------------------------------------

_DIALOGUES: dict[Protocol, Callable[[Wire, Credentials | None], Awaitable[None]]] = {
    Protocol.SMTP: _smtp,
    Protocol.IMAP: _imap,
}


async def _leave(wire: Wire, protocol: Protocol) -> None:
    """Take leave politely but briefly: the verdict stands, whatever the server does now."""
    with suppress(_Stopped, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(GOODBYE_SECONDS):
            if protocol is Protocol.SMTP:
                await _smtp_command(wire, "QUIT")
            else:
                await _imap_command(wire, "a4", b"LOGOUT")
