"""What measures say of a layer's sensitivity before it is probed, and how a probe overrules them: a Gaussian model, exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dyncompress.errors import InvalidRequest

ROUNDING = 1e-6  # of the largest eigenvalue: a covariance written with six digits may be this far from semidefinite


@dataclass(frozen=True)
class Evidence:
    """What probes found on one network.

    Args:
        network: its name, for messages and for the prior's list of networks.
        scores: `[L, d]`, the layers' measures standardised over the network; 0 where a measure has no value.
        log_rate: `[L]`, log(damage / distortion) of each layer's probe, nats over relative error.
        variance: `[L]`, of the log rate by the noise of its probe; inf where a layer has no probe.

    Raises:
        InvalidRequest: shapes differ, a number is not finite, or no layer was probed.
    """

    network: str
    scores: np.ndarray
    log_rate: np.ndarray
    variance: np.ndarray

    def __post_init__(self) -> None:
        """Check."""
        where, layers = f"evidence of network '{self.network}'", len(self.log_rate)
        if self.scores.ndim != 2 or self.log_rate.shape != (len(self.scores),) or self.variance.shape != (layers,):
            raise InvalidRequest(
                f"{where}: scores {self.scores.shape}, log rates {self.log_rate.shape}, variances {self.variance.shape}; "
                "need [L, d], [L], [L]."
            )
        _check_scores(self.scores, self.scores.shape[1], where)
        for layer in range(layers):
            _check_probe(float(self.log_rate[layer]), float(self.variance[layer]), f"{where}, layer {layer}")
        if not np.isfinite(self.variance).any():
            raise InvalidRequest(f"{where}: no layer has a probe of finite variance; leave the network out.")


@dataclass(frozen=True)
class Prior:
    """What other networks teach about a new one: log sensitivity of layer l = a + z_l . b + u_l.

        a ~ N(intercept, intercept_variance),  b ~ N(coefficients, covariance),  u_l ~ N(0, spread)

    Args:
        measures: names of the d scores.
        intercept: mean level of a network's layers, and the variance of a new network's level.
        intercept_variance: see `intercept`.
        coefficients: `[d]`, mean over networks; their signs are learnt.
        covariance: `[d, d]`, of a NEW network's coefficients: between networks, and of the mean.
        spread: variance of a layer's log sensitivity around the line, which no measure tells.
        networks: names of those it was learnt on.

    Raises:
        InvalidRequest: lengths differ, a number is not finite, a variance is negative, or the covariance not semidefinite.
    """

    measures: tuple[str, ...]
    intercept: float
    intercept_variance: float
    coefficients: np.ndarray
    covariance: np.ndarray
    spread: float
    networks: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check."""
        d = len(self.measures)
        if self.coefficients.shape != (d,) or self.covariance.shape != (d, d):
            raise InvalidRequest(
                f"prior: {d} measures, coefficients {self.coefficients.shape}, covariance {self.covariance.shape}; "
                "need one coefficient, one row and one column a measure."
            )
        numbers = (self.intercept, self.intercept_variance, self.spread)
        if not all(np.isfinite(part).all() for part in (numbers, self.coefficients, self.covariance)):
            raise InvalidRequest("prior: a number is nan or infinite; learn it again.")
        if self.intercept_variance < 0 or self.spread <= 0:
            raise InvalidRequest(
                f"prior: intercept_variance {self.intercept_variance:g}, spread {self.spread:g}; variances are needed, "
                "the spread's above 0."
            )
        if d and not np.array_equal(self.covariance, self.covariance.T):
            raise InvalidRequest("prior: the covariance isn't symmetric; write both halves alike.")
        if d and (values := np.linalg.eigvalsh(self.covariance))[0] < -ROUNDING * abs(values[-1]):
            raise InvalidRequest(f"prior: the covariance has the eigenvalue {values[0]:.3g}; none may be negative.")


@dataclass(frozen=True)
class Sensitivity:
    """Log sensitivities of one network's layers.

    Args:
        log: `[L]`, posterior mean of log(damage / distortion).
        variance: `[L]`, posterior variance.
        theory: `[L]`, in [0, 1]: share of the posterior precision that the line brings, with what other layers' probes say of
            the line; the rest is the layer's own probe. 1 for a layer without a probe, 0 for one whose probe has no noise.
    """

    log: np.ndarray
    variance: np.ndarray
    theory: np.ndarray


