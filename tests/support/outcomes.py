"""Outcomes of imports for tests of the hand-over and the reports: a realistic import, and a hostile one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from schemas.outcomes import Answered, Document, Outcome
from schemas.providers import CONSUMER_IMAP, MICROSOFT_IMAP, MICROSOFT_SMTP
from schemas.reasons import Protocol, Reason, Stage
from schemas.row_reasons import RowReason

AT = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
UNSUCCESSFUL = "535 5.7.139 Authentication unsuccessful"
ASK_ADMIN = "Contact your administrator."
VISIT = "Visit https://aka.ms/smtp_auth_disabled for more information."
WORDS = {
    (Protocol.SMTP, Reason.WRONG_CREDENTIALS): f"{UNSUCCESSFUL}, the user credentials were incorrect.",
    (Protocol.SMTP, Reason.PASSWORD_SIGN_IN_DISABLED): f"{UNSUCCESSFUL}, basic authentication is disabled.",
    (Protocol.IMAP, Reason.PASSWORD_SIGN_IN_DISABLED): "NO Basic authentication is disabled.",
    (Protocol.IMAP, Reason.LOGIN_REFUSED): "NO LOGIN failed.",
    (Protocol.SMTP, Reason.SMTP_AUTH_OFF_TENANT): (
        f"{UNSUCCESSFUL}, SmtpClientAuthentication is disabled for the Tenant. {VISIT}"
    ),
    (Protocol.SMTP, Reason.SMTP_AUTH_OFF_MAILBOX): (
        f"{UNSUCCESSFUL}, SmtpClientAuthentication is disabled for the Mailbox. {VISIT}"
    ),
    (Protocol.SMTP, Reason.SECURITY_DEFAULTS): (
        f"{UNSUCCESSFUL}, user is locked by your organization's security defaults policy. {ASK_ADMIN}"
    ),
    (Protocol.SMTP, Reason.CONDITIONAL_ACCESS): (
        f"{UNSUCCESSFUL}, the request did not meet the criteria to be authenticated successfully. {ASK_ADMIN}"
    ),
    (Protocol.SMTP, Reason.ACCOUNT_BLOCKED): f"{UNSUCCESSFUL}, the user account is blocked. {ASK_ADMIN}",
    (Protocol.SMTP, Reason.SERVER_BUSY): "451 4.7.0 Temporary server error. Please try again later. PRX4",
    (Protocol.SMTP, Reason.CERTIFICATE_NOT_TRUSTED): "certificate verify failed: certificate has expired",
}


def answered(
    protocol: Protocol, reason: Reason, host: str = "", text: str | None = None, at: datetime = AT
) -> Answered:
    """An answer with the words that Microsoft's servers use for the reason."""
    why = reason.explanation
    stage = Stage.TLS if reason is Reason.CERTIFICATE_NOT_TRUSTED else Stage.LOGIN
    usual = {Protocol.SMTP: MICROSOFT_SMTP, Protocol.IMAP: MICROSOFT_IMAP}[protocol]
    words = WORDS.get((protocol, reason), "") if text is None else text
    return Answered(reason, why.title, why.meaning, why.remedy, words, host or usual, at, stage)


def mailbox(
    email: str,
    smtp: Reason | None,
    imap: Reason | None,
    status: str = "failed",
    *,
    line: int | None = 2,
    name: str | None = None,
    smtp_host: str = "",
    imap_host: str = "",
    text: str | None = None,
    at: datetime = AT,
) -> Outcome:
    """An imported row with these reasons; `text` replaces the servers' words."""
    said = [one.explanation.heading for one in (smtp, imap) if one and one is not Reason.OK]
    return Outcome(
        line=line,
        email=email,
        name=name,
        result="imported",
        status=status,
        diagnosis=said[0] if said else "",
        smtp=answered(Protocol.SMTP, smtp, smtp_host, text, at) if smtp else None,
        imap=answered(Protocol.IMAP, imap, imap_host, text, at) if imap else None,
        tested_at=at if smtp or imap else None,
    )


def row_error(reason: RowReason, email: str = "unknown", line: int = 2) -> Outcome:
    return Outcome(line, email, None, "failed", reason, reason.message, reason.remedy)


def document(outcomes: Iterable[Outcome], **changes: object) -> Document:
    """The import of these rows."""
    results = [outcome.result for outcome in outcomes]
    counts = {name: results.count(name) for name in ("imported", "updated", "skipped", "failed")}
    fields: dict[str, object] = {
        "import_id": 12,
        "file": "mailboxes of autumn.csv",
        "workspace": "default",
        "tag": "outreach",
        "created_at": AT - timedelta(minutes=3),
        **counts,
        **changes,
    }
    return Document(**fields)  # type: ignore[arg-type]


