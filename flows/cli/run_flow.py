"""Run a flow for a person at a terminal: on the configured Prefect server, or on a temporary one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from rich.console import Console

from flows.cli.exit_codes import FAILED, INTERRUPTED
from flows.cli.output import print_json
from flows.cli.temporary_server import ServerNotStartedError, TemporaryServer
from schemas.envelope import failure
from schemas.settings import SettingsError
from tasks.configuration import load_settings
from tasks.crash import outline

if TYPE_CHECKING:
    from flows.cli.attended import Ended, Start

STORED_STAYS = "What is stored stays stored; running the same command again adds nothing twice."


def attend(
    start: Start, show: Callable[[Ended], int], say: Console, *, verbose: bool = False, as_json: bool = False
) -> int:
    """Run a flow and show how it ended; returns the exit code.

    Args:
        start: Starts the flow run; awaiting its result gives the final state.
        show: Prints the result and returns the exit code.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Prefect reports nothing about a run to its makers
    if not verbose:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    server, begun = None, time.monotonic()
    try:
        with sign_of_life("Starting Prefect …", say):
            from prefect.settings import PREFECT_API_URL

            if not PREFECT_API_URL.value():
                server = TemporaryServer(verbose=verbose, idle_seconds=load_settings().prefect_idle_seconds)
            from flows.cli.attended import drain, run_attended  # the rest of Prefect, while the server starts

            if server is not None:
                server.wait()
        if verbose:
            told = f"Prefect started in {time.monotonic() - begun:.1f} s"
            ran = server is not None and server.found
            say.print(f"{told}{'; its server still ran' if ran else ''}.", markup=False)
        try:
            ended = run_attended(start, say, server)
        except Exception as error:  # noqa: BLE001  what is not caught would exit as a refused file does
            what = outline(error) if verbose else type(error).__name__
            cause = f"Prefect failed with {what}; check that its server (PREFECT_API_URL) answers."
            return print_failure(cause, say, as_json=as_json)
        if isinstance(ended.outcome, SettingsError):
            raise ended.outcome
        code = show(ended)
        if server is not None:
            drain(server, ended.state)
        return code
    except ServerNotStartedError as error:
        say.print(f"Nothing was changed: {error}", style="red", markup=False)
        return FAILED
    except KeyboardInterrupt:
        say.print(f"Stopped. {STORED_STAYS}")
        return INTERRUPTED
    finally:
        if server is not None:
            server.stop()


def sign_of_life(text: str, say: Console) -> AbstractContextManager[object]:
    """Show that something is happening: a spinner on a terminal, one line elsewhere."""
    if say.is_terminal:
        return say.status(text)
    say.print(text, markup=False)
    return nullcontext()


def print_failure(message: str, say: Console, *, as_json: bool) -> int:
    """Report a run that failed: a fault of the set-up or of this program, not of the file."""
    if as_json:
        print_json(failure(500, "The import failed before it was complete"))
    say.print(f"The run failed: {message}", style="red", markup=False)
    say.print(STORED_STAYS)
    return FAILED
