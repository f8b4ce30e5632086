"""What `python -m flows.manage deploy` leaves on a Prefect server, also when it runs twice."""

from __future__ import annotations

from typing import Any

import pytest

from flows.deployments import AUTOMATION, WORK_POOL
from flows.states import ENDS
from tests.support.machine import Machine, wait_for
from tests.support.shell import Shell

pytestmark = pytest.mark.slow

DEPLOYMENTS = {
    "import-outlook/manual": None,
    "watch-inbox/scheduled": "* * * * *",
    "retest-pending/scheduled": "*/10 * * * *",
    "recheck-active/scheduled": "41 * * * *",
    "trim-history/scheduled": "17 * * * *",
}


def found_on(machine: Machine) -> dict[str, list[Any]]:
    """The objects by kind, without the values that change over time."""
    deployments = machine.api.post("/deployments/filter", json={}).json()
    pools = machine.api.post("/work_pools/filter", json={}).json()
    automations = machine.api.post("/automations/filter", json={}).json()
    return {
        "deployments": sorted(
            (one["id"], one["name"], one["parameter_openapi_schema"]) for one in deployments
        ),
        "work pools": [(one["id"], one["name"], one["type"]) for one in pools],
        "automations": automations,
    }


def test_setting_up_again_changes_nothing(machine: Machine) -> None:
    """A second `manage deploy` asks nothing and leaves five deployments, one pool and one automation."""
    before = found_on(machine)
    assert [len(parts) for parts in before.values()] == [5, 1, 1]
    shell = Shell(machine.folder, machine.signed_in)
    shell.run("deploy", module="flows.manage")
    assert found_on(machine) == before


def test_deployments_are_as_the_project_says(machine: Machine) -> None:
    """Each has a description, the pool and its schedule; a second scan next to a running one is cancelled."""
    for name, cron in DEPLOYMENTS.items():
        found = machine.deployment(name)
        assert found["description"]
        assert found["work_pool_name"] == WORK_POOL
        assert [one["schedule"]["cron"] for one in found["schedules"] if one["active"]] == [cron] * bool(cron)
        limit = found["global_concurrency_limit"] and found["global_concurrency_limit"]["limit"]
        strategy = found["concurrency_options"] and found["concurrency_options"]["collision_strategy"]
        assert (limit, strategy) == ((1, "CANCEL_NEW") if name.startswith("watch-inbox") else (None, None))
    assert machine.api.get(f"/work_pools/{WORK_POOL}").json()["type"] == "process"


def test_schedule_creates_runs(machine: Machine) -> None:
    """The scheduler creates scheduled runs for the scan, which some library versions never do."""
    wanted = {
        "deployments": {"id": {"any_": [machine.deployment("watch-inbox/scheduled")["id"]]}},
        "flow_runs": {"tags": {"all_": ["auto-scheduled"]}},
    }
    wait_for("planned scans", lambda: machine.api.post("/flow_runs/filter", json=wanted).json(), 120)


def test_dead_runs_are_found_by_their_silence(machine: Machine) -> None:
    """The automation marks a run as crashed after 90 seconds without a heartbeat or an end."""
    (automation,) = machine.api.post("/automations/filter", json={}).json()
    trigger = automation["trigger"]
    assert (automation["name"], automation["enabled"]) == (AUTOMATION, True)
    assert trigger["match_related"] == {
        "prefect.resource.role": "flow",
        "prefect.resource.name": [
            "import-outlook",
            "watch-inbox",
            "retest-pending",
            "recheck-active",
            "trim-history",
        ],
    }
    assert (trigger["posture"], trigger["within"], trigger["threshold"]) == ("Proactive", 90, 1)
    signs = {"Pending", "Submitting", "heartbeat"}
    assert set(trigger["after"]) == {f"prefect.flow-run.{sign}" for sign in signs}
    assert set(trigger["expect"]) == {"prefect.flow-run.heartbeat"} | {
        f"prefect.flow-run.{end}" for end in ENDS
    }
    assert [(action["type"], action["state"]) for action in automation["actions"]] == [
        ("change-flow-run-state", "CRASHED")
    ]
