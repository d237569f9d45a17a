"""The rank at which damage starts, its predictors, and tail rules: known answers, and a small network through every cell."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from benchmarks import adam_zoo, rank_damage, tail_rules
from benchmarks.adam_zoo import ZOO, Network
from benchmarks.rank_damage import breadth, comparisons, energy_rank, first_rank, movement_predictors, ranks_of, truncations
from benchmarks.tail_rules import MADE_FOR, allocators_shown, one_minus_cosine, over_layers, tuned_constant
from dyncompress.types import InputMoment, Layer, Observation, Trajectory, Weight


def test_damage_starts_between_the_ranks_on_either_side_of_the_limit() -> None:
    assert first_rank(16, [8, 4], [1e-3, 0.1], 0.01) == pytest.approx(math.sqrt(8 * 4))  # half of the way, in logarithms
    assert first_rank(16, [8, 4], [1e-9, 0.01], 0.01) == pytest.approx(4)
    assert first_rank(16, [8, 4], [0.01, 1.0], 0.01) == pytest.approx(8)
    assert first_rank(16, [8, 1], [0.0, 0.009], 0.01) == 1  # never
    assert first_rank(16, [8, 4, 2], [0.1, 0.001, 0.1], 0.01) > 8  # the first time counts
    assert first_rank(16, [8, 4], [1.0, 2.0], 0.01) > first_rank(16, [8, 4], [0.02, 2.0], 0.01)


def test_ranks_are_below_the_full_one_and_each_is_there_once() -> None:
    assert ranks_of(64, (1.0, 0.5, 0.0)) == (32, 1)
    assert ranks_of(3, rank_damage.SHARES) == (2, 1)


def test_directions_are_counted() -> None:
    assert energy_rank(np.array([0.05, 0.9, 0.05]), 0.9) == 1
    assert energy_rank(np.ones(10), 0.99) == 10
    assert breadth(np.eye(5)) == pytest.approx(5)
    assert breadth(np.diag([1.0, 0.0])) == pytest.approx(1)


def test_the_metric_of_the_inputs_has_the_smaller_error_of_the_outputs() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(12, 9, generator=generator), torch.randn(500, 9, generator=generator) * torch.logspace(0, -2, 9)
    seen = Observation(Layer("fc", "linear", (12, 9), 108), {Weight(): weight, InputMoment(): (x.T @ x / 500)[None]})
    by_weight, by_inputs = (truncations(seen, metric, (4,))[0] for metric in rank_damage.METRICS)
    assert int(torch.linalg.matrix_rank(by_weight)) == int(torch.linalg.matrix_rank(by_inputs)) == 4
    values = torch.linalg.svdvals(weight)
    assert float((weight - by_weight).square().sum()) == pytest.approx(float(values[4:].square().sum()), rel=1e-4)
    lost = [float((x @ (weight - new).T).square().sum()) for new in (by_weight, by_inputs)]
    assert lost[1] < 0.5 * lost[0]


def test_movement_between_few_outputs_and_inputs_is_recognised() -> None:
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(400, 3, 2)) @ np.eye(3, 20)[:2][None]  # 3 outputs move, and of each 2 inputs
    moving = np.zeros((400, 10, 20))
    moving[:, :3] = np.cumsum(steps, axis=0)
    sketch = moving.reshape(400, -1).astype(np.float32)
    run = Trajectory(np.arange(400), np.zeros(400), {}, {"fc": sketch}, 0, "")
    late = [{"fc.weight": torch.from_numpy(w)} for w in moving]
    found = movement_predictors(run, "fc", late)
    assert found["moved outputs"] == pytest.approx(3, rel=0.05)
    assert found["moved inputs"] == pytest.approx(2, rel=0.05)
    assert found["pr of increments"] == pytest.approx(6, rel=0.1)
    assert found["pr of iterates"] < 5  # a walk's
    assert "pr of gradients" not in found


def test_a_predictor_in_proportion_to_the_rank_has_correlation_1_and_no_spread() -> None:
    layers, rows = {}, {}
    for place in range(6):
        truth = 2.0**place
        layers[f"l{place}"] = {"out": 64, "fan_in": 64, "ranks": [truth, 1], "divergence": [0.01, 1.0], "fisher": [0.01, 1.0]}
        layers[f"l{place}"] |= {"accumulators": [1.0, 2.0]}
        rows[f"l{place}"] = {"good": 3 * truth, "bad": 1 / truth, "full rank": 64, "weights": 4096, "depth": place + 1}
    known = {"made up | inputs": {"layers": layers}, "made up | predictors": {"layers": rows}}
    found = dict(comparisons(known, "made up", "inputs", 0.01))
    assert found["good"].rank == pytest.approx(1)
    assert found["good"].share == pytest.approx(1)
    assert found["good"].spread == pytest.approx(1)
    assert found["bad"].share == pytest.approx(-1)
    assert found["rank that fisher predicts"].spread == pytest.approx(1)
    assert math.isnan(found["a constant share"].share)


def test_constants_are_tuned_on_calibration_examples_and_within_their_sign() -> None:
    rows = {"farms -0.2": {"seen": 1.0, "divergence": 9.0}, "farms 0.2": {"seen": 2.0, "divergence": 1.0}}
    rows |= {"farms 0.3": {"seen": 3.0, "divergence": 0.1}}
    assert tuned_constant(rows, "farms") == "farms -0.2"
    assert tuned_constant(rows, "farms", MADE_FOR["farms"]) == "farms 0.2"


def test_intervals_over_layers_hold_the_rank_correlation() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 30))
    rho, low, high = over_layers(one, other + one)
    assert rho == pytest.approx(spearmanr(one, other + one).statistic)
    assert low < rho < high


def test_the_cosine_of_an_embedding_ignores_its_length() -> None:
    x = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert one_minus_cosine(x, np.array([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])).tolist() == [0.0, 1.0, 2.0]


def cloud(split: str, n: int) -> tuple[Tensor, Tensor]:
    """Points whose label is the sign of their first coordinate."""
    x = torch.randn(n, 64, generator=torch.Generator().manual_seed(int(split == "test")))
    return x, (x[:, 0] > 0).long()


def small() -> nn.Module:
    """A perceptron of four layers."""
    widths = (64, 64, 64, 64)
    parts = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*parts, nn.Linear(64, 2))


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small network of the zoo, trained, whose results go to a folder of their own."""
    for module in (adam_zoo, rank_damage):
        monkeypatch.setattr(module, "OUT", tmp_path)
    for module in (rank_damage, tail_rules):
        monkeypatch.setattr(module, "PATH", tmp_path / f"{module.__name__.rpartition('.')[2]}.json")
    monkeypatch.setitem(ZOO, "small", Network("perceptron", small, cloud, 256, 0.01, 16, 330))
    monkeypatch.setattr(adam_zoo, "LATE", 300)
    monkeypatch.setattr(tail_rules, "EPSILONS", (-0.2, 0.2))
    adam_zoo.trained("small")
    return "small"


