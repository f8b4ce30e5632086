"""Replies are read whole, and every reply of a catalogue from the field gets its reason."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta
from pathlib import Path

import pytest
import trustme

from sandbox.outlook import Outlook, ServerFaults
from schemas.providers import Endpoint
from schemas.reasons import Protocol, Reason, Reply, Stage
from schemas.verdicts import Answer
from tasks.login.imap import imap_command, imap_unfinished
from tasks.login.session import log_in
from tasks.login.wire import Credentials, Wire, tls_context
from tests.conftest import StartOutlook
from tests.support.mail_servers import (
    ADDRESS,
    DEADLINE,
    IMAP,
    PASSWORD,
    PATIENCE,
    SMTP,
    TALK,
    ask,
    b64,
    scripted,
)


@pytest.mark.parametrize(
    ("protocol", "changes", "reason"),
    [
        (SMTP, {}, Reason.OK),
        (SMTP, {"EHLO": "250-mail\r\n250-starttls\r\n250 AUTH=login\r\n"}, Reason.OK),
        (SMTP, {"greeting": "554 no service\r\n"}, Reason.UNKNOWN_REFUSAL),
        (SMTP, {"greeting": "* OK this is IMAP\r\n"}, Reason.PROTOCOL_ERROR),
        (SMTP, {"greeting": "220-again\r\n" * 300}, Reason.PROTOCOL_ERROR),
        (SMTP, {"EHLO": "502 what\r\n"}, Reason.UNKNOWN_REFUSAL),
        (SMTP, {b64(ADDRESS): "535 5.7.8 Error: authentication failed\r\n"}, Reason.WRONG_CREDENTIALS),
        (SMTP, {b64(PASSWORD): "535 Incorrect authentication data\r\n"}, Reason.WRONG_CREDENTIALS),
        (SMTP, {b64(PASSWORD): "535-5.7.8 Bad username\r\n535 or password\r\n"}, Reason.WRONG_CREDENTIALS),
        (SMTP, {b64(PASSWORD): "334 once more\r\n"}, Reason.UNKNOWN_REFUSAL),
        (SMTP, {"QUIT": "500 never\r\n"}, Reason.OK),
        (IMAP, {}, Reason.OK),
        (
            IMAP,
            {"greeting": "* OK [CAPABILITY IMAP4rev1 LITERAL+] hello\r\n", "CAPABILITY": "% BAD\r\n"},
            Reason.OK,
        ),
        (IMAP, {"greeting": "* OK [CAPABILITY LOGINDISABLED] hello\r\n"}, Reason.PASSWORDS_RETIRED),
        (IMAP, {"greeting": "* PREAUTH welcome\r\n"}, Reason.PROTOCOL_ERROR),
        (IMAP, {"greeting": "220 this is SMTP\r\n"}, Reason.PROTOCOL_ERROR),
        (IMAP, {"greeting": "* BYE Too many connections\r\n"}, Reason.TOO_MANY_CONNECTIONS),
        (IMAP, {"CAPABILITY": "% BAD what\r\n"}, Reason.UNKNOWN_REFUSAL),
        (IMAP, {"CAPABILITY": "* 1 EXISTS\r\n" * 300}, Reason.PROTOCOL_ERROR),
        (IMAP, {"LOGIN": "+ go on\r\n"}, Reason.PROTOCOL_ERROR),
        (IMAP, {"LOGIN": "* BYE\r\n% NO [AUTHENTICATIONFAILED] no\r\n"}, Reason.WRONG_CREDENTIALS),
        (IMAP, {"LOGIN": "% BAD [ALERT] Invalid credentials\r\n"}, Reason.WRONG_CREDENTIALS),
        (IMAP, {"LIST": "% NO no mailbox\r\n"}, Reason.IMAP_OFF),
        (IMAP, {"LIST": "* BYE System shutdown\r\n"}, Reason.DROPPED),
        (IMAP, {"LOGOUT": "* BYE and gone\r\n"}, Reason.OK),
        (IMAP, {"LOGOUT": "% BAD never\r\n"}, Reason.OK),
    ],
)
async def test_servers_that_are_not_outlook(
    ca: trustme.CA, ca_file: Path, protocol: Protocol, changes: dict[str, str], reason: Reason
) -> None:
    """Other servers' ways to accept and refuse are understood, and nonsense is reported as such."""
    async with scripted(ca, ca_file, TALK[protocol] | changes) as outlook:
        assert (await ask(outlook, protocol)).reason is reason


