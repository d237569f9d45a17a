"""Operators that are converted to LiteRT, in float and on codes, and what can't be converted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dyncompress.deployment.conversion.litert import litert_file
from dyncompress.errors import Unsupported
from tests.deployment.faulty_files import conv, dq, dq_weight, grid, layer, model, q
from tests.export.litert_files import difference, outputs, parsed
from tests.running import session_of

pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert isn't installed")

Nodes = list[onnx.NodeProto]
Shape = list[int | str]
Arrays = dict[str, Any]
IMAGE: Shape = ["n", 4, 12, 10]
SIGNAL: Shape = ["n", 6, 20]
ROW: Shape = ["n", 16]


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def of(op: str, *reads: str, to: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node; `to` names its outputs."""
    return helper.make_node(op, reads, to.split(), **attributes)


def cast(source: str, to: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [to], to=kind)


def file_of(nodes: Nodes, shape: Shape, **arrays: Any) -> bytes:
    """A file from `x` to the values that no node reads; `index` is int64, all others are float32."""
    read = {name for node in nodes for name in node.input}
    ends = [name for node in nodes for name in node.output if name not in read]
    kinds = [TensorProto.INT64 if name == "index" else TensorProto.FLOAT for name in ends]
    results = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(ends, kinds, strict=True)]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)], results, tensors)
    made = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    return onnx.shape_inference.infer_shapes(made).SerializeToString()


