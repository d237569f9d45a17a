"""What the optimizers of Keras 3 keep of each variable, from the list of an optimizer's variables and its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyncompress.recording.training_states.moments import NoMomentError

CLIPPED = ("clipnorm", "clipvalue", "global_clipnorm")
_ADAM = ("exp_avg", "exp_avg_sq")
_KEPT = {  # class -> torch's names of what it keeps, variable by variable
    "Adam": _ADAM,
    "AdamW": _ADAM,
    "Nadam": _ADAM,
    "Lamb": _ADAM,
    "Adamax": ("exp_avg", "exp_inf"),
    "Adadelta": ("square_avg", "acc_delta"),
    "Adagrad": ("sum",),
    "RMSprop": ("square_avg",),
    "Adafactor": ("rows", "columns", "exp_avg_sq"),
    "SGD": ("momentum_buffer",),
}


@dataclass(frozen=True)
class Slots:
    """What an optimizer of Keras keeps.

    Attributes:
        optimizer: its class.
        states: of each trainable variable in order, as `second_moment` takes them.
        group: hyper-parameters by torch's names.
        averages: of each trainable variable's values; empty without `use_ema`.
        steps: optimizer steps.
        relative: whether the unit of the squares is unknown.
    """

    optimizer: str
    states: Sequence[Mapping[str, Any]]
    group: Mapping[str, Any]
    averages: Sequence[Tensor]
    steps: int
    relative: bool


def slots_of(kind: str, config: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> Slots:
    """Sort the variables of an optimizer.

    Keras keeps the iteration and the learning rate (unless it follows a schedule), then averages of all variables (`use_ema`),
    sums of accumulated gradients, and what the class keeps.

    Args:
        kind: class of the optimizer.
        config: its configuration, as `get_config()` gives it.
        arrays: the optimizer's variables in order.

    Raises:
        NoMomentError: the class keeps no squares of gradients, or the numbers of variables don't fit.
    """
    kept = _KEPT.get(kind)
    if kept is None or (kind == "SGD" and not config.get("momentum")):
        raise NoMomentError(f"the optimizer {kind} keeps no squares of gradients that are read")
    constant = isinstance(config.get("learning_rate"), int | float)
    tensors = [torch.from_numpy(array) for array in arrays]
    blocks = [*(["average"] if config.get("use_ema") else []), *(["sums"] if config.get("gradient_accumulation_steps") else [])]
    after = [
        name for name, given in (("max", "amsgrad"), ("momentum", "momentum"), ("grad_avg", "centered")) if config.get(given)
    ]
    after = [name for name in after if not (kind == "SGD" and name == "momentum")]
    rest = tensors[1 + constant : len(tensors) - (kind == "Nadam")]
    count, left = divmod(len(rest), len(blocks) + len(kept) + len(after))
    if left or not count:
        raise NoMomentError(f"the optimizer {kind} has {len(arrays)} variables, which is none of its numbers of them")
    steps = int(arrays[0]) // int(config.get("gradient_accumulation_steps") or 1)
    whole = {name: rest[place * count : (place + 1) * count] for place, name in enumerate(blocks)}
    middle = rest[len(blocks) * count : (len(blocks) + len(kept)) * count]
    whole |= {name: middle[place :: len(kept)] for place, name in enumerate(kept)}
    end = rest[(len(blocks) + len(kept)) * count :]
    whole |= {name: end[place * count : (place + 1) * count] for place, name in enumerate(after)}
    rate = float(arrays[1]) if constant else 1.0
    if "momentum_buffer" in whole and rate:  # Keras multiplies gradients by the learning rate first
        whole["momentum_buffer"] = [buffer.float() / -rate for buffer in whole["momentum_buffer"]]
    used = {name: whole[name] for name in (*kept, *after) if name not in ("rows", "columns", "max", "momentum", "acc_delta")}
    states = [{"step": steps, **{name: one[place] for name, one in used.items()}} for place in range(count)]
    relative = any(config.get(key) for key in CLIPPED) or (kind == "SGD" and not (constant and rate))
    return Slots(kind, states, _group(kind, config), whole.get("average", []), steps, bool(relative))


def _group(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters by torch's names."""
    if "beta_1" in config:
        return {"betas": (config["beta_1"], config["beta_2"])}
    if kind in ("RMSprop", "Adadelta"):
        return {"alpha": config["rho"]}
    if kind == "Adagrad":
        return {"initial_accumulator_value": config.get("initial_accumulator_value", 0.1)}
    return {"momentum": config["momentum"]} if kind == "SGD" else {"decay_rate": config.get("beta_2_decay", -0.8)}
