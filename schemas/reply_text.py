"""The text of a server's reply: one safe line without credentials, and the pause that the server asks for."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

from schemas.labels import printable
from schemas.reasons import Reply

_STATUS_CODE = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")
_CUT_CODE = re.compile(r"(?:^|\s)[245]\.[\d.]{0,7}$")


def join_lines(lines: Sequence[str]) -> str:
    """Join the lines of an SMTP reply, with the enhanced status code that each of them repeats only once.

    Args:
        lines: The texts of the lines, without the reply code. Source: RFC 2034, section 4.

    Returns:
        The lines, joined by line feeds.

    Example:
        >>> join_lines(["5.7.8 Your account has", "5.7.8 been locked"])
        '5.7.8 Your account has\\nbeen locked'
    """
    codes = [_STATUS_CODE.match(line) for line in lines]
    text = "\n".join(line[code.end() :] if code else line for line, code in zip(lines, codes, strict=True))
    return next((f"{code[1]} {text}".rstrip() for code in codes if code), text)


def without_cut_code(reply: Reply) -> Reply:
    """An unfinished reply without a status code at its end: 5.7.13 may be the start of 5.7.139."""
    return Reply(reply.code, _CUT_CODE.sub("", reply.text))


_BACKOFF = re.compile(
    r"(?:back-?off time|retry[ -]after|try again (?:in|after)|\bwait|\b(?:lock|block)ed (?:out )?for)"
    r"\D{0,20}?"
    r"(\d[\d,]{0,20}(?:\.\d{1,9})?)(?![.:,]?\d)\s{0,3}"
    r"(milliseconds?|msec|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?)?\b",
    re.IGNORECASE,
)


# By the first letter of the unit; milliseconds are handled separately.
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


LONGEST_BACKOFF = timedelta(days=1)


def backoff_named(text: str) -> timedelta | None:
    """The pause that a server's reply asks for, at most one day; None if it does not ask for one."""
    found = _BACKOFF.search(text)
    if not found:
        return None
    unit = (found[2] or "s").lower()
    factor = 0.001 if unit.startswith(("ms", "milli")) else _UNIT_SECONDS[unit[0]]
    seconds = float(found[1].replace(",", "")) * factor
    return timedelta(seconds=min(seconds, LONGEST_BACKOFF.total_seconds()))


# The server's machine name, the time and an id, which differ in every reply: those of every Microsoft cloud
# (outlook.com, outlook.de, office365.us, partner.outlook.cn), and Dovecot's with a colon.
_TRAILER = re.compile(
    r" ?\[[\w.-]{1,255}([ :]\d{4}-\d\d-\d\d[T ]\d\d:[^\]]{0,80}"
    r"|\.(prod(\.[\w-]{1,63}){2,3}|(outlook|office365|exchangelabs)\.[a-z]{2,3}))\]",
    re.IGNORECASE,
)


LONGEST_TEXT = 300
SHORTEST_SECRET = 4  # removing a shorter one would garble the text and reveal that the secret is short


def one_line(text: str, *secrets: str) -> str:
    """Make a server's text safe to store and show.

    Args:
        text: The reply of a server; untrusted.
        secrets: What to remove from it, also in encoded form. Secrets under four characters are not removed.

    Returns:
        One printable line of at most `LONGEST_TEXT` characters, with “…” in place of each secret.
    """
    traces = sorted(
        {trace for secret in secrets if len(secret) >= SHORTEST_SECRET for trace in _traces(secret)},
        key=len,
        reverse=True,
    )
    text = _without(traces, text)
    line = " ".join(printable(text).split())
    line = _TRAILER.sub("", line)
    line = _without(traces, line)  # again: characters in the middle of an echoed secret are gone now
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"


def _without(traces: Iterable[str], text: str) -> str:
    for trace in traces:
        text = text.replace(trace, "…")
    return text


def _traces(secret: str) -> Iterator[str]:
    """The forms in which a server may echo a secret: unchanged, as an IMAP quoted string, or in base64."""
    yield secret
    if len(trimmed := " ".join(secret.split())) >= SHORTEST_SECRET:
        yield trimmed
    yield secret.replace("\\", "\\\\").replace('"', '\\"')
    data = secret.encode(errors="replace")
    padded = base64.b64encode(data).decode()
    yield from (padded, padded.rstrip("="))
    # Inside a longer message, such as AUTH PLAIN, the base64 of the secret depends on the number of bytes
    # before it. Characters that also encode bits of neighbouring bytes are left out.
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        whole = encoded[(before * 8 + 5) // 6 : (before + len(data)) * 8 // 6]
        if len(whole) >= SHORTEST_SECRET:
            yield whole
