"""From a plan to weights: encodings decode to the model's weights, channels are removed, impossible edits are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dyncompress as dc
from dyncompress.models.augmentation import augment
from dyncompress.models.torch.model import TorchModel
from dyncompress.pipeline.checkpoint import save_compressed
from dyncompress.recipe.bundled_files import recipe_files
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import Choice, InputMoment, Plan, Weight
from tests import tiny
from tests.tiny import CALIBRATION, HELD_OUT, LAYERS, network

BARE = Recipe("bare", match=False)


def weight_of(small: dc.Compressed, name: str) -> torch.Tensor:
    return small.module.get_submodule(name).weight.detach()


def asked(recipe: str = "edge-int8", **units: Choice) -> Plan:
    """The plan of the tiny network with other choices."""
    return replace(tiny.plan(), asked={unit.replace("__", ":"): c for unit, c in units.items()}, recipe=recipe)


# ---------------------------------------------------------------- weights
def test_the_encodings_decode_to_exactly_the_models_weights() -> None:
    small = tiny.small()
    assert set(small.encodings) == set(LAYERS)
    for name, encoding in small.encodings.items():
        codes, scale = encoding.codes, encoding.scale
        assert codes.dtype == torch.int8 and scale.dtype == torch.float32 and bool((scale > 0).all())
        limit = 2 ** (encoding.bits - 1)
        assert encoding.bits == (4 if name == "conv3" else 8) and -limit <= int(codes.min()) and int(codes.max()) < limit
        shape = (-1, *[1] * (codes.ndim - 1))
        assert torch.equal(codes.float() * scale.reshape(shape), weight_of(small, name))


def test_zeros_stay_zeros_at_the_requested_sparsity() -> None:
    """Magnitude pruning with a refit, then error feedback that respects the mask."""
    plan = asked("smallest", conv2=Choice(sparsity=0.5, weight_bits=6, activation_bits=8))
    small = dc.apply(network(), plan, recipe="smallest", calibration=CALIBRATION)
    zeros = float((weight_of(small, "conv2") == 0).float().mean())
    assert 0.5 <= zeros < 0.6 and small.plan.realised["conv2"].sparsity == pytest.approx(zeros)
    assert small.plan.realised["conv2"].method == "MagnitudeRefit + Gptq"
    assert small.stages["prune"] > 0
    untouched = dc.apply(network(), asked(), recipe=BARE, calibration=CALIBRATION)
    assert not untouched.encodings and untouched.stages == {"prune": 0.0, "weights": 0.0}
    x = torch.from_numpy(HELD_OUT[0])
    torch.testing.assert_close(untouched.module(x).numpy(), tiny.original_scores(), rtol=1e-4, atol=1e-4)


def test_moment_matching_restores_the_outputs() -> None:
    plan = asked(**{name: Choice(weight_bits=3, activation_bits=8) for name in LAYERS})
    plain, matched = (
        dc.apply(network(), plan, recipe=replace(dc.load_recipe("edge-int8"), match=match), calibration=CALIBRATION)
        for match in (False, True)
    )
    assert "match" not in plain.stages and matched.stages["weights"] == plain.stages["weights"]
    assert matched.stages["match"] < matched.stages["weights"]
    assert all(torch.equal(matched.encodings[name].codes, plain.encodings[name].codes) for name in LAYERS)


@pytest.mark.parametrize("rule", [{"power_of_two_scales": True}, {"weight_granularity": "tensor"}])
def test_moment_matching_keeps_the_scales_that_a_target_requires(rule: dict[str, Any]) -> None:
    target = replace(dc.load_target(tiny.TARGET), **rule)
    choice = Choice(weight_bits=8, activation_bits=8, granularity=rule.get("weight_granularity", "channel"))
    plan = asked(**dict.fromkeys(LAYERS, choice))
    small = dc.apply(network(), plan, target=target, calibration=CALIBRATION)
    for encoding in small.encodings.values():
        if "weight_granularity" in rule:
            assert encoding.scale.shape == (1,)
        else:
            assert torch.equal(encoding.scale.log2().round(), encoding.scale.log2())
    assert "moments aren't matched" in small.model.notes[-1]
    assert (tiny.predictions(small.module(torch.from_numpy(HELD_OUT[0]))) == HELD_OUT[1]).mean() > 0.8


def test_a_target_of_seven_bits_gets_codes_of_seven_bits() -> None:
    plan = asked(**dict.fromkeys(LAYERS, Choice(weight_bits=8, activation_bits=8)))
    small = dc.apply(network(), plan, target="onnxruntime-x86-avx2", calibration=CALIBRATION)
    assert all(int(e.codes.min()) >= -64 and int(e.codes.max()) <= 63 for e in small.encodings.values())


# ---------------------------------------------------------------- channels
def test_removed_channels_refit_the_layers_that_read_them() -> None:
    """Against numpy's least squares on the activations of a perceptron."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 5)).eval()
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    profile = dc.measure(model, "narrow", target=tiny.TARGET, calibration=x)
    unit = next(name for name in profile.table if name.startswith("channels:"))
    plan = replace(dc.allocate(profile), asked={unit: Choice(keep=7)})
    small = dc.apply(model, plan, recipe=BARE, calibration=x)
    first, last = small.module[0], small.module[2]
    assert first.weight.shape == (7, 6) and last.weight.shape == (5, 7) and small.model.macs == 7 * 6 + 5 * 7
    kept = list(small.plan.realised[unit].indices or ())
    assert len(kept) == 7 == small.plan.realised[unit].keep and torch.equal(first.weight, model[0].weight[kept])
    hidden = torch.relu(model[0](x)).detach().double().numpy()
    wanted = hidden @ model[2].weight.detach().double().numpy().T
    inputs = np.column_stack([hidden[:, kept], np.ones(len(hidden))])
    refit = np.linalg.lstsq(inputs, wanted + model[2].bias.detach().double().numpy())[0].T
    np.testing.assert_allclose(last.weight.detach().numpy(), refit[:, :-1], atol=1e-2)
    np.testing.assert_allclose(last.bias.detach().numpy(), refit[:, -1], atol=1e-2)
    mine = dc.apply(model, replace(plan, asked={unit: Choice(keep=2, indices=(3, 8))}), recipe=BARE, calibration=x)
    assert torch.equal(mine.module[0].weight, model[0].weight[[3, 8]])
    assert mine.stages["prune"] > small.stages["prune"] > 0


