"""The Prefect profile: one private file with the login and the settings of server, worker and commands.

Anyone who may use Prefect's API can run code as the worker, so the server asks for a login. Prefect reads it
from the file that PREFECT_PROFILES_PATH names, and then no process shows it in its arguments. Prefect itself
neither checks the file's mode nor complains about a missing file: it starts a server without a login instead.
"""

from __future__ import annotations

import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from schemas.settings import SettingsError
from tasks.files.private_files import read_secret_file, write_privately

VARIABLE = "PREFECT_PROFILES_PATH"
NAME = "outlook-import"
USER = "outlook-import"
HEARTBEAT_SECONDS = 30
QUERY_SECONDS = 2
# Task runs reach the server's database as events, one at a time unless the recorder batches them.
RECORDER_SETTINGS = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}


def new_login() -> str:
    """A user name and a random password, as Prefect's sign-in form and clients take them."""
    return f"{USER}:{secrets.token_urlsafe(32)}"


def closed(origin: str, login: str) -> dict[str, str]:
    """The settings that close a server and let its clients in.

    Args:
        origin: Where browsers reach the server, such as `http://127.0.0.1:4200`.
    """
    return {
        "PREFECT_API_URL": f"{origin}/api",
        "PREFECT_API_AUTH_STRING": login,
        "PREFECT_SERVER_API_AUTH_STRING": login,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": origin,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }


def write_profile(path: Path, origin: str) -> None:
    """Write the profile for a server, and keep the login if the file has one.

    Raises:
        SettingsError: If another user owns the file or can read it, or its folder cannot be used.
    """
    login = read_profile(path).get("PREFECT_API_AUTH_STRING") if path.exists() else None
    settings = closed(origin, login or new_login()) | {
        "PREFECT_SERVER_API_PORT": str(urlsplit(origin).port or 4200),
        "PREFECT_SERVER_UI_API_URL": "/api",  # the page's own origin, under every name of the machine
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(path.absolute().with_name("prefect-ui")),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # In memory, a restart of the server would forget which scan holds the one slot.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # The automation listens for heartbeats to find runs whose process has died.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        # Prefect's default of 10 would let a worker rest for half of that after each run.
        "PREFECT_WORKER_QUERY_SECONDS": str(QUERY_SECONDS),
        **RECORDER_SETTINGS,
    }
    lines = [f'active = "{NAME}"', "", f"[profiles.{NAME}]"]
    lines += [f"{name} = {_quoted(value)}" for name, value in settings.items()]
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_privately(path, ("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from None


def read_profile(path: Path) -> Mapping[str, str]:
    """Read the settings of a profile file's active profile.

    Raises:
        SettingsError: If the file is missing or no profile file, or holds a login that other users can read.
    """
    try:
        document = tomllib.loads(read_secret_file(path))
        settings = document["profiles"][document["active"]]
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, KeyError, TypeError):
        raise SettingsError(f"{path} is not a Prefect profile file") from None
    return {str(name): str(value) for name, value in settings.items()}


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
