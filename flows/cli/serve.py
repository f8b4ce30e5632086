"""`serve`: the HTTP API."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from cyclopts import Parameter

from flows.cli.exit_codes import DONE
from flows.cli.output import tell
from tasks.configuration import load_settings
from tasks.storage.database import database


def serve(
    *,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on.")] = 8000,
) -> int:
    """Serve the HTTP API until Ctrl-C."""
    settings = load_settings()
    with database(settings):
        pass  # its faults are reported in a sentence before the server starts
    if not is_loopback(host):
        tell("Keys and passwords travel in clear text on this address: put a TLS proxy in front of it.")
    from flows.api.log import LOG_TO_STDERR
    from flows.api.server import server  # imports Prefect

    server(settings, host, port, LOG_TO_STDERR).run()
    return DONE


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
