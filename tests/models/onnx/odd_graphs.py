"""Small ONNX graphs with the traits of files that people have: one builder a trait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None]


@dataclass(frozen=True)
class Odd:
    """A graph and what should become of it.

    Attributes:
        model: makes the graph.
        shapes: input -> shape of one example, without the batch axis.
        kept: whether all its weights are left alone, with a reason.
        refused: part of the sentence with which it is refused; empty where it is compressed.
    """

    model: Callable[[], ModelProto]
    shapes: dict[str, tuple[int, ...]]
    kept: bool = False
    refused: str = ""


class Made:
    """Collects the nodes and initializers of a graph; weights are random numbers from a fixed seed."""

    def __init__(self, seed: int = 0) -> None:
        self.draw = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []

    def weight(self, name: str, *shape: int, dtype: Any = np.float32) -> str:
        fan_in = max(1, int(np.prod(shape[1:])))
        return self.tensor(name, (self.draw.normal(size=shape) / np.sqrt(fan_in)).astype(dtype))

    def tensor(self, name: str, value: Any) -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], output: str | Sequence[str], **attributes: Any) -> str:
        outputs = [output] if isinstance(output, str) else list(output)
        self.nodes.append(helper.make_node(operator, list(inputs), outputs, name=f"n_{outputs[0]}", **attributes))
        return outputs[0]

    def graph(self, inputs: dict[str, Shape], outputs: dict[str, Shape], **options: Any) -> GraphProto:
        kinds = options.pop("kinds", {})
        values = [
            [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), s) for n, s in part.items()]
            for part in (inputs, outputs)
        ]
        return helper.make_graph(self.nodes, "g", *values, initializer=self.tensors, **options)

    def model(self, inputs: dict[str, Shape], outputs: dict[str, Shape], opset: int = 17, **options: Any) -> ModelProto:
        functions, domains = options.pop("functions", []), options.pop("domains", ())
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
        graph = self.graph(inputs, outputs, **options)
        return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=8 if opset < 21 else 10)


IMAGE = {"x": (3, 8, 8)}


def head(made: Made, value: str, width: int, classes: int = 5) -> str:
    """Global pooling and a linear layer on `[n, width, h, w]`."""
    made.node("GlobalAveragePool", [value], "pooled")
    made.node("Flatten", ["pooled"], "flat")
    return made.node(
        "Gemm", ["flat", made.weight("head.weight", classes, width), made.weight("head.bias", classes)], "y", transB=1
    )


def convolutional(opset: int = 17, **first: Any) -> ModelProto:
    """Two convolutions and a head."""
    made = Made()
    made.node("Conv", ["x", made.weight("a.weight", 16, 3, 3, 3), made.weight("a.bias", 16)], "a", pads=[1, 1, 1, 1], **first)
    made.node("Relu", ["a"], "b")
    made.node("Conv", ["b", made.weight("c.weight", 24, 16, 3, 3)], "c", pads=[1, 1, 1, 1])
    made.node("Relu", ["c"], "d")
    head(made, "d", 24)
    return made.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 5]}, opset)


def weights_as_constants() -> ModelProto:
    model = convolutional()
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    nodes = [*constants, *model.graph.node]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    return model


def weights_as_inputs() -> ModelProto:
    """Initializers that are listed as inputs too, as files before IR version 4 have them."""
    model = convolutional(9)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims)))
    return model


def narrow_behind_cast(kind: int) -> ModelProto:
    """Weights in a 16-bit type, each behind a Cast to float32."""
    model, casts = convolutional(), []
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(kind))
        narrow = helper.make_tensor(f"{tensor.name}_16", kind, tensor.dims, array.tobytes(), raw=True)
        casts.append(helper.make_node("Cast", [narrow.name], [tensor.name], to=TensorProto.FLOAT))
        tensor.CopyFrom(narrow)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def behind_transpose_and_reshape() -> ModelProto:
    made = Made()
    made.node("Transpose", [made.weight("w", 3, 3, 3, 16)], "t", perm=[3, 2, 0, 1])
    made.node("Identity", ["t"], "i")
    made.node("Conv", ["x", "i"], "a", pads=[1, 1, 1, 1])
    made.node("Relu", ["a"], "b")
    made.node("Reshape", [made.weight("v", 24, 144), made.tensor("form", np.array([24, 16, 3, 3]))], "r")
    made.node("Conv", ["b", "r"], "c", pads=[1, 1, 1, 1])
    head(made, "c", 24)
    return made.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 5]})


def behind_unsqueeze() -> ModelProto:
    """A one-dimensional convolution as tf2onnx writes it: in two dimensions, with an unsqueezed weight."""
    made = Made()
    made.node("Unsqueeze", ["x", made.tensor("two", np.array([2]))], "wide")
    made.node("Unsqueeze", [made.weight("w", 16, 4, 5), made.tensor("also", np.array([2]))], "kernel")
    made.node("Conv", ["wide", "kernel"], "a", pads=[0, 2, 0, 2])
    made.node("Squeeze", ["a", "two"], "b")
    made.node("Relu", ["b"], "c")
    made.node("Conv", ["c", made.weight("v", 16, 16, 3)], "d", pads=[1, 1])
    made.node("ReduceMean", ["d"], "e", axes=[2], keepdims=0)
    made.node("MatMul", ["e", made.weight("m", 16, 5)], "y")
    return made.model({"x": ["n", 4, 20]}, {"y": ["n", 5]})


def channels_last() -> ModelProto:
    """tf2onnx: Transpose pairs around every convolution."""
    made = Made()
    made.node("Transpose", ["x"], "t", perm=[0, 3, 1, 2])
    made.node("Conv", ["t", made.weight("a.weight", 16, 3, 3, 3)], "a", auto_pad="SAME_UPPER", strides=[2, 2])
    made.node("Transpose", ["a"], "b", perm=[0, 2, 3, 1])
    made.node("Add", ["b", made.weight("bias", 16)], "c")
    made.node("Relu", ["c"], "d")
    made.node("Transpose", ["d"], "e", perm=[0, 3, 1, 2])
    made.node("Conv", ["e", made.weight("f.weight", 24, 16, 3, 3)], "f", auto_pad="SAME_LOWER")
    made.node("Transpose", ["f"], "g", perm=[0, 2, 3, 1])
    made.node("ReduceMean", ["g"], "h", axes=[1, 2], keepdims=0)
    made.node("MatMul", ["h", made.weight("k", 24, 5)], "i")
    made.node("Add", ["i", made.weight("j", 5)], "y")
    return made.model({"x": ["n", 9, 9, 3]}, {"y": ["n", 5]}, 13)


def norm_far_from_its_convolution() -> ModelProto:
    made = Made()
    made.node("Conv", ["x", made.weight("a.weight", 16, 3, 3, 3)], "a", pads=[1, 1, 1, 1])
    made.node("Transpose", ["a"], "b", perm=[0, 1, 3, 2])
    names = [made.weight("gain", 16), made.weight("shift", 16), made.weight("mean", 16)]
    made.node("BatchNormalization", ["b", *names, made.tensor("var", np.linspace(0.5, 2, 16, dtype=np.float32))], "c")
    made.node("Relu", ["c"], "d")
    head(made, "d", 16)
    return made.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 5]})


def norm_before_its_convolution() -> ModelProto:
    made = Made()
    names = [made.weight("gain", 3), made.weight("shift", 3), made.weight("mean", 3)]
    made.node("BatchNormalization", ["x", *names, made.tensor("var", np.array([0.5, 1, 2], np.float32))], "b")
    made.node("Conv", ["b", made.weight("a.weight", 16, 3, 3, 3)], "a", pads=[1, 1, 1, 1])
    names = [made.weight(f"{name}2", 16) for name in ("gain", "shift", "mean")]
    made.node("BatchNormalization", ["a", *names, made.tensor("var2", np.linspace(0.5, 2, 16, dtype=np.float32))], "c")
    made.node("Relu", ["c"], "d")
    head(made, "d", 16)
    return made.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 5]}, 11)


def one_weight_for_two_nodes() -> ModelProto:
    made = Made()
    weight = made.weight("shared", 16, 16, 3, 3)
    made.node("Conv", ["x", made.weight("a.weight", 16, 3, 3, 3)], "a", pads=[1, 1, 1, 1])
    made.node("Relu", ["a"], "b")
    made.node("Conv", ["b", weight], "c", pads=[1, 1, 1, 1])
    made.node("Relu", ["c"], "d")
    made.node("Conv", ["d", weight], "e", pads=[1, 1, 1, 1])
    head(made, "e", 16)
    return made.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 5]})


def one_weight_both_ways() -> ModelProto:
    """A table of words that is the last layer too, transposed."""
    made = Made()
    table = made.weight("table", 30, 32)
    made.node("Gather", [table, "tokens"], "e")
    made.node("MatMul", ["e", made.weight("m", 32, 32)], "h")
    made.node("Relu", ["h"], "r")
    made.node("Transpose", [table], "t", perm=[1, 0])
    made.node("MatMul", ["r", "t"], "y")
    return made.model({"tokens": ["n", 6]}, {"y": ["n", 6, 30]}, kinds={"tokens": TensorProto.INT64})


def negative_indices() -> ModelProto:
    made = Made()
    made.node("Sub", ["tokens", made.tensor("half", np.array(15, np.int64))], "i")
    made.node("Gather", [made.weight("table", 30, 32), "i"], "e")
    made.node("ReduceMean", ["e"], "m", axes=[1], keepdims=0)
    made.node("MatMul", ["m", made.weight("w", 32, 5)], "y")
    return made.model({"tokens": ["n", 6]}, {"y": ["n", 5]}, kinds={"tokens": TensorProto.INT64})


def in_a_function() -> ModelProto:
    """The convolution lies in a local function of the file."""
    made = Made()
    nodes = [
        helper.make_node("Conv", ["v", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["o"]),
    ]
    function = helper.make_function("own", "Block", ["v", "w", "b"], ["o"], nodes, [helper.make_opsetid("", 17)])
    made.nodes.append(helper.make_node("Block", ["x", made.weight("w", 16, 3, 3, 3), made.weight("b", 16)], ["a"], domain="own"))
    head(made, "a", 16)
    return made.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 5]}, functions=[function], domains=["own"])


def branch(seed: int) -> GraphProto:
    """A branch of an If with a weight of its own, under the names that the other branch uses too."""
    made = Made(seed)
    made.node("Conv", ["x", made.weight("w", 16, 3, 3, 3)], "inner", pads=[1, 1, 1, 1])
    made.node("Relu", ["inner"], "out")
    return made.graph({}, {"out": [None, 16, 8, 8]})


def duplicate_names_in_branches() -> ModelProto:
    made = Made()
    made.node("ReduceMean", ["x"], "all", keepdims=0)
    made.node("Greater", ["all", made.tensor("limit", np.float32(-1e6))], "large")
    made.node("If", ["large"], "a", then_branch=branch(1), else_branch=branch(2))
    head(made, "a", 16)
    return made.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 5]})


def loop() -> ModelProto:
    """Three steps of a linear layer with a weight of the outer graph."""
    made, body = Made(), Made()
    body.node("MatMul", ["h", "w"], "m")
    body.node("Tanh", ["m"], "h_out")
    body.node("Identity", ["go"], "go_out")
    inner = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("h", TensorProto.FLOAT, ["n", 16]),
    ]
    outer = [
        helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
        helper.make_tensor_value_info("h_out", TensorProto.FLOAT, ["n", 16]),
    ]
    graph = helper.make_graph(body.nodes, "body", inner, outer)
    made.node("MatMul", ["x", made.weight("in", 8, 16)], "s")
    made.weight("w", 16, 16)
    made.node("Loop", [made.tensor("three", np.array(3)), made.tensor("yes", np.array(True)), "s"], "e", body=graph)
    made.node("MatMul", ["e", made.weight("last", 16, 5)], "y")
    return made.model({"x": ["n", 8]}, {"y": ["n", 5]})


def custom_domain() -> ModelProto:
    """An operator that onnxruntime has and ONNX doesn't."""
    made = Made()
    made.node("Conv", ["x", made.weight("a.weight", 16, 3, 3, 3)], "a", pads=[1, 1, 1, 1])
    made.nodes.append(helper.make_node("QuickGelu", ["a"], ["b"], domain="com.microsoft", alpha=1.7))
    made.node("Conv", ["b", made.weight("c.weight", 24, 16, 3, 3)], "c", pads=[1, 1, 1, 1])
    head(made, "c", 24)
    return made.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 5]}, domains=["com.microsoft"])


