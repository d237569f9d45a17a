"""Requests that the verbs refuse: one sentence with the facts, before any heavy work, without any file written."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dyncompress as dc
from dyncompress.pipeline.onnx_export import within
from dyncompress.recipe.plan_file import plan_to_toml
from dyncompress.recording import TrajectoryWriter
from dyncompress.recording.torch_callback import record
from tests import tiny
from tests.tiny import CALIBRATION, HELD_OUT, TARGET, network

X, Y = HELD_OUT


class Refuses:
    """A `Progress` that fails the test when heavy work begins."""

    def phase(self, name: str, total: int | None = None) -> Any:
        pytest.fail(f"'{name}' began before the request was refused")


@pytest.fixture(autouse=True)
def _nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert not list((tmp_path / "here").iterdir())


def spoilt(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array[3, 0, 0, 0] = value
    return array


def with_weight(value: float) -> nn.Module:
    module = copy.deepcopy(network())
    module.conv1.weight.data[0, 0, 0, 0] = value
    return module


def refused(kind: type[dc.DyncompressError], facts: list[str], **asked: Any) -> None:
    asked = {"model": network(), "recipe": "edge-int8", "calibration": CALIBRATION, "progress": Refuses(), **asked}
    with pytest.raises(kind) as caught:
        dc.compress(asked.pop("model"), asked.pop("recipe"), **asked)
    message = str(caught.value)
    assert all(fact in message for fact in facts), message
    assert "\n" not in message and message.endswith((".", "?")) and "Traceback" not in message


def recipe(**changed: Any) -> dc.Recipe:
    return dc.load_recipe("edge-int8", {key.replace("__", "."): value for key, value in changed.items()})


# ---------------------------------------------------------------- recipes, targets, models
@pytest.mark.parametrize(
    ("asked", "facts"),
    [
        ({"recipe": "edge-int9"}, ["'edge-int9'", "did you mean 'edge-int8'?"]),
        ({"recipe": "absent.toml"}, ["absent.toml", "no such file"]),
        ({"target": "vnni"}, ["'vnni'", "onnxruntime-x86-vnni"]),
        ({"model": "net.onnx"}, ["there is no file 'net.onnx'"]),
        ({"model": tiny.Tiny}, ["the class Tiny", "an instance"]),
        ({"model": {"w": np.ones(3)}}, ["dict", "torch.nn.Module"]),
        ({"model": with_weight(np.nan)}, ["'conv1'", "1 NaN or infinite", "checkpoint"]),
        ({"model": with_weight(np.inf)}, ["'conv1'", "1 NaN or infinite"]),
        ({"plan": "absent.toml"}, ["absent.toml", "no such file"]),
    ],
)
def test_wrong_names_and_models(asked: dict[str, Any], facts: list[str]) -> None:
    refused(dc.Unsupported if "is a file" in facts[0] else dc.InvalidRequest, facts, **asked)


def test_a_misspelt_key_and_a_pattern_that_matches_nothing(tmp_path: Path) -> None:
    with pytest.raises(dc.InvalidRequest, match=r"quantize\.gptq: unknown key 'dampnig'; did you mean 'damping'\?"):
        recipe(quantize__dampnig=0.1)
    path = tmp_path / "mine.toml"
    path.write_text('schema = 1\nname = "mine"\nsensitivty = ["theory"]\n')
    refused(dc.InvalidRequest, ["mine.toml", "'sensitivty'", "'sensitivity'"], recipe=path)
    pattern = recipe(layer=[{"match": "convv1", "weight_bits": [8]}])
    with pytest.raises(dc.InvalidRequest, match="'convv1' matches no layer; did you mean 'conv1'"):
        dc.measure(network(), pattern, target=TARGET, calibration=CALIBRATION, progress=Refuses())


def test_truncated_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=CALIBRATION)
    whole = (tmp_path / "data.npz").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        refused(dc.InvalidRequest, ["cut.npz", "truncated or not an .npz file"], calibration=tmp_path / "cut.npz")
    (tmp_path / "plan.toml").write_text("schema = 1\nrecipe = ")
    refused(dc.InvalidRequest, ["plan.toml", "the file is truncated"], plan=tmp_path / "plan.toml")
    whole_plan = plan_to_toml(tiny.plan())
    (tmp_path / "plan.toml").write_text(whole_plan[: whole_plan.index("[left_alone]")])
    refused(dc.InvalidRequest, ["plan.toml", "5 layers and holds 0", "truncated"], plan=tmp_path / "plan.toml")


# ---------------------------------------------------------------- calibration
@pytest.mark.parametrize(
    ("calibration", "facts"),
    [
        (None, ["'edge-int8' observes calibration data", "calibration=batches"]),
        (CALIBRATION[:, :1], ["'stem'", "expects 3 channels", "[2, 1, 8, 8]"]),
        (CALIBRATION[0], ["'stem'", "expects 3 channels"]),
        ((CALIBRATION * 9).astype(np.uint8), ["uint8", "change the example"]),
        (np.array(["a", "b"]), ["'x' has dtype <U1", "numbers"]),
        (CALIBRATION[:0], ["empty", "(0, 3, 8, 8)"]),
        ([], ["no examples"]),
        (iter([]), ["no examples"]),
        (3, ["int was given"]),
        (spoilt(CALIBRATION, np.nan), ["1 NaN or infinite", "example 3"]),
        (spoilt(CALIBRATION, -np.inf), ["1 NaN or infinite", "example 3"]),
        ({"z": CALIBRATION}, ["'x' is missing", "it holds z"]),
        ("absent.npz", ["absent.npz", "no such file"]),
        ("data.csv", ["data.csv", ".npz"]),
    ],
)
def test_calibration_data(calibration: Any, facts: list[str]) -> None:
    refused(dc.InvalidRequest, facts, calibration=calibration)


def test_recipes_that_observe_data_refuse_an_example_alone() -> None:
    for verb in (
        lambda: dc.measure(network(), "edge-int8", target=TARGET, example=CALIBRATION[:2], progress=Refuses()),
        lambda: dc.apply(network(), tiny.plan(), example=CALIBRATION[:2], progress=Refuses()),
        lambda: dc.measure(network(), "narrow", target=TARGET, example=CALIBRATION[:2], progress=Refuses()),
    ):
        with pytest.raises(dc.InvalidRequest, match="observes calibration data; give calibration=batches"):
            verb()
    refused(dc.InvalidRequest, ["no input was given", "one batch is enough"], recipe="heavy-tail", calibration=None)


def test_foreign_preprocessing_is_reported_and_not_refused() -> None:
    file = dc.compress(network(), "edge-int8", calibration=CALIBRATION * 50, plan=tiny.plan())
    assert "don't look like the training data" in file.notes[0] and "'norm0'" in file.notes[0]
    assert not any("training data" in note for note in tiny.file().notes)


# ---------------------------------------------------------------- held-out data
@pytest.mark.parametrize(
    ("held_out", "facts"),
    [
        ((np.concatenate([X, CALIBRATION[:20]]), np.append(Y, Y[:20])), ["20 of 1020 held-out examples equal calibration"]),
        ((CALIBRATION, Y[:96]), ["96 of 96 held-out examples equal calibration"]),
        ((X, Y + 1), ["from 1 to 4", "classes 0 to 3"]),
        ((X, Y[:3]), ["labels have shape (3,)"]),
        ((X[:, :, :6], Y), ["'x' is float32 [3, 6, 8]", "float32 [3, 8, 8]"]),
        ((X.astype(np.int64), Y), ["'x' is int64", "float32"]),
        ((spoilt(X, np.nan), Y), ["1 NaN or infinite", "held-out"]),
        ([], ["held-out data", "no examples"]),
    ],
)
def test_held_out_data_are_refused_before_the_work(held_out: Any, facts: list[str]) -> None:
    refused(dc.InvalidRequest, facts, held_out=held_out)


def test_promises_need_enough_held_out_examples() -> None:
    refused(dc.InvalidRequest, ["promise on held-out examples", "held_out=(x, y)"], recipe="certified")
    facts = ["50 held-out examples can't promise a risk increase of at most 0.02", "at least 161 are needed"]
    refused(dc.InvalidRequest, facts, recipe="certified", held_out=(X[:50], Y[:50]))
    refused(dc.InvalidRequest, ["at least 149 are needed"], recipe="certified", held_out=X[:50])  # agreement uses all of delta


# ---------------------------------------------------------------- budgets
@pytest.mark.parametrize(
    ("budget", "kind", "facts"),
    [
        ({"bytes": 0.2}, dc.Infeasible, ["the smallest plan takes 6 1", "the budget is 3 76", "raise budget.bytes"]),
        ({"bytes": 3000}, dc.Infeasible, ["the budget is 3 000", "raise budget.bytes"]),
        ({"macs": 0.5}, dc.Infeasible, ["106 048 macs", "raise budget.macs"]),
        ({"bytes": 20}, dc.InvalidRequest, ["20 bytes", "below 1, e.g. 0.25"]),
        ({"bytes": -1.0}, dc.InvalidRequest, ["budget.bytes is -1", "positive"]),
        ({"bytes": float("nan")}, dc.InvalidRequest, ["budget.bytes is nan", "finite"]),
        ({"seconds": 1.0}, dc.InvalidRequest, ["budget.seconds", "set budget.macs"]),
    ],
)
def test_budgets_that_cannot_be_met(budget: dict[str, float], kind: type[dc.DyncompressError], facts: list[str]) -> None:
    with pytest.raises(kind) as caught:
        dc.allocate(tiny.profile(), dc.Budget(**budget))
    assert all(fact in str(caught.value) for fact in facts), str(caught.value)


def test_a_file_beyond_the_budget_or_the_target_is_not_returned() -> None:
    file = tiny.certified_file()
    assert within(None, file) is within(len(file.content), file) is within(0.5, file) is file
    with pytest.raises(dc.Infeasible) as caught:
        within(len(file.content) - 1, file)
    assert f"the file takes {len(file.content):,} bytes, the budget is {len(file.content) - 1:,}" in str(caught.value)
    flash = replace(dc.load_target(TARGET), max_model_bytes=4000)
    with pytest.raises(dc.Unsupported, match=r"takes 4,\d+ bytes, target 'onnxruntime-x86-vnni' takes 4,000; lower budget.bytes"):
        dc.export(tiny.small(), target=flash)


# ---------------------------------------------------------------- trajectories
def test_trajectories_of_other_models(tmp_path: Path) -> None:
    trajectory = tiny.trained()[1]
    asked = {"recipe": "trajectory", "target": TARGET, "calibration": CALIBRATION, "progress": Refuses()}
    with pytest.raises(dc.InvalidRequest, match=r"ends at other weights than the model's .* last step recorded"):
        dc.measure(tiny.Tiny().eval(), trajectory=trajectory, **asked)
    writer = TrajectoryWriter()
    recorder = record(network(), writer, every=1)
    recorder.step()
    path = writer.save(tmp_path / "run.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(dc.InvalidRequest, match=r"run\.npz' is truncated or no trajectory"):
        dc.measure(network(), trajectory=path, **asked)
    with pytest.raises(dc.InvalidRequest, match=r"absent\.npz' does not exist"):
        dc.measure(network(), trajectory=tmp_path / "absent.npz", **asked)
    only = replace(dc.load_recipe("trajectory"), sensitivity=("trajectory",))
    with pytest.raises(dc.InvalidRequest, match="reads sensitivities from trajectory, which needs a trajectory"):
        dc.measure(network(), only, target=TARGET, calibration=CALIBRATION, progress=Refuses())


# ---------------------------------------------------------------- outputs
class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).mean()


def test_outputs_without_a_batch_axis() -> None:
    model, x = Scalar().eval(), np.ones((8, 3), np.float32)
    plan = replace(tiny.plan(), asked={}, shapes={"body": (2, 3)}, digest="")
    with pytest.raises(dc.Unsupported, match=r"output 0 of the model has shape \[\] for 8 examples; wrap the model"):
        dc.apply(model, plan, calibration=x)
