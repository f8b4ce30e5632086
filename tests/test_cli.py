"""`outlook-import` itself: help, suggestions, choices, completion, and printed commands that work."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from flows.cli.app import GROUPS, main
from schemas.reasons import Reason
from schemas.settings import COMMAND_VARIABLE
from tasks.hints import command
from tests.support.shell import PROJECT, SAMPLES, Shell

COMMANDS = [[*area.split(), *filter(None, [name])] for area, names in GROUPS.items() for name in ["", *names]]


def help_of(
    words: list[str], columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    capsys.readouterr()
    assert main([*words, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_fits_the_terminal_and_breaks_no_word(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 80 and 120 columns no line is longer than the terminal, and no word is split."""
    whole = set(re.findall(r"[\w-]+", help_of(words, 400, capsys, monkeypatch)))
    for columns in (80, 120):
        text = help_of(words, columns, capsys, monkeypatch)
        assert max(map(len, text.splitlines())) <= columns
        assert set(re.findall(r"[\w-]+", text)) <= whole


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["mailboxs"], 'Did you mean "mailboxes"?'),
        (["mailboxes", "lst"], 'Did you mean "list"?'),
        (["import", "x.csv", "--tagg", "x"], "Did you mean --tag?"),
        (
            ["mailboxes", "list", "--status", "broken"],
            'Choose from: "failed", "partial", "pending", "active".',
        ),
        (["mailboxes", "list", "--reason", "broken"], "Choose from: ok, wrong_credentials, "),
        (["mailboxes", "list", "--limit", "0"], "It must be a positive integer."),
        (["mailboxes", "list", "--email", ""], "It must be a part of the address."),
        (["mailboxes", "list", "--domain", "@"], "It must be a domain, such as contoso.com."),
        (["import", "x.csv", "--tag", ";"], "Use at most 100 letters"),
    ],
)
def test_wrong_usage_gets_a_suggestion_and_the_help_command(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt word gets a suggestion, a wrong value the choices, and both the help command."""
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert sentence in said.err
    (advice,) = [line.removeprefix("See ") for line in said.err.splitlines() if line.startswith("See ")]
    program = command()
    assert advice.startswith(program)
    assert main(shlex.split(advice.removeprefix(program))) == 0


@pytest.mark.parametrize(
    "written",
    ["wrong_credentials", "wrong-credentials", "Wrong password", "WRONG PASSWORD", "wrong-password"],
)
def test_reason_can_be_given_by_code_or_title(written: str, offline: Shell) -> None:
    """A reason can be given by its code or its title, with spaces, hyphens or capitals."""
    assert Reason.WRONG_CREDENTIALS.explanation.title == "Wrong password"
    offline.run("mailboxes", "list", "--reason", written, module="flows.cli", code=1)
    assert "Nothing is stored yet" in offline.last.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_the_commands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each shell gets a script that contains the commands."""
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in GROUPS[""])


@pytest.mark.parametrize("folder", [PROJECT, PROJECT / "docs", Path("/")], ids=["project", "docs", "root"])
def test_printed_commands_work_where_they_are_printed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, offline: Shell
) -> None:
    """A printed command works in the folder in which it was printed."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv(COMMAND_VARIABLE, raising=False)
    line = command("imports", "list")
    done = subprocess.run(
        ["sh", "-c", line], cwd=folder, env=offline.environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.startswith("Nothing is stored yet.")) == (1, True)


def test_printed_commands_name_the_program_as_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a demonstration the printed command names its script, and words with spaces are quoted."""
    monkeypatch.setenv(COMMAND_VARIABLE, "data/demo/outlook-import")
    assert command("mailboxes", "show", "a b@c.co") == "data/demo/outlook-import mailboxes show 'a b@c.co'"


@pytest.mark.parametrize(
    ("module", "words", "output"),
    [
        ("flows.import_outlook", [str(SAMPLES / "mailboxes.csv"), "--check"], "mailboxes.csv: 23 rows"),
        ("flows.manage", ["import-template"], "email,password,name,totpsecret"),
        ("flows.retest_pending", ["--help"], "Test the mailboxes that are pending and due."),
        ("flows.api", ["--help"], "Serve the page and the HTTP API"),
        ("flows.up", ["--help"], "Run the page, Prefect's server, the deployments and a worker"),
    ],
)
def test_former_commands_still_work(module: str, words: list[str], output: str, offline: Shell) -> None:
    """The programs of the first edition still run the same commands."""
    assert output in offline.run(*words, module=module)
