"""Decide which part of a graph computes on integers.

A value belongs to the integer domain when an operator with an integer kernel computes it and its range is known from
calibration. There are four kinds of nodes:

    weighted    Conv, Gemm, MatMul with an encoded weight: the domain starts at them
    following   Add, Mul, Concat, AveragePool, GlobalAveragePool: integer if all their inputs are
    moving      Reshape, Slice, Pad, MaxPool, ...: they work on the codes, whose grid stays the same
    others      float: they read dequantized values

A Relu or Clip right after an integer node is removed where the grid ends at its limits, since rounding to the grid clips there.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.constants import constant
from dyncompress.deployment.grid import Grid

Grids = Callable[[ir.Value], Grid | None]
WEIGHTED = ("Conv", "Gemm", "MatMul")  # with integer kernels
PRODUCTS = (*WEIGHTED, "ConvTranspose")
FOLLOWING = ("Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool")
MOVING = (
    *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"),
    *("Slice", "Pad", "MaxPool", "Gather", "Split", "Expand"),
)


@dataclass
class Domain:
    """The integer part of a graph, as `integer_domain` decides it.

    Attributes:
        compute: nodes that compute on integers.
        moving: nodes that only move codes.
        replaced: Relu and Clip nodes that rounding to the grid replaces.
        source: values that are quantized where they are computed; all their readers see the codes.
        copies: float values of which only the integer nodes read a quantized copy.
        grid_of: output of a moving node -> the value in `source` whose grid it has.
    """

    compute: set[ir.Node] = field(default_factory=set)
    moving: set[ir.Node] = field(default_factory=set)
    replaced: set[ir.Node] = field(default_factory=set)
    source: set[ir.Value] = field(default_factory=set)
    copies: set[ir.Value] = field(default_factory=set)
    grid_of: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def is_quantized(self, value: ir.Value | None) -> bool:
        """Whether every reader of `value` sees its codes."""
        return value in self.source or value in self.grid_of

    @property
    def quantized(self) -> list[ir.Value]:
        """The values that need a grid of their own, in no order."""
        return [*self.source, *self.copies]


def integer_domain(graph: ir.Graph, weights: Set[str], grid: Grids, in_float: Set[ir.Node] = frozenset()) -> Domain:
    """Decide, from the inputs to the outputs, which nodes compute on integers.

    Args:
        graph: the float graph, its nodes sorted topologically.
        weights: names of the initializers with an encoding that an integer kernel can use.
        grid: returns the grid of a value, None where its range isn't known.
        in_float: nodes that compute in float although they have an integer kernel.

    Returns:
        The domain.
    """
    domain = Domain()
    pending: dict[ir.Value, ir.Node | None] = {}  # output of a Gemm or MatMul -> the Relu that its quantization would replace
    for node in graph:
        if node in in_float:
            continue
        if has_integer_kernel(node, weights):
            _add_weighted(node, domain, grid, pending)
        elif node.op_type in FOLLOWING and _reads_integers(node, domain):
            end, activation = _quantization_point(node.outputs[0], grid)
            if grid(end) is not None and _is_local(end, graph):
                domain.compute.add(node)
                _quantize(end, activation, domain)
        elif node.op_type in MOVING and domain.is_quantized(node.inputs[0]) and _moves_codes(node, graph):
            domain.moving.add(node)
            first = node.inputs[0]
            assert first is not None
            domain.grid_of.update({out: domain.grid_of.get(first, first) for out in node.outputs})
    return domain


def has_integer_kernel(node: ir.Node, weights: Set[str]) -> bool:
    """Whether a node is a Conv, Gemm or MatMul with an encoded weight, in a form that has an integer kernel."""
    if node.op_type not in WEIGHTED or len(node.inputs) < 2 or node.domain:
        return False
    data, weight = node.inputs[0], node.inputs[1]
    if data is None or weight is None or data.is_initializer() or weight.name not in weights or not weight.is_initializer():
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    values = constant(bias)
    if bias is not None and (values is None or values.ndim != 1):
        return False
    if node.op_type == "Gemm":
        defaults = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        return all(name not in node.attributes or node.attributes[name].value == value for name, value in defaults.items())
    return True


def _add_weighted(node: ir.Node, domain: Domain, grid: Grids, pending: dict[ir.Value, ir.Node | None]) -> None:
    """Add a node with an encoded weight to the domain, if its input (and for a Conv its output) can be quantized."""
    data, graph = node.inputs[0], node.graph
    assert data is not None and isinstance(graph, ir.Graph)
    if not domain.is_quantized(data) and (grid(data) is None or not _is_local(data, graph)):
        return
    end, activation = _quantization_point(node.outputs[0], grid)
    must_quantize = node.op_type == "Conv"  # its integer kernel has no float output; those of Gemm and MatMul do
    if must_quantize and (grid(end) is None or not _is_local(end, graph)):
        return
    domain.compute.add(node)
    if data in pending:
        _quantize(data, pending[data], domain)
    elif not domain.is_quantized(data):
        domain.copies.add(data)
    if must_quantize:
        _quantize(end, activation, domain)
    elif node.op_type == "Gemm" and grid(end) is not None and _is_local(end, graph):
        pending[end] = activation


def _quantize(value: ir.Value, activation: ir.Node | None, domain: Domain) -> None:
    """Let all readers of a value see its codes, and replace the Relu or Clip that computes it, if given."""
    domain.source.add(value)
    domain.copies.discard(value)
    if activation is not None:
        domain.replaced.add(activation)


def _reads_integers(node: ir.Node, domain: Domain) -> bool:
    """Whether all inputs of a following node are quantized, and its integer kernel computes the same."""
    ceil = node.attributes.get("ceil_mode")
    if node.op_type == "AveragePool" and ceil is not None and ceil.value:
        return False  # its integer kernel averages windows that extend beyond the input differently
    return all(domain.is_quantized(value) or value in domain.copies for value in node.inputs)


def _moves_codes(node: ir.Node, graph: ir.Graph) -> bool:
    """Whether a moving node does the same to codes as to values: a constant Pad must fill with zeros."""
    if not all(_is_local(out, graph) for out in node.outputs) or (node.op_type == "MaxPool" and len(node.outputs) > 1):
        return False
    if node.op_type == "Pad":
        mode = node.attributes["mode"].value if "mode" in node.attributes else "constant"
        fill = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
        return mode != "constant" or (fill is not None and not fill.any())
    return True


def _is_local(value: ir.Value, graph: ir.Graph) -> bool:
    """Whether all readers of a value are nodes of the graph itself, not of a branch or loop body."""
    return all(use.node.graph is graph for use in value.uses())


def _quantization_point(value: ir.Value, grid: Grids) -> tuple[ir.Value, ir.Node | None]:
    """The value to quantize for a node's output: itself, or that of the Relu or Clip which follows.

    Returns:
        The value, and the Relu or Clip if rounding to the grid replaces it, else None.
    """
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.op_type not in ("Relu", "Clip") or uses[0].idx != 0:
        return value, None
    follower = uses[0].node
    end = follower.outputs[0]
    cells = grid(end)
    if cells is None:
        return value, None
    low, high = _limits(follower)
    half = 0.51 * float(cells.scale)  # since zero has a code of its own, the ends may be off by half a step
    inside = low is not None and high is not None and cells.lowest >= low - half and cells.highest <= high + half
    return end, (follower if inside else None)


def _limits(node: ir.Node) -> tuple[float | None, float | None]:
    """The lower and upper limit of a Relu or Clip; None where the graph computes it."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    ends = []
    for index, default in ((1, -np.inf), (2, np.inf)):
        value = node.inputs[index] if len(node.inputs) > index else None
        array = np.array(default) if value is None else constant(value)
        ends.append(None if array is None else float(array.reshape(())))
    return ends[0], ends[1]
