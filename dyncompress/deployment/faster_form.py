"""Which nodes of the integer domain compute in float, because that takes less time on the target.

An integer kernel isn't always the faster one: convolutions over one channel each, or over few, gain nothing, and every border
between float and integers costs a pass over the activation. With the target's kernel times every node has two prices, and every
border one. The cheapest assignment of all nodes is a minimum cut, which a maximum flow finds exactly. Weights of nodes that
compute in float are stored as integers all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from dyncompress.deployment.activation_ranges import candidates
from dyncompress.deployment.domain import WEIGHTED, Domain
from dyncompress.deployment.float_graph import FloatGraph
from dyncompress.deployment.session import pieces, run_session
from dyncompress.types import KernelTimes

Shapes = Mapping[str, Sequence[int]]  # value -> its shape for one example

BLOCK = 16  # channels are computed in blocks of so many
UNIT = 100.0  # nanoseconds; maximum_flow takes integers of 32 bits
NEVER = 1_000_000_000


def shapes_of_one(float_file: bytes, batch: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The shape of every activation that may be quantized, and of the results of nodes with weights, for one example.

    Args:
        float_file: float32 ONNX.
        batch: inputs by name, each `[n, ...]`; the first example is run (as many as the file takes, where that is fixed).
    """
    graph = FloatGraph.of(float_file)
    model, names = graph.model, candidates(graph)
    for index, name in enumerate(names):
        model.graph.node.append(helper.make_node("Shape", [name], [f"__shape{index}"]))
        model.graph.output.append(helper.make_tensor_value_info(f"__shape{index}", TensorProto.INT64, None))
    session = graph.session()
    one = {name: value[:1] for name, value in batch.items()}
    part, _ = next(pieces(session, one))
    shapes = run_session(session, [f"__shape{index}" for index in range(len(names))], part) if names else []
    return {name: tuple(np.ravel(shape).tolist()) for name, shape in zip(names, shapes, strict=True)}


def faster_in_float(graph: ir.Graph, domain: Domain, shapes: Shapes, times: KernelTimes) -> set[ir.Node]:
    """The nodes of the integer domain that are to compute in float.

    Args:
        graph: the float graph.
        domain: all that could compute on integers.
        shapes: of activations for one example, of `shapes_of_one`; a node whose shapes aren't known costs the same in both forms.
        times: of the target.
    """
    nodes = [node for node in graph if node in domain.compute]
    flow = _Flow({node: index + 2 for index, node in enumerate(nodes)})
    prices = _Prices(shapes, times)
    for node in nodes:
        in_float, on_integers = prices.node(node)
        flow.add(_INTEGER, flow.places[node], in_float)
        flow.add(flow.places[node], _FLOAT, on_integers)
    copies: dict[ir.Value, int] = {}  # a float value -> the place of its quantized copy
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is None or value.is_initializer() or (index and node.op_type in WEIGHTED):
                continue
            source = _source(value, domain)
            if source is not None and source in flow.places:
                flow.add(flow.places[source], flow.places[node], prices.border(value, times.dequantize))
                if node.op_type not in WEIGHTED:
                    flow.add(flow.places[node], flow.places[source], NEVER)
            place = copies.get(value)
            if place is None:
                place = copies[value] = flow.new_place()
                target = flow.places[source] if source is not None and source in flow.places else _FLOAT
                flow.add(place, target, prices.border(value, times.quantize))
            flow.add(flow.places[node], place, NEVER)
        for value, reader in _readers(node, domain):
            if reader is None or reader not in flow.places:
                flow.add(flow.places[node], _FLOAT, prices.border(value, times.dequantize))
    integers = flow.side_of_integers()
    return {node for node in nodes if flow.places[node] not in integers}


_INTEGER, _FLOAT = 0, 1  # places of the two ends of the flow


def _source(value: ir.Value, domain: Domain) -> ir.Node | None:
    """The node whose codes a value has, through nodes that only move them and activations; None for a float value."""
    if not domain.is_quantized(value):
        return None
    node = value.producer()
    while node is not None and node not in domain.compute:
        first = node.inputs[0] if node in domain.moving or node.op_type in ("Relu", "Clip") else None
        node = None if first is None else first.producer()
    return node


def _readers(node: ir.Node, domain: Domain) -> Iterator[tuple[ir.Value, ir.Node | None]]:
    """The nodes that read a node's codes, through nodes that only move them, each with the value that it reads.

    None stands for the graph's output. A node with float results has no readers of codes.
    """
    pending = list(node.outputs)
    while pending:
        value = pending.pop()
        uses = [use.node for use in value.uses()]
        if value.is_graph_output() and domain.is_quantized(value):
            yield value, None
        for use in uses:
            if use in domain.moving or use in domain.replaced or (use.op_type in ("Relu", "Clip") and _codes(use, domain)):
                pending.extend(use.outputs)
            elif domain.is_quantized(value):
                yield value, use


