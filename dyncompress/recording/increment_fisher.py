"""Estimate the Fisher information of weights from the noise of training: from increments, or from what Adam stores.

Where the loss is curved, the minibatch gradient is noisy, and so SGD moves the weights far in every step. Adam divides that noise
out of its steps, but stores its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from dyncompress.types import Trajectory

FEWEST = 3  # records, which are two increments: fewer have no variance
SCALED = 8  # records or recorded gradients from which a scale in nats is computed
FARTHEST = 50  # steps between records, above which their correlation doesn't show the momentum
ZEROED = 10.0  # nats that setting all weights to zero is assumed to cost where the scale is unknown; about 20 for ResNet-20
BISECTIONS = 50


@dataclass(frozen=True)
class IncrementFisher:
    """The diagonal of the Fisher information of all weights.

    Attributes:
        layers: layer name -> Fisher information of each weight f, `[out, in / groups, *kernel]` float32, for the weights as they
            were trained. An error e of a weight costs f e^2 / 2. Layers of which it can't be estimated are left out.
        nats: whether this cost is in nats; if not, its unit is unknown but the same for all layers.
        note: a sentence that says where the scale comes from.
        errors: layer name -> relative standard error of the layer's sum of f, or of any sum over many of its weights; nan where
            there are fewer than 4 records; empty where the estimate is that of an optimizer's state.
    """

    layers: Mapping[str, np.ndarray]
    nats: bool
    note: str
    errors: Mapping[str, float] = field(default_factory=dict)


def increment_fisher(trajectory: Trajectory) -> IncrementFisher:
    """Estimate the Fisher information of each weight from the variance of its increments or of its gradient.

    **SGD.** For weight i the estimate is f_i = B v_i / (eta^2 c), with B the batch size, eta the learning rate, v_i the variance
    of the increments of the weight over k steps (the distance between records), and c = `random_walk(k, momentum)`, which is k
    without momentum.

    At a minimum of the mean negative log-likelihood the covariance of the minibatch gradient is F / B, with F the Fisher
    information for labels drawn from the model. A step of SGD moves the weights by eta times the gradient, and k steps have k
    times the variance, as long as k eta times the curvature is small. If gradients were recorded, the scale of each layer is the
    trace of their covariance instead, and learning rate, momentum and distance aren't needed.

    The relative error of each v_i is sqrt(2 / records). They aren't smoothed, since the predicted distortion is linear in
    them and so unbiased for any number of records: from 3 records a layer's distortion has a relative error of 20 to 30 %,
    and it orders layers better than a mean over the layer does. Below 8 records, and where records are more than 50 steps
    apart, the scale isn't known, because the momentum isn't.

    **Adam and its relatives** divide by the root mean square of the gradient, which makes all increments alike. They store the
    mean of its square, and f_i = B g_i with g_i the trajectory's `gradient_variance`. Learning rate, momentum and distance aren't
    needed, and one record is enough: with beta2 = 0.999 the relative error of g_i is 3 %.

    **Source**: gradient noise and Fisher information: Jastrzebski et al. 2018, Mandt, Hoffman, Blei, JMLR 2017; Adam's average
    as a Fisher information: Kingma, Ba, ICLR 2015; the use of increments is this library's.
    **Assumes**: SGD, with or without momentum, at a constant rate, or the recorded state of an optimizer of the Adam family;
    labels as the model would draw them.
    **Fails when**: the optimizer divides by the size of the gradient and its state wasn't recorded: all increments are alike. For
    memorised training labels the noise is below F / B: the order of the layers holds, the scale is too small. Gradients that are
    clipped before the step are too small by as much.

    Args:
        trajectory: recorded late in training at a constant learning rate.

    Returns:
        The estimate. It has no layers, and its note says why, if the weights didn't move, or if there are fewer than 3 records
        and no optimizer's state.
    """
    if trajectory.gradient_variance:
        return _from_optimizer(trajectory)
    count = len(trajectory.steps)
    if count < FEWEST:
        return IncrementFisher(
            {},
            False,
            f"the trajectory gives no distortions: it has {count} records, and estimating its noise takes at least {FEWEST}",
        )
    errors = {name: _relative_error(rows) for name, rows in trajectory.sketches.items()}
    variances = {name: np.maximum(motion.increment_variance, 0).astype(np.float32) for name, motion in trajectory.motion.items()}
    if not any(float(v.sum()) > 0 for v in variances.values()):
        return IncrementFisher({}, False, "the trajectory gives no distortions: its weights didn't move")
    scale, note = _scales(trajectory, variances)
    nats = bool(scale)
    if not scale:
        scale = dict.fromkeys(variances, relative_scale((v, trajectory.motion[name].mean) for name, v in variances.items()))
    return IncrementFisher({name: v * np.float32(scale[name]) for name, v in variances.items()}, nats, note, errors)


def _from_optimizer(trajectory: Trajectory) -> IncrementFisher:
    """The estimate from the variances of gradients that an optimizer stored."""
    batch, known = trajectory.batch_size, trajectory.gradient_variance
    variances = {name: variance for name, variance in known.items() if np.isfinite(variance).all()}
    source = f"the gradients' size in the state of {trajectory.optimizer or 'the optimizer'}"
    left_out = len(trajectory.motion) - len(variances)
    rest = f"; {left_out} layers without it have none" if left_out else ""
    if not any(float(v.sum()) > 0 for v in variances.values()):
        return IncrementFisher({}, False, f"the trajectory gives no distortions: {source} is zero or not known")
    if batch > 0:
        note = f"distortions are in nats; they come from {source}, at batch size {batch}{rest}; {MEMORISED}"
        return IncrementFisher({name: v * np.float32(batch) for name, v in variances.items()}, True, note)
    scale = relative_scale((v, trajectory.motion[name].mean) for name, v in variances.items())
    note = f"distortions are relative: they come from {source}, and the trajectory has no batch size{rest}"
    return IncrementFisher({name: v * np.float32(scale) for name, v in variances.items()}, False, note)


def momentum(trajectory: Trajectory) -> float:
    """Estimate the momentum of SGD, in [0, 1), from the lag-1 correlation of successive increments over all layers.

    For momentum m and k steps between records this correlation is c(2k, m) / (2 c(k, m)) - 1 with c = `random_walk`, which grows
    with m from 0; the equation is solved for m. A drift that changes makes the estimate too large. Directions whose motion
    is stationary within 2k steps make it too small.

    Returns:
        The momentum; 0 if the correlation is negative or the distance between records varies.
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
        predicted = random_walk(2 * distance, middle) / (2 * random_walk(distance, middle)) - 1
        low, high = (middle, high) if predicted < correlation else (low, middle)
    return low


