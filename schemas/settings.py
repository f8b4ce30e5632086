"""The settings, read from the environment on request and never at import time."""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from schemas.bounds import DEFAULT_BOUNDS, Bounds
from schemas.providers import Endpoint, Servers, endpoint_of
from schemas.reasons import Protocol
from schemas.standing import Needs

PREFIX = "OUTLOOK_IMPORT_"
COMMAND_VARIABLE = f"{PREFIX}COMMAND"  # how printed commands call this program; not a setting
DATA = Path(__file__).parent.parent / "data"
MIB = 1024 * 1024


class SettingsError(Exception):
    """A setting, or a file or folder that it names, cannot be used. The text never quotes a secret."""


def _endpoint(value: Any) -> Endpoint:
    parts = re.fullmatch(r"([\w.-]+|\[[\da-fA-F:.]+\]):(\d{1,5})", str(value).strip())
    if parts is None or not 0 < int(parts[2]) < 65536:
        raise ValueError("must have the form host:port")
    return Endpoint(parts[1].strip("[]"), int(parts[2]))


def _mail_server(protocol: Protocol, value: Any) -> Endpoint:
    scheme, separator, rest = str(value).strip().rpartition("://")
    try:
        if separator and not scheme:
            raise ValueError
        return endpoint_of(protocol, scheme.lower(), *_endpoint(rest))
    except ValueError:
        raise ValueError(
            f"must have the form host:port, {protocol}s://host:port or {protocol}://host:port"
        ) from None


def _dns_server(value: Any) -> Endpoint:
    try:
        endpoint = _endpoint(value)
        ipaddress.ip_address(endpoint.host)
    except ValueError:
        raise ValueError("must have the form address:port, with an IP address") from None
    return endpoint


def _json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value or "{}")
    except ValueError:
        raise ValueError("must be valid JSON") from None


def _webhook_secret(value: SecretStr | None) -> SecretStr | None:
    if value is None:
        return None
    kind, _, key = value.get_secret_value().rpartition("_")
    try:
        size = len(base64.b64decode(key, validate=True))
    except ValueError:
        size = 0
    if kind != "whsec" or not 24 <= size <= 64:
        raise ValueError("must be whsec_ followed by base64 of 24 to 64 bytes")
    return value


class ServersEntry(BaseModel, extra="forbid"):
    """The servers of one domain in the setting `servers`."""

    smtp: Annotated[Endpoint, BeforeValidator(partial(_mail_server, Protocol.SMTP))]
    imap: Annotated[Endpoint, BeforeValidator(partial(_mail_server, Protocol.IMAP))]


