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

# Of the examples, for each end: 0.98 was the best of 0.9, 0.98 and 1 on ResNet-20, by divergence on other training images.
SHARE = 0.98
_MADE_BY = ("Conv", "Gemm", "MatMul", "Relu", "Clip", *FOLLOWING)
_READ_BY = ("Conv", "Gemm", "MatMul")


def ranges(float_file: bytes, batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, tuple[float, float]]:
    """The range of every activation that `write` may quantize: what all but a few examples stay within, whole.

    One example's rare peak would make the grid coarser for all others. The range ends where `SHARE` of the examples have their
    smallest and their largest value: on ResNet-20 that takes a fifth of the divergence off that 8-bit activations cause.
    onnxruntime runs the float graph with a ReduceMin and a ReduceMax on each candidate: one number an example leaves the graph,
    so that memory is that of one batch.

    Args:
        float_file: float32 ONNX.
        batches: inputs by name.

    Returns:
        value -> (low, high).

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
    extremes: list[list[np.ndarray]] = [[] for _ in outputs]
    seen = 0
    for batch in batches:
        found = session.run(outputs, dict(batch)) if outputs else []
        for index, column in enumerate(found):
            if not np.isfinite(np.asarray(column)).all():
                worst = values[index // 2]
                raise InvalidRequest(
                    f"calibration batch {seen}: activation '{worst}' isn't finite; check the inputs' normalisation."
                )
            extremes[index].append(np.asarray(column).reshape(-1))
        seen += 1
    if not seen:
        raise InvalidRequest("no calibration batch; activation ranges need at least one.")
    joined = [np.concatenate(columns) for columns in extremes]
    return {name: (-_within(-low), _within(high)) for name, low, high in zip(values, joined[::2], joined[1::2], strict=True)}


def _within(largest: np.ndarray) -> float:
    """What `SHARE` of the examples' largest values stay within; of a few examples, all."""
    return float(np.quantile(largest, SHARE, method="higher"))


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
    ranks = _ranks(model)
    for index, name in enumerate(values):
        inner = list(range(1, ranks.get(name, 0)))  # a value of unknown rank is reduced whole
        model.graph.initializer.append(helper.make_tensor(f"__axes{index}", TensorProto.INT64, [len(inner)], inner))
        for kind in ("Min", "Max"):
            out = f"__{kind.lower()}{index}"
            axes = [f"__axes{index}"] if inner else []
            model.graph.node.append(helper.make_node(f"Reduce{kind}", [name, *axes], [out], keepdims=0))
            model.graph.output.append(helper.make_tensor_value_info(out, TensorProto.FLOAT, None))


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Value -> its number of axes, where it is known."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    known = {value.name: value.type.tensor_type for value in (*inferred.value_info, *inferred.input, *inferred.output)}
    return {name: len(kind.shape.dim) for name, kind in known.items() if kind.HasField("shape")}
