"""Settings come from the environment, are read only on request, and are never shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from schemas.providers import Endpoint, Servers
from schemas.reasons import Protocol
from schemas.settings import DATA, PREFIX, Settings, SettingsError
from tasks.configuration import load_settings

ROOT = Path(__file__).resolve().parent.parent
SECRET = "Canary-5ecret"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)


def test_nothing_is_read_at_import() -> None:
    """Importing the module with a malformed environment works; reading the settings fails."""
    program = (
        "import tasks.configuration as settings; print('imported')\n"
        "try: settings.load_settings()\n"
        "except settings.SettingsError: print('refused')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env={**os.environ, f"{PREFIX}PROBE_TIMEOUT": "soon"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "imported\nrefused\n"


def test_defaults() -> None:
    """Without any variable every setting has its documented default."""
    settings = load_settings()
    assert settings.database_url.get_secret_value() == f"sqlite:///{DATA / 'mailboxes.db'}"
    assert settings.encryption_keys is None
    assert settings.overrides == {}
    assert settings.ca_file is None
    assert settings.mx_lookup is True
    assert settings.dns_servers == ()
    assert settings.max_file_bytes == 10 * 1024 * 1024
    assert settings.probe_timeout == 30
    assert settings.probe_group_size == 50
    assert settings.probe_attempts == 5
    assert settings.guard_after == 20
    assert settings.guard_share == 0.9
    assert settings.watch_folder == DATA
    assert settings.settle_seconds == 5
    assert settings.import_folders == (DATA,)
    assert settings.notify_webhook is None
    assert settings.notify_block is None
    assert settings.claim_lease > timedelta(seconds=2 * settings.probe_timeout)


def test_overrides_by_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variable overrides its setting, in any letter case."""
    authority = tmp_path / "ca.pem"
    authority.touch()
    values = {
        "DATABASE_URL": "postgresql+psycopg://me:pw@db/mail",
        "ENCRYPTION_KEYS": "AAAA,BBBB",
        "SERVERS": '{"Contoso.COM": {"smtp": "mail.contoso.com:2587", "imap": "[::1]:2993"}}',
        "CA_FILE": str(authority),
        "MX_LOOKUP": "false",
        "DNS_SERVERS": '["192.0.2.53:53", "[::1]:5353"]',
        "MAX_FILE_BYTES": "1000",
        "PROBE_TIMEOUT": "2.5",
        "PROBE_CONCURRENCY": "7",
        "probe_group_size": "3",
        "PROBE_ATTEMPTS": "2",
        "GUARD_AFTER": "4",
        "GUARD_SHARE": "0.5",
        "WATCH_FOLDER": "/srv/mail",
        "SETTLE_SECONDS": "0",
        "IMPORT_FOLDERS": '["/srv/a", "/srv/b"]',
        "NOTIFY_WEBHOOK": "https://example.com/hook",
        "NOTIFY_BLOCK": "slack-webhook/ops",
    }
    for name, value in values.items():
        monkeypatch.setenv(PREFIX + name, value)
    settings = load_settings()
    assert settings.database_url.get_secret_value() == "postgresql+psycopg://me:pw@db/mail"
    assert settings.encryption_keys is not None
    assert settings.encryption_keys.get_secret_value() == "AAAA,BBBB"
    assert settings.overrides == {
        "contoso.com": Servers(Endpoint("mail.contoso.com", 2587), Endpoint("::1", 2993))
    }
    assert settings.ca_file == authority
    assert settings.mx_lookup is False
    assert settings.dns_servers == (Endpoint("192.0.2.53", 53), Endpoint("::1", 5353))
    assert settings.max_file_bytes == 1000
    assert settings.probe_timeout == 2.5
    assert settings.probe_concurrency == 7
    assert settings.probe_group_size == 3
    assert settings.probe_attempts == 2
    assert settings.guard_after == 4
    assert settings.guard_share == 0.5
    assert settings.watch_folder == Path("/srv/mail")
    assert settings.settle_seconds == 0
    assert settings.import_folders == (Path("/srv/a"), Path("/srv/b"))
    assert settings.notify_webhook is not None
    assert settings.notify_webhook.get_secret_value() == "https://example.com/hook"
    assert settings.notify_block == "slack-webhook/ops"


