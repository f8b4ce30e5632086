"""Which servers an address is tested on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

MICROSOFT_SMTP = "smtp.office365.com"
MICROSOFT_IMAP = "outlook.office365.com"
CONSUMER_IMAP = "imap-mail.outlook.com"

# hotmail.com, hotmail.co.uk, hotmail.com.br, live.nl, …: whole labels from the front, so that neither
# notlive.com nor live.example.org counts.
_CONSUMER = re.compile(r"(hotmail|live|msn|windowslive|passport)\.(com|(com?\.)?[a-z]{2})")


class Endpoint(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Servers(NamedTuple):
    smtp: Endpoint
    imap: Endpoint


def servers_for(email_key: str, overrides: Mapping[str, Servers]) -> Servers:
    """The servers of a mailbox.

    Args:
        email_key: Case-folded ASCII address.
        overrides: From the settings: servers by domain, `*` for every domain without an entry of its own.
    """
    domain = email_key.rpartition("@")[2]
    override = overrides.get(domain) or overrides.get("*")
    if override:
        return override
    imap = CONSUMER_IMAP if _CONSUMER.fullmatch(domain) else MICROSOFT_IMAP
    return Servers(Endpoint(MICROSOFT_SMTP, 587), Endpoint(imap, 993))
