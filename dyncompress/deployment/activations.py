"""Activations: QuantizeLinear where a value is made, one DequantizeLinear for each reader."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.constants import Constants
from dyncompress.deployment.domain import Domain
from dyncompress.deployment.grid import Grid


def quantize_activations(constants: Constants, domain: Domain, grids: Mapping[ir.Value, Grid]) -> dict[tuple[ir.Node, int], Grid]:
    """Insert the Q and DQ nodes of a domain.

    Readers get a DQ each: onnxruntime fuses a node only with DQs that nobody else reads. Moving nodes read the codes. The
    Relus that rounding replaces are removed.

    Args:
        constants: of the graph.
        domain: of the graph, in its float form.
        grids: of `domain.quantized`.

    Returns:
        (node, input index) -> the grid of what it reads.
    """
    graph = constants.graph
    coded: dict[ir.Value, tuple[ir.Value, Grid]] = {}
    read: dict[tuple[ir.Node, int], Grid] = {}
    nodes = list(graph)
    for value in graph.inputs:
        if value in grids:
            coded[value] = (_quantize(constants, value, grids[value], nodes[0]), grids[value])
    for position, node in enumerate(nodes):
        following = nodes[position + 1] if position + 1 < len(nodes) else None
        if node in domain.moved:
            _move(constants, node, coded)
        elif node in domain.dropped:
            end = node.outputs[0]
            source = node.inputs[0]
            assert source is not None
            coded[end] = (_quantize(constants, source, grids[end], node), grids[end])
        else:
            _read(constants, node, domain, coded, read)
            for value in node.outputs:
                if value in grids:
                    coded[value] = (_quantize(constants, value, grids[value], following), grids[value])
    _outputs(constants, domain, coded)
    for node in domain.dropped:
        graph.remove(node, safe=True)
    return read


def _parameters(constants: Constants, grid: Grid) -> list[ir.Value | None]:
    return [constants.tensor(np.float32(grid.scale)), constants.tensor(np.array(grid.zero_point, grid.dtype))]


def _quantize(constants: Constants, value: ir.Value, grid: Grid, before: ir.Node | None) -> ir.Value:
    return constants.node("QuantizeLinear", [value, *_parameters(constants, grid)], before)


def _move(constants: Constants, node: ir.Node, coded: dict[ir.Value, tuple[ir.Value, Grid]]) -> None:
    source = node.inputs[0]
    assert source is not None
    codes, grid = coded[source]
    node.replace_input_with(0, codes)
    if node.op_type == "Pad":
        mode = node.attributes["mode"].value if "mode" in node.attributes else "constant"
        if mode == "constant":
            node.resize_inputs(max(len(node.inputs), 3))
            node.replace_input_with(2, constants.tensor(np.array(grid.zero_point, grid.dtype)))
    for out in node.outputs:
        out.type = None
        coded[out] = (out, grid)


def _read(
    constants: Constants,
    node: ir.Node,
    domain: Domain,
    coded: dict[ir.Value, tuple[ir.Value, Grid]],
    read: dict[tuple[ir.Node, int], Grid],
) -> None:
    for index, value in enumerate(node.inputs):
        if value is not None and value in coded and (domain.coded(value) or node in domain.compute):
            codes, grid = coded[value]
            node.replace_input_with(index, constants.node("DequantizeLinear", [codes, *_parameters(constants, grid)], node))
            read[node, index] = grid


def _outputs(constants: Constants, domain: Domain, coded: dict[ir.Value, tuple[ir.Value, Grid]]) -> None:
    """Outputs of the graph stay float and keep their names."""
    graph = constants.graph
    for index, value in enumerate(graph.outputs):
        if value in coded and domain.coded(value):
            codes, grid = coded[value]
            out = constants.node("DequantizeLinear", [codes, *_parameters(constants, grid)], None)
            out.name, value.name = value.name, f"{out.name}_"
            out.type, out.shape = ir.TensorType(ir.DataType.FLOAT), value.shape
            graph.outputs[index] = out