def unknown_domain() -> ModelProto:
    made = Made()
    made.node("Conv", ["x", made.weight("a.weight", 16, 3, 3, 3)], "a", pads=[1, 1, 1, 1])
    made.nodes.append(helper.make_node("Secret", ["a"], ["b"], domain="nobody.knows"))
    head(made, "b", 16)
    return made.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 5]}, domains=["nobody.knows"])


def concat_of_one() -> ModelProto:
    made = Made()
    made.node("Conv", ["x", made.weight("a.weight", 16, 3, 3, 3)], "a", pads=[1, 1, 1, 1])
    made.node("Concat", ["a"], "b", axis=1)
    made.node("Relu", ["b"], "c")
    head(made, "c", 16)
    return made.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 5]})


def dangling_shapes() -> ModelProto:
    """Shapes of values that don't exist."""
    model = convolutional()
    model.graph.value_info.append(helper.make_tensor_value_info("gone", TensorProto.FLOAT, ["n", 7]))
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 16, None, None]))
    return model


def unused_weights() -> ModelProto:
    model = convolutional()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((50, 50), np.float32), "unused"))
    return model


def one_dimension() -> ModelProto:
    made = Made()
    made.node("Conv", ["x", made.weight("a.weight", 16, 4, 5), made.weight("a.bias", 16)], "a", pads=[4, 4], dilations=[2])
    made.node("Relu", ["a"], "b")
    made.node("Conv", ["b", made.weight("c.weight", 16, 1, 3)], "c", group=16, pads=[2, 0])
    made.node("ReduceMean", ["c"], "e", axes=[2], keepdims=0)
    made.node("MatMul", ["e", made.weight("m", 16, 5)], "y")
    return made.model({"x": ["n", 4, 20]}, {"y": ["n", 5]})


