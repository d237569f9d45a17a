"""Budgets are checked by measurements of the finished file; a budget that cannot be met is refused with the value reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import dyncompress as dc
from dyncompress.measures.divergence import divergence_of_outputs
from dyncompress.pipeline.budget_search import next_level
from dyncompress.pipeline.task import set_aside
from dyncompress.recipe.toml_files import load_recipe
from tests import tiny
from tests.running import session_of


class Digits(nn.Module):
    """A small convolutional classifier whose scores are multiplied by a constant, which makes it confident."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
        )
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) * self.scale


@pytest.fixture(scope="module")
def digits() -> tuple[Digits, Tensor, Tensor]:
    """A trained network, calibration examples, and other examples."""
    x = torch.tensor(load_digits().images / 16).float()[:, None]
    y = torch.tensor(load_digits().target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        order, model = torch.randperm(len(y)), Digits()
        x, y = x[order], y[order]
        adam = torch.optim.Adam(model.parameters(), 3e-3)
        for i in list(range(0, 1200, 64)) * 12:
            adam.zero_grad()
            nn.functional.cross_entropy(model(x[i : i + 64]), y[i : i + 64]).backward()
            adam.step()
    return model.eval().requires_grad_(False), x[:600], x[1200:]


def packed(**budget: float) -> dc.Recipe:
    return replace(load_recipe("packed"), mirrored=False, budget=dc.Budget(**budget))


def divergence(file: dc.OnnxFile, model: nn.Module, x: Tensor) -> np.ndarray:
    found = session_of(file.body).run(None, {"x": x.numpy()})
    return divergence_of_outputs([model(x).numpy()], found)


@pytest.mark.parametrize("scale", [*(pytest.param(scale, marks=pytest.mark.slow) for scale in (1.0, 50.0)), 20.0, 1000.0])
def test_a_budget_of_distortion_holds_for_confident_networks(digits: tuple[Digits, Tensor, Tensor], scale: float) -> None:
    """The Fisher information of a saturated softmax is almost zero, so it does not limit the rounding.

    At a scale of 1000 an example diverges by hundreds of nats or not at all, and a single one among the new examples moves their
    mean beyond the budget: their share is judged.
    """
    model, calibration, new = digits
    model.scale = scale
    file = dc.compress(model, packed(distortion=0.08), target=tiny.TARGET, calibration=calibration)
    assert file.plan.cost["divergence"] + 2 * file.plan.cost["divergence_stderr"] <= 0.08
    found = divergence(file, model, new)
    assert found.mean() <= 0.08 if scale < 1000 else (found > 0.08).mean() <= 0.005
    model.scale = 1.0


def test_a_budget_that_no_plan_meets_is_refused_with_the_best_value(digits: tuple[Digits, Tensor, Tensor]) -> None:
    model, calibration, _ = digits
    with pytest.raises(dc.Infeasible, match=r"budget\.distortion is 1e-09 nats, and the smallest that recipe 'packed' reached"):
        dc.compress(model, packed(distortion=1e-9), target=tiny.TARGET, calibration=calibration)


def test_examples_set_aside_are_not_fitted_and_count_as_seen() -> None:
    recipe = packed(distortion=0.5)
    start = tiny.task(tiny.network(), recipe, tiny.CALIBRATION)
    fitted, aside = (np.concatenate([batch["x"] for batch in part]) for part in (start.batches, start.aside))
    assert len(fitted) + len(aside) == len(tiny.CALIBRATION) and len(aside) == 24
    together = {row.tobytes() for row in np.concatenate([fitted, aside])}
    assert together == {row.tobytes() for row in tiny.CALIBRATION}
    file = dc.compress(tiny.network(), recipe, target=tiny.TARGET, calibration=tiny.CALIBRATION)
    assert len(file.seen) == len(tiny.CALIBRATION)


def test_examples_that_no_step_fits_on_are_set_aside() -> None:
    recipe = replace(packed(distortion=0.1), calibration=64)
    batches = [{"x": np.arange(50.0)[:, None]}, {"x": np.arange(50.0, 100.0)[:, None]}]
    fitted, aside = set_aside(batches, recipe)
    assert sum(len(b["x"]) for b in fitted) == 64 and sum(len(b["x"]) for b in aside) == 36
    assert sum(len(b["x"]) for b in set_aside(batches, replace(recipe, budget=dc.Budget(bytes=0.2)))[1]) == 36
    assert set_aside(batches, replace(recipe, budget=dc.Budget(bytes=0.2), calibration=100))[1] == []


def test_a_budget_of_distortion_needs_examples() -> None:
    recipe = replace(load_recipe("trajectory"), budget=dc.Budget(distortion=0.1))
    with pytest.raises(dc.InvalidRequest, match=r"budget\.distortion is measured on calibration data"):
        dc.compress(tiny.network(), recipe, target=tiny.TARGET, trajectory=tiny.trained()[1], held_out=tiny.HELD_OUT)


@pytest.mark.parametrize("recipe", ["smallest", "edge-int8", "packed"])
def test_the_budget_of_bytes_is_checked_on_the_file(recipe: str) -> None:
    """The prediction includes the seal of a certificate; without a certificate, smaller budgets can be met."""
    spec = replace(load_recipe(recipe), mirrored=False)
    whole = dc.measure(tiny.network(), spec, target=tiny.TARGET, calibration=tiny.CALIBRATION)
    smallest = dc.allocate(whole, dc.Budget(bytes=0.95), recipe=spec).cost["float_bytes"]
    refused = None
    for share in (0.5, 0.4, 0.3, 0.25, 0.2):
        try:
            asked = replace(spec, budget=dc.Budget(bytes=share))
            file = dc.compress(tiny.network(), asked, target=tiny.TARGET, calibration=tiny.CALIBRATION, plan=whole)
        except dc.Infeasible as error:
            refused = int(str(error).split(" takes ")[1].split(" bytes")[0].replace(" ", ""))
            assert refused > share * smallest
            continue
        assert len(file.shipped) <= share * file.float_bytes
        assert refused is None, "a smaller budget was met than one that was refused"


@pytest.mark.parametrize(
    ("level", "upper", "asked", "passed", "failed", "within"),
    [
        (0.08, 0.16, 0.08, 0.0, 0.08, (0.03, 0.05)),
        (0.08, 200.0, 0.08, 0.0, 0.08, (0.009, 0.011)),  # at most an eighth
        (0.01, 0.001, 0.08, 0.01, float("inf"), (0.07, 0.09)),
        (0.04, 0.01, 0.08, 0.04, 0.05, (0.04, 0.05)),  # between the level that passed and the one that failed
        (0.08, float("inf"), 0.08, 0.0, 0.08, (0.009, 0.011)),
    ],
)
def test_the_next_level_of_the_search(
    level: float, upper: float, asked: float, passed: float, failed: float, within: tuple[float, float]
) -> None:
    assert within[0] <= next_level(level, upper, asked, passed, failed) <= within[1]


def zeros(module: nn.Module) -> None:
    """Set the head to zero, as it is initialised for fine-tuning."""
    module.head.weight.data.zero_()
    module.head.bias.data.zero_()


def dead(module: nn.Module) -> None:
    """Make the output of a middle layer zero."""
    module.conv2.weight.data.zero_()
    module.norm2.bias.data.fill_(-1.0)
    module.norm2.running_mean.zero_()


def outlier(module: nn.Module) -> None:
    """Make one channel ten thousand times as large as the others; the next layer compensates for it."""
    module.norm2.weight.data[0] *= 1e4
    module.norm2.bias.data[0] *= 1e4
    module.conv3.weight.data[:, 0] /= 1e4


def large(module: nn.Module) -> None:
    """Scale the scores to thousands."""
    module.head.weight.data *= 1000


# Of the recipes that build several files, one a network; the others are slow.
SEARCHES = {zeros: "packed", dead: "smallest", outlier: "packed", large: "smallest"}


def degenerate(recipes: Sequence[str]) -> list[Any]:
    found = []
    for change, kept in SEARCHES.items():
        for recipe in recipes:
            marks = [pytest.mark.slow] if recipe in SEARCHES.values() and recipe != kept else []
            found.append(pytest.param(change, recipe, marks=marks, id=f"{change.__name__}-{recipe}"))
    return found


@pytest.mark.parametrize(("change", "recipe"), degenerate(["edge-int8", "edge-int4", "packed", "sparse", "smallest", "narrow"]))
def test_degenerate_networks_give_a_sound_file_or_a_correct_message(change: Callable[[nn.Module], None], recipe: str) -> None:
    import copy

    module = copy.deepcopy(tiny.network())
    change(module)
    spec = load_recipe(recipe)
    spec = replace(spec, distill=replace(spec.distill, epochs=min(spec.distill.epochs, 1)), mirrored=False)
    try:
        file = dc.compress(module, spec, target=tiny.TARGET, calibration=tiny.CALIBRATION)
    except (dc.Infeasible, dc.Differs) as error:
        assert "clean the data" not in str(error) and "\n" not in str(error)
        return
    new = torch.from_numpy(tiny.HELD_OUT[0][:200])
    found = session_of(file.body).run(None, {"x": new.numpy()})[0]
    wanted = module(new).numpy()
    assert np.isfinite(found).all()
    error = np.sqrt(np.mean((found - wanted) ** 2)) / max(np.sqrt(np.mean(wanted**2)), 1e-6)
    assert error < 0.25 or any("differs from the model's" in note for note in file.notes)
