"""Measured times of smaller structures: the timed files are those networks, and options that are not faster are left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

import dyncompress as dc
from benchmarks.cifar_resnet import CifarResNet
from dyncompress.deployment.latency import Cut, cut_channels
from dyncompress.models.torch.model import TorchModel
from dyncompress.models.torch.opening import open_model
from dyncompress.pipeline.profiling.latency import LatencyTable, latency_table, with_seconds
from dyncompress.recipe.toml_files import load_recipe
from dyncompress.types import Choice, Keep, Option
from tests import tiny

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def small_resnet() -> TorchModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return open_model(CifarResNet(1).eval(), {"x": X})


def line(seconds: float = 0.0, **choice: object) -> Option:
    return Option(Choice(**choice), bytes=0.0, macs=0.0, distortion=0.0, seconds=seconds)  # type: ignore[arg-type]


def test_a_narrowed_file_is_the_network_of_the_first_channels() -> None:
    model = small_resnet()
    content, places = model.to_onnx()
    cuts = {"layer2.0.conv1": Cut(rows=20), "layer2.0.conv2": Cut(columns=20 * 9)}
    session = onnxruntime.InferenceSession(cut_channels(content, places, cuts), providers=["CPUExecutionProvider"])
    wanted = model.edited([Keep("layer2.0.conv1", tuple(range(20)))]).predict({"x": X})[0]
    np.testing.assert_allclose(session.run(None, {"x": X.numpy()})[0], wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_options_that_are_not_faster_are_left_out() -> None:
    table = {"channels:a": (line(), line(keep=12), line(keep=8), line(keep=4)), "a": (line(weight_bits=8),)}
    found = with_seconds(table, LatencyTable(2.0, 1.0, {"channels:a": (0.0, 0.1, -0.2, -0.1)}, 1))
    assert [(o.choice.keep, o.seconds) for o in found["channels:a"]] == [(None, 0.0), (8, -0.2)]
    assert found["a"] == table["a"]


@pytest.mark.slow
def test_every_structural_option_is_timed() -> None:
    model = small_resnet()
    table = {
        "channels:layer3.0.conv1": (line(), line(keep=32), line(keep=8)),
        "block:layer1.0": (line(), line(drop=True)),
        "layer1.0.conv1": (line(weight_bits=8),),
    }
    task = tiny.task_on(model, [{"x": X}], replace(load_recipe("fastest"), latency_batch=4))
    found = latency_table(task, table)
    assert found.original > 0 and found.whole > 0 and set(found.units) == set(table) - {"layer1.0.conv1"}
    assert {unit: len(seconds) for unit, seconds in found.units.items()} == {u: len(table[u]) for u in found.units}
    assert all(seconds[0] == 0.0 for seconds in found.units.values())
    assert found.units["block:layer1.0"][1] < 0  # two of seven convolutions, the largest


def test_a_budget_of_seconds_is_refused_without_measured_times() -> None:
    with pytest.raises(dc.InvalidRequest, match=r"budget.seconds needs times measured on the target.*set budget.macs"):
        dc.allocate(tiny.profile("narrow"), dc.Budget(seconds=0.5), recipe="narrow")
