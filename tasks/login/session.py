"""One login over SMTP or IMAP: one connection, one attempt, one total deadline."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from schemas.classify import classify
from schemas.providers import Endpoint
from schemas.reasons import Protocol, Reason, Reply, Stage
from schemas.reply_text import backoff_named, one_line, without_cut_code
from schemas.verdicts import Answer
from tasks.login.imap import imap_command, imap_dialogue, imap_unfinished
from tasks.login.smtp import smtp_command, smtp_dialogue, smtp_unfinished
from tasks.login.wire import Credentials, HostCache, Stopped, Wire, to_base64

GOODBYE_SECONDS = 1.0


# The most specific exceptions come first. None of them says anything about the password.
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
    timeout: float,  # noqa: ASYNC109  it limits the whole session, and a timeout is a result
    hosts: HostCache | None = None,
) -> Answer:
    """Log in once. Raises nothing except a cancellation.

    Args:
        endpoint: The server to log in to.
        credentials: None for a preflight: all steps before the password would be sent.
        context: The SSL context of the process.
        timeout: Seconds for the whole session, including the DNS lookup. The goodbye may take one more.
        hosts: What the run remembers of its servers.

    Returns:
        How the login went.
    """
    personal = credentials is not None and credentials.personal
    wire = Wire(endpoint, context, hosts, personal=personal)
    begun = time.monotonic()
    reason, text = Reason.OK, ""
    try:
        try:
            async with asyncio.timeout(timeout):
                await _DIALOGUES[protocol](wire, credentials)
        except Stopped as stopped:
            reason, text = stopped.reason, stopped.text
        milliseconds = round((time.monotonic() - begun) * 1000)
        await _leave(wire, protocol)
    except tuple(fault for fault, _ in _FAULTS) as error:
        milliseconds = round((time.monotonic() - begun) * 1000)
        reason, text = await _explained(
            wire, protocol, error, _fault_text(error, timeout), preflight=credentials is None
        )
    finally:
        wire.close()
    return Answer(
        protocol,
        endpoint,
        reason,
        wire.stage,
        one_line(text, *((credentials.password, to_base64(credentials.plain)) if credentials else ())),
        milliseconds,
        backoff_named(text),
        tried=credentials is not None and credentials.used,
    )


async def _explained(
    wire: Wire, protocol: Protocol, error: Exception, text: str, *, preflight: bool
) -> tuple[Reason, str]:
    """Why a session broke, and the words for it. What the server said tells more than the error."""
    if about_port := await _about_port(wire, protocol, error, preflight=preflight):
        return about_port, " ".join(wire.unread()[:1]) or text
    # A line without an end is no reply.
    reply = None if isinstance(error, asyncio.LimitOverrunError) else _UNFINISHED[protocol](wire)
    if reply is not None:
        reason = classify(protocol, wire.stage, without_cut_code(reply), personal=wire.personal)
        return reason, str(reply)
    return next(reason for fault, reason in _FAULTS if isinstance(error, fault)), text


def _fault_text(error: Exception, timeout: float) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return error.verify_message
        case ssl.SSLError():
            return (error.reason or "").replace("_", " ").lower()
        case TimeoutError():
            return f"no complete reply within {timeout:g} s"
        case asyncio.IncompleteReadError():
            return "the server closed the connection"
        case asyncio.LimitOverrunError():
            return "the line does not end"
        case OSError():
            return error.strerror or ""
    return ""


_DIALOGUES: dict[Protocol, Callable[[Wire, Credentials | None], Awaitable[None]]] = {
    Protocol.SMTP: smtp_dialogue,
    Protocol.IMAP: imap_dialogue,
}


_UNFINISHED: dict[Protocol, Callable[[Wire], Reply | None]] = {
    Protocol.SMTP: smtp_unfinished,
    Protocol.IMAP: imap_unfinished,
}


# What OpenSSL says about plain text; the name depends on its version.
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"}


async def _about_port(wire: Wire, protocol: Protocol, error: Exception, *, preflight: bool) -> Reason | None:
    """The reason, if the connection broke because one side started with TLS and the other did not."""
    if wire.endpoint.starts_with_tls(protocol):
        plain = getattr(error, "reason", None) in _NO_TLS or wire.unread()
        return Reason.PORT_WITHOUT_TLS if wire.stage is Stage.TLS and plain else None
    # A server that waits for TLS is silent, like a slow one. Preflights tell the two apart.
    silent = wire.stage is Stage.GREETING and not wire.heard and not wire.unread()
    return Reason.PORT_WITH_TLS if preflight and silent and await _speaks_tls(wire) else None


async def _speaks_tls(wire: Wire) -> bool:
    """Whether the port starts with TLS: tried on a second connection, which sends nothing else."""
    other = Wire(wire.endpoint, wire.context)
    try:
        async with asyncio.timeout(GOODBYE_SECONDS):
            await other.connect(tls=True)
    except ssl.SSLCertVerificationError:
        return True
    except (OSError, asyncio.IncompleteReadError):
        return False
    finally:
        other.close()
    return True


async def _leave(wire: Wire, protocol: Protocol) -> None:
    """Say goodbye, but not for long: the result is already known."""
    with suppress(Stopped, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(GOODBYE_SECONDS):
            if protocol is Protocol.SMTP:
                await smtp_command(wire, "QUIT")
            else:
                await imap_command(wire, "a4", b"LOGOUT")
