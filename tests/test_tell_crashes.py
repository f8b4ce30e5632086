"""A run whose worker died with it is told by the next scan, once, and what happens next."""

from __future__ import annotations

import os
import signal
import subprocess
from datetime import timedelta
from functools import partial

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.events.actions import ChangeFlowRunState
from prefect.states import Crashed
from pydantic import SecretStr

from flows.deployments import zombie_automation
from sandbox.outlook import running
from sandbox.script import Account
from schemas.tables import now
from tasks.tell_crashes import TOLD, tell_crash, tell_crashes
from tests.conftest import HANGING, with_changes, write_csv
from tests.support.machine import Webhook, wait_for, webhook_listening
from tests.support.shell import SCAN, Shell, at

PASSWORD = "Canary-password-of-a-mailbox"
AT_ONCE = "import datetime, tasks.tell_crashes as t; t.HOOK = datetime.timedelta(); "
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


async def run_named(client: PrefectClient, name: str) -> FlowRun:
    (run,) = await client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))
    return run


async def mark_as_the_automation_does(client: PrefectClient, run: FlowRun) -> None:
    (action,) = zombie_automation().actions
    assert isinstance(action, ChangeFlowRunState)
    await client.set_flow_run_state(run.id, Crashed(message=action.message), force=True)


def told(webhook: Webhook, run: FlowRun) -> list[str]:
    """The texts about one run; other tests have runs on the same server."""
    return [text for text, one in zip(webhook.texts, webhook.ids, strict=True) if one == f"msg_{run.id.hex}"]


async def test_a_run_that_dies_with_its_worker_is_told_once(shell: Shell) -> None:
    """A scan tells the import by its file; if the scan is killed meanwhile, the next repeats the same id."""
    file = write_csv(shell.folder / "dies with its worker.csv", [[HANGING, PASSWORD]])
    scans: list[subprocess.Popen[str]] = []
    shell.environment |= {"OUTLOOK_IMPORT_WATCH_FOLDER": str(shell.folder / "watched")}
    with (
        running({HANGING: Account("p", smtp="hang:auth")}, folder=shell.folder) as outlook,
        webhook_listening(before_answer=lambda: scans[0].kill() if scans else None) as webhook,
    ):
        shell.environment |= at(outlook) | {"OUTLOOK_IMPORT_NOTIFY_WEBHOOK": webhook.address}
        settings = with_changes(shell.settings, notify_webhook=SecretStr(webhook.address))
        with shell.start(file) as process:
            wait_for("the login", lambda: outlook.seen.passwords_received, 60)
            os.kill(process.pid, signal.SIGKILL)
        async with get_client() as client:
            run = await run_named(client, f"{file.name} to default")
            await tell_crashes(settings)
            assert told(webhook, run) == []  # it counts as running
            await mark_as_the_automation_does(client, run)
            await tell_crashes(settings)
            assert told(webhook, run) == []  # its worker may still tell it
            scans.append(shell.start_program(AT_ONCE + SCAN))
            with scans[0] as scan:
                scan.communicate(timeout=60)
            assert (scan.returncode, len(told(webhook, run))) == (-signal.SIGKILL, 1)
            for _ in range(2):
                await tell_crashes(settings, now() + timedelta(minutes=1))
            first, again = told(webhook, run)
            assert TOLD in (await client.read_flow_run(run.id)).tags
    assert first.startswith(f"The run {file.name} to default crashed. What it stored stays, and the next ")
    assert "imports list`. The next scan continues with a file from the inbox." in again
    assert PASSWORD not in str(webhook.bodies)


async def test_a_notice_that_does_not_arrive_is_sent_again(shell: Shell) -> None:
    """While the receiver is down a crash stays untold; without a receiver, Prefect is not even asked."""
    from flows.retest_pending import retest_pending

    async with get_client() as client:
        run = await client.create_flow_run(retest_pending, parameters={"workspace": "north"}, name="a retest")
        await mark_as_the_automation_does(client, run)
        tell = partial(tell_crashes, before=now() + timedelta(minutes=1))
        for status in (500, 204):
            await tell(shell.settings)
            with webhook_listening(status=status) as webhook:
                await tell(with_changes(shell.settings, notify_webhook=SecretStr(webhook.address)))
            assert (TOLD in (await client.read_flow_run(run.id)).tags) is (status == 204)
    (text,) = told(webhook, run)
    assert text.startswith("The run a retest crashed. The next run continues from there. ")
    assert "mailboxes list --status pending --workspace north`" in text


async def test_what_the_hook_has_told_is_not_told_again(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's hook tells a crash at once, and the next scan leaves it alone."""
    from flows.watch_inbox import watch_inbox

    async with get_client() as client:
        run = await client.create_flow_run(watch_inbox, name="a scan")
        await mark_as_the_automation_does(client, run)
        with webhook_listening() as webhook:
            monkeypatch.setenv("OUTLOOK_IMPORT_NOTIFY_WEBHOOK", webhook.address)
            await tell_crash(watch_inbox, run, Crashed())
            settings = with_changes(shell.settings, notify_webhook=SecretStr(webhook.address))
            await tell_crashes(settings, now() + timedelta(minutes=1))
    (text,) = told(webhook, run)
    assert text.startswith("The run a scan crashed. The next scan continues with its files. If they stay, ")
