"""Import a CSV of Outlook mailboxes: read and validate it, store it, then test every login.

The order matters. The whole file is validated before anything is stored, everything is stored in one
transaction before the first password leaves the machine, and the summary exists before the first probe. A run
that dies after the store step loses nothing: its mailboxes become due, and a retest finds them.

The flow needs a Prefect server and `schemas.settings`. The command `outlook-import import` validates the file
before it imports Prefect, and starts a temporary server when none is configured.
"""

from __future__ import annotations

if __name__ == "__main__":
    from flows.cli.app import door

    raise SystemExit(door("import"))

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import httpx
from prefect import flow, unmapped
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext, SyncClientContext
from prefect.futures import wait
from prefect.runtime import deployment
from prefect.states import Completed, Failed
from prefect.utilities.annotations import quote

from flows.parameters import (
    Columns,
    CsvFile,
    Encoding,
    NeededFor,
    Report,
    Tag,
    Trim,
    TryLogins,
    Update,
    Workspace,
)
from flows.states import REFUSED, conclude_tests
from schemas.labels import DEFAULT_WORKSPACE
from schemas.reading import Reading, parse_columns
from schemas.refusals import Refusal
from schemas.settings import Settings
from schemas.summary import Summary
from schemas.verdicts import Group, ProbeReport, Target
from tasks.configuration import load_settings
from tasks.crash import leave_no_core_file
from tasks.files.report_file import refuse_report
from tasks.limits import configured_limits
from tasks.notify import notify, tell_guard
from tasks.prepare import prepare
from tasks.probe import Probing, probe
from tasks.report import publish_refusal, publish_summary, publish_verdicts, write_report
from tasks.storage.database import Database, SimilarWorkspaceError, database
from tasks.storage.outcomes import who_acts
from tasks.store import Origin, store
from tasks.tell_changes import tell_changes
from tasks.tell_crashes import tell_crash


class Imported(NamedTuple):
    """The result of a run; `verdicts` is None if no login was tested."""

    summary: Summary
    verdicts: ProbeReport | None


T = TypeVar("T")
PROGRESS_KEY = "login-progress"
PROGRESS_SECONDS = 2


@flow(
    name="import-outlook",
    flow_run_name="{file.name} to {workspace}",
    persist_result=False,
    on_crashed=[tell_crash],
)
async def import_outlook(
    file: CsvFile,
    tag: Tag = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    test: TryLogins = True,
    encoding: Encoding = None,
    report: Report = None,
    columns: Columns = (),
    trim: Trim = False,
    needs: NeededFor = None,
    update: Update = False,
) -> State:
    """Import a CSV of Outlook or Hotmail mailboxes with app passwords, and test each login once.

    Args:
        file: Path of the CSV file, in a folder that the worker may read (OUTLOOK_IMPORT_IMPORT_FOLDERS).
        tag: Label for the mailboxes of this import: letters, digits, spaces and . @ + - _.
        workspace: The workspace of the mailboxes, created if missing: letters, digits, spaces and . @ + - _.
        test: Test each login once over SMTP and IMAP after the mailboxes are stored.
        encoding: Text encoding of a file that is not UTF-8, such as cp1252.
        report: Path of a .csv report to write, with a line for each row and the verdicts.
        columns: Columns to use where the header leaves it open, each FIELD=HEADER, such as email=Login.
        trim: Remove spaces around passwords.
        needs: What the mailboxes are needed for: both, smtp (send) or imap (receive). Only that is tested.
        update: Give mailboxes that are stored already their new passwords, and test them.
    """
    leave_no_core_file()
    settings = load_settings()
    await tag_run(file, tag, workspace)
    within = folders_of_run(settings)
    if report is not None and (refusal := refuse_report(report, within)):
        return await refuse(refusal, file, settings)
    chosen = parse_columns(columns)
    if isinstance(chosen, Refusal):
        return await refuse(chosen, file, settings)
    prepared = prepare(
        file,
        settings.max_file_bytes,
        Reading(encoding, chosen, trim),
        within,
        served=tuple(settings.overrides),
        bounds=settings.bounds,
    )
    if isinstance(prepared, Refusal):
        return await refuse(prepared, file, settings)
    with database(settings) as mailboxes:
        try:
            origin = Origin(file.name, workspace, tag, test, needs=needs, update=update)
            stored = store(unsearched(prepared), origin, mailboxes, settings)
        except SimilarWorkspaceError as error:
            return await refuse(Refusal(str(error)), file, settings)
        await publish_summary(unsearched(stored.summary), report)
        verdicts = (
            await probe_all(stored.targets, mailboxes, settings, summary=stored.summary) if test else None
        )
        if report is not None:
            write_report(report, mailboxes, unsearched(stored.summary), within)
        await tell_changes(mailboxes, settings)
    if verdicts is not None:
        await tell_guard(file.name, verdicts, f"{stored.summary}; {verdicts}", settings)
    return conclude(Imported(stored.summary, verdicts))


