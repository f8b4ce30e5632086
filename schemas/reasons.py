"""Why a connection test ended the way it did: a closed list of reasons and the table that explains them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Protocol(StrEnum):
    SMTP = "smtp"
    IMAP = "imap"


class Stage(StrEnum):
    """How far the session got: where the server gave its last reply, or where the connection broke."""

    CONNECT = "connect"
    TLS = "tls"
    GREETING = "greeting"
    CAPABILITY = "capability"  # EHLO in SMTP, CAPABILITY in IMAP
    STARTTLS = "starttls"
    LOGIN = "login"
    CHECK = "check"  # the first command after a successful login


class Reply(NamedTuple):
    """A server's reply.

    Attributes:
        code: The three digits in SMTP; NO, BAD or BYE in IMAP.
        text: The rest of the reply. The lines of a multi-line SMTP reply are joined by line feeds.
    """

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
    NOT_AT_MICROSOFT = "not_at_microsoft"
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
    """What to show for a reason.

    Attributes:
        title: The name of the reason, in a few words.
        meaning: What happened, in a sentence or two.
        remedy: What you can do about it.
        transient: Whether a later attempt may succeed with nothing changed.
        attempts: Maximum number of attempts for this reason, if it is lower than the setting.
    """

    title: str
    meaning: str
    remedy: str
    transient: bool = False
    attempts: int | None = None

    @property
    def heading(self) -> str:
        """The title as a sentence: with a full stop, unless it is a question."""
        return self.title if self.title.endswith("?") else f"{self.title}."


EXPLANATIONS = {
    Reason.OK: Explanation("Connected", "The server accepted the password.", "Nothing to do."),
    Reason.WRONG_CREDENTIALS: Explanation(
        "Wrong password",
        "The server checked the password and rejected it, or it needs an app password and this is the "
        "account password.",
        "Create a new app password, then delete the mailbox here and import it again.",
    ),
    Reason.LOGIN_REFUSED: Explanation(
        "Login rejected, no cause given",
        "The password may be wrong, the protocol may be off for the mailbox, or a policy may block password "
        "sign-in. The server does not say which.",
        "Check the password first, then whether the protocol is on for the mailbox, then the sign-in policy.",
    ),
    Reason.PASSWORD_SIGN_IN_DISABLED: Explanation(
        "Provider has disabled password sign-in",
        "The provider has turned off password sign-in (basic authentication). The password is not the "
        "problem.",
        "A new password will not help: use OAuth sign-in, or a host that still accepts passwords.",
    ),
    Reason.SMTP_AUTH_OFF_TENANT: Explanation(
        "SMTP AUTH is off for the organisation",
        "SMTP AUTH is turned off for the Microsoft 365 tenant.",
        "Admin: run Set-TransportConfig -SmtpClientAuthenticationDisabled $false, or for one mailbox "
        "Set-CASMailbox -Identity ADDRESS -SmtpClientAuthenticationDisabled $false. The change takes up to "
        "an hour.",
    ),
    Reason.SMTP_AUTH_OFF_MAILBOX: Explanation(
        "SMTP AUTH is off for the mailbox",
        "SMTP AUTH is turned off for this mailbox.",
        "Admin: select “Authenticated SMTP” under the user's Mail apps in the Microsoft 365 admin centre.",
    ),
    Reason.SECURITY_DEFAULTS: Explanation(
        "Security defaults block password sign-in",
        "The organisation's security defaults block password sign-in. The account is not locked.",
        "Admin: replace security defaults with Conditional Access in Entra, or use OAuth sign-in.",
    ),
    Reason.CONDITIONAL_ACCESS: Explanation(
        "Blocked by Conditional Access",
        "A Conditional Access policy blocks this sign-in, or the IP address it comes from.",
        "Admin: find the blocked sign-in in Entra's sign-in logs, then allow the user or this machine's IP "
        "address.",
    ),
    Reason.ACCOUNT_BLOCKED: Explanation(
        "Account blocked, locked or on hold",
        "The provider has blocked the account itself.",
        "Sign in on the web and follow the instructions there, or ask the admin to unblock the account.",
    ),
    Reason.FEDERATION_UNREACHABLE: Explanation(
        "Organisation's sign-in server did not respond",
        "The organisation signs users in on its own server (federation), and Microsoft could not reach it.",
        "Wait: the next retest tries the mailbox again. If the problem persists, ask the admin to check the "
        "federation server (AD FS).",
        transient=True,
    ),
    Reason.NOT_AT_MICROSOFT: Explanation(
        "Not hosted at Microsoft",
        "The mail of the address's domain goes to another provider, as DNS shows. No password was sent.",
        "Delete the mailbox here and connect it at its own provider. If it is hosted at Microsoft after all, "
        "name its servers in OUTLOOK_IMPORT_SERVERS and import it again.",
    ),
    Reason.MECHANISM_NOT_OFFERED: Explanation(
        "Server offers no password login",
        "The server offers no login mechanism that uses a password (only OAuth, or none). No password was "
        "sent.",
        "A new password will not help: use OAuth sign-in, or a host that accepts passwords.",
    ),
    Reason.IMAP_OFF: Explanation(
        "Signed in, but IMAP cannot open the mailbox",
        "The password is right, but IMAP is off for the mailbox, the mailbox has no licence, or it is a "
        "shared mailbox.",
        "Check that the mailbox has a licence and that IMAP is on under its Mail apps.",
        transient=True,
        attempts=2,
    ),
    Reason.TOO_MANY_CONNECTIONS: Explanation(
        "Too many connections",
        "The mailbox or this IP address has too many open connections.",
        "Close other programs that use the mailbox. The next retest tries the mailbox again.",
        transient=True,
    ),
    Reason.THROTTLED: Explanation(
        "Throttled",
        "The server asked this machine to slow down.",
        "Wait: the next retest tries the mailbox again. If the problem persists, test fewer mailboxes at "
        "once.",
        transient=True,
    ),
    Reason.SERVER_BUSY: Explanation(
        "Server busy",
        "The server could not check the password at the moment.",
        "Wait: the next retest tries the mailbox again.",
        transient=True,
    ),
    Reason.NAME_NOT_FOUND: Explanation(
        "Server name not found",
        "The server's name could not be looked up.",
        "Check this machine's network and DNS, and the server name in the settings.",
        transient=True,
    ),
    Reason.CONNECTION_REFUSED: Explanation(
        "Connection refused",
        "Nothing listens on the server's port, or a firewall rejects the connection.",
        "Check the port in the settings and the firewall.",
        transient=True,
    ),
    Reason.UNREACHABLE: Explanation(
        "Server unreachable",
        "There is no network route to the server.",
        "Check this machine's network and firewall.",
        transient=True,
    ),
    Reason.TIMED_OUT: Explanation(
        "Timed out",
        "The server did not finish its replies before the deadline.",
        "Wait: the next retest tries the mailbox again. If every mailbox times out, check the firewall.",
        transient=True,
    ),
    Reason.DROPPED: Explanation(
        "Connection dropped",
        "The server closed the connection before it accepted or rejected the password.",
        "Wait: the next retest tries the mailbox again.",
        transient=True,
    ),
    Reason.TLS_FAILURE: Explanation(
        "Could not set up encryption",
        "The TLS handshake failed.",
        "Check that the port supports TLS 1.2 or later, and that no proxy or firewall intercepts TLS.",
        transient=True,
    ),
    Reason.CERTIFICATE_NOT_TRUSTED: Explanation(
        "Server certificate not trusted",
        "The server's certificate has expired, was issued for another name, or is not signed by an "
        "authority that this machine trusts. No password was sent.",
        "Renew the certificate, or set OUTLOOK_IMPORT_CA_FILE to the file of your own authority.",
    ),
    Reason.STARTTLS_MISSING: Explanation(
        "Server offers no encryption",
        "The server does not offer STARTTLS, or it requires a newer TLS version. No password was sent "
        "unencrypted.",
        "Turn on STARTTLS with TLS 1.2 or later on the server, or use the right port (587).",
    ),
    Reason.PROTOCOL_ERROR: Explanation(
        "Unexpected reply: not a mail server?",
        "The reply does not follow the protocol: the port is wrong, or something between this machine and "
        "the server interferes.",
        "Check the host and port in the settings, and any proxy or virus scanner in between.",
        transient=True,
    ),
    Reason.CLIENT_FAULT: Explanation(
        "Server says the session is not signed in",
        "The server treats the session as not signed in. This is a fault in this program.",
        "Report the problem and include the server's reply.",
    ),
    Reason.UNKNOWN_REFUSAL: Explanation(
        "Permanent failure, unrecognised reply",
        "The server rejected the request with a reply that this program does not recognise.",
        "Read the server's reply.",
    ),
    Reason.UNKNOWN_DELAY: Explanation(
        "Temporary failure, unrecognised reply",
        "The server reported a temporary failure with a reply that this program does not recognise.",
        "Read the server's reply. The next retest tries the mailbox again.",
        transient=True,
    ),
}
