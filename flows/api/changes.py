"""Change stored mailboxes over HTTP: retest, edit and delete them, and replace a password.

A change of many mailboxes names how many the caller expects. Another number changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Self, TypeAlias

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, SecretStr, model_validator
from starlette.exceptions import HTTPException

from flows.api.auth import Manager
from flows.api.json_body import documented_body, read_json
from flows.api.openapi import DIGITS, LABEL_IN_ECMASCRIPT, LARGEST_ID, Id
from flows.api.selected import Selected
from flows.api.service import Here, Service
from schemas.addresses import email_key
from schemas.bounds import LONGEST
from schemas.labels import LABEL_RULE, LONGEST_LABEL, counted, is_label
from schemas.responses import NO_SUCH_MAILBOX, Changed, Envelope, Mailbox, NewPassword, documented
from schemas.standing import Needs
from tasks.storage.api_keys import Holder
from tasks.storage.mailbox_changes import delete_mailboxes, edit_mailboxes, make_due
from tasks.storage.mailboxes import Filters, choose_mailboxes, find_mailbox
from tasks.storage.updates import check_password, replace_one

router = APIRouter()

LOGGER = logging.getLogger(__name__)
ONE = (400, 401, 403, 404, 429, 500, 503)
WITH_BODY = (*ONE, 408, 413)
MANY = (400, 401, 403, 408, 409, 413, 429, 500, 503)

NAME_IN_ECMASCRIPT = r"^[\p{L}\p{M}\p{N}\p{P}\p{S}]+( [\p{L}\p{M}\p{N}\p{P}\p{S}]+)*$"

# Changes the mailboxes with these ids as far as the filters still let them through; yields their addresses.
Change: TypeAlias = Callable[[Collection[int], Filters], Iterator[list[str]]]


class PasswordChange(BaseModel, extra="forbid"):
    """The new password of a mailbox, by the rules for a row of a file."""

    password: SecretStr = Field(min_length=1, max_length=10_000)


def _without_defaults(schema: dict[str, Any]) -> None:
    """What is left out stays, so a client must not fill in a default."""
    schema["minProperties"] = 1
    for field in schema["properties"].values():
        field.pop("default")


class MailboxChange(BaseModel, extra="forbid", json_schema_extra=_without_defaults):
    """What to change. What is left out stays."""

    tag: str | None = Field(
        None,
        description="null removes the tag.",
        max_length=LONGEST_LABEL,
        json_schema_extra={"pattern": LABEL_IN_ECMASCRIPT},
    )
    name: str | None = Field(
        None,
        description="null removes the name.",
        max_length=LONGEST["name"],
        json_schema_extra={"pattern": NAME_IN_ECMASCRIPT},
    )
    needs: Needs = Field(Needs.BOTH, description="What the mailbox is needed for. Only that is tested.")

    @model_validator(mode="after")
    def _something_to_change(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("name at least one of tag, name and needs")
        return self

    def changes(self) -> Mapping[str, Any]:
        """The columns to change.

        Raises:
            HTTPException: 400 if the tag or the name is not valid.
        """
        if self.tag is not None and not is_label(self.tag):
            raise HTTPException(400, f"tag: {LABEL_RULE}")
        if self.name is not None and not (self.name.isprintable() and all(self.name.split(" "))):
            raise HTTPException(400, "name: use printable characters, and single spaces between words")
        return {name: getattr(self, name) for name in self.model_fields_set}


class ManyMailboxes(BaseModel, extra="forbid"):
    """Mailboxes by the filters of the list, and how many they are."""

    filters: Selected
    count: Annotated[int, Field(ge=0, le=LARGEST_ID), DIGITS] = Field(
        description="How many mailboxes the caller expects. Another number is an error, and changes nothing."
    )


class ManyChanges(ManyMailboxes):
    """The same with what to change."""

    changes: MailboxChange


BODIES = (PasswordChange, MailboxChange, ManyMailboxes, ManyChanges)
CHOSEN = {"filters": {"batch": 3, "reason": "wrong_credentials"}, "count": 12}


# One mailbox -----------------------------------------------------------


@router.post(
    "/v1/mailboxes/{mailbox_id:id}/retest",
    summary="Test a mailbox again",
    responses=documented(Mailbox, *ONE),
)
async def retest_mailbox(caller: Manager, service: Here, mailbox_id: Id) -> Envelope[Mailbox]:
    """Withdraws its verdict. The test runs in the background.

    A wrong password stays wrong, and trying it too often locks the account.
    """
    await change_one(partial(make_due, service.mailboxes), "retests", caller, service, mailbox_id)
    return await shown_after(caller, service, mailbox_id, test=True)


@router.put(
    "/v1/mailboxes/{mailbox_id:id}/password",
    summary="Replace the password of a mailbox",
    responses=documented(NewPassword, *WITH_BODY, 409),
    openapi_extra=documented_body(PasswordChange, {"password": "abcd efgh ijkl mnop"}),
)
async def replace_password(
    request: Request, caller: Manager, service: Here, mailbox_id: Id
) -> Envelope[NewPassword]:
    """Replaces it, and tests it in the background. The password that is stored already gets 409.

    A password that the servers have refused before is not sent again.
    """
    body = await read_json(request, PasswordChange)
    workspace = str(caller.workspace)
    mailbox = await mailbox_of(caller, service, mailbox_id)
    checked = await asyncio.to_thread(check_password, mailbox.email, body.password.get_secret_value())
    if isinstance(checked, str):
        raise HTTPException(400, f"password: {checked}")
    key = email_key(mailbox.email, tuple(service.settings.overrides)) or mailbox.email.casefold()
    known = await asyncio.to_thread(replace_one, service.mailboxes, workspace, key, checked)
    if known is None:
        raise HTTPException(404, NO_SUCH_MAILBOX)
    if known.reason is not None:
        raise HTTPException(409, f"{known.reason.message}: {known.reason.remedy}")
    note(caller, "replaces the password of", 1)
    shown = await shown_after(caller, service, mailbox_id, test=True)
    return Envelope(data=NewPassword(**shown.data.model_dump(), warning=checked[1]))


@router.patch(
    "/v1/mailboxes/{mailbox_id:id}",
    summary="Change the tag, the name or the needs of a mailbox",
    responses=documented(Mailbox, *WITH_BODY),
    openapi_extra=documented_body(MailboxChange, {"tag": "outreach", "needs": "smtp"}),
)
async def edit_mailbox(request: Request, caller: Manager, service: Here, mailbox_id: Id) -> Envelope[Mailbox]:
    """Its status follows from what is known. What it is newly needed for is tested in the background."""
    changes = (await read_json(request, MailboxChange)).changes()
    change = partial(edit_mailboxes, service.mailboxes, changes=changes)
    await change_one(change, "edits", caller, service, mailbox_id)
    return await shown_after(caller, service, mailbox_id, test="needs" in changes)


@router.delete(
    "/v1/mailboxes/{mailbox_id:id}",
    summary="Delete a mailbox with its credentials and results",
    responses=documented(Changed, *ONE),
)
async def delete_mailbox(caller: Manager, service: Here, mailbox_id: Id) -> Envelope[Changed]:
    """Its password cannot be got back."""
    await change_one(partial(delete_mailboxes, service.mailboxes), "deletes", caller, service, mailbox_id)
    return Envelope(data=Changed(mailboxes=1))


async def change_one(change: Change, verb: str, caller: Holder, service: Service, mailbox_id: int) -> None:
    """Change one mailbox.

    Raises:
        HTTPException: 404 if the workspace has no such mailbox.
    """
    await mailbox_of(caller, service, mailbox_id)
    filters = Filters(workspace=str(caller.workspace))
    parts = await asyncio.to_thread(lambda: list(change([mailbox_id], filters)))
    if not any(parts):
        raise HTTPException(404, NO_SUCH_MAILBOX)
    note(caller, verb, 1)


async def mailbox_of(caller: Holder, service: Service, mailbox_id: int) -> Mailbox:
    """A mailbox of the caller's workspace.

    Raises:
        HTTPException: 404 if the workspace has no such mailbox.
    """
    found = await asyncio.to_thread(find_mailbox, service.mailboxes, str(caller.workspace), mailbox_id)
    if found is None:
        raise HTTPException(404, NO_SUCH_MAILBOX)
    return found


async def shown_after(caller: Holder, service: Service, mailbox_id: int, *, test: bool) -> Envelope[Mailbox]:
    """A mailbox as it is after a change.

    Args:
        test: Whether to test it in the background, as far as it is due.
    """
    found = await mailbox_of(caller, service, mailbox_id)
    if test:
        service.tests.submit_mailboxes([mailbox_id])
    return Envelope(data=Mailbox(**found.model_dump(include=set(Mailbox.model_fields))))


# Many mailboxes --------------------------------------------------------


@router.post(
    "/v1/mailboxes/retest",
    summary="Test many mailboxes again",
    responses=documented(Changed, *MANY),
    openapi_extra=documented_body(ManyMailboxes, CHOSEN),
)
async def retest_many(request: Request, caller: Manager, service: Here) -> Envelope[Changed]:
    """Withdraws their verdicts. The tests run in the background, or in the next retest if there are many."""
    body = await read_json(request, ManyMailboxes)
    return await change_many(
        body, partial(make_due, service.mailboxes), "retests", caller, service, test=True
    )


@router.post(
    "/v1/mailboxes/edit",
    summary="Change the tag, the name or the needs of many mailboxes",
    responses=documented(Changed, *MANY),
    openapi_extra=documented_body(ManyChanges, {**CHOSEN, "changes": {"tag": "second try"}}),
)
async def edit_many(request: Request, caller: Manager, service: Here) -> Envelope[Changed]:
    """As for one mailbox."""
    body = await read_json(request, ManyChanges)
    changes = body.changes.changes()
    change = partial(edit_mailboxes, service.mailboxes, changes=changes)
    return await change_many(body, change, "edits", caller, service, test="needs" in changes)


@router.post(
    "/v1/mailboxes/delete",
    summary="Delete many mailboxes with their credentials and results",
    responses=documented(Changed, *MANY),
    openapi_extra=documented_body(ManyMailboxes, CHOSEN),
)
async def delete_many(request: Request, caller: Manager, service: Here) -> Envelope[Changed]:
    """Their passwords cannot be got back."""
    body = await read_json(request, ManyMailboxes)
    change = partial(delete_mailboxes, service.mailboxes)
    return await change_many(body, change, "deletes", caller, service, test=False)


async def change_many(
    body: ManyMailboxes, change: Change, verb: str, caller: Holder, service: Service, *, test: bool
) -> Envelope[Changed]:
    """Change the mailboxes that the filters select, if they are as many as the caller expects.

    Args:
        test: Whether to test them in the background, as far as they are due.

    Raises:
        HTTPException: 409 if they are more or fewer. Nothing is changed.
    """
    filters = body.filters.filters(str(caller.workspace))

    def work() -> tuple[list[int], int]:
        if filters is None:
            return [], 0
        chosen = list(choose_mailboxes(service.mailboxes, str(caller.workspace), filters))
        if len(chosen) != body.count:
            return chosen, 0
        return chosen, sum(len(part) for part in change(chosen, filters))

    with service.limits.one_job(caller.key_id):
        chosen, changed = await asyncio.get_running_loop().run_in_executor(service.workers, work)
    if len(chosen) != body.count:
        found = counted(len(chosen), "mailbox", "mailboxes")
        raise HTTPException(409, f"The filters select {found}, not {body.count:,}. Nothing was changed")
    note(caller, verb, changed)
    if test:
        service.tests.submit_mailboxes(chosen)
    return Envelope(data=Changed(mailboxes=changed))


def note(caller: Holder, verb: str, mailboxes: int) -> None:
    """Log who changed how many mailboxes, without their addresses."""
    LOGGER.info("API key %d %s %s", caller.key_id, verb, counted(mailboxes, "mailbox", "mailboxes"))
