"""Import a CSV of Outlook mailboxes: read, judge, store, then test every login.

The order is the promise: the whole file is judged before anything is stored, everything is stored in one
transaction before the first password leaves the machine, and the summary is there before the first probe.
A run that dies behind the store step loses nothing: its mailboxes are due, and a retest finds them.

Needs a Prefect server (one is started for the run where none is configured) and `schemas.settings`. As a
command it is `flows.command_line`, which judges the file before it pays for importing Prefect.
"""

from __future__ import annotations

if __name__ == "__main__":
    from flows.command_line import main

    raise SystemExit(main())

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from prefect import flow, unmapped
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.futures import wait
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from schemas.csv_file import Refusal
from schemas.settings import Settings, load_settings
from schemas.summary import Summary
from schemas.verdicts import ProbeReport, Target, group_targets
from tasks.database import Database, database
from tasks.dedupe import dedupe
from tasks.probe import INTERRUPTED, Probing, probe
from tasks.read_csv import read_csv
from tasks.report import publish_refusal, publish_summary, publish_verdicts, write_report
from tasks.store import Origin, store
from tasks.validate import validate


class Imported(NamedTuple):
    """What a run of the flow came to; `verdicts` is None where no login was tested."""

    summary: Summary
    verdicts: ProbeReport | None


DEFAULT_WORKSPACE = "default"
Label = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w][\w .@+-]*$")]


@flow(
    name="import-outlook",
    flow_run_name="{file.name} to {workspace}",
    persist_result=False,
)
async def import_outlook(
    file: Path,
    tag: Label | None = None,
    workspace: Label = DEFAULT_WORKSPACE,
    test: bool = True,
    encoding: str | None = None,
    report: Path | None = None,
) -> State:
    """Import a CSV of Outlook or Hotmail mailboxes with app passwords, and test each login once.

    Args:
        file: Path of the CSV file on the machine that runs the flow.
        tag: Label for the mailboxes of this import.
        workspace: Whose mailboxes they are; made if it does not exist.
        test: Test the logins once the mailboxes are stored.
        encoding: Text encoding of the file, where it is not UTF-8 and has no byte order mark.
        report: Path of a CSV report to write, a line for each row of the file.
    """
    settings = load_settings()
    await tag_run(file, tag, workspace)
    table = read_csv(file, settings.max_file_bytes, encoding)
    if isinstance(table, Refusal):
        return await refuse(table, file)
    with database(settings) as mailboxes:
        validated = validate(table, workspace, mailboxes.sealer)
        deduped = dedupe(validated.valid)
        if isinstance(deduped, Refusal):
            return await refuse(deduped, file)
        stored = store(*deduped, validated, Origin(file.name, workspace, tag, test), mailboxes, settings)
        await publish_summary(stored.summary)
        verdicts = await probe_all(stored.targets, mailboxes, settings) if test else None
    if report is not None:
        write_report(report, stored.summary, verdicts)
    return conclude(Imported(stored.summary, verdicts))


async def refuse(refusal: Refusal, file: Path) -> State:
    """End the run as failed, with the contract's message as its state's; nothing was changed."""
    await publish_refusal(refusal, file.name)
    return Failed(message=refusal.message, data=refusal)


async def probe_all(targets: Sequence[Target], mailboxes: Database, settings: Settings) -> ProbeReport:
    """Map the probe over small groups of mailboxes, as many groups at once as keep every slot busy."""
    probing = Probing(mailboxes, settings, [target.mailbox_id for target in targets])
    groups = group_targets(targets, settings.probe_group_size)
    runs = probe.map(groups, probing=unmapped(probing))
    await asyncio.to_thread(wait, runs)
    await publish_verdicts(probing.report())
    for run in runs:
        run.result()  # a fault of ours is raised here, once every other group has come to its end
    return probing.report()


def conclude(imported: Imported) -> State:
    message = str(imported.summary)
    if imported.verdicts is None:
        return Completed(message=f"{message}; not tested", data=imported)
    message = f"{message}; {imported.verdicts}"
    if imported.verdicts.stopped == INTERRUPTED:
        return Cancelled(message=message, data=imported)
    return Completed(message=message, data=imported)


async def tag_run(file: Path, tag: str | None, workspace: str) -> None:
    """Give the flow run tags to find it by: `workspace:…`, `file:…` and the import's own tag."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    found = {*context.flow_run.tags, f"workspace:{workspace}", f"file:{file.name}"}
    async with get_client() as client:
        await client.update_flow_run(context.flow_run.id, tags=found | ({tag} if tag else set()))
