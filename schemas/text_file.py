"""The text of a file: its encoding and its line endings, or why it is no text."""

from __future__ import annotations

import codecs
import re

from schemas.other_formats import binary_format
from schemas.refusals import Refusal

BYTE_ORDER_MARKS = (  # the UTF-32 mark begins with the UTF-16 mark, so UTF-32 comes first
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# Codecs for names and for source code. No program saves a table in them; `punycode` takes the square of the
# size of a file, and the escapes would change passwords.
_NOT_FOR_FILES = {"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"}


def decode(data: bytes, encoding: str | None = None) -> str | Refusal:
    """Decode a file strictly and convert its line endings to LF.

    Args:
        data: The whole file.
        encoding: Name of the text encoding to use instead of UTF-8. A byte order mark takes precedence.

    Returns:
        The text without its byte order mark, or a refusal.
    """
    if what := binary_format(data):
        return Refusal(f"CSV file is {what}")
    codec = encoding or "utf-8"
    for mark, marked in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            codec, data = marked, data[len(mark) :]
            break
    try:
        if codecs.lookup(codec).name.replace("_", "-") in _NOT_FOR_FILES:
            raise LookupError
        text = data.decode(codec)
        text.encode()  # some codecs produce lone surrogates, which cannot be stored
        if _is_damaged_by(codec, data):
            return Refusal(
                f"The file is UTF-8: read as {codec}, its letters would be damaged; leave out the encoding"
            )
    except UnicodeError as error:
        return _not_text(data, codec, getattr(error, "start", 0))
    except (LookupError, ValueError):
        return Refusal(f"Unknown text encoding {codec!r}: try cp1252 or utf-16")
    if "\0" in text:
        return Refusal(f"CSV file is not text: it contains NUL bytes; {_advice_about_nul(data)}")
    return re.sub(r"\x1a\s*\Z", "", _unix_line_ends(text))  # the end-of-file mark of old DOS programs


MOST_RETURNS = 16  # before a line feed


def _unix_line_ends(text: str) -> str:
    if "\n" not in text:
        return text.replace("\r", "\n")  # classic Mac OS
    # `replace` is faster than the expression, which would keep other threads waiting.
    for _ in range(MOST_RETURNS):
        if "\r\n" not in text:
            break
        text = text.replace("\r\n", "\n")
    if "\r\n" in text or text.endswith("\r"):
        # Without the look-behind, the search would restart at each carriage return of a long run.
        text = re.sub(r"(?<!\r)\r++(\n|\Z)", "\n", text)
    return text


_UTF8_CHARACTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
# The beginning of a letter or a typographic mark in UTF-8. In cp1252 it would be Â, Ã, â or ð.
_CUT_CHARACTER = re.compile(rb"[\xc2\xc3\xe2\xf0][\x80-\xbf]{0,2}")
# What Western text in cp1252 hardly has: rare signs, three accented letters in a row, or a capital one behind
# a small letter. Text in another encoding, such as Cyrillic or Japanese, has them everywhere.
_NOT_WESTERN = re.compile(
    rb"[^\x00-\x7f\x80\x85\x91-\x97\xa0\xa3\xa7\xa9\xab\xae\xb0\xb4\xbb\xc0-\xd6\xd8-\xf6\xf8-\xff]"
    rb"|[\xc0-\xff]{3}|[a-z][\xc0-\xde]"
)


def _is_damaged_by(codec: str, data: bytes) -> bool:
    """Whether a file that a one-byte codec reads is UTF-8, so that `ü` would become `Ã¼`."""
    if not codecs.lookup(codec).name.startswith(("cp125", "iso8859", "latin", "mac")):
        return False
    try:
        return any(ord(char) > 127 for char in data.decode())
    except UnicodeDecodeError:
        return False


def _advice(data: bytes, start: int) -> str:
    """What to do about a file that is not UTF-8 from a byte on."""
    if _CUT_CHARACTER.fullmatch(data, start):
        return "the file was cut in the middle of a character; export it again"
    if _UTF8_CHARACTER.search(data):
        return "other lines are UTF-8, so the file is damaged; export it again"
    if _NOT_WESTERN.search(data):
        return "save it as “CSV UTF-8”, or specify its encoding"
    return "save it as “CSV UTF-8”, or specify its encoding (usually --encoding cp1252 on Western Windows)"


def _advice_about_nul(data: bytes) -> str:
    """What to do about a file with NUL bytes: UTF-16 has them in every second place."""
    start = data[:1000]
    first, second = start[::2].count(0), start[1::2].count(0)
    if 4 * max(first, second) < len(start) or 8 * min(first, second) > max(first, second):
        return "export the table again, as “CSV UTF-8”"
    order = "le" if second > first else "be"
    return f"save it as “CSV UTF-8”, or specify its encoding (usually --encoding utf-16-{order})"


def _not_text(data: bytes, codec: str, start: int) -> Refusal:
    """Name the line where the text stops being valid, without quoting it."""
    before = data[:start].decode(codec, errors="ignore")
    line = _unix_line_ends(before).count("\n") + 1
    advice = _advice(data, start) if codec == "utf-8" else "save it as “CSV UTF-8”"
    return Refusal(f"Line {line}: the file is not valid {codec.upper()} text; {advice}", line=line)
