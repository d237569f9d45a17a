"""Representations: every public value, however large, has a `repr` of less than 2 000 characters; all are tested."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import dyncompress as dc
from dyncompress import types
from dyncompress.pipeline import selection
from dyncompress.pipeline.pareto import Costed, ParetoList
from dyncompress.recipe.recipe import CertificateSpec, LayerRule
from dyncompress.types.representation import short_repr, whole_text

MOST = 2_000
LAYERS = 300
NAMES = tuple(f"encoder.layer.{i}.attention.self.a_rather_long_name_of_a_projection" for i in range(LAYERS))
LARGE = np.zeros((512, 512), dtype=np.float32)
CODES = torch.zeros(512, 512, dtype=torch.int8)
SENTENCE = "A sentence that says why a layer was given the number of bits that it has. " * 40


def planning_values() -> tuple[Any, ...]:
    """Choices, a profile, and a plan, which comes last."""
    choice = types.Choice(keep=4096, indices=tuple(range(4096)), weight_bits=4, method="gptq")
    layers = tuple(types.Layer(name, "linear", (512, 512), 2**18, left_alone=SENTENCE) for name in NAMES)
    estimate = types.Estimate(2.5, 0.25, 512, notes=(SENTENCE,) * 10)
    option = types.Option(choice, 1e6, 1e6, 0.01, change=types.WeightChange(1.0, 0.1, 0.0, 1.0))
    profile = types.Profile(
        layers=layers,
        estimates={name: dict.fromkeys(NAMES, estimate) for name in ("hill", "kurtosis")},
        table=dict.fromkeys(NAMES, (option,) * 20),
        source=dict.fromkeys(NAMES, "fisher"),
        reasons=dict.fromkeys(NAMES, SENTENCE),
        float_bytes=2**30,
        fixed_bytes=2**20,
        macs=2**30,
        digest="0" * 64,
        recipe="edge-int8",
        target="onnxruntime-x86-vnni",
        notes=(SENTENCE,) * 50,
    )
    plan = types.Plan(
        asked=dict.fromkeys(NAMES, choice),
        why=dict.fromkeys(NAMES, SENTENCE),
        reasons=dict.fromkeys(NAMES, SENTENCE),
        cost={"bytes": 1e6},
        distortion=0.1,
        gap=0.0,
        recipe="edge-int8",
        target="onnxruntime-x86-vnni",
        digest="0" * 64,
        shapes=dict.fromkeys(NAMES, (512, 512)),
        share_left_alone={"weights": 0.0, "macs": 0.0},
        realised=dict.fromkeys(NAMES, choice),
        notes=(SENTENCE,) * 50,
    )
    return (choice, layers[0], estimate, option, option.change, profile, plan)


def file_values(plan: types.Plan) -> tuple[Any, ...]:
    """A file of the plan with its certificate and parity, and an interval, times and candidates."""
    line = types.Line("increase", 0.0, -1.0, 0.01, 0.05, "exact paired")
    certificate = types.Certificate(
        SENTENCE, "statistical", (line,) * 50, 0.05, 10_000, dict.fromkeys(NAMES, 1), (SENTENCE,) * 50, "alone", {}, {}, {}, {},
        {"original": "ff" * 10**6}, True, "zero_one", 0.02,
    )  # fmt: skip
    output = types.OutputParity("scores", 0.1, lost=tuple((1, i) for i in range(4096)))
    parity = types.Parity(1e-7, 0.1, 0.99, 256, (output,) * 100)
    target = replace(dc.load_target("onnxruntime-x86-vnni"), session=dict.fromkeys(NAMES, "1"))
    file = types.OnnxFile(
        b"\0" * 10**7, plan, types.Sizes(1, 2, 3, 4, "int8"), 2**30, parity, {"Conv": (1, 2)}, (1, 2),
        dict.fromkeys(NAMES, 0.1), target, (SENTENCE,) * 50, certificate, b"\0" * 10**7, frozenset(NAMES),
        dict.fromkeys(NAMES, (0.1, 0.1)), b"\0" * 10**6,
    )  # fmt: skip
    interval = types.Interval(0.1, 0.0, 0.2, 0.05, 100, SENTENCE)
    speed, candidate = types.Speed(0.1, 0.2, 0.5, 40, processor=SENTENCE), types.Candidate(10**6, 0.1, 0.2)
    return (line, certificate, output, parity, target, target.kernel_times, file, file.sizes, interval, speed, candidate)


def model_values(plan: types.Plan) -> tuple[Any, ...]:
    """A compressed model of the plan, a recorded trajectory, and the parts and edits of a model."""
    motion = types.WeightMotion(LARGE, LARGE, LARGE, 100)
    trajectory = types.Trajectory(
        np.arange(10**5), np.zeros(10**5), dict.fromkeys(NAMES, motion), dict.fromkeys(NAMES, LARGE), 0, "0" * 64
    )
    encoding = types.Encoding(CODES, torch.ones(512), 4)
    model: Any = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(LAYERS)))
    compressed = types.Compressed(model, dict.fromkeys(NAMES, encoding), plan, {"weights": 0.1}, [{"x": CODES}] * 100)
    writer = dc.TrajectoryWriter()
    writer.append(0, {name: CODES.float() for name in NAMES[:3]})
    layer = types.Layer(NAMES[0], "linear", (512, 512), 2**18)
    parameter = types.SavedParameter(NAMES[0], LARGE, (LARGE,) * 10)
    return (
        *(motion, trajectory, encoding, compressed, writer, parameter),
        types.TrainingState(dict.fromkeys(NAMES, parameter), "Adam", 1999.0, notes=(SENTENCE,) * 50),
        types.ChannelGroup(NAMES[0], 4096, NAMES, dict.fromkeys(NAMES, 9)),
        types.ResidualBlock(NAMES[0], NAMES, NAMES[-1], True, True),
        types.Placement(SENTENCE, "as_is"),
        types.Shown([{"x": CODES}] * 100, [LARGE] * 10),
        types.Observation(layer, {types.Weight(): LARGE, types.InputMoment(): LARGE}),
        types.HeldOut({name: LARGE for name in NAMES}, np.arange(10**6), np.arange(10**6)),
        types.SetWeight(NAMES[0], CODES, CODES),
        types.Keep(NAMES[0], tuple(range(4096))),
        types.Affine(NAMES[0], CODES, CODES),
        types.Drop(NAMES[0]),
        types.LowRank(NAMES[0], CODES, CODES, CODES),
        types.ResidualMoments(LARGE, LARGE, LARGE, LARGE),
        types.DistillationTask(types.Distillation(), spared=dict.fromkeys(NAMES, SENTENCE)),
        *(need() for need in types.Need.__args__),
    )


def recipe_values() -> tuple[Any, ...]:
    """A recipe and its parts."""
    rule = LayerRule("head.*", tuple(range(2, 9)) * 100)
    recipe = dc.load_recipe("packed")
    recipe = replace(recipe, summary=SENTENCE, layers=(rule,) * 300)
    return (rule, recipe, recipe.certificate, recipe.distill, recipe.budget)


def selection_values(plan: types.Plan) -> tuple[Any, ...]:
    """The results of `rank` and of `pareto`."""
    tau = selection.Correlation(0.5, 0.1, 0.9, 12)
    row = selection.Row(NAMES[0], 1.0, dict.fromkeys(NAMES, types.Estimate(2.5, 0.25, 512)), 0.1, dict.fromkeys(NAMES, 1))
    agreement = selection.Agreement(tau, dict.fromkeys(NAMES, tau), tau, tau)
    ranking = selection.Ranking((row,) * 300, {}, dict.fromkeys(NAMES, agreement), (SENTENCE,) * 50)
    costed = Costed(types.Budget(bytes=0.5), 1e6, 1e6, float("nan"), 0.1, plan)
    prediction = selection.Prediction(1, SENTENCE)
    return (tau, row, agreement, ranking, prediction, costed, ParetoList((costed,) * 300))


def values() -> dict[type, Any]:
    """One large value of every public class except errors, and of every dataclass that these contain."""
    planning = planning_values()
    plan = planning[-1]
    parts = (*planning, *file_values(plan), *model_values(plan), *recipe_values(), *selection_values(plan))
    return {type(value): value for value in parts}


VALUES = values()


@pytest.mark.parametrize("value", VALUES.values(), ids=lambda value: type(value).__name__)
def test_a_large_value_has_a_short_representation(value: Any) -> None:
    for text in (repr(value), repr([value] * 1)):
        assert len(text) < MOST
        assert text.lstrip("[").startswith(type(value).__name__)
        assert " at 0x" not in text


def public_classes() -> set[type]:
    """Every class of `dyncompress.__all__` except errors, and every dataclass of `dyncompress.types`."""
    named = {value for name in dc.__all__ if inspect.isclass(value := getattr(dc, name))}
    held = {value for name in types.__all__ if dataclasses.is_dataclass(value := getattr(types, name)) and inspect.isclass(value)}
    return {value for value in named | held if not issubclass(value, Exception)}


def test_every_public_value_is_tested() -> None:
    assert public_classes() <= VALUES.keys()
    results = {
        selection.Ranking,
        selection.Row,
        selection.Agreement,
        selection.Correlation,
        Costed,
        ParetoList,
        CertificateSpec,
        LayerRule,
    }
    assert results <= VALUES.keys()


def test_a_file_shows_its_size_and_not_its_content() -> None:
    file = VALUES[types.OnnxFile]
    assert repr(file) == str(file)
    assert f"bytes={len(file.packed)}, of={2**30}" in repr(file) and "certified=True" in repr(file)


def test_small_values_are_shown_in_full_and_defaults_left_out() -> None:
    assert repr(dc.Budget(bytes=0.3)) == "Budget(bytes=0.3)"
    assert repr(types.Choice(weight_bits=4, step=0.1)) == "Choice(weight_bits=4, step=0.1)"
    assert repr(types.Estimate(2.5, float("nan"), 9)) == "Estimate(value=2.5, stderr=nan, n=9)"
    assert repr(types.Drop("layer1.0")) == "Drop(block='layer1.0')"


def test_arrays_of_any_kind_are_shown_by_type_and_shape() -> None:
    assert "codes=<int8 [512, 512]>, scale=<float32 [512]>" in repr(VALUES[types.Encoding])
    assert "weight=<float32 [512, 512]>" in repr(types.SetWeight("a", LARGE))
    assert repr(types.Estimate(np.float64(0.5), np.float32(0.25), np.int64(3))) == "Estimate(value=0.5, stderr=0.25, n=3)"


def test_the_whole_text_distinguishes_values_with_equal_representations() -> None:
    recipe = dc.load_recipe("packed")
    assert whole_text(recipe) == whole_text(dc.load_recipe("packed"))
    other = replace(recipe, steps=(*recipe.steps[:-1], recipe.steps[-1] * (1 + 1e-12)))
    assert short_repr(recipe) == short_repr(other), "the short text is no digest"
    assert whole_text(recipe) != whole_text(other)
    changed = LARGE.copy()
    changed[-1, -1] = 1e-9
    assert whole_text(LARGE) != whole_text(changed)
