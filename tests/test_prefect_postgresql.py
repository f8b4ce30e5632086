"""Prefect's own server on PostgreSQL: it keeps the runs there, and an import is the same."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import psycopg
import pytest

from sandbox.outlook import running
from sandbox.script import read_accounts
from tests.conftest import prefect_running
from tests.postgresql import PostgreSql
from tests.shell import SAMPLES, Shell, at, environment
from tests.test_api import CONTRACT


@pytest.mark.slow
def test_import_with_prefect_on_postgresql(
    postgresql: PostgreSql, on_postgresql: dict[str, str], tmp_path: Path
) -> None:
    """The sample's import gives the contract's counts, and its run and all task runs end on PostgreSQL."""
    with postgresql.new_database() as address:
        asyncpg = address.replace("postgresql://", "postgresql+asyncpg://")
        with (
            prefect_running(tmp_path, PREFECT_SERVER_DATABASE_CONNECTION_URL=asyncpg) as url,
            running(read_accounts(SAMPLES / "sandbox.csv"), folder=tmp_path) as outlook,
        ):
            shell = Shell(tmp_path, environment(PREFECT_API_URL=url, **on_postgresql, **at(outlook)))
            output = shell.run(SAMPLES / "mailboxes.csv", "--json")
            with psycopg.connect(address) as connection:
                runs = connection.execute("SELECT name, state_type FROM flow_run").fetchall()
                tasks = connection.execute("SELECT state_type FROM task_run").fetchall()
    assert json.loads(output) == CONTRACT
    assert runs == [("mailboxes.csv to default", "COMPLETED")]
    assert Counter(tasks) == {("COMPLETED",): 7}
    assert Counter(shell.rows("SELECT status FROM mailbox")) == {
        ("active",): 15,
        ("failed",): 4,
        ("pending",): 1,
    }
