"""The integer file of a float graph, with activation ranges and a form that are chosen by running candidate files.

1. Whether the largest activations of a few examples are clipped, which makes the grid finer for all others. They are clipped
   only if the error of the outputs is no larger on average and small also for the examples that are clipped most: one in a
   hundred may be the event that a detector is for.
2. Which activations stay float. By the target's kernel times, those of nodes that are faster in float. Then those in front of an
   output whose grid is too coarse for one of their channels. If a channel of an output is lost nevertheless, also every
   activation whose grid loses a channel. If that isn't enough, all. If the outputs are too far from the float graph's after that,
   the first activations, as few as it takes. All stay float, too, where this machine is one of the
   target's and integers turn out to make a run less than `WORTH` times as fast.
3. Where the target allows the static form of products and the dynamic one: the second one of its list, if it loses no channel,
   is worth its errors and turns out to be `FASTER`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dyncompress.deployment.activation_ranges import clipped_shares, extremes, ranges_within
from dyncompress.deployment.bench import time_pair
from dyncompress.deployment.channels import Positions, any_lost
from dyncompress.deployment.faster_form import Shapes, shapes_of_one
from dyncompress.deployment.float_values import channel_losing_values, coarse_output_values
from dyncompress.deployment.row_order import AS_IT_IS, RowOrder
from dyncompress.deployment.session import Session, cannot_run_here, processors
from dyncompress.deployment.writer import Encodings, write_and_list
from dyncompress.types import Target

Batches = Sequence[Mapping[str, np.ndarray]]
Ranges = dict[str, tuple[float, float]]
Outputs = Sequence[np.ndarray]
Extremes = Mapping[str, tuple[np.ndarray, np.ndarray]]

WORTH = 1.25  # integer activations cost accuracy, and have to make a file so many times as fast
FASTER = 1.05  # a form of products is chosen over the target's first one if it makes a file so many times as fast
_COMPARED = 128  # number of the examples that are clipped most, and of others, on which files are compared
LARGEST_ERROR = (
    0.2  # that integer activations may cause in an output, in units of its channels' spreads, unless weights cause more
)
_LARGEST_ERROR = 0.25  # error of an example's outputs, in units of the channels' spreads, that clipping may cause


@dataclass(frozen=True)
class Calibration:
    """The examples from which activation ranges are computed.

    Attributes:
        batches: inputs by name; without any, all activations stay float.
        share: of the examples, for the ends of clipped ranges; see `ranges`.
    """

    batches: Batches
    share: float = 1.0


@dataclass(frozen=True)
class Comparison:
    """The examples on which the file is compared with the float graph.

    Attributes:
        inputs: batches of inputs by name.
        expected: the float graph's outputs on all of them (`session.concatenate_batches`).
        original: outputs of the original model on the same inputs; no channel of theirs that the float graph keeps may be lost.
        rows: how rows are put in the original's order.
        complete: whether all calibration examples are among the inputs, and each is one row of the outputs.
        positions: of each output, see `channels.channel_axes`.
    """

    inputs: Batches
    expected: Sequence[np.ndarray]
    original: Sequence[np.ndarray] = ()
    positions: Sequence[Positions] = ()
    complete: bool = False
    rows: RowOrder = AS_IT_IS


@dataclass(frozen=True)
class IntegerFile:
    """A file, and the choices that were made for it.

    Attributes:
        body: the bytes of the file, unsealed.
        outputs: of the file on the inputs of the comparison.
        cut: activation name -> share of the calibration examples of which it clips a value.
        floats: activation that stays float though its operator has an integer kernel -> rounding error of its worst channel, as a
            share of the channel's spread, that the grid would have had.
        all_float: whether all activations stay float because no choice of grids kept all channels; weights are integers still.
        gain: time of the file with float activations over that with integer ones, measured here; nan where it wasn't. Below
            `WORTH` all activations stay float.
        first: the activations at the front of the graph that stay float, since the file would have the `error` otherwise.
        error: of the outputs where all activations are quantized that may be, in units of the channels' spreads.
        form: of its products, `static` or `dynamic`; empty where all activations are float.
        over_other: time of the file in the target's other form over that of this one, measured here; nan where it wasn't.
    """

    body: bytes
    outputs: tuple[np.ndarray, ...]
    cut: Mapping[str, float]
    floats: Mapping[str, float]
    all_float: bool = False
    gain: float = float("nan")
    form: str = "static"
    over_other: float = float("nan")
    first: tuple[str, ...] = ()
    error: float = 0.0


def integer_file(
    float_file: bytes, encodings: Encodings, calibration: Calibration, target: Target, comparison: Comparison
) -> IntegerFile:
    """Write the integer file, run it, and leave activations in float until no channel of an output is lost.

    Args:
        float_file: float32 ONNX, with the weights that the encodings stand for.
        encodings: initializer name -> (encoding, layout of `types.Placement`).
        calibration: the examples for the activation ranges.
        target: that the file is written for.
        comparison: the examples on which the file runs, and the outputs that it is compared with.

    Returns:
        The file, its outputs, and which activations are clipped or stay float.
    """
    if target.activation_dtype == "float32" or target.forms == ("static",):
        return _static_file(float_file, encodings, calibration, target, comparison)
    files = [
        _static_file(float_file, encodings, calibration, target, comparison)
        if form == "static"
        else _dynamic_file(_Trial(float_file, encodings, target, None, comparison))
        for form in target.forms
    ]
    return files[0] if len(files) == 1 else _faster(files[0], files[1], comparison, target)


def _faster(first: IntegerFile, second: IntegerFile, comparison: Comparison, target: Target) -> IntegerFile:
    """The file in the target's first form, unless it has float activations or the other form is `FASTER` on this machine."""
    if not first.form or not second.form or cannot_run_here(target):
        return second if second.form and not first.form else first
    ratio = time_pair(first.body, second.body, _one_example(comparison.inputs), target).ratio
    return replace(second, over_other=ratio) if ratio > FASTER else replace(first, over_other=1 / ratio)


