"""Why a connection test ended the way it did: a closed list, and one table of explanations."""

from __future__ import annotations

from dataclasses import dataclass
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