TURNED = of("Transpose", "x", to="t", perm=[0, 3, 1, 2])
UNARY = ("Sigmoid", "HardSwish", "LeakyRelu", "Elu", "Softplus", "HardSigmoid", "Gelu", "Round", "Reciprocal")
PADS = np.array([0, 0, 1, 2, 0, 0, 2, 1])
OPERATORS: dict[str, tuple[Nodes, Shape, Arrays]] = {
    "strided": ([of("Conv", "x", "w", "b", strides=[2, 2], pads=[1] * 4)], IMAGE, {"w": draw(8, 4, 3, 3), "b": draw(8)}),
    "dilated": ([of("Conv", "x", "w", dilations=[2, 2], pads=[2] * 4)], IMAGE, {"w": draw(8, 4, 3, 3)}),
    "same lower": ([of("Conv", "x", "w", auto_pad="SAME_LOWER", strides=[2, 2])], IMAGE, {"w": draw(8, 4, 2, 3)}),
    "depthwise": ([of("Conv", "x", "w", group=4, pads=[0, 1, 1, 2])], IMAGE, {"w": draw(8, 1, 3, 3)}),
    "signal": ([of("Conv", "x", "w", "b", group=3, pads=[2, 1])], SIGNAL, {"w": draw(9, 2, 4), "b": draw(9)}),
    "gemm": ([of("Gemm", "x", "w", "b")], ROW, {"w": draw(16, 3), "b": draw(1, 3)}),
    "matrix": ([of("MatMul", "x", "w", to="m"), of("Add", "b", "m")], SIGNAL, {"w": draw(20, 3), "b": draw(3)}),
    "no matrix": ([of("MatMul", "x", "x")], ["n", 4, 5, 5], {}),
    "ceiling": ([of("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=1)], IMAGE, {}),
    "pooled signal": ([of("AveragePool", "x", kernel_shape=[4], strides=[4])], SIGNAL, {}),
    "padded mean": ([of("AveragePool", "x", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)], IMAGE, {}),
    "mean": ([of("AveragePool", "x", kernel_shape=[3, 3], pads=[1] * 4)], IMAGE, {}),
    "global": ([of("GlobalAveragePool", "x"), of("GlobalMaxPool", "x", to="z")], IMAGE, {}),
    "clip": ([of("Clip", "x", "l", "h")], ROW, {"l": np.float32(-0.5), "h": np.float32(0.7)}),
    "functions": ([of(op, "x", to=op) for op in UNARY], ROW, {}),
    "where": ([of("Greater", "x", "s", to="g"), of("Not", "g", to="l"), of("Where", "l", "x", "s")], IMAGE, {"s": draw(4, 1, 1)}),
    "softmax": ([of("Softmax", "x", axis=1), of("LogSoftmax", "x", to="z")], IMAGE, {}),
    "broadcast": ([of("Mul", "x", "s"), of("Sub", "r", "x", to="z")], IMAGE, {"s": draw(4, 1, 1), "r": draw(10)}),
    "transposed": ([TURNED, of("Add", "t", "t", to="u"), of("Concat", "u", "t", axis=2)], IMAGE, {}),
    "pad": ([of("Pad", "x", "p", "v"), of("Pad", "x", "p", to="z", mode="reflect")], IMAGE, {"p": PADS, "v": np.float32(1.5)}),
    "slice": ([of("Slice", "x", "s", "e", "d", "t")], IMAGE, {"s": [1, -7], "e": [99, -1], "d": [1, 3], "t": [1, 2]}),
    "split": ([of("Split", "x", to="u v", axis=1, num_outputs=2)], IMAGE, {}),
    "gather": ([of("Gather", "x", "i", axis=2)], IMAGE, {"i": [3, -1]}),
    "nearest": ([of("Resize", "x", "", "s", coordinate_transformation_mode="asymmetric", nearest_mode="floor")], IMAGE,
                {"s": np.array([1, 1, 2, 3], np.float32)}),
    "linear": ([of("Resize", "x", "", "s", mode="linear")], IMAGE, {"s": np.array([1, 1, 2, 2], np.float32)}),
    "blocks": ([of("DepthToSpace", "x", blocksize=2, mode=mode, to=mode) for mode in ("CRD", "DCR")], IMAGE, {}),
    "folded blocks": ([of("SpaceToDepth", "x", blocksize=2)], IMAGE, {}),
    "layer norm": ([of("LayerNormalization", "x", "s", "b")], IMAGE, {"s": draw(10), "b": draw(10)}),
    "instance norm": ([of("InstanceNormalization", "x", "s", "b")], IMAGE, {"s": draw(4), "b": draw(4)}),
    "batch norm": ([of("BatchNormalization", "x", "s", "b", "b", "v")], IMAGE, {"s": draw(4), "b": draw(4), "v": draw(4) ** 2}),
    "largest": ([of("ArgMax", "x", to="index", axis=1, keepdims=0)], IMAGE, {}),
    "reduced": ([of("ReduceSum", "x", "d", keepdims=0), of("ReduceMax", "x", "d", to="z")], IMAGE, {"d": [1, 3]}),
    "flat": ([of("Flatten", "x", to="f"), of("Unsqueeze", "f", "d")], IMAGE, {"d": [1]}),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_float_operators(name: str) -> None:
    nodes, shape, arrays = OPERATORS[name]
    content = file_of(nodes, shape, **arrays)
    x = draw(3, *[length for length in shape if isinstance(length, int)])
    assert difference(content, litert_file(content), {"x": x}) < 2e-6


def test_an_expanded_value() -> None:
    content = file_of([of("Expand", "x", "s")], [1, 4], s=[3, 2, 4])
    assert difference(content, litert_file(content), {"x": draw(1, 4)}) == 0


@pytest.mark.parametrize(("length", "stride", "pad", "more"), [(5, 2, 0, 0), (5, 2, 1, 1), (7, 2, 1, 0), (4, 3, 0, 2)])
def test_transposed_convolutions(length: int, stride: int, pad: int, more: int) -> None:
    node = of("ConvTranspose", "x", "w", "b", strides=[stride], pads=[pad, pad], output_padding=[more])
    content = file_of([node], [1, 6, length], w=draw(6, 4, 3), b=draw(4))
    assert difference(content, litert_file(content), {"x": draw(1, 6, length)}) < 2e-6


def around(between: Nodes, **arrays: Any) -> bytes:
    """A Conv on integers, nodes from its codes `c` to the codes `d`, and their values; 8 channels."""
    before = [
        q("x", "xq"),
        dq("xq", "xd"),
        dq_weight("c_w", "wd"),
        dq_weight("c_b", "bd"),
        conv("c", "xd", "wd", "bd"),
        q("c_o", "c"),
    ]
    nodes = [*before, *between, dq("d", "y", "o" if "o_s" in arrays else "a")]
    return model(nodes, {**grid(), **layer("c"), **arrays}).SerializeToString()


OTHER = {"o_s": np.float32(0.06), "o_z": np.uint8(100)}
CODE_PADS = np.array([0, 0, 1, 0, 0, 0, 1, 2])
BETWEEN: dict[str, tuple[Nodes, Arrays]] = {
    "moves codes": ([of("MaxPool", "c", to="d", kernel_shape=[2, 2], pads=[1] * 4)], {}),
    "pads with zeros": ([of("Pad", "c", "p", "f", to="d")], {"p": CODE_PADS, "f": np.uint8(3)}),
    "pads with another code": ([of("Pad", "c", "p", "f", to="d")], {"p": CODE_PADS, "f": np.uint8(90)}),
    "sums": ([dq("c", "s"), of("Add", "s", "xd", to="v"), of("Relu", "v", to="r"), q("r", "d", "o")], OTHER),
    "multiplies": ([dq("c", "s"), of("Mul", "s", "xd", to="v"), q("v", "d", "o")], OTHER),
    "joins": ([dq("c", "s"), of("Concat", "xd", "s", to="v", axis=1), q("v", "d", "o")], OTHER),
    "averages": ([dq("c", "s"), of("GlobalAveragePool", "s", to="v"), q("v", "d", "o")], OTHER),
    "requantizes": ([dq("c", "s"), of("Transpose", "s", to="v", perm=[0, 2, 3, 1]), q("v", "d", "o")], OTHER),
    "averages on its grid": ([dq("c", "s"), of("AveragePool", "s", to="v", kernel_shape=[2, 2]), q("v", "d")], {}),
    "cuts": ([dq("c", "s"), of("Split", "s", to="u v", axis=1, num_outputs=2), of("Relu", "u", to="r"), q("r", "d")], {}),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_operators_on_codes(name: str) -> None:
    nodes, arrays = BETWEEN[name]
    content, x = around(nodes, **arrays), draw(1, 8, 6, 6)
    converted = litert_file(content)
    wanted = np.asarray(session_of(content).run(None, {"x": x})[0])
    step = float(arrays.get("o_s", 0.05))
    assert np.abs(outputs(converted, {"x": x})["y"] - wanted).max() < 1.01 * step
    assert [op for op, kind in parsed(converted)[1] if kind == "FLOAT32"] == ["QUANTIZE"]


def test_outputs_keep_their_names_and_types() -> None:
    content = litert_file(file_of([of("Relu", "x", to="first"), of("ArgMax", "x", to="index", axis=1)], ["n", 4]))
    found = outputs(content, {"x": draw(2, 4)})
    assert {name: value.dtype for name, value in found.items()} == {"first": np.float32, "index": np.int64}


def with_zero_point(content: bytes) -> bytes:
    """The file with weights whose zero point is 1."""
    made = onnx.ModelProto.FromString(content)
    made.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.int8), "one"))
    next(node for node in made.graph.node if node.input[0] == "c_w").input.append("one")
    return made.SerializeToString()


def one(op: str, *reads: str, shape: Shape, arrays: Arrays | None = None, **attributes: Any) -> Callable[[], bytes]:
    return lambda: file_of([of(op, "x", *reads, **attributes)], shape, **(arrays or {}))


SAME_CODES = [of("Identity", "c", to="d")]
TWICE = {"s": np.array([1, 1, 2, 2], np.float32)}
FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "operator": (one("Det", shape=[1, 3, 3]), r"node 'y' \(Det\): this operator isn't translated to LiteRT; "),
    "free axis": (one("Relu", shape=[1, 3, "time"]), r"axis 2 \('time'\) of input 'x' takes any length"),
    "volume": (one("Conv", "w", shape=[1, 2, 4, 4, 4], arrays={"w": draw(2, 2, 3, 3, 3)}), "take signals and images, this input"),
    "weight": (lambda: with_zero_point(around(SAME_CODES)), "weight 'c_w' has a zero point or the code -128, and LiteRT"),
    "16 bits": (
        lambda: around(SAME_CODES, a_z=np.array(3, np.uint16)),
        "codes of type uint16 with 1 scales, and LiteRT takes 8 bits",
    ),
    "computed weight": (one("Conv", "x", shape=[3, 3, 3, 3]), "its weight is computed, and LiteRT wants a constant"),
    "computed bias": (one("Gemm", "w", "x", shape=[1, 4], arrays={"w": draw(4, 4)}), "its bias is computed, and LiteRT wants a"),
    "gemm": (one("Gemm", "w", shape=[1, 4], arrays={"w": draw(4, 3)}, alpha=2.0), "alpha, beta and transA other than 1, 1 and 0"),
    "flipped": (one("Slice", "s", "e", "d", "s", shape=[1, 4], arrays={"s": [-1], "e": [-9], "d": [1]}), "a negative step isn't"),
    "pooling": (one("MaxPool", shape=[1, 4, 9], kernel_shape=[2], dilations=[2]), "no pooling with dilations"),
    "edges": (one("AveragePool", shape=[1, 4, 8], kernel_shape=[3], strides=[2], pads=[1, 1]), "can't average windows"),
    "cubic": (one("Resize", "", "s", shape=[1, 1, 4, 4], arrays=TWICE, mode="cubic"), "mode 'cubic' with 'half_pixel' from"),
    "edge": (one("Pad", "p", shape=[1, 4], arrays={"p": [0, 1, 0, 1]}, mode="edge"), "mode 'edge' or a negative amount isn't"),
    "float64": (
        lambda: file_of([cast("x", "d", TensorProto.DOUBLE), cast("d", "y", TensorProto.FLOAT)], [1, 4]),
        "float32 into float64",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_translated_is_said_in_one_sentence(name: str) -> None:
    build, sentence = FAULTS[name]
    with pytest.raises(Unsupported, match=sentence) as caught:
        litert_file(build())
    assert "\n" not in str(caught.value)
