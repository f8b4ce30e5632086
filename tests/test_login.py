"""One login: every reply and every fault gets its reason, in time, with the password sent once."""

from __future__ import annotations

import asyncio
import base64
import gc
import socket
import sys
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from sandbox import script
from sandbox.certificates import server_context
from sandbox.outlook import Account, Outlook, ServerFaults
from schemas.providers import Endpoint
from schemas.reasons import Protocol, Reason, Reply, Stage
from schemas.verdicts import Answer
from tasks.login.imap import imap_command, imap_unfinished
from tasks.login.session import log_in
from tasks.login.wire import Credentials, Wire, tls_context
from tests.conftest import StartOutlook

ADDRESS = "anna@outlook.com"
PASSWORD = "abcdefghijklmnop"
GOOD = {ADDRESS: Account(PASSWORD)}
# For logins that succeed, and for faults that use up the whole deadline.
PATIENCE = 10.0
DEADLINE = 1.0

SMTP, IMAP = Protocol.SMTP, Protocol.IMAP
each_protocol = pytest.mark.parametrize("protocol", list(Protocol))


async def ask(
    outlook: Outlook,
    protocol: Protocol,
    password: str | None = PASSWORD,
    user: str = ADDRESS,
    timeout: float = PATIENCE,  # noqa: ASYNC109  the login's deadline, not this function's
) -> Answer:
    """Log in to the stand-in, or run a preflight without a password."""
    host, _, port = outlook.address(protocol.value).rpartition(":")
    credentials = None if password is None else Credentials(user, password)
    return await log_in(
        protocol, Endpoint(host, int(port)), credentials, tls_context(outlook.ca_file), timeout
    )


def account(protocol: Protocol, behaviour: str, password: str = PASSWORD) -> dict[str, Account]:
    return {ADDRESS: Account(password, **{protocol.value: behaviour})}


def server(protocol: Protocol, fault: str) -> ServerFaults:
    return ServerFaults(**{protocol.value: fault})


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# The correct conversation.


@each_protocol
async def test_a_good_login(start: StartOutlook, protocol: Protocol) -> None:
    """A correct password gives OK, after one connection and one login."""
    outlook = await start(GOOD)
    answer = await ask(outlook, protocol)
    assert (answer.protocol, answer.reason, answer.stage) == (protocol, Reason.OK, Stage.CHECK)
    assert answer.tried
    assert (answer.text, answer.retry_after) == ("", None)
    assert 0 <= answer.milliseconds < PATIENCE * 1000
    assert outlook.seen.connections == {protocol: 1}
    assert outlook.seen.logins == {(protocol, ADDRESS): 1}


@each_protocol
async def test_a_preflight(start: StartOutlook, protocol: Protocol) -> None:
    """Without credentials the login stops before the password, and none is sent."""
    outlook = await start(GOOD)
    answer = await ask(outlook, protocol, None)
    assert (answer.reason, answer.stage, answer.tried) == (Reason.OK, Stage.CAPABILITY, False)
    assert outlook.seen.connections == {protocol: 1}
    assert outlook.seen.passwords_received == 0


@each_protocol
@pytest.mark.parametrize("smtp_auth", ["LOGIN XOAUTH2", "PLAIN", "PLAIN LOGIN XOAUTH2"])
async def test_a_wrong_password_is_tried_once(
    start: StartOutlook, protocol: Protocol, smtp_auth: str
) -> None:
    """A refused password is sent once, however many mechanisms are offered: ten failures lock an account."""
    outlook = await start(GOOD, ServerFaults(smtp_auth=smtp_auth))
    answer = await ask(outlook, protocol, "wrong")
    expected = {SMTP: Reason.WRONG_CREDENTIALS, IMAP: Reason.LOGIN_REFUSED}
    assert (answer.reason, answer.stage) == (expected[protocol], Stage.LOGIN)
    assert outlook.seen.connections == {protocol: 1}
    assert outlook.seen.logins == {(protocol, ADDRESS): 1}


