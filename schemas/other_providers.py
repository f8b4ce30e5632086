"""Mailboxes that cannot be at Microsoft: the domains and the mail exchangers of other providers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from schemas.providers import COUNTRY_FORM

# Provider → domains of its mailboxes. List only providers that do not use Microsoft: some internet providers
# do. `.*` stands for .com and all country forms.
CONSUMER_DOMAINS = {
    "Gmail": "gmail.com googlemail.com",
    "Yahoo": "yahoo.* ymail.com rocketmail.com myyahoo.com",
    "AOL": "aol.com aol.co.uk aol.de aol.fr aol.it aol.es aol.nl aol.pl aol.in aol.com.au aol.com.br "
    "aol.com.mx aim.com verizon.net",
    "iCloud": "icloud.com me.com mac.com",
    "GMX": "gmx.at gmx.biz gmx.ch gmx.co.uk gmx.com gmx.com.tr gmx.de gmx.es gmx.eu gmx.fr gmx.info gmx.li "
    "gmx.net gmx.org gmx.ru gmx.tm gmx.us",
    "WEB.DE": "web.de",
    "mail.com": "mail.com",
    "T-Online": "t-online.de magenta.de",
    "freenet": "freenet.de",
    "Posteo": "posteo.de posteo.net",
    "mailbox.org": "mailbox.org",
    "Proton Mail": "proton.me protonmail.com protonmail.ch pm.me",
    "Tuta": "tuta.com tuta.io tutanota.com tutanota.de tutamail.com keemail.me",
    "Fastmail": "fastmail.com fastmail.fm",
    "Hushmail": "hushmail.com",
    "Zoho Mail": "zoho.com zoho.eu zoho.in zohomail.com zohomail.eu zohomail.in",
    "Yandex": "yandex.ru yandex.com yandex.by yandex.kz yandex.ua yandex.uz yandex.com.tr ya.ru narod.ru",
    "Mail.ru": "mail.ru bk.ru inbox.ru list.ru internet.ru",
    "Rambler": "rambler.ru",
    "UKR.NET": "ukr.net",
    "QQ Mail": "qq.com vip.qq.com foxmail.com",
    "NetEase": "163.com 126.com yeah.net vip.163.com vip.126.com",
    "Sina": "sina.com sina.cn",
    "Sohu": "sohu.com",
    "China Mobile": "139.com",
    "Naver": "naver.com",
    "Kakao": "daum.net hanmail.net kakao.com",
    "Nate": "nate.com",
    "Rediffmail": "rediffmail.com",
    "Orange": "orange.fr wanadoo.fr",
    "Free": "free.fr",
    "SFR": "sfr.fr neuf.fr",
    "La Poste": "laposte.net",
    "Bouygues Telecom": "bbox.fr",
    "Italiaonline": "libero.it virgilio.it iol.it inwind.it",
    "TIM": "tim.it alice.it tin.it",
    "Tiscali": "tiscali.it",
    "Seznam": "seznam.cz email.cz post.cz",
    "Wirtualna Polska": "wp.pl o2.pl tlen.pl",
    "Interia": "interia.pl interia.eu",
    "Onet": "onet.pl poczta.onet.pl op.pl vp.pl",
    "ABV": "abv.bg",
    "UOL": "uol.com.br bol.com.br",
    "Xfinity": "comcast.net",
    "AT&T": "att.net sbcglobal.net bellsouth.net ameritech.net pacbell.net swbell.net",
    "Cox": "cox.net",
    "EarthLink": "earthlink.net",
    "Juno": "juno.com netzero.net",
    "Optimum": "optonline.net",
    "Spectrum": "charter.net",
    "BT": "btinternet.com",
    "Sky": "sky.com",
    "TalkTalk": "talktalk.net",
    "Virgin Media": "virginmedia.com ntlworld.com",
    "Telenet": "telenet.be",
    "Bluewin": "bluewin.ch",
}

_PROVIDER_OF_DOMAIN = {
    domain: provider for provider, domains in CONSUMER_DOMAINS.items() for domain in domains.split()
}


def consumer_provider(domain: str) -> str | None:
    """The provider of a consumer domain that cannot be Microsoft's.

    Args:
        domain: The domain of an address, case-folded ASCII.

    Returns:
        The provider's name, such as “Gmail”; None for every other domain.

    Example:
        >>> consumer_provider("yahoo.co.uk"), consumer_provider("contoso.com")
        ('Yahoo', None)
    """
    label, _, suffix = domain.partition(".")
    if re.fullmatch(COUNTRY_FORM, suffix) and (provider := _PROVIDER_OF_DOMAIN.get(f"{label}.*")):
        return provider
    return _PROVIDER_OF_DOMAIN.get(domain)


# Provider → ends of the names of its mail exchangers. Do not list gateways that filter or forward mail
# (Proofpoint, Mimecast, Barracuda, Cloudflare, Amazon SES): the mailboxes behind them can be anywhere.
# Sources: each provider's instructions for its customers' DNS.
EXCHANGERS = {
    "Google Workspace": "google.com googlemail.com",
    "Zoho Mail": "zoho.com zoho.eu zoho.in zoho.jp zoho.com.au zoho.com.cn zoho.sa zohocloud.ca",
    "Yahoo": "yahoodns.net mail.yahoo.com mail.yahoo.co.jp",
    "iCloud": "mail.icloud.com",
    "Fastmail": "messagingengine.com",
    "Proton Mail": "protonmail.ch",
    "Tuta": "tutanota.de",
    "Yandex": "yandex.net yandex.ru",
    "Mail.ru": "mail.ru",
    "GMX": "gmx.net",
    "WEB.DE": "web.de",
    "IONOS": "ionos.com ionos.de ionos.co.uk ionos.es ionos.fr ionos.it kundenserver.de 1and1.com "
    "1and1.co.uk 1and1.fr 1and1.es",
    "STRATO": "rzone.de",
    "OVHcloud": "mail.ovh.net mail.ovh.ca mx1.ovh.net mx2.ovh.net mx3.ovh.net mx4.ovh.net",
    "Gandi": "mail.gandi.net",
    "Infomaniak": "mta-gw.infomaniak.ch",
    "Rackspace Email": "emailsrvr.com",
    "Titan": "titan.email",
    "Namecheap Private Email": "privateemail.com",
    "Hostinger": "hostinger.com",
    "Migadu": "migadu.com",
    "mailbox.org": "mailbox.org",
    "Posteo": "posteo.de",
    "Tencent": "qq.com",
    "NetEase": "163.com netease.com",
    "Alibaba": "mxhichina.com qiye.aliyun.com",
    "Naver Works": "worksmobile.com",
    "Seznam": "seznam.cz",
    "Aruba": "mx.aruba.it",
}

_PROVIDER_OF_EXCHANGER = {end: provider for provider, ends in EXCHANGERS.items() for end in ends.split()}
_MICROSOFT_EXCHANGERS = ("outlook.com", "hotmail.com", "office365.us", "partner.outlook.cn", "mx.microsoft")


class Exchanger(NamedTuple):
    """One MX record of a domain: the lowest preference receives the mail, the others step in for it."""

    preference: int
    host: str


def exchangers_provider(exchangers: Iterable[Exchanger]) -> str | None:
    """The provider that the mail of a domain goes to, if it cannot be Microsoft.

    Args:
        exchangers: The MX records of the domain, in any order.

    Returns:
        The provider's name, such as “Google Workspace”. None if the records do not show where the mailboxes
        are: there is no record, one of them is Microsoft's, or the preferred ones do not all belong to one
        known provider.
    """
    records = [(preference, host.rstrip(".").lower()) for preference, host in exchangers]
    if not records or any(_under(host, _MICROSOFT_EXCHANGERS) for _, host in records):
        return None
    best = min(preference for preference, _ in records)
    providers = {_exchanger_provider(host) for preference, host in records if preference == best}
    return providers.pop() if len(providers) == 1 else None


def _exchanger_provider(host: str) -> str | None:
    labels = host.split(".")
    ends = (".".join(labels[at:]) for at in range(len(labels)))
    return next((_PROVIDER_OF_EXCHANGER[end] for end in ends if end in _PROVIDER_OF_EXCHANGER), None)


def _under(host: str, domains: Iterable[str]) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)
