"""Why a connection test ended as it did: a closed list, one table of explanations, one pure classifier.

`classify` listens to the sentence first, then to the enhanced status code (RFC 3463), then to the reply code:
Microsoft's `535 5.7.139` alone stands for seven causes with seven remedies.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple


class Protocol(StrEnum):
    SMTP = "smtp"
    IMAP = "imap"


class Stage(StrEnum):
    """How far a dialogue had come when it was answered, or when it broke."""

    CONNECT = "connect"
    TLS = "tls"
    GREETING = "greeting"
    CAPABILITY = "capability"  # EHLO in SMTP, CAPABILITY in IMAP
    STARTTLS = "starttls"
    LOGIN = "login"
    CHECK = "check"  # the first command after a good login


class Reply(NamedTuple):
    """A server's answer: `code` is the three digits of SMTP, or NO, BAD or BYE; `text` is one line."""

    code: str
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}".strip()


class Reason(StrEnum):
    OK = "ok"
    WRONG_CREDENTIALS = "wrong_credentials"
    LOGIN_REFUSED = "login_refused"
    PASSWORD_SIGN_IN_DISABLED = "password_sign_in_disabled"  # noqa: S105  the name of a reason
    SMTP_AUTH_OFF_TENANT = "smtp_auth_off_tenant"
    SMTP_AUTH_OFF_MAILBOX = "smtp_auth_off_mailbox"
    SECURITY_DEFAULTS = "security_defaults"
    CONDITIONAL_ACCESS = "conditional_access"
    ACCOUNT_BLOCKED = "account_blocked"
    FEDERATION_UNREACHABLE = "federation_unreachable"
    MECHANISM_NOT_OFFERED = "mechanism_not_offered"
    IMAP_OFF = "imap_off"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    THROTTLED = "throttled"
    SERVER_BUSY = "server_busy"
    NAME_NOT_FOUND = "name_not_found"
    CONNECTION_REFUSED = "connection_refused"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    DROPPED = "dropped"
    TLS_FAILURE = "tls_failure"
    CERTIFICATE_NOT_TRUSTED = "certificate_not_trusted"
    STARTTLS_MISSING = "starttls_missing"
    PROTOCOL_ERROR = "protocol_error"
    CLIENT_FAULT = "client_fault"
    UNKNOWN_REFUSAL = "unknown_refusal"
    UNKNOWN_DELAY = "unknown_delay"

    @property
    def explanation(self) -> Explanation:
        return EXPLANATIONS[self]


@dataclass(frozen=True)
class Explanation:
    """What a reason is called, what it means and what to do.

    Attributes:
        transient: Trying again later, unchanged, may help.
        attempts: The most attempts worth making, where that is less than the setting.
    """

    title: str
    meaning: str
    remedy: str
    transient: bool = False
    attempts: int | None = None


