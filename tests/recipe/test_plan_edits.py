"""Every field of a choice for every kind of unit: an impossible edit gives one sentence with its line in the plan's file."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dyncompress as dc
from dyncompress.recipe.plan_file import plan_from_toml, plan_to_toml, read_plan
from dyncompress.types import Choice
from tests import tiny
from tests.tiny import CALIBRATION, network

LAYER, GROUP, BLOCK = "front", "channels:front", "block:stage"
KINDS = {LAYER: "layer", GROUP: "channel group", BLOCK: "residual block"}
FIELDS: dict[str, tuple[str, Any]] = {  # field -> a unit that has it, and a possible value
    "keep": (GROUP, 6),
    "indices": (GROUP, (0, 2)),
    "drop": (BLOCK, True),
    "rank": (LAYER, 3),
    "sparsity": (LAYER, 0.5),
    "pattern": (LAYER, "2:4"),
    "weight_bits": (LAYER, 4),
    "step": (LAYER, 0.5),
    "granularity": (LAYER, "group:4"),
    "activation_bits": (LAYER, 8),
    "method": ("", "Gptq"),
}
BESIDE = {"indices": {"keep": 2}, "pattern": {"sparsity": 0.5}, "step": {"weight_bits": 8}}  # other fields that the value needs
NAN, HUGE = float("nan"), 10_000_000
IMPOSSIBLE = [  # unit, fields, the field whose line is named, part of the message
    (LAYER, {"rank": HUGE}, "rank", "rank is 10000000; this layer can have a rank of 1 to 8."),
    (LAYER, {"rank": 9}, "rank", "rank of 1 to 8"),
    (LAYER, {"rank": 0}, "rank", "rank is 0"),
    (LAYER, {"rank": -1}, "rank", "rank is -1"),
    (LAYER, {"sparsity": NAN}, "sparsity", "sparsity is nan"),
    (LAYER, {"sparsity": float("inf")}, "sparsity", "sparsity is inf"),
    (LAYER, {"sparsity": 1.0}, "sparsity", "sparsity is 1"),
    (LAYER, {"sparsity": -0.1}, "sparsity", "sparsity is -0.1"),
    (LAYER, {"pattern": "2:4"}, "pattern", "has 0.5 zeros, sparsity is 0; use 0.5."),
    (LAYER, {"pattern": "1:4", "sparsity": 0.5}, "pattern", "has 0.75 zeros, sparsity is 0.5"),
    (LAYER, {"pattern": "4:4", "sparsity": 0.5}, "pattern", "pattern is '4:4'; write '2:4'"),
    (LAYER, {"pattern": "4:2", "sparsity": 0.5}, "pattern", "pattern is '4:2'"),
    (LAYER, {"pattern": "0:4", "sparsity": 0.5}, "pattern", "pattern is '0:4'"),
    (LAYER, {"pattern": "8:16", "sparsity": 0.5}, "pattern", "this layer has 8 inputs, fewer than 16"),
    (LAYER, {"pattern": f"1:{10**30}", "sparsity": 0.5}, "pattern", "write '2:4'"),
    (LAYER, {"weight_bits": 9}, "weight_bits", "weight_bits is 9"),
    (LAYER, {"weight_bits": 0}, "weight_bits", "weight_bits is 0"),
    (LAYER, {"step": NAN, "weight_bits": 8}, "step", "step is nan"),
    (LAYER, {"step": float("inf"), "weight_bits": 8}, "step", "step is inf"),
    (LAYER, {"step": -0.5, "weight_bits": 8}, "step", "step is -0.5"),
    (LAYER, {"step": 1e30, "weight_bits": 8}, "step", "step is 1e+30"),
    (LAYER, {"step": 0.5}, "step", "a step needs weight_bits = 8"),
    (LAYER, {"step": 0.5, "weight_bits": 4}, "step", "a step needs weight_bits = 8"),
    (LAYER, {"step": 0.5, "weight_bits": 8, "granularity": "tensor"}, "step", "a step needs 'channel'"),
    (LAYER, {"granularity": "rows"}, "granularity", "granularity is 'rows'"),
    (LAYER, {"granularity": "group:0"}, "granularity", "granularity is 'group:0'"),
    (LAYER, {"granularity": f"group:{10**9}"}, "granularity", "granularity is 'group:1000000000'"),
    (LAYER, {"granularity": "group:9"}, "granularity", "a row of this layer has 8 weights; use 'group:8'."),
    (LAYER, {"granularity": f"group:{'9' * 5000}"}, "granularity", "'group:32' is needed"),
    (LAYER, {"activation_bits": 4}, "activation_bits", "activation_bits is 4"),
    (GROUP, {"keep": 0}, "keep", "keep is 0"),
    (GROUP, {"keep": -3}, "keep", "keep is -3"),
    (GROUP, {"indices": (0, 1)}, "indices", "keep is None; they have to agree"),
    (GROUP, {"keep": 3, "indices": (0, 1)}, "indices", "they have to agree"),
    (GROUP, {"keep": 2, "indices": (1, 1)}, "indices", "they have to agree"),
    (GROUP, {"keep": 2, "indices": (-1, 1)}, "indices", "indices reach beyond"),
]
WITH_THE_MODEL = [
    (GROUP, {"keep": 9}, "keep", "keep is 9; it has 8 channels."),
    (GROUP, {"keep": 2, "indices": (0, 8)}, "indices", "indices reach beyond its 8 channels."),
    ("channels:stage.up", {"keep": 4}, "", "the model has no unit 'channels:stage.up'"),
    (
        "block:plain",
        {"drop": True},
        "drop",
        "there is no block 'plain' that its shortcut can replace; this model offers block:stage.",
    ),
    ("stage.mid", {"rank": 1}, "rank", "two layers can't take the place of this one"),
    (LAYER, {"step": 0.5, "weight_bits": 8}, "step", "the quantizer of recipe 'edge-int8' rounds to a width"),
    (LAYER, {"sparsity": 0.5}, "sparsity", "recipe 'edge-int8' has no pruner"),
    (LAYER, {"weight_bits": 8, "activation_bits": 8}, "activation_bits", "activation_bits is 8, the first unit's is 32"),
    ("plain.0", {"weight_bits": 8}, "", "it is left alone, by the user; leave its table out."),
]


class Stage(nn.Module):
    """The block x + down(relu(mid(up(x)))), with a grouped `mid`."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.mid, self.down = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.mid(self.up(x))))


