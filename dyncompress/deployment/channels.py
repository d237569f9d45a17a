"""The error of each channel of an output, relative to the channel's own standard deviation.

One output may hold boxes in pixels beside logits. An error that makes all logits constant is a fraction of a per cent of the
output's root mean square, and 100 % of the logits' standard deviation. "Spread" below means the standard deviation of a
channel's expected values over examples and positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

Positions = Sequence[bool]  # for each axis of an output, whether it numbers positions

_NEARLY_CONSTANT = 1e-4  # a spread below this share of the root mean square may be the rounding error of a constant channel
_ZERO = float(np.finfo(np.float32).tiny)  # smaller numbers have fewer digits, and some processors take them for zero
_NEVER = 1e-3  # a probability that stays below this says that a class never occurs
FEWEST = 8  # a channel is judged if it has at least this many values
LOST_ERROR = 0.9  # share of the spread from which on an error is about as large as that of a constant
LOST_SIGNAL = 0.1  # squared correlation below which the output doesn't follow the expected values


@dataclass(frozen=True)
class ChannelErrors:
    """Errors of the channels along one axis of an output.

    Attributes:
        axis: of the channels; 0 for an output `[n]`, which is a single channel.
        errors: `[channels]`, root mean square error relative to the channel's spread; relative to the channel's root mean
            square where it is constant.
        signal: `[channels]`, squared correlation with the expected values.
        judged: `[channels]` bool, whether the channel has enough values, isn't constant, and isn't a class that never occurs.
    """

    axis: int
    errors: np.ndarray
    signal: np.ndarray
    judged: np.ndarray

    @property
    def lost(self) -> np.ndarray:
        """Indices of the lost channels: the error is that of a constant and the output is uncorrelated with the expected one."""
        broken = ~np.isfinite(self.errors)
        return np.flatnonzero(broken | (self.judged & (self.errors >= LOST_ERROR) & (self.signal < LOST_SIGNAL)))

    @property
    def worst(self) -> int:
        """Index of the channel with the largest error, among the judged ones; among all where none is judged."""
        errors = np.where(self.judged, self.errors, -1.0) if self.judged.any() else self.errors
        return int(errors.argmax())


def channel_errors(output: np.ndarray, expected: np.ndarray, positions: Positions = ()) -> list[ChannelErrors]:
    """The errors of an output's channels, along every axis that may be the channels': see `channel_axes`.

    Args:
        output, expected: `[n, ...]` of the same shape, float.
        positions: for each axis, whether it is known to number positions.

    Returns:
        One entry for `[n]` and `[n, c]`, two for more axes. A NaN or an infinity is an infinite error, unless both arrays have
        the same at that place.

    Example:
        >>> [e.errors.round(3).tolist() for e in channel_errors(np.array([[0.0, 1], [0, 3]]), np.array([[-1.0, 1], [1, 3]]))]
        [[1.0, 0.0]]
    """
    output, expected = (np.asarray(array, np.float64) for array in (output, expected))
    if np.isfinite(output).all() and np.isfinite(expected).all():
        gap, level, broken = output - expected, expected, None
    else:
        agree = (output == expected) | (np.isnan(output) & np.isnan(expected))
        broken = ~agree & ~(np.isfinite(output) & np.isfinite(expected))
        level = np.where(np.isfinite(expected), expected, 0.0)
        gap = np.where(agree | broken, 0.0, output - level)
    chances = bool(level.size) and float(expected.min()) >= 0 and 0.5 < float(expected.max()) <= 1
    whole = float(np.sqrt(np.mean(np.square(level)))) or 1.0 if level.size else 1.0
    return [
        _without_absent_classes(_errors_along(axis, gap, level, broken, whole), level if chances else None)
        for axis in channel_axes(expected.shape, positions) or (0,)
    ]


def _without_absent_classes(found: ChannelErrors, chances: np.ndarray | None) -> ChannelErrors:
    """The errors, where channels of probabilities `[n, ...]` that are next to zero everywhere aren't judged.

    A classifier of thousands of characters gives most of them a billionth, and nobody reads how that varies.
    """
    if chances is None:
        return found
    others = tuple(i for i in range(chances.ndim) if i != found.axis or found.axis == 0)
    return replace(found, judged=found.judged & (np.atleast_1d(chances.max(others)) >= _NEVER))


def channel_axes(shape: tuple[int, ...], positions: Positions = ()) -> tuple[int, ...]:
    """The axes of a shape that may be the channels': the second and the last, unless they are known to number positions.

    The last two axes of four, if they are equal, are the rows and columns of a map, whose channels are on the second axis; the
    second and third, if they are equal, those of a map whose channels are on the last one. Columns aren't channels: one where
    nothing ever happens varies by rounding errors alone.

    Args:
        shape: of an output, `[n, ...]`.
        positions: for each axis, whether it is known to number positions, as an axis of any length does; of another number of
            axes (`concatenate_batches` removes some) it is ignored.

    Example:
        >>> channel_axes((8, 3, 32, 32)), channel_axes((8, 3, 32, 64)), channel_axes((8,))
        ((1,), (1, 3), ())
    """
    if len(shape) < 2:
        return ()
    axes = dict.fromkeys((1, len(shape) - 1))
    if len(shape) == 4 and shape[2] == shape[3]:
        axes = {1: None}
    elif len(shape) == 4 and shape[1] == shape[2]:
        axes = {3: None}
    known = positions if len(positions) == len(shape) else (False,) * len(shape)
    return tuple(axis for axis in axes if not known[axis]) or tuple(axes)


def _errors_along(axis: int, gap: np.ndarray, level: np.ndarray, broken: np.ndarray | None, whole: float) -> ChannelErrors:
    """The errors along one axis, from the sums of both arrays, of their squares and of their product.

    Args:
        axis: of the channels; 0: all values are one channel.
        gap: output - expected, 0 where `broken`.
        level: expected values, 0 where they aren't finite.
        broken: where the output is NaN or infinite and the expected value isn't the same; None: nowhere.
        whole: root mean square of all expected values, for channels that are zero.
    """
    form = (
        (int(np.prod(level.shape[:axis])), level.shape[axis], int(np.prod(level.shape[axis + 1 :])))
        if axis
        else (1, 1, level.size)
    )
    gap, level = gap.reshape(form), level.reshape(form)
    count = form[0] * form[2]
    n = max(count, 1)
    mean_gap, mean = gap.sum((0, 2)) / n, level.sum((0, 2)) / n
    square_gap, square, product = (
        np.einsum("icj,icj->c", one, other) / n for one, other in ((gap, gap), (level, level), (gap, level))
    )
    variance = np.maximum(square - mean**2, 0.0)
    together = product - mean_gap * mean
    spread, size = np.sqrt(variance), np.sqrt(square)
    varies = (spread > _NEARLY_CONSTANT * size) & (spread > _ZERO)
    scale = np.where(varies, spread, np.where(size > _ZERO, size, max(whole, _ZERO)))
    errors = np.sqrt(square_gap) / scale
    if broken is not None:
        errors = np.where(broken.reshape(form).any((0, 2)), np.inf, errors)
    power = variance * np.maximum(variance + 2 * together + square_gap - mean_gap**2, 0.0)
    signal = np.square(variance + together) / np.where(power > 0, power, 1.0)
    return ChannelErrors(axis, errors, signal, varies & (count >= FEWEST))


def any_lost(outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray], positions: Sequence[Positions] = ()) -> bool:
    """Whether any channel of any float output is lost (see `ChannelErrors.lost`); `positions` of each, see `channel_axes`."""
    known = [*positions, *[()] * (len(expected) - len(positions))]
    judged = [parts for parts in zip(outputs, expected, known, strict=False) if parts[1].dtype.kind == "f"]
    return any(len(errors.lost) for parts in judged for errors in channel_errors(*parts))
