"""Keys of the HTTP API: `keys create|list|revoke`."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from flows.cli.exit_codes import DONE, NOTHING_FOUND
from flows.cli.options import LABEL, Json
from flows.cli.output import print_json, print_rows, tell, wrong_usage
from schemas.labels import DEFAULT_WORKSPACE
from schemas.scopes import ALL_SCOPES, Scope
from tasks.configuration import load_settings
from tasks.hints import command
from tasks.storage.api_keys import Listed, create_key, list_keys, revoke_key
from tasks.storage.database import SimilarWorkspaceError, database


def create_api_key(
    *,
    workspace: Annotated[
        str | None, LABEL, Parameter(help=f"The workspace that it opens; by default {DEFAULT_WORKSPACE!r}.")
    ] = None,
    platform: Annotated[
        bool, Parameter(help="A key for every workspace; requests name theirs in X-Workspace.")
    ] = False,
    name: Annotated[str, LABEL, Parameter(help="What the key is for.")] = "key",
    scope: Annotated[
        tuple[Scope, ...],
        Parameter(
            help="What the key may do: read, import or manage (change, retest and delete mailboxes). Repeat "
            "it for several; by default everything."
        ),
    ] = (),
) -> int:
    """Create a key of the HTTP API and print it, this once."""
    if platform and workspace is not None:
        return wrong_usage("Choose one of --workspace and --platform.")
    with database(load_settings()) as opened:
        try:
            owner = None if platform else workspace or DEFAULT_WORKSPACE
            key = create_key(opened, owner, name, scope or ALL_SCOPES)
        except SimilarWorkspaceError as error:
            return wrong_usage(f"{error}.")
    sys.stdout.write(f"{key}\n")
    tell("Save it now: only its hash is stored, and it cannot be shown again.")
    return DONE


def list_api_keys(*, json: Json = False) -> int:
    """List the keys of the HTTP API."""
    with database(load_settings()) as opened:
        keys = list_keys(opened)
    if json:
        print_json([key.model_dump(mode="json") for key in keys])
    elif keys:
        print_rows([_row(key) for key in keys], list(Listed.model_fields))
    else:
        tell(f"There is no key yet. Create one: {command('keys', 'create')}")
    return DONE if keys else NOTHING_FOUND


def _row(key: Listed) -> dict[str, object]:
    return key.model_dump() | {
        "prefix": f"{key.prefix}…",
        "workspace": key.workspace or "all (platform)",
        "scopes": ", ".join(key.scopes),
    }


def revoke_api_key(
    prefix: Annotated[str, Parameter(name="PREFIX", help="How the key begins, as `keys list` shows it.")],
    /,
) -> int:
    """Refuse a key of the HTTP API from now on."""
    with database(load_settings()) as opened:
        if revoke_key(opened, prefix.rstrip("…")):
            sys.stdout.write(f"Revoked {prefix}\n")
            return DONE
    tell(f"No active key begins like that. List them: {command('keys', 'list')}")
    return NOTHING_FOUND
