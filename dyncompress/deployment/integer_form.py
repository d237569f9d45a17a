"""The integer file of a float graph, its activation ranges chosen by what the file answers.

Two questions are settled by running files, since no rule about ranges settles them. May the largest activations of a few
examples be cut, so that the grid is finer for all others? Only where that is better on average, and where even the examples that
are cut most are answered well: one in a hundred may be the event that a detector is for. And which activations must stay float?
First those in front of an output whose grid costs a channel its signal; where a channel of an output is lost all the same, every
activation that loses a channel; at last all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dyncompress.deployment.activation_ranges import cut_shares, extremes, within
from dyncompress.deployment.channels import any_lost
from dyncompress.deployment.float_values import kept_float, losing
from dyncompress.deployment.session import Session
from dyncompress.deployment.writer import Encodings, write
from dyncompress.types import Target

Batches = Sequence[Mapping[str, np.ndarray]]
Ranges = dict[str, tuple[float, float]]
Extremes = Mapping[str, tuple[np.ndarray, np.ndarray]]

_COMPARED = 128  # examples that are cut most, and as many others
_SPARED = 0.25  # error of an example's outputs, in their channels' spreads, that a cut may cause


@dataclass(frozen=True)
class IntegerFile:
    """A file and how it came about.

    Attributes:
        body: the bytes.
        outputs: of the file on the examples that were shown.
        cut: activation -> share of the calibration examples whose largest values are cut.
        floats: activations that stay float though their operators have integer kernels -> the worst channel's rounding error.
        all_float: whether no grid was good enough, so that only weights are integers.
    """

    body: bytes
    outputs: tuple[np.ndarray, ...]
    cut: Mapping[str, float]
    floats: Mapping[str, float]
    all_float: bool = False


def integer_file(
    float_file: bytes,
    encodings: Encodings,
    batches: Batches,
    target: Target,
    *,
    shown: tuple[Batches, Sequence[np.ndarray]],
    original: Sequence[np.ndarray] = (),
    share: float = 1.0,
) -> IntegerFile:
    """Write the file, run it, and give up grids until no channel of an output is lost.

    Args:
        float_file: float32 ONNX, its weights equal to the encodings'.
        encodings: initializer -> (encoding, layout).
        batches: calibration inputs.
        target: of the file.
        shown: batches of inputs, and the float graph's outputs on all of them as `session.joined` puts them together: what the
            file's outputs are compared with.
        original: outputs of the model that came in, of which no channel that the float graph has may be lost either.
        share: of the examples that ranges may end at.
    """
    inputs, wanted = shown
    found = extremes(float_file, batches) if batches else {}
    whole = within(found, 1.0)
    floats = kept_float(float_file, batches, whole, target)
    whole, narrow = ({n: ends for n, ends in r.items() if n not in floats} for r in (whole, within(found, share)))

    def attempt(ranges: Ranges) -> tuple[bytes, tuple[np.ndarray, ...]]:
        body = write(float_file, encodings, ranges, target if ranges else replace(target, activation_dtype="float32"))
        return body, Session(body, target).over(inputs)

    told = [right for right in (wanted, original) if right and not any_lost(wanted, right)]

    def loses(outputs: Sequence[np.ndarray]) -> bool:
        return any(any_lost(outputs, right) for right in told)

    chosen, (body, outputs) = whole, attempt(whole)
    if narrow != whole:
        cut_body, cut_outputs = attempt(narrow)
        if _spared(float_file, (body, cut_body), (found, narrow), batches, target, wanted):
            chosen, body, outputs = narrow, cut_body, cut_outputs
    if loses(outputs):
        floats = {**floats, **losing(float_file, batches, chosen, target)}
        chosen = {name: ends for name, ends in chosen.items() if name not in floats}
        body, outputs = attempt(chosen)
    all_float = bool(chosen) and loses(outputs)
    if all_float:
        chosen = {}
        body, outputs = attempt(chosen)
    return IntegerFile(body, outputs, cut_shares(found, chosen), floats, all_float)


def _spared(
    float_file: bytes,
    files: tuple[bytes, bytes],
    ranges: tuple[Extremes, Ranges],
    batches: Batches,
    target: Target,
    wanted: Sequence[np.ndarray],
) -> bool:
    """Whether the second file, whose ranges are cut, is the better one, and spares the examples that are cut most."""
    chosen = _cut_most(*ranges, batches)
    weights = [_per_channel(right) for right in wanted]

    def answers(content: bytes) -> list[tuple[np.ndarray, ...]]:  # one session at a time: each holds the whole network
        session = Session(content, target)
        return [session.run(part) for part in chosen]

    right = answers(float_file)
    whole, cut = (
        np.concatenate([_example_errors(*pair, weights) for pair in zip(answers(content), right, strict=True)])
        for content in files
    )
    return bool(cut.mean() <= whole.mean() and cut.max() <= max(_SPARED**2, float(whole.max())))


def _cut_most(found: Extremes, narrow: Ranges, batches: Batches) -> list[dict[str, np.ndarray]]:
    """The examples that reach furthest beyond the ranges, and as many of the others, batch by batch."""
    sizes = [len(next(iter(batch.values()))) for batch in batches]
    reach = np.zeros(sum(sizes))
    for name, (low, high) in narrow.items():
        least, most = found[name]
        if len(most) == len(reach):
            width = max(high - low, 1e-30)
            reach = np.maximum(reach, np.maximum(most - high, low - least) / width)
    order = np.argsort(-reach, kind="stable")
    picked = np.zeros(len(reach), dtype=bool)
    picked[order[:_COMPARED]] = picked[order[len(order) - min(_COMPARED, len(order)) :]] = True
    starts = np.cumsum([0, *sizes])
    rows = [np.flatnonzero(picked[start : start + size]) for start, size in zip(starts, sizes, strict=False)]
    return [{name: value[r] for name, value in batch.items()} for batch, r in zip(batches, rows, strict=True) if len(r)]


def _per_channel(output: np.ndarray) -> np.ndarray | None:
    """What an error of each channel counts: one over its spread, along the second axis; None for indices and masks."""
    if output.dtype.kind != "f":
        return None
    values = np.where(np.isfinite(output), output, 0.0).astype(np.float64)
    others = tuple(i for i in range(values.ndim) if i != 1)
    spread = np.asarray(values.std(others if values.ndim > 1 else None))
    whole = float(values.std()) or 1.0
    shape = [-1 if i == 1 else 1 for i in range(values.ndim)]
    weight = 1 / np.where(spread > 1e-6 * whole, spread, whole)
    return weight.reshape(shape) if values.ndim > 1 else weight


def _example_errors(
    outputs: Sequence[np.ndarray], wanted: Sequence[np.ndarray], weights: Sequence[np.ndarray | None]
) -> np.ndarray:
    """Squared error of each example, channels in units of their spread, `[n]`."""
    total = np.zeros(len(wanted[0]))
    for found, right, weight in zip(outputs, wanted, weights, strict=True):
        if weight is not None:
            if weight.ndim not in (0, right.ndim):  # axes of several lengths: channels lie elsewhere in what was joined
                weight = weight.mean()
            gap = np.where(found == right, 0.0, found - np.where(np.isfinite(right), right, 0.0)) * weight
            total += np.square(gap).reshape(len(right), -1).mean(1)
    return total
