"""Learns the prior on sensitivities from probed networks: a hierarchical linear model fitted by its marginal likelihood."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.prior import Evidence, Prior
from dyncompress.errors import InvalidRequest
from dyncompress.types.arrays import Float, Float64

# Log-normal priors of the three variances; their medians are in nats^2 for one standard deviation of a score.
MEDIAN = np.array([0.1, 0.03, 1.0])  # of the mean coefficients, of coefficients between networks, of layers around the line
WIDTH = 2.0  # standard deviation of a variance's logarithm: a factor of 7 in both directions is usual
LEVEL = 100.0  # nats^2, added to the squared deviations of the networks' levels, as one more network would
START = (-2.0, -1.0, 0.0, 1.0)  # starting points of the search, in standard deviations from the median


@dataclass(frozen=True)
class _Stack:
    """All probed layers of all networks, concatenated; log rates are relative to their network's mean, `level`."""

    member: Float64[np.ndarray, "N L"]  # 1 where a layer belongs to a network
    noise: Float64[np.ndarray, " L"]
    products: Float64[np.ndarray, "L products"]  # of (1, z, y) with itself, (d + 2)^2 of them
    level: Float64[np.ndarray, " N"]


@dataclass(frozen=True)
class _Fit:
    """The estimates for given variances."""

    loss: float  # minus the log of the penalised restricted likelihood, up to a constant
    mean: Float64[np.ndarray, " d"]
    covariance: Float64[np.ndarray, "d d"]  # of the mean
    levels: Float64[np.ndarray, " N"]  # a_n


def learn_prior(evidence: Sequence[Evidence], measures: Sequence[str]) -> Prior:
    """Learn the prior on the sensitivities of a new network from probed networks.

        y_nl = a_n + z_nl . b_n + u_nl + e_nl,    b_n ~ N(beta, omega^2 I),  u_nl ~ N(0, tau^2),  e_nl ~ N(0, v_nl)

    Here y is a probe's log rate and z a layer's scores; beta ~ N(0, lambda^2 I), and the levels a_n have a flat prior. lambda^2,
    omega^2 and tau^2 maximise the likelihood with a_n, b_n, u_nl and beta integrated out, times weak log-normal priors (`MEDIAN`,
    `WIDTH`), which keep variances above 0 where networks are few. Then beta has the closed-form posterior N(m, S), and a new
    network's coefficients have the law N(m, S + omega^2 I). The law of a new level has the mean of the a_n and the variance
    (1 + 1/N) (LEVEL + sum of squared deviations) / N, wide enough for the first probe of a network to determine its level.

    Source: Lindley and Smith, JRSS B 34, 1972 (the model); Morris, "Parametric empirical Bayes inference", JASA 78, 1983
    (variances from the data); Patterson and Thompson, Biometrika 58, 1971 (free levels: restricted likelihood); Chung et al.,
    Psychometrika 78, 2013 (weak priors that avoid the boundary, theirs is a gamma law).
    Assumes: Gaussian logarithms; one scale for all coefficients, since scores are in standard deviations; networks of one law.
    Cost: about 300 evaluations, each linear in the layers and cubic in the measures.
    Fails when: networks are few (below about five, omega^2 is mostly its median), or similar to each other but not to the next.

    Args:
        evidence: one entry for each network; layers of infinite variance don't count.
        measures: names of the columns of the scores.

    Returns:
        The prior for a network that isn't among them.

    Raises:
        InvalidRequest: there is no evidence, two networks have one name, or the numbers of columns and measures differ.
    """
    names = tuple(entry.network for entry in evidence)
    if not names:
        raise InvalidRequest("prior: no network's evidence was given; probe the layers of at least one.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidRequest(
            f"prior: network '{twice[0]}' is given twice; join its layers, or give the networks different names."
        )
    for entry in evidence:
        if (d := entry.scores.shape[1]) != len(measures):
            raise InvalidRequest(
                f"prior: network '{entry.network}' has {d} scores for each layer; {len(measures)} measures are named."
            )
    stack = _stacked(evidence)

    def loss(widths: np.ndarray) -> float:
        return _fitted(stack, widths).loss

    start = min(itertools.product(START, repeat=3), key=lambda at: loss(np.array(at)))
    from scipy.optimize import minimize  # imported here, because checking a recipe doesn't need scipy's solvers

    optimum = minimize(
        loss, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10, "maxiter": 5000, "maxfev": 5000}
    )
    fit, (_, between, spread) = _fitted(stack, optimum.x), _variances(optimum.x)
    center, many = float(fit.levels.mean()), len(names)
    level = (1 + 1 / many) * (LEVEL + float(((fit.levels - center) ** 2).sum())) / many
    covariance = fit.covariance + between * np.eye(len(measures))
    return Prior(tuple(measures), center, level, fit.mean, covariance, float(spread), names)