@pytest.mark.parametrize("end", ["", "$"], ids=["stalled", "closed"])
@pytest.mark.parametrize(
    ("protocol", "step", "said", "reason", "text"),
    [
        (SMTP, b64(PASSWORD), "535-", Reason.LOGIN_REFUSED, "535"),
        (SMTP, b64(PASSWORD), "535 5.7.8 Bad user", Reason.WRONG_CREDENTIALS, "535 5.7.8 Bad user"),
        (SMTP, b64(PASSWORD), "535-5.7.13", Reason.LOGIN_REFUSED, "535 5.7.13"),  # the rest may be 9
        (
            SMTP,
            b64(PASSWORD),
            "535-5.7.8 Your account has\r\n535-5.7.8 been locked",
            Reason.ACCOUNT_BLOCKED,
            "535 5.7.8 Your account has been locked",
        ),
        (SMTP, "greeting", "421-4.3.2 Too many", Reason.SERVER_BUSY, "421 4.3.2 Too many"),
        (SMTP, b64(PASSWORD), "53", None, ""),
        (SMTP, b64(PASSWORD), "235 Almo", None, ""),
        (IMAP, "LOGIN", "% NO [EXPIRED] ol", Reason.WRONG_CREDENTIALS, "NO [EXPIRED] ol"),
        (IMAP, "LOGIN", "* BYE Connection limit", Reason.TOO_MANY_CONNECTIONS, "BYE Connection limit"),
        (IMAP, "LOGIN", "* 1 EXISTS\r\n% N", None, ""),
        (IMAP, "LOGIN", "% OK", None, ""),
    ],
)  # fmt: skip
async def test_an_unfinished_reply(
    ca: trustme.CA,
    ca_file: Path,
    protocol: Protocol,
    step: str,
    said: str,
    reason: Reason | None,
    text: str,
    end: str,
) -> None:
    """A refusal whose end never comes is that refusal, with its words; an unfinished success is a fault."""
    async with scripted(ca, ca_file, TALK[protocol] | {step: f"{said}{end}"}) as outlook:
        answer = await ask(outlook, protocol, timeout=DEADLINE)
    if reason is None:
        assert answer.reason is (Reason.DROPPED if end else Reason.TIMED_OUT)
    else:
        assert (answer.reason, answer.text) == (reason, text)


@pytest.mark.parametrize(
    "changes",
    [
        {"greeting": "* OK hello\r\n* BYE Too many connections\r\n"},
        {"CAPABILITY": "* BYE Too many connections\r\n% OK\r\n$"},
        {"LOGIN": "* BYE Too many connections\r\n% OK\r\n$"},
    ],
)
async def test_a_goodbye_before_a_command(ca: trustme.CA, ca_file: Path, changes: dict[str, str]) -> None:
    """A BYE is kept if the connection ends at a later command."""
    async with scripted(ca, ca_file, TALK[IMAP] | changes) as outlook:
        answer = await ask(outlook, IMAP)
    assert (answer.reason, answer.text) == (Reason.TOO_MANY_CONNECTIONS, "BYE Too many connections")


async def test_a_goodbye_before_a_failed_write(ca: trustme.CA, ca_file: Path) -> None:
    """A BYE that has arrived is kept if the next command cannot be sent."""
    async with scripted(ca, ca_file, TALK[IMAP]) as outlook:
        wire = Wire(Endpoint("localhost", outlook.imap_port), tls_context(ca_file))
        await wire.connect(tls=True)
        await wire.read_line()
        wire._reader.feed_data(b"* BYE Too many connections\r\n")
        wire.close()
        await asyncio.sleep(0)
        with pytest.raises(ConnectionError):
            await imap_command(wire, "a1", b"CAPABILITY")
        assert imap_unfinished(wire) == Reply("BYE", "Too many connections")


