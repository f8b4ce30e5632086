"""Files that are made to cost time or memory."""

from __future__ import annotations

import random
from collections.abc import Callable


def filled_with(size: int, piece: bytes, head: bytes = b"email,password\n", tail: bytes = b"") -> bytes:
    """A file of `size` bytes: a header, then one piece again and again."""
    size -= len(tail)
    return (head + piece * (size // len(piece) + 1))[:size] + tail


def numbered(size: int, row: str, head: str = "email,password\n", most: int | None = None) -> bytes:
    """As many rows as fit, but not more than `most`, each with another number in place of `{}`."""
    width = len(row.format(10**6).encode())
    rows = (size - len(head)) // width
    return (head + "".join(row.format(n) for n in range(min(rows, most or rows)))).encode()


def wide(size: int) -> bytes:
    """As many columns of different names as fit."""
    header = ",".join(["email", "password", *map(str, range(size // 8))])
    return f"{header}\nann@x.co,pw\n".encode()


LONG_ADDRESS = f"u{{}}@{'x' * 60}.{'y' * 60}.{'y' * 60}.com,p{'w' * 820}\n"
TOTP = f"u{{}}@x.co,p,otpauth://totp/x?secret={'A' * 400}&digits=8&x={{0}}\n".replace("{}", "{0}")

# Name → a function that makes the file in about this number of bytes.
NASTY: dict[str, Callable[[int], bytes]] = {
    "rows without an address": lambda size: filled_with(size, b",x\n"),
    "one address again and again": lambda size: filled_with(size, b"a@x.co,p\n"),
    "different addresses": lambda size: numbered(size, "u{}@x.co,p\n"),
    "10,000 different addresses": lambda size: numbered(size, "u{}@x.co,p\n", most=10_000),
    "long addresses": lambda size: numbered(size, LONG_ADDRESS),
    "10,000 long rows": lambda size: numbered(size, LONG_ADDRESS.replace("w" * 30, ""), most=10_000),
    "10,000 TOTP secrets": lambda size: numbered(size, TOTP, "email,password,totp\n", most=10_000),
    "10,000 failed rows": lambda size: numbered(size, "x,\n", most=10_000),
    "10,000 rows with every error": lambda size: numbered(
        size, f"{'x' * 300}{{}},{chr(9) * 300},,\n", most=10_000
    ),
    "wide rows": lambda size: filled_with(size, b"a@x.co,p" + b",ab" * 340 + b"\n"),
    "one giant header": wide,
    "a header of delimiters": lambda size: filled_with(size, b",", b"email,password"),
    "one giant row": lambda size: filled_with(size, b"ab,"),
    "one giant quoted cell": lambda size: filled_with(size, b"x", b'email,password\na@x.co,"'),
    "one giant quoted header": lambda size: filled_with(size, b"x", b'email,"'),
    "a quoted cell of many lines": lambda size: filled_with(size, b"\n,", b'email,password\na@x.co,"'),
    "many quoted cells of two lines": lambda size: filled_with(size, b'"\n",', b"email,password\na@x.co,"),
    "only quotes": lambda size: filled_with(size, b'"', b""),
    "quotes below a header": lambda size: filled_with(size, b'"'),
    "rows of quotes": lambda size: filled_with(size, b'"",""\n'),
    "rows of quotes above a header": lambda size: filled_with(
        size, b'""\n', b"", b"email,password\na@x.co,p\n"
    ),
    "a quote in the middle": lambda size: filled_with(size, b'"a"b'),
    "alternating quotes": lambda size: filled_with(size, b'"a","b""",'),
    "alternating quotes in rows": lambda size: filled_with(size, b'"a""""b",""""\n'),
    "only delimiters": lambda size: filled_with(size, b",", b""),
    "rows of delimiters": lambda size: filled_with(size, b",,,,\n"),
    "rows of every delimiter": lambda size: filled_with(size, b",;\t|\n", b""),
    "only newlines": lambda size: filled_with(size, b"\n", b""),
    "newlines below a header": lambda size: filled_with(size, b"\n"),
    "newlines above a row": lambda size: filled_with(size, b"\n", tail=b"\nann@x.co,pw"),
    "blank lines above a row": lambda size: filled_with(size, b" \n", tail=b"\nann@x.co,pw"),
    "sep lines": lambda size: filled_with(size, b"sep=;\n", b""),
    "returns": lambda size: filled_with(size, b"\r"),
    "returns before a cell": lambda size: filled_with(size, b"\r", tail=b"x\n"),
    "returns and newlines": lambda size: filled_with(size, b"\r\n"),
    "doubled returns": lambda size: filled_with(size, b"\r\r\n"),
    "three returns": lambda size: filled_with(size, b"a,b\r\r\r\n"),
    "user names": lambda size: filled_with(size, b"a@x.co,p\n", b"user name,password\n"),
    "user names and a fault": lambda size: filled_with(size, b"a@x.co,p\n", b"user name,password\n", b'x"'),
    "no header": lambda size: filled_with(size, b"a@x.co,p\n", b""),
    "one NUL": lambda size: filled_with(size, b"a@x.co,p\n", tail=b"\0"),
    "only NUL": lambda size: filled_with(size, b"\0", b""),
    "UTF-16": lambda size: filled_with(size // 2, b"a@x.co,p\n").decode().encode("utf-16"),
    "UTF-32": lambda size: filled_with(size // 4, b"a@x.co,p\n").decode().encode("utf-32"),
    "spaces in passwords": lambda size: filled_with(size, b"a@x.co,y" + b" " * 100_000 + b"x\n"),
    "invisible characters in passwords": lambda size: filled_with(
        size, b"a@x.co,y" + "\u200b".encode() * 40_000 + b"x\n"
    ),
    "spaces in addresses": lambda size: filled_with(size, b"a@x.co" + b" " * 100_000 + b"x,p\n"),
    "dots in addresses": lambda size: filled_with(size, b"a@x.co" + b"." * 100_000 + b"x,p\n"),
    "brackets in addresses": lambda size: filled_with(size, b"a@x.co" + b"( " * 50_000 + b"x,p\n"),
    "underscores in a header": lambda size: filled_with(size, b"x,y\n", b"name,a" + b"_" * 100_000 + b"!\n"),
    "one emoji": lambda size: filled_with(size, b"a@x.co,p\n", "email,password,😀\n".encode()),
    "a fault at the end": lambda size: filled_with(size, b"a@x.co,p\n", tail=b"\xff"),
    "random bytes": lambda size: random.Random(1).randbytes(size),  # noqa: S311  the same bytes every time
    "random UTF-16": lambda size: b"\xff\xfe" + random.Random(2).randbytes(size),  # noqa: S311
}
