"""Names of files and folders made from addresses and domains, which come from strangers."""

from __future__ import annotations

import hashlib
import re

LONGEST_NAME = 80
# Windows opens a device instead of a file with one of these names, whatever its extension.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9])(?:\..*)?", re.IGNORECASE)


class SafeNames:
    """Makes names that every file system takes, each one once.

    The names consist of the letters a to z, digits and `.@_+-`. They start and end with a letter, a digit or
    `_`, and they differ in more than upper and lower case.
    """

    def __init__(self, *taken: str) -> None:
        self._taken = {name.casefold() for name in taken}

    def name(self, text: str, ending: str = "") -> str:
        """Make the name for a text.

        Args:
            text: An address or a domain; untrusted.
            ending: The extension, such as `.txt`.
        """
        lower = text.lower()
        plain = re.sub(r"[^a-z0-9.@_+-]", "_", lower)
        plain = re.sub(r"\.{2,}", "_", plain)
        plain = re.sub(r"^[^a-z0-9_]|[^a-z0-9_]$", "_", plain) or "_"
        if _DEVICE.fullmatch(plain):
            plain = f"_{plain}"
        name = f"{plain}{ending}"
        if plain != lower or len(name) > LONGEST_NAME or name in self._taken:
            # The digest keeps texts apart whose names would be the same, in whatever order they come.
            digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]
            name = f"{plain[: LONGEST_NAME - len(ending) - 11]}-{digest}{ending}"
        self._taken.add(name)
        return name
