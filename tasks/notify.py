"""Tell somebody: by a webhook or one of Prefect's notification blocks, with counts and without secrets."""

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
# Libraries that log, at INFO or DEBUG, which address they ask; here it is a secret.
TELLTALES = ("httpx", "urllib3", "apprise")


async def notify(text: str, settings: Settings) -> None:
    """Send a text wherever the settings say; that it could not be sent is logged and stops nothing."""
    for name in TELLTALES:
        logging.getLogger(name).setLevel(logging.WARNING)
    if settings.notify_webhook is not None:
        await _guarded("webhook", _post(settings.notify_webhook.get_secret_value(), text))
    if settings.notify_block is not None:
        await _guarded("notification block", _tell(settings.notify_block, text))


async def tell_guard(about: str, report: ProbeReport, counts: str, settings: Settings) -> None:
    """Say that the lockout guard has stopped a run of tests, if it has."""
    if report.stopped == Stop.GUARD:
        await notify(f"{about}: {report.stopped.sentence} {counts}.", settings)


async def _post(address: str, text: str) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.post(address, json={"text": text})
        answer.raise_for_status()


async def _tell(name: str, text: str) -> None:
    block: Any = await Block.aload(name)
    await block.notify(text)


async def _guarded(what: str, telling: Coroutine[Any, Any, None]) -> None:
    try:
        async with asyncio.timeout(SECONDS):
            await telling
    except Exception as error:  # noqa: BLE001  a block is foreign code; and the text may hold a secret address
        _logger().warning("The %s could not be told: %s", what, type(error).__name__)


def _logger() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    try:
        return get_run_logger()
    except MissingContextError:
        return LOGGER
