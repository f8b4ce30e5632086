"""The script of the stand-in: its mailboxes, and how the servers behave for each of them.

A behaviour is a name from the tables below, a literal reply, or a fault at a stage:

    ok                               the reply of a healthy server
    wrong-credentials                a name from `REPLIES`
    535 5.7.139 No.|421 4.3.2 Bye.   a literal reply, with lines separated by `|`
    hang:auth                        a fault at a stage: `FAULTS`, `MAILBOX_STAGES`, `SERVER_STAGES`
    slow:17.5+wrong-credentials      any of the above, with the reply to the login 17.5 seconds late
"""

import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

Protocol = Literal["smtp", "imap"]
Parsed = TypeVar("Parsed")

STAMP = "[AM0PR01CA0123.eurprd01.prod.exchangelabs.com 2026-01-26T18:54:30.055Z 08DD3DD7D75D7743]"
UNSUCCESSFUL = "535 5.7.139 Authentication unsuccessful"
VISIT = "Visit https://aka.ms/smtp_auth_disabled for more information."
NO_BASIC_AUTH = "NO Basic authentication is disabled."
SIGNING_OFF = "* BYE Microsoft Exchange Server IMAP4 server signing off."

# Replies to a login, by name. IMAP lines get the client's tag unless they start with `*`.
REPLIES: dict[Protocol, dict[str, str]] = {
    "smtp": {
        "basic-auth-disabled": f"{UNSUCCESSFUL}, basic authentication is disabled. {STAMP}",
        "smtp-auth-disabled-tenant": (
            f"{UNSUCCESSFUL}, SmtpClientAuthentication is disabled for the Tenant. {VISIT} {STAMP}"
        ),
        "smtp-auth-disabled-mailbox": (
            f"{UNSUCCESSFUL}, SmtpClientAuthentication is disabled for the Mailbox. {VISIT} {STAMP}"
        ),
        "security-defaults": (
            f"{UNSUCCESSFUL}, user is locked by your organization's security defaults policy. "
            f"Contact your administrator. {STAMP}"
        ),
        "conditional-access": (
            f"{UNSUCCESSFUL}, the request did not meet the criteria to be authenticated successfully. "
            f"Contact your administrator. {STAMP}"
        ),
        "wrong-credentials": f"{UNSUCCESSFUL}, the user credentials were incorrect. {STAMP}",
        "account-blocked": (
            f"{UNSUCCESSFUL}, the user account is blocked. Contact your administrator. {STAMP}"
        ),
        "account-disabled": f"550 5.7.1 Authentication unsuccessful, the account is disabled. {STAMP}",
        "identity-refused": f"535 5.7.3 Authentication unsuccessful {STAMP}",
        "basic-auth-not-supported": (
            f"550 5.7.30 Basic authentication is not supported for Client Submission. {STAMP}"
        ),
        "not-authenticated": f"530 5.7.57 Client not authenticated to send mail. {STAMP}",
        "starttls-required": "451 5.7.3 STARTTLS is required to send mail",
        "too-many-connections": (
            "432 4.3.2 Concurrent connections limit exceeded. "
            f"Visit https://aka.ms/concurrent_sending for more information. {STAMP}"
        ),
        "service-not-available": "421 4.3.2 Service not available",
        "service-not-active": "421 4.3.2 Service not active",
        "temporary-server-error": (f"451 4.7.0 Temporary server error. Please try again later. PRX4 {STAMP}"),
        "temporary-auth-failure": f"454 4.7.0 Temporary authentication failure {STAMP}",
        "federation-unreachable": (
            "454 4.7.0 Temporary authentication failure, the federation service (STS) could not be reached. "
            f"{STAMP}"
        ),
        "server-busy": "451 4.7.500 Server busy. Please try again later from [192.0.2.1].",
        "throttled-backoff": (
            f"451 4.7.0 Request is throttled. Suggested Backoff Time: 299961 milliseconds {STAMP}"
        ),
    },
    "imap": {
        "basic-auth-disabled": f"{NO_BASIC_AUTH}|{SIGNING_OFF}",
        "login-failed": "NO LOGIN failed.",
        "authenticate-failed": "NO AUTHENTICATE failed.",
        "not-connected": "OK LOGIN completed.",
        "wrong-credentials": "NO [AUTHENTICATIONFAILED] Authentication failed.",
        "unavailable": "NO [UNAVAILABLE] The server is temporarily unavailable.",
        "limit": "NO [LIMIT] Too many simultaneous connections.",
        "inuse": "NO [INUSE] The mailbox is in use.",
        "server-unavailable": "NO Server Unavailable. 15",
        "throttled-backoff": "BAD Request is throttled. Suggested Backoff Time: 299,961 milliseconds",
        "bye": "* BYE Connection is closed. 13",
    },
}
# The reply to every command except LOGOUT after a successful login.
AFTER_LOGIN: dict[Protocol, dict[str, str]] = {
    "smtp": {},
    "imap": {"not-connected": "BAD User is authenticated but not connected."},
}
LITERALS: dict[Protocol, re.Pattern[str]] = {
    "smtp": re.compile(r"\d{3}([ -][^\r\n]*)?"),
    "imap": re.compile(r"(NO |BAD |OK |\* (BYE|NO |BAD |OK ))[^\r\n]*"),
}

