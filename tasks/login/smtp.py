"""The SMTP login. Sources: RFC 5321, RFC 3207 and RFC 4954."""

from __future__ import annotations

import re

from schemas.classify import classify
from schemas.reasons import Protocol, Reason, Reply, Stage
from schemas.reply_text import join_lines
from tasks.login.wire import MOST_LINES, Credentials, Stopped, Wire, to_base64


async def smtp_dialogue(wire: Wire, credentials: Credentials | None) -> None:
    """Log in over SMTP; without credentials, stop before the login.

    Raises:
        Stopped: If the server rejects a step, or offers no encryption or no password login.
        OSError: If the connection fails.
    """
    encrypted = wire.endpoint.starts_with_tls(Protocol.SMTP)
    await wire.connect(tls=encrypted)
    wire.stage = Stage.GREETING
    _expect(wire, await _smtp_reply(wire), "220")
    offers = await _ehlo(wire)
    if not encrypted:
        if "STARTTLS" not in offers:
            raise Stopped(Reason.STARTTLS_MISSING, _offered(offers))
        wire.stage = Stage.STARTTLS
        _expect(wire, await smtp_command(wire, "STARTTLS"), "220")
        await wire.start_tls()
        offers = await _ehlo(wire)
    mechanisms = offers.get("AUTH", "").upper().split()
    if not {"PLAIN", "LOGIN"} & set(mechanisms):
        raise Stopped(Reason.MECHANISM_NOT_OFFERED, _offered(offers))
    if credentials is not None:
        wire.stage = Stage.LOGIN
        credentials.used = True
        login = _auth_plain if "PLAIN" in mechanisms else _auth_login
        _expect(wire, await login(wire, credentials), "235")
        wire.stage = Stage.CHECK


async def _ehlo(wire: Wire) -> dict[str, str]:
    """Send EHLO; returns what the server offers: keyword → parameters."""
    wire.stage = Stage.CAPABILITY
    reply = _expect(wire, await smtp_command(wire, f"EHLO {wire.address_literal}"), "250")
    # Some servers send AUTH=LOGIN for very old clients.
    lines = [re.sub(r"^AUTH=", "AUTH ", line, flags=re.IGNORECASE) for line in reply.text.split("\n")[1:]]
    offers: dict[str, str] = {}
    for keyword, _, parameters in (line.partition(" ") for line in lines):
        # They may also send one line for new clients and another one for old clients.
        offers[keyword.upper()] = f"{offers.get(keyword.upper(), '')} {parameters}".strip()
    return offers


def _offered(offers: dict[str, str]) -> str:
    return "offered: " + ", ".join(
        f"{keyword} {parameters}".strip() for keyword, parameters in offers.items()
    )


async def _auth_plain(wire: Wire, credentials: Credentials) -> Reply:
    return await smtp_command(wire, f"AUTH PLAIN {to_base64(credentials.plain)}")


async def _auth_login(wire: Wire, credentials: Credentials) -> Reply:
    for line in ("AUTH LOGIN", to_base64(credentials.user)):
        reply = await smtp_command(wire, line)
        if reply.code != "334":
            return reply
    return await smtp_command(wire, to_base64(credentials.password))


async def smtp_command(wire: Wire, line: str) -> Reply:
    """Send one command and read its reply.

    Raises:
        Stopped: If the reply does not follow the protocol.
    """
    await wire.command(line)
    return await _smtp_reply(wire)


async def _smtp_reply(wire: Wire) -> Reply:
    """Read one reply and join its lines with line feeds."""
    lines = []
    wire.heard.clear()
    for _ in range(MOST_LINES):
        line = await wire.read_line()
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise Stopped(Reason.PROTOCOL_ERROR, line)
        lines.append(parts[3] or "")
        if parts[2] != "-":
            wire.heard.clear()
            return Reply(parts[1], join_lines(lines))
    raise Stopped(Reason.PROTOCOL_ERROR, "the reply does not end")


def smtp_unfinished(wire: Wire) -> Reply | None:
    """The refusal that the server began before the connection broke or stalled, if any."""
    lines = [parts for line in (*wire.heard, *wire.unread()) if (parts := _LINE.fullmatch(line))]
    code = next((parts[1] for parts in lines if parts[1] >= "4"), None)
    if code is None:
        return None
    return Reply(code, join_lines([parts[3] or "" for parts in lines if parts[1] == code]))


_LINE = re.compile(r"([2-5]\d\d)(?:([ -])(.*))?")


def _expect(wire: Wire, reply: Reply, code: str) -> Reply:
    if reply.code != code:
        raise Stopped(classify(Protocol.SMTP, wire.stage, reply, personal=wire.personal), str(reply))
    return reply
