"""What a new installation needs: `database upgrade`, `deploy`, `limit`."""

from __future__ import annotations

import argparse
import asyncio
import sys

import httpx

import schemas.migrations
from flows.managing.output import DONE, USAGE, Areas, add_action, add_area
from schemas.settings import Settings
from tasks.database import make_engine, revision, upgrade, url_of


def add_arguments(areas: Areas) -> None:
    tables = add_area(areas, "database", "Look after the tables.")
    add_action(tables, "upgrade", "Bring the tables up to date.", upgrade_database)
    about = "Set up work pool, deployments and automation on Prefect's server."
    add_action(areas, "deploy", about, set_up_deployments)
    about = "Hold all workers together to so many mailboxes at once on a host."
    limit = add_action(areas, "limit", about, limit_host)
    limit.add_argument("host", metavar="HOST", help="A server, such as outlook.office365.com.")
    limit.add_argument("mailboxes", type=int, metavar="N", help="How many; 0 removes the limit.")


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
        sys.stderr.write(f"{error}.\n")
        return USAGE
    except httpx.HTTPError as error:
        cause = f"Prefect's server did not take it ({type(error).__name__})"
        sys.stderr.write(f"{cause}: start it, or correct PREFECT_API_URL.\n")
        return USAGE
    held = f"{groups} groups of {settings.probe_group_size} mailboxes at once" if groups else "no limit"
    sys.stdout.write(f"{options.host}: {held}\n")
    return DONE
