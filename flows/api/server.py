"""The process that serves the HTTP API."""

from __future__ import annotations

from typing import Any

import uvicorn

from flows.api.app import create_app
from flows.api.middleware import Protocol
from schemas.settings import Settings

DRAIN_SECONDS = 30

LOG_TO_STDERR: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        name: {"handlers": ["stderr"], "level": "INFO", "propagate": False}
        for name in ("uvicorn", "flows", "tasks")
    }
    | {"python_multipart": {"level": "CRITICAL"}},  # it quotes bytes of malformed requests
}


def server(settings: Settings, host: str, port: int, log: dict[str, Any] | None = None) -> uvicorn.Server:
    """The server, ready to run. `log` is a logging configuration; None leaves logging unchanged."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=host,
            port=port,
            http=Protocol,
            ws="none",
            log_config=log,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )
