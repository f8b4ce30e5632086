"""Prefect's server on PostgreSQL, next to the mailboxes, and that PostgreSQL killed during a run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import psycopg
import pytest

from sandbox.outlook import running
from sandbox.script import read_accounts
from schemas.sealing import new_key
from tests.conftest import prefect_running
from tests.support.machine import wait_for
from tests.support.postgresql import PostgreSql, postgresql_of
from tests.support.shell import LIMIT_SECONDS, SAMPLES, Shell, at, environment
from tests.test_api import CONTRACT

RETRIES = {"PREFECT_CLIENT_RETRY_EXTRA_CODES": "500"}  # what Prefect's server logs while its database is down


@pytest.mark.slow
def test_import_with_everything_on_one_postgresql(postgresql: PostgreSql, tmp_path: Path) -> None:
    """An import whose PostgreSQL, which is also Prefect's, is killed midway ends with correct counts."""
    with postgresql_of(postgresql.binaries) as server, server.new_database() as runs:
        own = runs.replace("postgresql://", "postgresql+asyncpg://")
        with (
            server.new_database() as mailboxes,
            prefect_running(tmp_path, PREFECT_SERVER_DATABASE_CONNECTION_URL=own) as url,
            running(read_accounts(SAMPLES / "sandbox.csv"), folder=tmp_path, delay=0.05) as outlook,
        ):
            variables = {
                "PREFECT_API_URL": url,
                "OUTLOOK_IMPORT_DATABASE_URL": mailboxes,
                "OUTLOOK_IMPORT_ENCRYPTION_KEYS": new_key(),
                "OUTLOOK_IMPORT_PROBE_CONCURRENCY": "3",
            }
            shell = Shell(tmp_path, environment(**variables, **RETRIES, **at(outlook)))
            shell.run("database", "upgrade", module="flows.manage")
            with shell.start(SAMPLES / "mailboxes.csv", "--json") as importing:
                wait_for("logins", lambda: outlook.seen.passwords_received >= 5, 60)
                assert importing.poll() is None
                server.kill()
                server.start()
                output, errors = importing.communicate(timeout=LIMIT_SECONDS)
            assert importing.returncode == 0, errors
            assert json.loads(output) == CONTRACT
            found = shell.rows("SELECT status FROM mailbox")
            assert Counter(found) == {("active",): 15, ("failed",): 2, ("partial",): 2, ("pending",): 1}
            with psycopg.connect(runs) as connection:
                states = connection.execute("SELECT name, state_type FROM flow_run").fetchall()
            assert states == [("mailboxes.csv to default", "COMPLETED")]
