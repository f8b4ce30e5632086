"""A real receiver of signed notices on loopback, which verifies each as a customer's program would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from pydantic import SecretStr
from standardwebhooks import Webhook

from schemas.settings import Settings

# Not a real key: the base64 of 24 letters.
KEY = "whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4"
SILENCE = 0  # instead of a status: no answer at all


@dataclass
class Receiver:
    """What has arrived.

    Attributes:
        answers: The status of each of the next answers; 204 when there is none left.
        notices: The verified notices that were answered 2xx, by id, without repeats.
        asked: How often each id arrived, also when the answer was another one.
        differing: The ids that arrived with different contents.
        raw: The bytes of every request, headers and body.
        pause: Seconds between the arrival of a notice and its answer.
        waiting: The ports of the senders that wait for their answer.
    """

    port: int
    answers: list[int] = field(default_factory=list)
    notices: dict[str, Any] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    differing: set[str] = field(default_factory=set)
    raw: bytes = b""
    pause: float = 0.0
    waiting: set[int] = field(default_factory=set)
    secret = "T0k3n-in-the-path"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.secret}"

    @property
    def told(self) -> list[tuple[str, str, str]]:
        """Address, status before and after of each change that arrived, in order."""
        return [
            (change["email"], change["before"], change["after"])
            for notice in self.notices.values()
            for change in notice["data"]["changes"]
        ]

    def on(self, settings: Settings) -> Settings:
        """These settings with the receiver in them."""
        values = {"webhook_url": SecretStr(self.address), "webhook_secret": SecretStr(KEY)}
        return settings.model_copy(update=values)

    def take(self, headers: dict[str, str], body: bytes) -> int:
        self.raw += repr(headers).encode() + body
        notice = Webhook(KEY).verify(body, headers)
        self.asked[headers["webhook-id"]] += 1
        status = self.answers.pop(0) if self.answers else HTTPStatus.NO_CONTENT
        if 200 <= status < 300 and self.notices.setdefault(headers["webhook-id"], notice) != notice:
            self.differing.add(headers["webhook-id"])
        return status


@contextmanager
def receiving(answers: Sequence[int] = ()) -> Iterator[Receiver]:
    over = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            port = self.client_address[1]
            status = receiver.take(headers, body)
            receiver.waiting.add(port)
            over.wait(None if status == SILENCE else receiver.pause)
            receiver.waiting.discard(port)
            if status != SILENCE:
                with suppress(OSError):  # the sender may have been killed
                    self.send_response(status)
                    self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(server.server_port, list(answers))
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            over.set()
            server.shutdown()
            thread.join()
