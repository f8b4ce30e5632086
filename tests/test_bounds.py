"""The bounds on what is read of a file hold at every way in, and can be set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.cli.app import main
from schemas.bounds import Bounds
from schemas.settings import PREFIX, Settings
from schemas.summary import MAX_ROWS_STORED
from tasks.storage.database import database
from tests.conftest import import_file, write_csv
from tests.support.shell import Shell
from tests.test_api import api_with, error_of, send

TOO_MANY_ROWS = "CSV file has more than 3 rows: split it into files of at most 500 mailboxes"
TOO_MANY_COLUMNS = "CSV file has more than 2 columns: remove the ones you do not need"
LONG = b"email,password\n" + b"ann@x.co,pw\n" * 4
WIDE = b"email,password,name\nann@x.co,pw,Ann\n"
FILES = pytest.mark.parametrize(
    ("data", "message"), [(LONG, TOO_MANY_ROWS), (WIDE, TOO_MANY_COLUMNS)], ids=["rows", "columns"]
)
NARROW = {f"{PREFIX}MAX_ROWS": "3", f"{PREFIX}MAX_COLUMNS": "2"}


def test_defaults(settings: Settings) -> None:
    """Unless a setting changes it, 10,000 rows and 100 columns are read."""
    assert settings.bounds == Bounds() == Bounds(rows=10_000, columns=100)


@FILES
def test_command_line(data: bytes, message: str, offline: Shell) -> None:
    """`check` refuses a file beyond the bounds that are set."""
    file = offline.folder / "mailboxes.csv"
    file.write_bytes(data)
    offline.environment |= NARROW
    refusal = json.loads(offline.run("--check", "--json", file, code=1))
    assert refusal["error"]["message"] == message


@FILES
def test_api(data: bytes, message: str, settings: Settings) -> None:
    """The HTTP API refuses a file beyond the bounds that are set."""
    with api_with(settings, max_rows=3, max_columns=2) as api, api.client() as client:
        assert error_of(send(client, data), 400) == message


def test_flow(shell: Shell, tmp_path: Path) -> None:
    """A run of the flow refuses a file beyond the bounds that are set."""
    file = tmp_path / "mailboxes.csv"
    file.write_bytes(LONG)
    shell.environment |= NARROW
    program = (
        "import asyncio; from pathlib import Path; from flows.import_outlook import import_outlook\n"
        f"print(asyncio.run(import_outlook(Path({str(file)!r}), return_state=True)).message)"
    )
    output, errors = shell.start_program(program).communicate()
    assert output.strip() == TOO_MANY_ROWS, errors


def test_commands_say_how_many_row_errors_are_stored(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`imports errors` and `imports show` say that the errors are the first 1,000 of all."""
    file = write_csv(tmp_path / "mailboxes.csv", [("nobody", "pw")] * (MAX_ROWS_STORED + 1))
    with database(settings) as db:
        import_file(db, settings, file)
    said = "These are the first 1,000 of 1,001 failed rows; the others are not stored."
    for words in (["errors", "1"], ["errors", "1", "--csv"], ["show", "1"]):
        assert main(["imports", *words]) == 0
        output = capsys.readouterr()
        assert said in output.err + " ".join(output.out.split())
    assert main(["imports", "errors", "1", "--csv"]) == 0
    assert capsys.readouterr().out.count("\n") == MAX_ROWS_STORED + 1
