"""Runs the project's commands as users do: in separate processes, with their own settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import select, text
from sqlmodel import col

from sandbox.outlook import Outlook
from schemas.sealing import Owner
from schemas.settings import PREFIX, Settings
from schemas.tables import Mailbox
from tasks.storage.database import database, url_of

PROJECT = Path(__file__).resolve().parents[2]
SAMPLES = PROJECT / "data" / "samples"
LIMIT_SECONDS = 120
SCAN = (
    "import asyncio; from flows.watch_inbox import watch_inbox; "
    "print(asyncio.run(watch_inbox(return_state=True)).message)"
)
RECHECK = (
    "import asyncio; from flows.recheck_active import recheck_active; "
    "print(asyncio.run(recheck_active(return_state=True)).message)"
)


@dataclass
class Shell:
    """Runs the project's commands with its own database, without the settings in this environment."""

    folder: Path
    environment: dict[str, str]
    last: subprocess.CompletedProcess[str] = field(init=False)

    @property
    def settings(self) -> Settings:
        """The settings with the database that the commands use."""
        address, keys = (
            self.environment.get(f"{PREFIX}{name}") for name in ("DATABASE_URL", "ENCRYPTION_KEYS")
        )
        return Settings(
            database_url=SecretStr(address or ""), encryption_keys=SecretStr(keys) if keys else None
        )

    def start(self, *arguments: str | Path, module: str = "flows.import_outlook") -> subprocess.Popen[str]:
        return self._start("-m", module, *map(str, arguments))

    def start_program(self, program: str) -> subprocess.Popen[str]:
        return self._start("-c", program)

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=PROJECT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str | Path, module: str = "flows.import_outlook", code: int = 0) -> str:
        """Run a command to its end, check that the exit code is `code`, and return standard output."""
        return self._finish(self.start(*arguments, module=module), code)

    def run_program(self, program: str) -> str:
        """Run a Python program to its end, check that it succeeds, and return standard output."""
        return self._finish(self.start_program(program), 0)

    def scan(self) -> str:
        """Scan the inbox once, and return the result."""
        return self.run_program(SCAN).strip()

    def _finish(self, started: subprocess.Popen[str], code: int) -> str:
        with started as process:
            output, errors = process.communicate(timeout=LIMIT_SECONDS)
        assert process.returncode == code, errors + output
        self.last = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
        return output

    def is_untouched(self) -> bool:
        """Whether nothing was stored: no SQLite file, or no workspace on PostgreSQL."""
        address = url_of(self.settings)
        if address.get_backend_name() == "sqlite":
            return not Path(address.database or "").exists()
        return self.rows("SELECT id FROM workspace") == []

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with database(self.settings) as opened, opened.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    def change(self, statement: str, **values: object) -> None:
        with database(self.settings) as opened, opened.engine.begin() as connection:
            connection.execute(text(statement), values)

    def open_password(self, email: str) -> str:
        """The unsealed password of a mailbox."""
        with database(self.settings) as opened, opened.engine.connect() as connection:
            sealed = connection.scalars(
                select(col(Mailbox.password)).where(col(Mailbox.email) == email)
            ).one()
            return opened.sealer.open(sealed, Owner("default", email.casefold(), "password"))


def on_sqlite(folder: Path) -> dict[str, str]:
    """The variables of a SQLite database in a folder."""
    return {f"{PREFIX}DATABASE_URL": f"sqlite:///{folder / 'mailboxes.db'}"}


def environment(**more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OUTLOOK_IMPORT_", "PREFECT_"))
    }
    return kept | {f"{PREFIX}PREFECT_IDLE_SECONDS": "0"} | more


def at(outlook: Outlook) -> dict[str, str]:
    """The settings that use a sandbox."""
    servers = {"*": {"smtp": f"localhost:{outlook.smtp_port}", "imap": f"localhost:{outlook.imap_port}"}}
    return {"OUTLOOK_IMPORT_SERVERS": json.dumps(servers), "OUTLOOK_IMPORT_CA_FILE": str(outlook.ca_file)}
