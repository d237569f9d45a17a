"""The mean square of a parameter's gradient, from the state of each optimizer; the names are those of torch's optimizers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST_DRIFT = 0.95  # largest share of the mean square that is taken to be the mean's; what is left is noise


class NoMomentError(Exception):
    """Why a state has no mean square of gradients, as a part of a sentence."""


@dataclass(frozen=True)
class Moment:
    """The second moment of one parameter's gradient.

    Attributes:
        square: float32, in the parameter's shape.
        drift: the estimated share that is the square of the mean, in [0, 1).
        averaged: number of gradients that the mean effectively goes over; nan if unknown.
        relative: whether its unit is not that of a squared gradient.
    """

    square: Tensor
    drift: float = 0.0
    averaged: float = math.nan
    relative: bool = False


def second_moment(state: Mapping[str, Any], group: Mapping[str, Any]) -> Moment:
    """The mean square of the gradient of one parameter.

    Adam, AdamW, NAdam, RAdam and AMSGrad keep an exponential mean (`exp_avg_sq`; AMSGrad's maximum of it isn't read), RMSprop
    and Adadelta as well (`square_avg`), Adagrad a sum over the whole run, Adamax a decaying maximum, Adafactor the means of rows
    and columns, whose product over their mean is used. SGD and Muon keep no second moment, but the square of their momentum
    buffer is a single draw of one: m = sum_k mu^k g has the variance of a gradient over 1 - mu^2.

    Args:
        state: what the optimizer keeps of the parameter.
        group: the hyper-parameters of its group.

    Raises:
        NoMomentError: the state holds none.

    Example:
        >>> state = {"step": torch.tensor(1.0), "exp_avg_sq": torch.tensor([0.004]), "exp_avg": torch.zeros(1)}
        >>> second_moment(state, {"betas": (0.9, 0.999)}).square
        tensor([4.])
    """
    _check_kind(state)
    steps = _steps(state, group)
    if isinstance(state.get("row_var"), Tensor):  # torch's Adafactor: [.., R, 1] and [.., 1, C]
        return Moment(product(state["row_var"], state["col_var"], -2), averaged=_growing(steps, group))
    if "exp_avg_sq_row" in state:  # transformers' and Keras' Adafactor: [.., R] and [.., C]
        rows, columns = state["exp_avg_sq_row"].unsqueeze(-1), state["exp_avg_sq_col"].unsqueeze(-2)
        return Moment(product(rows, columns, -2), averaged=_growing(steps, group))
    if isinstance(state.get("variance"), Tensor):
        return Moment(state["variance"].float(), averaged=_growing(steps, group))
    if "exp_avg_sq" in state or "state2" in state:
        return _adam(state, group, steps)
    if "square_avg" in state:
        return _rmsprop(state, group, steps)
    if "sum" in state:
        start = float(group.get("initial_accumulator_value", 0.0))
        mean = (state["sum"].float() - start).clamp_min_(0).div_(max(steps, 1.0))
        return Moment(mean, averaged=steps or math.nan, relative=not steps)
    if "exp_inf" in state:
        return Moment(state["exp_inf"].float().square(), averaged=1.0, relative=True)
    if isinstance(state.get("momentum_buffer"), Tensor):
        return _momentum(state["momentum_buffer"].float(), group)
    kept = ", ".join(sorted(str(key) for key in state)) or "nothing"
    raise NoMomentError(f"it keeps no squares of gradients ({kept})")


def _check_kind(state: Mapping[str, Any]) -> None:
    """Refuse states that look like those of Adam and hold something else.

    Raises:
        NoMomentError: tells what.
    """
    if any(isinstance(state.get(key), Tensor) and not state[key].is_floating_point() for key in ("state2", "exp_avg_sq")):
        raise NoMomentError("its second moments are stored in 8 bits, in a form of their own")
    if "GG" in state or "projector" in state:  # SOAP, GaLore
        raise NoMomentError("its second moments are those of rotated or projected gradients")
    if "exp_avg_diff" in state:  # Adan
        raise NoMomentError("its second moments include differences of gradients")


def product(rows: Tensor, columns: Tensor, axis: int) -> Tensor:
    """The mean squares of Adafactor: rows times columns, over the mean of the rows along `axis`.

    Args:
        rows, columns: means of squares, each with one axis of length 1.
        axis: the one along which the columns have length 1.
    """
    rows = rows.float()
    return (rows / rows.mean(axis, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)) * columns.float()


def effective_count(decay: float, steps: float) -> float:
    """The number of values that an exponential mean effectively goes over: one over the sum of its squared weights.

    Args:
        decay: of the mean, below 1.
        steps: number of values since it started at zero; 0: unknown, and taken as many.

    Example:
        >>> effective_count(0.9, 1), round(effective_count(0.9, 1000), 3)
        (1.0, 19.0)
    """
    whole = (1 + decay) / (1 - decay) if decay < 1 else math.inf
    return whole * (1 - decay**steps) / (1 + decay**steps) if steps > 0 and decay < 1 else steps or whole


def mean_share(first: Tensor, square: Tensor, noise: float) -> float:
    """The share of a layer's mean square that is the square of its mean gradient, in [0, `MOST_DRIFT`].

    Args:
        first: the exponential mean of the gradients.
        square: the mean of their squares, of the same shape.
        noise: the variance of `first` when all gradients are noise of variance 1.
    """
    whole = float(square.sum(dtype=torch.float64))
    share = float(torch.linalg.vector_norm(first, dtype=torch.float64)) ** 2 / whole if whole > 0 else 0.0
    return min(max((share - noise) / (1 - noise), 0.0), MOST_DRIFT) if noise < 1 - 1e-9 else 0.0


def _adam(state: Mapping[str, Any], group: Mapping[str, Any], steps: float) -> Moment:
    """Without the bias of the start at zero; the first moment tells how much of it is the mean gradient's square."""
    second = state["state2"] if "state2" in state else state["exp_avg_sq"]  # bitsandbytes keeps small tensors in 32 bits
    first = state.get("state1", state.get("exp_avg"))
    betas = group.get("betas")
    if betas is None:  # transformers' Adafactor with unfactored moments, whose decay corrects itself
        return Moment(second.float(), averaged=_growing(steps, group))
    beta1, beta2 = float(betas[0]), float(betas[1])
    square = second.float() / filled(beta2, steps)
    drift = 0.0
    if isinstance(first, Tensor) and first.shape == square.shape and beta1 < 1:
        drift = _drift(first, square, beta1, steps)
    scaled = "p0" in state and "d" in group  # Prodigy scales its gradients
    return Moment(square, drift, effective_count(beta2, steps), relative=scaled)


