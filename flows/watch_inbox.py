"""Import the files in the watched inbox: one import run per file, each file once.

The flow runs on a schedule, one run at a time. Several workers may serve one inbox; `tasks.files.inbox` takes
each file for one of them. A file whose import failed to finish stays in `processing/` for a later scan. What
cannot be imported stays where it is, and is named once (`tasks.files.skipped`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import NamedTuple

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.import_outlook import Imported, import_outlook, tell_refusal
from flows.parameters import Workspace
from flows.states import NOTHING_TO_DO
from schemas.labels import DEFAULT_WORKSPACE, LABEL_RULE, is_label
from schemas.refusals import CSV_REQUIRED, NAME_NOT_UTF8, Refusal
from schemas.settings import Settings
from tasks.configuration import load_settings
from tasks.crash import StepError, leave_no_core_file
from tasks.files.inbox import Folders, TakenFile, finish, left_behind, look, reject, settled, take
from tasks.files.skipped import Item, Skipped, listed, note
from tasks.notify import notify
from tasks.tell_crashes import tell_crash, tell_crashes


class Unfinished(NamedTuple):
    """The import of a file that stays in `processing/`, and why, as the rest of a sentence."""

    why: str


class Scan:
    """One scan: how far it may still go, and what came of it."""

    def __init__(self, folders: Folders, workspace: str, settings: Settings) -> None:
        self.folders = folders
        self.workspace = workspace
        self.results: Counter[str] = Counter()
        self.unfinished: Skipped = {}
        self.skipped: Skipped = {}
        self.left = 0
        self._files, self._seconds = settings.watch_files_per_scan, settings.watch_seconds_per_scan
        self._started = time.monotonic()

    def is_over(self, share: float = 1) -> bool:
        """Whether this share of the scan's files, or after at least one file of its time, is used."""
        files = self.results.total() + len(self.unfinished)
        late = time.monotonic() - self._started > share * self._seconds
        return files >= max(1, share * self._files) or (files > 0 and late)

    async def run(self, taken: TakenFile) -> None:
        outcome = await import_taken(taken, self.folders, self.workspace)
        if isinstance(outcome, Unfinished):
            self.unfinished[taken.path] = outcome.why
        else:
            self.results[outcome] += 1

    def conclude(self, items: list[Item]) -> State:
        """The final state of the scan, whose message says what was skipped and why."""
        counts = {
            **dict(sorted(self.results.items())),
            "left for the next scan": self.left,
            "unfinished": len(self.unfinished),
            "skipped": len(self.skipped),
        }
        message = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "no file"
        if items:
            message += f": {listed(items)}"
        if self.unfinished:
            return Failed(message=message)
        return Completed(name=None if self.results or items else NOTHING_TO_DO, message=message)


@flow(name="watch-inbox", flow_run_name="scan of the inbox", persist_result=False, on_crashed=[tell_crash])
async def watch_inbox(workspace: Workspace = DEFAULT_WORKSPACE) -> State:
    """Import the files in the inbox that no longer change, and the files that a crashed run left.

    Args:
        workspace: The workspace of the mailboxes.
    """
    leave_no_core_file()
    settings = load_settings()
    await tell_crashes(settings)
    scan = Scan(Folders(settings.watch_folder), workspace, settings)
    await continue_left_behind(scan)
    await import_new(scan, settings.settle_seconds)
    return scan.conclude(await tell_skipped(scan, settings))


async def continue_left_behind(scan: Scan) -> None:
    """Continue files of earlier scans. Half of the scan is for new files, in case none of these finishes."""
    for taken in left_behind(scan.folders, scan.skipped):
        await scan.run(taken)
        if scan.is_over(share=0.5):
            return


async def import_new(scan: Scan, settle_seconds: float) -> None:
    seen = look(scan.folders.inbox, scan.skipped)
    await asyncio.sleep(settle_seconds)
    ready = settled(seen)
    for number, path in enumerate(ready):
        if scan.is_over():
            scan.left = len(ready) - number
            return
        if (taken := take(path, scan.folders, seen[path], scan.skipped)) is not None:
            await scan.run(taken)


async def tell_skipped(scan: Scan, settings: Settings) -> list[Item]:
    """Log and notify what no scan has named before; returns everything that was not imported."""
    items, new = note(scan.folders.root, scan.skipped | scan.unfinished)
    for item in new:
        get_run_logger().warning("%s", item)
    if new:
        await notify(f"Not imported from {scan.folders.root}: {listed(new, 10)}.", settings)
    return items


async def import_taken(taken: TakenFile, folders: Folders, workspace: str) -> str | Unfinished:
    """Import one taken file in a run of its own and write its outcome; returns the outcome in one word."""
    with taken:
        try:
            before = taken.look()
            outcome = await import_file(taken, folders, workspace)
            if taken.look() != before:  # a program still writes to it: its rows must not be lost
                return Unfinished("was changed during its import")
            if isinstance(outcome, Refusal):
                reject(taken, folders, outcome)
                return "rejected"
            if isinstance(outcome, Imported):
                finish(taken, folders, outcome.summary)
                return "imported"
        except OSError as error:  # for example a full disk
            return Unfinished(f"is unfinished ({error.strerror})")
        except StepError as error:  # or one file would stop every scan
            return Unfinished(f"is unfinished, its failed rows cannot be copied ({error})")
        return Unfinished("is unfinished: see its run")


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
