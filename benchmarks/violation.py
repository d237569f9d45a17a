"""The violation rates of every bound and of the whole procedure, on distributions with known risk.

Each cell draws held-out sets from a distribution whose risk is known, runs the library's own function, and counts how often the
truth lies outside the bound. A cell is flagged if an exact binomial test, with a Bonferroni correction over the cells, finds that
its violation rate is above `delta`.

    python -m benchmarks.violation            # writes benchmarks/results/violation.json
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import scipy
from scipy.special import bdtrc

from dyncompress.certificates import BOUNDS
from dyncompress.certificates.fixed_sequence import fixed_sequence
from dyncompress.certificates.paired import paired_upper
from dyncompress.certificates.promise import Circumstances, Promise, certificate_from_losses, upper_increase

RESULT = Path(__file__).parent / "results" / "violation.json"
REPETITIONS, SEED, LEVEL = 2000, 20_240_601, 0.01
PATHS = {  # (p_worse, p_better) of each plan; the promise is an increase of at most LIMIT
    "harmless, then worse and worse": ((0.005, 0.005), (0.02, 0.01), (0.05, 0.0195), (0.08, 0.03)),
    "the first breaks the promise": ((0.05, 0.0195), (0.01, 0.005), (0.06, 0.02)),
    "good, barely bad, good, bad": ((0.005, 0.01), (0.04, 0.0099), (0.004, 0.012), (0.1, 0.02)),
    "all barely bad": ((0.0301, 0.0), (0.0351, 0.005), (0.0401, 0.01)),
}
LIMIT = 0.03

Failures = Callable[[np.random.Generator, int], int]  # generator, number of repetitions -> number of failures


@dataclass(frozen=True)
class Cell:
    """One distribution, one procedure."""

    procedure: str
    law: str
    n: int
    delta: float
    failures: Failures


@dataclass(frozen=True)
class Outcome:
    """The result of a cell. `p_value` is the probability of at least this many violations if the rate were `delta`."""

    procedure: str
    law: str
    n: int
    delta: float
    repetitions: int
    violations: int
    rate: float
    p_value: float


def of_counts(bound: str, values: tuple[int, ...], law: tuple[float, ...], n: int, delta: float) -> Failures:
    """Failures of a bound that ignores order, on losses with few `values` of probabilities `law`; one call for each count."""
    mean = float(np.dot(values, law))

    def failures(rng: np.random.Generator, repetitions: int) -> int:
        counts, times = np.unique(rng.multinomial(n, law, size=repetitions), axis=0, return_counts=True)
        found = [BOUNDS[bound]()(np.repeat(values, row), delta) for row in counts]
        return int(sum(t for f, t in zip(found, times, strict=True) if not f.lower <= mean <= f.upper))

    return failures


def of_disagreement(law: tuple[float, float, float], n: int, delta: float) -> Failures:
    """Failures of the label-free bound on the change of the error rate; law: P(worse), P(better), P(both wrong, differently)."""

    def failures(rng: np.random.Generator, repetitions: int) -> int:
        counts, times = np.unique(rng.binomial(n, sum(law), size=repetitions), return_counts=True)
        found = [BOUNDS["disagreement"]()(np.repeat([1, 0], [k, n - k]), delta) for k in counts]
        return int(sum(t for f, t in zip(found, times, strict=True) if not f.lower <= law[0] - law[1] <= f.upper))

    return failures


def of_losses(bound: str, draw: Callable[[np.random.Generator, int], np.ndarray], mean: float, n: int, delta: float) -> Failures:
    """Failures of a bound on losses in [0, 1]; each repetition draws a new set."""

    def failures(rng: np.random.Generator, repetitions: int) -> int:
        found = (BOUNDS[bound]()(draw(rng, n), delta) for _ in range(repetitions))
        return sum(not f.lower <= mean <= f.upper for f in found)

    return failures


def of_certificates(law: tuple[float, float, float], n: int, promise: Promise) -> Failures:
    """Failures of any line of a whole certificate; law: P(only file wrong), P(only original wrong), P(both wrong)."""
    truth = {"risk increase": law[0] - law[1], "risk of the file": law[0] + law[2]}
    kinds = np.array([[0, 1], [1, 0], [1, 1], [0, 0]])

    def failures(rng: np.random.Generator, repetitions: int) -> int:
        counts, times = np.unique(rng.multinomial(n, (*law, 1 - sum(law)), size=repetitions), axis=0, return_counts=True)
        failed = 0
        for row, t in zip(counts, times, strict=True):
            losses = np.repeat(kinds, row, axis=0)
            lines = certificate_from_losses(losses[:, 0], losses[:, 1], promise).lines
            failed += t * any(truth[line.quantity] > line.upper for line in lines)
        return int(failed)

    return failures


def of_clusters(groups: int, n: int, promise: Promise) -> Failures:
    """Failures of a certificate whose examples come in groups with a common risk."""

    def failures(rng: np.random.Generator, repetitions: int) -> int:
        failed = 0
        for _ in range(repetitions):
            label = np.repeat(np.arange(groups), n // groups)
            risk = rng.beta(0.3, 2.7, groups)[label]  # the error rate of each group; 0.1 on average
            original, file = rng.random(len(label)) < 0.05, rng.random(len(label)) < risk
            lines = certificate_from_losses(original, file, promise, groups=label).lines
            failed += lines[0].upper < 0.05 or lines[1].upper < 0.1
        return int(failed)

    return failures


def of_paths(path: tuple[tuple[float, float], ...], n: int, delta: float) -> Failures:
    """Failures of select-then-certify: the chosen plan's true increase is above the promise. All plans see the same examples."""

    def failures(rng: np.random.Generator, repetitions: int) -> int:
        known: dict[tuple[int, int], float] = {}
        failed = 0
        for _ in range(repetitions):
            luck = rng.random(n)
            tests = [partial(_upper, known, int((luck < b).sum()), int((luck > 1 - g).sum()), n) for b, g in path]
            chosen = fixed_sequence(tests, limit=LIMIT, delta=delta).chosen
            failed += chosen is not None and path[chosen][0] - path[chosen][1] > LIMIT
        return int(failed)

    return failures


