"""How well a measure orders training runs by their generalization gap: rank correlations with bootstrap intervals.

Every statistic is written for runs that count several times, `counts` `[B, n]`: a row of ones is the sample itself, a row of
multinomial counts a bootstrap sample. A run and its own copy are never compared. Runs that share all hyper-parameters resemble
each other, so they are drawn together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.types.ranking import Agreement, Correlation, Setting

RESAMPLES, SEED = 2000, 0
LEVEL = 0.95
FEWEST = 3
DEFINED = 0.5  # share of the resamples in which a coefficient must exist for an interval
Settings = Mapping[str, Sequence[Setting]]


def agreement(
    values: np.ndarray,
    gaps: np.ndarray,
    settings: Settings | None = None,
    *,
    groups: Sequence[Setting] | None = None,
    resamples: int = RESAMPLES,
) -> Agreement:
    """All coefficients of a measure with the gap, with intervals from the same resamples of the runs.

    Args:
        values: `[n]` of the measure; runs where it is nan are left out.
        gaps: `[n]`, finite.
        settings: hyper-parameter -> its `[n]` values, numbers or words; those that never change are passed over.
        groups: `[n]`; runs of one group are drawn together. None: those that share all hyper-parameters.
        resamples: of the groups.

    Raises:
        InvalidRequest: lengths differ or a gap isn't finite.

    Example:
        >>> result = agreement(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.1, 0.3, 0.2, 0.4]))
        >>> round(result.kendall.value, 4)
        0.6667
    """
    values, gaps = np.asarray(values, dtype=np.float64), np.asarray(gaps, dtype=np.float64)
    columns = {} if settings is None else dict(settings)
    for name, column in (("gaps", gaps), *columns.items()):
        if len(column) != len(values):
            raise InvalidRequest(f"{len(values)} values of the measure, but {len(column)} of '{name}'; give one a run.")
    if not np.isfinite(gaps).all():
        raise InvalidRequest(f"gap {np.flatnonzero(~np.isfinite(gaps))[0]} isn't a finite number; leave that run out.")
    known = np.flatnonzero(~np.isnan(values)).tolist()
    values, gaps = values[known], gaps[known]
    chosen = {name: [column[i] for i in known] for name, column in columns.items()}
    varied = {name: column for name, column in chosen.items() if len(set(column)) > 1}
    own = list(zip(*varied.values(), strict=True)) if varied else known
    together = own if groups is None else [groups[i] for i in known]
    counts = resampled(together, resamples, np.random.default_rng(SEED))
    whole = interval(kendall(values, gaps, counts), len(values))
    if settings is None:
        return Agreement(whole)
    parts = granulated(values, gaps, varied, counts)
    equal = [np.ones(len(counts))] * len(parts)
    mean = interval(_mean(list(parts.values()), equal, len(counts)), len(values))
    partial = interval(partial_spearman(values, gaps, varied, counts), len(values))
    return Agreement(whole, {name: interval(part, len(values)) for name, part in parts.items()}, mean, partial)


def resampled(groups: Sequence[Any], resamples: int, generator: np.random.Generator) -> np.ndarray:
    """How often each run counts, `[1 + resamples, n]` float64: once, then as often as its group is drawn, with replacement.

    Args:
        groups: `[n]`, of the runs.
        resamples: of as many groups as there are.
        generator: of the draws.
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    whole = np.ones((1, len(groups)))
    if not numbers:
        return np.ones((1 + resamples, 0))
    drawn = generator.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), size=resamples)
    return np.concatenate([whole, drawn[:, [numbers[group] for group in groups]]]).astype(np.float64)


