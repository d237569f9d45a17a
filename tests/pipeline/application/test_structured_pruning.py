"""Dropped blocks and removed channels: later layers compensate for them, exactly if that is possible."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dyncompress as dc
from dyncompress.models.torch.model import TorchModel
from dyncompress.models.torch.opening import open_model
from dyncompress.pipeline.application.apply_plan import apply_plan
from dyncompress.pipeline.application.structured_pruning import restructure, structural_choices, with_flipped
from dyncompress.pipeline.observed_model import outputs
from dyncompress.pipeline.profiling.profile import file_bytes
from dyncompress.pipeline.profiling.structure_choices import channel_options
from dyncompress.pipeline.task import Task
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import Choice, InputMoment, Keep, Weight
from tests import tiny
from tests.running import session_of

X = torch.randn(600, 6, generator=torch.Generator().manual_seed(1))


class Adds(nn.Module):
    """A block that computes x + A x."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Twins(nn.Module):
    """Channels that occur twice each, read by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.left, self.right = nn.Linear(6, 12), nn.Linear(12, 4), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.make(x))
        return torch.tanh(self.left(hidden)) * self.right(hidden)


def opened(module: nn.Module) -> Task:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.4)
        if isinstance(module, Twins):
            with torch.no_grad():
                module.make.weight[6:], module.make.bias[6:] = module.make.weight[:6], module.make.bias[:6]
    return tiny.task_on(open_model(module.eval(), {"x": X[:4]}), [{"x": X[:300]}, {"x": X[300:]}])


def distance(one: Task, other: Task) -> float:
    a, b = (torch.from_numpy(outputs(model.model, model.batches)[0]) for model in (one, other))
    return float((a - b).square().mean() / a.var())


def test_the_next_block_replaces_a_dropped_block_exactly() -> None:
    """(I + B)(I + A) x equals x plus a linear layer of x, so the refit is exact."""
    model = opened(nn.Sequential(Adds(), Adds(), nn.Linear(6, 3)))
    small, realised = restructure(model, {"block:0": Choice(drop=True)})
    assert realised == {"block:0": Choice(drop=True, method="drop + refit")}
    assert [layer.name for layer in small.model.layers()] == ["1.inner", "2"]
    assert distance(model, small) < 1e-4 < 0.01 < distance(model, restructure(model, {"block:0": Choice(drop=True)}, reach=0)[0])
    assert len(model.model.layers()) == 3  # untouched


def test_removing_duplicate_channels_changes_no_layer_that_reads_them() -> None:
    model = opened(Twins())
    (group,) = model.model.channel_groups()
    assert set(group.consumers) == {"left", "right"}
    small, realised = restructure(model, {"channels:make": Choice(keep=6)})
    kept = realised["channels:make"].indices or ()
    assert {channel % 6 for channel in kept} == set(range(6))
    assert distance(model, small) < 1e-4
    assert {layer.name: layer.shape for layer in small.model.layers()}["right"] == (4, 6)


def test_named_channels_stay_and_the_refit_compensates_for_the_others() -> None:
    model = opened(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    mine = {"channels:0": Choice(keep=5, indices=(0, 2, 3, 5, 7))}
    small, realised = restructure(model, mine)
    assert realised["channels:0"].indices == (0, 2, 3, 5, 7)
    with torch.no_grad():
        hidden, output = torch.relu(model.model.module[0](X))[:, [0, 2, 3, 5, 7]], model.model.module(X)
    inputs = torch.cat([hidden, torch.ones(len(X), 1)], 1)
    rest = inputs @ torch.linalg.lstsq(inputs, output).solution - output
    assert distance(model, small) == pytest.approx(float(rest.square().mean() / output.var()), rel=0.01)
    chosen, _ = restructure(model, {"channels:0": Choice(keep=5)})
    assert distance(model, chosen) <= distance(model, small)


def test_units_inside_a_dropped_block_get_the_default_choice() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(6, 9), nn.Linear(9, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(torch.relu(self.up(x)))

    model = opened(nn.Sequential(Wide(), nn.Linear(6, 3)))
    choices = {"block:0": Choice(drop=True), "channels:0.up": Choice(keep=3), "0.up": Choice(weight_bits=8)}
    assert set(structural_choices(choices)) == {"block:0", "channels:0.up"}
    small, realised = restructure(model, choices)
    assert list(realised) == ["block:0"] and small.model.macs == 18


def test_default_choices_change_nothing() -> None:
    model = opened(Twins())
    assert restructure(model, {"channels:make": Choice(), "left": Choice(weight_bits=8)}) == (model, {})


def test_an_unknown_block_is_refused() -> None:
    with pytest.raises(dc.InvalidRequest, match="there is no block 'left' that its shortcut can replace"):
        restructure(opened(Twins()), {"block:left": Choice(drop=True)})


def test_images_are_flipped_and_other_inputs_are_not() -> None:
    images, ids = {"x": torch.arange(24.0).reshape(1, 3, 2, 4)}, {"ids": torch.arange(6).reshape(1, 6)}
    assert torch.equal(with_flipped([images])[1]["x"], images["x"].flip(3))
    assert with_flipped([ids]) == [ids]


def test_images_are_flipped_only_if_the_recipe_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()).eval()
    x = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model, choices, seen = tiny.task_on(open_model(net, {"x": x[:2]}), [{"x": x}]), {"channels:0": Choice(keep=4)}, []

    def watched(model: TorchModel, data: list, *rest: Any, **how: Any) -> object:
        seen.append(len(data))
        return in_sequence(model, data, *rest, **how)

    in_sequence = TorchModel.in_sequence
    monkeypatch.setattr(TorchModel, "in_sequence", watched)
    for how in ({}, {"flips": True}, {"flips": True, "reach": 2}):
        restructure(model, choices, **how)  # type: ignore[arg-type]
    assert seen == [1, 2, 1]
    for mirrored in (False, True):
        seen.clear()
        recipe = Recipe("mine", mirrored=mirrored, match=False)
        plan = dc.Plan(choices, {}, {}, {}, 0.0, 0.0, "mine", "onnxruntime-x86-vnni", "", {}, {})
        apply_plan(replace(model, recipe=recipe), plan)
        assert seen == [2 if mirrored else 1]


@pytest.mark.parametrize("name", ["narrow", "fastest"])
def test_recipes_that_remove_structure_refit_on_flipped_images(name: str) -> None:
    assert dc.load_recipe(name).mirrored and not dc.load_recipe(name).sequential


# ---------------------------------------------------------------- attention heads
class Encoder(nn.Module):
    """One block of a transformer over vectors of 8 numbers, and a score for each sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 4, 24, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x).mean(1))


