"""The structure of the code: what imports what, and that there is only one pipeline."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.shell import PROJECT

PACKAGES = ("schemas", "tasks", "flows")  # each may import itself and those before it
# Modules that only start another one when they are run by name.
ENTRY_POINTS = {
    "flows.import_outlook",
    "flows.retest_pending",
    "flows.manage",
    "flows.up",
    "flows.api.__main__",
}
FILE_ACCESS = {
    *("open", "read_text", "read_bytes", "write_text", "write_bytes", "exists", "is_file", "is_dir"),
    *("resolve", "stat", "lstat", "mkdir", "unlink", "rename", "touch", "iterdir", "glob"),
}


@cache
def modules(*packages: str) -> dict[str, ast.Module]:
    """Every module of these packages, by its dotted name."""
    found = {}
    for package in packages:
        for path in sorted((PROJECT / package).rglob("*.py")):
            name = ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text("utf-8"))
    return found


def is_entry_point(node: ast.AST) -> bool:
    """Whether this is `if __name__ == "__main__":`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def imports_of(tree: ast.AST, known: dict[str, ast.Module]) -> Iterator[str]:
    """The known modules that a module imports, except under `if __name__ == "__main__":`."""
    for node in ast.iter_child_nodes(tree):
        if is_entry_point(node):
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            yield from imports_of(node, known)


@cache
def graph() -> dict[str, set[str]]:
    known = modules(*PACKAGES)
    return {name: {used for used in imports_of(tree, known) if used in known} for name, tree in known.items()}


def test_imports_point_down() -> None:
    """Flows import tasks and schemas, tasks import schemas, and nothing imports back up."""
    rank = {package: at for at, package in enumerate(PACKAGES)}
    upward = [
        (name, used)
        for name, uses in graph().items()
        for used in uses
        if rank[used.partition(".")[0]] > rank[name.partition(".")[0]]
    ]
    assert upward == []


def test_modules_form_no_circle() -> None:
    """No module imports itself through others, except the entry points that are run by name."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join([*path[path.index(name) :], name])
        if name not in done:
            for used in sorted(graph()[name]):
                visit(used, (*path, name))
            done.add(name)

    for name in graph():
        visit(name, ())


def test_only_entry_points_run_by_name() -> None:
    """Only the entry points, `flows.cli` and the temporary server contain `if __name__ == "__main__"`."""
    found = {
        name
        for name, tree in modules(*PACKAGES).items()
        if any(is_entry_point(node) for node in ast.iter_child_nodes(tree))
    }
    assert found == ENTRY_POINTS | {"flows.cli.__main__", "flows.cli.temporary_server"}


def test_nothing_imports_the_sandbox() -> None:
    """No module of the program imports the stand-in, which is only for demonstrations and tests."""
    for name, tree in modules(*PACKAGES).items():
        imported = {
            node.module if isinstance(node, ast.ImportFrom) else alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not {module for module in imported if module and module.split(".")[0] == "sandbox"}, name


@pytest.mark.parametrize("name", sorted(modules("schemas")))
def test_schemas_touch_no_file(name: str) -> None:
    """A module of `schemas` neither opens nor inspects files."""
    called = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(modules("schemas")[name])
        if isinstance(node, ast.Call)
    }
    assert called & FILE_ACCESS == set()


def test_every_way_in_calls_the_one_pipeline_function() -> None:
    """Command line, flow, HTTP API and tests all prepare files with `prepare_rows`."""
    callers = {
        name
        for name, tree in (modules(*PACKAGES) | modules("tests")).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "prepare_rows"
    }
    assert {"flows.cli.import_file", "flows.api.imports", "tasks.prepare"} <= callers
    steps = {"parse", "validate", "dedupe"}
    for name, tree in modules("tasks", "flows").items():
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module in ("schemas.csv_file", "schemas.rows")
            for alias in node.names
        }
        assert not imported & steps, name


def test_names_do_not_shadow_the_standard_library() -> None:
    """No module in `flows/` shadows the standard library, because Prefect puts `flows/` on the path."""
    names = {path.stem for path in Path(PROJECT / "flows").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not names & sys.stdlib_module_names
