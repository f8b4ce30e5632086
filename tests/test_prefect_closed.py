"""Prefect's server is closed: a stranger who reaches its port can run and read nothing."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest

from flows.cli.app import main
from flows.cli.temporary_server import TemporaryServer
from flows.deployments import WORK_POOL
from schemas.settings import PREFIX, SettingsError
from tasks.configuration import load_settings
from tasks.files.prefect_profile import QUERY_SECONDS, VARIABLE, read_profile, write_profile
from tests.support.machine import Machine

ORIGINS = (None, "http://evil.example", "null")
REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def stranger(url: str, origin: str | None) -> httpx.Client:
    """A client that knows only the address, optionally as a web page of this origin."""
    return httpx.Client(base_url=url, headers={"Origin": origin} if origin else {}, timeout=30)


def attacks(deployment: str, marker: Path) -> Iterator[tuple[str, str, dict[str, object]]]:
    """Requests that would make the worker of an open server create the marker file."""
    command = f"{sys.executable} -c \"open('{marker}', 'w')\""
    later = {"type": "SCHEDULED"}
    variables = {"command": command, "env": {"MARKER": str(marker)}}
    yield "POST", f"/deployments/{deployment}/create_flow_run", {"job_variables": variables, "state": later}
    yield "POST", "/flow_runs/", {"deployment_id": deployment, "job_variables": variables, "state": later}
    yield "PATCH", f"/deployments/{deployment}", {"job_variables": variables}
    step = {"prefect.deployments.steps.run_shell_script": {"script": f"touch {marker}"}}
    yield "PATCH", f"/deployments/{deployment}", {"pull_steps": [step]}
    yield "PATCH", f"/work_pools/{WORK_POOL}", {"base_job_template": {}}


@pytest.mark.slow
@pytest.mark.parametrize("origin", ORIGINS)
def test_stranger_makes_the_worker_run_nothing(machine: Machine, origin: str | None, tmp_path: Path) -> None:
    """Without the login every attack is refused, whatever the origin, and the worker creates no file."""
    marker = tmp_path / "marker"
    deployment = machine.deployment("import-outlook/manual")["id"]
    pool = machine.api.get(f"/work_pools/{WORK_POOL}").json()["base_job_template"]
    with stranger(str(machine.api.base_url), origin) as client:
        for method, path, body in attacks(deployment, marker):
            answer = client.request(method, path, json=body)
            assert answer.status_code in REFUSED, (path, answer.text)
            assert "access-control-allow-origin" not in answer.headers
            # A page may send this without a preflight: Prefect reads a body without a type as JSON.
            answer = client.request(method, path, content=json.dumps(body).encode())
            assert answer.status_code in REFUSED, (path, answer.text)
        assert client.post("/flow_runs/filter", json={}).status_code in REFUSED
    assert machine.api.get(f"/work_pools/{WORK_POOL}").json()["base_job_template"] == pool
    time.sleep(2 * QUERY_SECONDS)
    assert not marker.exists()


@pytest.mark.slow
def test_callers_with_a_login_choose_no_command(machine: Machine, tmp_path: Path) -> None:
    """A caller who may start runs cannot choose the worker's command or environment."""
    marker = tmp_path / "marker"
    deployment = machine.deployment("import-outlook/manual")["id"]
    method, path, body = next(attacks(deployment, marker))
    answer = machine.api.request(method, path, json=body)
    assert answer.status_code in (HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY), answer.text
    assert not marker.exists()


@pytest.mark.slow
def test_login_is_in_a_private_file_and_in_no_process_list(machine: Machine) -> None:
    """The login is in the profile, which only its owner can read, and is no process's argument."""
    login = read_profile(machine.profile)["PREFECT_API_AUTH_STRING"]
    assert stat.S_IMODE(machine.profile.stat().st_mode) == 0o600
    arguments = "\n".join(machine.processes().values())
    assert "prefect" in arguments
    assert login.partition(":")[2] not in arguments
    assert login.partition(":")[2] not in machine.said


def test_temporary_server_refuses_strangers() -> None:
    """The temporary server of a command has its own login, which is in no process list."""
    server = TemporaryServer()
    try:
        server.wait()
        with stranger(server.url, None) as client:
            assert client.post("/flow_runs/filter", json={}).status_code in REFUSED
            assert client.get("/admin/version").status_code in REFUSED
            user, _, password = server.login.partition(":")
            assert client.get("/admin/version", auth=(user, password)).is_success
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert "flows.cli.temporary_server" in listed
        assert password not in listed
    finally:
        server.stop()


def test_profile_keeps_its_login_and_takes_a_new_address(tmp_path: Path) -> None:
    """Writing the profile again changes the address and keeps the login; the file stays private."""
    path = tmp_path / "made" / "prefect.toml"
    write_profile(path, "http://127.0.0.1:4200")
    first = read_profile(path)
    write_profile(path, "https://prefect.example.com")
    second = read_profile(path)
    assert (first["PREFECT_API_URL"], second["PREFECT_API_URL"]) == (
        "http://127.0.0.1:4200/api",
        "https://prefect.example.com/api",
    )
    assert first["PREFECT_SERVER_API_AUTH_STRING"] == second["PREFECT_API_AUTH_STRING"]
    assert len(first["PREFECT_API_AUTH_STRING"]) > 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_command_writes_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`prefect-profile` writes the file and says how to use it, and never prints the login."""
    path = tmp_path / "prefect.toml"
    monkeypatch.setenv(f"{PREFIX}PREFECT_PROFILE", str(path))
    assert main(["prefect-profile", "--url", "http://prefect.example.com:4200"]) == 0
    said = capsys.readouterr().out
    assert f"{VARIABLE}={path}" in said
    assert read_profile(path)["PREFECT_API_AUTH_STRING"].partition(":")[2] not in said
    assert main(["prefect-profile", "--url", "prefect.example.com"]) == 2


@pytest.mark.parametrize("fault", ["missing", "open", "not a profile"])
def test_profile_that_prefect_would_ignore_is_a_fault(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A named profile that is missing, open to others or damaged stops every command with a message.

    Prefect itself would fall back to its defaults: a server without a login.
    """
    path = tmp_path / "prefect.toml"
    if fault != "missing":
        write_profile(path, "http://127.0.0.1:4200")
    if fault == "open":
        path.chmod(0o644)
    if fault == "not a profile":
        path.write_text("nothing")
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(SettingsError, match=f"^{VARIABLE}: ") as error:
        load_settings()
    assert str(path) in str(error.value)
