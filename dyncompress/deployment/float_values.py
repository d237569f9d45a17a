"""Find activations that must stay float, because one 8-bit grid for the whole tensor is too coarse for one of its channels.

Where the channels of a tensor have different scales, such as boxes in pixels beside logits, the step of the grid follows the
largest channel and may exceed the whole range of a small one. In front of a graph's outputs no later layer compensates that, so
there a value stays float if its grid's rounding error exceeds `OUTPUT_NOISE` times the spread (standard deviation) of a channel.
Between layers small channels often don't matter; there a value stays float only if the outputs show that they do, which the
caller checks, and the rounding error exceeds `LOST` times the spread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from dyncompress.deployment.channels import channel_axes
from dyncompress.deployment.domain import FOLLOWING, PRODUCTS
from dyncompress.deployment.float_graph import FloatGraph
from dyncompress.deployment.grid import activation_grid
from dyncompress.deployment.session import pieces, run_session
from dyncompress.types import Target

Ranges = Mapping[str, tuple[float, float]]

OUTPUT_NOISE = 0.05  # root mean square rounding error, as a share of a channel's spread, allowed in front of an output
LOST = 0.5  # the same share from which on a channel between layers counts as lost
_EXAMPLES = 128  # calibration examples that spreads are computed on
_AT_ONCE = 16  # examples of a run: bounds the memory of the values
_QUANTIZED = ("Conv", "Relu", "Clip", *FOLLOWING)  # operators whose output has a grid even in front of an output


def coarse_output_values(
    float_file: bytes, batches: Iterable[Mapping[str, np.ndarray]], ranges: Ranges, target: Target
) -> dict[str, float]:
    """The values in front of the outputs whose grid is too coarse for one of their channels (above `OUTPUT_NOISE`).

    Args:
        float_file: float32 ONNX.
        batches: calibration inputs by name; the first 128 examples are read.
        ranges: activation name -> (low, high).
        target: that decides the grids.

    Returns:
        Activation name -> root mean square rounding error of its worst channel, as a share of that channel's spread.
    """
    graph = FloatGraph.of(float_file)
    tail = {name: ranges[name] for name in _output_values(graph.model.graph) if name in ranges}
    return _coarse_values(graph, batches, tail, target, OUTPUT_NOISE)


def channel_losing_values(
    float_file: bytes, batches: Iterable[Mapping[str, np.ndarray]], ranges: Ranges, target: Target
) -> dict[str, float]:
    """All values whose grid loses a channel (above `LOST`); arguments and result as those of `coarse_output_values`."""
    return _coarse_values(FloatGraph.of(float_file), batches, ranges, target, LOST)


def _output_values(graph: onnx.GraphProto) -> list[str]:
    """Names of values with grids between which and the outputs there is no layer with weights."""
    producers = {name: node for node in graph.node for name in node.output}
    waiting, visited, names = [value.name for value in graph.output], set(), []
    while waiting:
        name = waiting.pop()
        if name in visited or name not in producers:
            continue
        visited.add(name)
        node = producers[name]
        if node.op_type in _QUANTIZED:
            names.append(name)
        if node.op_type not in PRODUCTS:
            waiting += [value for value in node.input if value]
    return names


def _coarse_values(
    graph: FloatGraph, batches: Iterable[Mapping[str, np.ndarray]], ranges: Ranges, target: Target, limit: float
) -> dict[str, float]:
    """Activation name -> rounding error of the worst channel as a share of its spread, where it is above the limit."""
    if not ranges:
        return {}
    worst = {}
    for name, spreads in _spreads(graph, batches, list(ranges)).items():
        noise = float(activation_grid(*ranges[name], target, name).scale) / 12**0.5
        error = max((float((noise / spread).max()) for spread in spreads if spread.size), default=0.0)
        worst.update({name: error} if error > limit else {})
    return worst


def _spreads(graph: FloatGraph, batches: Iterable[Mapping[str, np.ndarray]], names: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """Value name -> the spreads of its channels that aren't constant, along each axis that may be the channels'."""
    del graph.model.graph.output[:]
    graph.model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = graph.session()
    sums: dict[tuple[str, int], list[np.ndarray]] = {}
    left = _EXAMPLES
    for batch in batches:
        few = {name: value[: max(left, 0)] for name, value in batch.items()}
        left -= len(next(iter(batch.values())))
        for part, count in pieces(session, few, _AT_ONCE):
            size = len(next(iter(part.values())))
            for name, value in zip(names, run_session(session, None, part), strict=True):
                value = value[:count] if value.ndim and len(value) == size else value
                for axis in channel_axes(value.shape):
                    sums.setdefault((name, axis), []).append(_moments(value, axis))
    spreads: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for (name, _), parts in sums.items():
        if len({part.shape for part in parts}) == 1:  # an axis whose length differs between batches isn't that of channels
            spreads[name].append(_nonzero_spreads(np.sum(parts, axis=0)))
    return spreads


def _moments(value: np.ndarray, axis: int) -> np.ndarray:
    """Count, sum and sum of squares of each channel, `[3, channels]`."""
    others = tuple(i for i in range(value.ndim) if i != axis)
    value = value.astype(np.float64)
    total = value.sum(others)
    return np.stack([np.full_like(total, value.size / max(value.shape[axis], 1)), total, np.square(value).sum(others)])


def _nonzero_spreads(sums: np.ndarray) -> np.ndarray:
    """Standard deviations of the channels that aren't constant, from the sums `[3, channels]` of `_moments`."""
    count, total, squares = sums
    mean, power = total / count, squares / count
    spread = np.sqrt(np.maximum(power - mean**2, 0.0))
    return spread[spread > 1e-3 * np.sqrt(power)]
