"""The wordings that servers choose for one cause, and those that only look like one."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from schemas.classify import classify
from schemas.reasons import Protocol, Reason, Reply, Stage

SMTP, IMAP = Protocol.SMTP, Protocol.IMAP
OFF = "{disabled|off|turned off|switched off|not enabled|not allowed|not active|not activated}"
APP_PASSWORD = (
    "{app password|app-password|app-specific password|application password|application-specific password"
    "|parol prilozheniya}"
)
IMAP_IS = "{IMAP|IMAP4|IMAP access|IMAP service|IMAP protocol|IMAP login}{| is| was| has been}"

# `{a|b}` stands for either. The code in front says nothing about the cause, so the words have to.
WORDINGS = [
    (
        SMTP,
        "550 {SMTP AUTH|SMTP client auth|SmtpClientAuth|SmtpClientAuthentication|Authenticated SMTP} "
        f"{{is |has been |was |}}{OFF} for {{the |this |your |}}{{mailbox|user}}",
        Reason.SMTP_AUTH_OFF_MAILBOX,
    ),
    (
        SMTP,
        "550 {SMTP AUTH|SMTP client auth|SmtpClientAuth|SmtpClientAuthentication|Authenticated SMTP} "
        f"{{is |has been |was |}}{OFF}",
        Reason.SMTP_AUTH_OFF_TENANT,
    ),
    (
        SMTP,
        "550 {STARTTLS|STARTTLS is|TLS|Encryption is|A secure connection is} required",
        Reason.STARTTLS_MISSING,
    ),
    (SMTP, "550 {Issue|Must issue a} STARTTLS first", Reason.STARTTLS_MISSING),
    (SMTP, "550 No login without {TLS|SSL|encryption}", Reason.STARTTLS_MISSING),
    (
        SMTP,
        "550 No login on {a non-secure|a nonsecure|an insecure|an unencrypted} {|(SSL/TLS) }connection",
        Reason.STARTTLS_MISSING,
    ),
    (SMTP, "550 {TLS 1.0|TLS 1.1} is too old", Reason.STARTTLS_MISSING),
    (
        SMTP,
        "550 {Basic|Legacy|Password|Plain|Plain text|Plaintext} "
        "{auth|authentication|sign-in|signin|login|logons} "
        "{|for IMAP }{|is |are |was |has been |have been }{|currently |permanently |now }"
        "{disabled|not supported|not allowed|not enabled|not available|not permitted|blocked|turned off"
        "|switched off|no longer there|deprecated|retired|removed}",
        Reason.PASSWORD_SIGN_IN_DISABLED,
    ),
    (
        SMTP,
        "550 This server no longer {supports|accepts|allows} {basic|legacy|password} clients",
        Reason.PASSWORD_SIGN_IN_DISABLED,
    ),
    (
        SMTP,
        "550 {A password|A password is|Passwords are} no longer {supported|accepted|allowed}",
        Reason.PASSWORD_SIGN_IN_DISABLED,
    ),
    (IMAP, "NO Capabilities: LOGINDISABLED", Reason.PASSWORDS_RETIRED),
    (
        SMTP,
        "550 {The federated|Federation with the|ADFS, the|AD FS, the|The STS, a|The token service, a} "
        "server did not answer",
        Reason.FEDERATION_UNREACHABLE,
    ),
    (
        IMAP,
        "NO Web {login|log-in|sign-in|signin} {|is }{required|needed}",
        Reason.ACCOUNT_BLOCKED_UNTIL_WEB_SIGN_IN,
    ),
    (
        IMAP,
        "NO Please {log in|login|sign in} {via|with|through|using|on|at} {|your |a |the }"
        "{browser|web browser|web}",
        Reason.ACCOUNT_BLOCKED_UNTIL_WEB_SIGN_IN,
    ),
    (
        IMAP,
        "NO {Create|Use|Enter|Generate|You need|This account needs|The server requires|We require} "
        f"another {APP_PASSWORD}",
        Reason.APP_PASSWORD_REQUIRED,
    ),
    (
        IMAP,
        f"NO {APP_PASSWORD} {{required|is required|needed|necessary}}",
        Reason.APP_PASSWORD_REQUIRED,
    ),
    (SMTP, "550 {An authorization|An authorisation} code belongs here", Reason.APP_PASSWORD_REQUIRED),
    (SMTP, "550 See https://support.example.com/?p=InvalidSecondFactor", Reason.APP_PASSWORD_REQUIRED),
    (
        IMAP,
        f"NO {{Invalid|Incorrect|Wrong|Bad}} password, or {{IMAP|IMAP4|SMTP}} is {OFF}",
        Reason.WRONG_OR_PROTOCOL_OFF,
    ),
    (
        IMAP,
        f"NO {{IMAP|IMAP4|SMTP}} is {OFF}, or the password is {{invalid|incorrect|wrong|bad}}",
        Reason.WRONG_OR_PROTOCOL_OFF,
    ),
    (IMAP, "NO User is authenticated but not connected.", Reason.IMAP_OFF),
    (
        IMAP,
        f"NO {{IMAP|IMAP4|IMAP access}} is {OFF} {{for|in|on|by}} {{|your |the |this }}"
        "{domain|organization|organisation|server|tenant|admin|domain admin}",
        Reason.IMAP_OFF_DOMAIN,
    ),
    (IMAP, f"NO {IMAP_IS} {OFF}", Reason.IMAP_OFF_MAILBOX),
    (IMAP, "NO You {have yet|have|need} to {enable|activate} IMAP", Reason.IMAP_OFF_MAILBOX),
    (
        IMAP,
        "NO {The user is not licensed|The user isn't licensed|There is no licence|There is no license"
        "|The licence is missing|License missing|License expired|The licence is expired}",
        Reason.IMAP_OFF_MAILBOX,
    ),
    (
        SMTP,
        "550 Too many {|recent }{bad|failed|invalid|incorrect|wrong|unsuccessful} tries",
        Reason.THROTTLED_FAILED_LOGINS,
    ),
    (SMTP, "550 Too many {|login |recent login }failures", Reason.THROTTLED_FAILED_LOGINS),
    (
        SMTP,
        "550 Too many {|auth |authentication |login |sign-in |signin |SMTP |IMAP }"
        "{requests|commands|logins|log-ins|sign-ins|signins|attempts|messages}",
        Reason.THROTTLED,
    ),
    (
        SMTP,
        "550 {You are throttled|Back-off|Backoff|Rate limit|Rate-limit|Bandwidth limit"
        "|Try again later from another host}",
        Reason.THROTTLED,
    ),
    (IMAP, "NO [OVERQUOTA] You did much", Reason.THROTTLED),
    (
        SMTP,
        "550 See https://example.com/concurrent_sending",
        Reason.TOO_MANY_CONNECTIONS,
    ),
    (
        SMTP,
        "550 No more concurrent {|SMTP }{connection|connections|session|sessions}",
        Reason.TOO_MANY_CONNECTIONS,
    ),
    (
        SMTP,
        "550 {Too many|Maximum|Maximum number of} {|open |open SMTP }{connections|sessions}",
        Reason.TOO_MANY_CONNECTIONS,
    ),
    (
        SMTP,
        "550 {Too many connected|Connection limit|Connections limit|Thread limit|Per-source limit"
        "|Per-source connection limit}",
        Reason.TOO_MANY_CONNECTIONS,
    ),
    (
        IMAP,
        "NO The folder is {locked|used|opened|in use} by {another|a different} client",
        Reason.MAILBOX_IN_USE,
    ),
    (
        IMAP,
        "NO {Mailbox|Account|Maildrop} {|is }{|already }"
        "{in use|locked by a session|locked by a client|locked by a process}",
        Reason.MAILBOX_IN_USE,
    ),
    (
        SMTP,
        "550 Your access is {temporarily |temporary }{|also }"
        "{locked|lockout|lock-out|blocked|suspended|disabled}",
        Reason.TEMPORARILY_LOCKED,
    ),
    (
        SMTP,
        "550 Access {locked|locked out|blocked|lockout|lock-out} "
        "{temporarily|for 5 minutes|in a few minutes|after some minutes|for 90 seconds"
        "|for 15 min|for 15min|for 2 hours}",
        Reason.TEMPORARILY_LOCKED,
    ),
    (
        SMTP,
        "550 The {account|user|mailbox|identity} was "
        "{locked|blocked|disabled|suspended|on hold|held|quarantined|deactivated}",
        Reason.ACCOUNT_BLOCKED,
    ),
    (SMTP, "550 {The account has|Account} expired", Reason.ACCOUNT_BLOCKED),
    (
        SMTP,
        "550 {A temporary fault|We are temporarily away|Try later|Try again later"
        "|Service is unavailable|Service unavailable|Service not available|Service not active"
        "|Server busy|Server is busy|Server is unavailable}",
        Reason.SERVER_BUSY,
    ),
    (IMAP, "BAD {[UNAVAILABLE]|[SERVERBUG]} Oh", Reason.SERVER_BUSY),
    (
        SMTP,
        "550 {Credential|Credentials|Password|User name|Username|Login} {|given here |you gave me today }"
        "{incorrect|invalid|wrong|bad|not correct|not valid|not accepted|expired|mismatch}",
        Reason.WRONG_CREDENTIALS,
    ),
    (
        SMTP,
        "550 {Incorrect|Invalid|Wrong|Bad} {|given }"
        "{authentication data|credential|credentials|password|user|user name|username|login}",
        Reason.WRONG_CREDENTIALS,
    ),
    (
        SMTP,
        "550 {No such mechanism|Unknown auth type|Unrecognized authentication type|AUTH not enabled"
        "|Authentication is not enabled|Authentication not available|AUTH not supported"
        "|Command not advertised}",
        Reason.MECHANISM_NOT_OFFERED,
    ),
    (
        SMTP,
        "550 {You are not authenticated|Authentication required|Authentication is required}",
        Reason.CLIENT_FAULT,
    ),
    (IMAP, "BAD {LOGIN failed|AUTHENTICATE failed|[AUTHORIZATIONFAILED] Oh}", Reason.LOGIN_REFUSED),
    (SMTP, "550 Authentication {unsuccessful|failed|failure}", Reason.LOGIN_REFUSED),
]


def variants(template: str) -> Iterator[str]:
    """The wordings of a template: each alternative once, with the first of all others."""
    parts = re.split(r"\{(.*?)\}", template)
    choices = [part.split("|") if at % 2 else [part] for at, part in enumerate(parts)]
    first = [choice[0] for choice in choices]
    yield "".join(first)
    for at, choice in enumerate(choices):
        yield from ("".join([*first[:at], other, *first[at + 1 :]]) for other in choice[1:])


@pytest.mark.parametrize(
    ("protocol", "template", "reason"), WORDINGS, ids=[template[:60] for _, template, _ in WORDINGS]
)
def test_every_wording_of_a_cause(protocol: Protocol, template: str, reason: Reason) -> None:
    """A cause is found in every wording that servers choose for it, whatever the code says."""
    for said in variants(template):
        code, _, text = said.partition(" ")
        assert classify(protocol, Stage.LOGIN, Reply(code, text)) is reason, said


@pytest.mark.parametrize(
    ("protocol", "stage", "said", "reason"),
    [
        (SMTP, Stage.LOGIN, "535 5.7.1 Account locked by administrator", Reason.ACCOUNT_BLOCKED),
        (SMTP, Stage.LOGIN, "535 5.7.1 The account is locked by a policy", Reason.ACCOUNT_BLOCKED),
        (SMTP, Stage.LOGIN, "535 The account may be locked after more failures", Reason.LOGIN_REFUSED),
        (SMTP, Stage.LOGIN, "535 User's mailbox has IMAP disabled", Reason.LOGIN_REFUSED),
        (IMAP, Stage.CHECK, "NO User's mailbox has IMAP disabled", Reason.IMAP_OFF),
        (SMTP, Stage.LOGIN, "535 SMTP AUTH is offered for the mailbox", Reason.LOGIN_REFUSED),
        (IMAP, Stage.LOGIN, "NO IMAP is offered to others", Reason.LOGIN_REFUSED),
        (IMAP, Stage.GREETING, "BYE IMAP is offered by another host", Reason.DROPPED),
        (
            SMTP,
            Stage.LOGIN,
            "535 The account was unlocked; the password is wrong",
            Reason.WRONG_CREDENTIALS,
        ),
        (SMTP, Stage.LOGIN, "535 No such user at the hosts of this site", Reason.LOGIN_REFUSED),
    ],
)
def test_words_that_only_look_like_a_cause(
    protocol: Protocol, stage: Stage, said: str, reason: Reason
) -> None:
    """A reply that uses the words of a cause for something else does not get that cause."""
    code, _, text = said.partition(" ")
    assert classify(protocol, stage, Reply(code, text)) is reason


def test_imap_that_is_off_before_the_login() -> None:
    """A server that says before the login that IMAP is off does not mean one mailbox, in any wording."""
    for text in variants(f"{IMAP_IS} {OFF}"):
        assert classify(IMAP, Stage.GREETING, Reply("BYE", text)) is Reason.IMAP_OFF_DOMAIN, text
