"""No password is sent for a domain whose mail goes to another provider, as a real DNS server tells."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from sandbox.outlook import Account
from schemas.providers import Endpoint, Servers, servers_for
from schemas.reasons import Reason
from schemas.settings import Settings
from schemas.tables import Mailbox, ProbeResult, now
from tasks import mail_exchangers
from tasks.doctor.installation import check_dns
from tasks.mail_exchangers import MailExchangers
from tasks.probe import Probing
from tasks.storage.database import Database
from tests.conftest import (
    StartOutlook,
    import_mailboxes,
    probe_targets,
    rows_of,
    with_changes,
    with_servers,
)
from tests.support.dns_server import DnsServer, Script, dns_server, mx_reply

GOOGLE = ["1 aspmx.l.google.com.", "5 alt1.aspmx.l.google.com."]
MICROSOFT = ["0 contoso-com.mail.protection.outlook.com."]
OWN = Servers(Endpoint("mail.contoso.com", 587), Endpoint("mail.contoso.com", 993))


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    async with dns_server() as running:
        yield running


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> float:
    """A short limit for look-ups that are not answered; returns it, in seconds."""
    monkeypatch.setattr(mail_exchangers, "LOOKUP_SECONDS", 0.5)
    monkeypatch.setattr(mail_exchangers, "ATTEMPT_SECONDS", 0.2)
    return 0.5


def exchangers(server: DnsServer, **changes: object) -> MailExchangers:
    return MailExchangers(Settings(dns_servers=(server.endpoint,), **changes))  # type: ignore[arg-type]


async def ask(asked: MailExchangers, domain: str, servers: Servers | None = None) -> str:
    key = f"ann@{domain}"
    return await asked.elsewhere(key, servers or servers_for(key, {}))


# --- What DNS shows --------------------------------------------------


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        (GOOGLE, "Mail of contoso.com goes to Google Workspace"),
        (["10 mx.zoho.eu."], "Mail of contoso.com goes to Zoho Mail"),
        (MICROSOFT, ""),
        (["10 mx0a-001.pphosted.com."], ""),
        (["10 eu-smtp-inbound-1.mimecast.com."], ""),
        (["10 mail.contoso.com."], ""),
        ([*GOOGLE, "50 contoso-com.mail.protection.outlook.com."], ""),
        (["0 ."], ""),
        ([], ""),
        (None, ""),
    ],
)
async def test_what_the_records_show(server: DnsServer, records: list[str] | None, sentence: str) -> None:
    """Another provider's records name it. Microsoft's, a gateway's, none and NXDOMAIN mean nothing."""
    if records is not None:
        server.zone["contoso.com"] = records
    assert await ask(exchangers(server), "contoso.com") == sentence
    assert server.asked == {"contoso.com": 1}


async def test_a_domain_is_asked_once_per_run(server: DnsServer) -> None:
    """All mailboxes of a domain share one look-up; the next run looks it up again."""
    server.zone["contoso.com"] = GOOGLE
    run = exchangers(server)
    assert len(set(await asyncio.gather(*(ask(run, "contoso.com") for _ in range(50))))) == 1
    assert server.asked == {"contoso.com": 1}
    await ask(exchangers(server), "contoso.com")
    assert server.asked == {"contoso.com": 2}


@pytest.mark.parametrize(
    "domain",
    ["outlook.com", "outlook.de", "hotmail.co.uk", "live.nl", "msn.com", "contoso.onmicrosoft.com"],
)
async def test_domains_of_microsoft_are_not_looked_up(server: DnsServer, domain: str) -> None:
    """Microsoft's own domains need no look-up."""
    assert await ask(exchangers(server), domain) == ""
    assert not server.asked


async def test_consumer_domains_need_no_look_up(server: DnsServer) -> None:
    """A mailbox at Gmail that was stored earlier is recognised without DNS, even if look-ups are off."""
    assert await ask(exchangers(server, mx_lookup=False), "gmail.com") == "Mail of gmail.com goes to Gmail"
    assert not server.asked