def three_dimensions() -> ModelProto:
    made = Made()
    made.node("Conv", ["x", made.weight("a.weight", 8, 2, 3, 3, 3)], "a", pads=[1] * 6)
    made.node("Relu", ["a"], "b")
    made.node("MaxPool", ["b"], "c", kernel_shape=[2, 2, 2], strides=[2, 2, 2])
    made.node("Conv", ["c", made.weight("d.weight", 16, 8, 3, 3, 3)], "d", pads=[1] * 6)
    made.node("ReduceMean", ["d"], "e", axes=[2, 3, 4], keepdims=0)
    made.node("MatMul", ["e", made.weight("m", 16, 5)], "y")
    return made.model({"x": ["n", 2, 4, 4, 4]}, {"y": ["n", 5]})


def grouped_and_dilated() -> ModelProto:
    made = Made()
    made.node("Conv", ["x", made.weight("a.weight", 16, 3, 3, 3)], "a", pads=[1, 1, 1, 1])
    made.node("Relu", ["a"], "b")
    made.node("Conv", ["b", made.weight("c.weight", 16, 4, 3, 3)], "c", group=4, dilations=[2, 2], pads=[2, 2, 2, 2])
    made.node("Relu", ["c"], "d")
    made.node("Conv", ["d", made.weight("e.weight", 16, 1, 3, 3)], "e", group=16, pads=[1, 1, 1, 1])
    head(made, "e", 16)
    return made.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 5]})