@pytest.mark.parametrize(
    "name", [name for name, field in Settings.model_fields.items() if field.annotation in (int, float)]
)
def test_numbers_by_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every numeric setting accepts 1, refuses a word, and is named by its variable."""
    monkeypatch.setenv(PREFIX + name.upper(), "1")
    assert getattr(load_settings(), name) == 1
    monkeypatch.setenv(PREFIX + name.upper(), SECRET)
    with pytest.raises(SettingsError, match=f"^{PREFIX}{name.upper()}: Input should be a valid"):
        load_settings()


@pytest.mark.parametrize(
    "key",
    [SECRET, "whsec_", f"whsec_{SECRET}", "whsec_" + "QUFB" * 7, "whsec_" + "QUFB" * 22, "sec_" + "QUFB" * 8],
)
def test_key_of_the_webhook_is_checked(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is not of the scheme's form is refused by name and not shown, nor is the address."""
    monkeypatch.setenv(f"{PREFIX}WEBHOOK_SECRET", key)
    monkeypatch.setenv(f"{PREFIX}WEBHOOK_URL", f"https://example.com/{SECRET}")
    with pytest.raises(SettingsError, match="WEBHOOK_SECRET: must be whsec_ followed by") as refusal:
        load_settings()
    assert SECRET not in str(refusal.value)
    monkeypatch.setenv(f"{PREFIX}WEBHOOK_SECRET", "whsec_" + "QUFB" * 8)
    settings = load_settings()
    assert "QUFB" not in repr(settings)
    assert SECRET not in repr(settings)


def test_webhook_needs_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address without the key that signs what it receives is refused by name and not shown."""
    monkeypatch.setenv(f"{PREFIX}WEBHOOK_URL", f"https://example.com/{SECRET}")
    with pytest.raises(SettingsError, match=f"WEBHOOK_URL: needs {PREFIX}WEBHOOK_SECRET") as refusal:
        load_settings()
    assert SECRET not in str(refusal.value)


def test_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable counts as not set."""
    for name in Settings.model_fields:
        monkeypatch.setenv(PREFIX + name.upper(), "")
    assert load_settings() == Settings()


def test_frozen() -> None:
    """Settings cannot be changed."""
    with pytest.raises(ValidationError):
        load_settings().probe_timeout = 1  # type: ignore[misc]


def servers(domain: str = "contoso.com", **entry: object) -> str:
    return json.dumps({domain: {"smtp": "mail.contoso.com:587", "imap": "mail.contoso.com:993", **entry}})


HOST_PORT = "must have the form host:port"
SMTP_PLACE = "OUTLOOK_IMPORT_SERVERS → contoso.com → smtp"

DNS_SERVER = "OUTLOOK_IMPORT_DNS_SERVERS → 0: must have the form address:port, with an IP address"

MALFORMED = [
    ("DNS_SERVERS", '["dns.example.com:53"]', DNS_SERVER),
    ("DNS_SERVERS", '["192.0.2.53"]', DNS_SERVER),
    ("DNS_SERVERS", "192.0.2.53:53", "OUTLOOK_IMPORT_DNS_SERVERS: must be valid JSON"),
    ("MAX_FILE_BYTES", SECRET, "OUTLOOK_IMPORT_MAX_FILE_BYTES: Input should be a valid integer"),
    ("MAX_FILE_BYTES", "0", "OUTLOOK_IMPORT_MAX_FILE_BYTES: Input should be greater than 0"),
    ("MAX_FILE_BYTES", "9" * 12, "OUTLOOK_IMPORT_MAX_FILE_BYTES: Input should be less than or equal to"),
    ("PROBE_TIMEOUT", SECRET, "OUTLOOK_IMPORT_PROBE_TIMEOUT: Input should be a valid number"),
    ("PROBE_TIMEOUT", "-1", "OUTLOOK_IMPORT_PROBE_TIMEOUT: Input should be greater than 0"),
    ("PROBE_TIMEOUT", "inf", "OUTLOOK_IMPORT_PROBE_TIMEOUT: Input should be less than or equal to 3600"),
    ("PROBE_TIMEOUT", "nan", "OUTLOOK_IMPORT_PROBE_TIMEOUT: Input should be"),
    (
        "PROBE_CONCURRENCY",
        "0",
        "OUTLOOK_IMPORT_PROBE_CONCURRENCY: Input should be greater than or equal to 1",
    ),
    ("GUARD_SHARE", "1.1", "OUTLOOK_IMPORT_GUARD_SHARE: Input should be less than or equal to 1"),
    ("CA_FILE", f"/nowhere/{SECRET}", "OUTLOOK_IMPORT_CA_FILE: the file does not exist"),
    ("IMPORT_FOLDERS", SECRET, "OUTLOOK_IMPORT_IMPORT_FOLDERS: must be valid JSON"),
    ("IMPORT_FOLDERS", '["/srv", 1]', "OUTLOOK_IMPORT_IMPORT_FOLDERS → 1: Input is not a valid path"),
    ("SERVERS", SECRET, "OUTLOOK_IMPORT_SERVERS: must be valid JSON"),
    ("SERVERS", f'["{SECRET}"]', "OUTLOOK_IMPORT_SERVERS: Input should be a valid dictionary"),
    ("SERVERS", f'{{"contoso.com": "{SECRET}"}}', "OUTLOOK_IMPORT_SERVERS → contoso.com: Input should be"),
    ("SERVERS", servers(smtp=SECRET), f"{SMTP_PLACE}: {HOST_PORT}"),
    ("SERVERS", servers(smtp=f"{SECRET}:0"), f"{SMTP_PLACE}: {HOST_PORT}"),
    ("SERVERS", servers(smtp=f"{SECRET}:65536"), f"{SMTP_PLACE}: {HOST_PORT}"),
    ("SERVERS", servers(smtp=f"{SECRET}:{'9' * 5000}"), f"{SMTP_PLACE}: {HOST_PORT}"),
    ("SERVERS", servers(smtp=f"imaps://{SECRET}:465"), f"{SMTP_PLACE}: {HOST_PORT}"),
    ("SERVERS", servers(smtp=f"https://{SECRET}:465"), f"{SMTP_PLACE}: {HOST_PORT}"),
    ("SERVERS", servers(smtp=f"://{SECRET}:465"), f"{SMTP_PLACE}: {HOST_PORT}"),
    ("SERVERS", servers(smtp=f"smtps://smtps://{SECRET}:465"), f"{SMTP_PLACE}: {HOST_PORT}"),
    ("SERVERS", servers(smtp=f"smtps://{SECRET}"), f"{SMTP_PLACE}: {HOST_PORT}"),
    ("SERVERS", servers(smtp=f"me:{SECRET}@mail:465"), f"{SMTP_PLACE}: {HOST_PORT}"),
    ("SERVERS", servers(smtp="::1:465"), f"{SMTP_PLACE}: {HOST_PORT}"),
    ("SERVERS", servers(smtp=None), f"{SMTP_PLACE}: {HOST_PORT}"),
    (
        "SERVERS",
        f'{{"contoso.com": {{"{SECRET}": 1}}}}',
        "OUTLOOK_IMPORT_SERVERS → contoso.com → …: Extra inputs",
    ),
    ("SERVERS", servers(f"https://{SECRET}", smtp=1), f"OUTLOOK_IMPORT_SERVERS → … → smtp: {HOST_PORT}"),
]