async def test_the_settings_decide(server: DnsServer) -> None:
    """There is no look-up for domains in SERVERS, under `*`, on their own servers, or if it is turned off."""
    server.zone["contoso.com"] = GOOGLE
    entry = {"smtp": "mail.contoso.com:587", "imap": "mail.contoso.com:993"}
    for domain in ("contoso.com", "gmail.com"):
        assert await ask(exchangers(server, servers={domain: entry}), domain) == ""
        assert await ask(exchangers(server), domain, OWN) == ""
    assert await ask(exchangers(server, servers={"*": entry}), "contoso.com") == ""
    assert await ask(exchangers(server, mx_lookup=False), "contoso.com") == ""
    assert not server.asked
    assert await ask(exchangers(server, servers={"example.com": entry}), "contoso.com")


# --- Slow, broken and hostile DNS ------------------------------------


async def test_silence_means_nothing(server: DnsServer, brief: float) -> None:
    """If DNS does not answer, look-ups end in time, all at once, and are then given up for the run."""
    server.zone = {f"d{at}.example": lambda _: None for at in range(200)}
    run = exchangers(server)
    began = time.monotonic()
    assert set(await asyncio.gather(*(ask(run, domain) for domain in list(server.zone)[:120]))) == {""}
    assert brief < time.monotonic() - began < brief + 1
    began = time.monotonic()
    assert set(await asyncio.gather(*(ask(run, domain) for domain in list(server.zone)[120:]))) == {""}
    assert time.monotonic() - began < 0.2
    assert not server.asked.keys() & set(list(server.zone)[120:])


async def test_a_silent_domain_delays_no_other(server: DnsServer, brief: float) -> None:
    """While one domain waits for its answer, others get theirs; a lost packet is sent again."""
    lost = iter([True])
    server.zone = {
        "silent.example": lambda _: None,
        "lost.example": lambda query: None if next(lost, False) else mx_reply(query, GOOGLE),
        "contoso.com": GOOGLE,
    }
    run = exchangers(server)
    silent = asyncio.create_task(ask(run, "silent.example"))
    assert await ask(run, "contoso.com")
    assert await ask(run, "lost.example")
    assert not silent.done()
    assert await silent == ""
    assert server.asked["lost.example"] == 2
    assert brief


async def test_large_answers(server: DnsServer) -> None:
    """An answer of common size is read. One that is too large for a datagram means nothing, and ends it."""
    server.zone = {
        "contoso.com": [f"{at} alt{at}.{'x' * 30}{at}.google.com." for at in range(1, 20)],
        "huge.example": [f"{at} a{at}.google.com." for at in range(200)],
    }
    run = exchangers(server)
    assert await ask(run, "contoso.com") == "Mail of contoso.com goes to Google Workspace"
    assert await ask(run, "huge.example") == ""
    # Asked once: nothing was waited for and repeated.
    assert server.asked == {"contoso.com": 1, "huge.example": 1}


def cname_loop(query: dns.message.Message) -> dns.message.Message:
    reply = mx_reply(query, [])
    for owner, target in (("contoso.com.", "b.example."), ("b.example.", "contoso.com.")):
        reply.answer.append(dns.rrset.from_text(owner, 300, "IN", "CNAME", target))
    return reply


def cname_chain(query: dns.message.Message) -> dns.message.Message:
    reply = mx_reply(query, [])
    names = ["contoso.com.", *(f"c{at}.example." for at in range(60))]
    for owner, target in pairwise(names):
        reply.answer.append(dns.rrset.from_text(owner, 300, "IN", "CNAME", target))
    reply.answer.append(dns.rrset.from_text(names[-1], 300, "IN", "MX", GOOGLE[0]))
    return reply


def other_domain(query: dns.message.Message) -> dns.message.Message:
    reply = mx_reply(query, [])
    reply.answer.append(dns.rrset.from_text("evil.example.", 300, "IN", "MX", GOOGLE[0]))
    return reply


def other_id(query: dns.message.Message) -> dns.message.Message:
    reply = mx_reply(query, GOOGLE)
    reply.id ^= 1
    return reply


