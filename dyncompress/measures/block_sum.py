"""The alpha-stable index of a layer's weights, from sums over blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dyncompress.measures.border import flat_weights, require, unusable
from dyncompress.types import Estimate, Need, Observation, Weight
from dyncompress.types.arrays import Float, Float64

LENGTHS = (2, 5, 10, 20, 50, 100, 500, 1000)
FEWEST, ADVISED = 20, 1000
MOST_TIES = 0.01


@dataclass(frozen=True)
class BlockSum:
    """The index alpha of a symmetric alpha-stable law: 2 for Gaussian weights, 1 for Cauchy, smaller for heavier tails.

    A sum of m independent symmetric alpha-stable variables has the law of m^(1/alpha) times one of them, so with blocks of m
    values and their sums Y

        1 / alpha = (mean log|Y| - mean log|X|) / log m,

    and the result is the median over several block lengths m. Values are centred with the median (a mean of half a standard
    deviation would turn 2 into 1.1) and shuffled (correlation along a kernel would look like a heavy tail).

    Source: Mohammadi, Mohammadpour, Ogata, Metrika 78 (2015); block lengths as in Barsbey et al., NeurIPS 2021. Departures:
    instead of searching block lengths that divide N, the last N mod m values are dropped; the result isn't capped at 2.
    Assumes: independent, strictly stable weights. It isn't a test for heavy tails: any law with a sharp peak at its centre
    gives less than 2 (Laplace about 1.7).
    Cost: O(N) for each block length; memory a few times the layer in float64.
    Fails when: many weights are exactly zero or equal (pruned, quantized): zeros are left out with a note; ties make the estimate
    invalid.

    Attributes:
        seed: seed of the shuffles.
        permutations: number of shuffles, over whose slopes the median is taken.
    """

    seed: int = 0
    permutations: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        require(self.permutations >= 1, "block_sum", "permutations", self.permutations, "at least 1")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight."""
        return (Weight(),)

    def __call__(self, observation: Observation) -> Estimate:
        """Estimate alpha of the layer's weights; `stderr` is that of the median block length."""
        return block_sum_index(flat_weights(observation), self.seed, self.permutations)


def block_sum_index(values: Float[np.ndarray, "n ..."], seed: int = 0, permutations: int = 1) -> Estimate:
    """Estimate alpha of numbers `[n]`, or of vectors `[n, d]` by their Euclidean norms; zeros are left out.

    Example:
        >>> import numpy as np
        >>> estimate = block_sum_index(np.random.default_rng(0).standard_cauchy(10_000))
        >>> abs(estimate.value - 1) < 0.1
        True
    """
    what = "weights" if values.ndim == 1 else "vectors"
    nonzero = values[_sizes(values) != 0]
    if len(nonzero) < FEWEST:
        return unusable(len(nonzero), f"{len(nonzero)} non-zero {what}; the block-sum index needs {FEWEST}")
    centred = nonzero - np.median(nonzero, axis=0)
    whole = _sizes(centred) != 0
    ties, centred = len(nonzero) - int(np.count_nonzero(whole)), centred[whole]
    if len(centred) < FEWEST:
        return unusable(len(nonzero), f"nearly all {what} equal the median")
    centred = centred / np.abs(centred).max()  # no overflow in the sums; the index doesn't depend on the scale
    draws = [_slopes(centred, np.random.default_rng([seed, draw])) for draw in range(permutations)]
    slopes, errors = np.concatenate(draws, axis=1)
    if slopes.size == 0:
        return unusable(len(centred), f"all block sums are zero: the {what} cancel in pairs")
    slope = float(np.median(slopes))
    if slope <= 0:
        return unusable(len(centred), f"block sums don't grow with the block length: the {what} aren't independent")
    alpha, stderr = 1 / slope, float(np.median(errors)) / slope**2
    notes = _notes(what, len(values) - len(nonzero), ties, len(centred))
    if alpha > 2 + 2 * stderr:
        notes.append("above 2: the law is flatter at its centre than any stable law")
    valid = ties <= MOST_TIES * len(nonzero) + 1 and len(centred) >= ADVISED
    return Estimate(alpha, stderr, len(centred), valid=valid, notes=tuple(notes))


def _slopes(values: Float[np.ndarray, "n ..."], generator: np.random.Generator) -> Float64[np.ndarray, "2 lengths"]:
    """1 / alpha and its standard error for every block length, `[2, lengths]`."""
    shuffled = generator.permutation(values)
    logs, n = np.log(_sizes(shuffled)), len(values)
    slopes = []
    for length in sorted({m for m in LENGTHS if m <= n // 2} | {math.isqrt(n)}):
        used = n - n % length
        sums = _sizes(shuffled[:used].reshape(-1, length, *values.shape[1:]).sum(axis=1))
        whole = sums > 0
        if np.count_nonzero(whole) < 2:
            continue
        # one difference a block: blocks are independent of each other, a sum isn't independent of its terms
        differences = np.log(sums[whole]) - logs[:used].reshape(-1, length).mean(axis=1)[whole]
        slopes.append(np.array([differences.mean(), differences.std(ddof=1) / math.sqrt(differences.size)]) / math.log(length))
    return np.array(slopes).reshape(-1, 2).T


def _sizes(values: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, " n"]:
    """Absolute values of numbers `[n]`, or Euclidean norms of the rows of `[n, d]`."""
    return np.abs(values) if values.ndim == 1 else np.linalg.norm(values, axis=1)


def _notes(what: str, zeros: int, ties: int, n: int) -> list[str]:
    """Notes on left-out values and on small samples."""
    notes = []
    if zeros:
        notes.append(f"{zeros} exact zeros left out")
    if ties > 1:
        notes.append(f"{ties} {what} equal the median and were left out")
    if n < ADVISED:
        notes.append(f"only {n} {what}; {ADVISED} are advised")
    return notes