ODD_PASSWORDS = [
    'quote"in the middle',
    "back\\slash",
    '\\"',
    "comma,semicolon;",
    " edge spaces ",
    "0012345",
    "größe-ñ-漢字-🔑",
    "{7}",
    "{5+}",
    "per%cent*star",
    "(paren)",
    "x" * 256,
    "ü" * 256,
    "'single'",
    "=?utf-8?q?x?=",
    "a b\xa0c",
]


@pytest.mark.parametrize(
    ("protocol", "offers"),
    [
        (SMTP, ServerFaults(smtp_auth="LOGIN")),
        (SMTP, ServerFaults(smtp_auth="PLAIN")),
        (IMAP, ServerFaults(imap_capabilities="IMAP4rev1 LITERAL+ NAMESPACE")),
        (IMAP, ServerFaults(imap_capabilities="IMAP4rev1 LITERAL-")),
        (IMAP, ServerFaults(imap_capabilities="IMAP4rev1")),
    ],
    ids=["login", "plain", "literal+", "literal-", "literal"],
)
async def test_passwords_arrive_as_they_are(
    start: StartOutlook, protocol: Protocol, offers: ServerFaults
) -> None:
    """Quotes, backslashes, spaces, zeros, other scripts and 256 characters arrive byte for byte."""
    passwords = {f"user{n}@outlook.com": password for n, password in enumerate(ODD_PASSWORDS)}
    outlook = await start({user: Account(password) for user, password in passwords.items()}, offers)
    answers = await asyncio.gather(
        *(ask(outlook, protocol, password, user) for user, password in passwords.items())
    )
    assert [answer.reason for answer in answers] == [Reason.OK] * len(passwords)
    assert outlook.seen.passwords == {
        (protocol, user): password.encode() for user, password in passwords.items()
    }


# What servers reply.

REASONS: dict[Protocol, dict[str, Reason]] = {
    SMTP: {
        "basic-auth-disabled": Reason.PASSWORD_SIGN_IN_DISABLED,
        "smtp-auth-disabled-tenant": Reason.SMTP_AUTH_OFF_TENANT,
        "smtp-auth-disabled-mailbox": Reason.SMTP_AUTH_OFF_MAILBOX,
        "security-defaults": Reason.SECURITY_DEFAULTS,
        "conditional-access": Reason.CONDITIONAL_ACCESS,
        "wrong-credentials": Reason.WRONG_CREDENTIALS,
        "account-blocked": Reason.ACCOUNT_BLOCKED,
        "account-disabled": Reason.ACCOUNT_BLOCKED,
        "identity-refused": Reason.LOGIN_REFUSED,
        "basic-auth-not-supported": Reason.PASSWORD_SIGN_IN_DISABLED,
        "not-authenticated": Reason.CLIENT_FAULT,
        "starttls-required": Reason.STARTTLS_MISSING,
        "too-many-connections": Reason.TOO_MANY_CONNECTIONS,
        "service-not-available": Reason.SERVER_BUSY,
        "service-not-active": Reason.SERVER_BUSY,
        "temporary-server-error": Reason.SERVER_BUSY,
        "temporary-auth-failure": Reason.SERVER_BUSY,
        "federation-unreachable": Reason.FEDERATION_UNREACHABLE,
        "server-busy": Reason.THROTTLED,
        "throttled-backoff": Reason.THROTTLED,
    },
    IMAP: {
        "basic-auth-disabled": Reason.PASSWORD_SIGN_IN_DISABLED,
        "login-failed": Reason.LOGIN_REFUSED,
        "authenticate-failed": Reason.LOGIN_REFUSED,
        "not-connected": Reason.IMAP_OFF,
        "wrong-credentials": Reason.WRONG_CREDENTIALS,
        "unavailable": Reason.SERVER_BUSY,
        "limit": Reason.TOO_MANY_CONNECTIONS,
        "inuse": Reason.SERVER_BUSY,
        "server-unavailable": Reason.SERVER_BUSY,
        "throttled-backoff": Reason.THROTTLED,
        "bye": Reason.DROPPED,
    },
}