def posterior(prior: Prior, scores: np.ndarray, probed: Mapping[int, tuple[float, float]]) -> Sensitivity:
    """What is known of every layer's log sensitivity after some were probed; exact for the model of `Prior`.

    With y_l the log rate of a probe, v_l its variance, r_l = spread / (spread + v_l) (0 without a probe), and the line (a, b)
    regressed on the probes with weights 1 / (spread + v_l),

        mean_l = line_l + r_l (y_l - line_l),   variance_l = spread (1 - r_l) + (1 - r_l)^2 var(line_l),
        theory_l = 1 - d mean_l / d y_l = 1 - variance_l / v_l.

    Source: Lindley and Smith, "Bayes estimates for the linear model", JRSS B 34, 1972, with known variances; written with sums of
    positive terms, so that exact probes lose no digits.
    Assumes: Gaussian logarithms, and variances as learnt, taken for known.
    Cost: one Cholesky factor of size d + 1.
    Fails when: the network is unlike those of `prior.networks`.

    Args:
        prior: see `prior_learning.learned`.
        scores: `[L, d]`, the measures standardised over this network's layers, columns as `prior.measures`.
        probed: layer -> (log rate, its variance); an infinite variance is no probe, 0 an exact one.

    Returns:
        Mean, variance and the share of theory, each `[L]`.

    Raises:
        InvalidRequest: shapes differ, a layer doesn't exist, or a number is not finite.

    Example:
        >>> prior = Prior(("hill",), 0.0, 0.0, np.array([2.0]), np.array([[0.0]]), 1.0, ("a",))
        >>> found = posterior(prior, np.array([[1.0], [-1.0]]), {0: (4.0, 1.0)})
        >>> found.log.tolist(), found.variance.tolist(), found.theory.tolist()
        ([3.0, -2.0], [0.5, 1.0], [0.5, 1.0])
    """
    rate, noise = _probes(prior, scores, probed)
    line, root = _line(prior, scores, rate, noise)
    own = prior.spread / (prior.spread + noise)
    width = (root**2).sum(axis=1)
    theory = (1 - own) * np.clip(1 - width / (prior.spread + noise), 0.0, 1.0)
    return Sensitivity(line + own * (rate - line), prior.spread * (1 - own) + (1 - own) ** 2 * width, theory)


def _line(prior: Prior, scores: np.ndarray, rate: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean of a + z_l . b, `[L]`, and a root R of its covariance R R^T, `[L, 1 + d]`."""
    design = np.column_stack([np.ones(len(scores)), scores])
    mean = np.concatenate([[prior.intercept], prior.coefficients])
    half = design @ _root(prior)  # whitened: what is unknown of the line is N(0, I)
    seen = np.isfinite(noise)
    scale = np.sqrt(prior.spread + noise[seen])
    X = half[seen] / scale[:, None]
    from scipy.linalg import cholesky, solve_triangular  # here: a wrong recipe is refused without scipy's solvers

    factor = cholesky(np.eye(half.shape[1]) + X.T @ X, lower=True)
    off = solve_triangular(factor, X.T @ ((rate - design @ mean)[seen] / scale), lower=True)
    root = solve_triangular(factor, half.T, lower=True).T
    return design @ mean + root @ off, root


def _root(prior: Prior) -> np.ndarray:
    """A root of the joint covariance of intercept and coefficients, `[1 + d, 1 + d]`; directions of no variance are allowed."""
    d = len(prior.measures)
    root = np.zeros((1 + d, 1 + d))
    root[0, 0] = np.sqrt(prior.intercept_variance)
    if d:
        values, vectors = np.linalg.eigh(prior.covariance)
        root[1:, 1:] = vectors * np.sqrt(np.maximum(values, 0.0))
    return root


def _probes(prior: Prior, scores: np.ndarray, probed: Mapping[int, tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Log rates, 0 where there is none, and variances, inf there: `[L]` each."""
    _check_scores(scores, len(prior.measures), "prior")
    rate, noise = np.zeros(len(scores)), np.full(len(scores), np.inf)
    for layer, (value, variance) in probed.items():
        if not 0 <= layer < len(scores):
            raise InvalidRequest(f"prior: layer {layer} was probed, and there are {len(scores)} layers, counted from 0.")
        _check_probe(value, variance, f"prior: the probe of layer {layer}")
        if np.isfinite(variance):
            rate[layer], noise[layer] = value, variance
    return rate, noise


def _check_scores(scores: np.ndarray, d: int, where: str) -> None:
    if scores.ndim != 2 or scores.shape[1] != d or not len(scores):
        raise InvalidRequest(f"{where}: scores {scores.shape}; need one row a layer and {d} columns, one a measure.")
    if not np.isfinite(scores).all():
        layer = int(np.argmin(np.isfinite(scores).all(axis=1)))
        raise InvalidRequest(f"{where}, layer {layer}: a score is nan or infinite; write 0 where a measure has no value.")


def _check_probe(rate: float, variance: float, where: str) -> None:
    if not np.isfinite(rate):
        raise InvalidRequest(f"{where}: the log rate is {rate}; clip damages above 0 before the logarithm.")
    if not variance >= 0:
        raise InvalidRequest(f"{where}: the variance is {variance}; a number from 0 to inf is needed, inf for no probe.")