# hang: send nothing. drip: send one byte at a time, without end. drop: close the connection. reset: close it
# with RST. garbage: send random bytes instead of the reply. overlong: send the reply as a line of 1 MiB.
FAULTS = ("hang", "drip", "drop", "reset", "garbage", "overlong")
# user: after the user name, before the password prompt. auth: after the credentials.
# after: any command after a successful login.
MAILBOX_STAGES: dict[Protocol, tuple[str, ...]] = {
    "smtp": ("user", "auth", "after"),
    "imap": ("auth", "after"),
}
# connect: before the greeting; in IMAP before TLS. tls: in the handshake, after the ClientHello.
# All others: instead of the reply of that name.
SERVER_STAGES: dict[Protocol, tuple[str, ...]] = {
    "smtp": ("connect", "greeting", "ehlo", "starttls", "tls", "auth", "after"),
    "imap": ("connect", "tls", "greeting", "capability", "auth", "after"),
}
# refused: nothing listens. unknown-name: the host name cannot be looked up.
# wrong-name, expired, self-signed: a fault of the certificate. old-tls: no TLS version in common.
# greeting-busy: the greeting rejects the client.
_UNREACHABLE = ("refused", "unknown-name")
_EITHER = ("ok", *_UNREACHABLE, "wrong-name", "expired", "self-signed", "old-tls", "greeting-busy")
# injected: plain text in the same segment as the 220 reply to STARTTLS. no-auth: no AUTH line.
SERVER_FAULTS: dict[Protocol, tuple[str, ...]] = {
    "smtp": (*_EITHER, "no-starttls", "starttls-refused", "injected", "no-auth", "xoauth2-only"),
    "imap": (*_EITHER, "login-disabled"),
}


class ScriptError(ValueError):
    """A behaviour, an accounts file or a servers file is not valid. The text says what is wrong and where."""


@dataclass(frozen=True, slots=True)
class Account:
    """A mailbox: its password, and the behaviour of each protocol at a login."""

    password: str = field(repr=False)
    smtp: str = "ok"
    imap: str = "ok"


@dataclass(frozen=True, slots=True)
class ServerFaults:
    """The faults of the servers themselves, for every mailbox, and what they offer.

    Attributes:
        smtp: A name from `SERVER_FAULTS`, or FAULT:STAGE with a stage from `SERVER_STAGES`.
        imap: The same for IMAP.
        smtp_auth: The AUTH line of SMTP after TLS. LOGIN, PLAIN and XOAUTH2 have an effect.
        imap_capabilities: Replaces Exchange's capabilities. LOGINDISABLED, AUTH=PLAIN and SASL-IR have an
            effect.
    """

    smtp: str = "ok"
    imap: str = "ok"
    smtp_auth: str = "LOGIN XOAUTH2"
    imap_capabilities: str = ""


@dataclass(frozen=True, slots=True)
class Play:
    """A parsed behaviour.

    Attributes:
        name: The behaviour as written, or "literal" for a literal reply.
        lines: The reply to the login; empty for the reply of a healthy server.
        after_login: The reply to every command after a successful login; "" for normal replies.
        seconds: How late the reply to the login comes.
        fault: A name from `FAULTS`, or "".
        stage: The stage of the fault, or "".
    """

    name: str = "ok"
    lines: tuple[str, ...] = ()
    after_login: str = ""
    seconds: float = 0.0
    fault: str = ""
    stage: str = ""


OK = Play()


