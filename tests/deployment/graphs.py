"""Small float graphs that are built in code, and the encodings of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dyncompress.types import Encoding, Target

TARGET = Target("test", "", "runtime", weight_bits=(2, 3, 4, 5, 6, 7, 8))
FLOAT_TARGET = replace(TARGET, activation_dtype="float32", session={"session.disable_quant_qdq": "1"})


def graph(
    nodes: list[onnx.NodeProto],
    weights: Mapping[str, np.ndarray | np.generic],
    inputs: dict[str, list],
    outputs: dict[str, list],
    integers: tuple[str, ...] = (),
) -> bytes:
    """An opset-20 file; inputs named in `integers` are int64."""
    proto = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(k, TensorProto.INT64 if k in integers else TensorProto.FLOAT, v)
            for k, v in inputs.items()
        ],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def encode(weight: np.ndarray, bits: int = 8, group: int = 0) -> Encoding:
    """Nearest codes, one scale for each row (or each group of a row)."""
    top = 2 ** (bits - 1) - 1
    rows = weight.reshape(len(weight), -1, group) if group else weight.reshape(len(weight), 1, -1)
    scale = (np.abs(rows).max(axis=2) / top).astype(np.float32)
    scale[scale == 0] = 1
    codes = np.clip(np.rint(rows / scale[:, :, None]), -top, top).astype(np.int8).reshape(weight.shape)
    return Encoding(codes, scale if group else scale[:, 0], bits, group)


def values(encoding: Encoding) -> np.ndarray:
    """The weight that an encoding stands for, in float32."""
    codes = encoding.codes.reshape(len(encoding.codes), -1)
    scale = np.repeat(encoding.scale, encoding.group, axis=1) if encoding.group else encoding.scale.reshape(-1, 1)
    return (codes.astype(np.float32) * scale).reshape(encoding.codes.shape)


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal weights of unit output variance."""
    return (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def residual(channels: int = 8) -> tuple[bytes, dict[str, np.ndarray]]:
    """Stem, a basic block, an option-A block (subsampled, zero-padded shortcut), pooling and a classifier; its weights.

    Input `x` `[n, 3, 16, 16]`, output `y` `[n, 5]`.
    """
    c = channels
    weights = {
        "stem": weight(c, 3, 3, 3, seed=1),
        "a1": weight(c, c, 3, 3, seed=2),
        "a2": weight(c, c, 3, 3, seed=3),
        "b1": weight(2 * c, c, 3, 3, seed=4),
        "b2": weight(2 * c, 2 * c, 3, 3, seed=5),
        "head": weight(5, 2 * c, seed=6),
    }
    biases = {name + "_b": weight(len(w), 1, seed=9)[:, 0] / 4 for name, w in weights.items()}
    extra = {
        "zero": np.array([0]),
        "end": np.array([2**62]),
        "two": np.array([2]),
        "h": np.array([2]),
        "w": np.array([3]),
        "pads": np.array([0, c // 2, 0, 0, 0, c // 2, 0, 0]),
        "flat": np.array([-1, 2 * c]),
    }

    def conv(x: str, name: str, stride: int = 1) -> onnx.NodeProto:
        attributes: dict[str, Any] = {"pads": [1, 1, 1, 1], "strides": [stride, stride], "kernel_shape": [3, 3]}
        return helper.make_node("Conv", [x, name, name + "_b"], [name + "_o"], **attributes)

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [output], **attributes)

    nodes = [
        conv("x", "stem"),
        node("Relu", ["stem_o"], "r0"),
        conv("r0", "a1"),
        node("Relu", ["a1_o"], "r1"),
        conv("r1", "a2"),
        node("Add", ["a2_o", "r0"], "s0"),
        node("Relu", ["s0"], "r2"),
        conv("r2", "b1", 2),
        node("Relu", ["b1_o"], "r3"),
        conv("r3", "b2"),
        node("Slice", ["r2", "zero", "end", "h", "two"], "c0"),
        node("Slice", ["c0", "zero", "end", "w", "two"], "c1"),
        node("Pad", ["c1", "pads"], "c2", mode="constant"),
        node("Add", ["b2_o", "c2"], "s1"),
        node("Relu", ["s1"], "r4"),
        node("AveragePool", ["r4"], "p", kernel_shape=[8, 8], strides=[8, 8]),
        node("Reshape", ["p", "flat"], "f"),
        node("Gemm", ["f", "head", "head_b"], "y", transB=1),
    ]
    return graph(nodes, weights | biases | extra, {"x": ["n", 3, 16, 16]}, {"y": ["n", 5]}), weights


def images(n: int, *shape: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Normal inputs `x`."""
    return {"x": np.random.default_rng(seed).standard_normal((n, *(shape or (3, 16, 16)))).astype(np.float32)}


def error(output: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square difference, relative to the root mean square of the expected values."""
    return float(np.sqrt(np.mean((output - expected) ** 2) / np.mean(expected**2)))
