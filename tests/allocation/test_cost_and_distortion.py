"""From tables to arrays to plans; distortions in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.allocation import Knapsack
from dyncompress.allocation.cost import arrays, solve
from dyncompress.allocation.distortion import fisher, log_sensitivity, theory
from dyncompress.errors import Infeasible, InvalidRequest
from dyncompress.types import Choice, Estimate, Layer, Option, Profile

LAYERS = (
    Layer("a", "linear", (4, 8), 32),
    Layer("b", "linear", (2, 4), 8),
    Layer("c", "embedding", (9, 9), 5, left_alone="shared"),
)
TABLE = {
    "a": (Option(Choice(weight_bits=8), 32, 32, 0.0), Option(Choice(weight_bits=4), 16, 32, 0.25)),
    "b": (Option(Choice(weight_bits=8), 8, 8, 0.125),),
}


def profile(table: dict[str, tuple[Option, ...]] = TABLE) -> Profile:
    source = dict.fromkeys(table, "fisher")
    return Profile(LAYERS, {}, table, source, {"c": "shared"}, 400, 100, 45, "d", "smallest", "any")


def test_arrays_pad_with_inf() -> None:
    cost, distortion = arrays(TABLE)
    np.testing.assert_array_equal(cost, [[[32, 16], [8, np.inf]], [[32, 32], [8, np.inf]]])
    np.testing.assert_array_equal(distortion, [[0, 0.25], [0.125, np.inf]])
    assert arrays(TABLE, ("macs",))[0].shape == (1, 2, 2)


def test_a_plan_adds_what_is_fixed_and_gives_reasons() -> None:
    plan = solve(profile(), [("bytes", 30.0)], Knapsack(), {"weights": 0.5, "macs": 0.1})
    assert {unit: choice.weight_bits for unit, choice in plan.asked.items()} == {"a": 4, "b": 8}
    assert plan.cost == {"bytes": 124.0, "macs": 45.0, "float_bytes": 400.0, "float_macs": 45.0}
    assert plan.distortion == 0.375
    assert plan.gap == pytest.approx(
        (0.25 - 0.25 * 10 / 16) / 0.25
    )  # the relaxation may choose ten sixteenths of the bolder option
    assert plan.shapes["a"] == (4, 8) and plan.reasons == {"c": "shared"}
    assert plan.why["a"] == "predicted distortion 0.25 nats (fisher); nothing smaller is allowed"
    careful = solve(profile(), [], Knapsack(), {})
    assert careful.asked["a"].weight_bits == 8
    assert careful.why["a"] == "predicted distortion 0 nats (fisher); 4 bits would save 16 bytes and add 0.25"


def test_infeasible_counts_the_whole_file() -> None:
    with pytest.raises(Infeasible) as caught:
        solve(profile(), [("bytes", 20.0)], Knapsack(), {})
    expected = (
        "the smallest plan takes 124 bytes, the budget is 120; raise budget.bytes or allow 2 bits in the recipe and the target."
    )
    assert str(caught.value) == expected
    with pytest.raises(Infeasible, match="takes 45 macs, the budget is 25"):
        solve(profile(), [("bytes", 24.0), ("macs", 20.0)], Knapsack(), {})


def test_a_model_without_units_has_an_empty_plan_or_none() -> None:
    assert solve(profile({}), [("bytes", 0.0)], Knapsack(), {}).asked == {}
    with pytest.raises(Infeasible, match="no layer of this model can be compressed"):
        solve(profile({}), [("bytes", -1.0)], Knapsack(), {})


def test_a_row_the_table_lacks_is_refused() -> None:
    with pytest.raises((InvalidRequest, AttributeError)):
        solve(profile(), [("seconds", 1.0)], Knapsack(), {})


def test_fisher_is_the_second_order_divergence() -> None:
    """KL(softmax(z) || softmax(z + e)) for small e against half the diagonal form, logits nearly independent."""
    rng = np.random.default_rng(0)
    z, e = rng.standard_normal((50_000, 6)), 0.01 * rng.standard_normal((50_000, 6))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    q = np.exp(z + e) / np.exp(z + e).sum(1, keepdims=True)
    diagonal = (p * (1 - p)).mean(0)
    divergence = (p * np.log(p / q)).sum(1).mean()
    assert fisher(np.full(6, 1e-4), diagonal) == pytest.approx(divergence, rel=0.02)


def test_theory_scales_the_relative_error() -> None:
    assert theory(0.5, np.log(3)) == pytest.approx(1.5)


def estimates(values: list[float], valid: bool = True) -> dict[str, Estimate]:
    return {f"l{i}": Estimate(v, 0.1, 10, valid=valid) for i, v in enumerate(values)}


def test_log_sensitivity_standardises_over_the_layers() -> None:
    result = log_sensitivity({"hill": estimates([1.0, 2.0, 3.0])}, {"hill": 0.5})
    assert list(result.values()) == pytest.approx([-0.5 * np.sqrt(1.5), 0.0, 0.5 * np.sqrt(1.5)])
    shifted = log_sensitivity({"hill": estimates([110.0, 120.0, 130.0])}, {"hill": 0.5})
    assert list(shifted.values()) == pytest.approx(list(result.values()))
    reverse = log_sensitivity({"hill": estimates([1.0, 2.0, 3.0])}, {"hill": -0.5})
    assert list(reverse.values()) == pytest.approx([-v for v in result.values()])


def test_log_sensitivity_clips_and_treats_gaps_as_the_mean() -> None:
    extreme = log_sensitivity({"hill": estimates([0.0] * 20 + [100.0])}, {"hill": 1.0})
    assert extreme["l20"] == 2.0
    gaps = estimates([1.0, 3.0])
    gaps |= {"nan": Estimate(np.nan, 0.1, 1), "bad": Estimate(50.0, 0.1, 1, valid=False)}
    result = log_sensitivity({"hill": gaps, "other": {"only": Estimate(1.0, 0.1, 3)}}, {"hill": 1.0, "absent": 2.0, "other": 1.0})
    assert result == pytest.approx({"l0": -1.0, "l1": 1.0, "nan": 0.0, "bad": 0.0, "only": 0.0})
    assert log_sensitivity({"hill": estimates([2.0, 2.0])}, {"hill": 1.0}) == {"l0": 0.0, "l1": 0.0}
    assert log_sensitivity({}, {"hill": 1.0}) == {}
