"""Embedding tables: gather rows of codes first, then dequantize only those rows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.constants import Constants
from dyncompress.deployment.weights import StoredWeight


def gather_first(constants: Constants, weight: StoredWeight, codes: ir.Value, node: ir.Node) -> None:
    """Replace Gather(table) by Cast(Gather(codes)) * Gather(scales), in place.

    A dequantized table in front of the Gather would be computed anew at every inference. A DequantizeLinear behind the Gather
    can't hold the scales, because its rows are in the order of the indices; hence the Mul, which gives the same float32 values.

    Args:
        constants: of the graph.
        weight: the table, with its rows on axis 0.
        codes: the value of the graph that holds the table's int8 codes.
        node: the Gather, along axis 0.
    """
    graph = constants.graph
    node.replace_input_with(0, codes)
    rows = node.outputs[0]
    readers = list(rows.uses())
    as_float = ir.node("Cast", [rows], {"to": int(ir.DataType.FLOAT)})
    if weight.scale.ndim:
        table = constants.tensor(weight.scale.reshape(-1, *[1] * (weight.codes.ndim - 1)))
        scale = ir.node("Gather", [table, node.inputs[1]])
        factor, extra = scale.outputs[0], [scale]
    else:
        factor, extra = constants.tensor(np.float32(weight.scale)), []
    product = ir.node("Mul", [as_float.outputs[0], factor])
    for index, inserted in enumerate((as_float, *extra, product)):
        inserted.outputs[0].name = f"{rows.name}__{index}"
    graph.insert_after(node, [as_float, *extra, product])
    for use in readers:
        use.node.replace_input_with(use.idx, product.outputs[0])
    for index, out in enumerate(graph.outputs):
        if out is rows:
            product.outputs[0].name, rows.name = rows.name, f"{rows.name}__"
            product.outputs[0].type, product.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), rows.shape
            graph.outputs[index] = product.outputs[0]
