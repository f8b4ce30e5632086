"""The process that serves the HTTP API."""

from __future__ import annotations

from typing import Any

from flows.api.app import bounds_of, create_app
from flows.api.connections import Server, bounded_server
from schemas.settings import Settings


def server(settings: Settings, host: str, port: int, log: dict[str, Any] | None = None) -> Server:
    """The server, ready to run. `log` is a logging configuration; None leaves logging unchanged."""
    app = create_app(settings)
    return bounded_server(
        app,
        bounds_of(settings),
        lambda: app.state.service.streams.close(),
        host=host,
        port=port,
        log_config=log,
        server_header=False,
        # By default, uvicorn believes every process of the machine. Then a client could name another address
        # in each request, and no limit per address would hold.
        proxy_headers=bool(settings.api_proxies),
        forwarded_allow_ips=settings.api_proxies,
    )