def unsearched(value: T) -> T:
    """Keep Prefect from looking for the results of other tasks in a value of 500 rows, which takes long."""
    return cast(T, quote(value))


def folders_of_run(settings: Settings) -> tuple[Path, ...] | None:
    """The folders that a run of a deployment may use; None at the command line, which may use any.

    Starting a deployment must not let a person read other files, or overwrite one such as the database.
    """
    return (*settings.import_folders, settings.watch_folder) if deployment.id else None


async def refuse(refusal: Refusal, file: Path, settings: Settings) -> State:
    """End the run as failed, with the contract's message in its state; nothing was changed."""
    await publish_refusal(refusal, file.name)
    await tell_refusal(file.name, refusal, settings)
    return Failed(name=REFUSED, message=refusal.message, data=refusal)


async def tell_refusal(name: str, refusal: Refusal, settings: Settings) -> None:
    await notify(f"{name} was refused: {refusal.message}. Nothing was changed.", settings)


async def probe_all(
    targets: Sequence[Target],
    mailboxes: Database,
    settings: Settings,
    *,
    summary: Summary | None = None,
    tested_before: datetime | None = None,
) -> ProbeReport:
    """Map the probe over small groups of mailboxes.

    Args:
        summary: The import that the mailboxes come from, if it is one.
        tested_before: For a recheck; see `Probing`.
    """
    probing = Probing(mailboxes, settings, [target.mailbox_id for target in targets], tested_before)

    async def map_groups(groups: Sequence[Group]) -> None:
        async with progress_shown(probing, len(targets)):
            # On a thread: it takes a while, and the first logins need this loop by then.
            configured = unmapped(await configured_limits())
            # One client for all task runs: each would load the certificate authorities for its own.
            with SyncClientContext.get_or_create():
                runs = await asyncio.to_thread(probe.map, groups, unmapped(probing), configured)
                await asyncio.to_thread(wait, runs)
        act = who_acts(mailboxes, summary.workspace, summary.import_id or 0) if summary else ""
        await publish_verdicts(unsearched(probing.report()), act)
        for run in runs:
            run.result()  # an internal error is raised here, after every other group has ended

    return await probing.run(targets, map_groups)


@asynccontextmanager
async def progress_shown(probing: Probing, total: int) -> AsyncIterator[None]:
    """Keep a progress artifact up to date, with a single updater because updates may arrive out of order."""

    async def follow() -> None:
        await asyncio.sleep(PROGRESS_SECONDS)
        artifact = await acreate_progress_artifact(0.0, key=PROGRESS_KEY, description="Logins tested")
        try:
            while True:
                with suppress(httpx.HTTPError):  # the next update follows when Prefect's server is back
                    await aupdate_progress_artifact(artifact, 100 * len(probing.verdicts) / total)
                await asyncio.sleep(PROGRESS_SECONDS)
        finally:
            await aupdate_progress_artifact(artifact, 100 * len(probing.verdicts) / total)

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError, httpx.HTTPError):  # progress never fails an import
            await following


def conclude(imported: Imported) -> State:
    message = str(imported.summary)
    if imported.verdicts is None:
        return Completed(message=f"{message}; not tested", data=imported)
    return conclude_tests(imported.verdicts, f"{message}; {imported.verdicts}", imported)


async def tag_run(file: Path, tag: str | None, workspace: str) -> None:
    """Give the flow run tags to find it by: `workspace:…`, `file:…` and the import's own tag."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    found = {*context.flow_run.tags, f"workspace:{workspace}", f"file:{file.name}"}
    async with get_client() as client:
        await client.update_flow_run(context.flow_run.id, tags=found | ({tag} if tag else set()))
