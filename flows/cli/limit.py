"""`limit`: one bound on a mail server for all workers."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import httpx
from cyclopts import Parameter

from flows.cli.exit_codes import DONE
from flows.cli.output import wrong_usage
from tasks.configuration import load_settings


def limit(
    host: Annotated[str, Parameter(name="HOST", help="A mail server, such as outlook.office365.com.")],
    mailboxes: Annotated[int, Parameter(name="N", help="Mailboxes at once; 0 removes the limit.")],
    /,
) -> int:
    """Limit concurrent tests per host across all workers. Needs a Prefect server."""
    from tasks.limits import set_limit  # imports Prefect

    size = load_settings().probe_group_size
    try:
        groups = asyncio.run(set_limit(host, mailboxes, size))
    except ValueError as error:
        return wrong_usage(f"{error}.")
    except httpx.HTTPError as error:
        return wrong_usage(
            f"Prefect's server refused or did not answer ({type(error).__name__}): start it, or correct "
            "PREFECT_API_URL."
        )
    held = f"{groups} groups of {size} mailboxes at once" if groups else "no limit"
    sys.stdout.write(f"{host}: {held}\n")
    return DONE
