"""Seal secrets with AES-256-GCM, bound to the mailbox and the field that they belong to.

Layout of a sealed value: version (1 byte) | key id (4 bytes) | nonce (12 bytes) | ciphertext and tag.
The associated data is workspace, email key and field, so a value that is copied to another row cannot be
unsealed.
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

# Strings with lone surrogates can be sealed too, and no UnicodeError can quote a secret.
_ANY_STRING = "surrogatepass"


class Owner(NamedTuple):
    """What a sealed value belongs to."""

    workspace: str
    email_key: str
    field: str

    def associated_data(self) -> bytes:
        """The owner as the associated data of AES-GCM."""
        # Each part follows its length, so that no two owners give the same bytes.
        parts = [part.encode() for part in self]
        return b"".join(struct.pack(">I", len(part)) + part for part in parts)


class UnsealError(Exception):
    """A value cannot be unsealed: its key is missing, it belongs to another owner, or it is damaged."""


class Sealer:
    """Seals with the first of its keys and unseals with any of them.

    Args:
        keys: Keys of `KEY_BYTES` bytes each.
        changed: Returns all keys if they have changed since the last call, otherwise an empty sequence. It is
            called before each seal, and when the key of a sealed value is unknown. Earlier keys still unseal.

    Raises:
        ValueError: If there are no keys.
    """

    def __init__(self, keys: Sequence[bytes], changed: Callable[[], Sequence[bytes]] = tuple) -> None:
        if not keys:
            raise ValueError("a Sealer needs at least one key")
        self._changed = changed
        self._ciphers: dict[bytes, AESGCM] = {}  # the first one seals
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
        """The first bytes of every value that is sealed with the current key: version and key id."""
        return VERSION + self.key_ids[0]

    def seal(self, plaintext: str, owner: Owner) -> bytes:
        """Seal a secret for its owner; see the module's docstring for the layout."""
        header = self.header
        nonce = os.urandom(NONCE_BYTES)
        data = plaintext.encode(errors=_ANY_STRING)
        return header + nonce + self._ciphers[header[1:]].encrypt(nonce, data, owner.associated_data())

    def open(self, sealed: bytes, owner: Owner) -> str:
        """Unseal a value of its owner.

        Raises:
            UnsealError: If it cannot be unsealed. The text never quotes the content.
        """
        header, nonce, body = sealed[:5], sealed[5 : 5 + NONCE_BYTES], sealed[5 + NONCE_BYTES :]
        if header[1:] not in self._ciphers:
            self._take(self._changed())
        cipher = self._ciphers.get(header[1:])
        if header[:1] != VERSION or cipher is None:
            raise UnsealError(f"no encryption key has the id {header[1:].hex()}")
        try:
            plaintext = cipher.decrypt(nonce, body, owner.associated_data())
        except (InvalidTag, ValueError):  # ValueError: a truncated nonce
            raise UnsealError("the value is damaged or belongs to another mailbox") from None
        return plaintext.decode(errors=_ANY_STRING)

    def _take(self, keys: Sequence[bytes]) -> None:
        if keys:  # in one assignment, because other threads seal and unseal at the same time
            self._ciphers = {key_id(key): AESGCM(key) for key in keys} | self._ciphers


def key_id(key: bytes) -> bytes:
    """Four bytes that identify a key and reveal nothing about it."""
    return hashlib.sha256(b"outlook-mailbox-import key id" + key).digest()[:ID_BYTES]


def new_key() -> str:
    """A new random key, in base64."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def parse_keys(text: str) -> list[bytes]:
    """Parse keys in base64, separated by commas or white space; the first one seals.

    Raises:
        ValueError: If a key is not 32 bytes in base64. The text never quotes it.
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
