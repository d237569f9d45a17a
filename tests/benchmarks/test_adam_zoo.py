"""The networks that are trained by Adam: what is kept of a run, and what is read from the optimizer's state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import adam_zoo
from benchmarks.adam_damage import Accumulated, accumulated, column
from benchmarks.adam_zoo import FAMILIES, KEPT, LATE, ZOO, Network, Viewer, kept_at
from dyncompress.recording import load_trajectory


def cloud(split: str, n: int) -> tuple[Tensor, Tensor]:
    """Points whose label is the sign of their first coordinate."""
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(int(split == "test")))
    return x, (x[:, 0] > 0).long()


SMALL = Network("perceptron", lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), cloud, 256, 0.01, 16, 1200)


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the runs, and a zoo of one small network."""
    monkeypatch.setattr(adam_zoo, "OUT", tmp_path)
    monkeypatch.setitem(ZOO, "small", SMALL)
    return tmp_path


def test_every_network_scores_its_own_data_once_built() -> None:
    shapes = {"digits": (2, 1, 28, 28), "pictures": (2, 3, 32, 32), "spoken": (2, 64, 64)}
    for name, spec in ZOO.items():
        kind = spec.data.__name__
        x = torch.zeros(2, 32, dtype=torch.long) if kind == "characters" else torch.randn(shapes[kind])
        assert spec.build().eval()(x).shape == (2, 65 if kind == "characters" else 10), name
        assert spec.steps >= 2500 and spec.steps % KEPT == 0 and spec.family in FAMILIES


def test_a_series_of_checkpoints_has_equal_distances_and_ends_with_training() -> None:
    kept = kept_at(3000)
    for ending, distance in (("", 100), ("-late", LATE // KEPT)):
        steps = sorted(step for step, endings in kept.items() if ending in endings)
        assert len(steps) == KEPT and steps[-1] == 3000 and set(np.diff(steps)) == {distance}


def test_training_keeps_what_people_keep_and_trains_once(out: Path) -> None:
    module, last = adam_zoo.trained("small")
    kept = torch.load(last)
    assert kept["step"] == SMALL.steps and kept["batch_size"] == SMALL.batch
    assert kept["optimizer"]["state"][0]["exp_avg_sq"].shape == (8, 6)
    whole, late = (sorted((out / folder).glob("*.pt")) for folder in ("small", "small-late"))
    assert len(whole) == len(late) == KEPT
    assert [path.name for path in whole if "optimizer" in torch.load(path)] == ["step_01200.pt"]
    assert torch.equal(torch.load(late[-1])["model"]["0.weight"], module[0].weight)
    run = load_trajectory(out / "small.npz")
    assert len(run.steps) == LATE // 5 and np.isclose(run.learning_rate, SMALL.rate / 10)
    modified = last.stat().st_mtime_ns
    assert torch.equal(adam_zoo.trained("small")[0][0].weight, module[0].weight) and last.stat().st_mtime_ns == modified


def test_the_state_of_a_layer_is_its_own_and_without_bias(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.GRU(2, 4))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for place, parameter in enumerate(module.parameters()):
        parameter.grad = torch.full_like(parameter, place + 1.0)
    optimizer.step()
    torch.save(
        {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "step": 1, "batch_size": 5}, tmp_path / "last.pt"
    )
    found = accumulated(module, tmp_path / "last.pt", ["0", "1.hh_l0"])
    assert torch.allclose(found["0"].second, torch.ones(2, 3)) and torch.allclose(found["0"].first, torch.ones(2, 3))
    assert torch.allclose(found["1.hh_l0"].second, torch.full((12, 4), 16.0))  # the fourth parameter: weight, bias, ih, hh
    assert torch.equal(found["1.hh_l0"].weight, module[1].weight_hh_l0)


def test_information_is_that_of_an_example_and_divided_by_the_squared_gain() -> None:
    weight = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    state = Accumulated(weight, torch.ones_like(weight), torch.zeros_like(weight), 8, 0.05)
    fisher = state.fisher(torch.tensor([2.0, -0.5, 0.0]).reshape(-1, 1, 1, 1) * weight)
    assert torch.allclose(fisher[:, 0, 0, 0], torch.tensor([2.0, 32.0, 0.0], dtype=torch.float64))


def test_a_layer_without_a_prediction_gets_the_median_rate() -> None:
    rows = {"a": (2.0, 1.0), "b": (6.0, 1.0), "c": (float("nan"), 2.0), "d": (4.0, 1.0)}
    found = {"layers": {layer: {"3 bits": {"fisher": f, "error": e}} for layer, (f, e) in rows.items()}}
    assert column(found, "3 bits", "fisher").tolist() == [2.0, 6.0, 8.0, 4.0]


def test_every_patch_of_the_vision_transformer_sees_all_others() -> None:
    model = Viewer(1, 28, 7, 16, 1).eval()
    x = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)).requires_grad_()
    block = model.blocks[0](model.patches(x).flatten(2).transpose(1, 2) + model.places)
    block[0, 0].sum().backward()
    assert x.grad is not None and bool((x.grad[0, 0, 21:, 21:] != 0).any())  # the last patch reaches the first position
