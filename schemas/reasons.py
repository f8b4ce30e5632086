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


class Actor(StrEnum):
    """Who can do something about a reason."""

    ADMIN = "admin"  # of the organisation's Microsoft 365 or Exchange
    OWNER = "owner"  # of the mailbox
    UPLOADER = "uploader"  # the person who made the file
    OPERATOR = "operator"  # the person who runs this program
    NOBODY = "nobody"  # no password opens the mailbox, only OAuth
    WAIT = "wait"  # this program tries again


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
    """Why a probe ended. The values are stored: add new ones, but never rename or remove one."""

    OK = "ok"
    WRONG_CREDENTIALS = "wrong_credentials"
    APP_PASSWORD_REQUIRED = "app_password_required"  # noqa: S105  the name of a reason
    WRONG_OR_PROTOCOL_OFF = "wrong_or_protocol_off"
    LOGIN_REFUSED = "login_refused"
    REFUSED_THOUGH_RIGHT = "refused_though_right"
    PASSWORD_SIGN_IN_DISABLED = "password_sign_in_disabled"  # noqa: S105  the name of a reason
    PASSWORDS_RETIRED = "passwords_retired"
    PERSONAL_PASSWORDS_RETIRED = "personal_passwords_retired"
    SMTP_AUTH_OFF_TENANT = "smtp_auth_off_tenant"
    SMTP_AUTH_OFF_MAILBOX = "smtp_auth_off_mailbox"
    SECURITY_DEFAULTS = "security_defaults"
    CONDITIONAL_ACCESS = "conditional_access"
    ACCOUNT_BLOCKED = "account_blocked"
    ACCOUNT_BLOCKED_UNTIL_WEB_SIGN_IN = "account_blocked_until_web_sign_in"
    TEMPORARILY_LOCKED = "temporarily_locked"
    MAILBOX_IN_USE = "mailbox_in_use"
    FEDERATION_UNREACHABLE = "federation_unreachable"
    NOT_AT_MICROSOFT = "not_at_microsoft"
    MECHANISM_NOT_OFFERED = "mechanism_not_offered"
    IMAP_OFF = "imap_off"
    IMAP_OFF_MAILBOX = "imap_off_mailbox"
    IMAP_OFF_DOMAIN = "imap_off_domain"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    THROTTLED = "throttled"
    THROTTLED_FAILED_LOGINS = "throttled_failed_logins"
    SERVER_BUSY = "server_busy"
    NAME_NOT_FOUND = "name_not_found"
    CONNECTION_REFUSED = "connection_refused"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    DROPPED = "dropped"
    TLS_FAILURE = "tls_failure"
    PORT_WITHOUT_TLS = "port_without_tls"
    PORT_WITH_TLS = "port_with_tls"
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
    """What to show for a reason, and what follows from it.

    Attributes:
        title: The name of the reason, in a few words.
        meaning: What happened, in a sentence or two.
        remedy: What you can do about it.
        actor: Who can do it; None if there is nothing to do.
        transient: Whether a later attempt may succeed with nothing changed.
        self_made: Whether this program caused it by connecting too often, so that it uses up no attempt.
        password_refused: Whether the server refused this password, as far as its reply tells.
        attempts: Maximum number of attempts for this reason, if it is lower than the setting.
    """

    title: str
    meaning: str
    remedy: str
    actor: Actor | None
    transient: bool = False
    self_made: bool = False
    password_refused: bool = False
    attempts: int | None = None

    @property
    def heading(self) -> str:
        """The title as a sentence: with a full stop, unless it is a question."""
        return self.title if self.title.endswith("?") else f"{self.title}."


