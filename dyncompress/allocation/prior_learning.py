"""The prior on sensitivities, learnt from networks that were probed: a hierarchical linear model by its marginal likelihood."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dyncompress.allocation.prior import Evidence, Prior
from dyncompress.errors import InvalidRequest

# Where the three variances lie before anything was seen: medians of log-normal laws, in nats^2 for a score's standard deviation.
MEDIAN = np.array([0.1, 0.03, 1.0])  # of the mean coefficients, of coefficients between networks, of layers around the line
WIDTH = 2.0  # standard deviation of a variance's logarithm: a factor of 7 either way is nothing unusual
LEVEL = 100.0  # nats^2: what one network more, never seen, adds to the squared deviations of the networks' levels
START = (-2.0, -1.0, 0.0, 1.0)  # widths from the median, tried before the search


@dataclass(frozen=True)
class _Stack:
    """All probed layers, one below the other; log rates less their network's mean, which is kept aside."""

    member: np.ndarray  # [N, L], 1 where a layer belongs to a network
    noise: np.ndarray  # [L]
    products: np.ndarray  # [L, (d + 2)^2], of (1, z, y) with itself
    level: np.ndarray  # [N]


@dataclass(frozen=True)
class _Fit:
    """What the likelihood yields for given variances."""

    loss: float  # minus the log of the penalised restricted likelihood, but for a constant
    mean: np.ndarray  # [d]
    covariance: np.ndarray  # [d, d], of the mean
    levels: np.ndarray  # [N], a_n


def learned(evidence: Sequence[Evidence], measures: Sequence[str]) -> Prior:
    """The prior that makes the probes of all networks most likely.

        y_nl = a_n + z_nl . b_n + u_nl + e_nl,    b_n ~ N(beta, omega^2 I),  u_nl ~ N(0, tau^2),  e_nl ~ N(0, v_nl)

    with beta ~ N(0, lambda^2 I) and levels a_n of their own, free (flat). lambda^2, omega^2 and tau^2 maximise the likelihood
    from which a_n, b_n, u_nl and beta are integrated out, times weak log-normal laws (`MEDIAN`, `WIDTH`) that keep a variance
    from 0 where few networks can't tell. Then beta has its closed-form posterior N(m, S), and a new network's coefficients are
    N(m, S + omega^2 I). The law of a new level has the mean of the a_n and the variance (1 + 1/N) (LEVEL + sum of squared
    deviations) / N: wide, so that the first probe of a network says where its level is.

    Source: Lindley and Smith, JRSS B 34, 1972 (the model); Morris, "Parametric empirical Bayes inference", JASA 78, 1983
    (variances from the data); Patterson and Thompson, Biometrika 58, 1971 (free levels: restricted likelihood); Chung et al.,
    Psychometrika 78, 2013 (weak laws that avoid the boundary, there a gamma law).
    Assumes: Gaussian logarithms; one scale for all coefficients, which scores in standard deviations allow; networks drawn alike.
    Cost: about 300 evaluations, each linear in the layers and cubic in the measures.
    Fails when: networks are few (below about five, omega^2 is mostly its median), or much alike and the next is not.

    Args:
        evidence: one entry a network; layers of infinite variance don't count.
        measures: names of the columns of the scores.

    Returns:
        The prior for a network that was not among them.

    Raises:
        InvalidRequest: no evidence, two networks of one name, or other numbers of columns than of measures.
    """
    names = tuple(entry.network for entry in evidence)
    if not names:
        raise InvalidRequest("prior: no network's evidence was given; probe the layers of one at least.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidRequest(f"prior: network '{twice[0]}' is given twice; join its layers, or name the networks apart.")
    for entry in evidence:
        if (d := entry.scores.shape[1]) != len(measures):
            raise InvalidRequest(f"prior: network '{entry.network}' has {d} scores a layer; {len(measures)} measures are named.")
    stack = _stacked(evidence)

    def loss(widths: np.ndarray) -> float:
        return _fitted(stack, widths).loss

    start = min(itertools.product(START, repeat=3), key=lambda at: loss(np.array(at)))
    from scipy.optimize import minimize  # here: a wrong recipe is refused without scipy's solvers

    found = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10, "maxiter": 5000, "maxfev": 5000})
    fit, (_, between, spread) = _fitted(stack, found.x), _variances(found.x)
    center, many = float(fit.levels.mean()), len(names)
    level = (1 + 1 / many) * (LEVEL + float(((fit.levels - center) ** 2).sum())) / many
    covariance = fit.covariance + between * np.eye(len(measures))
    return Prior(tuple(measures), center, level, fit.mean, covariance, float(spread), names)


def _variances(widths: np.ndarray) -> np.ndarray:
    return MEDIAN * np.exp(WIDTH * np.asarray(widths))


def _stacked(evidence: Sequence[Evidence]) -> _Stack:
    seen = [np.isfinite(entry.variance) for entry in evidence]
    level = np.array([entry.log_rate[kept].mean() for entry, kept in zip(evidence, seen, strict=True)])
    rows = [
        np.column_stack([np.ones(kept.sum()), entry.scores[kept], entry.log_rate[kept] - at])
        for entry, kept, at in zip(evidence, seen, level, strict=True)
    ]
    member = np.repeat(np.eye(len(rows)), [len(row) for row in rows], axis=1)
    x = np.concatenate(rows)
    noise = np.concatenate([entry.variance[kept] for entry, kept in zip(evidence, seen, strict=True)])
    return _Stack(member, noise, (x[:, :, None] * x[:, None, :]).reshape(len(x), -1), level)


def _fitted(stack: _Stack, widths: np.ndarray) -> _Fit:
    """Integrate out, network by network: levels, then coefficients, then their mean; all matrices are of size d."""
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
    own = mean + between * (solved[:, :, -1] - solved[:, :, :-1] @ mean)  # b_n: the mean, and what the network's own layers add
    levels = stack.level + means[:, -1] - (means[:, :-1] * own).sum(axis=1)
    covariance = ridge * np.linalg.inv(B)
    return _Fit((volume + square + np.square(widths).sum()) / 2, mean, (covariance + covariance.T) / 2, levels)