class Settings(BaseSettings):
    """All settings with their defaults. Each variable is `OUTLOOK_IMPORT_` and the name in upper case."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, hide_input_in_errors=True, frozen=True
    )

    database_url: SecretStr = Field(
        SecretStr(f"sqlite:///{DATA / 'mailboxes.db'}"),
        description="Database for the mailboxes: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.",
    )
    encryption_keys: SecretStr | None = Field(
        None,
        description="Encryption keys: base64 of 32 bytes each, separated by commas. The first key seals, all "
        "keys unseal. If it is not set, SQLite uses a key file that is created next to the database.",
    )
    servers: Annotated[dict[str, ServersEntry], NoDecode, BeforeValidator(_json)] = Field(
        {},
        description="Servers by domain of the address, as JSON: "
        '{"contoso.com": {"smtp": "mail.contoso.com:587", "imap": "mail.contoso.com:993"}}. '
        "* applies to all other domains. SMTP port 465 and IMAP start with TLS, and the other SMTP ports and "
        "IMAP port 143 with STARTTLS; smtps://, smtp://, imaps:// or imap:// in front of the host says "
        "otherwise.",
    )
    mx_lookup: bool = Field(
        True,
        description="Whether to look up the mail exchangers (MX) of each domain before its first password is "
        "sent. If they belong to another provider, no password is sent. Domains in `SERVERS` are not looked "
        "up.",
    )
    dns_servers: Annotated[
        tuple[Annotated[Endpoint, BeforeValidator(_dns_server)], ...], NoDecode, BeforeValidator(_json)
    ] = Field(
        (),
        description="DNS servers for this look-up instead of the machine's, as a JSON list: "
        '["192.0.2.53:53", "[2001:db8::53]:53"].',
    )
    ca_file: Path | None = Field(
        None, description="File of certificate authorities (PEM) to trust in addition to the system's."
    )
    max_file_bytes: int = Field(
        10 * MIB, gt=0, le=1024 * MIB, description="Maximum size of a file, in bytes."
    )
    max_rows: int = Field(
        DEFAULT_BOUNDS.rows,
        gt=0,
        le=100_000,
        description="Maximum number of rows in a file, duplicates included.",
    )
    max_columns: int = Field(
        DEFAULT_BOUNDS.columns, gt=0, le=1000, description="Maximum number of columns in a file."
    )
    probe_timeout: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Maximum duration of one probe (one protocol of one mailbox), in seconds, including the "
        "DNS lookup.",
    )
    probe_concurrency: int = Field(
        50, ge=1, description="Maximum number of concurrent tests per host in one process."
    )
    probe_group_size: int = Field(50, ge=1, description="Maximum number of mailboxes in one task run.")
    probe_attempts: int = Field(
        5, ge=1, description="Number of temporary failures after which a mailbox counts as failed."
    )
    needs: Needs = Field(
        Needs.BOTH,
        description="What mailboxes are needed for, unless an import says otherwise: both (send and "
        "receive), smtp (send) or imap (receive). Only these protocols are tested.",
    )
    guard_after: int = Field(
        20, ge=1, description="Lockout guard: number of passwords to check before the guard can stop a run."
    )
    guard_share: float = Field(
        0.9, gt=0, le=1, description="Lockout guard: share of wrong passwords that stops a run."
    )

    watch_folder: Path = Field(
        DATA,
        description="Folder that contains the watched inbox/, and processing/, processed/, failed/ and "
        "rejected/.",
    )
    settle_seconds: float = Field(
        5.0,
        ge=0,
        description="Seconds for which a file in the inbox must stay unchanged before it is taken.",
    )
    watch_files_per_scan: int = Field(
        50, ge=1, description="Maximum number of files that one scan of the inbox imports."
    )
    watch_seconds_per_scan: float = Field(
        300, gt=0, description="Seconds after which a scan of the inbox starts no further import."
    )
    import_folders: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_json)] = Field(
        (DATA,),
        description="Folders from which a deployment can read files, as a JSON list. The command line can "
        "read any file.",
    )
    prefect_profile: Path = Field(
        DATA / "prefect.toml",
        description="The Prefect profile that `up` and `prefect-profile` write: the login and the settings "
        "of the Prefect server.",
    )
    notify_webhook: SecretStr | None = Field(
        None,
        description="URL that receives a POST with a JSON text when a file is refused, the lockout guard "
        "stops a run, or a run crashes.",
    )
    notify_block: str | None = Field(
        None,
        description="Prefect notification block that receives the same messages, such as slack-webhook/ops.",
    )

    webhook_secret: Annotated[SecretStr | None, AfterValidator(_webhook_secret)] = Field(
        None,
        description="Key that signs what `WEBHOOK_URL` receives: whsec_ and base64 of 24 to 64 random bytes.",
    )
    webhook_url: SecretStr | None = Field(
        None,
        description="URL that receives a POST when mailboxes stop or start working, signed by the Standard "
        "Webhooks scheme. It needs `WEBHOOK_SECRET`.",
    )
    prefect_idle_seconds: int = Field(
        300,
        ge=0,
        le=86_400,
        description="How long the Prefect server of the command line stays for the next command, which then "
        "starts faster. 0 ends it with the command.",
    )
    recheck_days: int = Field(
        7,
        ge=0,
        le=365,
        description="Days in which each working mailbox is tested again once. 0 turns it off.",
    )

    api_requests_per_minute: int = Field(
        600, ge=1, description="HTTP API: maximum number of requests per key and minute."
    )
    api_imports_at_once: int = Field(
        4, ge=1, description="HTTP API: maximum number of concurrent imports per key."
    )
    api_connections: int = Field(
        500,
        ge=1,
        description="HTTP API: maximum number of connections. At most half of the files that the process can "
        "open are used.",
    )
    api_connections_per_address: int = Field(
        100,
        ge=1,
        description="HTTP API: maximum number of connections per IPv4 address or IPv6 /64 network. Behind a "
        "proxy all clients share one address: raise it there.",
    )
    api_header_seconds: float = Field(
        10, gt=0, description="HTTP API: seconds in which the headers of a request must arrive."
    )
    api_body_rate: int = Field(
        1000,
        ge=1,
        description="HTTP API: minimum rate of an upload, in bytes per second, measured over 10 seconds.",
    )
    api_body_seconds: float = Field(
        600, gt=0, description="HTTP API: seconds in which an upload must arrive."
    )
    api_streams: int = Field(
        64, ge=1, description="HTTP API: maximum number of open event streams of all keys together."
    )
    api_streams_per_key: int = Field(
        8, ge=1, description="HTTP API: maximum number of open event streams per key."
    )
    api_stream_seconds: float = Field(
        600, gt=0, description="HTTP API: seconds after which an event stream ends; clients then reconnect."
    )

    api_proxies: str = Field(
        "",
        description="HTTP API: addresses of the proxies in front of it, separated by commas. "
        "`X-Forwarded-For` and `X-Forwarded-Proto` are believed only from these.",
    )

    keep_results_days: int = Field(
        90, ge=1, description="Days after which superseded probe results and row errors are deleted."
    )
    keep_runs_days: int = Field(
        7, ge=1, description="Days after which finished flow runs are deleted from Prefect."
    )

    @field_validator("webhook_url")
    @classmethod
    def _is_signed(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and info.data.get("webhook_secret") is None:
            raise ValueError(f"needs {PREFIX}WEBHOOK_SECRET")
        return value

    @cached_property
    def overrides(self) -> dict[str, Servers]:
        """The setting `servers` by domain in lower case."""
        return {domain.lower(): Servers(entry.smtp, entry.imap) for domain, entry in self.servers.items()}

    @property
    def bounds(self) -> Bounds:
        """How much of a file is read."""
        return Bounds(self.max_rows, self.max_columns)

    @property
    def claim_lease(self) -> timedelta:
        """How long a run can claim a mailbox.

        Time for two preflights, two logins that are ahead in the queue, its own two logins, and some slack.
        """
        return timedelta(seconds=6 * self.probe_timeout + 10)


def read_settings() -> tuple[Settings, list[tuple[str, str]]]:
    """Read the settings from the environment.

    Returns:
        The settings, with the default in place of each invalid value; and for each invalid value the name of
        the setting and a message, which names the variable but not the value.
    """
    try:
        return Settings(), []
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False, include_context=False)
    named = [(str(fault["loc"][0]), f"{_place(fault['loc'])}: {_what(fault['msg'])}") for fault in faults]
    return Settings(**{name: Settings.model_fields[name].default for name, _ in named}), named


def _place(loc: tuple[int | str, ...]) -> str:
    """The variable and the keys inside its JSON. Keys that may be secret show as “…”."""
    variable, *keys = map(str, loc)
    known = re.compile(r"\*|smtp|imap|\d{1,3}|[a-z0-9-]+(\.[a-z0-9-]+)+", re.IGNORECASE)
    return " → ".join((PREFIX + variable.upper(), *(key if known.fullmatch(key) else "…" for key in keys)))


def _what(message: str) -> str:
    return message.removeprefix("Value error, ")