@pytest.mark.parametrize(
    ("protocol", "name"),
    [(protocol, name) for protocol in Protocol for name in script.REPLIES[protocol.value]],
)
async def test_every_reply_has_its_reason(start: StartOutlook, protocol: Protocol, name: str) -> None:
    """Each reply of the stand-in gets its reason, and the server's own text is kept."""
    outlook = await start(account(protocol, name))
    answer = await ask(outlook, protocol)
    assert answer.reason is REASONS[protocol][name]
    assert answer.stage is (Stage.CHECK if name == "not-connected" else Stage.LOGIN)
    assert answer.tried
    reply = script.AFTER_LOGIN[protocol.value].get(name, script.REPLIES[protocol.value][name])
    said = reply.split("|")[0].removesuffix(script.STAMP).removeprefix("* ").strip()
    assert answer.text == said
    assert outlook.seen.logins == {(protocol, ADDRESS): 1}


@each_protocol
async def test_a_pause_that_the_server_names(start: StartOutlook, protocol: Protocol) -> None:
    """The answer has the pause that a throttling reply asks for."""
    answer = await ask(await start(account(protocol, "throttled-backoff")), protocol)
    assert answer.retry_after == timedelta(seconds=299.961)


SERVER_REASONS = {
    "refused": Reason.CONNECTION_REFUSED,
    "unknown-name": Reason.NAME_NOT_FOUND,
    "wrong-name": Reason.CERTIFICATE_NOT_TRUSTED,
    "expired": Reason.CERTIFICATE_NOT_TRUSTED,
    "self-signed": Reason.CERTIFICATE_NOT_TRUSTED,
    "old-tls": Reason.TLS_FAILURE,
    "greeting-busy": Reason.SERVER_BUSY,
    "no-starttls": Reason.STARTTLS_MISSING,
    "starttls-refused": Reason.SERVER_BUSY,
    "no-auth": Reason.MECHANISM_NOT_OFFERED,
    "xoauth2-only": Reason.MECHANISM_NOT_OFFERED,
    "login-disabled": Reason.PASSWORD_SIGN_IN_DISABLED,
}


@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        (protocol, name)
        for protocol in Protocol
        for name in script.SERVER_FAULTS[protocol.value]
        if name not in ("ok", "injected")
    ],
)
async def test_no_password_leaves_for_such_a_server(
    start: StartOutlook, protocol: Protocol, name: str
) -> None:
    """A server that cannot be trusted, or wants no password, gets none, with and without a preflight."""
    outlook = await start(GOOD, server(protocol, name))
    for password in (None, PASSWORD):
        answer = await ask(outlook, protocol, password)
        assert (answer.reason, answer.tried) == (SERVER_REASONS[name], False)
    assert outlook.seen.passwords_received == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [("wrong-name", "Hostname mismatch"), ("expired", "has expired"), ("self-signed", "self-signed")],
)
async def test_a_bad_certificate_is_named(start: StartOutlook, name: str, words: str) -> None:
    """The reason names what is wrong with a certificate: its name, its dates or its signer."""
    outlook = await start(GOOD, ServerFaults(name, name))
    assert words in (await ask(outlook, SMTP)).text
    assert words in (await ask(outlook, IMAP)).text


async def test_offers_without_a_password_mechanism_are_listed(start: StartOutlook) -> None:
    """If a server offers no password login, the answer lists what it offers."""
    outlook = await start(GOOD, ServerFaults("xoauth2-only", "login-disabled"))
    assert "AUTH XOAUTH2" in (await ask(outlook, SMTP, None)).text
    assert "LOGINDISABLED" in (await ask(outlook, IMAP, None)).text


async def test_plain_text_after_starttls_is_discarded(start: StartOutlook) -> None:
    """Text injected after the reply to STARTTLS is discarded before TLS."""
    outlook = await start(GOOD, ServerFaults("injected"))
    assert (await ask(outlook, SMTP)).reason is Reason.OK  # PLAIN, which was injected, would be refused
    assert outlook.seen.logins == {("smtp", ADDRESS): 1}


