"""The findings of `doctor`: one for each part of the installation that it checks."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Health(StrEnum):
    """How serious a finding is. The value is what `doctor` prints."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "FAULT"


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        about: The part of the installation that was checked.
        text: What was found; if it is not OK, also what to do about it.
    """

    health: Health
    about: str
    text: str


def ok(about: str, text: str) -> Finding:
    return Finding(Health.OK, about, text)


def warning(about: str, text: str) -> Finding:
    return Finding(Health.WARNING, about, text)


def fault(about: str, text: str) -> Finding:
    return Finding(Health.FAULT, about, text)