PEOPLE = ("anna", "bert", "carla", "david", "emine", "farid", "greta", "hugo", "ines", "jonas")
OFF = Reason.PASSWORD_SIGN_IN_DISABLED
ON_PREMISES = "mail.northwind.example"
# Number, domain, status, SMTP, IMAP: 168 mailboxes that work, and 190 that do not.
MAILBOXES = (
    (140, "northwind.example", "active", Reason.OK, Reason.OK),
    (28, "adatum.com", "partial", Reason.OK, OFF),
    (60, "contoso.com", "failed", Reason.SMTP_AUTH_OFF_TENANT, OFF),
    (5, "contoso.com", "failed", Reason.CONDITIONAL_ACCESS, Reason.LOGIN_REFUSED),
    (20, "fabrikam.com", "failed", Reason.SMTP_AUTH_OFF_MAILBOX, OFF),
    (5, "fabrikam.com", "failed", Reason.SECURITY_DEFAULTS, Reason.LOGIN_REFUSED),
    (30, "tailspin.example", "failed", Reason.WRONG_CREDENTIALS, None),
    (2, "outlook.com", "failed", Reason.ACCOUNT_BLOCKED, Reason.LOGIN_REFUSED),
    (40, "hotmail.com", "failed", OFF, OFF),
    (20, "live.nl", "failed", OFF, OFF),
    (3, "wingtip.example", "failed", Reason.CERTIFICATE_NOT_TRUSTED, Reason.OK),
    (5, "adatum.com", "pending", Reason.SERVER_BUSY, OFF),
    (8, "adatum.com", "pending", None, None),
)
IMAP_HOSTS = {"hotmail.com": CONSUMER_IMAP, "live.nl": CONSUMER_IMAP, "northwind.example": ON_PREMISES}
ROW_ERRORS = (RowReason.MISSING, RowReason.MASKED, RowReason.INVALID_EMAIL, RowReason.LOST_CHARACTERS)
SENTENCE = (
    "90 need your Microsoft 365 admin (contoso.com 65, fabrikam.com 25), 30 a new app password from their "
    "owner, 2 their owner to sign in on the web, 3 the operator of this program, 12 rows need correcting in "
    "the file, 60 take no passwords at all, 28 take a password only for sending, 5 are tested again later, "
    "8 are not tested yet"
)


def realistic() -> list[Outcome]:
    """An import of 400 rows: 140 mailboxes work, 28 can only send, 22 rows are skipped, and 210 fail."""
    return [*_imported(), *_not_imported(368)]


def _imported() -> Iterator[Outcome]:
    line = 2
    for number, domain, status, smtp, imap in MAILBOXES:
        for count in range(number):
            person = PEOPLE[count % len(PEOPLE)]
            yield mailbox(
                f"{person}.{line}@{domain}",
                smtp,
                imap,
                status,
                line=line,
                name=f"{person.title()} Example" if count % 3 else None,
                smtp_host=ON_PREMISES if domain == "northwind.example" else "",
                imap_host=IMAP_HOSTS.get(domain, ""),
                at=AT + timedelta(seconds=line),
            )
            line += 1


def _not_imported(line: int) -> Iterator[Outcome]:
    for number in range(22):
        yield Outcome(
            line, f"old.{number}@adatum.com", None, "skipped", sentence="Already stored in the workspace"
        )
        line += 1
    for number in range(12):
        reason = ROW_ERRORS[number % len(ROW_ERRORS)]
        yield row_error(reason, "unknown" if number % 2 else f"new.{number}@contoso.com", line)
        line += 1


HOSTILE_TEXTS = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "</style><style>body{display:none}</style>",
    "<!-- -->]]>&lt;b&gt;&amp;",
    '=HYPERLINK("http://evil.example","x")',
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "http://evil.example/track",
    "javascript:alert(1)",
    "\u202egnp.exe\u2066\u200f",
    "a\x00b\x1b[31mc\r\nd\u2028e",
    "\ud800 lone",
    "ADDRESS $(x) ‘’‚‛ '",
    "x" * 40_000,
    "=" * 300,
)


def hostile() -> list[Outcome]:
    """An import in which every text comes from an attacker."""
    rows = []
    for line, text in enumerate(HOSTILE_TEXTS, start=2):
        row = mailbox(f"{text}@{text}", Reason.SMTP_AUTH_OFF_TENANT, OFF, line=line, name=text, text=text)
        assert row.smtp
        assert row.imap
        rows.append(replace(row, warning=text, diagnosis=text, smtp=replace(row.smtp, host=text, stage=text)))
        strange = replace(row.imap, title=text, meaning=text, remedy=text)
        rows.append(replace(row, email=f"{line}@{text}", smtp=None, imap=strange))
        rows.append(Outcome(line, text, text, "failed", text, text, text))
        rows.append(Outcome(line, text, text, "skipped", sentence=text))
    return rows