EXPLANATIONS = {
    Reason.OK: Explanation("Connected", "The server took the password.", "Nothing to do."),
    Reason.WRONG_CREDENTIALS: Explanation(
        "Wrong password",
        "The server judged the password and refused it, or it is the account's password where an app "
        "password is needed.",
        "Make a new app password; then delete the mailbox here and import it again.",
    ),
    Reason.LOGIN_REFUSED: Explanation(
        "Login refused, no cause named",
        "The password may be wrong, the protocol may be off for the mailbox, or a policy forbids "
        "password sign-in; the server does not say which.",
        "Check the password first, then whether the protocol is on for the mailbox, then the sign-in policy.",
    ),
    Reason.PASSWORD_SIGN_IN_DISABLED: Explanation(
        "Provider takes no passwords",
        "The provider has turned password sign-in (basic authentication) off; the password was not the "
        "problem.",
        "A new password will not help: use OAuth sign-in, or a host that still takes passwords.",
    ),
    Reason.SMTP_AUTH_OFF_TENANT: Explanation(
        "SMTP AUTH is off for the organisation",
        "The Microsoft 365 tenant has SMTP AUTH turned off.",
        "Admin: Set-TransportConfig -SmtpClientAuthenticationDisabled $false, or for one mailbox "
        "Set-CASMailbox -Identity ADDRESS -SmtpClientAuthenticationDisabled $false; it takes up to an hour.",
    ),
    Reason.SMTP_AUTH_OFF_MAILBOX: Explanation(
        "SMTP AUTH is off for the mailbox",
        "SMTP AUTH is turned off for this one mailbox.",
        "Admin: tick “Authenticated SMTP” under the user's Mail apps in the Microsoft 365 admin centre.",
    ),
    Reason.SECURITY_DEFAULTS: Explanation(
        "Security defaults block passwords",
        "The organisation's security defaults forbid password sign-in. The account is not locked.",
        "Admin: replace security defaults by Conditional Access in Entra, or use OAuth sign-in.",
    ),
    Reason.CONDITIONAL_ACCESS: Explanation(
        "Blocked by Conditional Access",
        "A Conditional Access policy, or the address that the sign-in came from, does not allow it.",
        "Admin: find the refusal in Entra's sign-in logs and allow this machine's address or the user.",
    ),
    Reason.ACCOUNT_BLOCKED: Explanation(
        "Account blocked, locked or on hold",
        "The provider has blocked the account itself.",
        "Sign in on the web and follow what it asks for, or have the admin unblock the account.",
    ),
    Reason.FEDERATION_UNREACHABLE: Explanation(
        "Organisation's sign-in server did not answer",
        "The organisation signs users in on a server of its own (federation); Microsoft could not reach it.",
        "Wait; if it lasts, have the admin check the federation server (AD FS).",
        transient=True,
    ),
    Reason.MECHANISM_NOT_OFFERED: Explanation(
        "Server offers no password login",
        "The server names no mechanism that takes a password (only OAuth, or none); none was sent.",
        "A new password will not help: use OAuth sign-in, or a host that takes passwords.",
    ),
    Reason.IMAP_OFF: Explanation(
        "Signed in, but no mailbox behind it",
        "The password is right, but IMAP is off for the mailbox, it has no licence, or it is a shared one.",
        "Check that the mailbox has a licence and that IMAP is on under its Mail apps.",
        transient=True,
        attempts=2,
    ),
    Reason.TOO_MANY_CONNECTIONS: Explanation(
        "Too many connections",
        "The mailbox or this address has too many connections open.",
        "Close other programs that use the mailbox; the next retest tries it again.",
        transient=True,
    ),
    Reason.THROTTLED: Explanation(
        "Throttled",
        "The server asked this address to slow down.",
        "Wait; the next retest tries it again. If it lasts, test fewer mailboxes at once.",
        transient=True,
    ),
    Reason.SERVER_BUSY: Explanation(
        "Server busy",
        "The server could not judge the password just now.",
        "Wait; the next retest tries it again.",
        transient=True,
    ),
    Reason.NAME_NOT_FOUND: Explanation(
        "Server name not found",
        "The name of the server could not be looked up.",
        "Check this machine's network and DNS, and the server's name in the settings.",
        transient=True,
    ),
    Reason.CONNECTION_REFUSED: Explanation(
        "Connection refused",
        "Nothing listens on the server's port, or a firewall turns the connection away.",
        "Check the port in the settings and the firewall.",
        transient=True,
    ),
    Reason.UNREACHABLE: Explanation(
        "Server not reachable",
        "There is no way through the network to the server.",
        "Check this machine's network and firewall.",
        transient=True,
    ),
    Reason.TIMED_OUT: Explanation(
        "Timed out",
        "The server did not finish its answers within the deadline.",
        "Wait; the next retest tries it again. If every mailbox times out, check the firewall.",
        transient=True,
    ),
    Reason.DROPPED: Explanation(
        "Connection dropped",
        "The server closed the connection without a verdict; the password was not judged.",
        "Wait; the next retest tries it again.",
        transient=True,
    ),
    Reason.TLS_FAILURE: Explanation(
        "Encryption could not be set up",
        "The TLS handshake failed.",
        "Check that the port speaks TLS 1.2 or later, and that nothing in between breaks TLS open.",
        transient=True,
    ),
    Reason.CERTIFICATE_NOT_TRUSTED: Explanation(
        "Server certificate not trusted",
        "The server's certificate is expired, made out to another name, or signed by nobody this machine "
        "trusts; no password was sent.",
        "Renew the certificate, or name your own authority's file in OUTLOOK_IMPORT_CA_FILE.",
    ),
    Reason.STARTTLS_MISSING: Explanation(
        "Server offers no encryption",
        "The server offers no STARTTLS, or wants newer TLS than was spoken; no password went unencrypted.",
        "Turn on STARTTLS with TLS 1.2 or later at the server, or use the right port (587).",
    ),
    Reason.PROTOCOL_ERROR: Explanation(
        "Answers make no sense",
        "What came back is not the protocol: a wrong port, or something in between.",
        "Check host and port in the settings, and any proxy or virus scanner in between.",
        transient=True,
    ),
    Reason.CLIENT_FAULT: Explanation(
        "Server says that nobody logged in",
        "The server treats the session as not signed in: a fault of this program.",
        "Please report it with the server's text.",
    ),
    Reason.UNKNOWN_REFUSAL: Explanation(
        "Refused for another cause",
        "The server refused for a cause that is not in the catalogue.",
        "Read the server's own text.",
    ),
    Reason.UNKNOWN_DELAY: Explanation(
        "Put off for another cause",
        "The server put the login off for a cause that is not in the catalogue.",
        "Read the server's own text; the next retest tries it again.",
        transient=True,
    ),
}

