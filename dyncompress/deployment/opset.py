"""Convert a float graph to the target's opset, and fix its batch size where the target needs static shapes."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import version_converter

from dyncompress.deployment.float_graph import FloatGraph
from dyncompress.errors import Unsupported
from dyncompress.types import Target

OLDEST = 18  # from opset 18 to 22 only GroupNormalization changed its meaning; other operators gained types


def converted(graph: FloatGraph, target: Target) -> ir.Model:
    """A float graph in the target's opset and IR version.

    Args:
        graph: its model may be changed.
        target: its opset, its ir_version, and whether its shapes are static (the batch size is then 1).

    Raises:
        Unsupported: an operator can't be converted, e.g. one that an older opset doesn't have.
    """
    model = graph.model
    entry = next((entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    version = entry.version if entry is not None else 0
    changed = version < OLDEST or any(node.op_type == "GroupNormalization" for node in model.graph.node)
    if version > target.opset or (changed and version < target.opset):
        model = _converted(graph.whole(), target.opset)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = target.opset
    model.ir_version = target.ir_version
    if target.static_shapes:
        for value in (*model.graph.input, *model.graph.output):
            dims = value.type.tensor_type.shape.dim
            if dims and not dims[0].HasField("dim_value"):
                dims[0].dim_value = 1
    return graph.as_ir(model)


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The model with its operators in another opset.

    Raises:
        Unsupported: an operator can't be converted.
    """
    model.ir_version = max(model.ir_version, 8)  # before, initializers had to be inputs too
    try:
        return version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Unsupported(
            f"the graph can't be converted to the target's opset {opset} ({reason}); export the model again with "
            f"opset_version={opset}."
        ) from error
