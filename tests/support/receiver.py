"""A real receiver of signed notices on loopback, which verifies each as a customer's program would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
        raw: The bytes of every request, headers and body.
    """

    port: int
    answers: list[int] = field(default_factory=list)
    notices: dict[str, Any] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    raw: bytes = b""
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
        if 200 <= status < 300:
            self.notices.setdefault(headers["webhook-id"], notice)
        return status


@contextmanager
def receiving(answers: Sequence[int] = ()) -> Iterator[Receiver]:
    over = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = receiver.take(headers, body)
            if status == SILENCE:
                over.wait()
                return
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
