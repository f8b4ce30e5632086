"""Tell somebody: by a webhook or one of Prefect's notification blocks, with counts and without secrets."""

from __future__ import annotations

import logging
from typing import Any

import httpx
from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound

from schemas.settings import Settings

WEBHOOK_SECONDS = 10
LOGGER = logging.getLogger(__name__)


async def notify(text: str, settings: Settings) -> None:
    """Send a text wherever the settings say; that it could not be sent is logged and stops nothing."""
    if settings.notify_webhook is not None:
        try:
            async with httpx.AsyncClient(timeout=WEBHOOK_SECONDS) as client:
                answer = await client.post(settings.notify_webhook.get_secret_value(), json={"text": text})
                answer.raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # its text holds the address, which is a secret
            LOGGER.warning("The webhook was not told: %s", type(error).__name__)
    if settings.notify_block is not None:
        try:
            block: Any = await Block.aload(settings.notify_block)
            await block.notify(text)
        except (ObjectNotFound, ValueError, AttributeError, OSError, httpx.HTTPError) as error:
            LOGGER.warning("The notification block was not told: %s", type(error).__name__)
