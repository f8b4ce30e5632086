"""A browser without a window: it keeps cookies, says where it comes from, and sends the forms of pages."""

from __future__ import annotations

import html
import re
from types import TracebackType
from typing import Any

import httpx

BROWSER = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}


class Visitor:
    """A person at the page of a server."""

    def __init__(self, url: str, key: str | None = None, workspace: str = "") -> None:
        self.client = httpx.Client(base_url=url, headers=BROWSER, timeout=60, follow_redirects=True)
        self.token = ""
        self.seen: list[str] = []
        if key is not None:
            page = self.sign_in(key, workspace)
            assert page.status_code == 200, page.text

    def __enter__(self) -> Visitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()

    def sign_in(self, key: str, workspace: str = "", **fields: str) -> httpx.Response:
        return self._saw(self.client.post("/sign-in", data={"key": key, "workspace": workspace, **fields}))

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self._saw(self.client.get(path, headers=headers))

    def post(self, path: str, **fields: str) -> httpx.Response:
        return self._saw(self.client.post(path, data={"token": self.token, **fields}))

    def check(self, data: bytes, name: str = "mailboxes.csv", **fields: Any) -> httpx.Response:
        """Choose a file and look at what an import would do."""
        fields = {"token": self.token, **fields}
        return self._saw(self.client.post("/check", data=fields, files={"file": (name, data)}))

    def import_file(self, data: bytes, name: str = "mailboxes.csv", **fields: Any) -> httpx.Response:
        """Choose a file, look at it, and import it; the page of the import."""
        return self.post("/imports", kept=kept_in(self.check(data, name, **fields)))

    def _saw(self, answer: httpx.Response) -> httpx.Response:
        self.seen.append(answer.text)
        if found := re.search(r'name="token" value="([^"]+)"', answer.text):
            self.token = found[1]
        return answer


def kept_in(page: httpx.Response) -> str:
    """The name under which the server keeps the checked upload."""
    found = re.search(r'name="kept" value="([^"]+)"', page.text)
    assert found, page.text
    return found[1]


def text_of(page: httpx.Response) -> str:
    """The words of a page, with single spaces."""
    body = re.sub(r"<title>.*?</title>|</?(td|th|tr|li|p|h\d|dt|dd|div|summary)\b[^>]*>", " ", page.text)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", body)).split())
