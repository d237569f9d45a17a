"""An adapter that the library does not know, with numpy weights and none of the optional capabilities, goes the whole way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dyncompress as dc
from dyncompress.types import LayerwiseCalibration, Model, MomentMatching, Structured, Trainable
from tests.models.toy import trained

TARGET = "onnxruntime-x86-vnni"


def test_the_toy_has_what_is_required_and_nothing_else() -> None:
    model, _, _ = trained()
    assert isinstance(model, Model)
    assert not any(isinstance(model, kind) for kind in (Structured, MomentMatching, LayerwiseCalibration, Trainable))


@pytest.mark.parametrize(("recipe", "smaller"), [("edge-int8", 2.0), ("smallest", 3.0)])
def test_a_second_adapter_is_compressed_certified_and_verified(recipe: str, smaller: float, tmp_path: Path) -> None:
    model, x, y = trained()
    before = {name: weight.copy() for name, (weight, _) in model.weights.items()}
    settings = {} if recipe == "edge-int8" else {"budget.bytes": 0.3}
    held_out = (x[600:], y[600:])
    file = dc.compress(model, dc.load_recipe(recipe, settings), target=TARGET, calibration=x[:600], held_out=held_out)
    assert all(np.array_equal(before[name], weight) for name, (weight, _) in model.weights.items())
    assert file.float_bytes / len(file.shipped) > smaller
    assert file.certificate is not None and dc.verify(file).kept
    path = file.save(tmp_path / "small.onnx")
    scores = dc.verify(path, held_out=held_out)
    assert scores.counts["file_errors"] <= scores.counts["original_errors"] + 6  # one percent of the examples
    assert any("lacks the capability 'MomentMatching'" in note for note in file.notes)


def test_the_verbs_one_at_a_time_tell_which_sensitivity_was_used() -> None:
    model, x, y = trained()
    profile = dc.measure(model, "smallest", target=TARGET, calibration=x[:600])
    assert set(profile.source.values()) == {"probe"}  # no gradients: the recipe's next sensitivity
    small = dc.apply(model, dc.allocate(profile, dc.Budget(bytes=0.35)), calibration=x[:600])
    file = dc.certify(dc.export(small), reference=model, held_out=(x[600:], y[600:]))
    assert file.certificate is not None and file.plan.share_left_alone["weights"] == 0


@pytest.mark.parametrize(("recipe", "capability"), [("narrow", "Structured"), ("fastest", "Structured")])
def test_a_recipe_that_needs_more_names_the_adapter_and_the_capability(recipe: str, capability: str) -> None:
    model, x, _ = trained()
    with pytest.raises(dc.Unsupported, match=rf"recipe '{recipe}' .*capability '{capability}'.*Perceptron lacks it.*edge-int8"):
        dc.compress(model, recipe, target=TARGET, calibration=x[:600])


def test_a_plan_is_refused_with_a_recipe_that_needs_more() -> None:
    model, x, _ = trained()
    plan = dc.allocate(dc.measure(model, "edge-int8", target=TARGET, calibration=x[:600]))
    with pytest.raises(dc.Unsupported, match=r"recipe 'narrow' .*capability 'Structured'.*Perceptron lacks it"):
        dc.apply(model, plan, recipe="narrow", calibration=x[:600])