# The first sentence that matches speaks, so the particular stands before the general: “locked by … security
# defaults” is no locked account, and “temporary authentication failure” no wrong password. Every repetition
# is bounded: the texts come from strangers.
_SENTENCES = [
    (re.compile(pattern, re.IGNORECASE), reason)
    for pattern, reason in (
        (
            r"(SmtpClientAuth\w{0,20}|SMTP (client )?auth\w{0,20}|authenticated SMTP) (is |has been |was )?"
            r"(disabled|(turned |switched )?off|not enabled) for (the |this |your )?(mailbox|user)",
            Reason.SMTP_AUTH_OFF_MAILBOX,
        ),
        (
            r"(SmtpClientAuth\w{0,20}|SMTP (client )?auth\w{0,20}|authenticated SMTP) (is |has been |was )?"
            r"(disabled|(turned |switched )?off|not enabled)|smtp_auth_disabled",
            Reason.SMTP_AUTH_OFF_TENANT,
        ),
        (r"security defaults?", Reason.SECURITY_DEFAULTS),
        (
            r"(basic|legacy|password|plain)[ -]?(text )?(auth\w{0,20}|sign-?in|log[io]n)s? (for \w{1,20} )?"
            r"((is|are|was|has been|have been) )?((currently|permanently|now) )?"
            r"(disabled|not (supported|allowed|enabled|available|permitted)|blocked|(turned|switched) off"
            r"|no longer|deprecated|retired|removed)"
            r"|no longer (support|accept|allow)\w{0,3} (basic|legacy|password)"
            r"|passwords? (is |are )?no longer (supported|accepted|allowed)|LOGINDISABLED",
            Reason.PASSWORD_SIGN_IN_DISABLED,
        ),
        (r"(not|n't) meet the criteria|conditional access", Reason.CONDITIONAL_ACCESS),
        (r"federat(ed|ion)|\bAD ?FS\b|\bSTS\b|token service", Reason.FEDERATION_UNREACHABLE),
        (
            r"STARTTLS (is )?required|issue (a )?STARTTLS|(TLS|encryption|secure connection) (is )?required"
            r"|TLS 1\.[01]\b|\[PRIVACYREQUIRED\]",
            Reason.STARTTLS_MISSING,
        ),
        (
            r"throttl|back-?off|(rate|bandwidth) limit|try again later from|\[OVERQUOTA\]"
            r"|too many ((bad|failed|invalid|auth|authentication|login) ){0,2}"
            r"(requests|logins?|attempts|failures)",
            Reason.THROTTLED,
        ),
        (
            r"concurrent(_sending| connections?)|(too many|maximum( number of)?) (\w{1,20} )?connections?"
            r"|connections? limit|\[LIMIT\]",
            Reason.TOO_MANY_CONNECTIONS,
        ),
        (
            # “will be locked” is a warning and no state, “mailbox has IMAP disabled” about IMAP.
            r"(account|user|mailbox|identity)\b((?!will |may |IMAP)[^.;]){0,40}\b"
            r"(locked|blocked|disabled|suspended|on hold|held|quarantined|deactivated)"
            r"|account[^.;]{0,20}expired|\[CONTACTADMIN\]"
            r"|(log|sign) ?in (via|with|through|using) (your |a |the )?(web )?browser",
            Reason.ACCOUNT_BLOCKED,
        ),
        (
            r"temporar(y|ily)|try (again )?later|service (is )?(unavailable|not (available|active))"
            r"|server (is )?(busy|unavailable)|\[(UNAVAILABLE|INUSE|SERVERBUG)\]",
            Reason.SERVER_BUSY,
        ),
        (r"\[(AUTHENTICATIONFAILED|EXPIRED)\]", Reason.WRONG_CREDENTIALS),
        (
            r"authenticated but not connected|not enabled for IMAP"
            r"|IMAP4? (access )?(is )?(disabled|(turned )?off\b|not (enabled|allowed))"
            r"|(not|isn't) licensed|no licen[cs]e|licen[cs]e (is )?(missing|expired)",
            Reason.IMAP_OFF,
        ),
        (
            r"(credentials?|password|user ?name|login) (\w{1,20} ){0,4}"
            r"(incorrect|invalid|wrong|bad|not (correct|valid|accepted)|expired|mismatch)"
            r"|(incorrect|invalid|wrong|bad) (\w{1,20} )?(authentication data|credentials?|password|user\b"
            r"|user ?name|login)|app(lication-specific)? password (is )?(required|needed)",
            Reason.WRONG_CREDENTIALS,
        ),
        (
            r"mechanism|unrecogni[sz]ed authentication type|auth(entication)? type"
            r"|auth(entication)? (is )?not (enabled|available|supported)|not advertised",
            Reason.MECHANISM_NOT_OFFERED,
        ),
        (r"not authenticated|authentication (is )?required", Reason.CLIENT_FAULT),
    )
]