def transposed_convolution() -> ModelProto:
    made = Made()
    made.node("Conv", ["x", made.weight("a.weight", 16, 3, 3, 3)], "a", pads=[1, 1, 1, 1], strides=[2, 2])
    made.node("Relu", ["a"], "b")
    options = {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}
    made.node("ConvTranspose", ["b", made.weight("c.weight", 16, 8, 3, 3), made.weight("c.bias", 8)], "c", **options)
    made.node("Relu", ["c"], "d")
    made.node("Conv", ["d", made.weight("e.weight", 2, 8, 1, 1)], "y")
    return made.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 2, 8, 8]})


def asymmetric_pads() -> ModelProto:
    made = Made()
    made.node("Conv", ["x", made.weight("a.weight", 16, 3, 3, 3)], "a", pads=[0, 1, 2, 0], strides=[2, 1])
    made.node("Relu", ["a"], "b")
    made.node("Pad", ["b", made.tensor("pads", np.array([0, 0, 1, 2, 0, 0, 2, 1]))], "c", mode="reflect")
    made.node("Conv", ["c", made.weight("d.weight", 16, 16, 3, 3)], "d")
    head(made, "d", 16)
    return made.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 5]})


def gemm_forms() -> ModelProto:
    """Gemm with its weight as it is, transposed, scaled, with a scalar bias and without one."""
    made = Made()
    made.node("Gemm", ["x", made.weight("a", 12, 32), made.weight("ab", 32)], "a1")
    made.node("Relu", ["a1"], "a2")
    made.node("Gemm", ["a2", made.weight("b", 32, 32)], "b1", transB=1)
    made.node("Relu", ["b1"], "b2")
    made.node("Gemm", ["b2", made.weight("c", 32, 32), made.weight("cb", 1, 32)], "c1", alpha=0.5, beta=2.0)
    made.node("Relu", ["c1"], "c2")
    made.node("Gemm", ["c2", made.weight("d", 32, 5), made.weight("db", 1)], "y")
    return made.model({"x": ["n", 12]}, {"y": ["n", 5]})