def _one_example(batches: Batches) -> dict[str, np.ndarray]:
    return {name: value[:1] for name, value in batches[0].items()}


def _dynamic_file(trial: _Trial) -> IntegerFile:
    """The file in the dynamic form, or with float activations where that loses a channel or gains too little time."""
    made, gain = trial.attempt({}, "dynamic"), float("nan")
    if not made.quantized:
        return IntegerFile(made.body, made.outputs, {}, {}, form="")
    in_float, all_float = trial.attempt({}), trial.loses_channel(made) or trial.error(made) > trial.largest_error
    if not all_float and not cannot_run_here(trial.target):
        gain = time_pair(in_float.body, made.body, _one_example(trial.comparison.inputs), trial.target).ratio
    if all_float or gain < WORTH:
        return IntegerFile(in_float.body, in_float.outputs, {}, {}, all_float, gain, form="")
    return IntegerFile(made.body, made.outputs, {}, {}, gain=gain, form="dynamic")


def _static_file(
    float_file: bytes, encodings: Encodings, calibration: Calibration, target: Target, comparison: Comparison
) -> IntegerFile:
    """The file in the static form; arguments and result as those of `integer_file`."""
    target = replace(target, forms=("static",))
    batches, expected = calibration.batches, comparison.expected
    ends = extremes(float_file, batches) if batches else {}
    shapes = shapes_of_one(float_file, batches[0]) if batches and target.kernel_times is not None else None
    whole = ranges_within(ends, 1.0)
    floats = coarse_output_values(float_file, batches, whole, target)
    whole, narrow = (
        {n: r for n, r in by_name.items() if n not in floats} for by_name in (whole, ranges_within(ends, calibration.share))
    )
    trial = _Trial(float_file, encodings, target, shapes, comparison)
    chosen, made = whole, trial.attempt(whole)
    gain = float("nan")
    if made.quantized and target.kernel_times is not None and not cannot_run_here(target):
        in_float, one = trial.attempt({}), _one_example(batches)
        gain = time_pair(in_float.body, made.body, one, target).ratio
        if gain < WORTH:
            return IntegerFile(in_float.body, in_float.outputs, {}, floats, gain=gain, form="")
    if any(narrow[name] != whole[name] for name in made.quantized):
        clipped = trial.attempt(narrow)
        parts = [[expected], [made.outputs], [clipped.outputs]]
        if not comparison.complete:
            examples = _examples_to_compare(ends, {name: narrow[name] for name in made.quantized}, batches)
            parts = _outputs_of((float_file, made.body, clipped.body), examples, target)
        if _clipping_helps(expected, *parts):
            chosen, made = narrow, clipped
    all_float = False
    if trial.loses_channel(made):
        floats = {**floats, **channel_losing_values(float_file, batches, chosen, target)}
        chosen = {name: limits for name, limits in chosen.items() if name not in floats}
        made = trial.attempt(chosen)
        all_float = bool(chosen) and trial.loses_channel(made)
    if all_float:
        chosen = {}
        made = trial.attempt(chosen)
    first: tuple[str, ...] = ()
    error = trial.error(made)
    if error > trial.largest_error:
        made, first = _first_in_float(trial, chosen, made)
    cut = clipped_shares(ends, {name: chosen[name] for name in made.quantized})
    form = "static" if made.quantized else ""
    return IntegerFile(made.body, made.outputs, cut, floats, all_float, gain, form, first=first, error=error)


