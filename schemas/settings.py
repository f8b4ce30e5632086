"""The settings: read from the environment when they are asked for, never at import."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from schemas.providers import Endpoint, Servers

PREFIX = "OUTLOOK_IMPORT_"
COMMAND_VARIABLE = f"{PREFIX}COMMAND"  # how printed advice calls this program; no setting of a run
DATA = Path(__file__).parent.parent / "data"
MIB = 1024 * 1024


class SettingsError(Exception):
    """The settings cannot be used as they are. The text is for the operator and quotes no value."""


def _endpoint(value: Any) -> Endpoint:
    parts = re.fullmatch(r"([\w.-]+|\[[\da-fA-F:.]+\]):(\d{1,5})", str(value).strip())
    if parts is None or not 0 < int(parts[2]) < 65536:
        raise ValueError("is not of the form host:port")
    return Endpoint(parts[1].strip("[]"), int(parts[2]))


def _json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value or "{}")
    except ValueError:
        raise ValueError("is not valid JSON") from None


class ServersEntry(BaseModel, extra="forbid"):
    smtp: Annotated[Endpoint, BeforeValidator(_endpoint)]
    imap: Annotated[Endpoint, BeforeValidator(_endpoint)]


class Settings(BaseSettings):
    """Every setting, with its default; the variable is `OUTLOOK_IMPORT_` and the name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, hide_input_in_errors=True, frozen=True
    )

    database_url: SecretStr = Field(
        SecretStr(f"sqlite:///{DATA / 'mailboxes.db'}"),
        description="Where the mailboxes are kept: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.",
    )
    encryption_keys: SecretStr | None = Field(
        None,
        description="Keys that seal the secrets: base64 of 32 bytes each, separated by commas; the first one "
        "seals. With SQLite and none set, a key file is made beside the database.",
    )
    servers: Annotated[dict[str, ServersEntry], NoDecode, BeforeValidator(_json)] = Field(
        {},
        description="Servers by domain of the address, as JSON: "
        '{"contoso.com": {"smtp": "mail.contoso.com:587", "imap": "mail.contoso.com:993"}}; '
        "* stands for every other domain.",
    )
    ca_file: Path | None = Field(
        None, description="Certificate authorities (PEM) to trust besides the system's."
    )
    max_file_bytes: int = Field(
        10 * MIB, gt=0, le=1024 * MIB, description="Largest file that is read, in bytes."
    )
    probe_timeout: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds that one protocol of one mailbox may take, from looking up the server to the "
        "verdict.",
    )
    probe_concurrency: int = Field(
        50, ge=1, description="Mailboxes tested at once in one process and on one host."
    )
    probe_group_size: int = Field(50, ge=1, description="Mailboxes in one task run.")
    probe_attempts: int = Field(
        5, ge=1, description="Attempts after which a mailbox that is only ever put off counts as failed."
    )
    guard_after: int = Field(
        20, ge=1, description="Lockout guard: verdicts on passwords that have to be in before it may trip."
    )
    guard_share: float = Field(
        0.9, gt=0, le=1, description="Lockout guard: share of wrong passwords among them that stops a run."
    )

    watch_folder: Path = Field(
        DATA,
        description="Holds the watched inbox/, and processing/, processed/, failed/ and rejected/ beside it.",
    )
    settle_seconds: float = Field(
        5.0,
        ge=0,
        description="Seconds over which a file in the inbox has to stay the same before it is taken.",
    )
    import_folders: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_json)] = Field(
        (DATA,),
        description="Folders from which a deployment may read files, as a JSON list; the command line may "
        "read any file.",
    )
    notify_webhook: SecretStr | None = Field(
        None,
        description="Address that gets a POST with a JSON text when a file is refused, the lockout guard "
        "trips or a run crashes.",
    )
    notify_block: str | None = Field(
        None, description="A Prefect notification block to tell the same, such as slack-webhook/ops."
    )

    api_requests_per_minute: int = Field(600, ge=1, description="HTTP API: requests a minute per key.")
    api_imports_at_once: int = Field(4, ge=1, description="HTTP API: imports at once per key.")

    keep_results_days: int = Field(
        90, ge=1, description="Days after which superseded answers of servers and row errors are removed."
    )
    keep_runs_days: int = Field(7, ge=1, description="Days after which Prefect's finished runs are removed.")

    @cached_property
    def overrides(self) -> dict[str, Servers]:
        return {domain.lower(): Servers(entry.smtp, entry.imap) for domain, entry in self.servers.items()}

    @property
    def claim_lease(self) -> timedelta:
        """How long a run may hold a mailbox: two preflights, two logins ahead in line, its own two, slack."""
        return timedelta(seconds=6 * self.probe_timeout + 10)


def read_settings() -> tuple[Settings, list[tuple[str, str]]]:
    """Read the settings; one that is malformed has its default, and its name and fault are returned."""
    try:
        return Settings(), []
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False, include_context=False)
    named = [(str(fault["loc"][0]), f"{_place(fault['loc'])}: {_what(fault['msg'])}") for fault in faults]
    return Settings(**{name: Settings.model_fields[name].default for name, _ in named}), named


def _place(loc: tuple[int | str, ...]) -> str:
    """The variable, and in JSON the key where it is a domain, a protocol or a number: not just anything."""
    variable, *keys = map(str, loc)
    known = re.compile(r"\*|smtp|imap|\d{1,3}|[a-z0-9-]+(\.[a-z0-9-]+)+", re.IGNORECASE)
    return " → ".join((PREFIX + variable.upper(), *(key if known.fullmatch(key) else "…" for key in keys)))


def _what(message: str) -> str:
    return message.removeprefix("Value error, ")
