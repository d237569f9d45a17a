"""The tool that tries old versions reads `pyproject.toml` and pytest's counts rightly, and its committed result is current."""

from __future__ import annotations

import doctest
import json
import tomllib

import pytest

from tools import oldest_versions as tool

PROJECT = tomllib.loads((tool.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_its_examples_hold() -> None:
    assert doctest.testmod(tool).failed == 0


@pytest.mark.parametrize(
    ("text", "passed", "failed", "error"),
    [
        ("...\n3 passed, 1 skipped, 7 deselected in 0.56s\n", 3, 0, 0),
        ("FAILED a in 3s\n2 failed, 10 passed in 61.20s (0:01:01)", 10, 2, 0),
        ("1 passed, 1 error in 1.00s", 1, 0, 1),
        ("ImportError while loading conftest", 0, 0, 1),
    ],
)
def test_counts_are_those_that_pytest_prints(text: str, passed: int, failed: int, error: int) -> None:
    found = tool.counts(text)
    assert (found["passed"], found["failed"], found["error"]) == (passed, failed, error)


def test_every_requirement_has_one_lower_bound() -> None:
    assert all(requirement.count(">=") == 1 and "," not in requirement for requirement in tool.requirements())


EXPORTERS_OWN = {
    # How an LSTM with projections is exported changes with the version; not every form is refused in the words of the test.
    "tests/models/torch/test_recurrent.py::test_an_operator_that_the_runtime_lacks_is_refused_in_a_sentence",
}


def test_the_lower_bounds_were_tried_and_hold() -> None:
    """Changing a lower bound in `pyproject.toml` asks for a new run of `python tools/oldest_versions.py`."""
    entry = json.loads(tool.RESULTS.read_text(encoding="utf-8"))["python 3.11, lower bounds"]
    for requirement in PROJECT["dependencies"]:
        bound, tried = requirement.split(">=")[1], entry["versions"][tool.name_of(requirement)]
        assert tried == bound or tried.startswith(f"{bound}.0"), f"{requirement}: {tried} was tried"
    for path, found in entry["tests"].items():
        assert found["passed"] and not found["error"] and set(found["failures"]) <= EXPORTERS_OWN, path
        assert found["failed"] == len(found["failures"]), path
