"""How many logins a host gets at once."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.slots import FIRST, Slot, Slots


class Host:
    """A host that takes a number of connections at once, and refuses the others.

    Attributes:
        refusals: How many connections it has refused.
        most: The most connections that were open at once, refused ones included.
    """

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.open = 0
        self.refusals = 0
        self.most = 0

    async def visit(self, slots: Slots) -> None:
        """Come again until the host takes the connection."""
        while True:
            async with Slot(slots) as slot:
                self.open += 1
                self.most = max(self.most, slots.held)
                taken = self.open <= self.takes
                await asyncio.sleep(0.002 if taken else 0)
                self.open -= 1
                if taken:
                    slot.accepted()
                    return
                self.refusals += 1
                slot.refused()
            await asyncio.sleep(0.001)


async def visits(host: Host, slots: Slots, number: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        for _ in range(number):
            tasks.create_task(host.visit(slots))


async def test_a_willing_host_gets_all_slots() -> None:
    """An unknown host starts with few logins at once, and soon has as many as the setting allows."""
    host, slots = Host(1000), Slots(50)
    assert slots.limit == FIRST
    await visits(host, slots, 300)
    assert (slots.limit, slots.held, host.refusals, host.most) == (50, 0, 0, 50)


async def test_a_host_with_few_connections() -> None:
    """A host that takes five connections gets about five, and few of them are refused."""
    host, slots = Host(5), Slots(50)
    await visits(host, slots, 500)
    assert 3 <= slots.limit <= 7
    assert slots.held == 0
    assert host.refusals < 60


async def test_a_host_that_recovers() -> None:
    """After refusals a host slowly gets more logins at once again."""
    host, slots = Host(2), Slots(8)
    await visits(host, slots, 60)
    assert slots.limit <= 3
    host.takes = 100
    await visits(host, slots, 1500)
    assert slots.limit == 8


async def test_a_cancelled_wait_leaves_no_slot_behind() -> None:
    """A login that is cancelled while it waits, or as its turn comes, keeps no slot."""
    slots = Slots(1)
    for steps in range(6):
        first = asyncio.create_task(Host(9).visit(slots))
        waiting = [asyncio.create_task(Host(9).visit(slots)) for _ in range(3)]
        for _ in range(steps):
            await asyncio.sleep(0)
        for one in waiting[:2]:
            one.cancel()
        await asyncio.gather(first, *waiting, return_exceptions=True)
        assert slots.held == 0


@settings(deadline=None, max_examples=25)
@given(takes=st.integers(1, 20), most=st.integers(1, 30), number=st.integers(1, 60))
def test_every_login_gets_its_turn(takes: int, most: int, number: int) -> None:
    """Whatever a host takes, every login gets its turn, and never more are open than the setting allows."""
    host, slots = Host(takes), Slots(most)
    asyncio.run(asyncio.wait_for(visits(host, slots, number), 20))
    assert (slots.held, host.open) == (0, 0)
    assert host.most <= most
    assert 1 <= slots.limit <= most
