"""Test mailboxes again that work, slowly and spread out, and find out which no longer do.

Failed mailboxes are among them, if their fault can be cured while the password stays the same. A password
that a server has refused is never sent again. A run that is killed leaves each mailbox as it was.
"""

from __future__ import annotations

from datetime import timedelta

from prefect import flow
from prefect.client.schemas.objects import State

from flows.import_outlook import probe_all
from flows.states import conclude_retest
from schemas.tables import now
from schemas.verdicts import ProbeReport
from tasks.configuration import load_settings
from tasks.crash import leave_no_core_file
from tasks.notify import tell_guard
from tasks.storage.claims import find_to_recheck, share_of_recheck
from tasks.storage.database import database
from tasks.tell_changes import tell_changes
from tasks.tell_crashes import tell_crash

MAILBOXES_AT_ONCE = 500
MAILBOXES_PER_RUN = 5000


@flow(
    name="recheck-active",
    flow_run_name="recheck of working mailboxes",
    persist_result=False,
    on_crashed=[tell_crash],
)
async def recheck_active(workspace: str | None = None) -> State:
    """Test working mailboxes once more whose last test is OUTLOOK_IMPORT_RECHECK_DAYS old.

    Each run takes only its share of them, so that the tests are spread over all hours of these days.

    Args:
        workspace: Only mailboxes of this workspace; all by default.
    """
    leave_no_core_file()
    settings = load_settings()
    days, report = settings.recheck_days, ProbeReport((), 0)
    before = now() - timedelta(days=days)
    with database(settings) as mailboxes:
        left = min(share_of_recheck(mailboxes, days, workspace), MAILBOXES_PER_RUN) if days else 0
        while left and (
            targets := find_to_recheck(mailboxes, min(left, MAILBOXES_AT_ONCE), before, workspace)
        ):
            found = await probe_all(targets, mailboxes, settings, tested_before=before)
            report, left = report + found, left - len(targets)
            if found.stopped or not found.verdicts:
                break
        await tell_changes(mailboxes, settings)
    await tell_guard("A recheck", report, str(report), settings)
    return conclude_retest(report, str(report) if days else "rechecks are turned off")