@pytest.fixture(scope="module")
def narrow() -> dc.Compressed:
    """The network without half of the residual block's channels, in 8 bits."""
    plan = asked("narrow", channels__stem=Choice(keep=4), channels__conv2=Choice(keep=12), **tiny.plan().asked)
    return dc.apply(network(), plan, recipe="narrow", calibration=CALIBRATION)


def test_channels_of_a_residual_block_are_removed_together(narrow: dc.Compressed) -> None:
    shapes = {name: tuple(weight_of(narrow, name).shape) for name in LAYERS}
    assert shapes["stem"] == (4, 3, 3, 3) and shapes["conv1"] == (4, 4, 3, 3) and shapes["conv2"] == (12, 4, 3, 3)
    assert shapes["conv3"] == (16, 12, 3, 3) and shapes["head"] == (4, 16)
    assert narrow.module(torch.from_numpy(HELD_OUT[0])).shape == (len(HELD_OUT[1]), 4)
    macs = 64 * (4 * 27 + 4 * 36) + 16 * (12 * 36 + 16 * 108) + 64
    assert narrow.model.macs == macs < tiny.profile().macs  # type: ignore[attr-defined]
    for name, encoding in narrow.encodings.items():
        scale = encoding.scale.reshape(-1, *[1] * (encoding.codes.ndim - 1))
        assert torch.equal(encoding.codes.float() * scale, weight_of(narrow, name))


def test_a_compressed_model_is_rebuilt_from_disk(narrow: dc.Compressed, tmp_path: Path) -> None:
    folder = save_compressed(narrow, tmp_path / "narrow")
    module = dc.load(tiny.Tiny, folder)
    x = torch.from_numpy(HELD_OUT[0])
    assert torch.equal(module(x), narrow.module(x)) and not module.training


