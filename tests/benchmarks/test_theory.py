"""The statistics of the theory benchmark, and the networks of its zoo."""

from __future__ import annotations

import math
import tomllib

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from benchmarks import theory, theory_noise, theory_zoo
from benchmarks.theory_allocation import evidence, features_of
from dyncompress.recipe.bundled_files import prior_files


def layers(n: int = 6) -> dict:
    """The results of one network, where the divergence is ten times the error times exp(place)."""
    options = [{"level": 0.7, "error": 0.1 + 0.01 * i, "fisher": 1.0, "probe_stderr": 0.0} for i in range(n)]
    for i, option in enumerate(options):
        option["probe"] = option["truth"] = 10 * option["error"] * math.exp(i)
    estimates = {"hill": {"value": 2.0, "stderr": 0.1, "valid": True}}
    named = [
        {"layer": f"l{i}", "place": i, "weights": 90, "fan_in": 9, "macs": 1, "options": [o], "estimates": estimates}
        for i, o in enumerate(options)
    ]
    return {"network": "made up", "action": "zeros", "layers": named}


def test_rank_correlation_is_scipys_and_needs_four_finite_pairs() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 5, 20).astype(float), rng.normal(size=20)
    assert theory.spearman(one, other) == pytest.approx(spearmanr(one, other).statistic)
    one[3] = np.nan
    kept = np.isfinite(one)
    assert theory.spearman(one, other) == pytest.approx(spearmanr(one[kept], other[kept]).statistic)
    assert math.isnan(theory.spearman(one[:4], other[:4]))
    assert math.isnan(theory.spearman(np.ones(9), np.arange(9.0)))


def test_intervals_hold_the_mean_and_close_where_networks_agree() -> None:
    mean, low, high = theory.interval([0.2, 0.4, math.nan, 0.9])
    assert low < mean < high
    assert mean == pytest.approx(0.5)
    assert theory.interval([0.3] * 5) == pytest.approx((0.3, 0.3, 0.3))


def test_a_perfect_predictor_beats_noise_in_every_resample() -> None:
    rng = np.random.default_rng(1)
    truths = [rng.normal(size=12) for _ in range(6)]
    noise = [rng.normal(size=12) for _ in range(6)]
    first, second, apart = theory.resampled([noise, truths], truths)
    assert second == pytest.approx((1.0, 1.0, 1.0))
    assert apart[0] == pytest.approx(1 - first[0])
    assert apart[1] > 0


def test_evidence_is_the_log_of_divergence_over_error() -> None:
    found = evidence(layers(), ("hill", "depth"), "error")
    assert found.log_rate == pytest.approx([math.log(10) + i for i in range(6)])
    assert not found.scores[:, 0].any()  # all alike
    assert found.scores[:, 1] == pytest.approx((np.arange(6) - 2.5) / np.arange(6).std())
    shuffled = features_of(layers(), ("depth",), shuffled=3)
    assert sorted(shuffled[:, 0]) == pytest.approx(found.scores[:, 1])


def test_the_shipped_prior_names_the_networks_that_taught_it() -> None:
    table = tomllib.loads(prior_files()["small-networks"].read_text())
    known = [name for name, network in theory_zoo.ZOO.items() if network.epochs]
    assert all(table[kind][base]["networks"] == known for kind in ("pruning", "quantization") for base in ("error", "fisher"))


@pytest.mark.parametrize("name", [name for name, network in theory_zoo.ZOO.items() if network.epochs])
def test_networks_of_the_zoo_score_their_data(name: str) -> None:
    network = theory_zoo.ZOO[name]
    shape = {"perceptron": (2, 1, 28, 28), "speech": (2, 64, 64), "text": (2, 32)}.get(network.family, (2, 3, 32, 32))
    shape = (2, 1, 28, 28) if network.data is theory_zoo.digits else shape
    x = torch.zeros(shape, dtype=torch.long) if network.family == "text" else torch.zeros(shape)
    assert network.build().eval()(x).shape == (2, 65 if network.family == "text" else 10)


@pytest.mark.parametrize("alpha", [2.0, 1.75])
def test_stable_noise_has_its_characteristic_function(alpha: float) -> None:
    draws = theory_noise.stable(40_000, 1, alpha, torch.Generator().manual_seed(0))[:, 0].double()
    for t in (0.5, 1.0):
        assert float(torch.cos(t * draws).mean()) == pytest.approx(math.exp(-(t**alpha)), abs=0.015)
