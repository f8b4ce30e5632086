"""`serve`: the page and the HTTP API."""

from __future__ import annotations

import ipaddress
import os
import sys
from contextlib import suppress
from typing import Annotated

from cyclopts import Parameter

from flows.cli.exit_codes import DONE, NOTHING_FOUND
from flows.cli.output import tell
from flows.cli.ports import taken
from schemas.labels import DEFAULT_WORKSPACE
from schemas.settings import Settings
from tasks.configuration import load_settings
from tasks.hints import command
from tasks.storage.database import database
from tasks.storage.page_links import make_link

SIGN_IN_WITH_KEY = "To sign in, make a key: {}"


def serve(
    *,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on.")] = 8000,
    quiet: Annotated[bool, Parameter(help="Log warnings and errors only.")] = False,
) -> int:
    """Serve the page and the HTTP API until Ctrl-C."""
    settings = load_settings()
    if fault := taken(host, port, "--port"):
        tell(fault)
        return NOTHING_FOUND
    with database(settings):
        pass  # its faults are reported in a sentence before the server starts
    if not is_loopback(host):
        tell("Keys and passwords travel in clear text on this address: put a TLS proxy in front of it.")
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Prefect reports nothing to its makers
    from flows.api.log import log_to_stderr
    from flows.api.server import server  # imports Prefect

    serving = server(settings, host, port, log_to_stderr(quiet=quiet))
    if not quiet:
        tell(f"Page: {address(host, port)}  Stop: Ctrl-C")
        tell(
            how_to_sign_in(settings, port)
            if is_loopback(host)
            else SIGN_IN_WITH_KEY.format(command("keys", "create"))
        )
    serving.run()
    return DONE


def address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def how_to_sign_in(settings: Settings, port: int) -> str:
    """How to sign in to the page: at a terminal by a link that works once, else by a command or a key."""
    token = None
    if sys.stderr.isatty():
        with suppress(OSError):
            token = make_link(settings, DEFAULT_WORKSPACE)
    if token:
        return f"Sign in with this link, which works once within ten minutes: http://127.0.0.1:{port}/open/{token}"
    return (
        f"{SIGN_IN_WITH_KEY.format(command('keys', 'create'))} or a link: {command('open', '--port', port)}"
    )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
