"""Convert a float graph to the target's opset, and fix its batch size where the target needs static shapes."""

from __future__ import annotations

import onnx
from onnx import version_converter

from dyncompress.errors import Unsupported
from dyncompress.types import Target

OLDEST = 18  # from opset 18 to 22 only GroupNormalization changed its meaning; other operators gained types


def convert_opset(model: onnx.ModelProto, target: Target) -> onnx.ModelProto:
    """Convert a model to the target's opset and IR version.

    Args:
        model: float32; it may be changed.
        target: its opset, its ir_version, and whether its shapes are static (the batch size is then 1).

    Returns:
        The model: the same object unless operators had to be converted.

    Raises:
        Unsupported: the graph's opset is newer than the target's.
    """
    entry = next((entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    version = entry.version if entry is not None else 0
    if version > target.opset:
        raise Unsupported(
            f"the graph has opset {version}, target '{target.name}' takes {target.opset}; "
            f"export with opset_version={target.opset} or lower."
        )
    changed = version < OLDEST or any(node.op_type == "GroupNormalization" for node in model.graph.node)
    if changed and version < target.opset:
        model = version_converter.convert_version(model, target.opset)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = target.opset
    model.ir_version = target.ir_version
    if target.static_shapes:
        for value in (*model.graph.input, *model.graph.output):
            dims = value.type.tensor_type.shape.dim
            if dims and not dims[0].HasField("dim_value"):
                dims[0].dim_value = 1
    return model