def always_truncated(query: dns.message.Message) -> dns.message.Message:
    reply = mx_reply(query, [])
    reply.flags |= dns.flags.TC
    return reply


def failing(rcode: dns.rcode.Rcode) -> Script:
    def reply(query: dns.message.Message) -> dns.message.Message:
        message = mx_reply(query, [])
        message.set_rcode(rcode)
        return message

    return reply


@pytest.mark.parametrize(
    "script",
    [
        cname_loop,
        cname_chain,
        other_domain,
        other_id,
        always_truncated,
        failing(dns.rcode.SERVFAIL),
        failing(dns.rcode.REFUSED),
        failing(dns.rcode.FORMERR),
        failing(dns.rcode.YXDOMAIN),
        lambda query: query,  # the question itself
        lambda query: query.to_wire()[:2],
        lambda query: query.to_wire()[:2] + b"\xff" * 300,
        lambda _: b"",
        lambda query: mx_reply(query, GOOGLE).to_wire()[:-5],
    ],
)
async def test_a_broken_answer_means_nothing(server: DnsServer, brief: float, script: Script) -> None:
    """Loops, failures, cut and forged answers end in time and mean nothing."""
    server.zone["contoso.com"] = script
    began = time.monotonic()
    assert await ask(exchangers(server), "contoso.com") == ""
    assert time.monotonic() - began < brief + 0.5


async def test_nothing_listens(brief: float) -> None:
    """If no DNS server listens, the look-up ends in time."""
    run = MailExchangers(Settings(dns_servers=(Endpoint("127.0.0.1", 9), Endpoint("::1", 9))))
    began = time.monotonic()
    assert await ask(run, "contoso.com") == ""
    assert time.monotonic() - began < brief + 0.5


async def test_the_second_server_answers(server: DnsServer, brief: float) -> None:
    """If the first DNS server does not work, the second is asked."""
    server.zone["contoso.com"] = GOOGLE
    run = MailExchangers(Settings(dns_servers=(Endpoint("127.0.0.1", 9), server.endpoint)))
    assert await ask(run, "contoso.com")
    assert brief


async def test_long_and_international_names(server: DnsServer) -> None:
    """Any valid domain can be looked up."""
    longest = ".".join(["d" * 63, "d" * 63, "d" * 61])
    for domain in ("xn--mnchen-3ya.de", longest, "1.2.3.example"):
        server.zone[domain] = GOOGLE
        assert await ask(exchangers(server), domain)


# --- In a run --------------------------------------------------------