def weight_first() -> ModelProto:
    """A product with the weight on the left."""
    made = Made()
    made.node("MatMul", [made.weight("w", 16, 8), "x"], "a")
    made.node("Relu", ["a"], "b")
    made.node("ReduceMean", ["b"], "c", axes=[2], keepdims=0)
    made.node("MatMul", ["c", made.weight("v", 16, 5)], "y")
    return made.model({"x": ["n", 8, 6]}, {"y": ["n", 5]})


def stacked_weights() -> ModelProto:
    """One matrix for each head, multiplied at once."""
    made = Made()
    made.node("Unsqueeze", ["x", made.tensor("one", np.array([1]))], "u")
    made.node("MatMul", ["u", made.weight("w", 4, 16, 8)], "a")
    made.node("ReduceMean", ["a"], "b", axes=[1, 2], keepdims=0)
    made.node("MatMul", ["b", made.weight("v", 8, 5)], "y")
    return made.model({"x": ["n", 6, 16]}, {"y": ["n", 5]})


def fixed_batch() -> ModelProto:
    model = convolutional()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return model


def no_shapes() -> ModelProto:
    """Inputs and outputs without shapes."""
    model = convolutional()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    return model


def two_inputs_and_outputs() -> ModelProto:
    made = Made()
    made.node("Conv", ["x", made.weight("a.weight", 16, 3, 3, 3)], "a", pads=[1, 1, 1, 1])
    made.node("GlobalAveragePool", ["a"], "p")
    made.node("Flatten", ["p"], "f")
    made.node("MatMul", ["z", made.weight("b", 7, 16)], "g")
    made.node("Concat", ["f", "g"], "h", axis=1)
    made.node("MatMul", ["h", made.weight("c", 32, 5)], "y")
    made.node("ArgMax", ["y"], "best", axis=1, keepdims=0)
    inputs = {"x": ["n", 3, 8, 8], "z": ["n", 7]}
    return made.model(inputs, {"y": ["n", 5], "best": ["n"]}, kinds={"best": TensorProto.INT64})


def zero_size() -> ModelProto:
    """A part with no elements, as a split of length zero leaves it."""
    made = Made()
    made.node("Slice", ["x", *(made.tensor(n, np.array([v])) for n, v in (("from", 0), ("to", 0), ("axis", 1)))], "none")
    made.node("Concat", ["x", "none"], "whole", axis=1)
    made.node("MatMul", ["whole", made.weight("w", 12, 32)], "a")
    made.node("Relu", ["a"], "b")
    made.node("MatMul", ["b", made.weight("v", 32, 5)], "y")
    return made.model({"x": ["n", 12]}, {"y": ["n", 5]})


