"""Sealed secrets: AES-256-GCM, bound to the mailbox and field that they belong to.

Layout of a sealed value: version (1 byte) | key id (4 bytes) | nonce (12 bytes) | ciphertext and tag.
Associated data is workspace, email key and field, so a value copied to another row does not open.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION = b"\x01"
KEY_BYTES = 32
NONCE_BYTES = 12
ID_BYTES = 4

# So that every string opens as what it was, half characters too; and no UnicodeError could quote one.
_ANY_STRING = "surrogatepass"


class Owner(NamedTuple):
    """What a sealed value belongs to."""

    workspace: str
    email_key: str
    field: str

    def associated_data(self) -> bytes:
        # Each part is preceded by its length: no two owners give the same bytes.
        parts = [part.encode() for part in self]
        return b"".join(struct.pack(">I", len(part)) + part for part in parts)


class UnsealError(Exception):
    """A sealed value does not open: another key, another owner, or damage."""


class Sealer:
    """Seals with the first of its keys and opens with any of them.

    Args:
        changed: Gives the keys anew once they have changed, else none. It is asked before each seal, and
            where a value's key is not known. Keys that were known once go on opening.
    """

    def __init__(self, keys: Sequence[bytes], changed: Callable[[], Sequence[bytes]] = tuple) -> None:
        if not keys:
            raise ValueError("a Sealer needs a key at least")
        self._changed = changed
        self._ciphers: dict[bytes, AESGCM] = {}  # the one that seals comes first
        self._take(keys)

    def __repr__(self) -> str:
        return f"<Sealer with {len(self._ciphers)} keys>"

    @property
    def key_ids(self) -> tuple[bytes, ...]:
        """The ids of the keys; the first one seals."""
        self._take(self._changed())
        return tuple(self._ciphers)

    @property
    def header(self) -> bytes:
        """What each value begins with that is sealed from now on."""
        return VERSION + self.key_ids[0]

    def seal(self, plaintext: str, owner: Owner) -> bytes:
        header = self.header
        nonce = os.urandom(NONCE_BYTES)
        data = plaintext.encode(errors=_ANY_STRING)
        return header + nonce + self._ciphers[header[1:]].encrypt(nonce, data, owner.associated_data())

    def open(self, sealed: bytes, owner: Owner) -> str:
        """Raises `UnsealError`; its text names the key id and never the content."""
        header, nonce, body = sealed[:5], sealed[5 : 5 + NONCE_BYTES], sealed[5 + NONCE_BYTES :]
        if header[1:] not in self._ciphers:
            self._take(self._changed())
        cipher = self._ciphers.get(header[1:])
        if header[:1] != VERSION or cipher is None:
            raise UnsealError(f"no key {header[1:].hex()} among those that are known")
        try:
            plaintext = cipher.decrypt(nonce, body, owner.associated_data())
        except (InvalidTag, ValueError):  # ValueError: a nonce cut short
            raise UnsealError("the value is damaged or belongs to another mailbox") from None
        return plaintext.decode(errors=_ANY_STRING)

    def _take(self, keys: Sequence[bytes]) -> None:
        if keys:  # in one step, because other threads seal and open meanwhile
            self._ciphers = {key_id(key): AESGCM(key) for key in keys} | self._ciphers


def key_id(key: bytes) -> bytes:
    """Four bytes that name a key without telling anything about it."""
    return hashlib.sha256(b"outlook-mailbox-import key id" + key).digest()[:ID_BYTES]


def new_key() -> str:
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def parse_keys(text: str) -> list[bytes]:
    """Keys in base64, separated by commas or white space; the first one seals.

    Raises:
        ValueError: When one is no 32 bytes in base64. The text never quotes it.
    """
    keys = []
    for number, word in enumerate(text.replace(",", " ").split(), start=1):
        try:
            key = base64.b64decode(word, validate=True)
        except ValueError:  # binascii.Error is one
            key = b""
        if len(key) != KEY_BYTES:
            raise ValueError(f"encryption key number {number} is not {KEY_BYTES} bytes in base64")
        keys.append(key)
    return keys