def _codes(node: ir.Node, domain: Domain) -> bool:
    return any(domain.is_quantized(value) for value in node.outputs)


@dataclass
class _Flow:
    """A flow network. Who is cut off from the first place computes in float."""

    places: dict[ir.Node, int]
    edges: dict[tuple[int, int], int] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        self.count = len(self.places) + 2

    def new_place(self) -> int:
        self.count += 1
        return self.count - 1

    def add(self, start: int, end: int, price: float) -> None:
        """Add a price, in nanoseconds, that is paid if `start` is on the side of integers and `end` isn't."""
        price = NEVER if price == NEVER else round(price / UNIT)
        self.edges[start, end] = min(NEVER, self.edges.get((start, end), 0) + price)

    def side_of_integers(self) -> Set[int]:
        """The places that stay connected with the first one after the cheapest cut."""
        rows, columns = np.array(list(self.edges), np.int32).reshape(-1, 2).T
        prices = np.array(list(self.edges.values()), np.int32)
        capacity = csr_array((prices, (rows, columns)), shape=(self.count, self.count))
        left = (capacity - maximum_flow(capacity, _INTEGER, _FLOAT).flow).tocsr()
        reached, pending = {_INTEGER}, [_INTEGER]
        while pending:
            place = pending.pop()
            row = slice(left.indptr[place], left.indptr[place + 1])
            for end, free in zip(left.indices[row].tolist(), left.data[row].tolist(), strict=True):
                if free > 0 and end not in reached:
                    reached.add(end)
                    pending.append(end)
        return reached


@dataclass(frozen=True)
class _Prices:
    """The time of nodes and borders, in nanoseconds."""

    shapes: Shapes
    times: KernelTimes

    def node(self, node: ir.Node) -> tuple[float, float]:
        """The time of a node in float and on integers."""
        shape = self._shape(node.outputs[0])
        if shape is None:
            return 0.0, 0.0
        if node.op_type in WEIGHTED:
            return self._weighted(node, shape)
        read = sum(self._elements(value) for value in node.inputs)
        times = self.times
        return times.float_node + times.float_element * read, times.integer_node + times.integer_element * read

    def border(self, value: ir.Value, each: float) -> float:
        """The time of quantizing or dequantizing a value; `each` is that of an element."""
        return self.times.float_node + each * self._elements(value)

    def _weighted(self, node: ir.Node, shape: Sequence[int]) -> tuple[float, float]:
        times, weight = self.times, node.inputs[1]
        assert weight is not None and weight.shape is not None
        size = weight.shape.numpy()
        if node.op_type == "Conv":
            rows, columns, taps = size[0], size[1], int(np.prod(size[2:]))
            positions = int(np.prod(shape[2:]))
            groups = int(node.attributes["group"].value) if "group" in node.attributes else 1
        else:
            transposed = node.op_type == "Gemm" and "transB" in node.attributes and node.attributes["transB"].value
            rows, columns = (size[-2], size[-1]) if transposed else (size[-1], size[-2])
            taps, groups, positions = 1, 1, int(np.prod(shape[:-1]))
        outputs = positions * _up(rows, BLOCK)
        if groups > 1 and columns == 1:
            in_float = times.float_node + outputs * (times.float_output + taps * times.float_mac)
            unaligned = times.depthwise_unaligned if rows % BLOCK else 0.0
            each = times.depthwise_output + taps * (times.depthwise_mac + unaligned)
            return in_float, times.integer_node + positions * (rows * each + taps * times.depthwise_tap)
        width = _up(columns, BLOCK) if columns >= BLOCK else 2 * columns
        in_float = times.float_node + outputs * (times.float_output + taps * width * times.float_mac)
        unaligned = times.integer_unaligned if columns % BLOCK else 0.0
        column = times.integer_position + taps * (times.integer_tap + unaligned)
        return in_float, times.integer_node + groups * positions * column + outputs * taps * _up(columns, 4) * times.integer_mac

    def _shape(self, value: ir.Value) -> Sequence[int] | None:
        return self.shapes.get(value.name or "")

    def _elements(self, value: ir.Value | None) -> int:
        shape = None if value is None else self._shape(value)
        return 0 if shape is None else int(np.prod(shape))


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
