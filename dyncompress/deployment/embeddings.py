"""Embedding tables: gather integer rows first, then dequantize only those."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.constants import Constants
from dyncompress.deployment.weights import StoredWeight


def gather_first(constants: Constants, weight: StoredWeight, codes: ir.Value, node: ir.Node) -> None:
    """Gather(table) -> Cast(Gather(codes)) * Gather(scales), in place.

    Dequantizing the table before the Gather would rebuild all of it at every inference. The scales of the rows follow no
    axis of the gathered tensor (its rows are in the order of the indices), so that the product is written out; it is the
    same float32 number.

    Args:
        constants: of the graph.
        weight: the table, rows on axis 0.
        codes: int8 table in the graph.
        node: the Gather, axis 0.
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
    for index, made in enumerate((as_float, *extra, product)):
        made.outputs[0].name = f"{rows.name}__{index}"
    graph.insert_after(node, [as_float, *extra, product])
    for use in readers:
        use.node.replace_input_with(use.idx, product.outputs[0])
    for index, out in enumerate(graph.outputs):
        if out is rows:
            product.outputs[0].name, rows.name = rows.name, f"{rows.name}__"
            product.outputs[0].type, product.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), rows.shape
            graph.outputs[index] = product.outputs[0]