def shapes_at_run_time() -> ModelProto:
    """Shape, Gather, Concat and Reshape, as exporters write a view."""
    made = Made()
    made.node("Conv", ["x", made.weight("a.weight", 16, 3, 3, 3)], "a", pads=[1, 1, 1, 1])
    made.node("Shape", ["a"], "s")
    made.node("Gather", ["s", made.tensor("zero", np.array(0))], "n0", axis=0)
    made.node("Unsqueeze", ["n0", made.tensor("first", np.array([0]))], "n1")
    made.node("Concat", ["n1", made.tensor("rest", np.array([-1]))], "form", axis=0)
    made.node("Reshape", ["a", "form"], "r")
    made.node("MatMul", ["r", made.weight("m", 1024, 5)], "y")
    return made.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 5]})


def recurrent(
    operator: str = "LSTM", gates: int = 4, ways: int = 1, outputs: Sequence[str] = ("", "last"), **options: Any
) -> ModelProto:
    """A recurrent layer over time, whose last states or whole sequence are read."""
    made = Made()
    made.node("Transpose", ["x"], "t", perm=[1, 0, 2])
    shapes = {"W": (ways, gates * 16, 8), "R": (ways, gates * 16, 16), "B": (ways, gates * 32)}
    inputs = ["t", *(made.tensor(name, made.draw.normal(size=s).astype(np.float32) / 4) for name, s in shapes.items())]
    if ways == 2:
        options["direction"] = "bidirectional"
    made.nodes.append(helper.make_node(operator, inputs, outputs, hidden_size=16, name="cell", **options))
    axes = [0, 1] if outputs[0] else [0]
    made.node("ReduceMean", [next(name for name in outputs if name)], "h", axes=axes, keepdims=0)
    made.node("MatMul", ["h", made.weight("m", 16, 5)], "y")
    return made.model({"x": ["n", 6, 8]}, {"y": ["n", 5]})


def weight_that_another_node_reads() -> ModelProto:
    """A layer's weight is also multiplied element by element, where no layer holds it."""
    made = Made()
    weight = made.weight("w", 16, 16)
    made.node("MatMul", ["x", weight], "a")
    made.node("Relu", ["a"], "b")
    made.node("Unsqueeze", ["b", made.tensor("one", np.array([1]))], "c")
    made.node("Mul", ["c", weight], "d")
    made.node("ReduceSum", ["d", "one"], "e", keepdims=0)
    made.node("MatMul", ["e", made.weight("last", 16, 5)], "y")
    return made.model({"x": ["n", 16]}, {"y": ["n", 5]})


def initializer_as_output() -> ModelProto:
    """A table that is an output as it is."""
    model = convolutional()
    model.graph.initializer.append(numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "table"))
    model.graph.output.append(helper.make_tensor_value_info("table", TensorProto.FLOAT, [2, 3]))
    return model


def no_weights() -> ModelProto:
    made = Made()
    made.node("Relu", ["x"], "a")
    made.node("Softmax", ["a"], "y", axis=1)
    return made.model({"x": ["n", 5]}, {"y": ["n", 5]})


def quantized_already() -> ModelProto:
    """The weight is an integer and a DequantizeLinear."""
    made = Made()
    codes = made.tensor("codes", made.draw.integers(-127, 127, (12, 32)).astype(np.int8))
    made.node("DequantizeLinear", [codes, made.tensor("scale", np.float32(0.01))], "w")
    made.node("MatMul", ["x", "w"], "a")
    made.node("Relu", ["a"], "b")
    made.node("MatMul", ["b", made.weight("v", 32, 5)], "y")
    return made.model({"x": ["n", 12]}, {"y": ["n", 5]})


def double() -> ModelProto:
    """Everything in float64."""
    model = convolutional()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return model


