"""Step sizes and squared gradients in the state that PyTorch optimizers keep for one parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dyncompress.recording.training_states.moments import NoMomentError, filled, second_moment

State = Mapping[str, Any]
RECENT = ("exp_avg_sq", "square_avg", "row_var", "exp_avg_sq_row")  # averages that forget
MEANS = ("exp_avg", "grad_avg")  # the mean gradient is taken from the increments of a whole record instead


def squared_gradients(state: State, group: State) -> Tensor | None:
    """The recent average of a parameter's squared minibatch gradients, as `second_moment` reads it; None if there is none.

    Adam and its relatives, RMSprop, Adadelta and Adafactor keep one. Adagrad keeps a sum over all steps, and Adamax the largest
    gradient.

    Args:
        state: the optimizer's `state[parameter]`.
        group: the parameter's entry of `param_groups`.

    Example:
        >>> squared_gradients({"step": 1, "exp_avg_sq": torch.tensor([0.004])}, {"betas": (0.9, 0.999)})
        tensor([4.])
    """
    if not any(key in state for key in RECENT):
        return None
    try:
        return second_moment({key: value for key, value in state.items() if key not in MEANS}, group).square
    except NoMomentError:
        return None


def step_sizes(name: str, state: State, group: State) -> Tensor | None:
    """What the optimizer multiplied the averaged gradient of each entry of a parameter by in its last step.

    Args:
        name: of the optimizer's class.
        state: its `state[parameter]`.
        group: the parameter's entry of `param_groups`.

    Returns:
        The step sizes; None if they are the same for all weights, or for an optimizer other than those of `_RULES`.

    Example:
        >>> step_sizes("Adam", {"step": 1, "exp_avg_sq": torch.tensor([0.004])}, {"lr": 0.1, "betas": (0.9, 0.999), "eps": 0.0})
        tensor([0.0500])
    """
    return _RULES[name](state, group) if name in _RULES and state else None


def averaging(group: State) -> float:
    """The factor by which an optimizer averages gradients: its first beta or its momentum; 0 without."""
    return float(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))


def _adam(state: State, group: State) -> Tensor:
    """Adam, AdamW, NAdam; AMSGrad divides by the largest average so far."""
    largest = state.get("max_exp_avg_sq", state["exp_avg_sq"])
    return float(group["lr"]) / ((largest / filled(group["betas"][1], float(state.get("step", 0.0)))).sqrt() + group["eps"])


def _radam(state: State, group: State) -> Tensor:
    """Adam with the rectification of Liu et al. 2020; equal step sizes in the first steps, which have none."""
    step, beta = float(state["step"]), group["betas"][1]
    most = 2 / (1 - beta) - 1
    now = most - 2 * step * beta**step / (1 - beta**step)
    if now <= 5:
        return torch.full_like(state["exp_avg_sq"], float(group["lr"]))
    rectification = math.sqrt((now - 4) * (now - 2) * most / ((most - 4) * (most - 2) * now))
    return rectification * _adam(state, group)


def _adamax(state: State, group: State) -> Tensor:
    return float(group["lr"]) / state["exp_inf"]


def _rmsprop(state: State, group: State) -> Tensor:
    """RMSprop, whose momentum m adds gradients up: 1 / (1 - m) times their average."""
    square = state["square_avg"]
    if group["centered"]:
        square = (square - state["grad_avg"].square()).clamp_min(0)
    return float(group["lr"]) / (1 - group["momentum"]) / (square.sqrt() + group["eps"])


def _adagrad(state: State, group: State) -> Tensor:
    rate = float(group["lr"]) / (1 + (float(state["step"]) - 1) * group["lr_decay"])
    return rate / (state["sum"].sqrt() + group["eps"])


_RULES: dict[str, Callable[[State, State], Tensor]] = {
    "Adam": _adam,
    "AdamW": _adam,
    "NAdam": _adam,
    "RAdam": _radam,
    "Adamax": _adamax,
    "RMSprop": _rmsprop,
    "Adagrad": _adagrad,
}
