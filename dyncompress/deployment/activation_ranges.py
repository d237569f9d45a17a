"""The range of every activation that may be quantized, seen on calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from dyncompress.deployment.domain import FOLLOWING
from dyncompress.deployment.session import pieces, processors, ran
from dyncompress.deployment.stripping import parse, strip
from dyncompress.errors import InvalidRequest

_MADE_BY = ("Conv", "Gemm", "MatMul", "Relu", "Clip", *FOLLOWING)
_READ_BY = ("Conv", "Gemm", "MatMul")


def ranges(float_file: bytes, batches: Iterable[Mapping[str, np.ndarray]], share: float = 1.0) -> dict[str, tuple[float, float]]:
    """The range of every activation that `write` may quantize: what a share of the examples stays within, whole.

    One example's rare peak makes the grid coarser for all others, but it may be the very event that a detector is for. With a
    share of 1 the range holds whatever the calibration examples showed; below, it ends where this share of the examples have
    their smallest and their largest value, and what lies beyond is cut (`cut_shares`).
    onnxruntime runs the float graph with a ReduceMin and a ReduceMax on each candidate: one number an example leaves the graph,
    so that memory is that of one batch.

    Args:
        float_file: float32 ONNX.
        batches: inputs by name.
        share: of the examples, for each end, in (0, 1].

    Returns:
        value -> (low, high).

    Raises:
        InvalidRequest: no batch.
    """
    return within(extremes(float_file, batches), share)


def within(found: Mapping[str, tuple[np.ndarray, np.ndarray]], share: float) -> dict[str, tuple[float, float]]:
    """Activation -> the range that a share of the examples stays within, of what `extremes` found."""
    return {name: (-_end(-low, share), _end(high, share)) for name, (low, high) in found.items()}


def cut_shares(found: Mapping[str, tuple[np.ndarray, np.ndarray]], ends: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Activation -> share of the examples of which a range cuts something off, where it does.

    Args:
        found: of `extremes`.
        ends: of `ranges`.
    """
    shares = {}
    for name, (low, high) in ends.items():
        least, most = found[name]
        cut = float(((least < low) | (most > high)).mean())
        shares.update({name: cut} if cut else {})
    return shares


def extremes(float_file: bytes, batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Activation -> its smallest and its largest value in each example, each `[n]` (in each batch, where it has no batch axis).

    Activations that are infinite somewhere are left out and stay float: scores of attention behind a mask are.

    Raises:
        InvalidRequest: no batch.
    """
    model = parse(strip(float_file))
    values = candidates(model)
    _observe(model, values)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = processors()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = {value.name for value in model.graph.input}
    outputs = [f"{kind}{index}" for index in range(len(values)) for kind in ("__min", "__max")]
    columns: list[list[np.ndarray]] = [[] for _ in outputs]
    seen = 0
    for batch in batches:
        for part, count in pieces(session, batch):
            size = len(next(iter(part.values())))
            for index, column in enumerate(ran(session, outputs, part) if outputs else ()):
                ends = np.asarray(column).reshape(-1)
                columns[index].append(ends[:count] if len(ends) == size else ends)
                if values[index // 2] in inputs and not np.isfinite(ends).all():
                    raise InvalidRequest(f"calibration batch {seen}: input '{values[index // 2]}' isn't finite; clean the data.")
        seen += 1
    if not seen:
        raise InvalidRequest("no calibration batch; activation ranges need at least one.")
    joined = [np.concatenate(parts) for parts in columns]
    pairs = zip(values, zip(joined[::2], joined[1::2], strict=True), strict=True)
    return {name: ends for name, ends in pairs if all(np.isfinite(end).all() for end in ends)}


def _end(largest: np.ndarray, share: float) -> float:
    """What a share of the examples' largest values stay within; of a few examples, all."""
    return float(np.quantile(largest, share, method="higher"))


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
