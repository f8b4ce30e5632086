"""`doctor`: one finding a line, with the remedy where something is wrong."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from pydantic import ValidationError

from flows.cli.exit_codes import DONE, NOTHING_FOUND
from flows.cli.options import Json
from flows.cli.output import cell, print_json, tell
from schemas.findings import Finding, Health, fault, ok
from schemas.labels import counted
from schemas.settings import Settings
from tasks.configuration import check_settings
from tasks.doctor.installation import (
    check_disk,
    check_dns,
    check_folders,
    check_libraries,
    check_servers,
    check_storage,
    check_variables,
)


def doctor(*, json: Json = False) -> int:
    """Check settings, keys, database, folders, Prefect and mail servers, and say what to do."""
    # glibc's: a silent name server would keep the process alive for up to half a minute.
    os.environ.setdefault("RES_OPTIONS", "timeout:3 attempts:1")
    findings = list(find())
    if json:
        print_json([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            sys.stdout.write(f"{finding.health:<8} {cell(finding.about)}: {cell(finding.text)}\n")
    counts = Counter(finding.health for finding in findings)
    faults, warnings = counted(counts[Health.FAULT], "fault"), counted(counts[Health.WARNING], "warning")
    tell(f"{faults}, {warnings}")
    return NOTHING_FOUND if counts[Health.FAULT] else DONE


def find() -> Iterator[Finding]:
    settings, faults = check_settings()
    yield from (fault("settings", f"{text}: correct it; below its default is used") for _, text in faults)
    if not faults:
        yield ok("settings", "all can be read")
    yield from check_variables(os.environ)
    yield check_libraries()
    yield from _guarded("database", lambda: check_storage(settings))
    yield from _guarded("folders", lambda: check_folders(settings))
    yield from _guarded("disk", lambda: check_disk(settings))
    # Without its own servers and authorities, others than those meant would be asked and distrusted.
    ask_servers = not {"servers", "ca_file"} & {name for name, _ in faults}
    yield from asyncio.run(_ask(settings, ask_servers=ask_servers))


def _guarded(about: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except OSError as error:
        yield fault(
            about, f"{error.filename} cannot be used: {error.strerror}: see who owns it, and its mode"
        )


async def _ask(settings: Settings, *, ask_servers: bool) -> list[Finding]:
    """What is beyond this machine's files, all at once."""
    checks = [_check_prefect(), check_dns(settings), *([check_servers(settings)] if ask_servers else [])]
    return [finding for findings in await asyncio.gather(*checks) for finding in findings]


async def _check_prefect() -> list[Finding]:
    try:
        from flows.deployments import (  # imports Prefect
            AUTOMATION,
            CLOSED_TEMPLATE,
            DEPLOYMENTS,
            SCHEDULED,
            WORK_POOL,
        )
        from tasks.doctor.prefect import Parts, check_prefect
    except ValidationError as error:  # Prefect reads its own settings when it is imported
        names = {str(part["loc"][0]) for part in error.errors(include_input=False) if part["loc"]}
        text = f"its settings cannot be read ({', '.join(sorted(names))}): correct the PREFECT_… variables"
        return [fault("Prefect", text)]
    return await check_prefect(Parts(WORK_POOL, CLOSED_TEMPLATE, DEPLOYMENTS, SCHEDULED, AUTOMATION))