def _drift(first: Tensor, square: Tensor, decay: float, steps: float) -> float:
    """The mean gradient's share, from the exponential mean of gradients with its bias."""
    return mean_share(first.float() / filled(decay, steps), square, 1 / effective_count(decay, steps))


def _rmsprop(state: Mapping[str, Any], group: Mapping[str, Any], steps: float) -> Moment:
    """Also Adadelta, whose decay is `rho`; the centred form keeps the mean gradient as well."""
    decay = float(group.get("alpha", group.get("rho", 0.99)))
    square = state["square_avg"].float() / filled(decay, steps)
    mean = state.get("grad_avg")
    drift = _drift(mean, square, decay, steps) if isinstance(mean, Tensor) else 0.0
    return Moment(square, drift, effective_count(decay, steps))


def _momentum(buffer: Tensor, group: Mapping[str, Any]) -> Moment:
    """The square of the momentum buffer, brought to the variance of one gradient; Muon dampens by its momentum."""
    mu = float(group.get("momentum", 0.0))
    rest = 1 - (mu if "ns_steps" in group else float(group.get("dampening", 0.0)))
    return Moment(buffer.square() * ((1 - mu * mu) / max(rest, 1e-6) ** 2), averaged=1.0)


def _steps(state: Mapping[str, Any], group: Mapping[str, Any]) -> float:
    """Number of steps of a parameter, counted per parameter or per group; 0 if unknown."""
    return float(state.get("step", group.get("step", group.get("k", 0.0))))


def filled(decay: float, steps: float) -> float:
    """How much of an exponential mean that started at zero is filled after these steps."""
    return 1 - decay**steps if steps > 0 else 1.0


def _growing(steps: float, group: Mapping[str, Any]) -> float:
    """Number of gradients that Adafactor's mean goes over: its decay after t steps is 1 - t^-0.8."""
    power = abs(float(group.get("beta2_decay", group.get("decay_rate", -0.8))))
    return min(2 * steps**power - 1, steps) if steps > 0 else math.nan