def interval(coefficients: np.ndarray, n: int) -> Correlation:
    """The first of `[1 + B]` coefficients with the percentiles of the others; no interval where few of those exist."""
    value, others = float(coefficients[0]), coefficients[1:]
    others = others[np.isfinite(others)]
    if n < FEWEST or not np.isfinite(value):
        return Correlation(float("nan"), float("nan"), float("nan"), n)
    if len(others) < max(DEFINED * (len(coefficients) - 1), 1):
        return Correlation(value, float("nan"), float("nan"), n)
    low, high = np.quantile(others, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Correlation(value, float(low), float(high), n)


def kendall(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """tau-b = sum sign(x_i - x_j) sign(y_i - y_j) / sqrt(pairs untied in x * pairs untied in y).

    Source: Kendall, Biometrika 33 (1945); Jiang et al. (2020) have no correction for ties, and without ties it is the same.

    Args:
        x, y: `[n]`.
        counts: `[B, n]`.

    Returns:
        `[B]`; nan where all pairs are tied.
    """
    dx, dy = _signs(x), _signs(y)
    untied = _pairs(counts, dx**2) * _pairs(counts, dy**2)
    return _ratio(_pairs(counts, dx * dy), np.sqrt(untied))


def granulated(x: np.ndarray, y: np.ndarray, settings: Settings, counts: np.ndarray) -> dict[str, np.ndarray]:
    """psi of every hyper-parameter: Kendall's tau over runs that differ in it alone, averaged over the settings of the others.

    psi_i = mean over settings of the others of [mean of sign(x_a - x_b) sign(y_a - y_b) over its pairs (a, b) with different
    values of hyper-parameter i]. What x owes to another hyper-parameter doesn't count. In a resample a setting counts as often
    as its runs are drawn on average.

    Source: Jiang, Neyshabur, Mobahi, Krishnan, Bengio, ICLR 2020 (arXiv 1912.02178): a tie counts 0. Theirs are full grids of
    single runs; here cells may be missing or hold several runs.

    Args:
        x, y: `[n]`.
        settings: hyper-parameter -> `[n]`.
        counts: `[B, n]`.

    Returns:
        hyper-parameter -> `[B]`; nan where no two runs differ in it alone.
    """
    signs, coefficients = _signs(x) * _signs(y), {}
    for name, column in settings.items():
        others = list(zip(*(other for key, other in settings.items() if key != name), strict=True)) or [()] * len(x)
        slices: dict[tuple[Setting, ...], list[int]] = {}
        for run, setting in enumerate(others):
            slices.setdefault(setting, []).append(run)
        taus, drawn = [], []
        for runs in slices.values():
            differs = np.array([[float(column[a] != column[b]) for b in runs] for a in runs])
            part = counts[:, runs]
            taus.append(_ratio(_pairs(part, differs * signs[np.ix_(runs, runs)]), _pairs(part, differs)))
            drawn.append(part.mean(axis=1))
        coefficients[name] = _mean(taus, drawn, len(counts))
    return coefficients


def partial_spearman(x: np.ndarray, y: np.ndarray, settings: Settings, counts: np.ndarray) -> np.ndarray:
    """Pearson correlation of what is left of the ranks of x and of y after least squares on the ranks of the hyper-parameters.

    Words are no numbers: a hyper-parameter of words enters as one indicator a word. Of one hyper-parameter z it is
    (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1 - r_yz^2)) of Spearman's coefficients.

    Fails when: the gap depends on a hyper-parameter not monotonically, or on two of them not additively in ranks: what is left
    then still holds the hyper-parameters. `granulated` doesn't have this weakness.

    Args:
        x, y: `[n]`.
        settings: hyper-parameter -> `[n]`.
        counts: `[B, n]`.

    Returns:
        `[B]`; nan where hyper-parameters leave no freedom or nothing of x or y.
    """
    columns: list[np.ndarray] = [np.ones_like(counts)]
    for column in settings.values():
        if any(isinstance(value, str) for value in column):
            words = sorted({str(value) for value in column})[1:]
            columns += [np.broadcast_to([float(str(v) == word) for v in column], counts.shape) for word in words]
        else:
            columns.append(_ranks(np.array(column, dtype=np.float64), counts))
    if len(x) < len(columns) + 2:
        return np.full(len(counts), np.nan)
    root = np.sqrt(counts)
    design = np.stack(columns, axis=2) * root[:, :, None]
    inverse = np.linalg.pinv(design, rcond=1e-10)
    left = []
    for variable in (x, y):
        ranks = _ranks(variable, counts) * root
        rest = ranks - (design @ (inverse @ ranks[:, :, None]))[:, :, 0]
        size = np.linalg.norm(rest, axis=1)
        nothing = size <= 1e-9 * np.linalg.norm(ranks, axis=1)
        left.append(rest / np.where(nothing, np.nan, size)[:, None])
    return (left[0] * left[1]).sum(axis=1)


def _signs(x: np.ndarray) -> np.ndarray:
    """`[n, n]` signs of differences; infinite values are equal to each other."""
    return (x[:, None] > x).astype(np.float64) - (x[:, None] < x)


def _pairs(counts: np.ndarray, table: np.ndarray) -> np.ndarray:
    """`[B]` sums of `table` `[n, n]` over pairs of drawn runs."""
    return ((counts @ table) * counts).sum(axis=1)


def _ranks(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`[B, n]` mid-ranks of the runs among the drawn ones, from the middle."""
    return counts @ _signs(x).T / 2


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The quotient; nan where there is nothing below."""
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)


def _mean(parts: Sequence[np.ndarray], weights: Sequence[np.ndarray], length: int) -> np.ndarray:
    """The weighted mean of those that exist, `[length]`; nan where none does."""
    if not parts:
        return np.full(length, np.nan)
    table = np.stack(parts)
    shares = np.where(np.isfinite(table), np.stack(weights), 0.0)
    return _ratio((np.where(shares > 0, table, 0.0) * shares).sum(axis=0), shares.sum(axis=0))