async def test_no_password_is_sent(
    db: Database,
    either_settings: Settings,
    start: StartOutlook,
    server: DnsServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Mailboxes at another provider fail without a login or an attempt; all others are tested as usual."""
    server.zone = {
        "google.example": GOOGLE,
        "contoso.com": MICROSOFT,
        "hybrid.example": ["10 mx.own.example."],
    }
    mailboxes = {
        f"{user}@{domain}": Account("pw")
        for domain in ("google.example", "contoso.com", "hybrid.example", "missing.example")
        for user in ("ann", "bob", "cleo")
    }
    outlook = await start(mailboxes)
    settings = with_servers(either_settings, outlook)
    targets = import_mailboxes(db, settings, mailboxes)
    # The stand-in takes the place of Microsoft's hosts.
    monkeypatch.setattr(mail_exchangers, "MICROSOFT_HOSTS", {target.smtp.host for target in targets})
    settings = with_changes(settings, ca_file=outlook.ca_file, dns_servers=(server.endpoint,))
    probing = Probing(db, settings, [target.mailbox_id for target in targets])
    await probe_targets(probing, targets)

    assert {address.partition("@")[2] for _, address in outlook.seen.logins} == {
        "contoso.com",
        "hybrid.example",
        "missing.example",
    }
    assert set(server.asked.values()) == {1}
    found = rows_of(db, Mailbox)
    elsewhere = [row for row in found if row["email"].endswith("@google.example")]
    assert [(row["status"], row["attempts"], row["next_attempt_at"]) for row in elsewhere] == [
        ("failed", 0, None)
    ] * 3
    for row in elsewhere:
        assert row["diagnosis"].startswith("Not hosted at Microsoft. ")
        assert row["diagnosis"].endswith(" Mail of google.example goes to Google Workspace.")
    assert {row["status"] for row in found if row not in elsewhere} == {"active"}
    ids = {row["id"] for row in elsewhere}
    results = [row for row in rows_of(db, ProbeResult) if row["mailbox_id"] in ids]
    assert [
        (row["protocol"], row["reason"], row["stage"], row["server_text"], row["attempt"]) for row in results
    ] == [("smtp", "not_at_microsoft", "connect", "Mail of google.example goes to Google Workspace", 1)] * 3
    assert (Reason.NOT_AT_MICROSOFT, 3) in probing.report().reasons()


async def test_a_lie_demotes_no_mailbox_that_works(
    db: Database,
    either_settings: Settings,
    server: DnsServer,
    start: StartOutlook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A recheck believes the login that worked before more than DNS, which may lie or change for a while."""
    outlook = await start({"ann@contoso.com": Account("pw")})
    settings = with_servers(either_settings, outlook)
    (target,) = import_mailboxes(db, settings, {"ann@contoso.com": Account("pw")})
    monkeypatch.setattr(mail_exchangers, "MICROSOFT_HOSTS", {target.smtp.host})
    settings = with_changes(settings, ca_file=outlook.ca_file, dns_servers=(server.endpoint,))
    for records, before in ((MICROSOFT, None), (GOOGLE, now() + timedelta(minutes=1))):
        server.zone["contoso.com"] = records
        probing = Probing(db, settings, [target.mailbox_id], before)
        await probe_targets(probing, (target,))
        assert [verdict.status for verdict in probing.report().verdicts] == ["active"]
    assert server.asked == {"contoso.com": 1}
    assert outlook.seen.passwords_received == 4


async def test_an_interrupted_run_leaves_no_look_up(
    db: Database, either_settings: Settings, server: DnsServer
) -> None:
    """An interrupted run ends at once, also while DNS is silent, and its mailboxes stay pending."""
    server.zone["contoso.com"] = lambda _: None
    settings = with_changes(either_settings, dns_servers=(server.endpoint,), probe_timeout=1)
    targets = import_mailboxes(db, settings, {"ann@contoso.com": Account("pw")})
    probing = Probing(db, settings, [target.mailbox_id for target in targets])
    run = asyncio.create_task(probe_targets(probing, targets))
    async with asyncio.timeout(10):
        while not server.asked:  # noqa: ASYNC110  the server has no events
            await asyncio.sleep(0.01)
    began = time.monotonic()
    probing.interrupt()
    await run
    assert time.monotonic() - began < 10  # the deadline of a silent server is longer
    (row,) = rows_of(db, Mailbox)
    assert (row["status"], row["attempts"]) == ("pending", 0)


# --- The doctor ------------------------------------------------------


async def test_the_doctor_says_whether_dns_answers(server: DnsServer, brief: float) -> None:
    """One finding says whether DNS answers; there is none if the settings ask for no look-up."""

    async def findings(**changes: object) -> list[tuple[str, str]]:
        found = await check_dns(Settings(dns_servers=(server.endpoint,), **changes))  # type: ignore[arg-type]
        return [(finding.health, finding.text.partition(":")[0]) for finding in found]

    entry = {"smtp": "mail.contoso.com:587", "imap": "mail.contoso.com:993"}
    assert await findings(mx_lookup=False) == []
    assert await findings(servers={"*": entry}) == []
    for records in (MICROSOFT, []):
        server.zone["outlook.com"] = records
        assert await findings() == [("ok", "answers")]
    for script in (failing(dns.rcode.SERVFAIL), lambda _: None):
        server.zone["outlook.com"] = script
        assert await findings() == [
            ("warning", "does not answer, so passwords are sent without a look at the domain")
        ]
    assert brief