def _first_in_float(trial: _Trial, ranges: Ranges, made: _Attempt) -> tuple[_Attempt, tuple[str, ...]]:
    """The file whose first activations stay float, as few as bring its error within the limit, and their names.

    Errors of a front end, such as a spectrum in front of a logarithm, pass through all that follows. The number is found by
    bisection, as if every activation more in float made the error smaller.

    Args:
        trial: of the files.
        ranges: of all activations that may be quantized, in the order of the graph.
        made: the file with all of them quantized.
    """
    names = [name for name in ranges if name in made.quantized]
    found, low, high = trial.attempt({}), 1, len(names)
    while low < high:
        middle = (low + high) // 2
        tried = trial.attempt({name: ranges[name] for name in names[middle:]})
        if trial.error(tried) <= trial.largest_error:
            found, high = tried, middle
        else:
            low = middle + 1
    return found, tuple(names[:high])


@dataclass(frozen=True)
class _Attempt:
    """A file, its outputs on the inputs of the comparison, and the activations that are quantized in it."""

    body: bytes
    outputs: tuple[np.ndarray, ...]
    quantized: frozenset[str]


@dataclass(frozen=True)
class _Trial:
    """Writes the file for any activation ranges and compares its outputs; the attributes are those of `integer_file`."""

    float_file: bytes
    encodings: Encodings
    target: Target
    shapes: Shapes | None
    comparison: Comparison

    def attempt(self, ranges: Ranges, form: str = "static") -> _Attempt:
        """The file for these ranges; in the static form without any, all activations stay float."""
        in_float = form == "static" and not ranges
        kind = replace(self.target, activation_dtype="float32" if in_float else self.target.activation_dtype, forms=(form,))
        body, quantized = write_and_list(self.float_file, self.encodings, ranges, kind, self.shapes)
        outputs = Session(body, self.target, processors()).over(self.comparison.inputs)
        return _Attempt(body, self.comparison.rows.matched(outputs), quantized)

    @cached_property
    def _references(self) -> list[Outputs]:
        """Outputs whose channels have to stay: the float graph's, and the original model's where the float graph keeps all."""
        expected, original, positions = self.comparison.expected, self.comparison.original, self.comparison.positions
        return [expected, original] if original and not any_lost(expected, original, positions) else [expected]

    def error(self, made: _Attempt) -> float:
        """The largest output's root mean square difference from the float graph, in units of the channels' spreads."""
        return _largest_error(made.outputs, self.comparison.expected)

    @cached_property
    def largest_error(self) -> float:
        """The largest error that integer activations may cause: `LARGEST_ERROR`, or what the weights have caused before them."""
        original = self.comparison.original
        return max(LARGEST_ERROR, _largest_error(self.comparison.expected, original) if original else 0.0)

    def loses_channel(self, made: _Attempt) -> bool:
        """Whether a channel of an output is lost."""
        return any(any_lost(made.outputs, right, self.comparison.positions) for right in self._references)


