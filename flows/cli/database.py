"""The tables: `database upgrade`."""

from __future__ import annotations

import sys

import schemas.migrations
from flows.cli.exit_codes import DONE
from tasks.configuration import load_settings
from tasks.storage.database import make_engine, revision, upgrade, url_of


def upgrade_tables() -> int:
    """Bring the tables up to date."""
    engine = make_engine(url_of(load_settings()))
    try:
        before = revision(engine)
        upgrade(engine)
    finally:
        engine.dispose()
    sys.stdout.write(f"The tables are at revision {schemas.migrations.HEAD} (before: {before or 'none'}).\n")
    return DONE