def _variances(widths: Float[np.ndarray, " 3"]) -> Float64[np.ndarray, " 3"]:
    """The variances at so many standard deviations of their logarithm from the median."""
    return MEDIAN * np.exp(WIDTH * np.asarray(widths))


def _stacked(evidence: Sequence[Evidence]) -> _Stack:
    """The probed layers of all networks."""
    probed = [np.isfinite(entry.variance) for entry in evidence]
    level = np.array([entry.log_rate[rows].mean() for entry, rows in zip(evidence, probed, strict=True)])
    parts = [
        np.column_stack([np.ones(rows.sum()), entry.scores[rows], entry.log_rate[rows] - mean])
        for entry, rows, mean in zip(evidence, probed, level, strict=True)
    ]
    member = np.repeat(np.eye(len(parts)), [len(part) for part in parts], axis=1)
    x = np.concatenate(parts)
    noise = np.concatenate([entry.variance[rows] for entry, rows in zip(evidence, probed, strict=True)])
    return _Stack(member, noise, (x[:, :, None] * x[:, None, :]).reshape(len(x), -1), level)


def _fitted(stack: _Stack, widths: Float[np.ndarray, " 3"]) -> _Fit:
    """Integrate out, for every network, levels, then coefficients, then their mean; all matrices have size d."""
    ridge, between, spread = _variances(widths)
    weight = 1 / (spread + stack.noise)
    side = int(np.sqrt(stack.products.shape[1]))
    M = ((stack.member * weight) @ stack.products).reshape(-1, side, side)
    means = M[:, 0, 1:] / M[:, :1, 0]
    M0 = M[:, 1:, 1:] - M[:, 1:, :1] * means[:, None, :]  # sums of products around the network's weighted means
    A, g, c = M0[:, :-1, :-1], M0[:, :-1, -1], M0[:, -1, -1]
    one = np.eye(side - 2)
    C = one + between * A
    solved = np.linalg.solve(C, np.concatenate([A, g[:, :, None]], axis=2))
    J, h = solved[:, :, :-1].sum(axis=0), solved[:, :, -1].sum(axis=0)
    B = one + ridge * (J + J.T) / 2
    mean = ridge * np.linalg.solve(B, h)
    square = (c - between * (g * solved[:, :, -1]).sum(axis=1)).sum() - h @ mean
    volume = np.log(M[:, 0, 0]).sum() - np.log(weight).sum() + np.linalg.slogdet(C)[1].sum() + np.linalg.slogdet(B)[1]
    own = mean + between * (
        solved[:, :, -1] - solved[:, :, :-1] @ mean
    )  # b_n: the mean plus the correction by the network's own layers
    levels = stack.level + means[:, -1] - (means[:, :-1] * own).sum(axis=1)
    covariance = ridge * np.linalg.inv(B)
    return _Fit((volume + square + np.square(widths).sum()) / 2, mean, (covariance + covariance.T) / 2, levels)
