"""Limits that hold for all workers together: one Prefect global concurrency limit per mail server.

A slot is a group of mailboxes and not a mailbox, because every acquisition is a request to Prefect's server
(28 ms on PostgreSQL, ten times that on SQLite). A slot is leased: a killed worker's comes back by itself.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.exceptions import ObjectNotFound

from schemas.verdicts import Group

PREFIX = "outlook-import:"


async def configured_limits() -> frozenset[str]:
    """The names of the limits that are set."""
    async with get_client() as client:
        limits = await client.read_global_concurrency_limits(limit=200)
    return frozenset(limit.name for limit in limits if limit.active and limit.name.startswith(PREFIX))


def limits_of(group: Group, configured: Collection[str]) -> list[str]:
    """The limits that a group's task run has to hold a slot of, always in the same order."""
    names = {_limit_of(host) for host in (group.smtp.host, group.imap.host)}
    return sorted(names & set(configured))


async def set_limit(host: str, mailboxes: int, group_size: int) -> int:
    """Hold all workers together to so many mailboxes at once on a host.

    Args:
        mailboxes: At least one group's; 0 removes the limit.

    Returns:
        How many groups may work at once.

    Raises:
        ValueError: When the number is less than one group's.
    """
    name = _limit_of(host)
    slots = mailboxes // group_size
    if mailboxes and slots < 1:
        raise ValueError(
            f"a task run tests up to {group_size} mailboxes at once: lower PROBE_GROUP_SIZE first"
        )
    async with get_client() as client:
        if not slots:
            with suppress(ObjectNotFound):
                await client.delete_global_concurrency_limit_by_name(name)
            return 0
        try:
            await client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=slots))
        else:
            await client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=slots))
    return slots


def _limit_of(host: str) -> str:
    return f"{PREFIX}{host.lower()}"