async def test_several_lines_of_mechanisms(ca: trustme.CA, ca_file: Path) -> None:
    """If a server lists its mechanisms on several lines, all of them count."""
    for lines in ("250-AUTH LOGIN\r\n250 AUTH GSSAPI", "250-AUTH=LOGIN\r\n250 AUTH XOAUTH2"):
        talk = TALK[SMTP] | {"EHLO": f"250-mail\r\n250-STARTTLS\r\n{lines}\r\n"}
        async with scripted(ca, ca_file, talk) as outlook:
            assert (await ask(outlook, SMTP)).reason is Reason.OK


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ('* LIST () "/" {11}\r\na3 NO never\r\n% OK\r\n', Reason.OK),
        ('* LIST () "/" {3}\r\n\r\nb (x {0}\r\n)\r\n% OK\r\n', Reason.OK),
        ("* OK [ALERT] no literal {40}\r\n% OK\r\n", Reason.OK),
        ('* LIST () "/" {99999}\r\nnever$', Reason.DROPPED),
    ],
)
async def test_untagged_literals(ca: trustme.CA, ca_file: Path, lines: str, reason: Reason) -> None:
    """The bytes of a literal belong to its line, whatever they look like."""
    async with scripted(ca, ca_file, TALK[IMAP] | {"LIST": lines}) as outlook:
        assert (await ask(outlook, IMAP)).reason is reason


async def test_a_goodbye_before_the_answer(ca: trustme.CA, ca_file: Path) -> None:
    """The text of a BYE that replaces an answer is kept."""
    talk = TALK[IMAP] | {"LOGIN": "* BYE Connection is closed. 13\r\n"}
    async with scripted(ca, ca_file, talk) as outlook:
        answer = await ask(outlook, IMAP)
    assert answer.text == "BYE Connection is closed. 13"


