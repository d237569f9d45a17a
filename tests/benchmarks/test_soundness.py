"""The benchmarks of soundness and distortion: their verdicts, their networks, and one complete cell of each."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import cells, distortion, soundness
from benchmarks.distortion_nets import Trained
from benchmarks.soundness import Judged, pooled_error
from benchmarks.soundness_models import MODELS, SMALL, subject
from benchmarks.soundness_subject import Subject, normal

pytest.importorskip("onnxruntime")
NAN = float("nan")
RIGHT = Judged("y", 0.02, 0.1, 0, 1.0, 0.02, 0.1, noted=False)
TAUGHT_BY_DATA = {name for name in MODELS if name.startswith("digits")}


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([RIGHT], "sound"),
        ([replace(RIGHT, channel=NAN, parity_channel=NAN, agreement=NAN)], "sound"),
        ([replace(RIGHT, parity_channel=0.4, noted=True)], "sound"),
        ([replace(RIGHT, pooled=0.7)], "silent"),
        ([replace(RIGHT, pooled=NAN)], "silent"),
        ([replace(RIGHT, pooled=math.inf)], "silent"),
        ([replace(RIGHT, channel=0.7)], "silent"),
        ([replace(RIGHT, lost=1)], "silent"),
        ([replace(RIGHT, channel=0.7, noted=True)], "silent"),  # a note about something else
        ([replace(RIGHT, channel=0.7, parity_channel=0.4)], "silent"),  # a figure that nobody reads
        ([replace(RIGHT, channel=0.7, parity_channel=0.4, noted=True)], "told"),
        ([replace(RIGHT, pooled=0.7, parity_pooled=0.4, noted=True)], "told"),
        ([RIGHT, replace(RIGHT, channel=0.7, parity_channel=0.4, noted=True)], "told"),
        ([replace(RIGHT, lost=2), replace(RIGHT, channel=0.7, parity_channel=0.4, noted=True)], "silent"),
    ],
)
def test_verdict_of_a_file(outputs: list[Judged], expected: str) -> None:
    assert soundness.verdict(outputs) == expected


@pytest.mark.parametrize(
    ("mean", "error", "expected"),
    [(0.08, 0.001, "kept"), (0.09, 0.006, "within noise"), (0.09, 0.004, "exceeded"), (NAN, 0.1, "exceeded")],
)
def test_verdict_of_a_budget(mean: float, error: float, expected: str) -> None:
    assert distortion.verdict(0.08, mean, error) == expected


def test_pooled_error() -> None:
    wanted = np.array([[3.0, -4.0], [0.0, -np.inf]])
    assert pooled_error(wanted, wanted) == 0.0
    assert pooled_error(wanted + np.array([[1.0, 0.0], [0.0, 0.0]]), wanted) == pytest.approx(0.2)
    assert pooled_error(np.zeros_like(wanted), wanted) == math.inf
    assert pooled_error(np.zeros(3), np.zeros(3)) == 0.0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in MODELS if name not in TAUGHT_BY_DATA])
def test_networks_run_and_draw(name: str) -> None:
    if name in SMALL:
        pytest.importorskip("transformers")
    one = subject(name)
    for law in (one.law, one.fresh or one.law):
        inputs, again, others = (law(8, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
        assert all(torch.equal(value, again[key]) for key, value in inputs.items())
        assert any(not torch.equal(value, others[key]) for key, value in inputs.items())
        outputs = one.called(inputs)
        assert outputs
        assert all(len(output) == 8 and output.isfinite().all() for output in outputs)
    assert one.n >= 64
    assert not one.module.training
    assert 500 <= sum(p.numel() for p in one.module.parameters()) <= 100_000
    alike = zip(one.called(inputs), subject(name).called(inputs), strict=True)
    assert all(torch.equal(a, b) for a, b in alike), "the weights are those of a seed"


def test_networks_of_digits() -> None:
    pytest.importorskip("sklearn")
    for name in ("digits, perceptron", "digits, logits x1000", "digits, argmax"):
        one = subject(name)
        assert one.fresh is not None
        scores = one.called(one.fresh(64, torch.Generator().manual_seed(0)))[0]
        assert len(scores) == 64
    assert subject("digits, logits x1000").module.scale == 1000.0


def _hooked_perceptron() -> Subject:
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    module.register_forward_hook(lambda _m, _a, out: (4 * out).softmax(1))
    return Subject(module, normal(8, name="input"), n=64)


@pytest.mark.filterwarnings("ignore")
def test_cells_of_soundness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(MODELS, "tiny", _hooked_perceptron)
    path, key = tmp_path / "soundness.json", "tiny | edge-int8"
    args = argparse.Namespace(only="tiny*", again=False)
    cells.run([key], path, soundness.cell, soundness.line, args)
    found = cells.read(path)[key]
    assert found["verdict"] == "sound"
    assert len(found["outputs"]) == 1
    cells.run([key], path, lambda _: pytest.fail("a finished cell is left alone"), soundness.line, args)
    assert "| edge-int8 | 1 | 0 | 0 | 0 | 0 |" in soundness.table(cells.read(path))


def test_refusals_and_crashes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ZeroDivisionError("a fault in the network")

    monkeypatch.setitem(MODELS, "broken", lambda: Subject(Broken(), normal(8)))
    monkeypatch.setitem(MODELS, "bad inputs", lambda: Subject(nn.Linear(8, 3), normal(8, name="input", scale=NAN)))
    crash, refusal = soundness.cell("broken | edge-int8"), soundness.cell("bad inputs | edge-int8")
    assert (crash["verdict"], crash["error"]) == ("crash", "ZeroDivisionError")
    assert refusal["verdict"] == "refused"
    assert refusal["exit_code"] == 2
    assert "| broken | edge-int8 | crash | ZeroDivisionError: a fault in the network |" in soundness.table(
        {"broken | edge-int8": crash}
    )


@pytest.mark.filterwarnings("ignore")
def test_cell_of_distortion(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    with torch.no_grad():
        module[2].weight *= 8.0
    x = torch.randn(756, 8)
    net = Trained(module, x[:256], x[256:], module(x[256:]).argmax(1))
    monkeypatch.setattr(distortion, "made_once", lambda name: net)
    found = distortion.cell("tiny | 0.08")
    assert found["verdict"] in ("kept", "within noise")
    assert found["examples"] == 500
    assert found["accuracy"]["before"] == 100.0
    assert "| tiny | 0.08 |" in distortion.table({"tiny | 0.08": found})


def test_json_is_strict(tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    cells.put(path, "b", {"value": NAN, "inf": math.inf, "third": 1 / 3, "flag": True}, ["a", "b"])
    cells.put(path, "a", {"list": (np.float32(1.5), 2)}, ["a", "b"])
    text = path.read_text()
    assert json.loads(text, parse_constant=lambda _: pytest.fail("no NaN in JSON")) == {
        "a": {"list": [1.5, 2]},
        "b": {"value": None, "inf": "inf", "third": 0.3333, "flag": True},
    }
    assert text.index('"a"') < text.index('"b"')