# Faults.

STAGES = {
    ("smtp", "connect"): Stage.GREETING,
    ("smtp", "greeting"): Stage.GREETING,
    ("smtp", "ehlo"): Stage.CAPABILITY,
    ("smtp", "starttls"): Stage.STARTTLS,
    ("smtp", "tls"): Stage.TLS,
    ("smtp", "user"): Stage.LOGIN,
    ("smtp", "auth"): Stage.LOGIN,
    ("imap", "connect"): Stage.TLS,
    ("imap", "tls"): Stage.TLS,
    ("imap", "greeting"): Stage.GREETING,
    ("imap", "capability"): Stage.CAPABILITY,
    ("imap", "auth"): Stage.LOGIN,
    ("imap", "after"): Stage.CHECK,
}
FAULT_REASONS = {
    "hang": {Reason.TIMED_OUT},
    "drip": {Reason.TIMED_OUT, Reason.PROTOCOL_ERROR, Reason.TLS_FAILURE},
    "drop": {Reason.DROPPED},
    "reset": {Reason.DROPPED},
    "garbage": {Reason.PROTOCOL_ERROR, Reason.TLS_FAILURE},
    "overlong": {Reason.PROTOCOL_ERROR, Reason.TLS_FAILURE},
}


@pytest.mark.parametrize("fault", script.FAULTS)
async def test_faults_are_never_a_wrong_password(start: StartOutlook, fault: str) -> None:
    """A fault at any stage ends in time, can be retried, and is never reported as a wrong password."""
    timeout = DEADLINE if fault in ("hang", "drip") else PATIENCE

    async def suffer(protocol: Protocol, stage: str, *, everybody: bool) -> None:
        behaviour = f"{fault}:{stage}"
        if everybody:
            outlook = await start(GOOD, server(protocol, behaviour))
        else:
            outlook = await start(account(protocol, behaviour))
        answer = await ask(outlook, protocol, timeout=timeout)
        assert answer.reason in FAULT_REASONS[fault], (stage, answer)
        assert answer.reason.explanation.transient
        assert answer.stage is STAGES[protocol.value, stage], (stage, answer)
        assert answer.tried is (answer.stage in (Stage.LOGIN, Stage.CHECK))
        assert answer.milliseconds <= (timeout + 1) * 1000
        assert len(answer.text) <= 300
        assert answer.text.isprintable()
        assert outlook.seen.connections == {protocol: 1}
        assert outlook.seen.passwords_received <= 1

    async with asyncio.TaskGroup() as tasks:
        for protocol in Protocol:
            for stage in script.SERVER_STAGES[protocol.value]:
                if (protocol.value, stage) in STAGES:
                    tasks.create_task(suffer(protocol, stage, everybody=True))
            for stage in script.MAILBOX_STAGES[protocol.value]:
                if (protocol.value, stage) in STAGES:
                    tasks.create_task(suffer(protocol, stage, everybody=False))


async def test_a_fault_after_the_verdict_changes_nothing(start: StartOutlook) -> None:
    """Once SMTP has accepted the password, a bad reply to QUIT or a time-out does not change the verdict."""
    servers = [await start(account(SMTP, f"{fault}:after")) for fault in script.FAULTS]
    answers = await asyncio.gather(*(ask(outlook, SMTP, timeout=DEADLINE) for outlook in servers))
    assert [answer.reason for answer in answers] == [Reason.OK] * len(script.FAULTS)
    assert max(answer.milliseconds for answer in answers) < DEADLINE * 1000


async def test_a_slow_answer_is_waited_for(start: StartOutlook) -> None:
    """A refusal that arrives before the deadline is a refusal; one that arrives later is a time-out."""
    outlook = await start(account(SMTP, "slow:0.3+wrong-credentials"))
    assert (await ask(outlook, SMTP, timeout=2)).reason is Reason.WRONG_CREDENTIALS
    late = await ask(outlook, SMTP, timeout=0.25)
    assert (late.reason, late.text) == (Reason.TIMED_OUT, "no complete reply within 0.25 s")