# Replies of other people's servers: what they mean, and how they are shown if that differs.
REPLIES: list[tuple[Protocol, str, Reason, str | None]] = [
    (SMTP, "535 5.7.0 Invalid login or password", Reason.WRONG_CREDENTIALS, None),
    (IMAP, "NO [AUTHENTICATIONFAILED] Invalid credentials(Failure)", Reason.WRONG_CREDENTIALS, None),
    (SMTP, "535 Authentication Failed", Reason.LOGIN_REFUSED, None),
    (SMTP, "535 5.7.0 (#AUTH005) Too many bad auth attempts.", Reason.THROTTLED_FAILED_LOGINS, None),
    (IMAP, "* BYE IMAP4rev1 Server logging out", Reason.DROPPED, "BYE IMAP4rev1 Server logging out"),
    (
        SMTP,
        "535 Login Fail. Please enter your authorization code to login. More information in "
        "http://service.mail.qq.com/cgi-bin/help?subtype=1&&id=28&&no=1001256",
        Reason.APP_PASSWORD_REQUIRED,
        None,
    ),
    (
        IMAP,
        "NO [UNAVAILABLE] Temporary authentication failure. "
        "[mailserver5-mailserver-mailserver-665c6b4bfd-7qsr6:2020-06-11 13:56:19]",
        Reason.SERVER_BUSY,
        "NO [UNAVAILABLE] Temporary authentication failure.",
    ),
    (
        SMTP,
        "454 4.7.0 Temporary authentication failure: Connection lost to authentication server",
        Reason.SERVER_BUSY,
        None,
    ),
    (
        IMAP,
        "NO [ALERT] Application-specific password required: "
        "https://support.google.com/accounts/answer/185833 (Failure)",
        Reason.APP_PASSWORD_REQUIRED,
        None,
    ),
    (
        SMTP,
        "534-5.7.9 Application-specific password required. For more information, go to\n"
        "534 5.7.9  https://support.google.com/mail/?p=InvalidSecondFactor 6a1803df08f44.42 - gsmtp",
        Reason.APP_PASSWORD_REQUIRED,
        "534 5.7.9 Application-specific password required. For more information, go to "
        "https://support.google.com/mail/?p=InvalidSecondFactor 6a1803df08f44.42 - gsmtp",
    ),
    (
        SMTP,
        "451 4.7.0 Temporary server error. Please try again later. PRX4 "
        "[AM5PR0701CA0008.eurprd07.prod.outlook.com]",
        Reason.SERVER_BUSY,
        "451 4.7.0 Temporary server error. Please try again later. PRX4",
    ),
    (
        SMTP,
        "535 5.7.139 Authentication unsuccessful, basic authentication is disabled. "
        "[LO2P265CA0482.GBRP265.PROD.OUTLOOK.COM 2026-02-19T15:42:20.743Z 08DE6F7B77124F67]",
        Reason.PASSWORD_SIGN_IN_DISABLED,
        "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.",
    ),
    (
        SMTP,
        "535 5.7.0 NEOBHODIM parol prilozheniya https://help.mail.ru/mail/security/protection/external/ "
        "/ Application password is REQUIRED",
        Reason.APP_PASSWORD_REQUIRED,
        None,
    ),
    (
        IMAP,
        "NO NEOBHODIM parol prilozheniya https://help.mail.ru/mail/security/protection/external "
        "/ Aplication password is REQUIRED",
        Reason.APP_PASSWORD_REQUIRED,
        None,
    ),
    (
        SMTP,
        "530 5.7.7 Email sending without SSL/TLS encryption is not allowed. Please see: "
        "http://help.yandex.ru/mail/mail-clients/ssl.xml",
        Reason.STARTTLS_MISSING,
        None,
    ),
    (IMAP, "NO Temporary authentication failure (rate-limit)", Reason.THROTTLED, None),
    (IMAP, "NO Authentication credentials invalid", Reason.WRONG_CREDENTIALS, None),
    (SMTP, "535 5.7.8 Error: authentication failed: Invalid format.", Reason.WRONG_CREDENTIALS, None),
    (IMAP, "NO authentication failed", Reason.LOGIN_REFUSED, None),
    (IMAP, "NO Incorrect username or password.", Reason.WRONG_CREDENTIALS, None),
    (IMAP, "BAD Command Error. 10", Reason.UNKNOWN_REFUSAL, None),
    (
        SMTP,
        "421 4.3.0 Temporary System Problem.  Try again later (10). w72sm5765858oie.49 - gsmtp",
        Reason.SERVER_BUSY,
        "421 4.3.0 Temporary System Problem. Try again later (10). w72sm5765858oie.49 - gsmtp",
    ),
    (IMAP, "NO [ALERT] Invalid credentials (Failure)", Reason.WRONG_CREDENTIALS, None),
    (IMAP, "NO Login failed - please create an app password.", Reason.APP_PASSWORD_REQUIRED, None),
    (
        SMTP,
        "454-4.7.0 Too many login attempts, please try again later. Learn more at\n"
        "454 4.7.0  https://support.google.com/mail/answer/7126229 h6-20020a05.11 - gsmtp",
        Reason.THROTTLED,
        "454 4.7.0 Too many login attempts, please try again later. Learn more at "
        "https://support.google.com/mail/answer/7126229 h6-20020a05.11 - gsmtp",
    ),
    (
        SMTP,  # the second line has no reply code, so that it is no part of the reply
        "454 4.7.0 Too many login attempts, please try again later. Learn more at\n"
        "4.7.0  https://support.google.com/mail/answer/7126229 h6-20020a05.11 - gsmtp",
        Reason.THROTTLED,
        "454 4.7.0 Too many login attempts, please try again later. Learn more at",
    ),
    (IMAP, "NO [ALERT] Too many simultaneous connections. (Failure)", Reason.TOO_MANY_CONNECTIONS, None),
    (
        SMTP,
        "535 5.7.3 Authentication unsuccessful [SGXP274CA0016.SGPP274.PROD.OUTLOOK.COM "
        "2025-03-20T11:25:21.972Z 08DD66EDEFB0DFDF]",
        Reason.LOGIN_REFUSED,
        "535 5.7.3 Authentication unsuccessful",
    ),
    (
        SMTP,
        "504 5.7.4 Unrecognized Authentication Type w72sm5765858oie.49 - gsmtp",
        Reason.MECHANISM_NOT_OFFERED,
        None,
    ),
    (
        SMTP,
        "535-5.7.8 Your account has\n535 5.7.8 been locked",
        Reason.ACCOUNT_BLOCKED,
        "535 5.7.8 Your account has been locked",
    ),
    (
        SMTP,
        "535-5.7.8 Basic authentication\n535 5.7.8 is disabled",
        Reason.PASSWORD_SIGN_IN_DISABLED,
        "535 5.7.8 Basic authentication is disabled",
    ),
    (
        IMAP,
        "NO [ALERT] You are yet to enable IMAP for your account. Please contact your administrator (Failure)",
        Reason.IMAP_OFF_MAILBOX,
        None,
    ),
    (
        IMAP,
        "* NO [WEBALERT https://accounts.google.com/signin/continue?x] Web login required.\n"
        "NO [ALERT] Please log in via your web browser: "
        "https://support.google.com/mail/accounts/answer/78754 (Failure)",
        Reason.ACCOUNT_BLOCKED_UNTIL_WEB_SIGN_IN,
        "NO [ALERT] Please log in via your web browser: "
        "https://support.google.com/mail/accounts/answer/78754 (Failure)",
    ),
    (
        IMAP,
        "NO [WEBALERT https://accounts.google.com/x] Web login required.",
        Reason.ACCOUNT_BLOCKED_UNTIL_WEB_SIGN_IN,
        None,
    ),
    (
        IMAP,
        "NO [ALERT] IMAP access is disabled for your domain. Please contact your domain administrator for "
        "questions about this feature. (Failure)",
        Reason.IMAP_OFF_DOMAIN,
        None,
    ),
    (SMTP, "450 4.7.1 Error: too many AUTH commands from 127.0.0.1", Reason.THROTTLED, None),
    (
        SMTP,
        "535 5.7.139 Authentication unsuccessful, user is locked by your organization's security defaults "
        "policy. Contact your administrator. [BJXPR01CA0056.CHNPR01.prod.partner.outlook.cn "
        "2024-01-26T18:54:30.055Z 08DC]",
        Reason.SECURITY_DEFAULTS,
        "535 5.7.139 Authentication unsuccessful, user is locked by your organization's security defaults "
        "policy. Contact your administrator.",
    ),
    (
        SMTP,
        "535 5.7.3 Authentication unsuccessful [BJXPR01CA0056.CHNPR01.prod.partner.outlook.cn]",
        Reason.LOGIN_REFUSED,
        "535 5.7.3 Authentication unsuccessful",
    ),
]
LOGIN_STEP = {SMTP: b64(PASSWORD), IMAP: "LOGIN"}


