"""What an examination of the set-up finds: one verdict a line."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Health(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAULT = "FAULT"


class Finding(NamedTuple):
    """A verdict on one part; where it is not ok, the text says what is wrong and what to do about it."""

    health: Health
    about: str
    text: str


def ok(about: str, text: str) -> Finding:
    return Finding(Health.OK, about, text)


def warning(about: str, text: str) -> Finding:
    return Finding(Health.WARNING, about, text)


def fault(about: str, text: str) -> Finding:
    return Finding(Health.FAULT, about, text)
