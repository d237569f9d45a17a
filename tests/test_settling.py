"""What a plan really costs: widths of neighbours multiply, so the plan is solved again; and Pareto lists."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import dyncompress as dc
from dyncompress.opening import opened
from dyncompress.recipe_file import load_recipe, load_target
from dyncompress.settling import along, diverged, settled, without
from dyncompress.types import Choice
from tests import tiny


def chain() -> nn.Module:
    """Layers that lose rows to one group and columns to the one before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Linear(8, 32), nn.ReLU()]
        for _ in range(3):
            layers += [nn.Linear(32, 32), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(32, 4)).eval()


X = torch.randn(200, 8, generator=torch.Generator().manual_seed(1))


def test_costs_of_neighbours_multiply_and_the_plan_is_solved_again() -> None:
    recipe = replace(load_recipe("narrow"), distill=replace(load_recipe("narrow").distill, epochs=0))
    target = load_target(tiny.TARGET)
    start = opened(chain(), recipe, X)
    profile = dc.measure(start, recipe, target=target, calibration=X)
    budget = dc.Budget(macs=0.5)
    first = dc.allocate(profile, budget, recipe=recipe)
    plan = settled(start, profile, budget, recipe, target, dc.allocate)
    real = without(start.door, plan.asked).macs
    assert plan.cost["realised_macs"] == real
    kept = {unit: choice.keep for unit, choice in first.asked.items() if unit.startswith("channels:") and choice.keep}
    assert len(kept) > 1
    added = without(start.door, {unit: Choice(keep=keep) for unit, keep in kept.items()}).macs
    assert added > first.cost["macs"]  # two halves leave a quarter, the sum of both savings nothing
    assert real <= first.cost["macs"] * 1.001 or real < added
    assert along(start, profile, replace(recipe, budget=budget), target, dc.allocate)[0].asked == plan.asked


def test_divergence_measured_decides_how_much_harm_is_done() -> None:
    net, recipe, target = chain(), load_recipe("packed"), load_target(tiny.TARGET)
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data.mul_(3.0)  # answers that can change
    start = opened(net, recipe, X)
    profile = dc.measure(start, recipe, target=target, calibration=X)
    bytes_of, measured = [], []
    for nats in (0.02, 0.08):
        budget = dc.Budget(distortion=nats)
        plan = settled(start, profile, budget, recipe, target, dc.allocate)
        first = dc.allocate(profile, budget, recipe=recipe)
        wrong = nats / diverged(start, first, recipe, target)
        assert plan.distortion == pytest.approx(first.distortion * min(max(wrong, 0.25), 4), rel=0.3)  # options are few
        assert plan.cost["divergence"] == pytest.approx(nats, rel=0.3) or not 0.25 < wrong < 4
        bytes_of.append(plan.cost["bytes"])
        measured.append(diverged(start, plan, recipe, target))
    assert bytes_of[0] > bytes_of[1] and measured[0] < measured[1]
