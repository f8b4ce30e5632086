"""Which mailboxes cannot be at Microsoft, by the domain and by its mail exchangers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.misspellings import intended_domain
from schemas.other_providers import (
    CONSUMER_DOMAINS,
    EXCHANGERS,
    Exchanger,
    consumer_provider,
    exchangers_provider,
)


def provider_of(*hosts: str) -> str | None:
    """The provider of equally preferred mail exchangers."""
    return exchangers_provider([Exchanger(10, host) for host in hosts])


# --- Domains ---------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "provider"),
    [
        ("gmail.com", "Gmail"),
        ("googlemail.com", "Gmail"),
        ("yahoo.com", "Yahoo"),
        ("yahoo.de", "Yahoo"),
        ("yahoo.co.uk", "Yahoo"),
        ("yahoo.com.br", "Yahoo"),
        ("ymail.com", "Yahoo"),
        ("rocketmail.com", "Yahoo"),
        ("icloud.com", "iCloud"),
        ("gmx.net", "GMX"),
        ("web.de", "WEB.DE"),
        ("t-online.de", "T-Online"),
        ("aol.com", "AOL"),
        ("pm.me", "Proton Mail"),
        ("zohomail.com", "Zoho Mail"),
        ("yandex.ru", "Yandex"),
        ("bk.ru", "Mail.ru"),
        ("126.com", "NetEase"),
        ("daum.net", "Kakao"),
        ("wanadoo.fr", "Orange"),
        ("o2.pl", "Wirtualna Polska"),
        ("bellsouth.net", "AT&T"),
        ("btinternet.com", "BT"),
    ],
)
def test_consumer_domains(domain: str, provider: str) -> None:
    """The consumer domains of other providers are known by name."""
    assert consumer_provider(domain) == provider


@pytest.mark.parametrize(
    "domain",
    [
        *("outlook.com", "hotmail.co.uk", "live.nl", "msn.com", "contoso.com", "contoso.onmicrosoft.com"),
        *("gmail.co", "notgmail.com", "mail.gmail.com", "gmail.com.example", "yahoo.example.com", "yahoo"),
        *("yahoo-inc.com", "yahoo.", "yahoo.museum", ".com", "", "web.com", "mail.example.com"),
    ],
)
def test_other_domains(domain: str) -> None:
    """Only whole domains of the table count: not a part of one, nor a company's own domain."""
    assert consumer_provider(domain) is None


def test_the_tables_are_in_order() -> None:
    """No domain is listed twice or in upper case, and none looks like one of Microsoft's."""
    for table in (CONSUMER_DOMAINS, EXCHANGERS):
        listed = [domain for domains in table.values() for domain in domains.split()]
        assert len(listed) == len(set(listed))
        assert listed == [domain.lower() for domain in listed]
        assert not [domain for domain in listed if intended_domain(domain)]
        assert not [
            domain for domain in listed if domain.split(".")[0] in ("outlook", "hotmail", "live", "msn")
        ]


# --- Mail exchangers -------------------------------------------------


@pytest.mark.parametrize(
    ("hosts", "provider"),
    [
        (("aspmx.l.google.com.", "alt1.aspmx.l.google.com.", "aspmx2.googlemail.com."), "Google Workspace"),
        (("SMTP.GOOGLE.COM",), "Google Workspace"),
        (("mx.zoho.eu", "mx2.zoho.eu"), "Zoho Mail"),
        (("mx-biz.mail.am0.yahoodns.net",), "Yahoo"),
        (("mx01.mail.icloud.com", "mx02.mail.icloud.com"), "iCloud"),
        (("in1-smtp.messagingengine.com",), "Fastmail"),
        (("mail.protonmail.ch", "mailsec.protonmail.ch"), "Proton Mail"),
        (("mx.yandex.net",), "Yandex"),
        (("emx.mail.ru",), "Mail.ru"),
        (("mx00.ionos.de", "mx01.ionos.de"), "IONOS"),
        (("mx1.mail.ovh.net", "mx2.mail.ovh.net"), "OVHcloud"),
    ],
)
def test_exchangers_of_other_providers(hosts: tuple[str, ...], provider: str) -> None:
    """The mail exchangers of a known provider show where the mailboxes are."""
    assert provider_of(*hosts) == provider


@pytest.mark.parametrize(
    "hosts",
    [
        (),
        (".",),
        ("",),
        ("contoso-com.mail.protection.outlook.com",),
        ("contoso-com.k-v1.mx.microsoft",),
        ("mx1.contoso.com",),
        ("mx0a-001.pphosted.com", "mx0b-001.pphosted.com"),
        ("eu-smtp-inbound-1.mimecast.com",),
        ("d1.ess.barracudanetworks.com",),
        ("route1.mx.cloudflare.net",),
        ("inbound-smtp.eu-west-1.amazonaws.com",),
        ("aspmx.l.google.com.evil.example",),
        ("notgoogle.com",),
        ("google",),
    ],
)
def test_exchangers_that_show_nothing(hosts: tuple[str, ...]) -> None:
    """Microsoft, gateways, own servers and look-alike names show no other provider."""
    assert provider_of(*hosts) is None


def test_the_preferred_exchangers_decide() -> None:
    """The preferred records must agree, and a record of Microsoft's anywhere means nothing is shown."""
    google, backup = Exchanger(1, "aspmx.l.google.com"), Exchanger(20, "backup.contoso.com")
    assert exchangers_provider([backup, google]) == "Google Workspace"
    assert exchangers_provider([Exchanger(1, "mx.zoho.com"), google]) is None
    assert exchangers_provider([google._replace(preference=30), backup]) is None
    microsoft = Exchanger(50, "contoso-com.mail.protection.outlook.com")
    assert exchangers_provider([google, microsoft]) is None


@given(st.lists(st.builds(Exchanger, st.integers(0, 65535), st.text(max_size=300)), max_size=20))
def test_any_records(records: list[Exchanger]) -> None:
    """Any records in any order give the same provider, or none."""
    assert exchangers_provider(records) == exchangers_provider(reversed(records))
