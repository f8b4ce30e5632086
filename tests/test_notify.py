"""Refused files, tripped guards and crashes are reported to a webhook, with counts and without secrets."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from pydantic import SecretStr

from sandbox.outlook import running
from sandbox.script import Account
from schemas.labels import LABEL_RULE
from schemas.settings import Settings
from tasks.files.inbox import Folders
from tasks.notify import notify
from tasks.tell_crashes import TOLD
from tests.conftest import HANGING, with_changes, write_csv
from tests.support.machine import Machine, Webhook, wait_for, webhook_listening
from tests.support.shell import Shell, at

PASSWORD = "Canary-password-of-a-mailbox"


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with webhook_listening() as listening:
        yield listening


def test_refused_files_are_reported(shell: Shell, webhook: Webhook) -> None:
    """A file that the inbox refuses is reported by its name and reason, and never by its content."""
    shell.environment |= {
        "OUTLOOK_IMPORT_WATCH_FOLDER": str(shell.folder),
        "OUTLOOK_IMPORT_SETTLE_SECONDS": "0",
        "OUTLOOK_IMPORT_NOTIFY_WEBHOOK": webhook.address,
    }
    inbox = Folders(shell.folder).inbox
    (inbox / "b@d!").mkdir()
    for name in ("no address column.csv", "b@d!/no tag.csv"):
        write_csv(inbox / name, [["Ann", PASSWORD]], ("name", "password"))
    assert shell.scan() == "2 rejected"
    assert sorted(webhook.texts) == [
        "no address column.csv was refused: CSV must have email and password columns. Nothing was changed.",
        f"no tag.csv was refused: The folder's name cannot be a tag: {LABEL_RULE}. Nothing was changed.",
    ]


@pytest.mark.slow
def test_tripped_guard_is_reported_with_counts(shell: Shell, webhook: Webhook) -> None:
    """When nearly all passwords of a file are wrong, the report has the run's counts, also for a retest."""
    rows = [[f"user{n}@contoso.com", PASSWORD] for n in range(8)]
    with running({email: Account("right") for email, _ in rows}, folder=shell.folder) as outlook:
        shell.environment |= at(outlook) | {
            "OUTLOOK_IMPORT_GUARD_AFTER": "3",
            "OUTLOOK_IMPORT_PROBE_CONCURRENCY": "1",
            "OUTLOOK_IMPORT_PROBE_GROUP_SIZE": "1",
            "OUTLOOK_IMPORT_NOTIFY_WEBHOOK": webhook.address,
        }
        shell.run(write_csv(shell.folder / "wrong.csv", rows))
        shell.run("--held", module="flows.retest_pending")
    text, again = webhook.texts
    assert text.startswith("wrong.csv: Stopped by the lockout guard")
    assert "imported 8, skipped 0, failed 0; 0 active, " in text
    assert "not tested" in text
    assert again.startswith("A retest: Stopped by the lockout guard")
    assert PASSWORD not in str(webhook.bodies)


async def test_address_is_in_no_log(
    settings: Settings, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    """With every library's debug logging on, no log line contains the address, whose path is a secret."""
    caplog.set_level(logging.DEBUG)
    await notify("text", with_changes(settings, notify_webhook=SecretStr(webhook.address)))
    assert webhook.texts == ["text"]
    assert "httpcore" in caplog.text
    assert webhook.secret not in caplog.text


@pytest.mark.slow
def test_unreachable_webhook_stops_nothing_and_is_not_named(shell: Shell) -> None:
    """If the webhook is unreachable, the error is logged without the address and the work continues."""
    address = f"http://127.0.0.1:9/{Webhook.secret}"
    shell.environment |= {
        "OUTLOOK_IMPORT_WATCH_FOLDER": str(shell.folder),
        "OUTLOOK_IMPORT_SETTLE_SECONDS": "0",
        "OUTLOOK_IMPORT_NOTIFY_WEBHOOK": address,
        "OUTLOOK_IMPORT_NOTIFY_BLOCK": "custom-webhook/there-is-none",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
    }
    write_csv(Folders(shell.folder).inbox / "empty.csv", [])
    assert shell.scan() == "1 rejected"
    said = shell.last.stderr
    assert "The notification to the webhook failed: ConnectError" in said
    assert "The notification to the Prefect block failed: ValueError" in said
    assert Webhook.secret not in said


async def test_answer_that_is_no_success_is_logged(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A webhook that answers with an error, or has an invalid address, is logged without the address."""
    with webhook_listening(status=500) as webhook, caplog.at_level(logging.WARNING, "tasks.notify"):
        for address in (webhook.address, f"no-address-{webhook.secret}"):
            await notify("text", with_changes(settings, notify_webhook=SecretStr(address)))
    assert caplog.messages == [
        "The notification to the webhook failed: HTTPStatusError",
        "The notification to the webhook failed: UnsupportedProtocol",
    ]


@pytest.mark.usefixtures("prefect_server")
async def test_notification_block_gets_the_text(
    settings: Settings, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    """A notification block registered with Prefect gets the text, and one that fails stops nothing."""
    for name, secret in (("told", webhook.address), ("failing", "http://127.0.0.1:9")):
        block = CustomWebhookNotificationBlock(
            name=name, url="{{address}}", json_data={"text": "{{body}}"}, secrets={"address": secret}
        )
        await block.save(name, overwrite=True)
        await notify("2 mailboxes", with_changes(settings, notify_block=f"custom-webhook/{name}"))
    assert webhook.texts == ["2 mailboxes"]
    assert caplog.messages == ["The notification to the Prefect block failed: ConnectError"]


@pytest.mark.slow
def test_crashed_run_is_reported(machine: Machine) -> None:
    """If the process of a deployment's run is killed, the worker reports it, and the run ends as crashed."""
    file = write_csv(machine.watched / "hanging.csv", [[HANGING, PASSWORD]])
    run_id = machine.create_run(file=str(file)).json()["id"]
    wait_for("the first probe", lambda: "login-progress" in machine.artifacts(run_id), 60)
    (process,) = machine.processes("PREFECT__FLOW_RUN_ID", run_id)
    os.kill(process, signal.SIGKILL)
    assert machine.ended(run_id)["state"]["type"] == "CRASHED"
    wait_for(
        "the message", lambda: "The run hanging.csv to default crashed. " in str(machine.webhook.texts), 20
    )
    wait_for("the tag", lambda: TOLD in machine.run(run_id)["tags"], 5)
    assert PASSWORD not in str(machine.webhook.bodies)