@pytest.mark.parametrize(
    ("protocol", "value", "shown", "tls"),
    [
        (Protocol.SMTP, "mail:587", "mail:587", False),
        (Protocol.SMTP, "mail:465", "mail:465", True),
        (Protocol.SMTP, "smtps://mail:465", "mail:465", True),
        (Protocol.SMTP, "SMTPS://mail:2465", "smtps://mail:2465", True),
        (Protocol.SMTP, "smtp://mail:465", "smtp://mail:465", False),
        (Protocol.SMTP, "smtp+starttls://mail:2587", "mail:2587", False),
        (Protocol.IMAP, "mail:993", "mail:993", True),
        (Protocol.IMAP, "mail:143", "mail:143", False),
        (Protocol.IMAP, "imap://mail:143", "mail:143", False),
        (Protocol.IMAP, "imap+starttls://[::1]:2143", "imap://[::1]:2143", False),
        (Protocol.IMAP, "imaps://mail:143", "imaps://mail:143", True),
        (Protocol.IMAP, "imaps://mail:2993", "mail:2993", True),
    ],
)
def test_how_a_connection_starts(
    protocol: Protocol, value: str, shown: str, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheme or the port says whether a connection starts with TLS; a scheme stays only if it is needed."""
    monkeypatch.setenv(f"{PREFIX}SERVERS", servers(**{protocol.value: value}))
    endpoint = getattr(load_settings().overrides["contoso.com"], protocol.value)
    assert (str(endpoint), endpoint.starts_with_tls(protocol)) == (shown, tls)
    assert endpoint.name == value.rpartition("://")[2].rpartition(":")[0].strip("[]")
    assert Endpoint(endpoint.host, endpoint.port) == endpoint  # as the database keeps it


@pytest.mark.parametrize(
    ("name", "value", "fault"), MALFORMED, ids=[f"{name} {value[:40]}" for name, value, _ in MALFORMED]
)
def test_malformed(name: str, value: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A malformed setting is named with its fault, and its value does not appear in the error."""
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert fault in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_every_fault_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several faults are reported at once."""
    monkeypatch.setenv(f"{PREFIX}PROBE_TIMEOUT", SECRET)
    monkeypatch.setenv(f"{PREFIX}GUARD_AFTER", SECRET)
    with pytest.raises(
        SettingsError, match=r"^OUTLOOK_IMPORT_PROBE_TIMEOUT: .*; OUTLOOK_IMPORT_GUARD_AFTER: "
    ):
        load_settings()


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Printed settings do not show the keys, the database's password or the webhook's address."""
    monkeypatch.setenv(f"{PREFIX}NOTIFY_WEBHOOK", f"https://example.com/{SECRET}")
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", f"postgresql+psycopg://me:{SECRET}@db/mail")
    monkeypatch.setenv(f"{PREFIX}ENCRYPTION_KEYS", SECRET)
    settings = load_settings()
    for shown in (repr(settings), f"{settings}", settings.model_dump_json(), str(settings.model_dump())):
        assert SECRET not in shown


def test_every_setting_is_described() -> None:
    """Every setting has a description."""
    assert all(field.description for field in Settings.model_fields.values())
