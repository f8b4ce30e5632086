"""Kill -9 at every step of an update: the old password or the new one is whole, and the next run goes on."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from sandbox.outlook import Account
from schemas.prepare import Prepared
from schemas.sealing import Owner
from schemas.settings import PREFIX, Settings
from schemas.standing import MailboxStatus
from schemas.tables import Mailbox, Workspace, now
from tasks.prepare import prepare
from tasks.probe import Probing
from tasks.storage.claims import find_due
from tasks.storage.database import Database
from tasks.store import Origin, store
from tests.conftest import StartOutlook, probe_targets, rows_of, with_servers, write_csv
from tests.support.shell import PROJECT, at, environment

ADDRESSES = [f"user{n}@contoso.com" for n in range(3)]
# In workspace 0, 1, 2, …: an import without tests, then an update with tests that dies at step 0, 1, 2, …
PROGRAM = """
import asyncio, itertools, logging, os, signal, sys
from pathlib import Path
from sqlalchemy import event
from tasks.configuration import load_settings
from tasks.prepare import prepare
from tasks.probe import Probing
from tasks.storage.database import database
from tasks.store import Origin, store

def update(workspace, last):
    settings = load_settings()
    with database(settings) as opened:
        def imported(file, update):
            prepared = prepare.fn(Path(file), settings.max_file_bytes, served=tuple(settings.overrides))
            return store.fn(prepared, Origin("x", workspace, None, True, update=update), opened, settings)
        imported(sys.argv[1], False)
        steps = itertools.count()
        def step(*_):
            if next(steps) == last:
                os.kill(os.getpid(), signal.SIGKILL)
        for moment in ("before_cursor_execute", "commit"):
            event.listen(opened.engine, moment, step)
        async def test():
            stored = imported(sys.argv[2], True)
            probing = Probing(opened, settings, [one.mailbox_id for one in stored.targets])
            async def gather(groups):
                await asyncio.gather(*(probing.test_group(group, logging.getLogger()) for group in groups))
            await probing.run(stored.targets, gather)
        asyncio.run(test())

for last in itertools.count():
    child = os.fork()
    if not child:
        update(str(last), last)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != -signal.SIGKILL:
        print(last if code == 0 else f"step {last} ended with {code}")
        break
"""


@pytest.mark.slow
async def test_a_kill_leaves_the_old_or_the_new_password(
    db: Database, either_settings: Settings, start: StartOutlook, tmp_path: Path
) -> None:
    """After a kill at any statement or commit, one whole password opens, and the next run goes on."""
    outlook = await start({address: Account("new") for address in ADDRESSES})
    files = [
        write_csv(tmp_path / f"{word}.csv", [(address, word) for address in ADDRESSES])
        for word in ("old", "new")
    ]
    secret = either_settings.encryption_keys
    keys = {f"{PREFIX}ENCRYPTION_KEYS": secret.get_secret_value()} if secret else {}
    address = either_settings.database_url.get_secret_value()
    env = environment(**at(outlook), **keys, **{f"{PREFIX}DATABASE_URL": address})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, *map(str, files)), cwd=PROJECT, env=env, stdout=-1, stderr=-1
    )
    output, errors = await process.communicate()
    assert output.strip().isdigit(), errors.decode() + output.decode()
    killed = int(output)
    assert killed > 10  # there were many steps

    halves: dict[str, set[tuple[str, bool]]] = {}
    workspaces = {row["id"]: row["name"] for row in rows_of(db, Workspace)}
    for row in rows_of(db, Mailbox):
        workspace = workspaces[row["workspace_id"]]
        password = db.sealer.open(row["password"], Owner(workspace, row["email_key"], "password"))
        if row["old_password"] is not None:
            owner = Owner(workspace, row["email_key"], "old_password")
            assert db.sealer.open(row["old_password"], owner) == "old"
        halves.setdefault(workspace, set()).add((password, row["old_password"] is not None))
    assert len(halves) == killed + 1
    for workspace, found in halves.items():
        # All mailboxes of an update change at once.
        assert {password for password, _ in found} in ({"old"}, {"new"}), workspace
    assert {("old", False), ("new", True), ("new", False)} <= set().union(*halves.values())

    settings = with_servers(either_settings, outlook)
    with db.engine.begin() as connection:  # as if the claims of the killed runs had expired
        connection.execute(update(Mailbox).values(claimed_until=now() - timedelta(seconds=1)))
    prepared = prepare.fn(files[1], settings.max_file_bytes, served=tuple(settings.overrides))
    assert isinstance(prepared, Prepared)
    for workspace in halves:
        store.fn(prepared, Origin("again", workspace, None, test=True, update=True), db, settings)
    while targets := find_due.fn(db, 500, None, held=False):
        await probe_targets(Probing(db, settings, [one.mailbox_id for one in targets]), targets)
    for row in rows_of(db, Mailbox):
        owner = Owner(workspaces[row["workspace_id"]], row["email_key"], "password")
        assert db.sealer.open(row["password"], owner) == "new"
        assert (row["status"], row["old_password"]) == (MailboxStatus.ACTIVE, None)