# A no that names no cause: a code beside it may still name one (`535 5.7.8 authentication failed`).
_BARE_NO = re.compile(
    r"(LOGIN|AUTHENTICATE) failed|authentication (unsuccessful|failed|failure)|\[AUTHORIZATIONFAILED\]",
    re.IGNORECASE,
)

# Sources: RFC 4954 section 6, RFC 5248, RFC 3463, Microsoft's list of SMTP replies.
_ENHANCED_CODES = {
    "4.3.2": Reason.SERVER_BUSY,
    "4.7.500": Reason.THROTTLED,
    "4.7.0": Reason.SERVER_BUSY,
    "5.2.1": Reason.ACCOUNT_BLOCKED,
    "5.7.3": Reason.LOGIN_REFUSED,
    "5.7.8": Reason.WRONG_CREDENTIALS,
    "5.7.9": Reason.MECHANISM_NOT_OFFERED,
    "5.7.11": Reason.STARTTLS_MISSING,
    "5.7.13": Reason.ACCOUNT_BLOCKED,
    "5.7.30": Reason.PASSWORD_SIGN_IN_DISABLED,
    "5.7.57": Reason.CLIENT_FAULT,
    "5.7.139": Reason.LOGIN_REFUSED,
}

_CODES = {
    "421": Reason.SERVER_BUSY,
    "432": Reason.TOO_MANY_CONNECTIONS,
    "451": Reason.SERVER_BUSY,
    "454": Reason.SERVER_BUSY,
    "504": Reason.MECHANISM_NOT_OFFERED,
    "530": Reason.STARTTLS_MISSING,
    "534": Reason.MECHANISM_NOT_OFFERED,
    "535": Reason.LOGIN_REFUSED,
    "538": Reason.STARTTLS_MISSING,
    "NO": Reason.LOGIN_REFUSED,
    "BYE": Reason.DROPPED,
}

