"""What a new installation needs: `database upgrade`, `deploy`, `limit`."""

from __future__ import annotations

import argparse
import asyncio
import sys

import schemas.migrations
from flows.managing.output import DONE, USAGE, Areas
from schemas.settings import Settings
from tasks.database import make_engine, revision, upgrade, url_of


def add_arguments(areas: Areas) -> None:
    tables = areas.add_parser("database", help="the tables").add_subparsers(dest="action", required=True)
    tables.add_parser("upgrade", help="bring the tables up to date").set_defaults(run=upgrade_database)
    setup = areas.add_parser(
        "deploy", help="set up work pool, deployments and automation on Prefect's server"
    )
    setup.set_defaults(run=set_up_deployments)
    limit = areas.add_parser("limit", help="hold all workers together to so many mailboxes at once on a host")
    limit.add_argument("host", metavar="HOST", help="such as outlook.office365.com")
    limit.add_argument("mailboxes", type=int, metavar="N", help="0 removes the limit")
    limit.set_defaults(run=limit_host)


def upgrade_database(_options: argparse.Namespace, settings: Settings) -> int:
    engine = make_engine(url_of(settings))
    try:
        before = revision(engine)
        upgrade(engine)
    finally:
        engine.dispose()
    sys.stdout.write(f"The tables are at revision {schemas.migrations.HEAD} (before: {before or 'none'}).\n")
    return DONE


def set_up_deployments(_options: argparse.Namespace, _settings: Settings) -> int:
    from flows.deploy import DEPLOYMENTS, DeployError, deploy  # imports Prefect

    try:
        deploy()
    except DeployError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    sys.stdout.write(f"Deployments: {', '.join(DEPLOYMENTS)}\n")
    return DONE


def limit_host(options: argparse.Namespace, settings: Settings) -> int:
    from tasks.limits import set_limit  # imports Prefect

    try:
        groups = asyncio.run(set_limit(options.host, options.mailboxes, settings.probe_group_size))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    held = f"{groups} groups of {settings.probe_group_size} mailboxes at once" if groups else "no limit"
    sys.stdout.write(f"{options.host}: {held}\n")
    return DONE