# ---------------------------------------------------------------- impossible edits
@pytest.mark.parametrize(
    ("recipe", "unit", "choice", "facts"),
    [
        ("edge-int8", "conv1", Choice(sparsity=0.5, weight_bits=8), ["'conv1'", "'edge-int8'", "no pruner", "sparsity = 0"]),
        ("bare", "conv1", Choice(weight_bits=8), ["'conv1'", "'bare'", "no quantizer", "8 bits", "recipe 'edge-int8'", "= 32"]),
        ("edge-int8", "head", Choice(weight_bits=8), ["'head'", "is 32", "is 8", "same in every unit"]),
        ("edge-int8", "conv1", Choice(weight_bits=9, activation_bits=8), ["'conv1'", "weight_bits is 9", "32 (float)"]),
        ("edge-int8", "conv9", Choice(), ["no unit 'conv9'", "'conv"]),
        ("edge-int8", "channels:stem", Choice(keep=99), ["'channels:stem'", "keep is 99", "8 channels"]),
        ("edge-int8", "channels:conv9", Choice(keep=2), ["no unit 'channels:conv9'"]),
    ],
)
def test_edits_that_cannot_be_applied_are_refused(recipe: str, unit: str, choice: Choice, facts: list[str]) -> None:
    plan = replace(tiny.plan(), asked={**tiny.plan().asked, unit: choice})
    with pytest.raises(dc.InvalidRequest) as caught:
        dc.apply(network(), plan, recipe=BARE if recipe == "bare" else recipe, calibration=CALIBRATION)
    if recipe == "bare":  # the message names the first unit
        facts = [fact.replace("conv1", "stem") for fact in facts]
    assert all(fact in str(caught.value) for fact in facts) and "\n" not in str(caught.value)


def test_removing_channels_without_data_is_refused() -> None:
    plan = asked("heavy-tail", channels__stem=Choice(keep=4))
    with pytest.raises(dc.InvalidRequest, match=r"'channels:stem'.*refitted on data; give calibration=batches"):
        dc.apply(network(), plan, recipe="heavy-tail", example=CALIBRATION[:1])


def test_a_plan_of_another_model_is_refused() -> None:
    with pytest.raises(dc.InvalidRequest, match=r"'stem' has shape \(4, 3, 3, 3\), the plan was made for \(8, 3, 3, 3\)"):
        dc.apply(tiny.Tiny(width=4).eval(), tiny.plan(), calibration=CALIBRATION)


# ---------------------------------------------------------------- observing once
def test_observations_are_kept_completely_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.task(network(), dc.load_recipe("edge-int8"), CALIBRATION)
    needs = (Weight(), InputMoment())
    next(iter(model.observe(needs)))  # only a part is read
    assert [name for name, _ in model.observe(needs)] == list(LAYERS)
    assert [name for name, _ in model.observe(needs)] == list(LAYERS) and set(model.source.cache.observations) == set(LAYERS)
    monkeypatch.setattr("dyncompress.pipeline.observed_model.KEEP_BYTES", 100_000)
    small = tiny.task_on(model.model, model.batches)
    assert [name for name, _ in small.observe(needs)] == list(LAYERS) and not small.source.cache.observations


# ---------------------------------------------------------------- horizontal flips
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("learns", ["epochs", "weight_epochs"])
def test_images_are_flipped_if_the_recipe_allows_it(mirrored: bool, learns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def watched(batch: Any, spec: Any, generator: torch.Generator, *, horizontal_flip: bool = True) -> Any:
        seen.add(horizontal_flip)
        return augment(batch, spec, generator, horizontal_flip=horizontal_flip)

    monkeypatch.setattr("dyncompress.models.torch.distillation.augment", watched)
    wanted = {"channels.keeps": [1.0, 0.5], "distill.epochs": 0, f"distill.{learns}": 1, "targets.mirrored": mirrored}
    recipe = dc.load_recipe("edge-int8", wanted)
    plan = asked("edge-int8", channels__stem=Choice(keep=4), **tiny.plan().asked)
    dc.apply(network(), plan, recipe=recipe, calibration=CALIBRATION)
    assert seen == {mirrored}


def test_recipes_that_distil_allow_horizontal_flips() -> None:
    """A recipe without `targets.mirrored` does not flip images."""
    found = {name: dc.load_recipe(name) for name in recipe_files()}
    assert {name for name, recipe in found.items() if recipe.distill.epochs and not recipe.mirrored} == set()
    assert not found["edge-int8"].mirrored


def test_moments_are_matched_only_where_that_brings_the_outputs_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = asked(**{name: Choice(weight_bits=3, activation_bits=8) for name in LAYERS})
    plain = dc.apply(network(), plan, calibration=CALIBRATION)
    assert plain.stages["match"] <= plain.stages["weights"]
    matched = TorchModel.matched

    def too_far(model: TorchModel, *args: Any) -> tuple:
        other, gains = matched(model, *args)
        return other, {name: (3 * gain, shift + 1) for name, (gain, shift) in gains.items()}

    monkeypatch.setattr(TorchModel, "matched", too_far)
    kept = dc.apply(network(), plan, calibration=CALIBRATION)
    assert "match" not in kept.stages and kept.stages["weights"] == plain.stages["weights"]
    assert any("further from the original's" in note for note in kept.model.notes)