def sequences() -> ModelProto:
    made = Made()
    made.node("MatMul", ["x", made.weight("w", 12, 32)], "a")
    made.node("SplitToSequence", ["a", made.tensor("half", np.array(16))], "parts", axis=1)
    made.node("ConcatFromSequence", ["parts"], "b", axis=1)
    made.node("MatMul", ["b", made.weight("v", 32, 5)], "y")
    return made.model({"x": ["n", 12]}, {"y": ["n", 5]})


def scan() -> ModelProto:
    """A Scan over positions with a weight of the outer graph."""
    made, body = Made(), Made()
    body.node("MatMul", ["v", "w"], "m")
    body.node("Add", ["m", "h"], "h_out")
    body.node("Identity", ["h_out"], "o")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in ("h", "h_out", "o")]
    inner = [values[0], helper.make_tensor_value_info("v", TensorProto.FLOAT, ["n", 8])]
    graph = helper.make_graph(body.nodes, "body", inner, values[1:])
    made.weight("w", 8, 16)
    made.node("Transpose", ["x"], "t", perm=[1, 0, 2])
    made.node("Shape", ["x"], "s", end=1)
    made.node("Concat", ["s", made.tensor("width", np.array([16]))], "form", axis=0)
    made.node("ConstantOfShape", ["form"], "zero")
    made.nodes.append(helper.make_node("Scan", ["zero", "t"], ["last", "all"], num_scan_inputs=1, body=graph))
    made.node("MatMul", ["last", made.weight("v2", 16, 5)], "y")
    return made.model({"x": ["n", 6, 8]}, {"y": ["n", 5]})


def strings_in_metadata() -> ModelProto:
    model = convolutional()
    entry = model.metadata_props.add()
    entry.key, entry.value = "alphabet", "abc"
    return model


def names_with_dots_and_slashes() -> ModelProto:
    model = convolutional()
    for number, node in enumerate(model.graph.node):
        node.name = f"model/block.{number}/training/{node.op_type}:0"
    for tensor in model.graph.initializer:
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                if name == tensor.name:
                    node.input[index] = f"{tensor.name}..x:0"
        tensor.name = f"{tensor.name}..x:0"
    return model


def resized() -> ModelProto:
    made = Made()
    made.node("Conv", ["x", made.weight("a.weight", 16, 3, 3, 3)], "a", pads=[1, 1, 1, 1], strides=[2, 2])
    made.node("Resize", ["a", "", made.tensor("scales", np.array([1, 1, 2, 2], np.float32))], "b", mode="nearest")
    made.node("Conv", ["b", made.weight("c.weight", 2, 16, 3, 3)], "y", pads=[1, 1, 1, 1])
    return made.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 2, 8, 8]})


def upsampled() -> ModelProto:
    """Upsample of opset 9, which later operator sets don't have."""
    made = Made()
    made.node("Conv", ["x", made.weight("a.weight", 16, 3, 3, 3)], "a", pads=[1, 1, 1, 1], strides=[2, 2])
    made.node("Upsample", ["a", made.tensor("scales", np.array([1, 1, 2, 2], np.float32))], "b", mode="nearest")
    made.node("Conv", ["b", made.weight("c.weight", 2, 16, 3, 3)], "y", pads=[1, 1, 1, 1])
    return made.model({"x": ["n", 3, 8, 8]}, {"y": ["n", 2, 8, 8]}, 9)


def removed_attribute(model: ModelProto, operator: str, name: str) -> ModelProto:
    """The model without an attribute of an operator that may be inferred."""
    for node in model.graph.node:
        if node.op_type == operator:
            kept = [AttributeProto.FromString(a.SerializeToString()) for a in node.attribute if a.name != name]
            del node.attribute[:]
            node.attribute.extend(kept)
    return model