def sequences(n: int, length: int, seed: int) -> Tensor:
    """Sequences of correlated vectors `[n, length, 8]`."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, length, 8, generator=draw) @ torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) / 2


def encoder() -> Task:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Encoder().eval()
    x = sequences(300, 6, seed=1)
    return tiny.task_on(open_model(model, {"x": x[:4]}), [{"x": x[:150]}, {"x": x[150:]}])


def test_a_refit_makes_up_for_removed_heads_and_hidden_units() -> None:
    model = encoder()
    heads, units = model.model.channel_groups()
    assert dict(heads.rows) == {f"block.self_attn.{name}_proj": 2 for name in "qkv"} and heads.size == 4 and units.size == 24
    for group, keep in ((heads, 2), (units, 12)):
        small, realised = restructure(model, {f"channels:{group.name}": Choice(keep=keep)})
        kept = realised[f"channels:{group.name}"].indices
        assert kept is not None and len(kept) == keep
        plain = model.with_model(model.model.edited([Keep(group.name, kept)]))
        assert distance(model, small) < 0.7 * distance(model, plain)
        assert small.model.macs == plain.model.macs < model.model.macs


def test_the_table_counts_heads_one_by_one() -> None:
    """A target's multiple of channels says nothing about heads; a head's share of the cost is that of its rows and columns."""
    task = encoder()
    (heads, _), needs = task.model.channel_groups(), (Weight(), InputMoment())
    seen = dict(task.observe(needs))
    recipe = replace(dc.load_recipe("narrow"), keeps=(1.0, 0.75, 0.5, 0.25))
    lines = channel_options(heads, seen, recipe, replace(task.target, channel_multiple=64), file_bytes)
    assert [line.choice.keep for line in lines] == [None, 3, 2, 1]
    assert [line.macs for line in lines] == [-4 * 6 * 8 * 8 * gone / 4 for gone in range(4)]
    assert [line.distortion for line in lines] == sorted(line.distortion for line in lines)
    small = task.model.edited([Keep(heads.name, (1, 3))])
    assert small.macs - task.model.macs == lines[2].macs


@pytest.mark.slow
def test_a_transformer_is_narrowed_under_a_budget_of_macs() -> None:
    recipe = dc.load_recipe("narrow")
    recipe = replace(recipe, budget=dc.Budget(macs=0.5), distill=replace(recipe.distill, epochs=2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Encoder().eval()
    target = replace(dc.load_target(tiny.TARGET), channel_multiple=4)
    data = [{"x": sequences(64, length, seed=length)} for length in (5, 6, 8)]
    file = dc.compress(model, recipe, target=target, calibration=data)
    kept = {unit: choice.keep for unit, choice in file.plan.realised.items() if unit.startswith("channels:")}
    assert set(kept) == {"channels:block.self_attn.q_proj", "channels:block.linear1"} and any(kept.values())
    session, x = session_of(file.body), sequences(7, 11, seed=9)
    found = session.run(None, {"x": x.numpy()})[0]
    with torch.no_grad():
        wanted = model(x)
    assert found.shape == wanted.shape
    assert float((torch.from_numpy(found) - wanted).square().mean() / wanted.var()) < 0.3
