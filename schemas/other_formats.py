"""Formats that people take for a CSV file, by how they begin, and what to do with a file in one of them."""

from __future__ import annotations

import re

_EXPORT = "export the table as CSV"
_COPY = "copy the table into a spreadsheet and save it as “CSV UTF-8”"

# Excel workbooks are read, so they are not here; see `schemas.workbook`.
_BINARY = (
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive; unpack it first"),
    (b"%PDF", "a PDF document; save the table as CSV"),
    (b"\x03\xd9\xa2\x9a", "a KeePass database; open it in KeePass and export it as CSV"),
    (b"SQLite format 3\0", f"an SQLite database; {_EXPORT}"),
    (b"PAR1\x15", f"a Parquet file; {_EXPORT}"),
    (b"!BDN", "an Outlook data file (.pst), which contains no passwords"),
    *((magic, f"a picture; {_COPY}") for magic in (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")),
)

# Without the possessive forms, many comments could be matched in far too many ways.
_PROLOG = r"(?:<\?[^>]*+>\s*+|(?><!--.*?-->)\s*+)*+"
_HTML = r"(?:!doctype\s+html|(?:html|head|body|title|meta|style|script|table|tr|td|div|p)\b)"
_TEXTS = (
    (rf"{_PROLOG}<{_HTML}", f"a web page (HTML); {_EXPORT}"),
    (rf"{_PROLOG}<keepassfile\b", "a KeePass file in XML; export it as CSV instead"),
    (
        rf"{_PROLOG}<(?:\w+:)?workbook\b",
        "an XML spreadsheet; open it in Excel and save it as “CSV UTF-8”",
    ),
    # A second tag, because a header may be written as `<email>,<password>`.
    (r"<\?xml|<!--|<[a-z_][\w:.-]*(?:\s[^<>]*)?>\s*<", f"XML; {_EXPORT}"),
    (r"\[\s*[{\]]|\{\s*[\"}]", f"JSON; {_EXPORT}"),
    (r"\{\\rtf", f"an RTF document; {_COPY}"),
    (r"(?:--[^\n]*+\n\s*+)*+(?:insert\s+into|create\s+table|drop\s+table)\s", f"a dump in SQL; {_EXPORT}"),
    (r"begin:vcard", "a list of contacts (vCard), which contains no passwords"),
    (r"(?:version:\s*1\s+)?dn:\s", f"a directory in LDIF; {_EXPORT}"),
    (r"-----begin [a-z0-9 ]+-----", "a key, a certificate or an encrypted message; decrypt it first"),
    (
        r"(?:return-path|received|delivered-to|mime-version|message-id):\s",
        "an email message; save its attachment, or copy the table into a spreadsheet",
    ),
    (r"\|[^\n]*\|[^\S\n]*\n\s*\|[ \t:|-]*-[ \t:|-]*\|[^\S\n]*(?:\n|\Z)", f"a Markdown table; {_COPY}"),
)
_TEXT_FORMATS = tuple((re.compile(pattern, re.DOTALL), what) for pattern, what in _TEXTS)
_LOOKED_AT = 2000


def binary_format(data: bytes) -> str:
    """The format of a file that is no text, with what to do; "" if it is not a known one."""
    return next((what for magic, what in _BINARY if data.startswith(magic)), "")


def text_format(text: str) -> str:
    """The format of a text that is not a table, with what to do; "" for a table."""
    start = text[:_LOOKED_AT].lstrip("\ufeff \t\r\n").casefold()
    return next((what for pattern, what in _TEXT_FORMATS if pattern.match(start)), "")
