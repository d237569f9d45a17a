"""If, Loop and Scan: what ONNX's own tests leave out, against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import ModelProto, parser

from dyncompress.models.onnx.interpreter import Interpreter
from tests.models.onnx.backend import compare, value
from tests.models.onnx.test_shapes import agrees, ints, numbers

BODY = """body = body (int64 step, bool going, float[2] a) => (bool next, float[2] b, float[2] seen)
    { next = Less(step, stop)  b = Add(a, x)  seen = Mul(a, x) }"""


def model_of(inputs: str, outputs: str, nodes: str, version: int = 13) -> ModelProto:
    return parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {version}]> graph ({inputs}) => ({outputs}) <int64 stop = {{2}}> {{ {nodes} }}'
    )


@pytest.mark.parametrize("version", [9, 13])
@pytest.mark.parametrize("condition", [True, False])
def test_if_reads_the_outer_graph(condition: bool, version: int) -> None:
    model = model_of(
        "bool c, float[2] x",
        "float[a] y",
        "z = Add(x, x)  y = If(c) <then_branch = one () => (float[2] u) { u = Mul(z, x) }, "
        "else_branch = other () => (float[2] v) { v = Identity(z) }>",
        version,
    )
    agrees(model, [np.array(condition), numbers(2)])


@pytest.mark.parametrize("version", [9, 11, 13])
@pytest.mark.parametrize("names", ["m, c, x", "m, , x", ", c, x"])
@pytest.mark.parametrize(("count", "condition"), [(2, True), (9, True), (5, False)])
def test_loop(names: str, count: int, condition: bool, version: int) -> None:
    model = model_of("int64 m, bool c, float[2] x", "float[2] y, float[a, 2] z", f"y, z = Loop({names}) <{BODY}>", version)
    if names == "m, , x":  # onnxruntime stops where the body says so, though by ONNX's text that doesn't count
        model.graph.initializer[0].int64_data[0] = 100
    if not (condition or names == "m, , x"):  # onnxruntime makes an output of another shape of no step
        y, z = Interpreter(model.graph, {"": version}).run([torch.tensor(count), torch.tensor(condition), torch.ones(2)])
        assert y.tolist() == [1, 1] and z.shape == (0, 2)
        return
    agrees(model, [np.array(count), np.array(condition), numbers(2)])


def test_loop_without_a_condition_makes_all_steps() -> None:
    model = model_of("int64 m, float[2] x", "float[2] y, float[a, 2] z", f"y, z = Loop(m, , x) <{BODY}>")
    y, z = Interpreter(model.graph, {"": 13}).run([torch.tensor(6), torch.ones(2)])
    assert y.tolist() == [7, 7] and len(z) == 6


def test_a_loop_of_no_steps_whose_first_step_is_impossible() -> None:
    model = model_of(
        "int64 m, float[0] x",
        "float[a] z",
        "z = Loop(m) <body = body (int64 step, bool going) => (bool next, float[1] seen) { "
        "next = Identity(going)  seen = Gather(x, step) }>",
    )
    (z,) = Interpreter(model.graph, {"": 13}).run([torch.tensor(0), torch.zeros(0)])
    assert z.shape == (0,)


SCANS = {
    "forward": "",
    "directions": ", scan_input_directions = [1, 0], scan_output_directions = [1]",
    "axes": ", scan_input_axes = [1, -1], scan_output_axes = [1]",
    "last axis": ", scan_input_axes = [-1, 1], scan_output_axes = [-1], scan_input_directions = [0, 1]",
}
STEP = "step (float[3] s, float[3] u, float[3] v) => (float[3] t, float[3] w) { t = Add(s, u)  w = Mul(t, v) }"


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("version", [9, 13])
def test_scan(name: str, version: int) -> None:
    model = model_of(
        "float[3] s, float[3, 3] x, float[3, 3] z",
        "float[3] y, float[a, b] w",
        f"y, w = Scan(s, x, z) <num_scan_inputs = 2, body = {STEP} {SCANS[name]}>",
        version,
    )
    agrees(model, [numbers(3), numbers(3, 3), np.flip(numbers(3, 3)).copy()])


@pytest.mark.parametrize("axis", [0, 1])
def test_scan_of_no_steps(axis: int) -> None:
    model = model_of(
        "float[3] s, float[a, b] x",
        "float[3] y, float[a, b] w",
        f"y, w = Scan(s, x, x) <num_scan_inputs = 2, scan_output_axes = [1], scan_input_axes = [{axis}, {axis}], body = {STEP}>",
    )
    x = torch.zeros(0, 3) if axis == 0 else torch.zeros(3, 0)
    y, w = Interpreter(model.graph, {"": 13}).run([torch.ones(3), x])
    assert y.tolist() == [1, 1, 1] and w.shape == (3, 0)


@pytest.mark.parametrize("directions", ["", ", directions = [1, 0]"])
@pytest.mark.parametrize("lengths", [None, ints(2, 4), ints(3, 1)])
def test_scan_of_a_batch(directions: str, lengths: np.ndarray | None) -> None:
    inputs = "float[2, 3] s, float[2, 4, 3] x, float[2, 4, 3] z"
    model = model_of(
        inputs if lengths is None else f"{inputs}, int64[2] n",
        "float[2, 3] y, float[2, 4, 3] w",
        f"y, w = Scan({'' if lengths is None else 'n'}, s, x, z) <num_scan_inputs = 2, body = {STEP} {directions}>",
        8,
    )
    agrees(model, [numbers(2, 3), numbers(2, 4, 3), -numbers(2, 4, 3), lengths])


def test_gradients_flow() -> None:
    nodes = f"y, z = Loop(m, , x) <{BODY}>  s, w = Scan(x, z, z) <num_scan_inputs = 2, body = {STEP.replace('[3]', '[2]')}>"
    model = model_of("int64 m, float[2] x", "float[2] s, float[a, 2] w", nodes)
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    outputs = Interpreter(model.graph, {"": 13}).run([value(np.array(3)), x])
    (gradient,) = torch.autograd.grad(sum(output.sum() for output in outputs), x)
    step = 1e-3
    with torch.no_grad():
        sides = [
            sum(output.double().sum() for output in Interpreter(model.graph, {"": 13}).run([value(np.array(3)), x + shift]))
            for shift in torch.tensor([[step, 0], [-step, 0]])
        ]
    compare(gradient[0].double(), ((sides[0] - sides[1]) / (2 * step)).numpy(), 1e-2, 0)
