"""Databases with many mailboxes, for the scale benchmark."""

# ruff: noqa: S608  the statements are made of our own words

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, text

from schemas.sealing import new_key

if TYPE_CHECKING:
    from schemas.settings import Settings
    from tasks.storage.database import Database

AN_IMPORT = 500
RARE_EVERY = 20_000
MOST, RARE_WORKSPACE = "workspace 1", "workspace 3"

SERIES = {
    "sqlite": "WITH RECURSIVE series(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < {last})",
    "postgresql": "WITH series(n) AS (SELECT generate_series(1::bigint, {last}))",
}
# Addresses in random-looking order: squares modulo a prime. Evenly spread ones would fill every index page
# at the same moment, and the next import would split them all.
SCATTER = "(n * n % 4294967291 * 2654435 % 4294967291)"
SCATTERED = {
    "sqlite": f"printf('%08x.%d', {SCATTER}, n)",
    "postgresql": f"lpad(to_hex({SCATTER}), 8, '0') || '.' || n",
}
# A time within the last ten days, each mailbox of an import a little later than the one before.
AGO = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || (({last} - n) * 864000.0 / {last}) || ' seconds')"
    " || '000'",
    "postgresql": "now() - interval '1 second' * (({last} - n) * 864000.0 / {last})",
}
# Of 20 mailboxes, 16 work, one can only receive, two have a wrong password, and one waits for a test.
# One of 20,000 is blocked.
STATUS = f"""CASE WHEN n % {RARE_EVERY} = 9 THEN 'failed' WHEN n % 20 = 3 THEN 'pending'
 WHEN n % 20 = 4 THEN 'partial' WHEN n % 20 IN (5, 6) THEN 'failed' ELSE 'active' END"""
REASON = f"""CASE WHEN n % {RARE_EVERY} = 9 THEN 'account_blocked' WHEN n % 20 IN (5, 6)
 THEN 'wrong_credentials' ELSE {{other}} END"""
SMTP_REASON = REASON.format(other="CASE WHEN n % 20 = 4 THEN 'smtp_auth_off_tenant' ELSE '' END")
IMAP_REASON = REASON.format(other="''")
STATE = """CASE WHEN n % 20 = 3 THEN 'untested' WHEN {reason} <> '' THEN 'refused' ELSE 'accepted' END"""
# Most mailboxes are in the first of ten workspaces; the third has one of 20,000.
WORKSPACE = f"CASE WHEN n % {RARE_EVERY} = 11 THEN 3 WHEN n % 10 = 1 THEN 4 + n / 10 % 7 ELSE 1 END"
DOMAIN = (
    f"CASE WHEN n % {RARE_EVERY} = 13 THEN '@rare.example' WHEN n % 3 = 0 THEN '@contoso.com'"
    " ELSE '@outlook.com' END"
)

FILL = (
    "{ten} INSERT INTO workspace (name, created_at) SELECT 'workspace ' || n, CURRENT_TIMESTAMP FROM series",
    "{imports} INSERT INTO import (workspace_id, file_name, tag, imported, skipped, failed, created_at)"
    " SELECT 1, 'mailboxes.csv', 'tag ' || n % 100, 500, 0, 0, CURRENT_TIMESTAMP FROM series",
    "{mailboxes} INSERT INTO mailbox (workspace_id, import_id, email, email_key, name, password, tag,"
    " smtp_host, smtp_port, imap_host, imap_port, status, diagnosis, attempts, next_attempt_at, created_at,"
    " tested_at, smtp_state, smtp_reason, smtp_attempts, imap_state, imap_reason, imap_attempts)"
    " SELECT {workspace}, (n + 499) / 500, {hex} || {domain}, {hex} || {domain}, 'Somebody', :password,"
    " 'tag ' || (n + 499) / 500 % 100, 'smtp.office365.com', 587, 'outlook.office365.com', 993, {status},"
    " 'Works over SMTP and IMAP.', 1, CASE WHEN n % 20 = 3 THEN {ago} END, {ago},"
    " CASE WHEN n % 20 <> 3 THEN {ago} END, {smtp_state}, {smtp_reason}, 1, {imap_state}, {imap_reason}, 1"
    " FROM series",
    "INSERT INTO import_row (import_id, line, email, reason, result, email_key)"
    " SELECT import_id, id - 500 * (import_id - 1) + 1, email, '', 'imported', email_key FROM mailbox",
    *(
        "INSERT INTO probe_result (mailbox_id, attempt, protocol, reason, stage, server_text, host,"
        f" milliseconds, at) SELECT id, 1, '{protocol}', CASE WHEN {protocol}_reason = '' THEN 'ok'"
        f" ELSE {protocol}_reason END, 'login', '235 2.7.0 Authentication successful',"
        " 'outlook.office365.com:993', 150, tested_at FROM mailbox WHERE tested_at IS NOT NULL"
        for protocol in ("smtp", "imap")
    ),
    # The first verdict of each, which is no change, and one change of every thousandth.
    *(
        "INSERT INTO status_change (mailbox_id, at, before, after, smtp_reason, imap_reason, told_at)"
        f" SELECT id, tested_at, {before}, status, smtp_reason, imap_reason, tested_at FROM mailbox"
        f" WHERE tested_at IS NOT NULL AND id % {every} = 0 ORDER BY id"
        for before, every in (("NULL", 1), ("'active'", 1000))
    ),
)


@contextmanager
def filled(address: str, stored: int) -> Iterator[tuple[Database, Settings]]:
    """A database with this many mailboxes, and the history that belongs to them."""
    from schemas.settings import Settings
    from tasks.storage.database import database, make_engine, upgrade, url_of

    settings = Settings(database_url=address, encryption_keys=new_key())
    engine = make_engine(url_of(settings))
    upgrade(engine)
    fill(engine, stored)
    engine.dispose()
    with database(settings) as opened:
        yield opened, settings


def fill(engine: Engine, stored: int) -> None:
    """Fill empty tables, and collect statistics as PostgreSQL does by itself. SQLite has none in use."""
    with engine.begin() as connection:
        for statement in FILL:
            insert(connection, statement, stored)
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")


def insert(connection: Connection, statement: str, stored: int) -> None:
    name = connection.dialect.name
    series = {"ten": 10, "imports": math.ceil(stored / AN_IMPORT), "mailboxes": stored}
    texts = {key: SERIES[name].format(last=number) for key, number in series.items()}
    filling = statement.format(
        **texts,
        hex=SCATTERED[name],
        ago=AGO[name].format(last=stored),
        status=STATUS,
        smtp_reason=SMTP_REASON,
        imap_reason=IMAP_REASON,
        smtp_state=STATE.format(reason=SMTP_REASON),
        imap_state=STATE.format(reason=IMAP_REASON),
        workspace=WORKSPACE,
        domain=DOMAIN,
    )
    values = {"password": secrets.token_bytes(52)} if ":password" in statement else {}
    connection.execute(text(filling), values)
