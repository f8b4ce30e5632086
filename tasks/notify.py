"""Send notifications to a webhook or a Prefect notification block, with counts and without secrets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import httpx
from prefect import get_run_logger
from prefect.blocks.core import Block
from prefect.exceptions import MissingContextError

from schemas.settings import Settings
from schemas.verdicts import ProbeReport, Stop

SECONDS = 10
LOGGER = logging.getLogger(__name__)
# These libraries log the URL at INFO or DEBUG. Here the URL is a secret.
URL_LOGGERS = ("httpx", "urllib3", "apprise")


async def notify(text: str, settings: Settings, notice_id: str | None = None) -> bool:
    """Send a text to the webhook and the block in the settings. A failure is logged and not raised.

    Args:
        notice_id: The same for each repeat of a notice that may be sent again.

    Returns:
        Whether one of them has accepted it.
    """
    hide_addresses()
    arrived = False
    if settings.notify_webhook is not None:
        posting = _post(settings.notify_webhook.get_secret_value(), text, notice_id)
        arrived |= await _send("webhook", posting)
    if settings.notify_block is not None:
        arrived |= await _send("Prefect block", _notify_block(settings.notify_block, text))
    return arrived


def hide_addresses() -> None:
    """Keep libraries from logging the URLs that they call."""
    for name in URL_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


async def tell_guard(about: str, report: ProbeReport, counts: str, settings: Settings) -> None:
    """Send a notification if the lockout guard stopped a run of tests.

    Args:
        about: What was tested, such as a file name.
        counts: The counts of the run.
    """
    if report.stopped == Stop.GUARD:
        await notify(f"{about}: {report.why_stopped} {counts}.", settings)


async def _post(address: str, text: str, notice_id: str | None) -> None:
    headers = {"webhook-id": notice_id} if notice_id else {}
    async with httpx.AsyncClient() as client:
        response = await client.post(address, json={"text": text}, headers=headers)
        response.raise_for_status()


async def _notify_block(name: str, text: str) -> None:
    block: Any = await Block.aload(name)
    await block.notify(text)


async def _send(what: str, sending: Coroutine[Any, Any, None]) -> bool:
    try:
        async with asyncio.timeout(SECONDS):
            await sending
    except Exception as error:  # noqa: BLE001  blocks run foreign code, and the text may contain a secret URL
        logger_of_run().warning("The notification to the %s failed: %s", what, type(error).__name__)
        return False
    return True


def logger_of_run() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """The logger of the flow run, or of this module outside a run."""
    try:
        return get_run_logger()
    except MissingContextError:
        return LOGGER
