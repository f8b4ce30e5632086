"""How many logins a host gets at once: modest at first, more as it accepts them, half when it refuses one."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

# An unknown host starts with as many logins at once as Exchange on premises takes from one address by default
# (MaxInboundConnectionPerSource), and each accepted one allows two more.
FIRST = 20
GROWTH = 2
# Above the number that the host is known to take, one more is tried after so many accepted logins per slot.
PATIENCE = 20


class Slots:
    """An adaptive semaphore for one host. Belongs to one event loop.

    Args:
        most: The limit of the settings.
        first: The number of slots at the start.

    Attributes:
        limit: How many may be held at once now.
        held: How many are held now.
    """

    def __init__(self, most: int, first: int = FIRST) -> None:
        self.limit = min(first, most)
        self.held = 0
        self._most = most
        self._ceiling = most  # what the host is believed to take
        self._accepted = 0
        self._halved = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> int:
        """Wait for a slot; returns how often the limit was halved so far, for `refused`."""
        if self.held >= self.limit or self._waiting:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # the slot came at the same moment
                    self.release()
                raise  # `_hand_out` passes over a turn that is cancelled
        else:
            self.held += 1
        return self._halved

    def release(self) -> None:
        """Give a slot back."""
        self.held -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and self.held < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self.held += 1
                turn.set_result(None)

    def accepted(self) -> None:
        """Tell that the host has taken a login, whatever it said about the password."""
        if self.limit < self._ceiling:
            self.limit = min(self.limit + GROWTH, self._ceiling)
        elif self.limit < self._most:
            self._accepted += 1
            if self._accepted >= PATIENCE * self.limit:
                self.limit = self._ceiling = self.limit + 1
                self._accepted = 0
        self._hand_out()

    def refused(self, halved: int) -> None:
        """Tell that the host did not take a connection because there were too many.

        Args:
            halved: What `acquire` returned for it. Of several refused at once, one halves the limit.
        """
        self._ceiling = max(1, min(self._ceiling, self.held - 1))
        self._accepted = 0
        if halved == self._halved:
            self._halved += 1
            self.limit = max(1, self.limit // 2)
        self.limit = min(self.limit, self._ceiling)


class Slot:
    """One slot, as a context manager."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._halved = 0

    async def __aenter__(self) -> Self:
        self._halved = await self._slots.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots.release()

    def accepted(self) -> None:
        self._slots.accepted()

    def refused(self) -> None:
        self._slots.refused(self._halved)
