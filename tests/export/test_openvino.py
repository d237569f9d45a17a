"""Files in OpenVINO: it computes what they say, and on integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dyncompress as dc
from tests import tiny
from tests.running import session_of

openvino = pytest.importorskip("openvino")
NEAR = 1e-3  # root mean square difference as a share of the outputs: where a value lies between two codes, either is right


def compiled(file: dc.OnnxFile) -> Any:
    """The file as OpenVINO compiles it for a processor; left to itself it rounds to bfloat16 on one that computes with it."""
    core = openvino.Core()
    return core.compile_model(core.read_model(file.body), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def outputs(model: Any, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.asarray(model(dict(inputs))[0])


def precisions(model: Any) -> Counter[str]:
    """How many products compute in which precision."""
    info = [node.get_rt_info() for node in model.get_runtime_model().get_ops()]
    kinds = [one for one in info if one["layerType"].astype(str) in ("Convolution", "FullyConnected")]
    return Counter(one["runtimePrecision"].astype(str) for one in kinds)


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)))


@pytest.mark.parametrize(
    ("target", "recipe", "kinds"),
    [
        ("openvino", "edge-int8", {"u8"}),
        ("onnxruntime-x86-avx2", "edge-int8", {"u8"}),
        ("onnxruntime-x86-avx2", "edge-int4", {"u8"}),  # narrow codes are unpacked when it loads the file
    ],
)
def test_the_same_file_computes_the_same_in_both_runtimes(target: str, recipe: str, kinds: set[str]) -> None:
    file = dc.compress(tiny.network(), recipe, target=target, calibration=tiny.CALIBRATION)
    model, x = compiled(file), tiny.HELD_OUT[0][:64]
    size = next(iter(file.inputs.values()))[0]
    x = x if isinstance(size, str) else x[:size]
    wanted = session_of(file.body).run(None, {"x": x})[0]
    assert difference(outputs(model, {"x": x}), np.asarray(wanted)) < NEAR
    found = precisions(model)
    assert found.keys() <= kinds and found.total() == len(tiny.LAYERS)


class Sentences(nn.Module):
    """An encoder of sentences of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.encoder(self.embedding(ids)).mean(1)


@pytest.mark.slow
def test_sentences_of_any_length() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Sentences().eval()
        calibration = [torch.randint(0, 100, (16, length)) for length in (8, 16, 24)]
        new = torch.randint(0, 100, (4, 19)).numpy()
    file = dc.compress(net, "edge-int8", target="openvino", calibration=calibration)
    assert len(file.content) < 0.35 * file.float_bytes
    found, wanted = outputs(compiled(file), {"ids": new}), session_of(file.body).run(None, {"ids": new})[0]
    assert difference(found, np.asarray(wanted)) < NEAR
