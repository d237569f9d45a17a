"""The measured cost of a plan's structure: widths of neighbours multiply, so the plan is solved again; and Pareto lists."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import dyncompress as dc
from dyncompress.pipeline.replanning import plans_for_budgets, replan_with_measured_costs, without
from dyncompress.recipe.toml_files import load_recipe, load_target
from dyncompress.types import Choice
from tests import tiny


def chain() -> nn.Module:
    """Layers that lose rows with one channel group and columns with the preceding one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Linear(8, 32), nn.ReLU()]
        for _ in range(3):
            layers += [nn.Linear(32, 32), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(32, 4)).eval()


X = torch.randn(200, 8, generator=torch.Generator().manual_seed(1))


def narrow() -> dc.Recipe:
    recipe = load_recipe("narrow")
    return replace(recipe, distill=replace(recipe.distill, epochs=0))


def test_costs_of_neighbours_multiply_and_the_plan_is_solved_again() -> None:
    recipe, target = narrow(), load_target(tiny.TARGET)
    start = tiny.task(chain(), recipe, X)
    profile = dc.measure(start, recipe, target=target, calibration=X)
    budget = dc.Budget(macs=0.5)
    first = dc.allocate(profile, budget, recipe=recipe)
    plan = replan_with_measured_costs(start, profile, budget)
    real = without(start.model, plan.asked).macs
    assert plan.cost["realised_macs"] == real
    kept = {unit: choice.keep for unit, choice in first.asked.items() if unit.startswith("channels:") and choice.keep}
    assert len(kept) > 1
    added = without(start.model, {unit: Choice(keep=keep) for unit, keep in kept.items()}).macs
    assert added > first.cost["macs"]  # two halves leave a quarter, but the sum of both savings leaves nothing
    assert real <= 0.5 * profile.macs
    assert plans_for_budgets(replace(start, recipe=replace(recipe, budget=budget)), profile)[0].asked == plan.asked


@pytest.mark.parametrize("share", [0.8, 0.5, 0.3, 0.2, 0.12])
def test_budgets_of_macs_are_met_although_added_savings_overestimate(share: float) -> None:
    """The added savings of neighbours can exceed the whole cost, so the limit in the table may be below zero."""
    recipe = replace(narrow(), budget=dc.Budget(macs=share))
    file = dc.compress(chain(), recipe, target=tiny.TARGET, calibration=X)
    assert file.macs[1] <= share * file.macs[0]
    assert file.macs[1] == file.plan.cost["realised_macs"]


def test_an_unreachable_budget_is_refused_in_its_own_unit() -> None:
    recipe = replace(narrow(), budget=dc.Budget(macs=0.02))
    with pytest.raises(dc.Infeasible, match=r"budget\.macs is \d+ macs \(0\.02 of the original's\).*takes \d+ macs \(0\.\d+ of"):
        dc.compress(chain(), recipe, target=tiny.TARGET, calibration=X)


@pytest.mark.parametrize("share", [0.25, 0.15, 0.1])
def test_convolutions_reach_the_smallest_structure(share: float) -> None:
    """If no limit of the table meets the budget, the smallest structure is tried before the budget is refused."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        widths = [(3, 32, 1), (32, 32, 2), (32, 32, 1)]
        layers = [part for a, b, stride in widths for part in (nn.Conv2d(a, b, 3, stride, 1), nn.ReLU())]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)).eval()
    x = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    file = dc.compress(model, replace(narrow(), budget=dc.Budget(macs=share)), target=tiny.TARGET, calibration=x)
    assert file.macs[1] <= share * file.macs[0]
