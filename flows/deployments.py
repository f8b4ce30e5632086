"""What a Prefect server has to know: the work pool, the deployments and the automation.

Running `outlook-import deploy` again changes nothing.
"""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType, WorkerStatus
from prefect.events.actions import ChangeFlowRunState
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_SERVER_UI_STATIC_DIRECTORY

from flows.states import ENDS
from tasks.files.prefect_profile import HEARTBEAT_SECONDS
from tasks.trim import FLOWS

PROJECT = Path(__file__).resolve().parent.parent
WORK_POOL = "outlook-import"
SCHEDULED = (
    "watch-inbox/scheduled",
    "retest-pending/scheduled",
    "recheck-active/scheduled",
    "trim-history/scheduled",
)
DEPLOYMENTS = ("import-outlook/manual", *SCHEDULED)
# Names of the first edition: their schedules would keep running beside the new ones.
FORMER = ("watch-inbox/every-minute", "retest-pending/every-10-minutes", "trim-history/every-day")
AUTOMATION = "outlook-import: mark runs as crashed whose process has died"
# With a command of its own, a worker starts a run's process at once. Without one, Prefect first prepares a
# workspace in a process that imports all of Prefect, which costs about a second.
ENGINE = [str(Path(sys.prefix) / "bin" / "python"), "-m", "prefect.engine"]
# No `command`, `env` or working directory that a caller could choose. `env` has to be absent: even an empty
# one lets the caller's through.
CLOSED_TEMPLATE = {
    "job_configuration": {"command": shlex.join(ENGINE), "stream_output": True},
    "variables": {"type": "object", "properties": {}, "additionalProperties": False},
}
NO_FOREIGN_HOSTS = '<meta http-equiv="Content-Security-Policy" content="connect-src \'self\'">'
SILENCE = timedelta(seconds=3 * HEARTBEAT_SECONDS)


class DeployError(Exception):
    """Prefect refused a part; the text is Prefect's own."""


def deploy() -> None:
    """Set up work pool, deployments and automation on the configured Prefect server.

    Raises:
        DeployError: When Prefect refuses.
    """
    asyncio.run(close_work_pool())
    prefect("deploy", "--all")
    asyncio.run(finish())
    silence_ui()


async def close_work_pool() -> None:
    """Create the work pool, or take from an existing one what lets a caller choose the worker's command."""
    async with get_client() as client:
        try:
            await client.read_work_pool(WORK_POOL)
        except ObjectNotFound:
            wanted = WorkPoolCreate(name=WORK_POOL, type="process", base_job_template=CLOSED_TEMPLATE)
            await client.create_work_pool(wanted)
        else:
            await client.update_work_pool(WORK_POOL, WorkPoolUpdate(base_job_template=CLOSED_TEMPLATE))


def silence_ui() -> None:
    """Keep Prefect's pages from calling an analytics host, which no setting of Prefect does.

    The server copies its pages to a folder of ours (`tasks.files.prefect_profile`) and serves them there.
    """
    folder = PREFECT_SERVER_UI_STATIC_DIRECTORY.value()
    for page in Path(folder).glob("*/index.html") if folder else ():
        text = page.read_text("utf-8")
        if NO_FOREIGN_HOSTS not in text:
            page.write_text(text.replace("<head>", f"<head>{NO_FOREIGN_HOSTS}", 1), "utf-8")


def prefect(*arguments: str) -> None:
    done = subprocess.run(  # noqa: S603  our own words
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DeployError(f"prefect {' '.join(arguments)}: {done.stderr or done.stdout}")


def zombie_automation() -> AutomationCore:
    """Mark a run as crashed when it sends no heartbeat for 90 seconds and has not ended.

    Otherwise a run whose worker was killed stays Running for ever, or Pending if its process had not started,
    and blocks the next scan. The processes have to send heartbeats: PREFECT_FLOWS_HEARTBEAT_FREQUENCY=30.

    Source: Prefect's documentation, “Detect zombie flows”.
    """
    return AutomationCore(
        name=AUTOMATION,
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": FLOWS},
            # A worker names both states. An event can be lost when the server is killed.
            after={f"prefect.flow-run.{sign}" for sign in ("Pending", "Submitting", "heartbeat")},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{end}" for end in ENDS)},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="The process of this run died: it stopped sending heartbeats.",
            )
        ],
    )


async def online_workers() -> list[str]:
    """The names of the workers that serve the work pool now."""
    async with get_client() as client:
        workers = await client.read_workers_for_work_pool(WORK_POOL)
    return [worker.name for worker in workers if worker.status == WorkerStatus.ONLINE]


async def finish() -> None:
    """Remove deployments under their former names, and set up the automation."""
    wanted = zombie_automation()
    async with get_client() as client:
        for name in FORMER:
            with suppress(ObjectNotFound):
                await client.delete_deployment((await client.read_deployment_by_name(name)).id)
        found = await client.read_automations_by_name(AUTOMATION)
        if not found:
            await client.create_automation(wanted)
        # An update makes Prefect forget which runs it watches, and they would never be found dead.
        elif (found[0].trigger, found[0].actions) != (wanted.trigger, wanted.actions):
            await client.update_automation(found[0].id, wanted)
