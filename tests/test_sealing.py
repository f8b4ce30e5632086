"""Only its owner and its key can unseal a secret."""

from __future__ import annotations

import base64
import pickle
import traceback

import pytest

from schemas.sealing import KEY_BYTES, Owner, Sealer, UnsealError, key_id, new_key, parse_keys

OWNER = Owner("main", "ann@example.com", "password")
SECRET = "Canary-5ecret"
KEY, OTHER_KEY = bytes(range(32)), bytes(range(32, 64))


@pytest.mark.parametrize(
    "plaintext",
    ["", " ", "p w ", "\0", "\r\n", "pässwörd😀", "\ud800", "e\u0301", "x" * 100_000, '"\\'],
    ids=ascii,
)
def test_round_trip(plaintext: str) -> None:
    """Any string is unsealed unchanged."""
    sealer = Sealer([KEY])
    assert sealer.open(sealer.seal(plaintext, OWNER), OWNER) == plaintext


def test_layout() -> None:
    """A sealed value is version, key id, nonce, ciphertext and tag, and contains nothing of the secret."""
    sealed = Sealer([KEY]).seal(SECRET, OWNER)
    assert sealed[:5] == b"\x01" + key_id(KEY)
    assert len(sealed) == 1 + 4 + 12 + len(SECRET) + 16
    assert SECRET.encode() not in sealed


def test_two_seals_differ() -> None:
    """The same secret sealed twice gives two values, so equal passwords cannot be recognised."""
    sealer = Sealer([KEY])
    first, second = (sealer.seal(SECRET, OWNER) for _ in range(2))
    assert first != second
    assert first[5:17] != second[5:17]


@pytest.mark.parametrize(
    "owner",
    [
        OWNER._replace(workspace="other"),
        OWNER._replace(email_key="bob@example.com"),
        OWNER._replace(field="totp"),
        Owner("mainann@example.com", "", "password"),
        Owner("main", "ann@example.compassword", ""),
    ],
    ids=["workspace", "mailbox", "field", "shifted left", "shifted right"],
)
def test_wrong_owner(owner: Owner) -> None:
    """A value that was copied to another workspace, mailbox or field cannot be unsealed."""
    sealer = Sealer([KEY])
    with pytest.raises(UnsealError, match="damaged or belongs to another mailbox"):
        sealer.open(sealer.seal(SECRET, OWNER), owner)


def test_wrong_key() -> None:
    """A value with an unknown key cannot be unsealed, and the error names the key's id."""
    sealed = Sealer([OTHER_KEY]).seal(SECRET, OWNER)
    with pytest.raises(UnsealError, match=f"no encryption key has the id {key_id(OTHER_KEY).hex()}"):
        Sealer([KEY]).open(sealed, OWNER)


def test_every_flipped_bit() -> None:
    """A value with any bit flipped cannot be unsealed."""
    sealer = Sealer([KEY])
    sealed = sealer.seal(SECRET, OWNER)
    for at in range(len(sealed) * 8):
        damaged = bytearray(sealed)
        damaged[at // 8] ^= 1 << at % 8
        with pytest.raises(UnsealError):
            sealer.open(bytes(damaged), OWNER)


def test_every_truncation() -> None:
    """A value that is shortened or extended cannot be unsealed."""
    sealer = Sealer([KEY])
    sealed = sealer.seal(SECRET, OWNER)
    for value in (*(sealed[:length] for length in range(len(sealed))), sealed + b"\0"):
        with pytest.raises(UnsealError):
            sealer.open(value, OWNER)


def test_rotation() -> None:
    """The first key seals, and every key unseals."""
    old, rotated = Sealer([KEY]), Sealer([OTHER_KEY, KEY])
    assert rotated.open(old.seal(SECRET, OWNER), OWNER) == SECRET
    assert rotated.seal(SECRET, OWNER)[1:5] == key_id(OTHER_KEY)
    with pytest.raises(UnsealError):
        old.open(rotated.seal(SECRET, OWNER), OWNER)


def test_nothing_leaks() -> None:
    """Neither a sealer nor an error shows a key or a secret, and a sealer cannot be pickled."""
    sealer = Sealer([KEY, OTHER_KEY])
    assert repr(sealer) == "<Sealer with 2 keys>"
    with pytest.raises(TypeError):
        pickle.dumps(sealer)
    sealed = sealer.seal(SECRET, OWNER)
    with pytest.raises(UnsealError) as caught:
        sealer.open(sealed[:-1], OWNER)
    trace = "".join(traceback.format_exception(caught.value))
    for secret in (SECRET, repr(KEY), KEY.hex(), repr(sealed), OWNER.email_key):
        assert secret not in trace


def test_no_keys() -> None:
    """A sealer without a key is refused."""
    with pytest.raises(ValueError, match="needs at least one key"):
        Sealer([])


def test_key_id_reveals_nothing() -> None:
    """A key's id is four bytes that differ between keys and are not part of the key."""
    ids = {key_id(bytes([at]) * KEY_BYTES) for at in range(256)}
    assert len(ids) == 256
    assert {len(name) for name in ids} == {4}
    assert key_id(KEY) not in KEY


@pytest.mark.parametrize("text", ["{0},{1}", "{0} {1}", "{0}\n{1}\n", " ,{0} , {1},"])
def test_parse_keys(text: str) -> None:
    """Keys are base64, separated by commas or white space, in the given order."""
    words = [base64.b64encode(key).decode() for key in (OTHER_KEY, KEY)]
    assert parse_keys(text.format(*words)) == [OTHER_KEY, KEY]


def test_new_key() -> None:
    """`parse_keys` accepts a new key, and each new key is different."""
    first, second = new_key(), new_key()
    assert first != second
    assert [len(key) for key in parse_keys(f"{first},{second}")] == [32, 32]


@pytest.mark.parametrize("text", ["", " \n", ","], ids=repr)
def test_parse_no_keys(text: str) -> None:
    """An empty text has no keys."""
    assert parse_keys(text) == []


@pytest.mark.parametrize(
    "word",
    [
        SECRET,
        base64.b64encode(KEY[:31]).decode(),
        base64.b64encode(KEY + b"x").decode(),
        base64.b64encode(KEY).decode().rstrip("="),
        base64.b64encode(KEY).decode()[:-2] + "é=",
        KEY.hex(),
    ],
    ids=["no base64", "31 bytes", "33 bytes", "no padding", "not ASCII", "hex"],
)
def test_malformed_keys(word: str) -> None:
    """A malformed key is named by its number and never quoted."""
    with pytest.raises(ValueError, match=r"^encryption key number 2 is not 32 bytes in base64$") as caught:
        parse_keys(f"{new_key()},{word}")
    assert word not in "".join(traceback.format_exception(caught.value))