_ENHANCED_CODE = re.compile(r"(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?![\d.])")
_REFUSALS_OF_IDENTITY = {Reason.WRONG_CREDENTIALS, Reason.LOGIN_REFUSED}


def classify(protocol: Protocol, stage: Stage, reply: Reply) -> Reason:
    """Find the reason behind a server's refusal.

    Args:
        protocol: Which protocol the reply was spoken in.
        stage: What it answered. Before the login nothing was said about a password: none is blamed.
        reply: The refusal; an OK or a 2xx reply is not one and is not asked about.

    Returns:
        A reason other than `Reason.OK`.
    """
    put_off = reply.code.startswith("4")
    impossible = set()
    if put_off or stage is not Stage.LOGIN:
        impossible |= _REFUSALS_OF_IDENTITY
    if put_off:  # a lock that passes
        impossible |= {Reason.ACCOUNT_BLOCKED}
    if protocol is Protocol.SMTP:
        impossible |= {Reason.IMAP_OFF}
    fallback = _FALLBACKS.get((protocol, stage), Reason.UNKNOWN_REFUSAL)
    if put_off:
        fallback = Reason.UNKNOWN_DELAY
    return next((reason for reason in _candidates(reply) if reason not in impossible), fallback)


# What a refusal means by the stage alone, when neither its words nor its codes are known.
_FALLBACKS = {
    (Protocol.SMTP, Stage.STARTTLS): Reason.STARTTLS_MISSING,
    (Protocol.IMAP, Stage.STARTTLS): Reason.STARTTLS_MISSING,
    (Protocol.IMAP, Stage.CHECK): Reason.IMAP_OFF,
}


LONGEST_REPLY = 10_000


def _candidates(reply: Reply) -> Iterator[Reason]:
    # A reply of several lines breaks its sentences anywhere. To search megabytes would hold up all logins.
    text = " ".join(reply.text[:LONGEST_REPLY].split())
    yield from (reason for pattern, reason in _SENTENCES if pattern.search(text))
    enhanced = _ENHANCED_CODE.search(text)
    if enhanced and enhanced[1] in _ENHANCED_CODES:
        yield _ENHANCED_CODES[enhanced[1]]
    if _BARE_NO.search(text):
        yield Reason.LOGIN_REFUSED
    if reply.code in _CODES:
        yield _CODES[reply.code]


_BACKOFF = re.compile(
    r"(?:back-?off time|retry[ -]after|try again (?:in|after)|\bwait)\D{0,20}?"
    r"(\d[\d,]{0,20}(?:\.\d{1,9})?)(?![.:,]?\d)\s{0,3}"
    r"(milliseconds?|msec|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?)?\b",
    re.IGNORECASE,
)
# By the first letter, but for milliseconds.
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_BACKOFF = timedelta(days=1)


def backoff_named(text: str) -> timedelta | None:
    """The pause that a server's reply asks for, at most a day; None when it names none."""
    found = _BACKOFF.search(text)
    if not found:
        return None
    unit = (found[2] or "s").lower()
    factor = 0.001 if unit.startswith(("ms", "milli")) else _UNIT_SECONDS[unit[0]]
    seconds = float(found[1].replace(",", "")) * factor
    return timedelta(seconds=min(seconds, LONGEST_BACKOFF.total_seconds()))


