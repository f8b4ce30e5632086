"""Limit concurrent tests per host across all workers, with Prefect's global concurrency limits.

A slot is for a group of mailboxes, because each acquisition is a request to Prefect's server (28 ms on
PostgreSQL, ten times as long on SQLite). Slots are leased, so the slot of a killed worker becomes free again.
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
    """The names of the limits that are set on Prefect's server."""
    async with get_client() as client:
        limits = await client.read_global_concurrency_limits(limit=200)
    return frozenset(limit.name for limit in limits if limit.active and limit.name.startswith(PREFIX))


def limits_of(group: Group, configured: Collection[str]) -> list[str]:
    """The limits from which the task run of a group needs a slot, always in the same order.

    Args:
        configured: The names of the limits that are set.
    """
    names = {_limit_of(host) for host in (group.smtp.name, group.imap.name)}
    return sorted(names & set(configured))


async def set_limit(host: str, mailboxes: int, group_size: int) -> int:
    """Limit concurrent tests per host across all workers.

    Args:
        mailboxes: Maximum number of concurrent tests, at least `group_size`; 0 removes the limit.
        group_size: Number of mailboxes in a group.

    Returns:
        The maximum number of concurrent groups.

    Raises:
        ValueError: If `mailboxes` is less than one group.
    """
    name = _limit_of(host)
    slots = mailboxes // group_size
    if mailboxes and slots < 1:
        raise ValueError(
            f"a task run tests up to {group_size} mailboxes at once: reduce PROBE_GROUP_SIZE first"
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
