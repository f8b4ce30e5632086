"""The process that serves the HTTP API."""

from __future__ import annotations

from typing import Any

from flows.api.app import bounds_of, create_app
from flows.api.connections import Server, bounded_server
from flows.api.log_throttle import LogThrottle
from schemas.settings import Settings

LOG_TO_STDERR: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "filters": {"throttle": {"()": LogThrottle}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["throttle"]},
    },
    "loggers": {
        name: {"handlers": ["stderr"], "level": "INFO", "propagate": False}
        for name in ("asyncio", "uvicorn", "flows", "tasks")
    }
    | {"python_multipart": {"level": "CRITICAL"}},  # it quotes bytes of malformed requests
}


def server(settings: Settings, host: str, port: int, log: dict[str, Any] | None = None) -> Server:
    """The server, ready to run. `log` is a logging configuration; None leaves logging unchanged."""
    return bounded_server(
        create_app(settings), bounds_of(settings), host=host, port=port, log_config=log, server_header=False
    )