# The name of the machine that answered, the time and an id: different in every reply.
_TRAILER = re.compile(
    r" ?\[[\w.-]{1,255}( \d{4}-\d\d-\d\dT[^\]]{0,80}|\.(outlook|exchangelabs)\.com)\]", re.IGNORECASE
)
LONGEST_TEXT = 300
SHORTEST_SECRET = 4  # to blot out a shorter one would only garble the text, and tell that it is short


def one_line(text: str, *secrets: str) -> str:
    """A server's text as it may be stored and shown: printable, one line, bounded, without credentials."""
    traces = sorted(
        {trace for secret in secrets if len(secret) >= SHORTEST_SECRET for trace in _traces(secret)},
        key=len,
        reverse=True,
    )
    text = _without(traces, text)
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    line = _TRAILER.sub("", line)
    line = _without(traces, line)  # what stood in the middle of an echo is gone by now
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"


def _without(traces: Iterable[str], text: str) -> str:
    for trace in traces:
        text = text.replace(trace, "…")
    return text


def _traces(secret: str) -> Iterator[str]:
    """The forms in which a server may echo a secret: as it is, as an IMAP quoted string, in base64."""
    yield secret
    if len(trimmed := " ".join(secret.split())) >= SHORTEST_SECRET:
        yield trimmed
    yield secret.replace("\\", "\\\\").replace('"', '\\"')
    data = secret.encode(errors="replace")
    padded = base64.b64encode(data).decode()
    yield from (padded, padded.rstrip("="))
    # Inside of something longer, base64 of the secret depends on how many bytes stand before it (AUTH PLAIN);
    # the characters that also hold bits of its neighbours are left out.
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        whole = encoded[(before * 8 + 5) // 6 : (before + len(data)) * 8 // 6]
        if len(whole) >= SHORTEST_SECRET:
            yield whole


# Causes that lie with the account or the organisation: they explain the other protocol's bare no too.
_EXPLAIN_BOTH = {
    Reason.WRONG_CREDENTIALS,
    Reason.PASSWORD_SIGN_IN_DISABLED,
    Reason.SECURITY_DEFAULTS,
    Reason.CONDITIONAL_ACCESS,
    Reason.ACCOUNT_BLOCKED,
}


def diagnose(smtp: Reason | None, imap: Reason | None) -> str:
    """One line on a mailbox from what both protocols said; None stands for a protocol not tried.

    Where one side names a cause that covers both and the other gives a bare no, the named cause speaks.
    Where one side took the password, the password is right, whatever the other says.
    """
    said = {"SMTP": smtp, "IMAP": imap}
    faults = {name: reason for name, reason in said.items() if reason not in (None, Reason.OK)}
    if not faults:
        return "Works: SMTP and IMAP took the password." if smtp and imap else "Not tested to the end yet."
    reasons = [reason for reason in faults.values() if reason]
    if Reason.OK in said.values():
        (other,) = faults
        if reasons[0] in _REFUSALS_OF_IDENTITY:
            return (
                f"The password is right, but {other} refuses it: check that {other} is on for the mailbox "
                "and what the sign-in policy says."
            )
        return f"The password is right. {other}: {_sentence(reasons[0])}"
    left = standing(reasons)
    if len(left) == 1 and (len(faults) == 2 or left <= _EXPLAIN_BOTH):
        return _sentence(left.pop())
    return " ".join(f"{name}: {_sentence(reason)}" for name, reason in faults.items() if reason)


def standing(reasons: Iterable[Reason]) -> set[Reason]:
    """The faults that still say something beside each other: a bare no is explained by a cause for both."""
    faults = set(reasons) - {Reason.OK}
    return faults - {Reason.LOGIN_REFUSED} if faults & _EXPLAIN_BOTH else faults


def _sentence(reason: Reason) -> str:
    return f"{reason.explanation.title}. {reason.explanation.remedy}"
