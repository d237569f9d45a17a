"""The additive table: which options are tried; their errors and distortions equal naive sums over examples."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyncompress.errors import InvalidRequest
from dyncompress.pipeline.profiling import candidates, structure_choices
from dyncompress.pipeline.profiling.profile import file_bytes
from dyncompress.pruning import PRUNERS
from dyncompress.quantization import QUANTIZERS
from dyncompress.recipe.choice_checks import layer_fault
from dyncompress.recipe.recipe import LayerRule, Recipe
from dyncompress.recipe.toml_files import load_target
from dyncompress.types import (
    ChannelGroup,
    Choice,
    InputMoment,
    Layer,
    Observation,
    OutputFisher,
    Weight,
    WeightFisher,
)

TARGET = load_target("onnxruntime-x86-vnni")
RECIPE = Recipe(
    "r", pruner=PRUNERS["magnitude"](), quantizer=QUANTIZERS["nearest"](), weight_bits=(4, 8, 2), sparsities=(0.5, 0.0)
)
LAYER = Layer("conv", "conv2d", (16, 8, 3, 3), 1000)


def observed(layer: Layer, seed: int = 0, n: int = 400, **more: Any) -> tuple[Observation, torch.Tensor, torch.Tensor]:
    """An observation, its weight, and the inputs `[groups, n, fan_in]` of its moment."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(layer.shape, generator=draw)
    mixing = torch.randn(layer.fan_in, layer.fan_in, generator=draw, dtype=torch.float64)
    x = torch.randn(layer.groups, n, layer.fan_in, generator=draw, dtype=torch.float64) @ mixing
    fisher = torch.rand(layer.out, generator=draw) + 0.5
    values = {Weight(): weight, InputMoment(): x.mT @ x / n, OutputFisher(): fisher, **more}
    return Observation(layer, values), weight, x


# ---------------------------------------------------------------- what is tried
def test_options_are_ordered_by_increasing_compression() -> None:
    found = candidates.choices(LAYER, RECIPE, TARGET, None)
    assert [(c.sparsity, c.weight_bits) for c in found] == [(0, 8), (0, 4), (0, 2), (0.5, 8), (0.5, 4), (0.5, 2)]
    assert {c.activation_bits for c in found} == {32} and {c.granularity for c in found} == {"channel"}


def test_rules_and_targets_restrict_the_options() -> None:
    rule = LayerRule("conv", weight_bits=(8, 32), sparsities=(0.75,))
    assert [(c.sparsity, c.weight_bits) for c in candidates.choices(LAYER, RECIPE, TARGET, rule)] == [(0.75, 32), (0.75, 8)]
    whole_bytes = replace(TARGET, weight_bits=(8,), weight_granularity="tensor")
    found = candidates.choices(LAYER, replace(RECIPE, granularity="group:4"), whole_bytes, None)
    assert {c.weight_bits for c in found} == {8} and {c.granularity for c in found} == {"tensor"}
    with pytest.raises(InvalidRequest) as caught:
        candidates.choices(LAYER, replace(RECIPE, weight_bits=(4,)), whole_bytes, None)
    assert all(fact in str(caught.value) for fact in ("'conv'", "onnxruntime-x86-vnni", "(8,)", "'r'", "(4,)"))


def test_embeddings_and_recipes_without_a_pruner_get_no_zeros() -> None:
    embedding = replace(LAYER, kind="embedding", shape=(9, 8))
    assert {c.sparsity for c in candidates.choices(embedding, RECIPE, TARGET, None)} == {0.0}
    plain = Recipe("q", quantizer=QUANTIZERS["nearest"](), weight_bits=(8,))
    assert [c.sparsity for c in candidates.choices(LAYER, plain, TARGET, LayerRule("conv", sparsities=(0.5,)))] == [0.0]
    assert candidates.choices(LAYER, Recipe("nothing"), TARGET, None) == (Choice(),)