def of_selected(path: tuple[tuple[float, float], ...], both: float, n: int, delta: float) -> Failures:
    """Failures of any line of the certificate of the plan that fixed-sequence testing chose."""
    promise, plans = Promise(delta=delta, risk_increase=LIMIT), len(path)
    known: dict[tuple[int, ...], float] = {}
    made: dict[tuple[int, ...], dict[str, float]] = {}

    def losses(counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        kinds = np.repeat([[0, 1], [1, 0], [1, 1], [0, 0]], [*counts, n - sum(counts)], axis=0)
        return kinds[:, 0], kinds[:, 1]

    def upper(counts: tuple[int, ...], _: float) -> float:
        if counts[:2] not in known:
            known[counts[:2]] = upper_increase(*losses(counts), promise)
        return known[counts[:2]]

    def failures(rng: np.random.Generator, repetitions: int) -> int:
        failed = 0
        for _ in range(repetitions):
            luck = rng.random(n)
            errors = int(((luck > 0.4) & (luck < 0.4 + both)).sum())
            counts = [(int((luck < b).sum()), int((luck > 1 - g).sum()), errors) for b, g in path]
            chosen = fixed_sequence([partial(upper, c) for c in counts], limit=LIMIT, delta=delta).chosen
            if chosen is None:
                continue
            if (key := counts[chosen]) not in made:
                told = Circumstances(selection={"plans": plans})
                lines = certificate_from_losses(*losses(key), promise, circumstances=told).lines
                made[key] = {line.quantity: line.upper for line in lines}
            worse, better = path[chosen]
            failed += made[key]["risk increase"] < worse - better or made[key]["risk of the file"] < worse + both
        return failed

    return failures


def _upper(known: dict[tuple[int, int], float], worse: int, better: int, n: int, delta: float) -> float:
    """The paired bound, computed once for each pair of counts."""
    if (worse, better) not in known:
        known[worse, better] = paired_upper(worse, better, n, delta)
    return known[worse, better]


def cells() -> Iterator[Cell]:
    """All cells, fast ones first."""
    for n, p, delta in ((50, 0.02, 0.1), (200, 0.05, 0.05), (1000, 0.1, 0.1), (1000, 0.003, 0.05)):
        for bound in ("clopper_pearson", "clopper_pearson_two_sided", "hoeffding_bentkus"):
            yield Cell(bound, f"Bernoulli({p})", n, delta, of_counts(bound, (1, 0), (p, 1 - p), n, delta))
    for n, (worse, better, both), delta in (
        (300, (0.02, 0.01, 0.0), 0.05),
        (1000, (0.0, 0.03, 0.0), 0.1),
        (100, (0.05, 0.0, 0.0), 0.1),
    ):
        law = f"worse {worse}, better {better}"
        yield Cell("disagreement", law, n, delta, of_disagreement((worse, better, both), n, delta))
    pairs = ((50, 0.1, 0.1), (100, 0.05, 0.0), (300, 0.02, 0.01), (1000, 0.015, 0.01), (1000, 0.003, 0.02), (100, 0.45, 0.4))
    for n, worse, better in pairs:
        for delta in (0.05, 0.1):
            probabilities = (worse, better, 1 - worse - better)
            failures = of_counts("paired_increase", (1, -1, 0), probabilities, n, delta)
            yield Cell("paired_increase", f"worse {worse}, better {better}", n, delta, failures)
    for n, delta in ((100, 0.1), (500, 0.1), (500, 0.05)):
        bernoulli, beta = partial(_bernoulli, 0.05), partial(_beta, 2, 50)
        for bound in ("betting", "betting_two_sided"):
            yield Cell(bound, "Bernoulli(0.05)", n, delta, of_losses(bound, bernoulli, 0.05, n, delta))
        for bound in ("betting", "hoeffding_bentkus"):
            yield Cell(bound, "Beta(2, 50)", n, delta, of_losses(bound, beta, 2 / 52, n, delta))
    for n, law, delta in ((300, (0.03, 0.02, 0.05), 0.1), (1000, (0.01, 0.01, 0.08), 0.05)):
        name = f"file only {law[0]}, original only {law[1]}, both {law[2]}"
        yield Cell("certificate", name, n, delta, of_certificates(law, n, Promise(delta=delta)))
    yield Cell("certificate", "60 groups of 5, beta risks", 300, 0.1, of_clusters(60, 300, Promise(delta=0.1)))
    for name, path in PATHS.items():
        for n, delta in ((400, 0.1), (600, 0.05)):
            yield Cell("fixed_sequence", name, n, delta, of_paths(path, n, delta))
    close = ((0.01, 0.0), (0.012, 0.0), (0.014, 0.0), (0.016, 0.0), (0.018, 0.0), (0.032, 0.0))
    yield Cell("chosen_certificate", "six plans close to each other", 300, 0.1, of_selected(close, 0.05, 300, 0.1))


def _bernoulli(p: float, rng: np.random.Generator, n: int) -> np.ndarray:
    return (rng.random(n) < p).astype(float)


def _beta(a: float, b: float, rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.beta(a, b, n)


def outcome(cell: Cell, index: int, repetitions: int) -> Outcome:
    """Run one cell; its random numbers depend on its index only."""
    violations = cell.failures(np.random.default_rng([SEED, index]), repetitions)
    p_value = 1.0 if violations == 0 else float(bdtrc(violations - 1, repetitions, cell.delta))
    return Outcome(
        cell.procedure, cell.law, cell.n, cell.delta, repetitions, violations, violations / repetitions, float(f"{p_value:.4g}")
    )


def main() -> int:
    """Print the table, write the JSON, and return how many cells are flagged."""
    listed = list(cells())
    found = []
    for index, cell in enumerate(listed):
        one = outcome(cell, index, REPETITIONS)
        found.append(one)
        print(
            f"{one.procedure:26} {one.law:48} n {one.n:5}  delta {one.delta:.2f}  rate {one.rate:.4f}  p {one.p_value:.3g}",
            flush=True,
        )
    flagged = [one for one in found if one.p_value < LEVEL / len(found)]
    print(f"{len(found)} cells, {REPETITIONS} repetitions each, {len(flagged)} above delta")
    RESULT.parent.mkdir(exist_ok=True)
    table = {
        "command": "python -m benchmarks.violation",
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
        "seed": SEED,
        "repetitions": REPETITIONS,
        "level": LEVEL,
        "flagged": len(flagged),
        "cells": [asdict(one) for one in found],
    }
    RESULT.write_text(json.dumps(table, indent=1) + "\n")
    return len(flagged)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
