"""The IMAP login. Sources: RFC 3501, RFC 2595 (STARTTLS) and RFC 7888."""

from __future__ import annotations

import re

from schemas.classify import classify
from schemas.reasons import Protocol, Reason, Reply, Stage
from tasks.login.wire import MOST_LINES, Credentials, Stopped, Wire


async def imap_dialogue(wire: Wire, credentials: Credentials | None) -> None:
    """Log in over IMAP and run one command; without credentials, stop before the login.

    Raises:
        Stopped: If the server rejects a step or offers no password login.
        OSError: If the connection fails.
    """
    encrypted = wire.endpoint.starts_with_tls(Protocol.IMAP)
    await wire.connect(tls=encrypted)
    wire.stage = Stage.GREETING
    offers = await _imap_greeting(wire)
    if not offers:
        offers = await _imap_capabilities(wire)
    if not encrypted:
        if "STARTTLS" not in offers:
            raise Stopped(Reason.STARTTLS_MISSING, f"CAPABILITY {' '.join(sorted(offers))}")
        wire.stage = Stage.STARTTLS
        await imap_command(wire, "a0", b"STARTTLS")
        await wire.start_tls()
        offers = await _imap_capabilities(wire)
    wire.stage = Stage.CAPABILITY
    if "LOGINDISABLED" in offers:
        raise Stopped(Reason.PASSWORDS_RETIRED, f"CAPABILITY {' '.join(sorted(offers))}")
    if credentials is not None:
        wire.stage = Stage.LOGIN
        credentials.used = True
        user, password = (_imap_string(text, offers) for text in (credentials.user, credentials.password))
        await imap_command(wire, "a2", b"LOGIN ", *user, b" ", *password)
        wire.stage = Stage.CHECK
        await imap_command(wire, "a3", b"NAMESPACE" if "NAMESPACE" in offers else b'LIST "" ""')


async def _imap_greeting(wire: Wire) -> set[str]:
    """Read the greeting; returns the capabilities in it, if any."""
    line = await wire.read_line()
    if line.upper().startswith("* BYE"):
        raise _refused(wire, "BYE", line[5:])
    if not line.upper().startswith("* OK"):  # PREAUTH too: without a login there is nothing to test
        raise Stopped(Reason.PROTOCOL_ERROR, line)
    code = re.search(r"\[(CAPABILITY [^\]]*)\]", line, re.IGNORECASE)
    return _capabilities(f"* {code[1]}") if code else set()


async def _imap_capabilities(wire: Wire) -> set[str]:
    wire.stage = Stage.CAPABILITY
    return set().union(*(_capabilities(line) for line in await imap_command(wire, "a1", b"CAPABILITY")))


def _capabilities(line: str) -> set[str]:
    words = line.upper().split()
    return set(words[2:]) if words[:2] == ["*", "CAPABILITY"] else set()


async def imap_command(wire: Wire, tag: str, *parts: bytes) -> list[str]:
    """Send one command and read its reply.

    Args:
        tag: Tag of the command, such as `a1`.
        parts: The command without tag and line ending. After a part that ends in the `{n}` of a synchronising
            literal, the client waits until the server is ready for the rest.

    Returns:
        The untagged lines of a positive reply.

    Raises:
        Stopped: If the server rejects the command, or the reply does not follow the protocol.
    """
    lines: list[str] = []
    # In one piece: if the first piece reaches a closed connection, the second fails before a BYE can be read.
    data = tag.encode() + b" "
    for part in parts:
        data += part
        if part.endswith(b"}\r\n") and not part.endswith(b"+}\r\n"):
            await wire.send(data)
            await _imap_answer(wire, "+", lines)
            data = b""
    await wire.send(data + b"\r\n")
    await _imap_answer(wire, tag, lines)
    return lines


async def _imap_answer(wire: Wire, wanted: str, lines: list[str]) -> None:
    """Read until the line that starts with `wanted`, a tag or `+`; appends the untagged lines before it."""
    for _ in range(MOST_LINES):
        line = await _imap_line(wire)
        first, _, rest = line.partition(" ")
        status, _, text = rest.partition(" ")
        if first == "+" or (first == wanted and status.upper() == "OK"):
            if first != wanted:
                raise Stopped(Reason.PROTOCOL_ERROR, line)
            # A goodbye may explain why a later command fails.
            wire.heard = [line for line in wire.heard if _BYE.match(line)]
            return
        if first.startswith("a") and status.upper() in ("NO", "BAD"):
            raise _refused(wire, status.upper(), text)
        if first != "*":
            raise Stopped(Reason.PROTOCOL_ERROR, line)
        lines.append(line)
    raise Stopped(Reason.PROTOCOL_ERROR, "the reply does not end")


_BYE = re.compile(r"\* BYE\b *(.*)", re.IGNORECASE)
_NO = re.compile(r"a\d (NO|BAD)\b *(.*)", re.IGNORECASE)
_LITERAL = re.compile(r"\* (?!OK |NO |BAD |BYE |PREAUTH ).*\{(\d{1,5})\}", re.IGNORECASE)


async def _imap_line(wire: Wire) -> str:
    """Read one line of a reply, including its literals (RFC 3501, 4.3)."""
    line = await wire.read_line()
    for _ in range(MOST_LINES):
        literal = _LITERAL.fullmatch(line)
        if literal is None:
            return line
        text = " ".join((await wire.read_bytes(int(literal[1]))).split())
        line = f"{line[: line.rindex('{')]}{text}{await wire.read_line()}"
    raise Stopped(Reason.PROTOCOL_ERROR, "the reply does not end")


def imap_unfinished(wire: Wire) -> Reply | None:
    """The refusal or the goodbye that came before the connection broke or stalled, if any."""
    lines = (*wire.heard, *wire.unread())
    refusal = next((found for line in lines if (found := _NO.fullmatch(line))), None)
    if refusal is not None:
        return Reply(refusal[1].upper(), refusal[2].strip())
    goodbye = next((found for line in lines if (found := _BYE.fullmatch(line))), None)
    return Reply("BYE", goodbye[1].strip()) if goodbye else None


def _refused(wire: Wire, code: str, text: str) -> Stopped:
    reply = Reply(code, text.strip())
    return Stopped(classify(Protocol.IMAP, wire.stage, reply, personal=wire.personal), str(reply))


def _imap_string(text: str, offers: set[str]) -> tuple[bytes, ...]:
    """Encode a string for IMAP: quoted if possible, otherwise as a literal (RFC 3501, 4.3)."""
    data = text.encode()
    if data.isascii() and not set(data) & set(b'"\\'):
        return (b'"' + data + b'"',)
    plus = "+" if offers & {"LITERAL+", "LITERAL-"} else ""
    return f"{{{len(data)}{plus}}}\r\n".encode(), data
