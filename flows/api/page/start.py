"""The start page: drop a file, see what an import would do, and import it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from flows.api.imports import prepare_upload, store_upload
from flows.api.multipart import Part, Upload, read_parts, upload_of
from flows.api.page.access import AllSessions, OwnForm, Signed, may, refuse_foreign, refuse_stale
from flows.api.page.rendering import is_fragment, on_page, render
from flows.api.page.sessions import Session
from flows.api.service import Here, Service
from schemas.headers import FIELD_OF_HEADER, FIELDS, normalise
from schemas.refusals import Refusal, sentence
from schemas.scopes import Scope
from schemas.summary import MAX_ERRORS_SHOWN, Summary
from tasks.storage.imports import find_imports
from tasks.store import Origin, would_store

router = APIRouter(dependencies=[Depends(refuse_foreign)])

RECENT = 5
ENCODINGS = {
    "": "UTF-8, or as the file says",
    "cp1252": "Western Windows (cp1252)",
    "cp1250": "Central European Windows (cp1250)",
    "cp1251": "Cyrillic Windows (cp1251)",
    "cp1253": "Greek Windows (cp1253)",
    "cp1254": "Turkish Windows (cp1254)",
    "iso-8859-15": "Western (iso-8859-15)",
    "mac-roman": "Old Mac (mac-roman)",
    "utf-16": "Unicode text (utf-16)",
    "utf-16-le": "Unicode text (utf-16-le)",
    "shift_jis": "Japanese (shift_jis)",
    "gb18030": "Chinese (gb18030)",
}
GONE = "This upload is no longer kept. Choose the file again"
FIELD_NAMES = {
    "email": "Address",
    "password": "App password",
    "name": "Name",
    "totpsecret": "TOTP secret",
    "login": "Sign-in name",
}


class Choice(NamedTuple):
    """The columns that a person can choose from for one field; without any, the person types a name."""

    field: str
    name: str
    headers: tuple[str, ...]
    chosen: str


@router.get("/")
def show_start(session: Signed, service: Here) -> Response:
    return _start(session, service)


def _start(session: Session, service: Service, checked: Mapping[str, Any] | None = None) -> Response:
    recent = find_imports(service.mailboxes, session.workspace, RECENT)
    return render(
        "start.html",
        session,
        recent=recent,
        default_needs=service.settings.needs,
        most_bytes=service.settings.max_file_bytes,
        encodings=ENCODINGS,
        checked=checked,
    )


@router.post("/check", dependencies=[may(Scope.IMPORT)])
async def check(request: Request, session: Signed, service: Here, sessions: AllSessions) -> Response:
    """Show what an import would do. The upload is kept for the import, in memory and not for long."""
    parts = await read_parts(request)
    if isinstance(parts, Refusal):
        raise HTTPException(400, parts.message)
    fields = {part.name: part for part in parts}
    refuse_stale(session, _text(fields, "token"))
    upload = _with_kept([*parts, *_typed(fields)], session, _text(fields, "kept"))
    found: Summary | Refusal = (
        upload if isinstance(upload, Refusal) else await _dry_run(upload, session, service)
    )
    values = _shown(found, upload)
    if isinstance(upload, Upload):
        session.kept.pop(_text(fields, "kept"), None)  # what it kept before for the same tab
        values["kept"] = sessions.keep(session, upload)
    if is_fragment(request):
        return render("checked.html", session, checked=values)
    return await asyncio.to_thread(_start, session, service, values)


def _text(fields: Mapping[str, Part], name: str) -> str:
    return bytes(fields[name].data).decode(errors="replace") if name in fields else ""


def _typed(fields: Mapping[str, Part]) -> Iterator[Part]:
    """The choices of columns whose names a person has typed."""
    for name in FIELDS:
        if header := _text(fields, f"column-{name}").strip():
            yield Part(name="map", data=bytearray(f"{name}={header}".encode()))


def _with_kept(parts: Sequence[Part], session: Session, name: str) -> Upload | Refusal:
    """The upload of a form. Without a file, it is about the file that the session kept."""
    upload = upload_of(list(parts))
    kept = session.kept.get(name)
    sent = [part for part in parts if part.name == "file" and part.file_name]
    if sent or kept is None or kept.upload is None:
        return upload
    file = Part(name="file", file_name=kept.upload.file_name, data=bytearray(kept.upload.data))
    return upload_of([*(part for part in parts if part.name != "file"), file])


async def _dry_run(upload: Upload, session: Session, service: Service) -> Summary | Refusal:
    with service.limits.one_import(session.holder.key_id):
        return await asyncio.get_running_loop().run_in_executor(
            service.importers, _check, upload, session.workspace, service
        )


def _check(upload: Upload, workspace: str, service: Service) -> Summary | Refusal:
    prepared = prepare_upload(upload, service.settings)
    if isinstance(prepared, Refusal):
        return prepared
    return would_store(service.mailboxes, prepared, _origin(upload, workspace))


def _origin(upload: Upload, workspace: str) -> Origin:
    return Origin(
        upload.file_name, workspace, upload.tag, test=True, needs=upload.needs, update=upload.update
    )


def _shown(found: Summary | Refusal, upload: Upload | Refusal) -> dict[str, Any]:
    """The values of the template `checked.html`."""
    columns = upload.reading.columns if isinstance(upload, Upload) else {}
    if isinstance(found, Refusal):
        return {
            "refusal": {
                "message": on_page(found.message),
                "detail": sentence(on_page(found.detail)),
                "known": found.known,
            },
            "file": upload.file_name if isinstance(upload, Upload) else "",
            "choices": _choices_of(found, columns),
            "kept": "",
        }
    warned = found.warned()
    return {
        "refusal": None,
        "file": found.file,
        "summary": found,
        "most": MAX_ERRORS_SHOWN,
        "errors": [(one, one.remedy) for one in found.outcomes if one.result == "failed"][:MAX_ERRORS_SHOWN],
        "warnings": [(one.line, one.email, on_page(one.warning)) for one in warned],
        "choices": _more_choices(found, columns),
        "kept": "",
    }


def _choices_of(refusal: Refusal, columns: Mapping[str, str]) -> list[Choice]:
    """What to choose where the header leaves it open which columns to read."""
    headers = tuple(dict.fromkeys(header for header in refusal.headers if not header.endswith("…")))
    if not headers:  # the first line may hold passwords, so it is not shown: a person types the names
        fields = tuple(name for name in FIELDS if name in refusal.missing or name in columns)
        return [Choice(name, FIELD_NAMES[name], (), columns.get(name, "")) for name in fields]
    fields = refusal.missing or tuple(
        dict.fromkeys(FIELD_OF_HEADER.get(normalise(header), "email") for header in headers)
    )
    if not refusal.missing and len(fields) > 1:  # all columns of a header, and no addresses in them
        fields = ("email",)
    fields = tuple(name for name in FIELDS if name in fields or name in columns)
    return [Choice(name, FIELD_NAMES[name], headers, columns.get(name, "")) for name in fields]


def _more_choices(summary: Summary, columns: Mapping[str, str]) -> list[Choice]:
    """What to choose if a column is not used, or was chosen."""
    unused = [header for header in summary.ignored if not header.endswith("…")]
    optional = [name for name in FIELDS if name not in ("email", "password")] if unused else []
    return [
        Choice(
            name,
            FIELD_NAMES[name],
            tuple(dict.fromkeys([*([columns[name]] if name in columns else []), *unused])),
            columns.get(name, ""),
        )
        for name in FIELDS
        if name in optional or name in columns
    ]


@router.post("/imports", dependencies=[may(Scope.IMPORT)])
async def import_kept(session: Signed, service: Here, fields: OwnForm) -> Response:
    """Import the upload that was checked. A second click leads to the same import."""
    name = fields.get("kept", "")
    kept = session.kept.get(name)
    if kept is None:
        raise HTTPException(400, GONE)
    if kept.outcome is None:
        upload, kept.upload, kept.size = kept.upload, None, 0
        assert upload is not None  # noqa: S101  only this wipes it
        kept.outcome = asyncio.create_task(_import(upload, session, service))
    outcome = await asyncio.shield(kept.outcome)  # it goes on if the browser leaves
    if isinstance(outcome, Refusal):
        raise HTTPException(400, outcome.message)
    return RedirectResponse(f"/imports/{outcome}", HTTPStatus.SEE_OTHER)


async def _import(upload: Upload, session: Session, service: Service) -> int | Refusal:
    with service.limits.one_import(session.holder.key_id):
        outcome = await asyncio.get_running_loop().run_in_executor(
            service.importers, store_upload, upload, _origin(upload, session.workspace), service
        )
    if isinstance(outcome, Refusal):
        return outcome
    if outcome.untested:
        service.tests.submit(outcome.import_id)
    return outcome.import_id
