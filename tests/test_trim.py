"""Trimming removes history and nothing else."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.states import Running
from sqlalchemy import insert, update
from sqlmodel import col

from schemas.reasons import Protocol, Reason, Stage
from schemas.settings import Settings
from schemas.tables import ImportRow, Mailbox, ProbeResult, now
from tasks.storage.database import Database
from tasks.trim import end_forgotten_runs, trim_results, trim_runs
from tests.conftest import import_file, rows_of, write_csv
from tests.support.shell import Shell


def test_superseded_answers_and_old_row_errors_go_and_the_last_ones_stay(
    db: Database, either_settings: Settings, tmp_path: Path
) -> None:
    """Answers of earlier attempts and row errors of old imports are removed; everything else stays."""
    file = write_csv(tmp_path / "in.csv", [["ann@contoso.com", "p"], ["bob@contoso.com", "p"], ["", "p"]])
    ann, bob = (target.mailbox_id for target in import_file(db, either_settings, file).targets)
    older, old, yesterday, today = (now() - timedelta(days=days) for days in (110, 100, 1, 0))
    # Bob was made due again after his fifth attempt, and his second was interrupted.
    answers = [(ann, 1, old), (ann, 2, yesterday), (ann, 3, today), (bob, 5, older), (bob, 1, old)]
    with db.engine.begin() as connection:
        connection.execute(
            insert(ProbeResult),
            [
                {
                    "mailbox_id": mailbox,
                    "attempt": attempt,
                    "protocol": Protocol.SMTP,
                    "reason": Reason.SERVER_BUSY,
                    "stage": Stage.LOGIN,
                    "server_text": "",
                    "host": "x:1",
                    "milliseconds": 1,
                    "at": at,
                }
                for mailbox, attempt, at in answers
            ],
        )
        connection.execute(update(Mailbox).where(col(Mailbox.id) == ann).values(attempts=3))
        connection.execute(update(Mailbox).where(col(Mailbox.id) == bob).values(attempts=2))

    before = now() - timedelta(days=90)
    assert trim_results.fn(db, before) == 2
    assert [(row["mailbox_id"], row["attempt"]) for row in rows_of(db, ProbeResult)] == [
        (ann, 2),
        (ann, 3),
        (bob, 1),
    ]
    assert len(rows_of(db, ImportRow)) == 3
    assert trim_results.fn(db, now() + timedelta(days=1)) == 4
    assert rows_of(db, ImportRow) == []
    assert len(rows_of(db, Mailbox)) == 2


@pytest.mark.slow
async def test_old_runs_of_this_project_are_removed_from_prefect(shell: Shell, prefect_server: str) -> None:
    """Runs that ended before the given time are removed with their artifacts; later ones are kept."""
    file = write_csv(shell.folder / "to be trimmed.csv", [["ann@contoso.com", "p"]])
    shell.run(file, "--no-test")
    wanted = {"flow_runs": {"name": {"any_": ["to be trimmed.csv to default"]}}}
    async with httpx.AsyncClient(base_url=prefect_server) as client:
        (run,) = (await client.post("/flow_runs/filter", json=wanted)).json()
        await trim_runs.fn(now() - timedelta(days=1))
        assert (await client.get(f"/flow_runs/{run['id']}")).is_success
        assert await trim_runs.fn(now() + timedelta(minutes=1)) >= 1
        assert (await client.get(f"/flow_runs/{run['id']}")).status_code == 404


@pytest.mark.slow
async def test_runs_that_prefect_has_forgotten_are_ended(prefect_server: str) -> None:
    """An unfinished run that was due long ago is marked as crashed; a recent one continues."""
    assert prefect_server

    @flow(name="trim-history")
    def of_ours() -> None:
        pass

    async with get_client() as client:
        running = await client.create_flow_run(of_ours, state=Running())
        assert await end_forgotten_runs.fn(now() - timedelta(days=1)) == 0
        assert await end_forgotten_runs.fn(now() + timedelta(minutes=1)) >= 1
        state = (await client.read_flow_run(running.id)).state
    assert state is not None
    assert (state.type, state.message) == (
        StateType.CRASHED,
        "This run has not ended for a day: its process is gone.",
    )
