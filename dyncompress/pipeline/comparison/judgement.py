"""Paired intervals of ratios of mean divergences, and the rule that turns them into an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dyncompress.pipeline.comparison.contenders import (
    BASELINES,
    DATA_FREE_THEORIES,
    FISHER,
    INFORMED,
    JOINED,
    TRAJECTORY,
)
from dyncompress.types.comparison import NO, UNDECIDED, YES, Ratio, Verdict

MARGIN = 0.1  # a difference of less than a tenth of a divergence counts as none
LEVEL = 0.95  # of the intervals
FEWEST = 50  # independent examples, below which bootstrap intervals are too short to answer by
DRAWS = 4000  # bootstrap resamples
AT_ONCE = 1 << 22  # counts in memory
LEAST = 1e-12  # a divergence below is a rounding error
WITHOUT_DATA = "theory without data earns its place here"
REPLACES_DATA = "the recorded training replaces calibration data here"
ADDS_TO_DATA = "the recorded training adds to calibration data here"
DATA_EARN = "calibration data earn their place here"


@dataclass(frozen=True)
class Resampled:
    """Mean divergences of several files on the same examples, and those of bootstrap resamples of these examples.

    Attributes:
        names: of the files.
        means: `[K]`.
        draws: `[B, K]`, the means on each resample.
        independent: number of independent examples, or of groups of them.
    """

    names: tuple[str, ...]
    means: np.ndarray
    draws: np.ndarray
    independent: int

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def stderr(self, name: str) -> float:
        """The standard error of a file's mean divergence; nan where there is one independent example."""
        return float(self.draws[:, self.names.index(name)].std()) if self.independent > 1 else float("nan")

    def ratio(self, one: str, other: str, level: float = LEVEL) -> Ratio:
        """The ratio of two means, with its percentile interval over the resamples, each of which has both files.

        Args:
            one, other: names of files.
            level: of the interval, in (0, 1).

        Example:
            >>> found = resampled({"a": np.full(100, 0.5), "b": np.full(100, 1.0)})
            >>> print(found.ratio("a", "b"))
            0.50 [0.50, 0.50]
        """
        i, j = self.names.index(one), self.names.index(other)
        means, draws = np.maximum(self.means, LEAST), np.maximum(self.draws, LEAST)
        low, high = np.quantile(draws[:, i] / draws[:, j], [(1 - level) / 2, (1 + level) / 2])
        return Ratio(float(means[i] / means[j]), float(low), float(high))


def resampled(divergences: Mapping[str, np.ndarray], groups: np.ndarray | None = None) -> Resampled:
    """Bootstrap the mean divergences of several files; each resample draws the same examples for all of them.

    Args:
        divergences: file -> divergence of each example, `[n]`.
        groups: `[n]`, an identifier of each example; examples with the same one are drawn together. None: all are independent.

    Returns:
        the means and their resamples.
    """
    table = np.stack(list(divergences.values()), axis=1)
    units = np.arange(len(table)) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    count = int(units.max()) + 1
    sums, sizes = np.zeros((count, table.shape[1])), np.bincount(units, minlength=count).astype(np.float64)
    np.add.at(sums, units, table)
    generator, rows = np.random.default_rng(0), max(1, AT_ONCE // count)
    parts = []
    for start in range(0, DRAWS, rows):
        drawn = generator.integers(0, count, (min(rows, DRAWS - start), count))
        drawn += count * np.arange(len(drawn))[:, None]
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
        parts.append(counts @ sums / (counts @ sizes)[:, None])
    return Resampled(tuple(divergences), table.mean(axis=0), np.concatenate(parts), count)


def verdicts(found: Resampled) -> tuple[Verdict, ...]:
    """The answers that these divergences allow; the first is always about theory without data."""
    answers = [_earns(WITHOUT_DATA, found, DATA_FREE_THEORIES)]
    if TRAJECTORY in found and FISHER in found:
        answers.append(_replaces(found))
    if JOINED in found:
        answers.append(_earns(ADDS_TO_DATA, found, (JOINED,), (FISHER,)))
    if any(name in found for name in INFORMED):
        answers.append(_earns(DATA_EARN, found, INFORMED))
    return tuple(answers)


def _earns(question: str, found: Resampled, candidates: Sequence[str], baselines: Sequence[str] = BASELINES) -> Verdict:
    """Whether the plan of one of the candidates leaves less divergence than those of all baselines.

    With k candidates each interval has the level 1 - (1 - LEVEL) / k, so that the best of k isn't taken for better by chance. It
    is `no` if every candidate has an interval, against one of the baselines, that excludes a gain of `MARGIN`; `yes` if all
    intervals of one candidate lie below 1; else `can't tell`.
    """
    candidates = [name for name in candidates if name in found]
    if not candidates:
        return Verdict(question, UNDECIDED, "no such allocator made a plan for this network")
    level = 1 - (1 - LEVEL) / len(candidates)
    ratios = {name: [found.ratio(name, baseline, level) for baseline in baselines] for name in candidates}
    gains = [name for name, each in ratios.items() if all(ratio.low <= 1 - MARGIN for ratio in each)]
    better = [name for name in gains if all(ratio.high < 1 for ratio in ratios[name])]
    answer = YES if better else UNDECIDED if gains else NO
    best = min(better or gains or candidates, key=lambda name: max(ratio.value for ratio in ratios[name]))
    against = " and ".join(f"{ratio} of that of {name}" for ratio, name in zip(ratios[best], baselines, strict=True))
    many = "" if len(candidates) == 1 else f"; intervals at {100 * level:.3g} % for the best of {len(candidates)}"
    return _with_enough(found, Verdict(question, answer, f"the divergence of {best} is {against}{many}"))


def _replaces(found: Resampled) -> Verdict:
    """Whether the plan of the recorded training is no worse than that of Fisher information, up to `MARGIN`."""
    ratio = found.ratio(TRAJECTORY, FISHER)
    answer = YES if ratio.high <= 1 + MARGIN else NO if ratio.low > 1 else UNDECIDED
    return _with_enough(found, Verdict(REPLACES_DATA, answer, f"the divergence of {TRAJECTORY} is {ratio} of that of {FISHER}"))


def _with_enough(found: Resampled, verdict: Verdict) -> Verdict:
    """The verdict, or `can't tell` where the independent examples are too few for the intervals."""
    if found.independent >= FEWEST:
        return verdict
    few = f"{found.independent} independent held-out examples are too few, {FEWEST} are needed; {verdict.why}"
    return Verdict(verdict.question, UNDECIDED, few)