# A remedy must hold whatever the status of the mailbox is, and for both protocols unless the reason is about
# one. Do not write that the password is right unless the server has accepted it.
EXPLANATIONS = {
    Reason.OK: Explanation("Connected", "The server accepted the password.", "Nothing to do.", None),
    Reason.WRONG_CREDENTIALS: Explanation(
        "Wrong password",
        "The server checked the password and rejected it, or it needs an app password and this is the "
        "account password.",
        "Create a new app password, then replace it here: import a file with --update, or use “mailboxes "
        "password”.",
        Actor.UPLOADER,
        password_refused=True,
    ),
    Reason.APP_PASSWORD_REQUIRED: Explanation(
        "App password required",
        "The server accepts only app passwords (also called authorization codes), and this is not one.",
        "Mailbox owner: create an app password in the account's security settings. Then replace it here: "
        "import a file with --update, or use “mailboxes password”.",
        Actor.OWNER,
        password_refused=True,
    ),
    Reason.WRONG_OR_PROTOCOL_OFF: Explanation(
        "Wrong password, or the protocol is off",
        "The server says that the password is wrong or that IMAP or SMTP is off for the mailbox. It does not "
        "say which.",
        "Mailbox owner: turn on IMAP and SMTP in the mailbox's settings on the web, and check the password.",
        Actor.OWNER,
        password_refused=True,
    ),
    Reason.LOGIN_REFUSED: Explanation(
        "Login rejected, no cause given",
        "The password may be wrong, the protocol may be off for the mailbox, or a policy may block password "
        "sign-in. The server does not say which.",
        "Check the password first, then whether the protocol is on for the mailbox, then the sign-in policy.",
        Actor.UPLOADER,
        password_refused=True,
    ),
    Reason.REFUSED_THOUGH_RIGHT: Explanation(
        "Login rejected, although the password is right",
        "The other protocol accepted the same password. This one is probably off for the mailbox, or a "
        "policy blocks it.",
        "Admin: check that the protocol is on for the mailbox, then the sign-in policy. A new password will "
        "not help.",
        Actor.ADMIN,
    ),
    Reason.PASSWORD_SIGN_IN_DISABLED: Explanation(
        "Provider has disabled password sign-in",
        "The organisation or its provider has turned off password sign-in (basic authentication), so every "
        "password is rejected. For SMTP, an admin can allow it again.",
        "Admin: run Set-CASMailbox -Identity ADDRESS -SmtpClientAuthenticationDisabled $false, and check "
        "that no authentication policy blocks SMTP for the mailbox (AllowBasicAuthSmtp). Otherwise use OAuth "
        "sign-in.",
        Actor.ADMIN,
    ),
    Reason.PASSWORDS_RETIRED: Explanation(
        "Server has disabled password sign-in",
        "The server has turned off password sign-in for this protocol, so every password is rejected. In "
        "Exchange Online it has been off for IMAP since January 2023, and no admin can turn it on again.",
        "A new password will not help: use OAuth sign-in, or a host that accepts passwords.",
        Actor.NOBODY,
    ),
    Reason.PERSONAL_PASSWORDS_RETIRED: Explanation(
        "Microsoft has disabled passwords for personal accounts",
        "The address is a personal account (Outlook.com, Hotmail, Live or MSN). Microsoft has accepted "
        "only OAuth for these since 16 September 2024.",
        "A new password or app password will not help: use OAuth sign-in.",
        Actor.NOBODY,
    ),
    Reason.SMTP_AUTH_OFF_TENANT: Explanation(
        "SMTP AUTH is off for the organisation",
        "SMTP AUTH is turned off for the Microsoft 365 tenant.",
        "Admin: for this mailbox, run Set-CASMailbox -Identity ADDRESS -SmtpClientAuthenticationDisabled "
        "$false; for all, Set-TransportConfig -SmtpClientAuthenticationDisabled $false. It takes up to an "
        "hour. Check that no authentication policy blocks SMTP for the mailbox.",
        Actor.ADMIN,
    ),
    Reason.SMTP_AUTH_OFF_MAILBOX: Explanation(
        "SMTP AUTH is off for the mailbox",
        "SMTP AUTH is turned off for this mailbox.",
        "Admin: select “Authenticated SMTP” under the user's Mail apps in the Microsoft 365 admin centre, or "
        "run Set-CASMailbox -Identity ADDRESS -SmtpClientAuthenticationDisabled $false. Check that no "
        "authentication policy blocks SMTP for the mailbox.",
        Actor.ADMIN,
    ),
    Reason.SECURITY_DEFAULTS: Explanation(
        "Security defaults block password sign-in",
        "The organisation's security defaults block password sign-in. The account is not locked.",
        "Admin: replace security defaults with Conditional Access in Entra, or use OAuth sign-in.",
        Actor.ADMIN,
    ),
    Reason.CONDITIONAL_ACCESS: Explanation(
        "Blocked by Conditional Access",
        "A Conditional Access policy blocks this sign-in, or the IP address it comes from.",
        "Admin: find the blocked sign-in in Entra's sign-in logs, then allow the user or this machine's IP "
        "address.",
        Actor.ADMIN,
    ),
    Reason.ACCOUNT_BLOCKED: Explanation(
        "Account blocked, locked or on hold",
        "The provider has blocked the account itself.",
        "Sign in on the web and follow the instructions there, or ask the admin to unblock the account.",
        Actor.ADMIN,
    ),
    Reason.ACCOUNT_BLOCKED_UNTIL_WEB_SIGN_IN: Explanation(
        "Account blocked until a sign-in on the web",
        "The provider wants the mailbox owner to sign in with a web browser first.",
        "Mailbox owner: sign in on the web and follow the instructions there. Then retest the mailbox.",
        Actor.OWNER,
    ),
    Reason.TEMPORARILY_LOCKED: Explanation(
        "Account temporarily locked",
        "The server has locked the account for a while, usually after failed logins.",
        "Wait: pending mailboxes are tested again, and not before the time that the server names. If the "
        "account stays locked, find out which other program uses an old password.",
        Actor.WAIT,
        transient=True,
    ),
    Reason.MAILBOX_IN_USE: Explanation(
        "Mailbox in use",
        "Another session holds the mailbox.",
        "Wait: pending mailboxes are tested again. If it persists, close other programs that use the "
        "mailbox.",
        Actor.WAIT,
        transient=True,
    ),
    Reason.FEDERATION_UNREACHABLE: Explanation(
        "Organisation's sign-in server did not respond",
        "The organisation signs users in on its own server (federation), and Microsoft could not reach it.",
        "Wait: pending mailboxes are tested again. If the problem persists, ask the admin to check the "
        "federation server (AD FS).",
        Actor.WAIT,
        transient=True,
    ),
    Reason.NOT_AT_MICROSOFT: Explanation(
        "Not hosted at Microsoft",
        "The mail of the address's domain goes to another provider, as DNS shows. No password was sent.",
        "Delete the mailbox here and connect it at its own provider. If it is hosted at Microsoft after all, "
        "name its servers in OUTLOOK_IMPORT_SERVERS and import it again.",
        Actor.UPLOADER,
    ),
    Reason.MECHANISM_NOT_OFFERED: Explanation(
        "Server offers no password login",
        "The server takes no login mechanism that uses a password (only OAuth, or none).",
        "A new password will not help: use OAuth sign-in, or a host that accepts passwords.",
        Actor.NOBODY,
    ),
    Reason.IMAP_OFF: Explanation(
        "Signed in, but IMAP cannot open the mailbox",
        "The password is right, but IMAP is off for the mailbox, the mailbox has no licence, or it is a "
        "shared mailbox.",
        "Check that the mailbox has a licence and that IMAP is on under its Mail apps.",
        Actor.ADMIN,
        transient=True,
        attempts=2,
    ),
    Reason.IMAP_OFF_MAILBOX: Explanation(
        "IMAP is off for the mailbox",
        "The server says that IMAP is not turned on for this mailbox, or that it has no licence.",
        "Mailbox owner: turn on IMAP in the mailbox's settings on the web. Where the admin manages it, ask "
        "the admin. Then retest the mailbox.",
        Actor.OWNER,
    ),
    Reason.IMAP_OFF_DOMAIN: Explanation(
        "IMAP is off for the domain or the server",
        "The server says that IMAP is turned off, and not only for this mailbox.",
        "Admin: turn on IMAP for the domain or on the server. Then retest the mailbox.",
        Actor.ADMIN,
    ),
    Reason.TOO_MANY_CONNECTIONS: Explanation(
        "Too many connections",
        "The mailbox or this IP address has too many open connections.",
        "The test slowed down and tries again by itself; this uses up no attempt. If it persists, close "
        "other programs that use the mailbox, or lower OUTLOOK_IMPORT_PROBE_CONCURRENCY.",
        Actor.WAIT,
        transient=True,
        self_made=True,
    ),
    Reason.THROTTLED: Explanation(
        "Throttled",
        "The server asked this machine to slow down.",
        "The test slowed down and tries again by itself; this uses up no attempt. If it persists, lower "
        "OUTLOOK_IMPORT_PROBE_CONCURRENCY.",
        Actor.WAIT,
        transient=True,
        self_made=True,
    ),
    Reason.THROTTLED_FAILED_LOGINS: Explanation(
        "Throttled after failed logins",
        "The server takes no logins for a while, because too many have failed.",
        "Wait: pending mailboxes are tested again. If it persists, check the passwords of the file, and "
        "which other program uses an old password.",
        Actor.WAIT,
        transient=True,
    ),
    Reason.SERVER_BUSY: Explanation(
        "Server busy",
        "The server could not check the password at the moment.",
        "Wait: pending mailboxes are tested again.",
        Actor.WAIT,
        transient=True,
    ),
    Reason.NAME_NOT_FOUND: Explanation(
        "Server name not found",
        "The server's name could not be looked up.",
        "Check this machine's network and DNS, and the server name in the settings.",
        Actor.OPERATOR,
        transient=True,
    ),
    Reason.CONNECTION_REFUSED: Explanation(
        "Connection refused",
        "Nothing listens on the server's port, or a firewall rejects the connection.",
        "Check the port in the settings and the firewall.",
        Actor.OPERATOR,
        transient=True,
    ),
    Reason.UNREACHABLE: Explanation(
        "Server unreachable",
        "There is no network route to the server.",
        "Check this machine's network and firewall.",
        Actor.OPERATOR,
        transient=True,
    ),
    Reason.TIMED_OUT: Explanation(
        "Timed out",
        "The server did not finish its replies before the deadline.",
        "Wait: pending mailboxes are tested again. If every mailbox times out, check the firewall.",
        Actor.WAIT,
        transient=True,
    ),
    Reason.DROPPED: Explanation(
        "Connection dropped",
        "The server closed the connection before the test was complete.",
        "Wait: pending mailboxes are tested again.",
        Actor.WAIT,
        transient=True,
    ),
    Reason.TLS_FAILURE: Explanation(
        "Could not set up encryption",
        "The TLS handshake failed.",
        "Check that the port supports TLS 1.2 or later, and that no proxy or firewall intercepts TLS.",
        Actor.OPERATOR,
        transient=True,
    ),
    Reason.PORT_WITHOUT_TLS: Explanation(
        "Port does not start with TLS",
        "The connection was to start with TLS, but the port answers in plain text. No password was sent.",
        "Correct the port in OUTLOOK_IMPORT_SERVERS, or put smtp:// or imap:// in front of the host for "
        "STARTTLS.",
        Actor.OPERATOR,
        transient=True,
    ),
    Reason.PORT_WITH_TLS: Explanation(
        "Port starts with TLS",
        "The connection was to start in plain text (STARTTLS), but the port expects TLS at once. No password "
        "was sent.",
        "Correct the port in OUTLOOK_IMPORT_SERVERS, or put smtps:// or imaps:// in front of the host.",
        Actor.OPERATOR,
        transient=True,
    ),
    Reason.CERTIFICATE_NOT_TRUSTED: Explanation(
        "Server certificate not trusted",
        "The server's certificate has expired, was issued for another name, or is not signed by an "
        "authority that this machine trusts. No password was sent.",
        "Renew the certificate, or set OUTLOOK_IMPORT_CA_FILE to the file of your own authority.",
        Actor.OPERATOR,
    ),
    Reason.STARTTLS_MISSING: Explanation(
        "Server offers no encryption",
        "The server does not offer STARTTLS, or it requires a newer TLS version. No password was sent "
        "unencrypted.",
        "Turn on STARTTLS with TLS 1.2 or later on the server, or use the right port (587 for SMTP, 993 for "
        "IMAP).",
        Actor.OPERATOR,
    ),
    Reason.PROTOCOL_ERROR: Explanation(
        "Unexpected reply: not a mail server?",
        "The reply does not follow the protocol: the port is wrong, or something between this machine and "
        "the server interferes.",
        "Check the host and port in the settings, and any proxy or virus scanner in between.",
        Actor.OPERATOR,
        transient=True,
    ),
    Reason.CLIENT_FAULT: Explanation(
        "Server says the session is not signed in",
        "The server treats the session as not signed in. This is a fault in this program.",
        "Report the problem and include the server's reply.",
        Actor.OPERATOR,
    ),
    Reason.UNKNOWN_REFUSAL: Explanation(
        "Permanent failure, unrecognised reply",
        "The server rejected the request with a reply that this program does not recognise.",
        "Read the server's reply.",
        Actor.OPERATOR,
    ),
    Reason.UNKNOWN_DELAY: Explanation(
        "Temporary failure, unrecognised reply",
        "The server reported a temporary failure with a reply that this program does not recognise.",
        "Read the server's reply. Pending mailboxes are tested again.",
        Actor.WAIT,
        transient=True,
    ),
}
