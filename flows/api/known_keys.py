"""Find the holder of a key without a look-up for each request, and limit how many keys a client can try."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import NamedTuple

from flows.api.rate_limits import too_many
from schemas.responses import TOO_MANY_WRONG_KEYS
from tasks.storage.api_keys import Holder, digest_of, find_key, has_form_of_key
from tasks.storage.database import Database

FRESH_SECONDS = 2.0  # how long a revoked key may still work
WRONG_KEYS_PER_MINUTE = 20


class Lookup(NamedTuple):
    """A look-up of a key in the database, in progress or done. It is used until `ends`."""

    task: asyncio.Task[Holder | None]
    ends: float


class KnownKeys:
    """The recent look-ups of keys, for one event loop in one process.

    The limit on wrong keys does not apply to keys that this process has already found. So a client that tries
    many keys does not lock out the others at its address.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lookups: dict[bytes, Lookup] = {}
        self._right: set[bytes] = set()  # the digests of the keys that were found
        self._tries: Counter[str] = Counter()  # address → wrong keys in this minute, and look-ups in progress
        self._minute_ends = 0.0

    async def find(self, key: str, address: str) -> Holder | None:
        """Find the holder of a key; None if it is not a key. Concurrent requests share a look-up.

        Args:
            address: Where the request comes from.

        Raises:
            HTTPException: 429 if the address has tried too many wrong keys.
            DatabaseLostError: If the database goes away and does not come back in time.
        """
        if not has_form_of_key(key):
            return None
        digest, moment = digest_of(key), time.monotonic()
        lookup = self._lookups.get(digest)
        if lookup is None or lookup.ends <= moment:
            self._count(address, moment, limited=digest not in self._right)
            self._lookups = {known: found for known, found in self._lookups.items() if found.ends > moment}
            task = asyncio.create_task(self._look_up(key, digest, address))
            lookup = self._lookups[digest] = Lookup(task, moment + FRESH_SECONDS)
        return await asyncio.shield(lookup.task)  # it goes on for the others if this request is cancelled

    def _count(self, address: str, moment: float, *, limited: bool) -> None:
        if moment >= self._minute_ends:
            self._minute_ends = moment + 60
            self._tries.clear()
        if limited and self._tries[address] >= WRONG_KEYS_PER_MINUTE:
            raise too_many(TOO_MANY_WRONG_KEYS, self._minute_ends - moment)
        self._tries[address] += 1

    async def _look_up(self, key: str, digest: bytes, address: str) -> Holder | None:
        try:
            holder = await asyncio.to_thread(find_key, self._database, key)
        except BaseException:
            self._tries[address] -= 1
            self._lookups.pop(digest, None)  # the next request tries again
            raise
        if holder is None:
            self._right.discard(digest)
        else:
            self._tries[address] -= 1
            self._right.add(digest)
        return holder
