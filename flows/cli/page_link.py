"""`open`: a link that signs in to the page on this machine."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from flows.cli.exit_codes import DONE, NOTHING_FOUND
from flows.cli.options import Workspace
from flows.cli.output import tell, wrong_usage
from schemas.labels import DEFAULT_WORKSPACE
from tasks.configuration import load_settings
from tasks.hints import command
from tasks.storage.database import (
    NoSuchWorkspaceError,
    SimilarWorkspaceError,
    database,
    require_workspace,
)
from tasks.storage.page_links import make_link


def print_link(
    *,
    port: Annotated[int, Parameter(help="Port of the page.")] = 8000,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> int:
    """Print a link that signs in to the page on this machine, once and within ten minutes."""
    settings = load_settings()
    try:
        with database(settings) as opened:
            if workspace != DEFAULT_WORKSPACE:
                require_workspace(opened, workspace)
        token = make_link(settings, workspace)
    except (NoSuchWorkspaceError, SimilarWorkspaceError):
        tell(f"There is no workspace {workspace!r}.")
        return NOTHING_FOUND
    except OSError as error:
        return wrong_usage(f"The link cannot be kept beside the database: {error.strerror}.")
    if token is None:
        return wrong_usage(
            "The database is on a server, so this machine proves nothing. "
            f"Sign in with a key: {command('keys', 'create')}"
        )
    sys.stdout.write(f"http://127.0.0.1:{port}/open/{token}\n")
    return DONE
