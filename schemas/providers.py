"""The servers on which a mailbox is tested, by the domain of its address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from schemas.reasons import Protocol

MICROSOFT_SMTP = "smtp.office365.com"
MICROSOFT_IMAP = "outlook.office365.com"
CONSUMER_IMAP = "imap-mail.outlook.com"
MICROSOFT_HOSTS = frozenset({MICROSOFT_SMTP, MICROSOFT_IMAP, CONSUMER_IMAP})

# hotmail.com, hotmail.co.uk, hotmail.com.br, live.nl, … The whole domain must match, so that notlive.com and
# live.example.org do not.
# How a provider ends the names of its domains: com, fr, co.uk, com.br.
COUNTRY_FORM = r"(?:com|(?:com?\.)?[a-z]{2})"
_CONSUMER = re.compile(rf"(?:hotmail|live|msn|windowslive|passport)\.{COUNTRY_FORM}")
_PERSONAL_OUTLOOK = re.compile(rf"outlook\.{COUNTRY_FORM}")
_TENANT = re.compile(r".+\.onmicrosoft\.com")


# Other SMTP ports use STARTTLS, and other IMAP ports start with TLS (RFC 8314).
SMTPS_PORT, IMAP_STARTTLS_PORT = 465, 143

# Scheme → its protocol, and whether the connection starts with TLS.
SCHEMES = {
    "smtp": (Protocol.SMTP, False),
    "smtps": (Protocol.SMTP, True),
    "imap": (Protocol.IMAP, False),
    "imaps": (Protocol.IMAP, True),
    "smtp+starttls": (Protocol.SMTP, False),
    "imap+starttls": (Protocol.IMAP, False),
}


class Endpoint(NamedTuple):
    """A host and its port. Prints as HOST:PORT, or [HOST]:PORT for an IPv6 address, after its scheme.

    Attributes:
        host: The host. If the port alone does not say whether the connection starts with TLS, a scheme stands
            in front, as in `smtps://mail.contoso.com`, so that it is stored with the host.
    """

    host: str
    port: int

    @property
    def name(self) -> str:
        """The host without a scheme."""
        return self.host.rpartition("://")[2]

    def starts_with_tls(self, protocol: Protocol) -> bool:
        """Whether the connection starts with TLS. Otherwise it starts in plain text, and needs STARTTLS."""
        scheme = self.host.rpartition("://")[0]
        return SCHEMES[scheme][1] if scheme in SCHEMES else _port_starts_with_tls(protocol, self.port)

    def __str__(self) -> str:
        scheme, separator, name = self.host.rpartition("://")
        return f"{scheme}{separator}{f'[{name}]' if ':' in name else name}:{self.port}"


def _port_starts_with_tls(protocol: Protocol, port: int) -> bool:
    return port == SMTPS_PORT if protocol is Protocol.SMTP else port != IMAP_STARTTLS_PORT


def endpoint_of(protocol: Protocol, scheme: str, host: str, port: int) -> Endpoint:
    """An endpoint as the user names it, without a scheme that its port implies.

    Args:
        scheme: A key of `SCHEMES`, or "" for what the port implies.

    Raises:
        ValueError: If the scheme is unknown or belongs to the other protocol.

    Example:
        >>> [str(endpoint_of(Protocol.SMTP, "smtps", "mail", port)) for port in (465, 2465)]
        ['mail:465', 'smtps://mail:2465']
    """
    if not scheme:
        return Endpoint(host, port)
    wanted, tls = SCHEMES.get(scheme, (None, False))
    if wanted is not protocol:
        raise ValueError("another protocol")
    if tls == _port_starts_with_tls(protocol, port):
        return Endpoint(host, port)
    return Endpoint(f"{protocol}{'s' if tls else ''}://{host}", port)


class Servers(NamedTuple):
    """The two endpoints on which a mailbox is tested."""

    smtp: Endpoint
    imap: Endpoint


def servers_for(email_key: str, overrides: Mapping[str, Servers]) -> Servers:
    """The servers of a mailbox: those from the settings, otherwise Microsoft's.

    Args:
        email_key: Case-folded ASCII address.
        overrides: Servers by domain, from the settings; `*` applies to all domains without an entry.
    """
    domain = email_key.rpartition("@")[2]
    override = overrides.get(domain) or overrides.get("*")
    if override:
        return override
    imap = CONSUMER_IMAP if _CONSUMER.fullmatch(domain) else MICROSOFT_IMAP
    return Servers(Endpoint(MICROSOFT_SMTP, 587), Endpoint(imap, 993))


def is_personal_domain(domain: str) -> bool:
    """Whether the mailboxes of a domain are Microsoft's personal accounts: Outlook.com, Hotmail, Live, MSN.

    Args:
        domain: The domain of an address, case-folded ASCII.
    """
    return bool(_CONSUMER.fullmatch(domain) or _PERSONAL_OUTLOOK.fullmatch(domain))


def is_microsoft_domain(domain: str) -> bool:
    """Whether a domain belongs to Microsoft itself, so that its mailboxes are there without a look at DNS.

    Args:
        domain: The domain of an address, case-folded ASCII.
    """
    return bool(is_personal_domain(domain) or _TENANT.fullmatch(domain))
