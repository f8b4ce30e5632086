"""One login: every reply and every fault gets its reason, in time, with the password sent once."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import warnings
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sandbox import script
from sandbox.outlook import Account, ServerFaults
from schemas.providers import Endpoint
from schemas.reasons import Protocol, Reason, Stage
from tasks.login.session import log_in
from tasks.login.wire import Credentials, HostCache, tls_context
from tests.conftest import StartOutlook
from tests.support.mail_servers import ADDRESS, DEADLINE, IMAP, PASSWORD, PATIENCE, SMTP, ask, b64

GOOD = {ADDRESS: Account(PASSWORD)}
each_protocol = pytest.mark.parametrize("protocol", list(Protocol))


def account(protocol: Protocol, behaviour: str, password: str = PASSWORD) -> dict[str, Account]:
    return {ADDRESS: Account(password, **{protocol.value: behaviour})}


def server(protocol: Protocol, fault: str) -> ServerFaults:
    return ServerFaults(**{protocol.value: fault})


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
async def test_logins_of_one_run_resume_their_tls_session(start: StartOutlook, protocol: Protocol) -> None:
    """After the first login, the next ones to the same server, and no other, resume its TLS session."""
    outlook, other = await start(GOOD), await start(GOOD)
    hosts = HostCache()
    for server in (outlook, outlook, outlook, other):
        endpoint = Endpoint("localhost", getattr(server, f"{protocol}_port"))
        context = tls_context(server.ca_file)
        answer = await log_in(protocol, endpoint, Credentials(ADDRESS, PASSWORD), context, PATIENCE, hosts)
        assert answer.reason is Reason.OK
    assert (outlook.seen.resumed[protocol], other.seen.resumed[protocol]) == (2, 0)
    await ask(outlook, protocol)  # of another run
    assert outlook.seen.resumed[protocol] == 2


@each_protocol
async def test_a_server_that_took_the_place_of_another_is_checked(
    start: StartOutlook, protocol: Protocol, ca_file: Path
) -> None:
    """A session of another server is no proof: a false certificate at the same address is refused."""
    outlook = await start(GOOD)
    false = await start(GOOD, server(protocol, "self-signed"))
    hosts = HostCache()
    endpoints = [Endpoint("localhost", getattr(one, f"{protocol}_port")) for one in (outlook, false)]
    credentials, context = Credentials(ADDRESS, PASSWORD), tls_context(ca_file)
    answer = await log_in(protocol, endpoints[0], credentials, context, PATIENCE, hosts)
    assert answer.reason is Reason.OK
    hosts.sessions[endpoints[1]] = hosts.sessions[endpoints[0]]
    answer = await log_in(protocol, endpoints[1], credentials, context, PATIENCE, hosts)
    assert answer.reason is Reason.CERTIFICATE_NOT_TRUSTED
    assert false.seen.passwords_received == 0


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
        "basic-auth-not-supported": Reason.PASSWORDS_RETIRED,
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
        "basic-auth-disabled": Reason.PASSWORDS_RETIRED,
        "login-failed": Reason.LOGIN_REFUSED,
        "authenticate-failed": Reason.LOGIN_REFUSED,
        "not-connected": Reason.IMAP_OFF,
        "wrong-credentials": Reason.WRONG_CREDENTIALS,
        "unavailable": Reason.SERVER_BUSY,
        "limit": Reason.TOO_MANY_CONNECTIONS,
        "inuse": Reason.MAILBOX_IN_USE,
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
    "login-disabled": Reason.PASSWORDS_RETIRED,
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
    "drip": {Reason.TIMED_OUT, Reason.PROTOCOL_ERROR, Reason.TLS_FAILURE, Reason.PORT_WITHOUT_TLS},
    "drop": {Reason.DROPPED},
    "reset": {Reason.DROPPED},
    "garbage": {Reason.PROTOCOL_ERROR, Reason.TLS_FAILURE, Reason.PORT_WITHOUT_TLS},
    "overlong": {Reason.PROTOCOL_ERROR, Reason.TLS_FAILURE, Reason.PORT_WITHOUT_TLS},
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


async def test_logins_of_one_run_look_a_host_up_once(
    start: StartOutlook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The addresses of a host are kept for the next logins, until none of them accepts a connection."""
    outlook, dead = await start(GOOD), await start(GOOD, ServerFaults("refused", "refused"))
    endpoint, hosts = Endpoint("localhost", outlook.smtp_port), HostCache()

    async def log_in_as_usual() -> Reason:
        credentials = Credentials(ADDRESS, PASSWORD)
        answer = await log_in(SMTP, endpoint, credentials, tls_context(outlook.ca_file), PATIENCE, hosts)
        return answer.reason

    resolve_to(monkeypatch, outlook.smtp_port)
    assert await log_in_as_usual() is Reason.OK
    resolve_to(monkeypatch, dead.smtp_port)
    assert await log_in_as_usual() is Reason.OK
    hosts.forget_addresses(endpoint)
    assert await log_in_as_usual() is Reason.CONNECTION_REFUSED
    resolve_to(monkeypatch, outlook.smtp_port)
    assert await log_in_as_usual() is Reason.OK


async def test_every_address_of_a_host_gets_logins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The addresses of a host change places for each login, but those of the preferred family stay first."""
    found = [(family, socket.SOCK_STREAM, 6, "", (name, 1)) for family, name in _MIXED]

    async def addresses(*_: object, **__: object) -> list[tuple[Any, ...]]:
        return found

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", addresses)
    hosts = HostCache()
    orders = [await hosts.addresses(Endpoint("mail.example", 1)) for _ in range(60)]
    assert {order[0][4][0] for order in orders} == {"::1", "::2", "::3"}
    assert {tuple(family for family, *_ in order) for order in orders} == {
        tuple(family for family, _ in _MIXED)
    }


_MIXED = [(socket.AF_INET6, f"::{number}") for number in (1, 2, 3)] + [(socket.AF_INET, "127.0.0.1")]


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


def test_one_context_per_process(ca_file: Path) -> None:
    """The SSL context is made once per CA file, checks certificates and uses TLS 1.2 or later."""
    context = tls_context(ca_file)
    assert tls_context(ca_file) is context
    assert context.check_hostname
    assert context.minimum_version.name == "TLSv1_2"
