"""The licences of installed packages, from their own metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution

from packaging.requirements import Requirement

PROJECT_NAME = "outlook-mailbox-import"

# By SPDX identifier, by classifier and, in older packages, by the text of the field "License".
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
    "axe-playwright-python": "MIT by its LICENSE file, not its metadata; brings axe-core, which is MPL-2.0",
    "psycopg": "LGPL: a library of its own, which may be exchanged, and nothing of it is copied",
    "psycopg-binary": "LGPL: the compiled part of psycopg",
    "text-unidecode": "Artistic License or GPL, whichever one likes: we take the former",
}


def normal(name: str) -> str:
    """A package name in normalised form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def free(expression: str) -> bool:
    """Whether an SPDX expression allows use under one of the allowed licences: `A AND (B OR C)`."""
    return all(
        any(licence.strip("() ") in ALLOWED for licence in part.split(" OR "))
        for part in expression.split(" AND ")
    )


def licence_of(package: Distribution) -> tuple[str, bool]:
    """The licence in a package's metadata, and whether it is allowed."""
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


def run_time_packages() -> Iterator[Distribution]:
    """Every package that the program needs on this machine, directly or indirectly, by name."""
    found: dict[str, Distribution] = {}
    waiting = [PROJECT_NAME]
    while waiting:
        package = distribution(waiting.pop())
        for line in package.requires or ():
            wanted = Requirement(line)
            name = normal(wanted.name)
            if name not in found and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
                found[name] = distribution(wanted.name)
                waiting.append(wanted.name)
    yield from (found[name] for name in sorted(found))
