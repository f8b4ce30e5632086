"""The sessions of the page, and the uploads that they keep between check and import. In memory only.

A restart of the server signs everyone out. The cookie is 256 random bits; only its SHA-256 is kept here.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.exceptions import HTTPException

from flows.api.errors import RETRY_LATER
from flows.api.multipart import Upload
from schemas.plaintext import Plaintext
from schemas.refusals import Refusal
from schemas.responses import TOO_MANY_BODIES
from tasks.storage.api_keys import Holder, digest_of

IDLE_SECONDS = 30 * 60.0
LONGEST_SECONDS = 12 * 3600.0
MOST_SESSIONS = 200
KEPT_SECONDS = 10 * 60.0  # how long an upload waits for its import
KEPT_PER_SESSION = 5  # one for each tab
BY_LINK = 0  # the key id of a session that a link of this machine has opened


@dataclass(repr=False)
class Kept(Plaintext):
    """An upload that was checked and waits for its import. `data` is gone once the import has begun."""

    upload: Upload | None
    size: int
    ends: float
    outcome: asyncio.Task[int | Refusal] | None = None


@dataclass(repr=False)
class Session(Plaintext):
    """A signed-in browser.

    Attributes:
        holder: The holder of its key, with the workspace; `BY_LINK` as key id if it has no key.
        token: What each of its forms has to send.
        notice: A sentence for the next page that is shown.
    """

    holder: Holder
    began: float
    used: float
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    kept: dict[str, Kept] = field(default_factory=dict)
    notice: str = ""

    @property
    def workspace(self) -> str:
        return str(self.holder.workspace)

    def owns(self, token: str) -> bool:
        """Whether a form was made for this session."""
        return hmac.compare_digest(self.token.encode(), token.encode())


class Sessions:
    """All sessions of one server, for one event loop.

    Args:
        kept_bytes: Maximum size of all kept uploads together.
        clock: The time in seconds.
    """

    def __init__(self, kept_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._kept_bytes = kept_bytes
        self._sessions: dict[bytes, Session] = {}

    def begin(self, holder: Holder) -> str:
        """Begin a session and return its cookie. The session that was idle longest makes room if needed."""
        self._drop_ended()
        if len(self._sessions) >= MOST_SESSIONS:
            del self._sessions[min(self._sessions, key=lambda digest: self._sessions[digest].used)]
        cookie = secrets.token_urlsafe(32)
        self._sessions[digest_of(cookie)] = Session(holder, self.clock(), self.clock())
        return cookie

    def find(self, cookie: str) -> Session | None:
        """The session of a cookie; None if it has ended. Its idle time starts again."""
        self._drop_ended()
        session = self._sessions.get(digest_of(cookie))
        if session is not None:
            session.used = self.clock()
        return session

    def end(self, session: Session) -> None:
        """End a session. Its cookie and its uploads are worth nothing from now on."""
        self._sessions = {digest: one for digest, one in self._sessions.items() if one is not session}
        session.kept.clear()

    def keep(self, session: Session, upload: Upload) -> str:
        """Keep an upload for its import and return its name.

        Raises:
            HTTPException: 503 if all kept uploads together would be too large.
        """
        self._drop_ended()
        while len(session.kept) >= KEPT_PER_SESSION:
            del session.kept[next(iter(session.kept))]
        held = sum(kept.size for one in self._sessions.values() for kept in one.kept.values())
        size = len(upload.data)
        if held + size > self._kept_bytes:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, TOO_MANY_BODIES, RETRY_LATER)
        name = secrets.token_urlsafe(16)
        session.kept[name] = Kept(upload, size, self.clock() + KEPT_SECONDS)
        asyncio.get_running_loop().call_later(KEPT_SECONDS, self._drop_ended)
        return name

    def _drop_ended(self) -> None:
        moment = self.clock()
        for digest, session in list(self._sessions.items()):
            if moment >= session.used + IDLE_SECONDS or moment >= session.began + LONGEST_SECONDS:
                del self._sessions[digest]
                session.kept.clear()
            for name, kept in list(session.kept.items()):
                if moment >= kept.ends:
                    del session.kept[name]
