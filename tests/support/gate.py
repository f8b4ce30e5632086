"""A real proxy in front of a mail server that limits its clients, as a firewall or a provider does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

TOO_MANY = b"421 4.3.2 The maximum number of connections for your address has been exceeded\r\n"


class Gate:
    """Passes connections on to a port of this machine.

    Attributes:
        left: How many more connections it passes on. It refuses those beyond.
        refusal: What a refused connection gets before its end; nothing for a bare reset.
        delay: Seconds that each piece of the server's words is late.
    """

    def __init__(self, target: int, *, left: int = 10**6, refusal: bytes = b"", delay: float = 0.0) -> None:
        self.left = left
        self.refusal = refusal
        self.delay = delay
        self._target = target
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Gate]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield self
        finally:
            self._server.close()
            passing = list(self._tasks)
            for task in passing:
                task.cancel()
            await asyncio.gather(*passing, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.left <= 0:
            with suppress(OSError):
                writer.write(self.refusal)
                await writer.drain()
            writer.close()
            return
        self.left -= 1
        answers, requests = await asyncio.open_connection("127.0.0.1", self._target)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await asyncio.gather(_carry(reader, requests, 0), _carry(answers, writer, self.delay))
        finally:
            self._tasks.discard(task)
            for end in (requests, writer):
                end.transport.abort()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            await asyncio.sleep(delay)
            writer.write(data)
            await writer.drain()
    writer.close()
