"""Nodes compute in float exactly where the target's kernel times say that the whole graph then takes less time."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from onnx import NodeProto, helper

from dyncompress.deployment import Session, ranges, write
from dyncompress.deployment.domain import Domain, integer_domain
from dyncompress.deployment.faster_form import faster_in_float, shapes_of_one
from dyncompress.deployment.grid import Grid, activation_grid
from dyncompress.deployment.stripping import parse
from dyncompress.recipe.toml_files import load_target
from dyncompress.types import KernelTimes
from tests.deployment.graphs import TARGET, encode, graph, values, weight

NODE = helper.make_node
TIMES = load_target("onnxruntime-x86-vnni").kernel_times
assert TIMES is not None
FREE = {name: 0.0 for name in KernelTimes.__dataclass_fields__}


def net(nodes: list[NodeProto], weights: dict[str, np.ndarray], channels: int, size: int) -> bytes:
    return graph(nodes, weights, {"x": ["n", channels, size, size]}, {"y": ["n", channels, size, size]})


def two_kinds(channels: int) -> tuple[bytes, dict[str, np.ndarray], np.ndarray]:
    """A dense convolution of many channels, then one that is depthwise, then a dense one."""
    weights = {
        "a": weight(channels, channels, 3, 3),
        "b": weight(channels, 1, 5, 5, seed=1),
        "c": weight(channels, channels, 3, 3, seed=2),
    }
    weights = {name: values(encode(w)) for name, w in weights.items()}
    nodes = [
        NODE("Conv", ["x", "a"], ["p"], pads=[1] * 4),
        NODE("Conv", ["p", "b"], ["q"], pads=[2] * 4, group=channels),
        NODE("Conv", ["q", "c"], ["y"], pads=[1] * 4),
    ]
    x = np.random.default_rng(0).normal(size=(2, channels, 24, 24)).astype(np.float32)
    return net(nodes, weights, channels, 24), weights, x


def operators(body: bytes) -> list[str]:
    return [node.op_type for node in parse(body).graph.node]


def domain_of(
    float_file: bytes, weights: set[str], x: np.ndarray, in_float: frozenset[ir.Node] = frozenset()
) -> tuple[ir.Graph, Domain]:
    limits = ranges(float_file, [{"x": x}])
    whole = ir.serde.deserialize_model(parse(float_file)).graph

    def grid(value: ir.Value) -> Grid | None:
        return activation_grid(*limits[value.name], TARGET) if value.name in limits else None

    return whole, integer_domain(whole, weights, grid, in_float)


def test_a_depthwise_convolution_computes_in_float_between_dense_ones_on_integers() -> None:
    float_file, weights, x = two_kinds(36)
    target = replace(TARGET, kernel_times=replace(TIMES, quantize=0.05, dequantize=0.05))
    encodings = {name: (encode(w), "as_is") for name, w in weights.items()}
    limits, shapes = ranges(float_file, [{"x": x}]), shapes_of_one(float_file, {"x": x})
    everywhere = write(float_file, encodings, limits, target)
    body = write(float_file, encodings, limits, target, shapes)
    assert operators(everywhere).count("QuantizeLinear") == 4
    assert shapes["p"] == (1, 36, 24, 24)
    whole, domain = domain_of(float_file, set(weights), x)
    found = faster_in_float(whole, domain, shapes, target.kernel_times)
    assert [node.inputs[1].name for node in found] == ["b"]
    wanted = Session(float_file, target).run({"x": x})[0]
    assert np.abs(Session(body, target).run({"x": x})[0] - wanted).mean() < 0.03 * wanted.std()


def test_dear_borders_keep_a_slower_kernel_between_faster_ones() -> None:
    float_file, weights, x = two_kinds(36)
    whole, domain = domain_of(float_file, set(weights), x)
    shapes = shapes_of_one(float_file, {"x": x})
    assert not faster_in_float(whole, domain, shapes, replace(TIMES, quantize=50.0, dequantize=50.0, float_mac=1.0))


def test_without_kernel_times_or_shapes_every_kernel_is_the_integer_one() -> None:
    float_file, weights, x = two_kinds(36)
    encodings = {name: (encode(w), "as_is") for name, w in weights.items()}
    limits, shapes = ranges(float_file, [{"x": x}]), shapes_of_one(float_file, {"x": x})
    plain = write(float_file, encodings, limits, TARGET)
    assert write(float_file, encodings, limits, TARGET, shapes) == plain
    assert write(float_file, encodings, limits, replace(TARGET, kernel_times=TIMES)) == plain


def price(whole: ir.Graph, weights: set[str], x: np.ndarray, shapes: dict, times: KernelTimes, names: set[str]) -> float:
    """The time of a graph some of whose nodes compute in float, counted on the domain that follows from it.

    The model is simple here: only nodes and borders cost, by their elements.
    """
    in_float = frozenset(node for node in whole if node.outputs[0].name in names)
    limits = {node.outputs[0].name for node in whole} | {"x"}

    def grid(value: ir.Value) -> Grid | None:
        return activation_grid(-1.0, 1.0, TARGET) if value.name in limits else None

    domain = integer_domain(whole, weights, grid, in_float)
    size = {name: float(np.prod(shape)) for name, shape in shapes.items()}
    total = 0.0
    for node in whole:
        integer = node in domain.compute
        if node.op_type == "Add":
            each = times.integer_element if integer else times.float_element
            total += each * sum(size[value.name] for value in node.inputs)
        elif node.op_type == "Conv":
            total += 1e9 if not integer and node.outputs[0].name not in names else 0.0
            depthwise, shape = "group" in node.attributes, node.inputs[1].shape
            assert shape is not None
            rows = shape.numpy()[0]
            on_integers = times.depthwise_output if depthwise else times.integer_position / rows
            positions, blocks = size[node.outputs[0].name] / rows, -(-rows // 16) * 16
            total += on_integers * size[node.outputs[0].name] if integer else times.float_output * positions * blocks
    for value in [*whole.inputs, *(node.outputs[0] for node in whole)]:
        made = value.producer() in domain.compute if value.producer() is not None else False
        readers = [use.node for use in value.uses()]
        if value in domain.quantized and not made:
            total += times.quantize * size[value.name]
        if made:
            count = sum(reader not in domain.compute for reader in readers) + value.is_graph_output()
            total += times.dequantize * size[value.name] * count
    return total


@pytest.mark.parametrize("seed", range(12))
def test_the_choice_is_the_cheapest_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = {
        "a": weight(8, 8, 1, 1),
        "b": weight(8, 1, 3, 3),
        "c": weight(8, 8, 1, 1),
        "d": weight(8, 1, 3, 3),
        "e": weight(8, 8, 1, 1),
    }
    dense, depthwise = {}, {"group": 8, "pads": [1] * 4}
    nodes = [
        NODE("Conv", ["x", "a"], ["p"], **dense),
        NODE("Conv", ["p", "b"], ["q"], **depthwise),
        NODE("Conv", ["q", "c"], ["r"], **dense),
        NODE("Add", ["p", "r"], ["s"]),
        NODE("Conv", ["s", "d"], ["t"], **depthwise),
        NODE("Tanh", ["t"], ["u"]),
        NODE("Conv", ["u", "e"], ["v"], **dense),
        NODE("Add", ["v", "t"], ["y"]),
    ]
    float_file = net(nodes, weights, 8, 12)
    x = rng.normal(size=(1, 8, 12, 12)).astype(np.float32)
    shapes = {**shapes_of_one(float_file, {"x": x}), "u": (1, 8, 12, 12)}
    named = ("float_element", "integer_element", "quantize", "dequantize", "float_output", "integer_position", "depthwise_output")
    scale = {"integer_position": 8.0}
    times = KernelTimes(**{**FREE, **{name: float(1000 * rng.uniform(0, 2) * scale.get(name, 1)) for name in named}})
    whole = ir.serde.deserialize_model(parse(float_file)).graph

    def grid(value: ir.Value) -> Grid | None:
        return activation_grid(-1.0, 1.0, TARGET)

    domain = integer_domain(whole, set(weights), grid)
    found = {node.outputs[0].name for node in faster_in_float(whole, domain, shapes, times)}
    every = [node.outputs[0].name for node in whole if node.op_type != "Tanh"]
    sets = [set(some) for n in range(len(every) + 1) for some in itertools.combinations(every, n)]
    prices = [price(whole, set(weights), x, shapes, times, names) for names in sets]
    own = price(whole, set(weights), x, shapes, times, found)
    assert own <= min(prices) * (1 + 1e-3)