SEQUENCE = {"x": (6, 8)}
GRAPHS = {
    "ordinary": Odd(convolutional, IMAGE),
    "opset 7": Odd(lambda: convolutional(7), IMAGE),
    "opset 11": Odd(lambda: convolutional(11), IMAGE),
    "opset 20": Odd(lambda: convolutional(20), IMAGE),
    "opset 23": Odd(lambda: convolutional(23), IMAGE),
    "weights as Constant nodes": Odd(weights_as_constants, IMAGE),
    "weights listed as inputs": Odd(weights_as_inputs, IMAGE),
    "float16 weights behind Cast": Odd(lambda: narrow_behind_cast(TensorProto.FLOAT16), IMAGE),
    "bfloat16 weights behind Cast": Odd(lambda: narrow_behind_cast(TensorProto.BFLOAT16), IMAGE),
    "weights behind Transpose, Identity and Reshape": Odd(behind_transpose_and_reshape, IMAGE),
    "weights behind Unsqueeze": Odd(behind_unsqueeze, {"x": (4, 20)}),
    "channels last": Odd(channels_last, {"x": (9, 9, 3)}),
    "BatchNorm far from its Conv": Odd(norm_far_from_its_convolution, IMAGE),
    "BatchNorm before its Conv": Odd(norm_before_its_convolution, IMAGE),
    "one weight for two nodes": Odd(one_weight_for_two_nodes, IMAGE),
    "one table both ways": Odd(one_weight_both_ways, {"tokens": (6,)}),
    "a weight that another node reads": Odd(weight_that_another_node_reads, {"x": (16,)}),
    "negative indices": Odd(negative_indices, {"tokens": (6,)}),
    "a local function": Odd(in_a_function, IMAGE),
    "If with duplicate names": Odd(duplicate_names_in_branches, IMAGE),
    "Loop": Odd(loop, {"x": (8,)}),
    "Scan": Odd(scan, SEQUENCE),
    "sequences": Odd(sequences, {"x": (12,)}),
    "custom domain": Odd(custom_domain, IMAGE),
    "unknown domain": Odd(unknown_domain, IMAGE, refused="onnxruntime"),
    "Concat of one input": Odd(concat_of_one, IMAGE),
    "dangling value_info": Odd(dangling_shapes, IMAGE),
    "unused weights": Odd(unused_weights, IMAGE),
    "one dimension, dilated, depthwise": Odd(one_dimension, {"x": (4, 20)}),
    "three dimensions": Odd(three_dimensions, {"x": (2, 4, 4, 4)}),
    "grouped and dilated": Odd(grouped_and_dilated, IMAGE),
    "ConvTranspose": Odd(transposed_convolution, IMAGE),
    "asymmetric pads": Odd(asymmetric_pads, IMAGE),
    "forms of Gemm": Odd(gemm_forms, {"x": (12,)}),
    "weight on the left": Odd(weight_first, {"x": (8, 6)}),
    "stacked weights": Odd(stacked_weights, {"x": (6, 16)}),
    "fixed batch": Odd(fixed_batch, IMAGE),
    "no shapes": Odd(no_shapes, IMAGE),
    "two inputs, two outputs": Odd(two_inputs_and_outputs, {"x": (3, 8, 8), "z": (7,)}),
    "zero size": Odd(zero_size, {"x": (12,)}),
    "shapes at run time": Odd(shapes_at_run_time, IMAGE),
    "LSTM": Odd(recurrent, SEQUENCE),
    "LSTM, both directions": Odd(lambda: recurrent(ways=2, outputs=("all",)), SEQUENCE),
    "GRU": Odd(lambda: recurrent("GRU", 3, linear_before_reset=1), SEQUENCE),
    "GRU that torch's differs from": Odd(lambda: recurrent("GRU", 3), SEQUENCE),
    "RNN": Odd(lambda: recurrent("RNN", 1, ways=2), SEQUENCE),
    "an initializer as output": Odd(initializer_as_output, IMAGE, refused="outputs"),
    "no weights": Odd(no_weights, {"x": (5,)}),
    "quantized already": Odd(quantized_already, {"x": (12,)}),
    "float64, which onnxruntime's Conv doesn't take": Odd(double, IMAGE, refused="onnxruntime"),
    "metadata": Odd(strings_in_metadata, IMAGE),
    "odd names": Odd(names_with_dots_and_slashes, IMAGE),
    "Resize": Odd(resized, IMAGE),
    "Upsample of opset 9": Odd(upsampled, IMAGE),
}
