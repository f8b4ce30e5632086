"""Who has a mailbox here, and what the servers say and do to whom.

A behaviour is a word from the tables below, a literal reply, or a fault at a stage:

    ok                               the true answer
    wrong-credentials                a name from `REPLIES`
    535 5.7.139 No.|421 4.3.2 Bye.   a literal reply, lines separated by `|`
    hang:auth                        a fault at a stage: `FAULTS`, `MAILBOX_STAGES`, `SERVER_STAGES`
    slow:17.5+wrong-credentials      any of the above, the answer to the login so many seconds late
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

# What a login is answered with, by name. IMAP lines get the client's tag unless they begin with `*`.
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
# What every command but LOGOUT is answered with once the login has gone well.
AFTER_LOGIN: dict[Protocol, dict[str, str]] = {
    "smtp": {},
    "imap": {"not-connected": "BAD User is authenticated but not connected."},
}
LITERALS: dict[Protocol, re.Pattern[str]] = {
    "smtp": re.compile(r"\d{3}([ -][^\r\n]*)?"),
    "imap": re.compile(r"(NO |BAD |OK |\* BYE)[^\r\n]*"),
}

# hang: silence; drip: a byte at a time, without end; drop: the connection is closed; reset: by RST;
# garbage: bytes of no protocol in the reply's place; overlong: the reply as a line of 1 MiB.
FAULTS = ("hang", "drip", "drop", "reset", "garbage", "overlong")
# user: after the user name, before the password is asked for. auth: the credentials are in.
# after: any command after the good login.
MAILBOX_STAGES: dict[Protocol, tuple[str, ...]] = {
    "smtp": ("user", "auth", "after"),
    "imap": ("auth", "after"),
}
# connect: before the greeting, on IMAP before TLS. tls: inside the handshake, the ClientHello is in.
# The others: in place of the reply that they name.
SERVER_STAGES: dict[Protocol, tuple[str, ...]] = {
    "smtp": ("connect", "greeting", "ehlo", "starttls", "tls", "auth", "after"),
    "imap": ("connect", "tls", "greeting", "capability", "auth", "after"),
}
# refused: nothing listens. unknown-name: the host's name cannot be looked up.
# wrong-name, expired, self-signed: the certificate. old-tls: no TLS version in common.
# greeting-busy: turned away by the greeting.
_UNREACHABLE = ("refused", "unknown-name")
_EITHER = ("ok", *_UNREACHABLE, "wrong-name", "expired", "self-signed", "old-tls", "greeting-busy")
# injected: plain text in one segment with the 220 to STARTTLS. no-auth: no AUTH line at all.
SERVER_FAULTS: dict[Protocol, tuple[str, ...]] = {
    "smtp": (*_EITHER, "no-starttls", "starttls-refused", "injected", "no-auth", "xoauth2-only"),
    "imap": (*_EITHER, "login-disabled"),
}


class ScriptError(ValueError):
    """A behaviour, an accounts file or a servers file that makes no sense. The text says what and where."""


@dataclass(frozen=True, slots=True)
class Account:
    """A mailbox: its password, and how a login to it goes over each protocol."""

    password: str = field(repr=False)
    smtp: str = "ok"
    imap: str = "ok"


@dataclass(frozen=True, slots=True)
class ServerFaults:
    """What is wrong with the servers themselves, whoever logs in, and what they offer.

    `smtp` and `imap` are a word of `SERVER_FAULTS` or FAULT:STAGE with a stage of `SERVER_STAGES`.
    `smtp_auth` is the AUTH line of SMTP after TLS: LOGIN, PLAIN and XOAUTH2 are understood.
    `imap_capabilities` takes the place of Exchange's: LOGINDISABLED, AUTH=PLAIN and SASL-IR are heeded.
    """

    smtp: str = "ok"
    imap: str = "ok"
    smtp_auth: str = "LOGIN XOAUTH2"
    imap_capabilities: str = ""


@dataclass(frozen=True, slots=True)
class Play:
    """A behaviour, taken apart. `lines` empty means the true answer; `seconds` is how late it comes."""

    name: str = "ok"
    lines: tuple[str, ...] = ()
    after_login: str = ""
    seconds: float = 0.0
    fault: str = ""
    stage: str = ""


OK = Play()


@lru_cache(maxsize=1024)
def mailbox_play(protocol: Protocol, text: str) -> Play:
    """The behaviour that `text` names for one mailbox; ScriptError if it names none."""
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
    """The fault that `text` names for a whole server; ScriptError if it names none."""
    text = text.strip() or "ok"
    if text in SERVER_FAULTS[protocol]:
        return Play(text)
    return _fault_play(protocol, text, SERVER_STAGES[protocol], SERVER_FAULTS[protocol])


def seconds_of(text: str) -> float:
    """A finite number of seconds, zero or more."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ScriptError(f"“{text}” is no number of seconds")
    return seconds


def read_accounts(path: Path) -> dict[str, Account]:
    """The mailboxes of an accounts file: CSV with email, password and optionally smtp and imap."""

    def parse(row: dict[str, str]) -> Account:
        smtp, imap = row.get("smtp") or "ok", row.get("imap") or "ok"
        mailbox_play("smtp", smtp), mailbox_play("imap", imap)
        return Account(row["password"], smtp, imap)

    return _read(path, ("email", "password"), ("smtp", "imap"), parse)


def read_servers(path: Path) -> dict[str, ServerFaults]:
    """The domains with servers of their own: CSV with domain and optionally smtp and imap."""

    def parse(row: dict[str, str]) -> ServerFaults:
        smtp, imap = row.get("smtp") or "ok", row.get("imap") or "ok"
        server_play("smtp", smtp), server_play("imap", imap)
        return ServerFaults(smtp, imap)

    return _read(path, ("domain",), ("smtp", "imap"), parse)


def _read(
    path: Path, needed: tuple[str, ...], optional: tuple[str, ...], parse: Callable[[dict[str, str]], Parsed]
) -> dict[str, Parsed]:
    """The rows of a file by their first column, in lower case. Any fault is a ScriptError with its line."""
    found: dict[str, Parsed] = {}
    for line, row in _rows(path, needed, optional):
        key = row[needed[0]].strip().lower()
        try:
            if key in found:
                raise ScriptError(f"{needed[0]} “{key}” is there twice")
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
                raise ScriptError(f"{path} has no column {' and no column '.join(missing)}.")
            if unknown := [column for column in header if column not in (*needed, *optional)]:
                raise ScriptError(f"{path} has an unknown column {' and '.join(unknown)}.")
            for row in table:
                if None in row:
                    raise ScriptError(f"{path}, line {table.line_num}: more cells than the header.")
                if empty := [column for column in needed if not row[column].strip()]:
                    raise ScriptError(f"{path}, line {table.line_num}: no {' and no '.join(empty)}.")
                yield table.line_num, row
    except OSError as error:
        raise ScriptError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ScriptError(f"{path} is not UTF-8.") from None
    except csv.Error as error:
        raise ScriptError(f"{path} is no CSV: {error}.") from None


def _fault_play(protocol: Protocol, text: str, stages: tuple[str, ...], names: Iterable[str]) -> Play:
    fault, _, stage = text.partition(":")
    if fault in FAULTS and stage in stages:
        return Play(text, fault=fault, stage=stage)
    raise ScriptError(
        f"“{text}” is nothing that {protocol.upper()} can be told to do; "
        f"it knows {', '.join(names)}, and {', '.join(FAULTS)} at {', '.join(stages)}"
    )
