"""Quantize activations: QuantizeLinear after the node that computes a value, one DequantizeLinear for each reader."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.constants import Constants
from dyncompress.deployment.domain import Domain
from dyncompress.deployment.grid import Grid


def quantize_activations(constants: Constants, domain: Domain, grids: Mapping[ir.Value, Grid]) -> dict[tuple[ir.Node, int], Grid]:
    """Insert the QuantizeLinear (Q) and DequantizeLinear (DQ) nodes of an integer domain, in place.

    Each reader gets a DQ of its own: onnxruntime fuses a node only with DQ nodes that no other node reads. Nodes that only move
    data, such as Reshape, read the codes. The Relu and Clip nodes that rounding to the grid replaces are removed.

    Args:
        constants: of the graph.
        domain: the integer part of the graph, decided on its float form.
        grids: a grid for each value of `domain.quantized`.

    Returns:
        (node, input index) -> the grid of the dequantized value that the node reads there.
    """
    graph = constants.graph
    codes_of: dict[ir.Value, tuple[ir.Value, Grid]] = {}
    read: dict[tuple[ir.Node, int], Grid] = {}
    nodes = list(graph)
    for value in graph.inputs:
        if value in grids:
            codes_of[value] = (_quantize(constants, value, grids[value], nodes[0]), grids[value])
    for position, node in enumerate(nodes):
        following = nodes[position + 1] if position + 1 < len(nodes) else None
        if node in domain.moving:
            _move_codes(constants, node, codes_of)
        elif node in domain.replaced:
            end = node.outputs[0]
            source = node.inputs[0]
            assert source is not None
            codes_of[end] = (_quantize(constants, source, grids[end], node), grids[end])
        else:
            _dequantize_inputs(constants, node, domain, codes_of, read)
            for value in node.outputs:
                if value in grids:
                    codes_of[value] = (_quantize(constants, value, grids[value], following), grids[value])
    _dequantize_outputs(constants, domain, codes_of)
    for node in domain.replaced:
        graph.remove(node, safe=True)
    return read


def _parameters(constants: Constants, grid: Grid) -> list[ir.Value | None]:
    """Scale and zero point of a grid, as inputs of a Q or DQ node."""
    return [constants.tensor(np.float32(grid.scale)), constants.tensor(np.array(grid.zero_point, grid.dtype))]


def _quantize(constants: Constants, value: ir.Value, grid: Grid, before: ir.Node | None) -> ir.Value:
    return constants.node("QuantizeLinear", [value, *_parameters(constants, grid)], before)


def _move_codes(constants: Constants, node: ir.Node, codes_of: dict[ir.Value, tuple[ir.Value, Grid]]) -> None:
    """Let a moving node read codes; a constant Pad fills with the zero point."""
    source = node.inputs[0]
    assert source is not None
    codes, grid = codes_of[source]
    node.replace_input_with(0, codes)
    if node.op_type == "Pad":
        mode = node.attributes["mode"].value if "mode" in node.attributes else "constant"
        if mode == "constant":
            node.resize_inputs(max(len(node.inputs), 3))
            node.replace_input_with(2, constants.tensor(np.array(grid.zero_point, grid.dtype)))
    for out in node.outputs:
        out.type = None
        codes_of[out] = (out, grid)


def _dequantize_inputs(
    constants: Constants,
    node: ir.Node,
    domain: Domain,
    codes_of: dict[ir.Value, tuple[ir.Value, Grid]],
    read: dict[tuple[ir.Node, int], Grid],
) -> None:
    """Insert a DQ in front of every input of a node that is to read codes, and note its grid in `read`."""
    for index, value in enumerate(node.inputs):
        if value is not None and value in codes_of and (domain.is_quantized(value) or node in domain.compute):
            codes, grid = codes_of[value]
            node.replace_input_with(index, constants.node("DequantizeLinear", [codes, *_parameters(constants, grid)], node))
            read[node, index] = grid


def _dequantize_outputs(constants: Constants, domain: Domain, codes_of: dict[ir.Value, tuple[ir.Value, Grid]]) -> None:
    """Dequantize the graph's outputs: they stay float and keep their names."""
    graph = constants.graph
    for index, value in enumerate(graph.outputs):
        if value in codes_of and domain.is_quantized(value):
            codes, grid = codes_of[value]
            out = constants.node("DequantizeLinear", [codes, *_parameters(constants, grid)], None)
            out.name, value.name = value.name, f"{out.name}_"
            out.type, out.shape = ir.TensorType(ir.DataType.FLOAT), value.shape
            graph.outputs[index] = out
