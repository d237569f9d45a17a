"""Which part of a graph computes on integers.

A value lies in the integer domain when an operator with an integer kernel makes it and calibration knows its range. Four
kinds of nodes matter:

    weighted    Conv, Gemm, MatMul with an encoded weight: start the domain
    following   Add, Mul, Concat, AveragePool, GlobalAveragePool: integer if all their inputs are
    moving      Reshape, Slice, Pad, MaxPool, ...: work on the codes, the grid stays
    the rest    float: they read dequantized values

A Relu or Clip right after an integer node disappears where the grid already ends there: rounding to the grid clips.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.constants import constant
from dyncompress.deployment.grid import Grid

Grids = Callable[[ir.Value], Grid | None]
FOLLOWING = ("Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool")
MOVING = (
    *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"),
    *("Slice", "Pad", "MaxPool", "Gather", "Split", "Expand"),
)


@dataclass
class Domain:
    """The integer part of a graph; filled by `integer_domain`.

    Attributes:
        compute: nodes that compute on integers.
        moved: nodes that carry codes.
        dropped: Relu and Clip nodes that rounding replaces.
        source: values quantized where they are made; everything reads their codes.
        copies: float values of which integer nodes read a quantized copy.
        carried: value that a moving node makes -> value whose grid it has.
    """

    compute: set[ir.Node] = field(default_factory=set)
    moved: set[ir.Node] = field(default_factory=set)
    dropped: set[ir.Node] = field(default_factory=set)
    source: set[ir.Value] = field(default_factory=set)
    copies: set[ir.Value] = field(default_factory=set)
    carried: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def coded(self, value: ir.Value | None) -> bool:
        """Whether every reader of `value` sees its codes."""
        return value in self.source or value in self.carried

    @property
    def quantized(self) -> list[ir.Value]:
        """Values that need a range, in no order."""
        return [*self.source, *self.copies]


def integer_domain(graph: ir.Graph, weights: Set[str], grid: Grids) -> Domain:
    """Decide, front to back, what computes on integers.

    Args:
        graph: float graph, sorted.
        weights: names of initializers with an encoding that an integer kernel can take.
        grid: of a value; None where its range isn't known.

    Returns:
        The domain.
    """
    domain = Domain()
    makers: dict[ir.Value, ir.Node | None] = {}  # outputs of Gemm and MatMul -> the Relu to drop if they are quantized
    for node in graph:
        if weighted(node, weights):
            _weighted(node, domain, grid, makers)
        elif node.op_type in FOLLOWING and _follows(node, domain):
            end, drop = _tail(node.outputs[0], grid)
            if grid(end) is not None and _local(end, graph):
                domain.compute.add(node)
                _quantize(end, drop, domain)
        elif node.op_type in MOVING and domain.coded(node.inputs[0]) and _moves(node, graph):
            domain.moved.add(node)
            first = node.inputs[0]
            assert first is not None
            domain.carried.update({out: domain.carried.get(first, first) for out in node.outputs})
    return domain


def weighted(node: ir.Node, weights: Set[str]) -> bool:
    """Whether an integer kernel exists for this node and its weight is encoded."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.inputs) < 2 or node.domain:
        return False
    data, weight = node.inputs[0], node.inputs[1]
    if data is None or weight is None or data.is_initializer() or weight.name not in weights or not weight.is_initializer():
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    known = constant(bias)
    if bias is not None and (known is None or known.ndim != 1):
        return False
    if node.op_type == "Gemm":
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        return all(name not in node.attributes or node.attributes[name].value == wanted for name, wanted in plain.items())
    return True


def _weighted(node: ir.Node, domain: Domain, grid: Grids, makers: dict[ir.Value, ir.Node | None]) -> None:
    data, graph = node.inputs[0], node.graph
    assert data is not None and isinstance(graph, ir.Graph)
    if not domain.coded(data) and (grid(data) is None or not _local(data, graph)):
        return
    end, drop = _tail(node.outputs[0], grid)
    must_quantize = node.op_type == "Conv"  # its integer kernel has no float output; those of Gemm and MatMul do
    if must_quantize and (grid(end) is None or not _local(end, graph)):
        return
    domain.compute.add(node)
    if data in makers:
        _quantize(data, makers[data], domain)
    elif not domain.coded(data):
        domain.copies.add(data)
    if must_quantize:
        _quantize(end, drop, domain)
    elif node.op_type == "Gemm" and grid(end) is not None and _local(end, graph):
        makers[end] = drop


def _quantize(end: ir.Value, drop: ir.Node | None, domain: Domain) -> None:
    domain.source.add(end)
    domain.copies.discard(end)
    if drop is not None:
        domain.dropped.add(drop)


def _follows(node: ir.Node, domain: Domain) -> bool:
    ceil = node.attributes.get("ceil_mode")
    if node.op_type == "AveragePool" and ceil is not None and ceil.value:
        return False  # its integer kernel averages the overhang differently
    return all(domain.coded(value) or value in domain.copies for value in node.inputs)


def _moves(node: ir.Node, graph: ir.Graph) -> bool:
    if not all(_local(out, graph) for out in node.outputs) or (node.op_type == "MaxPool" and len(node.outputs) > 1):
        return False
    if node.op_type == "Pad":
        mode = node.attributes["mode"].value if "mode" in node.attributes else "constant"
        fill = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
        return mode != "constant" or (fill is not None and not fill.any())
    return True


def _local(value: ir.Value, graph: ir.Graph) -> bool:
    """Whether only this graph, no branch or loop body, reads the value."""
    return all(use.node.graph is graph for use in value.uses())


def _tail(value: ir.Value, grid: Grids) -> tuple[ir.Value, ir.Node | None]:
    """The value to quantize after a node, and the Relu or Clip that the grid replaces (if it can)."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.op_type not in ("Relu", "Clip") or uses[0].idx != 0:
        return value, None
    follower = uses[0].node
    end = follower.outputs[0]
    cells = grid(end)
    if cells is None:
        return value, None
    low, high = _limits(follower)
    half = 0.51 * float(cells.scale)  # zero has its own code, which moves the ends by up to half a step
    inside = low is not None and high is not None and cells.lowest >= low - half and cells.highest <= high + half
    return end, (follower if inside else None)


def _limits(node: ir.Node) -> tuple[float | None, float | None]:
    """What a Relu or Clip clips to; None where it is computed."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    ends = []
    for index, default in ((1, -np.inf), (2, np.inf)):
        value = node.inputs[index] if len(node.inputs) > index else None
        array = np.array(default) if value is None else constant(value)
        ends.append(None if array is None else float(array.reshape(())))
    return ends[0], ends[1]
