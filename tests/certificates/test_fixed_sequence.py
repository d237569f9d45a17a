"""Fixed-sequence testing, the hash of a path, and looks."""

from __future__ import annotations

import math

import pytest

from dyncompress.certificates.fixed_sequence import fixed_sequence, look_delta, path_digest
from dyncompress.errors import InvalidRequest


def walk(uppers):
    """The result of the sequence, and the tests that ran with their delta."""
    calls = []

    def test(index):
        def run(delta):
            calls.append((index, delta))
            return uppers[index]

        return run

    return fixed_sequence([test(i) for i in range(len(uppers))], limit=0.02, delta=0.1), calls


@pytest.mark.parametrize(
    ("uppers", "chosen", "looked_at"),
    [
        ([0.01, 0.02, 0.03, 0.0], 1, 3),
        ([0.03, 0.0, 0.0], None, 1),
        ([0.01, 0.01], 1, 2),
        ([], None, 0),
        ([0.0, math.nan, 0.0], 0, 2),
    ],
)
def test_it_stops_at_the_first_failure_and_looks_no_further(uppers, chosen, looked_at):
    actual, calls = walk(uppers)
    assert actual.chosen == chosen
    assert calls == [(i, 0.1) for i in range(looked_at)]
    assert len(actual.uppers) == looked_at
    assert actual.record()["chosen"] == chosen


def test_a_lazy_path_is_made_only_as_far_as_it_is_walked():
    result = []

    def path():
        for index in range(5):
            result.append(index)
            yield lambda delta, index=index: 0.0 if index < 2 else 1.0

    assert fixed_sequence(path(), limit=0.5, delta=0.05).chosen == 1
    assert result == [0, 1, 2]


def test_the_hash_tells_order_limit_and_delta_apart():
    base = path_digest(["a", {"seed": 1}], limit=0.01, delta=0.05)
    assert base == path_digest(["a", {"seed": 1}], limit=0.01, delta=0.05)
    others = [
        path_digest([{"seed": 1}, "a"], limit=0.01, delta=0.05),
        path_digest(["a", {"seed": 2}], limit=0.01, delta=0.05),
        path_digest(["a", {"seed": 1}], limit=0.02, delta=0.05),
        path_digest(["a", {"seed": 1}], limit=0.01, delta=0.06),
    ]
    assert len({base, *others}) == 5


def test_what_has_no_stable_hash_is_refused():
    for step in (object(), float("nan")):
        with pytest.raises(InvalidRequest, match="hashed"):
            path_digest([step], limit=0.01, delta=0.05)


def test_all_looks_together_cost_delta():
    total = sum(look_delta(0.05, k) for k in range(1, 20_000))
    assert 0.0499 < total < 0.05
    assert look_delta(0.05, 1) == pytest.approx(0.05 * 6 / math.pi**2)
    with pytest.raises(InvalidRequest, match="look"):
        look_delta(0.05, 0)