def as_sent(protocol: Protocol, reply: str) -> str:
    """The lines of a reply with their endings, and with the tag of the command."""
    lines = reply.split("\n")
    if protocol is IMAP:
        lines = [line if line.startswith("*") else f"% {line}" for line in lines]
    return "".join(f"{line}\r\n" for line in lines)


@pytest.mark.parametrize(
    ("protocol", "reply", "reason", "text"), REPLIES, ids=[row[1][:70] for row in REPLIES]
)
async def test_replies_from_the_field(
    ca: trustme.CA, ca_file: Path, protocol: Protocol, reply: str, reason: Reason, text: str | None
) -> None:
    """A reply from a public report has its reason, and is shown without what differs in each reply."""
    talk = TALK[protocol] | {LOGIN_STEP[protocol]: as_sent(protocol, reply)}
    async with scripted(ca, ca_file, talk) as outlook:
        answer = await ask(outlook, protocol)
    assert (answer.reason, answer.stage, answer.tried) == (reason, Stage.LOGIN, True)
    assert answer.text == (text or reply)
    assert answer.retry_after is None


@pytest.mark.parametrize(
    ("protocol", "step", "reply", "reason"),
    [
        (
            SMTP,
            "greeting",
            "421 4.7.0 mail.fabrikam.example Error: too many connections from 127.0.0.1",
            Reason.TOO_MANY_CONNECTIONS,
        ),
        (IMAP, "greeting", "* BYE IMAP access disabled", Reason.IMAP_OFF_DOMAIN),
        (
            IMAP,
            "LIST",
            "BAD User is authenticated but not connected.\n* BYE Connection closed. 14",
            Reason.IMAP_OFF,
        ),
    ],
)
async def test_replies_outside_the_login(
    ca: trustme.CA, ca_file: Path, protocol: Protocol, step: str, reply: str, reason: Reason
) -> None:
    """A refusal before or after the login has its reason, and only one after it calls the password right."""
    async with scripted(ca, ca_file, TALK[protocol] | {step: as_sent(protocol, reply)}) as outlook:
        answer = await ask(outlook, protocol)
    assert answer.reason is reason
    explanation = reason.explanation
    assert ("password is right" in explanation.meaning) is (answer.stage is Stage.CHECK)
    assert ("Signed in" in explanation.title) is (answer.stage is Stage.CHECK)