class Net(nn.Module):
    """Two convolutions, a stage, and a part without a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.back = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.stage, self.plain = Stage(), nn.Sequential(nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(torch.relu(self.stage(self.back(torch.relu(self.front(x))))))


IMAGES = np.random.default_rng(0).normal(size=(8, 8, 5, 5)).astype(np.float32)
SHAPES = {name: (8, 8, 1, 1) for name in ("front", "back")}
SHAPES |= {"stage.up": (8, 8, 1, 1), "stage.mid": (8, 4, 3, 3), "stage.down": (8, 8, 1, 1), "plain.0": (4, 8, 1, 1)}


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval()


def plan(unit: str, **fields: Any) -> dc.Plan:
    """A plan of two units; the tested unit is the second one, so that its lines are known."""
    asked = {"stage.down": Choice(), unit: Choice(**fields)}
    cost = {"bytes": 1.0, "macs": 1.0, "float_bytes": 1.0, "float_macs": 1.0}
    return dc.Plan(asked, {}, {"plain.0": "by the user"}, cost, 0.0, 0.0, "edge-int8", tiny.TARGET, "", SHAPES, {})


def message(made: dc.Plan, path: Path, *, apply: bool = False) -> tuple[str, dict[str, int]]:
    """The message of reading the plan's file (and of applying it), and the lines of the second unit as key -> number."""
    path.write_text(plan_to_toml(made))
    rows = path.read_text().splitlines()
    unit = list(made.asked)[1]
    start = next(i for i, row in enumerate(rows, 1) if row == f'[unit."{unit}"]')
    lines = {"": start}
    for number, row in enumerate(rows[start:], start + 1):
        if not row:
            break
        lines[row.partition(" = ")[0]] = number
    read = read_plan(path) if apply else None
    with pytest.raises(dc.InvalidRequest) as caught:
        if read is None:
            read_plan(path)
        else:
            dc.apply(net(), read, calibration=IMAGES)
    return str(caught.value), lines


def test_these_tables_have_every_field() -> None:
    assert FIELDS.keys() == {field.name for field in dataclasses.fields(Choice)}


@pytest.mark.parametrize("unit", KINDS)
@pytest.mark.parametrize("field", FIELDS)
def test_a_field_is_allowed_only_for_its_kind_of_unit(field: str, unit: str, tmp_path: Path) -> None:
    owner, value = FIELDS[field]
    made = plan(unit, **{field: value}, **(BESIDE.get(field, {}) if unit == owner else {}))
    if unit == owner:
        assert plan_from_toml(plan_to_toml(made)) == made
        return
    text, lines = message(made, tmp_path / "plan.toml")
    assert text.startswith(f"plan.toml line {lines[field]}: unit '{unit}': {field} is "), text
    wanted = f"it is chosen for a {KINDS[owner]} and this is a {KINDS[unit]}; leave it out." if owner else "can't be chosen"
    assert wanted in text and "\n" not in text


@pytest.mark.parametrize(("unit", "fields", "key", "sentence"), IMPOSSIBLE)
def test_an_impossible_value_names_its_line(unit: str, fields: dict[str, Any], key: str, sentence: str, tmp_path: Path) -> None:
    text, lines = message(plan(unit, **fields), tmp_path / "plan.toml")
    assert text.startswith(f"plan.toml line {lines[key]}: unit '{unit}': ") and sentence in text, text
    with pytest.raises(dc.InvalidRequest) as caught:  # also without a file
        dc.apply(net(), plan(unit, **fields), calibration=IMAGES)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("unit", "fields", "key", "sentence"), WITH_THE_MODEL)
