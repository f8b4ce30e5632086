"""Check Prefect's server without changing it: whether it responds and has everything that runs need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from urllib.parse import urlsplit

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import WorkerStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.settings import PREFECT_API_URL

from schemas.findings import Finding, fault, ok, warning
from tasks.doctor.installation import LONGEST_WAIT
from tasks.hints import command

ABOUT = "Prefect"


def deploy() -> str:
    """The remedy for anything that is missing on the server."""
    return f"run `{command('deploy')}`"


@dataclass(frozen=True)
class Parts:
    """Names of the objects that the project creates on a server. `scheduled` are deployments too."""

    work_pool: str
    job_template: Mapping[str, object]
    deployments: Sequence[str]
    scheduled: Sequence[str]
    automation: str


async def check_prefect(parts: Parts) -> list[Finding]:
    """Check the configured server, its deployments, schedules, workers and automation."""
    address = PREFECT_API_URL.value()
    if not address:
        return [ok(ABOUT, "no server is configured (PREFECT_API_URL): each run starts its own")]
    url = urlsplit(address)  # never show its user and password
    place = f"{url.scheme}://{url.hostname}:{url.port}" if url.port else f"{url.scheme}://{url.hostname}"
    remedy = "start it, or correct PREFECT_API_URL"
    try:
        async with asyncio.timeout(LONGEST_WAIT), get_client() as client:
            found = [finding async for finding in _look(client, place, parts)]
            return [*found, *await _check_doors(address)]
    except (httpx.HTTPStatusError, ValueError) as error:
        code = f" ({error.response.status_code})" if isinstance(error, httpx.HTTPStatusError) else ""
        said = f"{place} is not Prefect's API, or rejects the login{code}"
        hint = "check that PREFECT_API_URL ends in /api, and check PREFECT_API_AUTH_STRING"
        return [fault(ABOUT, f"{said}: {hint}")]
    except TimeoutError:
        return [fault(ABOUT, f"{place} does not respond within {LONGEST_WAIT:g} s: {remedy}")]
    except (httpx.HTTPError, httpx.InvalidURL, OSError, PrefectException, RuntimeError) as error:
        return [fault(ABOUT, f"{place} cannot be reached ({type(error).__name__}): {remedy}")]


async def _look(client: PrefectClient, place: str, parts: Parts) -> AsyncIterator[Finding]:
    theirs, ours = await client.api_version(), version("prefect")
    if theirs == ours:
        yield ok(ABOUT, f"{place} responds, version {theirs}")
    else:
        yield fault(
            ABOUT, f"{place} has version {theirs}, this program has {ours}: install the same version on both"
        )
    found = {name: await _deployment(client, name) for name in parts.deployments}
    missing = [name for name, deployment in found.items() if deployment is None]
    if len(missing) == len(found):
        yield warning(
            "deployments", f"none: the watched folder, schedules and form do not work until you {deploy()}"
        )
        return
    if missing:
        yield fault("deployments", f"missing: {', '.join(missing)}: {deploy()}")
    else:
        yield ok("deployments", ", ".join(found))
    yield _check_schedules({name: there for name in parts.scheduled if (there := found[name])})
    async for finding in _check_workers(client, parts):
        yield finding
    yield await _check_automation(client, parts.automation)


async def _check_doors(address: str) -> list[Finding]:
    """Ask the server without its login: anyone who may use its API can run code as the worker."""
    profile = f"run `{command('prefect-profile')}` and start the server with the profile that it writes"
    async with httpx.AsyncClient(timeout=LONGEST_WAIT) as stranger:
        answer = await stranger.get(f"{address}/admin/version")
        origin = await stranger.get(f"{address}/health", headers={"Origin": "http://origin.invalid"})
    open_doors = []
    if answer.is_success:
        open_doors.append("answers without a login, so anyone who reaches it can run code as the worker")
    if origin.headers.get("access-control-allow-origin"):
        open_doors.append("lets pages of every origin read its answers")
    if not open_doors:
        return [ok("Prefect's login", "the server refuses strangers")]
    return [fault("Prefect's login", f"the server {' and '.join(open_doors)}: {profile}")]


async def _deployment(client: PrefectClient, name: str) -> DeploymentResponse | None:
    try:
        return await client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def _check_schedules(deployments: Mapping[str, DeploymentResponse]) -> Finding:
    paused = [
        name
        for name, deployment in deployments.items()
        if deployment.paused or not any(schedule.active for schedule in deployment.schedules)
    ]
    if paused:
        return warning("schedules", f"paused: {', '.join(paused)}: resume it on its page in the Prefect UI")
    return ok("schedules", f"{len(deployments)} active")


async def _check_workers(client: PrefectClient, parts: Parts) -> AsyncIterator[Finding]:
    about, pool = "worker", parts.work_pool
    try:
        found = await client.read_work_pool(pool)
        if found.is_paused:
            yield fault("work pool", f"{pool} is paused: run `prefect work-pool resume {pool}`")
        if found.base_job_template != parts.job_template:
            yield fault("work pool", f"{pool} lets callers choose what its worker runs: {deploy()}")
        workers = await client.read_workers_for_work_pool(pool)
    except ObjectNotFound:
        yield fault("work pool", f"{pool} is missing: {deploy()}")
        return
    online = [worker.name for worker in workers if worker.status == WorkerStatus.ONLINE]
    if online:
        yield ok(about, f"{len(online)} online in {pool}")
    else:
        yield fault(about, f"none is online, so nothing runs: run `prefect worker start --pool {pool}`")


async def _check_automation(client: PrefectClient, name: str) -> Finding:
    found = await client.read_automations_by_name(name)
    if not found:
        return fault("automation", f"“{name}” is missing, so dead runs stay Running forever: {deploy()}")
    if not found[0].enabled:
        return warning("automation", f"“{name}” is off, so dead runs stay Running: turn it on in the UI")
    return ok("automation", name)
