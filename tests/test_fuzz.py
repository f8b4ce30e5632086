"""A short run of each property in `tests.tools.fuzz`, with the same examples each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from hypothesis import strategies as st

from tests.tools import fuzz
from tests.tools.fuzz import Property

# Name → number of examples, and the result that at least a tenth of them must have to be meaningful.
SHORT_RUN = {
    "envelope": (40, {"read"}),
    "passwords": (45, {"read"}),
    "counts": (40, {"one row", "several rows"}),
    "order": (35, {"several rows"}),
    "failed rows": (30, {"failed rows"}),
    "command line": (20, {"read"}),
    "store": (20, {"stored"}),
    "uploads": (45, {"taken"}),
    "replies": (60, {"clean", "blotted out"}),
    "dialogues": (25, {"protocol_error", "dropped", "ok"}),
}


@pytest.fixture(scope="module")
def properties() -> Iterator[dict[str, Property]]:
    with fuzz.properties() as found:
        yield found


@pytest.mark.parametrize("name", SHORT_RUN)
def test_property(name: str, properties: dict[str, Property]) -> None:
    """The property holds for some examples, and enough of them get as far as what it checks."""
    examples, wanted = SHORT_RUN[name]
    became = properties[name].run(examples)
    assert 10 * sum(became[end] for end in wanted) >= became.total(), became


def test_every_property_is_run_briefly(properties: dict[str, Property]) -> None:
    """The short run includes every property."""
    assert list(properties) == list(SHORT_RUN)


def test_a_finding_ends_the_run(
    properties: dict[str, Property], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failing property ends the run with 1 and its smallest example."""

    def check(number: int) -> str:
        assert number < 1000
        return "small"

    false = Property("false", st.integers(), check)
    monkeypatch.setattr(fuzz, "properties", lambda: nullcontext({"false": false}))
    assert fuzz.main(["--minutes", "1"]) == 1
    assert capsys.readouterr().out.endswith("Finding: false: 1000\n")
    assert properties
