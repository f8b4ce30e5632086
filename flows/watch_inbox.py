"""Import the files in the watched inbox: one import run per file, each file once.

The flow runs on a schedule, one run at a time. Several workers may serve one inbox; `tasks.files.inbox` takes
each file for one of them. A file whose import failed to finish stays in `processing/` for the next scan.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.import_outlook import Imported, import_outlook, tell_crash, tell_refusal
from flows.parameters import Workspace
from schemas.labels import DEFAULT_WORKSPACE, LABEL_RULE, is_label
from schemas.refusals import CSV_REQUIRED, NAME_NOT_UTF8, Refusal
from tasks.configuration import load_settings
from tasks.crash import StepError, leave_no_core_file
from tasks.files.inbox import Folders, TakenFile, finish, left_behind, look, reject, settled, take

UNFINISHED = "unfinished"


@flow(name="watch-inbox", flow_run_name="scan of the inbox", persist_result=False, on_crashed=[tell_crash])
async def watch_inbox(workspace: Workspace = DEFAULT_WORKSPACE) -> State:
    """Import every file in the inbox that no longer changes, and the files that a crashed run left.

    Args:
        workspace: The workspace of the mailboxes.
    """
    leave_no_core_file()
    settings = load_settings()
    folders = Folders(settings.watch_folder)
    results: Counter[str] = Counter()
    for taken in left_behind(folders):
        results[await import_taken(taken, folders, workspace)] += 1
    seen = look(folders.inbox)
    await asyncio.sleep(settings.settle_seconds)
    for path in settled(seen, look(folders.inbox)):
        if (taken_now := take(path, folders)) is not None:
            results[await import_taken(taken_now, folders, workspace)] += 1
    message = ", ".join(f"{count} {result}" for result, count in results.items()) or "no file"
    return Failed(message=message) if results[UNFINISHED] else Completed(message=message)


async def import_taken(taken: TakenFile, folders: Folders, workspace: str) -> str:
    """Import one taken file in a run of its own and write its outcome; returns the outcome in one word."""
    with taken:
        before = taken.look()
        outcome = await import_file(taken, folders, workspace)
        if taken.look() != before:  # a program still writes to it: its rows must not be lost
            outcome = UNFINISHED
        try:
            if isinstance(outcome, Refusal):
                reject(taken, folders, outcome)
                return "rejected"
            if isinstance(outcome, Imported):
                finish(taken, folders, outcome.summary)
                return "imported"
        except OSError as error:  # for example a full disk
            get_run_logger().error("The outcome of %s cannot be written: %s", taken.name, error.strerror)
        except StepError as error:  # or one file would stop every scan
            get_run_logger().error("The failed rows of %s cannot be copied: %s", taken.name, error)
        get_run_logger().error("The import of %s did not finish; the next scan continues it", taken.name)
        return UNFINISHED


async def import_file(taken: TakenFile, folders: Folders, workspace: str) -> object:
    if refusal := refuse_oddity(taken):
        await tell_refusal(taken.name, refusal, load_settings())
        return refusal
    report = taken.outcome(folders.processed, "report.csv")
    state = await import_outlook(
        taken.path, tag=taken.tag, workspace=workspace, report=report, return_state=True
    )
    return await state.aresult(raise_on_failure=False)


def refuse_oddity(taken: TakenFile) -> Refusal | None:
    """Refuse what is no longer a file, a name that Prefect cannot store, a folder that cannot be a tag."""
    if not taken.is_file():
        return Refusal(CSV_REQUIRED, "a link, a folder or a pipe has replaced it")
    if taken.tag is not None and not is_label(taken.tag):
        return Refusal(f"The folder's name cannot be a tag: {LABEL_RULE}")
    if taken.name != taken.path.name:
        return Refusal(NAME_NOT_UTF8)
    return None
