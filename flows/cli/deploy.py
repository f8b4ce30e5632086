"""`deploy`: set up what runs need on the Prefect server."""

from __future__ import annotations

import sys

from flows.cli.exit_codes import DONE
from flows.cli.output import wrong_usage
from tasks.configuration import load_settings


def deploy() -> int:
    """Set up work pool, deployments and automation on the Prefect server; again changes nothing."""
    from flows import deployments  # imports Prefect

    load_settings()
    try:
        deployments.deploy()
    except deployments.DeployError as error:
        return wrong_usage(str(error))
    sys.stdout.write(f"Deployments: {', '.join(deployments.DEPLOYMENTS)}\n")
    return DONE
