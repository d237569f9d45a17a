"""The range of every activation that may be quantized, observed on calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from onnx import TensorProto, helper

from dyncompress.deployment.domain import FOLLOWING, WEIGHTED
from dyncompress.deployment.float_graph import FloatGraph
from dyncompress.deployment.session import at_once, pieces, run_session
from dyncompress.errors import InvalidRequest

_INPUT_NUMBERS = 1 << 19  # numbers in the inputs of one run: all activations are in memory together
_PRODUCERS = (*WEIGHTED, "Relu", "Clip", *FOLLOWING)  # whose outputs may be quantized


def ranges(float_file: bytes, batches: Iterable[Mapping[str, np.ndarray]], share: float = 1.0) -> dict[str, tuple[float, float]]:
    """The range of every activation that `write` may quantize.

    One example's rare peak makes the grid coarser for all others, but it may be the very event that a detector is for. With a
    share of 1 a range covers all values of the calibration examples. Below 1, it ends at that quantile of the examples' largest
    values, and likewise of their smallest values; values beyond it are clipped (see `clipped_shares`).

    onnxruntime runs the float graph with a ReduceMin and a ReduceMax on each candidate. Only one number per example leaves the
    graph, so that memory is that of one batch.

    Args:
        float_file: float32 ONNX.
        batches: calibration inputs by name, each `[n, ...]`.
        share: of the examples, for each end, in (0, 1].

    Returns:
        Activation name -> (low, high).

    Raises:
        InvalidRequest: there is no batch, or an input isn't finite.
    """
    return ranges_within(extremes(float_file, batches), share)


def ranges_within(ends: Mapping[str, tuple[np.ndarray, np.ndarray]], share: float) -> dict[str, tuple[float, float]]:
    """Activation name -> the range that the given share of the examples stays within; `ends` are those of `extremes`."""
    return {name: (-_quantile(-low, share), _quantile(high, share)) for name, (low, high) in ends.items()}


def clipped_shares(
    ends: Mapping[str, tuple[np.ndarray, np.ndarray]], ranges: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    """The share of the examples of which a range clips a value.

    Args:
        ends: the smallest and largest values of each example, of `extremes`.
        ranges: activation name -> (low, high).

    Returns:
        Activation name -> share in (0, 1]; activations of which nothing is clipped are left out.
    """
    shares = {}
    for name, (low, high) in ranges.items():
        least, most = ends[name]
        clipped = float(((least < low) | (most > high)).mean())
        shares.update({name: clipped} if clipped else {})
    return shares


def extremes(float_file: bytes, batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The smallest and the largest value of every candidate activation in each example.

    Activations that are infinite anywhere are left out and stay float, such as attention scores behind a mask.

    Args:
        float_file: float32 ONNX.
        batches: calibration inputs by name, each `[n, ...]`.

    Returns:
        Activation name -> (smallest, largest), each `[examples]`; for an activation without a batch axis `[batches]`.

    Raises:
        InvalidRequest: there is no batch, or an input isn't finite.
    """
    graph = FloatGraph.of(float_file)
    model, values = graph.model, candidates(graph)
    _add_reductions(graph, values)
    session = graph.session()
    inputs = {value.name for value in model.graph.input}
    outputs = [f"{kind}{index}" for index in range(len(values)) for kind in ("__min", "__max")]
    columns: list[list[np.ndarray]] = [[] for _ in outputs]
    count_of_batches = 0
    for batch in batches:
        for part, count in pieces(session, batch, at_once(batch, _INPUT_NUMBERS)):
            size = len(next(iter(part.values())))
            for index, column in enumerate(run_session(session, outputs, part) if outputs else ()):
                ends = np.asarray(column).reshape(-1)
                columns[index].append(ends[:count] if len(ends) == size else ends)
                if values[index // 2] in inputs and not np.isfinite(ends).all():
                    raise InvalidRequest(
                        f"calibration batch {count_of_batches}: input '{values[index // 2]}' isn't finite; clean the data."
                    )
        count_of_batches += 1
    if not count_of_batches:
        raise InvalidRequest("there is no calibration batch; activation ranges need at least one.")
    joined = [np.concatenate(parts) for parts in columns]
    pairs = zip(values, zip(joined[::2], joined[1::2], strict=True), strict=True)
    return {name: ends for name, ends in pairs if all(np.isfinite(end).all() for end in ends)}


def _quantile(largest: np.ndarray, share: float) -> float:
    """The smallest of the values `[examples]` that at least the given share of them doesn't exceed."""
    return float(np.quantile(largest, share, method="higher"))


def candidates(graph: FloatGraph) -> list[str]:
    """Names of float values that may be quantized: outputs of operators with integer kernels, inputs of those with weights."""
    model = graph.model
    constants = {tensor.name for tensor in model.graph.initializer}
    names: dict[str, None] = {}
    for node in model.graph.node:
        if node.op_type in WEIGHTED and node.input[0] not in constants:
            names[node.input[0]] = None
        if node.op_type in _PRODUCERS:
            names[node.output[0]] = None
    floats = _float_values(graph)
    return [name for name in names if name in floats]


def _float_values(graph: FloatGraph) -> set[str]:
    """Names of the graph's inputs and of the outputs of its nodes that are known to be float32."""
    inferred = graph.inferred()
    types = {}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        types[value.name] = value.type.tensor_type.elem_type
    names = {out for node in inferred.node for out in node.output} | {value.name for value in inferred.input}
    return {name for name in names if types.get(name) == TensorProto.FLOAT}


def _add_reductions(graph: FloatGraph, values: list[str]) -> None:
    """Add the outputs `__min{i}` and `__max{i}`, `[n]`, of the i-th value to the graph."""
    model, ranks = graph.model, _ranks(graph)
    for index, name in enumerate(values):
        inner = list(range(1, ranks.get(name, 0)))  # a value of unknown rank is reduced over all its axes
        model.graph.initializer.append(helper.make_tensor(f"__axes{index}", TensorProto.INT64, [len(inner)], inner))
        for kind in ("Min", "Max"):
            out = f"__{kind.lower()}{index}"
            axes = [f"__axes{index}"] if inner else []
            model.graph.node.append(helper.make_node(f"Reduce{kind}", [name, *axes], [out], keepdims=0))
            model.graph.output.append(helper.make_tensor_value_info(out, TensorProto.FLOAT, None))


def _ranks(graph: FloatGraph) -> dict[str, int]:
    """Value name -> its number of axes, where shape inference knows it."""
    inferred = graph.inferred()
    types = {value.name: value.type.tensor_type for value in (*inferred.value_info, *inferred.input, *inferred.output)}
    return {name: len(kind.shape.dim) for name, kind in types.items() if kind.HasField("shape")}
