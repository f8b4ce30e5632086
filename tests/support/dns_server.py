"""A DNS server on loopback whose answers a test scripts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from schemas.providers import Endpoint

# What becomes of a question: the reply as a message or as raw bytes, or None for silence.
Script = Callable[[dns.message.Message], "dns.message.Message | bytes | None"]


class DnsServer(asyncio.DatagramProtocol):
    """Answers over UDP; an answer that is larger than the question allows is truncated.

    Attributes:
        zone: Domain → its MX records as texts, such as `10 mx.example.com.`, or a function that replies. All
            other domains do not exist.
        asked: Domain → the number of questions for it.
        endpoint: Where the server listens.
        delay: Seconds to wait before each reply.
    """

    def __init__(self) -> None:
        self.zone: dict[str, list[str] | Script] = {}
        self.asked: Counter[str] = Counter()
        self.endpoint: Endpoint
        self.delay = 0.0
        self._transport: asyncio.DatagramTransport
        self._replies: set[asyncio.Task[None]] = set()

    def reply_to(self, data: bytes) -> bytes | None:
        query = dns.message.from_wire(data)
        domain = query.question[0].name.to_text(omit_final_dot=True)
        self.asked[domain] += 1
        script = self.zone.get(domain)
        if callable(script):
            reply = script(query)
            return reply.to_wire(max_size=65535) if isinstance(reply, dns.message.Message) else reply
        return mx_reply(query, script).to_wire(max_size=65535)

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = asyncio.get_running_loop().create_task(self._send(data, addr))
        self._replies.add(reply)
        reply.add_done_callback(self._replies.discard)

    async def _send(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self.reply_to(data)
        await asyncio.sleep(self.delay)
        if reply is None:
            return
        query = dns.message.from_wire(data)
        if len(reply) > max(query.payload, 512):
            truncated = dns.message.make_response(query)
            truncated.flags |= dns.flags.TC
            reply = truncated.to_wire()
        self._transport.sendto(reply, addr)


def mx_reply(query: dns.message.Message, records: list[str] | None) -> dns.message.Message:
    """A reply with these MX records: none if the list is empty; NXDOMAIN if there is no list."""
    reply = dns.message.make_response(query)
    reply.flags |= dns.flags.RA
    if records is None:
        reply.set_rcode(dns.rcode.NXDOMAIN)
    elif records:
        reply.answer.append(dns.rrset.from_text_list(query.question[0].name, 300, "IN", "MX", records))
    return reply


@asynccontextmanager
async def dns_server() -> AsyncIterator[DnsServer]:
    """A running server on the current event loop."""
    server = DnsServer()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: server, local_addr=("127.0.0.1", 0))
    server.endpoint = Endpoint(*transport.get_extra_info("sockname"))
    try:
        yield server
    finally:
        transport.close()
