"""How far each channel of an output is from what it should be: a pooled error hides the channel that is lost.

One tensor may hold boxes in pixels beside logits. Pooled over the tensor, an error that makes all logits constant is a fraction
of a per cent; measured against the logits' own spread it is all there was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NEARLY_CONSTANT = 1e-4  # of a channel's root mean square: a spread below is what float arithmetic may leave of a constant
FEWEST = 8  # values of a channel; of fewer, a spread says nothing
LOST_ERROR = 0.9  # of a channel's spread: from here on a constant does as well
LOST_SIGNAL = 0.1  # squared correlation: below, nothing of the channel is left


@dataclass(frozen=True)
class ChannelErrors:
    """Errors of the channels along one axis of an output.

    Attributes:
        axis: that counts the channels; the output itself is one channel where it has none.
        errors: `[channels]`, root mean square error relative to the channel's spread (its standard deviation over examples and
            positions; where it is constant, its root mean square).
        signal: `[channels]`, squared correlation with what the channel should be.
        judged: `[channels]` bool: whether the channel has values enough, and a spread that could be lost.
    """

    axis: int
    errors: np.ndarray
    signal: np.ndarray
    judged: np.ndarray

    @property
    def lost(self) -> np.ndarray:
        """The channels of which nothing is left: a constant does as well, and what varies isn't the signal; their numbers."""
        broken = ~np.isfinite(self.errors)
        return np.flatnonzero(broken | (self.judged & (self.errors >= LOST_ERROR) & (self.signal < LOST_SIGNAL)))

    @property
    def worst(self) -> int:
        """The channel of the largest error, among those that are judged; where none is, among all."""
        found = np.where(self.judged, self.errors, -1.0) if self.judged.any() else self.errors
        return int(found.argmax())


def channel_errors(found: np.ndarray, wanted: np.ndarray) -> list[ChannelErrors]:
    """The errors along every axis that may count channels: the second one, and the last.

    Args:
        found, wanted: `[n, ...]` of the same shape, float.

    Returns:
        One entry for `[n]` and `[n, c]`, two for more axes. NaN and infinity count as an infinite error, unless both have them at
        the same place.

    Example:
        >>> [e.errors.round(3).tolist() for e in channel_errors(np.array([[0.0, 1], [0, 3]]), np.array([[-1.0, 1], [1, 3]]))]
        [[1.0, 0.0]]
    """
    found, wanted = (np.asarray(array, np.float64) for array in (found, wanted))
    agree = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    broken = ~agree & ~(np.isfinite(found) & np.isfinite(wanted))
    gap = np.where(agree | broken, 0.0, found - np.where(np.isfinite(wanted), wanted, 0.0))
    level = np.where(np.isfinite(wanted), wanted, 0.0)
    whole = float(np.sqrt(np.mean(np.square(level)))) or 1.0 if level.size else 1.0
    return [_along(axis, gap, level, broken, whole) for axis in channel_axes(wanted.shape) or (0,)]


def channel_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes that may count channels: the second and the last.

    Example:
        >>> channel_axes((8, 3, 32, 32)), channel_axes((8,))
        ((1, 3), ())
    """
    return tuple(dict.fromkeys((1, len(shape) - 1))) if len(shape) > 1 else ()


def _along(axis: int, gap: np.ndarray, level: np.ndarray, broken: np.ndarray, whole: float) -> ChannelErrors:
    others = tuple(i for i in range(level.ndim) if i != axis or axis == 0)
    count = level.size // max(level.shape[axis] if axis else 1, 1)
    error = np.atleast_1d(np.sqrt(np.square(gap).mean(others)))
    spread, size = np.atleast_1d(level.std(others)), np.atleast_1d(np.sqrt(np.square(level).mean(others)))
    varies = spread > _NEARLY_CONSTANT * size
    scale = np.where(varies, spread, np.where(size > 0, size, whole))
    errors = np.where(np.atleast_1d(broken.any(others)), np.inf, error / scale)
    found = level + gap
    centred = [array - array.mean(others, keepdims=True) for array in (level, found)]
    cross = np.atleast_1d((centred[0] * centred[1]).mean(others))
    power = np.atleast_1d(np.square(centred[0]).mean(others) * np.square(centred[1]).mean(others))
    signal = np.square(cross) / np.where(power > 0, power, 1.0)
    return ChannelErrors(axis, errors, signal, varies & (count >= FEWEST))


def any_lost(outputs: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> bool:
    """Whether a channel of a float output is lost."""
    pairs = zip(outputs, wanted, strict=False)
    return any(len(along.lost) for found, right in pairs if right.dtype.kind == "f" for along in channel_errors(found, right))
