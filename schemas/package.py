"""Unpack the parts of an Office file, within bounds.

An Office file is a ZIP archive. A small one can unpack to gigabytes, and its directory can lie about the
sizes. So the directory is checked first, and no part is unpacked beyond the size that the directory gives.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import NamedTuple

from schemas.plaintext import Plaintext

ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # the second one is an archive without entries
OLE_MAGIC = b"\xd0\xcf\x11\xe0"

_DIRECTORY_ENTRY = b"PK\x01\x02"
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 0x1

SAVE_AS_XLSX = "in Excel, save it as “Excel Workbook (.xlsx)” or “CSV UTF-8”"
DAMAGED = (
    "The Excel workbook is damaged: open it in Excel and save it again, or copy it again from its source"
)
TOO_MUCH = "The Excel workbook holds far more than a table of mailboxes: copy the table into a new workbook"
MACROS = f"The Excel workbook contains macros: {SAVE_AS_XLSX}"
OLD_EXCEL = f"The file is an old Excel workbook (.xls): {SAVE_AS_XLSX}"
OLD_OFFICE = f"The file is an old Office document: copy the table into a new workbook; {SAVE_AS_XLSX}"
ENCRYPTED = (
    "The Excel workbook is encrypted: remove its password (File → Info → Protect Workbook → Encrypt with "
    "Password) and save it again"
)
ZIP_ENCRYPTED = "The ZIP archive is encrypted: unpack it first"
NO_WORKBOOK = "The file is a ZIP archive, not an Excel workbook: unpack it first"

# A part that only one kind of file has, in lower case, and the message for it. The first one found counts.
_FOREIGN_PARTS = (
    ("xl/vbaproject.bin", MACROS),
    ("xl/workbook.bin", f"The file is a binary Excel workbook (.xlsb): {SAVE_AS_XLSX}"),
    ("word/document.xml", f"The file is a Word document: copy the table into a new workbook; {SAVE_AS_XLSX}"),
    ("index/document.iwa", "The file is an Apple iWork document: export it as Excel or CSV"),
)
_OPEN_DOCUMENT = (
    "The file is an OpenDocument spreadsheet (.ods): save it as “Excel 2007–365 (.xlsx)”, "
    "or as “Text CSV” with the character set UTF-8"
)


class WorkbookError(Exception):
    """A workbook that cannot be read. The text is the message of the refusal and never quotes a cell."""


class PackageBounds(NamedTuple):
    """How much of an Office file is unpacked.

    Attributes:
        entries: Maximum number of entries in the archive.
        unpacked: Maximum size of all entries together, in bytes.
    """

    entries: int = 1_000
    unpacked: int = 50_000_000

    @property
    def too_many_entries(self) -> str:
        return f"The Excel workbook has more than {self.entries:,} parts: copy the table into a new workbook"

    @property
    def too_large(self) -> str:
        return (
            f"The Excel workbook unpacks to more than {self.unpacked:,} bytes: "
            "copy the table into a new workbook, or save it as “CSV UTF-8”"
        )


PACKAGE_BOUNDS = PackageBounds()


class Package(Plaintext):
    """The parts of an `.xlsx` file.

    Args:
        data: The whole file, which begins with one of `ZIP_MAGIC`.
        bounds: How much to unpack.

    Raises:
        WorkbookError: If it is not an `.xlsx` file, is damaged, or is larger than the bounds.
    """

    def __init__(self, data: bytes, bounds: PackageBounds = PACKAGE_BOUNDS) -> None:
        self._data = memoryview(data)
        # `zipfile` reads the whole directory, however many entries it has.
        if data.count(_DIRECTORY_ENTRY) > bounds.entries:
            raise WorkbookError(bounds.too_many_entries)
        try:
            entries = zipfile.ZipFile(io.BytesIO(data)).infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error):
            raise WorkbookError(DAMAGED) from None
        self._parts = {_part_name(entry.filename): entry for entry in entries}
        self._refuse_foreign()
        if len(self._parts) != len(
            entries
        ):  # another program may read another one of two parts with one name
            raise WorkbookError(DAMAGED)
        if sum(entry.file_size for entry in entries) > bounds.unpacked:
            raise WorkbookError(bounds.too_large)

    def _refuse_foreign(self) -> None:
        for name, message in _FOREIGN_PARTS:
            if name in self._parts:
                raise WorkbookError(message)
        if any(name.startswith("xl/macrosheets/") for name in self._parts):
            raise WorkbookError(MACROS)
        if "xl/workbook.xml" in self._parts:
            return
        if "content.xml" in self._parts and "mimetype" in self._parts:
            raise WorkbookError(_OPEN_DOCUMENT)
        encrypted = any(entry.flag_bits & _ENCRYPTED for entry in self._parts.values())
        raise WorkbookError(ZIP_ENCRYPTED if encrypted else NO_WORKBOOK)

    def part(self, name: str) -> bytes | None:
        """Unpack one part.

        Args:
            name: Its path in the archive, in any case.

        Returns:
            Its bytes; None if there is no such part.

        Raises:
            WorkbookError: If it is damaged, encrypted, or not of the size that the directory gives.
        """
        entry = self._parts.get(_part_name(name))
        if entry is None:
            return None
        if entry.flag_bits & _ENCRYPTED:
            raise WorkbookError(ZIP_ENCRYPTED)
        unpacked = self._unpack(entry)
        if len(unpacked) != entry.file_size or zlib.crc32(unpacked) != entry.CRC:
            raise WorkbookError(DAMAGED)
        return unpacked

    def _unpack(self, entry: zipfile.ZipInfo) -> bytes:
        at = entry.header_offset
        try:
            magic, name, extra = _LOCAL_HEADER.unpack_from(self._data, at)
        except struct.error:
            raise WorkbookError(DAMAGED) from None
        if magic != ZIP_MAGIC[0]:
            raise WorkbookError(DAMAGED)
        start = at + _LOCAL_HEADER.size + name + extra
        packed = self._data[start : start + entry.compress_size]
        if entry.compress_type == zipfile.ZIP_STORED:
            return bytes(packed)
        if entry.compress_type != zipfile.ZIP_DEFLATED:
            raise WorkbookError(DAMAGED)
        try:
            # One byte more than it may have shows that the directory lies; 0 would mean no bound.
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, entry.file_size + 1)
        except zlib.error:
            raise WorkbookError(DAMAGED) from None


def _part_name(name: str) -> str:
    """The form in which names are compared. Source: ECMA-376 part 2, and programs that write backslashes."""
    return name.replace("\\", "/").lstrip("/").casefold()


def old_office(data: bytes) -> str:
    """The message for a file that begins with `OLE_MAGIC`. Source: [MS-OFFCRYPTO] 2.3 and [MS-XLS] 2.1.2."""
    if "EncryptedPackage".encode("utf-16-le") in data:
        return ENCRYPTED
    if "Workbook".encode("utf-16-le") in data or "Book".encode("utf-16-le") in data:
        return OLD_EXCEL
    return OLD_OFFICE
