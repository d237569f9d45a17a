"""Files converted to LiteRT: its interpreter computes what onnxruntime computes, with the same codes, on integers."""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import dyncompress as dc
from dyncompress.deployment.conversion import convert, litert
from dyncompress.errors import Differs, InvalidRequest, Unsupported
from tests import tiny
from tests.export.litert_files import difference, parsed
from tests.running import session_of

pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert isn't installed")


class Keyword(nn.Module):
    """Convolutions over time, one of them depthwise, as for keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(10, 16, 5, stride=2, padding=2), nn.BatchNorm1d(16)
        self.depthwise, self.mix = nn.Conv1d(16, 16, 5, padding=2, groups=16), nn.Conv1d(16, 24, 1)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = nn.functional.max_pool1d(torch.relu(self.mix(self.depthwise(x))), 2)
        return self.head(x.mean(2))


class Branches(nn.Module):
    """What else networks of images have: grouped convolutions, joins, gates, pooling, resizing and cutting, a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped, self.branch = (
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.Conv2d(8, 8, 3, padding=1, groups=2),
            nn.Conv2d(8, 8, 1),
        )
        self.norm, self.gate, self.last = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 8, 3)
        self.head = nn.Linear(8 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu6(self.stem(x))
        x = torch.relu(self.norm(torch.cat([self.grouped(x), nn.functional.hardswish(self.branch(x))], 1)))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        x = nn.functional.interpolate(nn.functional.avg_pool2d(x, 2), scale_factor=2)
        return self.head(self.last(x)[:, :, :6, :6].flatten(1)).softmax(1)


class Tokens(nn.Module):
    """Linear layers on sequences of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(50, 16), nn.LayerNorm(16)
        self.inner, self.outer, self.mix = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(12, 16)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.embedding(ids))
        x = x + self.outer(torch.relu(self.inner(x)))
        return self.mix(x.transpose(1, 2)).amax(2)


def normal(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal(shape).astype(np.float32))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 4))


NETWORKS = {
    "images": (tiny.network, torch.from_numpy(tiny.CALIBRATION)),
    "keyword": (Keyword, normal(64, 10, 40)),
    "perceptron": (perceptron, normal(64, 24)),
    "branches": (Branches, normal(64, 3, 16, 16)),
    "tokens": (Tokens, torch.from_numpy(np.random.default_rng(1).integers(0, 50, (64, 12)))),
}


@cache
def compressed(name: str, target: str, recipe: str) -> tuple[dc.OnnxFile, dict[str, np.ndarray]]:
    """A network's file, and inputs for it."""
    build, x = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build().eval()
    file = dc.compress(network, recipe, target=target, calibration=x)
    return file, {session_of(file.body).get_inputs()[0].name: x[:8].numpy()}


def own(name: str) -> tuple[dc.OnnxFile, dict[str, np.ndarray]]:
    """The file of a network for the target `litert`, and inputs for it."""
    return compressed(name, "litert", "edge-int8")


@pytest.mark.parametrize(
    ("name", "target", "recipe"),
    [
        *[(name, "litert", "edge-int8") for name in NETWORKS],
        ("keyword", "openvino", "edge-int8"),  # unsigned activations are shifted
        ("images", "onnxruntime-arm64", "edge-int4"),  # narrow codes become whole bytes
        ("perceptron", "onnxruntime-x86-vnni", "edge-int4"),  # integer weights of float products
    ],
)
def test_both_runtimes_compute_the_same(name: str, target: str, recipe: str) -> None:
    file, inputs = compressed(name, target, recipe)
    content = litert.litert_file(file.content)
    assert difference(file.body, content, inputs) < 0.015
    single = {key: value[:1] for key, value in inputs.items()}
    assert difference(file.body, content, single) < 0.015


@pytest.mark.parametrize("kernels", ["BUILTIN_REF", "BUILTIN_WITHOUT_DEFAULT_DELEGATES"])
@pytest.mark.parametrize("name", NETWORKS)
def test_other_kernels_than_those_of_xnnpack_take_the_files(name: str, kernels: str) -> None:
    file, inputs = own(name)  # these kernels round twice where ONNX rounds once
    assert difference(file.body, litert.litert_file(file.content), inputs, kernels) < 0.03


@pytest.mark.parametrize(("name", "products"), [("images", 4), ("keyword", 3), ("perceptron", 1), ("branches", 5)])
def test_products_between_quantized_values_run_on_integers(name: str, products: int) -> None:
    _, operators = parsed(litert.litert_file(own(name)[0].content))
    kinds = [kind for op, kind in operators if op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")]
    others = {"perceptron": 2}.get(name, 1)  # the last layer's output is read as float, and what a Tanh reads
    assert (kinds.count("INT8"), kinds.count("FLOAT32")) == (products, others)


def test_convolutions_in_a_row_need_no_transposition_between() -> None:
    _, operators = parsed(litert.litert_file(own("images")[0].content))
    assert [op for op, _ in operators].count("TRANSPOSE") == 1  # of the input


def test_codes_and_scales_are_those_of_the_onnx_file() -> None:
    graph = onnx.ModelProto.FromString(own("images")[0].body).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    read, _ = parsed(litert.litert_file(own("images")[0].content))
    tensors = read.subgraphs[0].tensors
    found = 0
    for node in graph.node:
        weight = stored.get(node.input[0])
        if node.op_type == "DequantizeLinear" and weight is not None and weight.ndim == 4:
            data = weight.transpose(0, 2, 3, 1)
            (match,) = [t for t in tensors if np.array_equal(read.buffers[t.buffer].data, data.view(np.uint8).reshape(-1))]
            assert np.array_equal(match.quantization.scale, stored[node.input[1]]) and not match.quantization.zeroPoint.any()
            found += 1
    grids = {(float(stored[n.input[1]]), int(stored[n.input[2]])) for n in graph.node if n.op_type == "QuantizeLinear"}
    known = [t.quantization for t in tensors if t.quantization is not None and len(t.quantization.scale) == 1]
    assert found == 4 and grids <= {(float(grid.scale[0]), int(grid.zeroPoint[0])) for grid in known}


def test_operators_have_the_versions_that_older_runtimes_know() -> None:
    read, operators = parsed(litert.litert_file(own("tokens")[0].content))
    versions = {
        (op, kind, read.operatorCodes[o.opcodeIndex].version)
        for (op, kind), o in zip(operators, read.subgraphs[0].operators, strict=True)
    }
    expected = {("FULLY_CONNECTED", "INT8", 5), ("DEQUANTIZE", "INT8", 5), ("DEQUANTIZE", "INT8", 2), ("MEAN", "FLOAT32", 1)}
    assert expected <= versions  # of tensorflow/lite/tools/versioning/op_version.cc
    read, _ = parsed(litert.litert_file(own("keyword")[0].content))
    assert {code.version for code in read.operatorCodes if code.builtinCode in (3, 4)} == {3}  # both kinds of convolutions, int8


def test_the_file_is_deterministic_and_its_constants_aligned() -> None:
    content = litert.litert_file(own("keyword")[0].content)
    assert content == litert.litert_file(own("keyword")[0].content)
    read, _ = parsed(content)
    large = [bytes(buffer.data) for buffer in read.buffers if buffer.data is not None and len(buffer.data) > 64]
    assert len(large) > 3 and all(content.index(data) % 16 == 0 for data in large)


def test_a_conversion_says_how_far_outputs_differ() -> None:
    file, inputs = own("keyword")
    for given in (None, inputs):
        result = convert(file.content, "litert", given)
        assert list(result.files) == [litert.MODEL] and result.suffix == ".tflite"
        assert result.notes[0].startswith("LiteRT's outputs differ from the ONNX file's by 0.")


def test_a_conversion_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    file, inputs = own("keyword")
    wrong = litert.litert_file(compressed("keyword", "openvino", "edge-int8")[0].content)
    monkeypatch.setattr(litert, "LARGEST_DIFFERENCE", 1e-9)
    monkeypatch.setattr(litert, "litert_file", lambda _: wrong)
    with pytest.raises(Differs, match=r"LiteRT's outputs differ from the ONNX file's by .* of the largest one"):
        litert.convert(file.content, inputs)


def test_what_is_no_onnx_file_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="aren't an ONNX file"):
        litert.litert_file(b"TFL3")


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from dyncompress.deployment.conversion.litert import flatbuffer

    flatbuffer.schema.cache_clear()
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(Unsupported, match=r'pip install "dyncompress\[litert\]"'):
        litert.litert_file(own("perceptron")[0].content)
