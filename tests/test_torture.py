"""The short form of the torture test; `make torture` runs the long one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.shell import PROJECT

LIMIT_SECONDS = 600


@pytest.mark.slow
def test_eight_kills_lose_double_block_and_leak_nothing() -> None:
    """Imports by all ways, updates and rechecks, with eight kills during them, pass all checks."""
    command = [sys.executable, "-m", "tests.tools.torture", "--kills", "8"]
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills: 8: " in done.stdout
