"""Graphs are simplified exactly where the result is the same, and computes the same in onnxruntime."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from dyncompress.models.onnx.reading import in_one_form
from dyncompress.models.onnx.simplifying import simplified

RNG = np.random.default_rng(0)
NODE = helper.make_node


def random(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def model(
    nodes: list[NodeProto],
    constants: dict[str, object],
    shape: tuple[int, ...] = (2, 4, 6, 6),
    opset: int = 17,
    outputs: str = "y",
) -> ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape[1:]])
    ys = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs.split()]
    made = helper.make_model(helper.make_graph(nodes, "g", [x], ys, tensors), opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return made


def run(made: ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, {"x": x})]


def operators(made: ModelProto, shape: tuple[int, ...] = (2, 4, 6, 6)) -> dict[str, int]:
    """The operators after simplification; the outputs must be those of the graph as it was, which stays unchanged."""
    graph = in_one_form(made)
    before = graph.proto.SerializeToString()
    after = simplified(graph)
    assert graph.proto.SerializeToString() == before
    x = 3 * random(*shape)
    for own, wanted in zip(run(after.proto, x), run(made, x), strict=True):
        np.testing.assert_allclose(own, wanted, rtol=2e-5, atol=2e-5)
    return dict(Counter(node.op_type for node in after.proto.graph.node))


ADD, CLIP = NODE("Add", ["x", "three"], ["a"]), NODE("Clip", ["a", "zero", "six"], ["b"])
SIX = {"three": 3.0, "zero": 0.0, "six": 6.0, "sixth": 1 / 6}


@pytest.mark.parametrize(
    "tail",
    [
        [NODE("Mul", ["x", "b"], ["c"]), NODE("Div", ["c", "six"], ["y"])],
        [NODE("Mul", ["b", "x"], ["c"]), NODE("Mul", ["sixth", "c"], ["y"])],
        [NODE("Div", ["b", "six"], ["c"]), NODE("Mul", ["x", "c"], ["y"])],
        [NODE("Mul", ["b", "sixth"], ["c"]), NODE("Mul", ["c", "x"], ["y"])],
    ],
)
def test_a_hard_swish_in_four_nodes_becomes_two(tail):
    assert operators(model([ADD, CLIP, *tail], SIX)) == {"HardSigmoid": 1, "Mul": 1}


def test_a_hard_sigmoid_whose_limits_are_attributes():
    nodes = [ADD, NODE("Clip", ["a"], ["b"], min=0.0, max=6.0), NODE("Div", ["b", "six"], ["y"])]
    assert operators(model(nodes, SIX, opset=10)) == {"HardSigmoid": 1}


@pytest.mark.parametrize(
    "nodes",
    [
        [ADD, CLIP, NODE("Div", ["b", "three"], ["y"])],  # its slope isn't one over the limit
        [ADD, NODE("Clip", ["a", "three", "six"], ["b"]), NODE("Div", ["b", "six"], ["y"])],  # it doesn't start at zero
        [ADD, CLIP, NODE("Div", ["b", "six"], ["c"]), NODE("Add", ["c", "b"], ["y"])],  # the clipped value is read twice
        [ADD, CLIP, NODE("Div", ["b", "six"], ["c"]), NODE("Add", ["c", "a"], ["y"])],  # the shifted value is read twice
    ],
)
def test_what_only_looks_like_a_hard_sigmoid_stays(nodes):
    assert operators(model(nodes, SIX)) == dict(Counter(node.op_type for node in nodes))


CONV = NODE("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1])
WITH_BIAS = NODE("Conv", ["x", "w", "bias"], ["a"], pads=[1, 1, 1, 1])


@pytest.mark.parametrize(
    "nodes",
    [
        [CONV, NODE("Mul", ["scalar", "a"], ["b"]), NODE("Add", ["b", "one"], ["y"])],
        [WITH_BIAS, NODE("Mul", ["a", "channel"], ["b"]), NODE("Sub", ["b", "channel"], ["y"])],
        [WITH_BIAS, NODE("Div", ["a", "channel"], ["y"])],
        [CONV, NODE("Add", ["a", "channel"], ["b"]), NODE("Mul", ["b", "flat"], ["y"])],
    ],
)
def test_factors_and_terms_move_into_the_layer_before_them(nodes):
    constants = {"w": random(5, 4, 3, 3), "bias": random(5), "scalar": 1.7, "one": [0.4]}
    constants |= {"channel": random(1, 5, 1, 1), "flat": random(5, 1, 1)}
    assert operators(model(nodes, constants)) == {"Conv": 1}


@pytest.mark.parametrize(
    ("layer", "weight", "shape"),
    [
        (NODE("ConvTranspose", ["x", "w"], ["a"]), (4, 5, 2, 2), (2, 4, 6, 6)),
        (NODE("Conv", ["x", "w"], ["a"], group=2), (6, 2, 1, 1), (2, 4, 6, 6)),
        (NODE("Gemm", ["x", "w"], ["a"], transB=1), (5, 4), (2, 4)),
        (NODE("Gemm", ["x", "w"], ["a"]), (4, 5), (2, 4)),
    ],
)
def test_every_layer_takes_the_factors_behind_it(layer, weight, shape):
    constants = {"w": random(*weight), "s": 0.3, "t": -2.0}
    nodes = [layer, NODE("Mul", ["a", "s"], ["b"]), NODE("Sub", ["b", "t"], ["y"])]
    assert operators(model(nodes, constants, shape), shape) == {layer.op_type: 1}


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([CONV, NODE("Mul", ["a", "row"], ["y"])], "y"),  # the factor belongs to positions
        ([CONV, NODE("Mul", ["a", "channel"], ["y"])], "y a"),  # the product is an output itself
        ([CONV, NODE("Mul", ["a", "channel"], ["b"]), NODE("Add", ["b", "a"], ["y"])], "y"),  # it is read twice
        ([CONV, NODE("Conv", ["x", "w"], ["c"]), NODE("Mul", ["a", "channel"], ["y"])], "y c"),  # the weight is read twice
        ([NODE("Conv", ["x", "w", "computed"], ["a"]), NODE("Mul", ["a", "channel"], ["y"])], "y"),  # its bias is computed
        ([NODE("Gemm", ["x", "v"], ["a"], alpha=0.5), NODE("Mul", ["a", "scalar"], ["y"])], "y"),
        ([CONV, NODE("Mul", ["a", "wide"], ["y"])], "y"),  # the factor has more axes
    ],
)
def test_factors_that_the_layer_cannot_take_stay(nodes, outputs):
    gemm = nodes[0].op_type == "Gemm"
    shape = (5, 4) if gemm else (2, 4, 6, 6)
    constants = {"w": random(5, 4, 3, 3), "v": random(4, 5), "row": random(1, 1, 6, 1), "channel": random(1, 5, 1, 1)}
    constants |= {"scalar": 2.0, "wide": random(2, 1, 5, 1, 1)}
    first = [NODE("ReduceMax", ["x"], ["m"], axes=[0, 2, 3], keepdims=0), NODE("Slice", ["m", "from", "to"], ["n"])]
    first += [NODE("Concat", ["n", "m"], ["computed"], axis=0)]
    used = any("computed" in node.input for node in nodes)
    made = model([*first, *nodes] if used else nodes, constants, shape, outputs=outputs)
    if used:
        for name, value in (("from", 0), ("to", 1)):
            made.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    assert operators(made, shape) == dict(Counter(node.op_type for node in made.graph.node))


def test_factors_and_terms_move_into_the_convolutions_behind_them():
    constants = {"w": random(5, 4, 1, 1), "v": random(4, 1, 1, 1), "s": [0.7], "t": random(4, 1, 1)}
    nodes = [
        *(NODE("Relu", ["x"], ["r"]), NODE("Mul", ["r", "s"], ["a"]), NODE("Add", ["a", "t"], ["b"])),
        *(NODE("Conv", ["b", "w"], ["y"]), NODE("Conv", ["b", "v"], ["z"], group=4)),
    ]
    assert operators(model(nodes, constants, outputs="y z")) == {"Relu": 1, "Conv": 2}


def test_a_term_in_front_of_padding_stays_and_the_factor_moves_past_it():
    constants = {"w": random(4, 1, 3, 3), "s": [0.7], "t": [0.2]}
    nodes = [
        *(NODE("Relu", ["x"], ["r"]), NODE("Mul", ["r", "s"], ["a"]), NODE("Add", ["t", "a"], ["b"])),
        NODE("Conv", ["b", "w"], ["y"], group=4, pads=[1, 1, 1, 1]),
    ]
    assert operators(model(nodes, constants)) == {"Relu": 1, "Add": 1, "Conv": 1}


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([NODE("Mul", ["x", "zero"], ["a"]), NODE("Add", ["a", "t"], ["b"]), NODE("Conv", ["b", "w"], ["y"])], "y b"),
        ([NODE("Mul", ["x", "s"], ["a"]), NODE("Conv", ["a", "w"], ["y"]), NODE("Relu", ["a"], ["z"])], "y z"),
        ([NODE("Add", ["x", "t"], ["a"]), NODE("Conv", ["a", "w"], ["y"], auto_pad="SAME_UPPER")], "y"),
    ],
)
def test_factors_and_terms_that_others_read_stay(nodes, outputs):
    constants = {"w": random(5, 4, 3, 3), "s": [0.7], "t": [0.2], "zero": [0.0]}
    assert operators(model(nodes, constants, outputs=outputs)) == dict(Counter(node.op_type for node in nodes))


def test_a_weight_that_a_branch_reads_too_stays():
    branch = helper.make_graph([NODE("Conv", ["x", "w"], ["inner"])], "b", [], [helper.make_tensor_value_info("inner", 1, None)])
    nodes = [
        NODE("Conv", ["x", "w"], ["a"]),
        NODE("Mul", ["a", "s"], ["m"]),
        NODE("ReduceSum", ["x"], ["sum"], keepdims=0),
        NODE("Greater", ["sum", "s0"], ["c"]),
        NODE("If", ["c"], ["z"], then_branch=branch, else_branch=branch),
        NODE("Add", ["m", "z"], ["y"]),
    ]
    found = operators(model(nodes, {"w": random(5, 4, 3, 3), "s": 0.5, "s0": 0.1}))
    assert found["Mul"] == 1
