"""The servers on which a mailbox is tested, by the domain of its address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

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


class Endpoint(NamedTuple):
    """A host and its port. Prints as HOST:PORT, or [HOST]:PORT for an IPv6 address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


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
