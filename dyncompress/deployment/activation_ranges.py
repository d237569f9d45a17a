"""The range of every activation that may be quantized, seen on calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from dyncompress.deployment.domain import FOLLOWING
from dyncompress.deployment.session import processors
from dyncompress.deployment.stripping import parse, strip
from dyncompress.errors import InvalidRequest

_MADE_BY = ("Conv", "Gemm", "MatMul", "Relu", "Clip", *FOLLOWING)
_READ_BY = ("Conv", "Gemm", "MatMul")


def ranges(float_file: bytes, batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of every activation that `write` may quantize.

    onnxruntime runs the float graph with a ReduceMin and a ReduceMax on each candidate: only scalars leave the graph, so
    that memory is that of one batch.

    Args:
        float_file: float32 ONNX.
        batches: inputs by name.

    Returns:
        value -> (smallest, largest).

    Raises:
        InvalidRequest: no batch, or an activation that isn't finite.
    """
    model = parse(strip(float_file))
    values = candidates(model)
    _observe(model, values)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = processors()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = [f"{kind}{index}" for index in range(len(values)) for kind in ("__min", "__max")]
    low, high = np.full(len(values), np.inf), np.full(len(values), -np.inf)
    seen = 0
    for batch in batches:
        found = np.array(session.run(outputs, dict(batch)), np.float64).reshape(-1, 2) if outputs else np.zeros((0, 2))
        if not np.isfinite(found).all():
            worst = values[int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])]
            raise InvalidRequest(f"calibration batch {seen}: activation '{worst}' isn't finite; check the inputs' normalisation.")
        low, high = np.minimum(low, found[:, 0]), np.maximum(high, found[:, 1])
        seen += 1
    if not seen:
        raise InvalidRequest("no calibration batch; activation ranges need at least one.")
    return {name: (float(a), float(b)) for name, a, b in zip(values, low, high, strict=True)}


def candidates(model: onnx.ModelProto) -> list[str]:
    """Outputs of operators with integer kernels, and what those with weights read."""
    constants = {tensor.name for tensor in model.graph.initializer}
    names: dict[str, None] = {}
    for node in model.graph.node:
        if node.op_type in _READ_BY and node.input[0] not in constants:
            names[node.input[0]] = None
        if node.op_type in _MADE_BY:
            names[node.output[0]] = None
    floats = _float_values(model)
    return [name for name in names if name in floats]


def _float_values(model: onnx.ModelProto) -> set[str]:
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {}
    for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        known[value.name] = value.type.tensor_type.elem_type
    made = {out for node in model.graph.node for out in node.output} | {value.name for value in model.graph.input}
    return {name for name in made if known.get(name) == TensorProto.FLOAT}


def _observe(model: onnx.ModelProto, values: list[str]) -> None:
    for index, name in enumerate(values):
        for kind in ("Min", "Max"):
            out = f"__{kind.lower()}{index}"
            model.graph.node.append(helper.make_node(f"Reduce{kind}", [name], [out], keepdims=0))
            model.graph.output.append(helper.make_tensor_value_info(out, TensorProto.FLOAT, []))