@lru_cache(maxsize=1024)
def mailbox_play(protocol: Protocol, text: str) -> Play:
    """Parse the behaviour of a mailbox.

    Raises:
        ScriptError: If it is unknown.
    """
    text = text.strip() or "ok"
    if text.startswith("slow:"):
        seconds, _, rest = text.removeprefix("slow:").partition("+")
        return replace(mailbox_play(protocol, rest), seconds=seconds_of(seconds))
    if text == "ok":
        return OK
    if text in REPLIES[protocol]:
        lines = tuple(REPLIES[protocol][text].split("|"))
        return Play(text, lines, after_login=AFTER_LOGIN[protocol].get(text, ""))
    if all(LITERALS[protocol].fullmatch(line) for line in text.split("|")):
        return Play("literal", tuple(text.split("|")))
    return _fault_play(protocol, text, MAILBOX_STAGES[protocol], REPLIES[protocol])


@lru_cache(maxsize=1024)
def server_play(protocol: Protocol, text: str) -> Play:
    """Parse the fault of a whole server.

    Raises:
        ScriptError: If it is unknown.
    """
    text = text.strip() or "ok"
    if text in SERVER_FAULTS[protocol]:
        return Play(text)
    return _fault_play(protocol, text, SERVER_STAGES[protocol], SERVER_FAULTS[protocol])


def seconds_of(text: str) -> float:
    """Parse a number of seconds: finite, zero or more.

    Raises:
        ScriptError: If it is not one.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ScriptError(f"“{text}” is not a number of seconds")
    return seconds


def read_accounts(path: Path) -> dict[str, Account]:
    """Read an accounts file: CSV with the columns email, password and optionally smtp and imap.

    Returns:
        Address in lower case → account.

    Raises:
        ScriptError: If the file cannot be read or is not valid.
    """

    def parse(row: dict[str, str]) -> Account:
        smtp, imap = row.get("smtp") or "ok", row.get("imap") or "ok"
        mailbox_play("smtp", smtp), mailbox_play("imap", imap)
        return Account(row["password"], smtp, imap)

    return _read(path, ("email", "password"), ("smtp", "imap"), parse)


def read_servers(path: Path) -> dict[str, ServerFaults]:
    """Read a servers file: CSV with the columns domain and optionally smtp and imap.

    Returns:
        Domain in lower case → faults of its servers.

    Raises:
        ScriptError: If the file cannot be read or is not valid.
    """

    def parse(row: dict[str, str]) -> ServerFaults:
        smtp, imap = row.get("smtp") or "ok", row.get("imap") or "ok"
        server_play("smtp", smtp), server_play("imap", imap)
        return ServerFaults(smtp, imap)

    return _read(path, ("domain",), ("smtp", "imap"), parse)


def _read(
    path: Path, needed: tuple[str, ...], optional: tuple[str, ...], parse: Callable[[dict[str, str]], Parsed]
) -> dict[str, Parsed]:
    """The parsed rows of a file by their first needed column, in lower case."""
    found: dict[str, Parsed] = {}
    for line, row in _rows(path, needed, optional):
        key = row[needed[0]].strip().lower()
        try:
            if key in found:
                raise ScriptError(f"duplicate {needed[0]} “{key}”")
            found[key] = parse(row)
        except ScriptError as error:
            raise ScriptError(f"{path}, line {line}: {error}.") from None
    return found


def _rows(
    path: Path, needed: tuple[str, ...], optional: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, restval="", strict=True)
            header = table.fieldnames or ()
            if missing := [column for column in needed if column not in header]:
                raise ScriptError(f"{path}: missing column: {', '.join(missing)}.")
            if unknown := [column for column in header if column not in (*needed, *optional)]:
                raise ScriptError(f"{path}: unknown column: {', '.join(unknown)}.")
            for row in table:
                if None in row:
                    raise ScriptError(f"{path}, line {table.line_num}: more cells than the header.")
                if empty := [column for column in needed if not row[column].strip()]:
                    raise ScriptError(f"{path}, line {table.line_num}: missing {' and '.join(empty)}.")
                yield table.line_num, row
    except OSError as error:
        raise ScriptError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ScriptError(f"{path} is not UTF-8.") from None
    except csv.Error as error:
        raise ScriptError(f"{path} is not valid CSV: {error}.") from None


def _fault_play(protocol: Protocol, text: str, stages: tuple[str, ...], names: Iterable[str]) -> Play:
    fault, _, stage = text.partition(":")
    if fault in FAULTS and stage in stages:
        return Play(text, fault=fault, stage=stage)
    raise ScriptError(
        f"unknown {protocol.upper()} behaviour “{text}”; use one of {', '.join(names)}, "
        f"or one of {', '.join(FAULTS)} with a stage ({', '.join(stages)}), such as {FAULTS[0]}:{stages[0]}"
    )