@pytest.mark.parametrize(
    ("protocol", "raw", "reason"),
    [
        (
            SMTP,
            "NTM1IEVycm9yOiDH68q508PK2sioxuuWxwrHoaPP6sfpx+u/tDogaHR0cDovL3NlcnZpY2UubWFpbC5xcS5jb20vY2dpLWJpbi9oZWxwDQo=",
            Reason.LOGIN_REFUSED,
        ),
        (IMAP, "JVRBRyUgQkFEIMixydlsb2dpbrXEssTK/Q0K", Reason.UNKNOWN_REFUSAL),
    ],
)
async def test_replies_that_are_not_utf8(
    ca: trustme.CA, ca_file: Path, protocol: Protocol, raw: str, reason: Reason
) -> None:
    """A reply in another encoding is a refusal with a printable text."""
    reply = base64.b64decode(raw).replace(b"%TAG%", b"%").decode(errors="surrogateescape")
    async with scripted(ca, ca_file, TALK[protocol] | {LOGIN_STEP[protocol]: reply}) as outlook:
        answer = await ask(outlook, protocol)
    assert answer.reason is reason
    assert answer.text.isprintable()
    assert answer.text.startswith(("535 Error: ", "BAD "))


async def test_a_lock_names_its_end(ca: trustme.CA, ca_file: Path) -> None:
    """An account that is locked for a while is tested again after that time."""
    reply = "535 5.7.1 Account temporarily locked, try again in 900 seconds\r\n"
    async with scripted(ca, ca_file, TALK[SMTP] | {b64(PASSWORD): reply}) as outlook:
        answer = await ask(outlook, SMTP)
    assert (answer.reason, answer.retry_after) == (Reason.TEMPORARILY_LOCKED, timedelta(minutes=15))


@pytest.mark.parametrize("user", ["ann@outlook.com", "ann@hotmail.co.uk", "Ann@LIVE.nl"])
async def test_a_personal_account(ca: trustme.CA, ca_file: Path, user: str) -> None:
    """A policy that refuses a personal account names no admin."""
    talk = TALK[SMTP] | {b64(user): "535 5.7.139 SmtpClientAuthentication is disabled for the Mailbox.\r\n"}
    async with scripted(ca, ca_file, talk) as outlook:
        answer = await ask(outlook, SMTP, user=user)
    assert answer.reason is Reason.PERSONAL_PASSWORDS_RETIRED
    assert "Admin" not in answer.reason.explanation.remedy


# Connections that start with TLS, and those that do not.

SMTPS = TALK[SMTP] | {"EHLO": "250-mail\r\n250 AUTH LOGIN\r\n"}
del SMTPS["STARTTLS"]
IMAP_STARTTLS = TALK[IMAP] | {
    "CAPABILITY": "* CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED\r\n% OK\r\n",
    "STARTTLS": "% OK go\r\n",
}


def at(scheme: str, outlook: Outlook, port: int | None = None) -> Endpoint:
    """The stand-in's endpoint with a scheme, whatever its port implies."""
    return Endpoint(f"{scheme}://localhost", port or outlook.smtp_port)


async def log_in_at(
    protocol: Protocol,
    endpoint: Endpoint,
    ca_file: Path,
    *,
    preflight: bool = False,
    seconds: float = PATIENCE,
) -> Answer:
    credentials = None if preflight else Credentials(ADDRESS, PASSWORD)
    return await log_in(protocol, endpoint, credentials, tls_context(ca_file), seconds)


async def test_smtp_that_starts_with_tls(ca: trustme.CA, ca_file: Path) -> None:
    """With the scheme smtps, the login needs no STARTTLS."""
    async with scripted(ca, ca_file, SMTPS) as outlook:
        answer = await log_in_at(SMTP, at("smtps", outlook), ca_file)
    assert (answer.reason, answer.stage) == (Reason.OK, Stage.CHECK)
    assert str(answer.endpoint).startswith("smtps://localhost:")


