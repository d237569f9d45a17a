"""What late increments tell of the Fisher information: where the loss is curved, the gradient is noisy, and weights move far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dyncompress.types import Trajectory, WeightMotion

FEWEST = 8  # records, or recorded gradients: a variance of fewer is known to worse than a half
ZEROED = 10.0  # nats that all weights set to zero are taken to cost where nothing tells the scale; ResNet-20's cost about 20
BISECTIONS = 50


@dataclass(frozen=True)
class IncrementFisher:
    """The diagonal of the Fisher information, weight by weight.

    Attributes:
        layers: name -> `[out, in / groups, *kernel]` float32, in the coordinates that were trained: half of an error's square
            times it is its cost in nats, or in units that are the same for all layers. Empty where it can't be read.
        nats: which of both.
        note: a sentence about where the scale comes from.
    """

    layers: Mapping[str, np.ndarray]
    nats: bool
    note: str


def increment_fisher(trajectory: Trajectory) -> IncrementFisher:
    """f_i = B v_i / (eta^2 c), v_i the variance of weight i's increments over k steps, c = `random_walk(k, momentum)`, k without.

    The minibatch gradient's covariance at a minimum of the mean negative log-likelihood is F / B, F the Fisher information (of
    the model's own labels). A step of SGD moves weights by eta times it, and k steps by k times as much variance while k eta
    times the curvature is small. So the increments are large where weights are sensitive. Where gradients were recorded, each
    layer's scale is the trace of their covariance, and neither rate, momentum nor distance is needed.

    Each v_i is known to sqrt(2 / records) only, but harm is linear in them, and unbiased however few there are: nothing is
    smoothed here.

    **Source**: gradient noise and Fisher information: Jastrzebski et al. 2018, Mandt, Hoffman, Blei, JMLR 2017; the use of
    increments is this library's.
    **Assumes**: plain SGD, with or without momentum, at a constant rate; labels as the model would give them.
    **Fails when**: the optimizer divides by the gradient's spread (Adam): increments are alike everywhere then. Labels that the
    network has learnt by heart leave less noise than F / B: the order of the layers holds, the scale is too small.

    Returns:
        No layer's where there are too few records or nothing moved; the note says so.
    """
    count = len(trajectory.steps)
    if count < FEWEST:
        return IncrementFisher(
            {},
            False,
            f"the trajectory gives no distortions: it has {count} records, and estimating its noise takes at least {FEWEST}",
        )
    moved = {name: np.maximum(motion.increment_variance, 0).astype(np.float32) for name, motion in trajectory.motion.items()}
    if not any(float(v.sum()) > 0 for v in moved.values()):
        return IncrementFisher({}, False, "the trajectory gives no distortions: its weights didn't move")
    scale, note = _scales(trajectory, moved)
    nats = bool(scale)
    if not scale:
        scale = dict.fromkeys(moved, _relative(trajectory.motion))
    return IncrementFisher({name: v * np.float32(scale[name]) for name, v in moved.items()}, nats, note)


def momentum(trajectory: Trajectory) -> float:
    """The momentum, in [0, 1), whose random walk has the increments' lag-1 correlation over all layers; 0 where that is negative.

    For momentum m it is c(2k, m) / (2 c(k, m)) - 1, which grows with m from 0. Drift that changes makes it too large, directions
    that come to rest within 2k steps too small.
    """
    own = next_ = 0.0
    for rows in trajectory.sketches.values():
        steps = np.diff(rows.astype(np.float64), axis=0)
        steps -= steps.mean(0)
        own += float(np.square(steps).sum())
        next_ += float((steps[1:] * steps[:-1]).sum())
    distance = _distance(trajectory)
    correlation = next_ / own if own > 0 else 0.0
    if not (distance and correlation > 0):
        return 0.0
    low, high = 0.0, 0.999
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        of_it = random_walk(2 * distance, middle) / (2 * random_walk(distance, middle)) - 1
        low, high = (middle, high) if of_it < correlation else (low, middle)
    return low


def random_walk(steps: int, momentum: float) -> float:
    """c(k, m): the variance of k steps of heavy-ball SGD on a flat loss, in units of rate^2 times the gradient's variance.

    (k (1 + m) / (1 - m) - 2 m (1 - m^k) / (1 - m)^2) / (1 - m^2): k without momentum, k / (1 - m)^2 for large k.

    Example:
        >>> random_walk(5, 0.0), round(random_walk(1, 0.9), 3)
        (5.0, 5.263)
    """
    m, rest = momentum, 1 - momentum
    return (steps * (1 + m) / rest - 2 * m * (1 - m**steps) / rest**2) / (1 - m * m)


def _distance(trajectory: Trajectory) -> int:
    """Steps between records; 0 where they vary."""
    found = set(np.diff(trajectory.steps).tolist())
    return int(found.pop()) if len(found) == 1 else 0


def _scales(trajectory: Trajectory, moved: Mapping[str, np.ndarray]) -> tuple[dict[str, float], str]:
    """Layer -> Fisher information for a unit of variance, and where it comes from; empty where nothing tells."""
    batch, rate, distance = trajectory.batch_size, trajectory.learning_rate, _distance(trajectory)
    traces = {name: _trace(trajectory.gradients[name]) for name in moved if name in trajectory.gradients}
    if batch > 0 and len(traces) == len(moved) and all(map(math.isfinite, traces.values())):
        scale = {name: batch * traces[name] / max(float(v.sum(dtype=np.float64)), 1e-300) for name, v in moved.items()}
        return (
            scale,
            f"distortions are in nats; their scale is that of the recorded gradients' noise at batch size {batch}; {HEART}",
        )
    if batch > 0 and rate > 0 and math.isfinite(rate) and distance:
        found = momentum(trajectory)
        factor = batch / (rate**2 * random_walk(distance, found))
        told = f"rate {rate:.3g}, batch size {batch}, {distance} steps between records and momentum {found:.2g} (read off them)"
        return dict.fromkeys(moved, factor), f"distortions are in nats; their scale comes from {told}; {HEART}"
    return {}, "distortions are relative: the trajectory has no batch size and learning rate, or unequal steps between records"


HEART = "labels that the network had learnt by heart make it too small"


def _trace(rows: np.ndarray) -> float:
    """Of the gradient's covariance, from its sketches `[T, d]`; nan where too few are known."""
    known = rows[np.isfinite(rows).all(1)].astype(np.float64)
    return float(known.var(0, ddof=1).sum()) if len(known) >= FEWEST else math.nan


def _relative(motion: Mapping[str, WeightMotion]) -> float:
    """The factor at which all weights set to zero cost `ZEROED`."""
    pairs = [(m.increment_variance.astype(np.float64), m.mean.astype(np.float64)) for m in motion.values()]
    whole = sum(float((np.maximum(v, 0) * np.square(w)).sum()) for v, w in pairs)
    return 2 * ZEROED / whole if whole > 0 else 1.0
