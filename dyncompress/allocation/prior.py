"""A Gaussian model of layers' sensitivities: what measures predict, corrected by the layers that were probed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.types.arrays import Float, Float64

ROUNDING = 1e-6  # share of the largest eigenvalue by which a covariance with six digits may fail to be semidefinite


@dataclass(frozen=True)
class Evidence:
    """The probed sensitivities of one network's layers, with their measures.

    Args:
        network: its name, for messages and for the prior's list of networks.
        scores: `[L, d]`, the layers' measures standardised over the network; 0 where a measure has no value.
        log_rate: `[L]`, log(divergence / relative error) of each layer's probe, the divergence in nats.
        variance: `[L]`, variance of the log rate due to the noise of its probe; inf where a layer has no probe.

    Raises:
        InvalidRequest: shapes differ, a number isn't finite, or no layer was probed.
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
    """The law of the layers' log sensitivities in a new network, learnt from others: a + z_l . b + u_l with scores z_l.

        a ~ N(intercept, intercept_variance),  b ~ N(coefficients, covariance),  u_l ~ N(0, spread)

    Args:
        measures: names of the d scores.
        intercept: mean of a new network's level a.
        intercept_variance: variance of a new network's level.
        coefficients: `[d]`, mean of a new network's coefficients b; their signs are learnt.
        covariance: `[d, d]`, of a new network's coefficients: the variance between networks plus that of the mean.
        spread: variance of a layer's log sensitivity around a + z_l . b, which no measure explains.
        networks: names of the networks from which it was learnt.

    Raises:
        InvalidRequest: lengths differ, a number isn't finite, a variance is negative, or the covariance isn't semidefinite.
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
                "need one coefficient, one row and one column for each measure."
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
            raise InvalidRequest("prior: the covariance isn't symmetric; write the same numbers above and below its diagonal.")
        if d and (values := np.linalg.eigvalsh(self.covariance))[0] < -ROUNDING * abs(values[-1]):
            raise InvalidRequest(f"prior: the covariance has the eigenvalue {values[0]:.3g}; none may be negative.")


@dataclass(frozen=True)
class Sensitivity:
    """Log sensitivities of one network's layers.

    Args:
        log: `[L]`, posterior mean of log(divergence / relative error).
        variance: `[L]`, posterior variance.
        theory: `[L]`, in [0, 1]: share of the posterior precision that comes from the line a + z_l . b, which the probes of other
            layers inform too; the rest is from the layer's own probe. 1 without a probe, 0 for a probe without noise.
    """

    log: Float64[np.ndarray, " L"]
    variance: Float64[np.ndarray, " L"]
    theory: Float64[np.ndarray, " L"]


def posterior(prior: Prior, scores: np.ndarray, probed: Mapping[int, tuple[float, float]]) -> Sensitivity:
    """The posterior law of every layer's log sensitivity after some were probed; exact for the model of `Prior`.

    With y_l the log rate of a probe, v_l its variance, r_l = spread / (spread + v_l) (0 without a probe), and the line (a, b)
    regressed on the probes with weights 1 / (spread + v_l),

        mean_l = line_l + r_l (y_l - line_l),   variance_l = spread (1 - r_l) + (1 - r_l)^2 var(line_l),
        theory_l = 1 - d mean_l / d y_l = 1 - variance_l / v_l.

    Source: Lindley and Smith, "Bayes estimates for the linear model", JRSS B 34, 1972, with known variances; written with sums of
    positive terms, so that probes without noise cause no cancellation.
    Assumes: Gaussian logarithms, and variances that equal the learnt ones.
    Cost: one Cholesky factor of size d + 1.
    Fails when: the network differs from those of `prior.networks`.

    Args:
        prior: see `prior_learning.learn_prior`.
        scores: `[L, d]`, the measures standardised over this network's layers, columns as `prior.measures`.
        probed: layer -> (log rate, its variance); with an infinite variance the layer counts as not probed; 0 means no noise.

    Returns:
        Mean, variance and the share of theory, each `[L]`.

    Raises:
        InvalidRequest: shapes differ, a layer doesn't exist, or a number isn't finite.

    Example:
        >>> prior = Prior(("hill",), 0.0, 0.0, np.array([2.0]), np.array([[0.0]]), 1.0, ("a",))
        >>> sensitivity = posterior(prior, np.array([[1.0], [-1.0]]), {0: (4.0, 1.0)})
        >>> sensitivity.log.tolist(), sensitivity.variance.tolist(), sensitivity.theory.tolist()
        ([3.0, -2.0], [0.5, 1.0], [0.5, 1.0])
    """
    rate, noise = _probes(prior, scores, probed)
    line, root = _line(prior, scores, rate, noise)
    own = prior.spread / (prior.spread + noise)
    width = (root**2).sum(axis=1)
    theory = (1 - own) * np.clip(1 - width / (prior.spread + noise), 0.0, 1.0)
    return Sensitivity(line + own * (rate - line), prior.spread * (1 - own) + (1 - own) ** 2 * width, theory)


def _line(
    prior: Prior, scores: Float[np.ndarray, "L d"], rate: Float64[np.ndarray, " L"], noise: Float64[np.ndarray, " L"]
) -> tuple[Float64[np.ndarray, " L"], Float64[np.ndarray, "L d+1"]]:
    """Posterior mean of a + z_l . b, `[L]`, and a root R of its covariance R R^T, `[L, 1 + d]`."""
    design = np.column_stack([np.ones(len(scores)), scores])
    mean = np.concatenate([[prior.intercept], prior.coefficients])
    half = design @ _root(prior)  # whitened: the prior uncertainty of the line is N(0, I)
    probed = np.isfinite(noise)
    scale = np.sqrt(prior.spread + noise[probed])
    X = half[probed] / scale[:, None]
    from scipy.linalg import cholesky, solve_triangular  # imported here, because checking a recipe doesn't need scipy's solvers

    factor = cholesky(np.eye(half.shape[1]) + X.T @ X, lower=True)
    off = solve_triangular(factor, X.T @ ((rate - design @ mean)[probed] / scale), lower=True)
    root = solve_triangular(factor, half.T, lower=True).T
    return design @ mean + root @ off, root


def _root(prior: Prior) -> Float64[np.ndarray, "d d"]:
    """A root of the joint covariance of intercept and coefficients, `[1 + d, 1 + d]`; it may be singular."""
    d = len(prior.measures)
    root = np.zeros((1 + d, 1 + d))
    root[0, 0] = np.sqrt(prior.intercept_variance)
    if d:
        values, vectors = np.linalg.eigh(prior.covariance)
        root[1:, 1:] = vectors * np.sqrt(np.maximum(values, 0.0))
    return root


def _probes(
    prior: Prior, scores: np.ndarray, probed: Mapping[int, tuple[float, float]]
) -> tuple[Float64[np.ndarray, " L"], Float64[np.ndarray, " L"]]:
    """Log rates and their variances, `[L]` each; 0 and inf for layers without a probe."""
    _check_scores(scores, len(prior.measures), "prior")
    rate, noise = np.zeros(len(scores)), np.full(len(scores), np.inf)
    for layer, (value, variance) in probed.items():
        if not 0 <= layer < len(scores):
            raise InvalidRequest(f"prior: layer {layer} was probed, but there are {len(scores)} layers, counted from 0.")
        _check_probe(value, variance, f"prior: the probe of layer {layer}")
        if np.isfinite(variance):
            rate[layer], noise[layer] = value, variance
    return rate, noise


def _check_scores(scores: np.ndarray, d: int, where: str) -> None:
    """Check that scores are finite and have shape `[L, d]`."""
    if scores.ndim != 2 or scores.shape[1] != d or not len(scores):
        raise InvalidRequest(
            f"{where}: scores {scores.shape}; need one row for each layer and {d} columns, one for each measure."
        )
    if not np.isfinite(scores).all():
        layer = int(np.argmin(np.isfinite(scores).all(axis=1)))
        raise InvalidRequest(f"{where}, layer {layer}: a score is nan or infinite; write 0 where a measure has no value.")


def _check_probe(rate: float, variance: float, where: str) -> None:
    """Check the log rate of a probe and its variance."""
    if not np.isfinite(rate):
        raise InvalidRequest(f"{where}: the log rate is {rate}; clip divergences above 0 before the logarithm.")
    if not variance >= 0:
        raise InvalidRequest(
            f"{where}: the variance is {variance}; a number from 0 to inf is needed, inf for a layer without a probe."
        )