@pytest.mark.parametrize("greeting", ["* OK hello\r\n", "* OK [CAPABILITY IMAP4rev1 STARTTLS] hello\r\n"])
async def test_imap_with_starttls(ca: trustme.CA, ca_file: Path, greeting: str) -> None:
    """With the scheme imap, the login happens after STARTTLS, with the capabilities that hold there."""
    talk = IMAP_STARTTLS | {"greeting": greeting}
    async with scripted(ca, ca_file, talk) as outlook:
        answer = await log_in_at(IMAP, at("imap", outlook), ca_file)
    # The script offers no login in its capabilities, before TLS and after it.
    assert (answer.reason, answer.stage) == (Reason.PASSWORDS_RETIRED, Stage.CAPABILITY)
    talk["CAPABILITY"] = "* CAPABILITY IMAP4rev1 STARTTLS\r\n% OK\r\n"
    async with scripted(ca, ca_file, talk) as outlook:
        answer = await log_in_at(IMAP, at("imap", outlook), ca_file)
    assert (answer.reason, answer.stage) == (Reason.OK, Stage.CHECK)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"CAPABILITY": "* CAPABILITY IMAP4rev1\r\n% OK\r\n"}, Reason.STARTTLS_MISSING),
        ({"STARTTLS": "% BAD what\r\n$"}, Reason.STARTTLS_MISSING),
        ({"STARTTLS": "% NO [UNAVAILABLE] later\r\n$"}, Reason.SERVER_BUSY),
    ],
)
async def test_imap_without_starttls(
    ca: trustme.CA, ca_file: Path, changes: dict[str, str], reason: Reason
) -> None:
    """If the server does not start TLS, no password is sent."""
    async with scripted(ca, ca_file, IMAP_STARTTLS | changes) as outlook:
        answer = await log_in_at(IMAP, at("imap", outlook), ca_file)
    assert (answer.reason, answer.tried) == (reason, False)


@pytest.mark.parametrize("preflight", [True, False])
@pytest.mark.parametrize(("protocol", "scheme"), [(SMTP, "smtps"), (IMAP, "imaps")])
async def test_a_port_without_tls(
    start: StartOutlook, protocol: Protocol, scheme: str, preflight: bool
) -> None:
    """A port that answers in plain text where TLS was meant to start is named as such."""
    outlook = await start({})
    answer = await log_in_at(protocol, at(scheme, outlook), outlook.ca_file, preflight=preflight)
    assert (answer.reason, answer.stage, answer.tried) == (Reason.PORT_WITHOUT_TLS, Stage.TLS, False)
    assert answer.text


@pytest.mark.parametrize(("protocol", "scheme"), [(SMTP, "smtp"), (IMAP, "imap")])
async def test_a_port_with_tls(start: StartOutlook, protocol: Protocol, scheme: str) -> None:
    """A preflight names a port that waits for TLS where plain text was meant to start."""
    outlook = await start({})
    endpoint = at(scheme, outlook, outlook.imap_port)
    answer = await log_in_at(protocol, endpoint, outlook.ca_file, preflight=True, seconds=DEADLINE)
    assert (answer.reason, answer.stage) == (Reason.PORT_WITH_TLS, Stage.GREETING)
    # A certificate that cannot be trusted is TLS, too.
    answer = await log_in(protocol, endpoint, None, tls_context(None), DEADLINE)
    assert answer.reason is Reason.PORT_WITH_TLS
    assert outlook.seen.passwords_received == 0


@pytest.mark.slow
async def test_a_silent_port(start: StartOutlook) -> None:
    """A port that never says anything, with or without TLS, has timed out."""
    outlook = await start({}, ServerFaults("hang:connect", "hang:connect"))
    for protocol, port in ((SMTP, outlook.smtp_port), (IMAP, outlook.imap_port)):
        endpoint = at(protocol.value, outlook, port)
        answer = await log_in_at(protocol, endpoint, outlook.ca_file, preflight=True, seconds=DEADLINE)
        assert answer.reason is Reason.TIMED_OUT
        assert answer.milliseconds < (DEADLINE + 1) * 1000
