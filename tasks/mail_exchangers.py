"""Before the first password of a domain: whether its mailboxes are at another provider, as DNS shows."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import Any

import dns.exception
import dns.message
import dns.name
from dns.asyncresolver import Resolver
from dns.nameserver import Do53Nameserver
from dns.rdtypes.ANY.MX import MX
from dns.resolver import NXDOMAIN, NoAnswer

from schemas.other_providers import Exchanger, consumer_provider, exchangers_provider
from schemas.providers import MICROSOFT_HOSTS, Endpoint, Servers, is_microsoft_domain
from schemas.settings import Settings

LOOKUP_SECONDS = 3.0  # for one domain, with all attempts and the wait for a free slot
ATTEMPT_SECONDS = 1.0
MOST_LOOKUPS = 50  # at the same time
LARGEST_ANSWER = 1232  # bytes: the size that passes every network (DNS flag day 2020)
SILENT_AFTER = 3  # look-ups without an answer, if there was none with one


class MailExchangers:
    """Finds mailboxes that cannot be at Microsoft. Looks up each domain once; belongs to one run.

    DNS only ever keeps a password from being sent. No answer, a wrong one, or one that cannot be read in time
    means that the mailbox is tested as if there had been no look-up.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lookups: dict[str, asyncio.Task[str | None]] = {}
        self._slots = asyncio.Semaphore(MOST_LOOKUPS)
        self._answered = False
        self._unanswered = 0

    async def elsewhere(self, email_key: str, servers: Servers) -> str:
        """Where the mail of a mailbox goes, if it cannot be Microsoft.

        Args:
            email_key: Case-folded ASCII address.
            servers: The servers that the mailbox is tested on.

        Returns:
            A sentence without a full stop that names the provider, or "".
        """
        domain = email_key.rpartition("@")[2]
        served = self._settings.overrides
        if domain in served or not {server.name for server in servers} & MICROSOFT_HOSTS:
            return ""
        provider = consumer_provider(domain)
        looked_up = self._settings.mx_lookup and "*" not in served and not is_microsoft_domain(domain)
        if provider is None and looked_up:
            provider = await self._provider(domain)
        return f"Mail of {domain} goes to {provider}" if provider else ""

    async def responds(self) -> bool:
        """Whether DNS answers at all."""
        await self._provider("outlook.com")
        return self._answered

    def cancel(self) -> None:
        """Give up the look-ups that are running. Call it when nothing waits for them any more."""
        for lookup in self._lookups.values():
            lookup.cancel()

    async def _provider(self, domain: str) -> str | None:
        if domain not in self._lookups:
            self._lookups[domain] = asyncio.get_running_loop().create_task(self._look_up(domain))
        # Shielded, because cancelling the test of one mailbox must not cancel the look-up for all others.
        return await asyncio.shield(self._lookups[domain])

    async def _look_up(self, domain: str) -> str | None:
        if self._silent:
            return None
        try:
            async with asyncio.timeout(LOOKUP_SECONDS), self._slots:
                exchangers = await self._exchangers(domain)
        except (TimeoutError, dns.exception.Timeout):
            self._unanswered += 1
            return None
        except (NXDOMAIN, NoAnswer):
            exchangers = []
        except (
            dns.exception.DNSException,
            OSError,
        ):  # such as SERVFAIL, no network, no DNS server configured
            return None
        self._answered = True
        return exchangers_provider(exchangers)

    @property
    def _silent(self) -> bool:
        """Whether DNS seems to be out of order, so that waiting for it would only delay every domain."""
        return not self._answered and self._unanswered >= SILENT_AFTER

    async def _exchangers(self, domain: str) -> list[Exchanger]:
        name = dns.name.from_text(domain)  # absolute: the machine's search domains do not apply
        answer = await self._resolver.resolve(name, "MX", lifetime=LOOKUP_SECONDS)
        return [
            Exchanger(record.preference, record.exchange.to_text())
            for record in answer
            if isinstance(record, MX)
        ]

    @cached_property
    def _resolver(self) -> Resolver:
        servers = self._settings.dns_servers
        resolver = Resolver(configure=not servers)
        if not servers:
            servers = tuple(Endpoint(str(address), resolver.port) for address in resolver.nameservers)
        resolver.nameservers = [_Datagrams(server.host, server.port) for server in servers]
        resolver.use_edns(0, payload=LARGEST_ANSWER)
        resolver.timeout = ATTEMPT_SECONDS
        return resolver


class _Datagrams(Do53Nameserver):
    """A DNS server that is not asked again over TCP if the answer does not fit into a datagram.

    Reading 64 KiB of records would block all other logins for a third of a second, and no real domain has so
    many mail exchangers.
    """

    async def async_query(
        self,
        request: dns.message.QueryMessage,
        timeout: float,  # noqa: ASYNC109  as the base class has it
        source: str | None,
        source_port: int,
        max_size: bool,
        backend: Any,
        one_rr_per_rrset: bool = False,
        ignore_trailing: bool = False,
    ) -> dns.message.Message:
        if max_size:
            raise NotImplementedError  # the resolver goes on without this server
        return await super().async_query(
            request, timeout, source, source_port, False, backend, one_rr_per_rrset, ignore_trailing
        )