def random_walk(steps: int, momentum: float) -> float:
    """c(k, m), the variance of k steps of SGD with momentum m on a flat loss, in units of rate^2 times the gradient's variance.

    c(k, m) = (k (1 + m) / (1 - m) - 2 m (1 - m^k) / (1 - m)^2) / (1 - m^2), which is k without momentum and about
    k / (1 - m)^2 for large k.

    Example:
        >>> random_walk(5, 0.0), round(random_walk(1, 0.9), 3)
        (5.0, 5.263)
    """
    m, rest = momentum, 1 - momentum
    return (steps * (1 + m) / rest - 2 * m * (1 - m**steps) / rest**2) / (1 - m * m)


def _distance(trajectory: Trajectory) -> int:
    """Number of steps between records; 0 if it varies."""
    distances = set(np.diff(trajectory.steps).tolist())
    return int(distances.pop()) if len(distances) == 1 else 0


def _scales(trajectory: Trajectory, variances: Mapping[str, np.ndarray]) -> tuple[dict[str, float], str]:
    """Layer name -> Fisher information per unit of variance (empty if unknown), and a sentence on where it comes from."""
    batch, rate, distance = trajectory.batch_size, trajectory.learning_rate, _distance(trajectory)
    traces = {name: _trace(trajectory.gradients[name]) for name in variances if name in trajectory.gradients}
    if batch > 0 and len(traces) == len(variances) and all(map(math.isfinite, traces.values())):
        scale = {name: batch * traces[name] / max(float(v.sum(dtype=np.float64)), 1e-300) for name, v in variances.items()}
        return (
            scale,
            f"distortions are in nats; their scale is that of the recorded gradients' noise at batch size {batch}; {MEMORISED}",
        )
    if trajectory.optimizer not in LIKE_SGD:
        return {}, UNKNOWN_OPTIMIZER.format(trajectory.optimizer)
    if len(trajectory.steps) < SCALED or distance > FARTHEST:
        few = f"{len(trajectory.steps)} records, {distance or 'varying'} steps apart"
        return {}, f"distortions are relative: {few}, don't show the momentum, and so give no scale"
    if batch > 0 and rate > 0 and math.isfinite(rate) and distance:
        estimate = momentum(trajectory)
        factor = batch / (rate**2 * random_walk(distance, estimate))
        source = (
            f"rate {rate:.3g}, batch size {batch}, {distance} steps between records and momentum {estimate:.2g} (estimated from "
            "the records)"
        )
        return dict.fromkeys(variances, factor), f"distortions are in nats; their scale comes from {source}; {MEMORISED}"
    return {}, "distortions are relative: the trajectory has no batch size and learning rate, or unequal steps between records"


LIKE_SGD = ("", "SGD", "ASGD")  # optimizers with steps in proportion to the gradient; one that isn't known is taken for such
UNKNOWN_OPTIMIZER = (
    "distortions are relative, and wrong if steps of {} aren't in proportion to the gradient; record gradients, or the state of "
    "an optimizer that stores squared gradients"
)
MEMORISED = "it is too small if the network had memorised its training labels"


def _trace(rows: np.ndarray) -> float:
    """The trace of the gradient's covariance, from its sketches `[T, d]`; nan if fewer than 8 are finite."""
    finite = rows[np.isfinite(rows).all(1)].astype(np.float64)
    return float(finite.var(0, ddof=1).sum()) if len(finite) >= SCALED else math.nan


def _relative_error(rows: np.ndarray) -> float:
    """Relative standard error of the variance of a layer's increments, summed over its weights, from its sketches `[T, d]`.

    It is that of the mean squared length of the increments, and so counts how many directions of noise a layer has.
    """
    steps = np.diff(rows.astype(np.float64), axis=0)
    sizes = np.square(steps - steps.mean(0)).sum(1)
    known = len(sizes) > 2 and sizes.any()
    return float(sizes.std(ddof=1) / sizes.mean() / math.sqrt(len(sizes))) if known else math.nan


def relative_scale(layers: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """The factor with which setting all weights to zero costs `ZEROED`.

    Args:
        layers: variance of the gradient up to a factor, and weight, of each layer, in one shape.
    """
    pairs = ((v.astype(np.float64), w.astype(np.float64)) for v, w in layers)
    whole = sum(float((np.maximum(v, 0) * np.square(w)).sum()) for v, w in pairs)
    return 2 * ZEROED / whole if whole > 0 else 1.0
