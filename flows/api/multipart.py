"""Read the multipart body of an import as it arrives, in memory only, without quoting it in errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from schemas.labels import LABEL_RULE, is_label
from schemas.plaintext import Plaintext
from schemas.reading import AS_IT_IS, Reading, parse_columns
from schemas.refusals import CSV_REQUIRED, Refusal
from schemas.standing import Needs

MOST_PARTS = 20
FIELDS = ("tag", "encoding", "map", "trim", "needs", "update")
NOT_MULTIPART = Refusal("The request is not valid multipart/form-data")


class Upload(Plaintext):
    """The file of an import, its name and tag, how to read it, and what its mailboxes are needed for."""

    def __init__(
        self,
        data: bytes,
        file_name: str,
        tag: str | None = None,
        reading: Reading = AS_IT_IS,
        needs: Needs | None = None,
        *,
        update: bool = False,
    ) -> None:
        self.data = data
        self.file_name = file_name
        self.tag = tag
        self.reading = reading
        self.needs = needs
        self.update = update


@dataclass(repr=False)
class Part(Plaintext):
    """One part of a form. `file_name` is None unless the part is a file."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    file_name: str | None = None
    data: bytearray = field(default_factory=bytearray)


class FormReader:
    """Collects the parts of a multipart/form-data body (RFC 7578) as it arrives.

    Starlette's parser is not used, because it writes large files to disk and accepts a truncated body.

    Attributes:
        parts: The parts so far.
        complete: Whether the end of the form has arrived.
    """

    def __init__(self, boundary: bytes) -> None:
        self.parts: list[Part] = []
        self.complete = False
        self._header = bytearray()
        self._value = bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": lambda data, start, end: self.parts[-1].data.extend(data[start:end]),
                "on_end": self._end,
            },
        )

    def write(self, data: bytes) -> None:
        """Parse the next piece of the body.

        Raises:
            FormParserError: If it is not valid multipart. The text may quote bytes of the body.
        """
        self._parser.write(data)

    def _begin(self) -> None:
        if len(self.parts) == MOST_PARTS:
            raise FormParserError("too many parts")
        self.parts.append(Part())

    def _end_header(self) -> None:
        self.parts[-1].headers[bytes(self._header).lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        part = self.parts[-1]
        kind, options = parse_options_header(part.headers.get(b"content-disposition"))
        if kind != b"form-data" or b"name" not in options:
            raise FormParserError("a part without a name")
        part.name = _text(options[b"name"])
        part.file_name = _text(options[b"filename"]) if b"filename" in options else None

    def _end(self) -> None:
        self.complete = True


async def read_upload(request: Request) -> Upload | Refusal:
    """Read the body of an import request.

    Returns:
        The upload, or a refusal if the body is not a valid import.
    """
    parts = await read_parts(request)
    return parts if isinstance(parts, Refusal) else upload_of(parts)


async def read_parts(request: Request) -> list[Part] | Refusal:
    """Read the parts of a form with files."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        return Refusal(CSV_REQUIRED)
    if not options.get(b"boundary"):
        return NOT_MULTIPART
    try:
        form = FormReader(options[b"boundary"])
        async for piece in request.stream():
            form.write(piece)
    except FormParserError:
        return NOT_MULTIPART
    return form.parts if form.complete else NOT_MULTIPART


def upload_of(parts: list[Part]) -> Upload | Refusal:
    """The upload that the parts of a form are, or a refusal."""
    files = [part for part in parts if part.name == "file"]
    fields: dict[str, list[str]] = {name: [] for name in FIELDS}
    for part in parts:
        if part.name in fields:
            if part.file_name is not None:
                return Refusal(
                    "tag: " + LABEL_RULE if part.name == "tag" else f"{part.name}: send it as text"
                )
            fields[part.name].append(_text(bytes(part.data)).strip())
    if len(files) > 1 or len(fields["tag"]) > 1:
        return Refusal("Only one file and one tag per import")
    if not files or files[0].file_name is None:
        return Refusal(CSV_REQUIRED)
    file, name = files[0], files[0].file_name
    if not name and not file.data:  # a browser sends this for a file input without a file
        return Refusal(CSV_REQUIRED)
    tag = "".join(fields["tag"])
    if tag and not is_label(tag):
        return Refusal(f"tag: {LABEL_RULE}")
    reading = _reading(fields)
    if isinstance(reading, Refusal):
        return reading
    needs = "".join(fields["needs"])
    if needs and needs not in list(Needs):
        return Refusal(f"needs: use {', '.join(Needs)}")
    update = _flag("update", fields)
    if isinstance(update, Refusal):
        return update
    wanted = Needs(needs) if needs else None
    return Upload(bytes(file.data), _bare(name), tag or None, reading, wanted, update=update)


def _flag(name: str, fields: Mapping[str, list[str]]) -> bool | Refusal:
    value = "".join(fields[name])
    return Refusal(f"{name}: use true or false") if value not in ("", "true", "false") else value == "true"


def _reading(fields: Mapping[str, list[str]]) -> Reading | Refusal:
    if len(fields["encoding"]) > 1:
        return Refusal("Only one encoding per import")
    trim = _flag("trim", fields)
    if isinstance(trim, Refusal):
        return trim
    columns = parse_columns(filter(None, fields["map"]))
    if isinstance(columns, Refusal):
        return columns
    return Reading("".join(fields["encoding"]) or None, columns, trim)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _bare(name: str) -> str:
    """The file name without folders and unprintable characters."""
    bare = name.replace("\\", "/").rpartition("/")[2]
    return "".join(filter(str.isprintable, bare)) or "upload.csv"
