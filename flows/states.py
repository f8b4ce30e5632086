"""Names of the final states of our runs. Prefect shows them in its lists and names its events after them."""

from __future__ import annotations

from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed

from schemas.standing import MailboxStatus
from schemas.verdicts import ProbeReport, Stop

REFUSED = "Refused"
NOTHING_TO_DO = "Nothing to do"
WITH_FAILURES = "Completed with failures"
STOPPED = "Stopped by the lockout guard"
# A run that ends in a state of another name would count as one that died.
ENDS = ("Completed", "Failed", "Cancelled", "Crashed", REFUSED, NOTHING_TO_DO, WITH_FAILURES, STOPPED)


def conclude_tests(report: ProbeReport, message: str, data: object) -> State:
    """The final state of a run that tested logins."""
    if report.stopped is Stop.INTERRUPTED:
        return Cancelled(message=message, data=data)
    if report.stopped is Stop.GUARD:
        return Completed(name=STOPPED, message=message, data=data)
    if report.count(MailboxStatus.FAILED):
        return Completed(name=WITH_FAILURES, message=message, data=data)
    return Completed(message=message, data=data)


def conclude_retest(report: ProbeReport, message: str) -> State:
    """The final state of a run that looked for mailboxes to test."""
    if not report.verdicts and not report.untested:
        return Completed(name=NOTHING_TO_DO, message=message, data=report)
    return conclude_tests(report, message, report)
