"""Activations that stay float: those of which one 8-bit grid would cost a channel its signal.

A tensor has one grid. Where its channels have scales of their own, boxes in pixels beside logits, the grid's step follows the
largest and may be wider than all that a small channel says. In front of a graph's outputs nothing makes up for that, so there a
value whose grid rounds off more than `OUTPUT_NOISE` of a channel's spread stays float. Between layers small channels often don't
matter; there values are given up only where the outputs show that they do (`LOST`, by the caller).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime

from dyncompress.deployment.channels import channel_axes
from dyncompress.deployment.domain import FOLLOWING
from dyncompress.deployment.grid import activation_grid
from dyncompress.deployment.session import options, pieces, ran
from dyncompress.deployment.stripping import parse, strip
from dyncompress.types import Target

Ranges = Mapping[str, tuple[float, float]]

OUTPUT_NOISE = 0.05  # root mean square of rounding, as a share of a channel's spread, in front of an output
LOST = 0.5  # the same, from which on a channel counts as lost
_EXAMPLES = 128
_AT_ONCE = 16  # examples: bounds the memory of the values that are looked at
_ENDS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_GRIDDED = ("Conv", "Relu", "Clip", *FOLLOWING)  # what has an integer kernel, and no other, in front of an output


def kept_float(
    float_file: bytes, batches: Iterable[Mapping[str, np.ndarray]], ranges: Ranges, target: Target
) -> dict[str, float]:
    """Values in front of the outputs whose grid costs a channel its signal -> the worst channel's rounding error.

    Args:
        float_file: float32 ONNX.
        batches: calibration inputs by name; the first 128 examples are looked at.
        ranges: of the activations.
        target: gives the grids.

    Returns:
        value -> root mean square of the rounding relative to the channel's spread, above `OUTPUT_NOISE`.
    """
    model = parse(strip(float_file))
    return _noisy(model, batches, {name: ranges[name] for name in _tail(model.graph) if name in ranges}, target, OUTPUT_NOISE)


def losing(float_file: bytes, batches: Iterable[Mapping[str, np.ndarray]], ranges: Ranges, target: Target) -> dict[str, float]:
    """Values anywhere whose grid loses a channel altogether (`LOST`) -> the worst channel's rounding error."""
    return _noisy(parse(strip(float_file)), batches, ranges, target, LOST)


def _tail(graph: onnx.GraphProto) -> list[str]:
    """Values with grids from which the outputs are reached without another product with weights."""
    makers = {name: node for node in graph.node for name in node.output}
    waiting, seen, found = [value.name for value in graph.output], set(), []
    while waiting:
        name = waiting.pop()
        if name in seen or name not in makers:
            continue
        seen.add(name)
        node = makers[name]
        if node.op_type in _GRIDDED:
            found.append(name)
        if node.op_type not in _ENDS:
            waiting += [value for value in node.input if value]
    return found


def _noisy(
    model: onnx.ModelProto, batches: Iterable[Mapping[str, np.ndarray]], ranges: Ranges, target: Target, limit: float
) -> dict[str, float]:
    """Value -> the worst channel's rounding error, where it is above a limit."""
    if not ranges:
        return {}
    worst = {}
    for name, spreads in _spreads(model, batches, list(ranges)).items():
        noise = float(activation_grid(*ranges[name], target, name).scale) / 12**0.5
        error = max((float((noise / spread).max()) for spread in spreads if spread.size), default=0.0)
        worst.update({name: error} if error > limit else {})
    return worst


def _spreads(
    model: onnx.ModelProto, batches: Iterable[Mapping[str, np.ndarray]], names: Sequence[str]
) -> dict[str, list[np.ndarray]]:
    """Value -> the spreads of its channels that vary, along each axis that may count channels."""
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    plain = Target(name="plain", summary="", verified="schema")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options(plain), providers=["CPUExecutionProvider"])
    sums: dict[tuple[str, int], list[np.ndarray]] = {}
    left = _EXAMPLES
    for batch in batches:
        few = {name: value[: max(left, 0)] for name, value in batch.items()}
        left -= len(next(iter(batch.values())))
        for part, count in pieces(session, few, _AT_ONCE):
            size = len(next(iter(part.values())))
            for name, value in zip(names, ran(session, None, part), strict=True):
                value = value[:count] if value.ndim and len(value) == size else value
                for axis in channel_axes(value.shape):
                    sums.setdefault((name, axis), []).append(_moments(value, axis))
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for (name, _), parts in sums.items():
        if len({part.shape for part in parts}) == 1:  # an axis of another length in every example counts no channels
            found[name].append(_varying(np.sum(parts, axis=0)))
    return found


def _moments(value: np.ndarray, axis: int) -> np.ndarray:
    """Count, sum and sum of squares of each channel, `[3, channels]`."""
    others = tuple(i for i in range(value.ndim) if i != axis)
    value = value.astype(np.float64)
    total = value.sum(others)
    return np.stack([np.full_like(total, value.size / max(value.shape[axis], 1)), total, np.square(value).sum(others)])


def _varying(sums: np.ndarray) -> np.ndarray:
    """Standard deviations of the channels that aren't constant."""
    count, total, squares = sums
    mean, power = total / count, squares / count
    spread = np.sqrt(np.maximum(power - mean**2, 0.0))
    return spread[spread > 1e-3 * np.sqrt(power)]