@pytest.mark.parametrize("shape", [(4, 16), (16, 8, 3, 3), (64, 64, 3, 3)])
def test_useless_options_are_not_tried(shape: tuple[int, ...]) -> None:
    layer = replace(LAYER, shape=shape)
    wide = replace(RECIPE, weight_bits=(8, 7, 6, 5, 4, 3, 2), sparsities=(0.0, 0.2, 0.5, 0.8))
    found = candidates.choices(layer, wide, TARGET, None)
    kept = candidates.worth_trying(layer, found, file_bytes)
    size = {c: file_bytes(layer, c) for c in found}
    for c in found:
        milder = [o for o in found if o != c and o.sparsity <= c.sparsity and o.weight_bits >= c.weight_bits]
        assert (c in kept) == all(size[c] < size[o] for o in milder)
    assert found[0] == kept[0] and min(size.values()) == min(size[c] for c in kept)
    assert len(kept) < len(found)


# ---------------------------------------------------------------- errors
def test_errors_are_those_of_the_recipes_pruner_and_quantizer() -> None:
    observation, weight, _ = observed(LAYER)
    tried = [Choice(), Choice(weight_bits=4), Choice(sparsity=0.5), Choice(sparsity=0.5, weight_bits=4)]
    nothing, rounded, pruned, both = candidates.layer_errors(observation, tried, RECIPE)
    assert (nothing.pruning, nothing.rounding, nothing.output) == (0, 0, pytest.approx(0, abs=1e-9))
    smallest = weight.abs().flatten().sort().values[: weight.numel() // 2]
    norm = float(weight.double().square().sum())
    assert pruned.pruning == both.pruning == pytest.approx(float(smallest.double().square().sum()) / norm, rel=1e-5)
    rows = weight.reshape(16, -1)
    step = rows.abs().amax(1, keepdim=True) / 7
    assert rounded.rounding == pytest.approx(float(((rows / step).round() * step - rows).square().sum()) / norm, rel=0.2)
    assert rounded.pruning == pruned.rounding == 0 and both.rounding > 0
    assert all(math.isnan(e.motion) for e in (nothing, rounded, pruned, both))
    assert torch.equal(observation[Weight()], weight)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_output_errors_are_those_over_the_examples(groups: int) -> None:
    layer = Layer("conv", "conv2d", (8, 8 // groups, 3, 1), 100, groups=groups)
    observation, weight, x = observed(layer)
    new = weight + 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(9))
    new[0] = -weight[0]  # no positive gain helps: the output of the channel is lost
    new[1] = 0.25 * weight[1]  # a gain corrects it: moment matching supplies the gain
    expected = []
    for c in range(8):
        seen = x[c // (8 // groups)]
        y, z = seen @ weight[c].reshape(-1).double(), seen @ new[c].reshape(-1).double()
        gain = max(0.0, float((y * z).mean() / (z * z).mean()))
        expected.append(float((y - gain * z).square().mean()))
    found = candidates.channel_error(weight, new, observation[InputMoment()])
    assert found.numpy() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert expected[1] < 1e-9
    fisher = observation[OutputFisher()].double().numpy()
    assert candidates.fisher_distortion(observation, weight, new) == pytest.approx(
        0.5 * float(fisher @ np.array(expected)), rel=1e-6
    )


def test_distortion_needs_its_source() -> None:
    weight = observed(LAYER)[1]
    without = Observation(LAYER, {Weight(): weight})
    assert math.isnan(candidates.fisher_distortion(without, weight, weight)) and math.isnan(
        candidates.motion_distortion(without, weight, weight)
    )
    fisher = torch.rand(LAYER.shape, generator=torch.Generator().manual_seed(4))
    moved = Observation(LAYER, {Weight(): weight, WeightFisher(): fisher})
    signs = [torch.randn(LAYER.shape, generator=torch.Generator().manual_seed(seed)).sign() for seed in range(50)]
    found = [
        candidates.motion_distortion(moved, weight, weight + 2 * sign) for sign in signs
    ]  # independent errors: half of f_i e_i^2
    assert np.mean(found) == pytest.approx(2 * 1.01 * float(fisher.sum()), abs=4 * np.std(found) / 50**0.5)
    assert candidates.motion_distortion(moved, weight, weight + 2) > 2 * np.mean(
        found
    )  # equal errors: correlations of inputs add up
    still = Observation(LAYER, {Weight(): weight, WeightFisher(): 0 * fisher})
    assert math.isnan(candidates.motion_distortion(still, weight, weight + 2))


# ---------------------------------------------------------------- distortions
def errors(*rows: tuple[float, float, float, float]) -> list[candidates.Errors]:
    return [candidates.Errors(Choice(), *row) for row in rows]


def test_every_source_of_distortion_has_its_formula() -> None:
    found = {"a": errors((0.0, 0.0, 0.0, 0.0), (0.1, 0.2, 3.0, 40.0)), "b": errors((0.3, 0.0, 7.0, 80.0))}
    sensitivity = {"pruning": {"a": math.log(2), "b": 0.0}, "quantization": {"a": math.log(5), "b": 1.0}}
    assert candidates.distortions(found, "fisher", {}, {}) == {"a": [0, 3], "b": [7]}
    corrected = candidates.distortions(found, "fisher", sensitivity, {})
    assert corrected == {"a": [0, pytest.approx(3 * 5)], "b": [pytest.approx(7 * math.e)]}
    assert candidates.distortions(found, "trajectory", sensitivity, {}) == {"a": [0, 40], "b": [80]}
    probed = candidates.distortions(found, "probe", sensitivity, {"a": 10.0, "b": 100.0})
    assert probed == {"a": [0, pytest.approx(3)], "b": [pytest.approx(30)]}
    theory = candidates.distortions(found, "theory", sensitivity, {})
    assert theory == {"a": [0, pytest.approx(0.1 * 2 + 0.2 * 5)], "b": [pytest.approx(0.3)]}


def test_zeros_have_the_geometric_mean_of_the_runs_distortion_and_the_error() -> None:
    """Their unit is the run's: distortions 4 and 9 of errors .1 and .4 have the ratios 40 and 22.5, median 31.25."""
    zeros = Choice(sparsity=0.5)
    rows = {
        "a": [
            candidates.Errors(zeros, 0.1, 0.0, math.nan, 4.0),
            candidates.Errors(Choice(weight_bits=4), 0.0, 0.2, math.nan, 2.0),
        ],
        "b": [candidates.Errors(zeros, 0.4, 0.0, math.nan, 9.0)],
    }
    found = candidates.distortions(rows, "trajectory", {}, {})
    assert found["a"] == [pytest.approx((4 * 31.25 * 0.1) ** 0.5), 2.0]
    assert found["b"] == [pytest.approx((9 * 31.25 * 0.4) ** 0.5)]


def test_layers_without_the_source_get_the_median_rate() -> None:
    nan = math.nan
    found = {
        "a": errors((0.1, 0.0, 1.0, nan)),  # rate 10
        "b": errors((0.1, 0.1, 8.0, nan)),  # rate 40
        "c": errors((0.0, 0.2, 4.0, nan)),  # rate 20
        "embedding": errors((0.0, 0.0, nan, nan), (0.0, 0.5, nan, nan)),
    }
    assert candidates.distortions(found, "fisher", {}, {})["embedding"] == [0, pytest.approx(10.0)]
    assert candidates.distortions({"embedding": found["embedding"]}, "fisher", {}, {})["embedding"] == [0, 0.5]


# ---------------------------------------------------------------- channels
@given(st.integers(1, 300), st.lists(st.floats(0.01, 1.0), max_size=6), st.sampled_from([1, 4, 8, 16, 32]))
def test_channel_counts_lie_on_the_targets_grid(size: int, shares: list[float], multiple: int) -> None:
    counts = structure_choices.keep_counts(size, shares, multiple)
    assert counts[0] == size and counts == sorted(set(counts), reverse=True) and counts[-1] >= 1
    step = multiple if size > multiple else max(1, size // 4)
    assert all(count % step == 0 for count in counts[1:])
    for share in shares:  # the nearest count on the grid, if there is one below the whole
        assert min(abs(count - size * share) for count in counts) <= max(step, step / 2)


def channel_table(twin: bool = False) -> tuple[tuple[Any, ...], torch.Tensor]:
    """Options of a group of eight channels that one convolution reads; with `twin`, channel 3 always equals channel 6."""
    producer, consumer = Layer("p", "conv2d", (8, 3, 3, 3), 800), Layer("c", "conv2d", (5, 8, 3, 3), 600)
    reads, _, x = observed(consumer)
    makes, _, _ = observed(producer)
    if twin:
        x[..., 27:36] = x[..., 54:63]
        reads = Observation(consumer, {**reads.values, InputMoment(): x.mT @ x / x.shape[1]})
    group = ChannelGroup("g", 8, ("p",), {"c": 9})
    recipe = replace(RECIPE, keeps=(1.0, 0.875, 0.5, 0.25))
    target = replace(TARGET, channel_multiple=1)
    return structure_choices.channel_options(group, {"p": makes, "c": reads}, recipe, target, file_bytes), x


def test_fewer_channels_save_more_and_distort_more() -> None:
    table, _ = channel_table()
    assert [o.choice.keep for o in table] == [None, 7, 4, 2]
    assert [o.macs for o in table] == [0, -1400 / 8, -1400 / 2, -1400 * 6 / 8]
    distortions = [o.distortion for o in table]
    assert distortions[0] == 0 and distortions == sorted(distortions) and distortions[1] > 0
    dense = sum(
        file_bytes(Layer(n, "conv2d", shape, 0), Choice(weight_bits=8))
        for n, shape in zip("pc", [(8, 3, 3, 3), (5, 8, 3, 3)], strict=True)
    )
    assert [o.bytes for o in table] == pytest.approx([0, -dense / 8, -dense / 2, -dense * 6 / 8])


def test_removing_a_duplicate_channel_has_no_distortion() -> None:
    alone, twins = channel_table()[0][1].distortion, channel_table(twin=True)[0][1].distortion
    assert twins < 1e-2 * alone


def test_the_distortion_of_fewer_channels_is_the_refitted_error() -> None:
    """The table predicts the error of least squares over the examples, on the channels that the library keeps."""
    from dyncompress.pruning.channels import eliminate

    table, x = channel_table()
    reads, weight, _ = observed(Layer("c", "conv2d", (5, 8, 3, 3), 600))
    order, _ = eliminate(reads[InputMoment()][0], weight, 9, 2)
    kept = [c for c in range(8) if c not in set(order[:4].tolist())]
    columns = [c * 9 + i for c in kept for i in range(9)]
    y = x[0] @ weight.reshape(5, -1).double().T
    refit = torch.linalg.lstsq(x[0][:, columns], y).solution
    error = float((y - x[0][:, columns] @ refit).square().mean())
    fisher = float(reads[OutputFisher()].double().sum())
    assert table[2].distortion == pytest.approx(0.5 * fisher * error, rel=0.02)


def test_options_are_those_that_a_layer_can_have() -> None:
    """A group is no longer than a row, and a pattern needs enough inputs, so that every plan can be applied."""
    recipe = replace(RECIPE, pattern="2:4", sparsities=(0.5,), granularity="group:1000")
    wide, stem = Layer("wide", "conv2d", (8, 4, 3, 3), 0), Layer("stem", "conv2d", (8, 3, 3, 3), 0)
    target = load_target("onnxruntime-x86-vnni")
    for layer, pattern, group in ((wide, "2:4", "group:36"), (stem, "", "group:27")):
        found = candidates.choices(layer, recipe, target, None)
        assert {(c.pattern, c.granularity) for c in found} == {(pattern, group)}
        assert all(layer_fault(choice, layer.shape, target.weight_bits) is None for choice in found)