def _outputs_of(files: Sequence[bytes], examples: Batches, target: Target) -> list[list[Outputs]]:
    """The outputs of each file on each batch of examples; one session at a time, since each holds the whole network."""

    def run(content: bytes) -> list[Outputs]:
        session = Session(content, target, processors())
        return [session.run(part) for part in examples]

    return [run(content) for content in files]


def _clipping_helps(
    expected: Outputs, right: Sequence[Outputs], whole_ranges: Sequence[Outputs], clipped_ranges: Sequence[Outputs]
) -> bool:
    """Whether a file whose ranges are clipped has no larger error on average than one whose aren't, and none that is too large.

    Args:
        expected: outputs of the float graph, whose channels have the spreads that errors are relative to.
        right: its outputs on each batch of examples.
        whole_ranges, clipped_ranges: outputs of the two files on these batches.
    """
    weights = [_channel_weights(output) for output in expected]
    whole, clipped = (
        np.concatenate([_example_errors(*pair, weights) for pair in zip(outputs, right, strict=True)])
        for outputs in (whole_ranges, clipped_ranges)
    )
    return bool(clipped.mean() <= whole.mean() and clipped.max() <= max(_LARGEST_ERROR**2, float(whole.max())))


def _examples_to_compare(ends: Extremes, narrow: Ranges, batches: Batches) -> list[dict[str, np.ndarray]]:
    """The examples that reach furthest beyond the clipped ranges, and as many that reach least far, batch by batch."""
    sizes = [len(next(iter(batch.values()))) for batch in batches]
    reach = np.zeros(sum(sizes))
    for name, (low, high) in narrow.items():
        least, most = ends[name]
        if len(most) == len(reach):
            width = max(high - low, 1e-30)
            reach = np.maximum(reach, np.maximum(most - high, low - least) / width)
    order = np.argsort(-reach, kind="stable")
    selected = np.zeros(len(reach), dtype=bool)
    selected[order[:_COMPARED]] = selected[order[len(order) - min(_COMPARED, len(order)) :]] = True
    starts = np.cumsum([0, *sizes])
    rows = [np.flatnonzero(selected[start : start + size]) for start, size in zip(starts, sizes, strict=False)]
    return [{name: value[r] for name, value in batch.items()} for batch, r in zip(batches, rows, strict=True) if len(r)]


def _largest_error(outputs: Outputs, expected: Outputs) -> float:
    errors = [_example_errors([out], [right], [_channel_weights(right)]) for out, right in zip(outputs, expected, strict=False)]
    return max((float(np.sqrt(values.mean())) for values in errors if values.size), default=0.0)


def _channel_weights(output: np.ndarray) -> np.ndarray | None:
    """The weight of an error in each channel (on the second axis), one over its spread; None for integers and booleans."""
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
    outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray], weights: Sequence[np.ndarray | None]
) -> np.ndarray:
    """Mean squared error of each example, channels in units of their spread, `[n]`."""
    total = np.zeros(len(expected[0]))
    for output, right, weight in zip(outputs, expected, weights, strict=True):
        if weight is not None:
            # `concatenate_batches` flattened axes of several lengths, so channels lie on another axis
            if weight.ndim not in (0, right.ndim):
                weight = weight.mean()
            gap = np.where(output == right, 0.0, output - np.where(np.isfinite(right), right, 0.0)) * weight
            total += np.square(gap).reshape(len(right), -1).mean(1)
    return total