@each_protocol
async def test_a_name_that_does_not_exist(protocol: Protocol) -> None:
    """A host name that cannot be looked up, or is malformed, has its own reason."""
    for host in ("mail.invalid", f"{'x' * 64}.example", "a..b"):
        endpoint = Endpoint(host, 993)
        answer = await log_in(protocol, endpoint, Credentials(ADDRESS, PASSWORD), tls_context(None), 10)
        assert (answer.reason, answer.stage) == (Reason.NAME_NOT_FOUND, Stage.CONNECT)
        assert not answer.tried


def resolve_to(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Give every host name several addresses: one for each of these ports, whatever port was requested."""

    async def addresses(*_: object, **__: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", addresses)


async def test_a_refusing_address_of_several(start: StartOutlook, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with a dead address next to a good one is reached; with dead ones only it is refused."""
    dead = await start(GOOD, ServerFaults("refused", "refused"))
    outlook = await start(GOOD)
    resolve_to(monkeypatch, dead.smtp_port, outlook.smtp_port)
    assert (await ask(outlook, SMTP)).reason is Reason.OK
    resolve_to(monkeypatch, dead.smtp_port, dead.imap_port)
    answer = await ask(outlook, SMTP)
    assert (answer.reason, answer.text) == (Reason.CONNECTION_REFUSED, "Connection refused")


async def test_a_silent_address_of_several(start: StartOutlook, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that never answers, such as IPv6 behind a bad router, does not use up the deadline."""
    outlook = await start(GOOD)
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # fill the backlog, so that nothing else is answered
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        resolve_to(monkeypatch, silent.getsockname()[1], outlook.smtp_port)
        answer = await ask(outlook, SMTP, timeout=2)
    assert answer.reason is Reason.OK
    assert outlook.seen.logins == {("smtp", ADDRESS): 1}


@pytest.mark.parametrize("addresses", [1, 2])
async def test_a_cancellation_while_connecting(monkeypatch: pytest.MonkeyPatch, addresses: int) -> None:
    """A login that is cancelled at any moment of its connecting leaves no socket open."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as accepting, warnings.catch_warnings():
        lost: list[object] = []
        monkeypatch.setattr(sys, "unraisablehook", lost.append)
        warnings.simplefilter("error", ResourceWarning)
        port = accepting.getsockname()[1]
        resolve_to(monkeypatch, *[port] * addresses)
        for steps in range(20):
            connecting = asyncio.create_task(
                log_in(SMTP, Endpoint("mail.example", port), None, tls_context(None), PATIENCE)
            )
            for _ in range(steps):
                await asyncio.sleep(0)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
        await asyncio.sleep(0)
        gc.collect()
    assert lost == []


# What is kept of a server's text.


@each_protocol
@pytest.mark.parametrize("password", [PASSWORD, 'odd "pass\\word"', "größe"])
async def test_an_echoed_password_is_not_kept(start: StartOutlook, protocol: Protocol, password: str) -> None:
    """A password that a server repeats, plain, quoted or in base64, is removed from its text."""
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    forms = [password, b64(password), b64(f"\0{ADDRESS}\0{password}"), quoted]
    for form in forms:
        no = "535 5.7.8" if protocol is SMTP else "NO"
        outlook = await start(account(protocol, f"{no} You said <{form}> to us {script.STAMP}", password))
        answer = await ask(outlook, protocol, password)
        assert answer.text == f"{no} You said <…> to us"


@each_protocol
async def test_credentials_show_nothing(protocol: Protocol) -> None:
    """Credentials cannot be printed, and an answer about them does not contain them."""
    credentials = Credentials(ADDRESS, PASSWORD)
    answer = await log_in(protocol, Endpoint("127.0.0.1", 1), credentials, tls_context(None), PATIENCE)
    assert PASSWORD not in f"{credentials!r} {credentials} {answer!r}"


# Cancelling.


@each_protocol
async def test_cancelling_closes_the_connection(start: StartOutlook, protocol: Protocol) -> None:
    """A cancelled login raises the cancellation at once, and closes its connection before the next one."""
    outlook = await start(account(protocol, "slow:30"))
    for attempt in (1, 2):
        login = asyncio.create_task(ask(outlook, protocol, timeout=30))
        while outlook.seen.logins[protocol.value, ADDRESS] < attempt:  # noqa: ASYNC110  it has no event
            await asyncio.sleep(0.01)
        login.cancel()
        with pytest.raises(asyncio.CancelledError):
            await login
        await asyncio.sleep(0.2)  # the stand-in checks every 0.1 s
    assert outlook.seen.connections == {protocol: 2}
    assert outlook.seen.connections_at_once == {protocol: 1}


# Servers other than Outlook.


@asynccontextmanager
async def scripted(ca: trustme.CA, ca_file: Path, replies: Mapping[str, str]) -> AsyncIterator[Outlook]:
    """A server of either protocol that answers each command word with this text; `%` is replaced by the tag.

    `greeting` is sent first; a word without an answer ends the connection, and so does a final goodbye or an
    answer that ends in `$`, which is not sent.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "STARTTLS" not in replies:
            await writer.start_tls(context)
        words = ["greeting"]
        while word := next((word for word in words if word in replies), None):
            reply = replies[word].replace("%", words[0])
            writer.write(reply.removesuffix("$").encode())
            await writer.drain()
            if word == "STARTTLS":
                await writer.start_tls(context)
            if reply.endswith("$") or reply.splitlines()[-1].startswith("* BYE"):
                writer.close()
                await writer.wait_closed()
                break
            words = (await reader.readline()).decode().split()[:2]

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(answer(reader, writer))
        task.add_done_callback(lambda _: writer.transport.abort())
        talks.append((task, writer))

    talks: list[tuple[asyncio.Task[None], asyncio.StreamWriter]] = []
    context = server_context(ca, "ok")
    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    outlook = Outlook({}, folder=ca_file.parent)
    outlook.smtp_port = outlook.imap_port = listening.sockets[0].getsockname()[1]
    outlook.ca_file = ca_file
    try:
        yield outlook
    finally:
        listening.close()
        for _, writer in talks:
            writer.transport.abort()
        await asyncio.gather(*(task for task, _ in talks), return_exceptions=True)
        await asyncio.sleep(0.01)  # the transports' last callbacks


TALK: dict[Protocol, dict[str, str]] = {
    SMTP: {
        "greeting": "220-several\r\n220 lines\r\n",
        "EHLO": "250-mail\r\n250-STARTTLS\r\n250 AUTH LOGIN\r\n",
        "STARTTLS": "220 go\r\n",
        "AUTH": "334 VXNlcm5hbWU6\r\n",
        b64(ADDRESS): "334 UGFzc3dvcmQ6\r\n",
        b64(PASSWORD): "235 yes\r\n",
        "QUIT": "221 bye\r\n",
    },
    IMAP: {
        "greeting": "* OK hello\r\n",
        "CAPABILITY": "* CAPABILITY IMAP4rev1\r\n% OK\r\n",
        "LOGIN": "* 1 EXISTS\r\n% OK\r\n",
        "LIST": '* LIST () "/" ""\r\n% OK\r\n',
        "LOGOUT": "* BYE\r\n% OK\r\n",
    },
}


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
        (IMAP, {"greeting": "* OK [CAPABILITY LOGINDISABLED] hello\r\n"}, Reason.PASSWORD_SIGN_IN_DISABLED),
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


def test_one_context_per_process(ca_file: Path) -> None:
    """The SSL context is made once per CA file, checks certificates and uses TLS 1.2 or later."""
    context = tls_context(ca_file)
    assert tls_context(ca_file) is context
    assert context.check_hostname
    assert context.minimum_version.name == "TLSv1_2"
