"""Tell changes of status: to a webhook signed by the Standard Webhooks scheme, and as events of Prefect.

A notice counts as told when its receiver has answered 2xx. Until then each run that tests mailboxes sends it
again, with the same id, so that the receiver can drop a repeat. A failure never stops a run.

Source: Standard Webhooks, “Webhook headers” and “Verifying signatures”.
"""

from __future__ import annotations

import asyncio

import httpx
import stamina
from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL
from standardwebhooks import Webhook

from schemas.changes import Notice
from schemas.settings import Settings
from schemas.tables import now
from tasks.notify import hide_addresses, logger_of_run
from tasks.storage.changes import put_away, take_notice
from tasks.storage.database import Database

# Seconds: for one request, before the first repeat and before the later ones, and for everything.
REQUEST, FIRST_PAUSE, LONGEST_PAUSE, ALTOGETHER = 5.0, 0.5, 5.0, 30.0
ATTEMPTS = 4


class NotAcceptedError(Exception):
    """The receiver did not answer 2xx. The text is a status or the type of an error, and has no address."""


async def tell_changes(database: Database, settings: Settings) -> None:
    """Send the notices that have not arrived yet. A failure is logged and not raised."""
    try:
        async with asyncio.timeout(ALTOGETHER):
            while (notice := await asyncio.to_thread(take_notice, database)) is not None:
                if not notice.again:
                    emit(notice)
                arrived = await _arrives(notice, settings)
                await asyncio.to_thread(put_away, database, notice.id, told=arrived)
                if not arrived:
                    break
    except Exception as error:  # noqa: BLE001  a run must not fail here, and the next one continues
        logger_of_run().warning("Changes of mailboxes were not told: %s", type(error).__name__)


def emit(notice: Notice) -> None:
    """Send Prefect an event for each change, so that an automation can act on it."""
    if not PREFECT_API_URL.value():  # Prefect would start a server of its own for them
        return
    for change in notice.changes:
        emit_event(
            f"outlook-import.mailbox.{change.after}",
            resource={
                "prefect.resource.id": f"outlook-import.mailbox.{change.mailbox_id}",
                "prefect.resource.name": change.email,
                "outlook-import.workspace": change.workspace,
                "outlook-import.before": change.before or "",
                "outlook-import.after": change.after,
            },
            occurred=change.at,
            payload=change.told(),
        )


async def _arrives(notice: Notice, settings: Settings) -> bool:
    """Send a notice, and again after growing pauses; True if it has arrived or there is no receiver."""
    if settings.webhook_url is None or settings.webhook_secret is None:
        return True
    hide_addresses()
    address = settings.webhook_url.get_secret_value()
    signer = Webhook(settings.webhook_secret.get_secret_value())
    attempts = stamina.retry_context(
        NotAcceptedError,
        attempts=ATTEMPTS,
        timeout=ALTOGETHER,
        wait_initial=FIRST_PAUSE,
        wait_max=LONGEST_PAUSE,
        wait_jitter=FIRST_PAUSE,
    )
    try:
        async for attempt in attempts:
            with attempt:
                await _post(address, signer, notice)
    except NotAcceptedError as error:
        logger_of_run().warning(
            "The webhook did not accept a notice about %d mailboxes (%s): the next run sends it again",
            notice.total,
            error,
        )
        return False
    return True


async def _post(address: str, signer: Webhook, notice: Notice) -> None:
    """Send a notice once; of the answer, only the status is read.

    Raises:
        NotAcceptedError: If the answer is not 2xx, or there is none.
    """
    moment = now()
    headers = {
        "content-type": "application/json",
        "webhook-id": notice.id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": signer.sign(notice.id, moment, notice.body),
    }
    try:
        async with (
            asyncio.timeout(REQUEST),
            httpx.AsyncClient(timeout=REQUEST) as client,
            client.stream("POST", address, content=notice.body.encode(), headers=headers) as response,
        ):
            if response.is_success:
                return
            fault = f"status {response.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        fault = type(error).__name__
    # Outside the block: the error that it replaces may quote the address, which is a secret.
    raise NotAcceptedError(fault)
