"""The servers that an address is tested on."""

from __future__ import annotations

import pytest

from schemas.providers import MICROSOFT_HOSTS, Endpoint, Servers, is_microsoft_domain, servers_for

CONSUMER = Servers(Endpoint("smtp.office365.com", 587), Endpoint("imap-mail.outlook.com", 993))
OTHER = Servers(Endpoint("smtp.office365.com", 587), Endpoint("outlook.office365.com", 993))
OWN = Servers(Endpoint("mail.contoso.com", 2587), Endpoint("imap.contoso.com", 2993))
SANDBOX = Servers(Endpoint("127.0.0.1", 2587), Endpoint("::1", 2993))


@pytest.mark.parametrize(
    "domain",
    [
        *("hotmail.com", "hotmail.co.uk", "hotmail.com.br", "hotmail.fr", "hotmail.co.jp"),
        *("live.com", "live.nl", "live.com.mx", "live.co.za", "msn.com", "windowslive.com", "passport.com"),
    ],
)
def test_consumer_domains(domain: str) -> None:
    """Hotmail, Live, MSN, Windows Live and Passport, in every country, use the consumer IMAP server."""
    assert servers_for(f"ann@{domain}", {}) == CONSUMER


@pytest.mark.parametrize(
    "domain",
    [
        *("outlook.com", "outlook.de", "outlook.com.au", "contoso.com", "xn--mnchen-3ya.de"),
        *(
            "notlive.com",
            "live.example.org",
            "hotmail.example.com",
            "mail.hotmail.com",
            "hotmail.com.evil.net",
        ),
        *("hotmail", "live.community", "hotmail-com.de", "hotmailxcom", "live.com.example"),
    ],
)
def test_other_domains(domain: str) -> None:
    """All other domains, outlook.* included, use the common IMAP server, because whole labels are matched."""
    assert servers_for(f"ann@{domain}", {}) == OTHER


@pytest.mark.parametrize(
    ("domain", "own"),
    [
        *(
            (domain, True)
            for domain in ("outlook.com", "outlook.com.br", "hotmail.co.uk", "live.nl", "msn.com")
        ),
        *((domain, True) for domain in ("contoso.onmicrosoft.com", "contoso.mail.onmicrosoft.com")),
        *((domain, False) for domain in ("contoso.com", "outlook.contoso.com", "notoutlook.com", "outlook")),
        *((domain, False) for domain in ("onmicrosoft.com", "onmicrosoft.com.evil.example", "hotmial.com")),
    ],
)
def test_domains_of_microsoft(domain: str, own: bool) -> None:
    """Microsoft's consumer domains and the initial domains of organisations are known to be Microsoft's."""
    assert is_microsoft_domain(domain) is own


@pytest.mark.parametrize("domain", ["outlook.com", "hotmail.com", "contoso.com"])
def test_hosts_of_microsoft(domain: str) -> None:
    """Without own servers, every mailbox is tested on Microsoft's hosts."""
    assert {server.host for server in servers_for(f"ann@{domain}", {})} <= MICROSOFT_HOSTS


def test_overrides() -> None:
    """A domain's own servers take priority over those for `*`, and those over Microsoft's."""
    assert servers_for("ann@contoso.com", {"contoso.com": OWN, "*": SANDBOX}) == OWN
    assert servers_for("ann@hotmail.com", {"contoso.com": OWN, "*": SANDBOX}) == SANDBOX
    assert servers_for("ann@mail.contoso.com", {"contoso.com": OWN}) == OTHER


def test_endpoint_shows_itself() -> None:
    """An endpoint is shown as host:port, with an IPv6 address in brackets."""
    assert str(OWN.smtp) == "mail.contoso.com:2587"
    assert str(SANDBOX.imap) == "[::1]:2993"