def test_a_small_network_through_every_cell(trained: str) -> None:
    test = rank_damage.load_test(trained)
    parts = {metric: rank_damage.damage_cell(test, metric) for metric in rank_damage.METRICS}
    parts["predictors"] = rank_damage.predictor_cell(test)
    rank_damage.cells.put(rank_damage.PATH, f"{trained} | predictors", parts["predictors"], ())
    parts["plans"] = rank_damage.plan_cell(test)
    assert list(parts["inputs"]["layers"]) == ["0", "2", "4", "6"]
    for row in parts["inputs"]["layers"].values():
        assert row["ranks"] == sorted(row["ranks"], reverse=True)
        assert row["ranks"][-1] == 1
        assert row["error"] == sorted(row["error"])
    lost = parts["plans"]["plans"]
    assert set(lost["0.5"]) >= {*rank_damage.RULES, *rank_damage.SCORES}
    assert lost["0.7"]["fisher"] < lost["0.5"]["fisher"]
    known = {f"{trained} | {part}": cell for part, cell in parts.items()}
    found = dict(comparisons(known, trained, "inputs", 0.01))
    assert all(-1 <= one.rank <= 1 for one in found.values() if math.isfinite(one.rank))

    one = tail_rules.case(trained)
    measured, damaged = tail_rules.measure_cell(one)["layers"], tail_rules.damage_cell(one, "70 % zeros")["layers"]
    assert list(measured) == list(damaged) == ["0", "2", "4", "6"]
    coarse, fine = ("nearest, 3 bits, one grid", "nearest, 4 bits, one grid")
    assert all(row[coarse] > row[fine] > 0 for row in measured.values())
    assert all(row["truth"] > 0 and row["fisher"] > 0 and row["accumulators"] > 0 for row in damaged.values())
    rows = tail_rules.plan_cell(one, 0.6)["plans"]
    assert set(allocators_shown(rows)) >= {"uniform", "fisher", "accumulators", "owl", "kurtosis, published sign"}
