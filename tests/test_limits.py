"""A concurrency limit for all workers is one of Prefect's, and applies to every run that finds it."""

from __future__ import annotations

import pytest

from sandbox.outlook import running
from schemas.providers import Endpoint
from schemas.verdicts import Group
from tasks.limits import configured_limits, limits_of, set_limit
from tests.conftest import accounts, mailboxes_file
from tests.support.shell import LIMIT_SECONDS, Shell, at

pytestmark = pytest.mark.slow

GROUP = 4


async def test_two_imports_together_stay_under_the_limit(shell: Shell, prefect_server: str) -> None:
    """Two imports at once open no more connections together than the host's limit allows."""
    assert prefect_server
    mailboxes = accounts(12)
    shell.environment["OUTLOOK_IMPORT_PROBE_GROUP_SIZE"] = str(GROUP)
    assert await set_limit("localhost", 2 * GROUP + 1, GROUP) == 2
    try:
        assert await configured_limits() == {"outlook-import:localhost"}
        with running(mailboxes, folder=shell.folder, delay=0.02) as outlook:
            shell.environment |= at(outlook)
            file = mailboxes_file(shell.folder / "in.csv", mailboxes)
            imports = [shell.start(file, "--workspace", name) for name in ("one", "two")]
            for process in imports:
                with process:
                    output, errors = process.communicate(timeout=LIMIT_SECONDS)
                assert "12 active" in output, errors
            # Each of the two preflights of a run adds one connection.
            assert outlook.seen.connections_at_once["smtp"] <= 2 * GROUP + 2
            assert outlook.seen.connections_at_once["imap"] <= 2 * GROUP + 2
    finally:
        assert await set_limit("localhost", 0, GROUP) == 0
    assert await configured_limits() == frozenset()


async def test_limit_below_a_group_is_refused(prefect_server: str) -> None:
    """A limit smaller than a group, or below zero, is refused with a message."""
    assert prefect_server
    with pytest.raises(ValueError, match="reduce PROBE_GROUP_SIZE"):
        await set_limit("localhost", GROUP - 1, GROUP)
    with pytest.raises(ValueError, match="reduce PROBE_GROUP_SIZE"):
        await set_limit("localhost", -1, GROUP)


def test_limit_is_found_however_the_host_is_written() -> None:
    """A host in capitals in the settings uses the limit that was set in small letters."""
    group = Group(Endpoint("Mail.Contoso.com", 587), Endpoint("mail.contoso.COM", 993), 1, (1,))
    assert limits_of(group, {"outlook-import:mail.contoso.com"}) == ["outlook-import:mail.contoso.com"]
