"""Authentication: find the holder of an API key and the workspace of a request."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Request, Security
from fastapi.security import APIKeyHeader, SecurityScopes
from starlette.exceptions import HTTPException

from flows.api.connections import address_of
from flows.api.middleware import header_text
from flows.api.openapi import LABEL_IN_ECMASCRIPT
from flows.api.service import Here
from schemas.labels import DEFAULT_WORKSPACE, LABEL_RULE, LONGEST_LABEL, is_label
from schemas.responses import (
    KEY_REQUIRED,
    OTHER_WORKSPACE,
)
from schemas.scopes import Scope
from tasks.storage.api_keys import Holder

ApiKey = APIKeyHeader(
    name="X-Api-Key",
    auto_error=False,
    description="A workspace key `sk_…` or a platform key `sk_user_…`.",
)


async def holder_of(key: Annotated[str | None, Security(ApiKey)], request: Request, service: Here) -> Holder:
    """The holder of the key. Counts the request against the limit of the key.

    Raises:
        HTTPException: 401 if the key is missing or unknown, 429 if the key has sent too many requests or the
            address too many wrong keys.
    """
    holder = await service.keys.find(key, address_of(request.client)) if key else None
    if holder is None:
        raise HTTPException(401, KEY_REQUIRED, {"WWW-Authenticate": "ApiKey"})
    service.limits.count_request(holder.key_id)
    return holder


async def caller_of(
    needed: SecurityScopes,
    holder: Annotated[Holder, Depends(holder_of)],
    x_workspace: Annotated[
        str | None,
        Header(
            description="With a platform key: the workspace of the request. Default: `default`.",
            json_schema_extra={"pattern": LABEL_IN_ECMASCRIPT, "maxLength": LONGEST_LABEL},
        ),
    ] = None,
) -> Holder:
    """The holder, with the workspace of the request.

    Raises:
        HTTPException: 400 if X-Workspace is not valid, 403 if the key belongs to another workspace or may not
            do this.
    """
    for scope in map(Scope, needed.scopes):
        if scope not in holder.scopes:
            raise HTTPException(403, scope.missing)
    named = header_text(x_workspace) if x_workspace is not None else None
    if named is not None and not is_label(named):
        raise HTTPException(400, f"X-Workspace: {LABEL_RULE}")
    if holder.workspace is not None and named not in (None, holder.workspace):
        raise HTTPException(403, OTHER_WORKSPACE)
    return holder._replace(workspace=holder.workspace or named or DEFAULT_WORKSPACE)


# The holder of a key that may do one kind of requests.
Reader = Annotated[Holder, Security(caller_of, scopes=[Scope.READ])]
Importer = Annotated[Holder, Security(caller_of, scopes=[Scope.IMPORT])]
Manager = Annotated[Holder, Security(caller_of, scopes=[Scope.MANAGE])]