def test_errors_that_depend_on_the_model_name_their_line_too(
    unit: str, fields: dict[str, Any], key: str, sentence: str, tmp_path: Path
) -> None:
    text, lines = message(plan(unit, **fields), tmp_path / "plan.toml", apply=unit != "plain.0")
    assert text.startswith(f"plan.toml line {lines[key]}: ") and sentence in text and repr(unit) in text, text
    assert "\n" not in text


def test_entropy_coded_weights_need_a_step() -> None:
    made = replace(tiny.plan(), recipe="packed")
    with pytest.raises(dc.InvalidRequest, match="codes by entropy and needs a step; set step beside weight_bits = 8"):
        dc.apply(network(), made, calibration=CALIBRATION)


def test_a_target_with_one_scale_per_tensor_refuses_other_granularities() -> None:
    target = replace(dc.load_target(tiny.TARGET), weight_granularity="tensor")
    with pytest.raises(dc.InvalidRequest, match=r"'stem': granularity is 'channel', and target .* takes one scale a tensor"):
        dc.apply(network(), tiny.plan(), target=target, calibration=CALIBRATION)


# ---------------------------------------------------------------- reasons
def test_a_reason_is_dropped_with_its_choice() -> None:
    made = replace(dc.allocate(tiny.profile()), notes=())  # a note names this machine's processor where it isn't the target's
    text = plan_to_toml(made)
    assert plan_from_toml(text) == made and plan_to_toml(plan_from_toml(text)) == text and made.why.keys() == made.asked.keys()
    head, tail = text.split('[unit."conv3"]')
    for old, new in (
        ("weight_bits = 8", "weight_bits = 4"),
        ("activation_bits = 8", "activation_bits = 32"),
        ("sparsity = 0.0", "sparsity = 0.001"),
    ):
        edited = plan_from_toml(head + '[unit."conv3"]' + tail.replace(old, new, 1))
        assert edited.asked["conv3"] != made.asked["conv3"]
        assert edited.why == {unit: why for unit, why in made.why.items() if unit != "conv3"}
    kept = plan_from_toml(head + '[unit."conv3"]' + tail.replace("weight_bits = 8", "weight_bits = 8  # mine", 1))
    assert kept.why == made.why


# ---------------------------------------------------------------- realised choices
def test_realised_choices_describe_the_network() -> None:
    asked = {
        "conv1": Choice(sparsity=0.001, weight_bits=8, activation_bits=8),  # half of a weight
        "conv2": Choice(sparsity=0.5, rank=8, weight_bits=6, activation_bits=8),
        "conv3": Choice(rank=12, weight_bits=8, activation_bits=8, granularity="group:100"),
        "channels:stem": Choice(keep=1),
    }
    made = replace(tiny.plan(), asked=asked, recipe="smallest")
    small = dc.apply(network(), made, calibration=CALIBRATION)
    done, encodings = small.plan.realised, small.encodings
    assert done["conv1"].sparsity == float((encodings["conv1"].codes == 0).float().mean())
    halves = [encodings[name] for name in encodings if name.startswith("conv2")]
    assert [tuple(half.codes.shape) for half in halves] == [(8, 1, 3, 3), (16, 8, 1, 1)]
    zeros = sum(int((half.codes == 0).sum()) for half in halves)
    assert done["conv2"].sparsity == pytest.approx(zeros / sum(half.codes.numel() for half in halves)) and zeros > 0
    assert done["conv2"].rank == 8 and done["conv2"].weight_bits == 6
    inner = next(encodings[name] for name in encodings if name.startswith("conv3"))
    assert done["conv3"].rank == len(inner.codes) == 12 and done["conv3"].granularity == "group:100"
    narrow = replace(made, asked={"channels:stem": Choice(keep=1), "conv1": Choice(rank=8, granularity="group:72")})
    again = dc.apply(network(), narrow, calibration=CALIBRATION).plan.realised["conv1"]
    assert again.rank == 1, "one channel is left of eight"
    plain = dc.apply(
        network(), replace(tiny.plan(), asked={"conv1": Choice(weight_bits=8, granularity="group:72")}), calibration=CALIBRATION
    )
    assert plain.plan.realised["conv1"].granularity == "group:72" == f"group:{plain.encodings['conv1'].group}"
    gone = {"channels:stem": Choice(keep=2), "conv1": Choice(weight_bits=8, granularity="group:72")}
    fewer = dc.apply(network(), replace(tiny.plan(), asked=gone), calibration=CALIBRATION)
    assert fewer.plan.realised["conv1"].granularity == "group:18" == f"group:{fewer.encodings['conv1'].group}"


def test_a_target_without_integer_activations_is_reported() -> None:
    target = replace(dc.load_target(tiny.TARGET), activation_dtype="float32")
    small = dc.apply(network(), tiny.plan(), target=target, calibration=CALIBRATION)
    assert {choice.activation_bits for choice in small.plan.realised.values()} == {32}


def test_infinite_numbers_give_one_sentence() -> None:
    text = plan_to_toml(plan(LAYER)).replace("weight_bits = 32", f"weight_bits = {'9' * 5000}", 1)
    with pytest.raises(dc.InvalidRequest, match=r"plan\.toml: a value is too large to be read"):
        plan_from_toml(text)
