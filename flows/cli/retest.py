"""`retest`: test the mailboxes that are pending and due."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from flows.cli.exit_codes import DONE, INTERRUPTED
from flows.cli.options import LABEL, Verbose
from flows.cli.results import print_verdicts
from flows.cli.run_flow import attend, print_failure
from schemas.verdicts import ProbeReport

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from flows.cli.attended import Ended


def retest(
    *,
    workspace: Annotated[
        str | None, LABEL, Parameter(help="Only mailboxes of this workspace; by default all.")
    ] = None,
    held: Annotated[
        bool,
        Parameter(help="Also mailboxes held back by the lockout guard, or imported without a test."),
    ] = False,
    verbose: Verbose = False,
) -> int:
    """Test the mailboxes that are pending and due."""
    return _run({"workspace": workspace, "held": held}, verbose=verbose)


def retest_now(mailbox_ids: Sequence[int], *, verbose: bool = False) -> int:
    """Test these mailboxes, which are due, and show the verdicts; returns the exit code."""
    return _run({"mailbox_ids": list(mailbox_ids)}, verbose=verbose)


def _run(parameters: Mapping[str, Any], *, verbose: bool) -> int:
    say = Console(stderr=True, highlight=False, soft_wrap=True)

    def start() -> Awaitable[State[Any]]:
        from flows.retest_pending import retest_pending

        return retest_pending(**parameters, return_state=True)

    def show(ended: Ended) -> int:
        state, report = ended
        if not isinstance(report, ProbeReport):
            return print_failure(str(state.message), say, as_json=False)
        print_verdicts(report, Console(highlight=False))
        return INTERRUPTED if state.is_cancelled() else DONE

    return attend(start, show, say, verbose=verbose)
