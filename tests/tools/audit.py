"""Checks the locked packages for known vulnerabilities: `make audit`.

Asks OSV (https://osv.dev) through pip-audit. Exit codes: 0 if there are none, or if the database cannot be
reached (the output says which); 1 if there are some, or if pip-audit itself failed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

LOCK = "requirements.lock"
OPTIONS = (
    # By default pip-audit may ask a mirror of the package index, which knows no vulnerabilities.
    *("--vulnerability-service=osv", "--timeout=10"),
    *("--require-hashes", "--disable-pip"),
    *("--format=json", "--progress-spinner=off"),
)
UNREACHABLE = ("ConnectionError", "Timeout", "Could not connect")


def main(more: Sequence[str] = (), lock: str = LOCK) -> int:
    if find_spec("pip_audit") is None:
        return say("skipped: pip-audit is not installed", 0)
    command = [sys.executable, "-m", "pip_audit", f"--requirement={lock}", *OPTIONS, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        cause = (done.stderr.strip().splitlines() or ["no word"])[-1]
        if any(word in cause for word in UNREACHABLE):
            return say(f"skipped: its database cannot be reached ({cause})", 0)
        return say(f"pip-audit failed: {done.stderr}", 1)
    return show_vulnerabilities(json.loads(done.stdout)["dependencies"])


def show_vulnerabilities(packages: list[dict[str, Any]]) -> int:
    """Print the known vulnerabilities of each package; return the exit code."""
    for package in packages:
        if reason := package.get("skip_reason"):
            say(f"{package['name']}: not looked up: {reason}", 0)
        for known in package.get("vulns", ()):
            fixed = ", ".join(known["fix_versions"]) or "no release yet"
            say(f"{package['name']} {package['version']}: {known['id']}, fixed in {fixed}", 0)
    found = sum(bool(package.get("vulns")) for package in packages)
    looked_up = sum("skip_reason" not in package for package in packages)
    return say(
        f"{found} of {looked_up} packages have a known vulnerability", 1 if found or not looked_up else 0
    )


def say(text: str, code: int) -> int:
    sys.stdout.write(f"{text}\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
