"""`prefect-profile`: the login of a Prefect server, and the settings that close it."""

from __future__ import annotations

import sys
from typing import Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter

from flows.cli.exit_codes import DONE
from flows.cli.output import wrong_usage
from tasks.configuration import load_settings
from tasks.files.prefect_profile import VARIABLE, write_profile


def prefect_profile(
    *, url: Annotated[str, Parameter(help="Where the Prefect server is reached.")] = "http://127.0.0.1:4200"
) -> int:
    """Write the Prefect profile: a login, and the settings of server, worker and commands.

    An existing profile keeps its login.
    """
    path, parts = load_settings().prefect_profile.absolute(), urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        return wrong_usage("Give the server's address, such as http://127.0.0.1:4200.")
    write_profile(path, f"{parts.scheme}://{parts.netloc}")
    sys.stdout.write(
        f"Wrote {path}. Keep it private: anyone who has it can run code as the worker.\n"
        f"Start server, worker and commands with {VARIABLE}={path}\n"
    )
    return DONE
