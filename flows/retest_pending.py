"""Test the mailboxes that are pending and due: put off by their server, or left by a run that was killed.

It is safe beside running imports and other retests. A mailbox is claimed before its test, and a claim
expires, so a killed run blocks no mailbox for long.
"""

from __future__ import annotations

if __name__ == "__main__":
    from flows.cli.app import door

    raise SystemExit(door("retest"))

from prefect import flow
from prefect.client.schemas.objects import State

from flows.import_outlook import probe_all
from flows.states import conclude_retest
from schemas.verdicts import ProbeReport
from tasks.configuration import load_settings
from tasks.crash import leave_no_core_file
from tasks.notify import tell_guard
from tasks.storage.claims import find_due
from tasks.storage.database import database
from tasks.storage.mailboxes import in_parts
from tasks.tell_changes import tell_changes
from tasks.tell_crashes import tell_crash

MAILBOXES_AT_ONCE = 500


@flow(
    name="retest-pending",
    flow_run_name="retest of due mailboxes",
    persist_result=False,
    on_crashed=[tell_crash],
)
async def retest_pending(
    workspace: str | None = None,
    held: bool = False,
    import_id: int | None = None,
    mailbox_ids: list[int] | None = None,
) -> State:
    """Test the logins of pending mailboxes that are due, 500 at a time, until none is left.

    Args:
        workspace: Only mailboxes of this workspace; all by default.
        held: Also mailboxes held back by the lockout guard, or imported without a test.
        import_id: Only mailboxes that this import created or updated, once, even before they are due. The
            HTTP API uses it after an import.
        mailbox_ids: Only these mailboxes; all that are due by default.
    """
    leave_no_core_file()
    settings = load_settings()
    report = ProbeReport((), 0)
    with database(settings) as mailboxes:
        for part in [None] if mailbox_ids is None else in_parts(mailbox_ids):
            while not report.stopped and (
                targets := find_due(
                    *(mailboxes, MAILBOXES_AT_ONCE, workspace),
                    held=held,
                    import_id=import_id,
                    mailbox_ids=part,
                )
            ):
                found = await probe_all(targets, mailboxes, settings)
                report = report + found
                if not found.verdicts or import_id is not None:
                    break
        await tell_changes(mailboxes, settings)
    about = "A retest" if import_id is None else f"Import {import_id}"
    await tell_guard(about, report, str(report), settings)
    return conclude_retest(report, str(report))
