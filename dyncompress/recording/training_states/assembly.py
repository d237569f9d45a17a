"""A training state from the moments of each parameter, checked to be numbers that squares of gradients can be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dyncompress.errors import InvalidRequest
from dyncompress.recording.training_states.moments import Moment
from dyncompress.types import SavedParameter, TrainingState


@dataclass(frozen=True)
class About:
    """What is known of a run beside its moments: the attributes of `TrainingState` of these names."""

    source: str
    optimizer: str
    steps: int = 0
    batch_size: int = 0
    relative: bool = False
    notes: tuple[str, ...] = ()


def assembled(moments: Mapping[str, Moment], values: Mapping[str, Sequence[Tensor]], about: About) -> TrainingState:
    """The training state of a run.

    Args:
        moments: name -> second moment of each parameter; may be empty.
        values: name -> the parameter in each set of weights; copied.
        about: the run.

    Raises:
        InvalidRequest: there are no moments, or they hold values that aren't finite or are below zero.
    """
    kept = {name: moment for name, moment in moments.items() if moment.square.ndim > 1}
    if not kept:
        raise InvalidRequest(
            f"checkpoint '{about.source}' holds squares of gradients for no weight of a layer; give the checkpoint of a run that "
            "trained layers."
        )
    for name, moment in kept.items():
        _check(name, moment, about.source)
    counts = [moment.averaged for moment in kept.values() if not math.isnan(moment.averaged)]
    return TrainingState(
        parameters={name: _saved(name, moment, values.get(name, ())) for name, moment in kept.items()},
        optimizer=about.optimizer,
        averaged=min(counts, default=math.nan),
        steps=about.steps,
        batch_size=about.batch_size,
        relative=about.relative or any(moment.relative for moment in kept.values()),
        source=about.source,
        notes=about.notes,
    )


def _check(name: str, moment: Moment, source: str) -> None:
    """Refuse squares that are none.

    Raises:
        InvalidRequest: tells which.
    """
    lowest, highest = (float(end) for end in torch.aminmax(moment.square)) if moment.square.numel() else (0.0, 0.0)
    if not (math.isfinite(lowest) and math.isfinite(highest) and math.isfinite(moment.drift)):
        raise InvalidRequest(
            f"checkpoint '{source}': the squares of gradients of '{name}' aren't finite; give a checkpoint from before the run "
            "diverged."
        )
    if lowest < 0:
        raise InvalidRequest(
            f"checkpoint '{source}': the squares of gradients of '{name}' reach down to {lowest:.3g}, and squares can't be below "
            "zero; save or copy it again."
        )


def _saved(name: str, moment: Moment, values: Sequence[Tensor]) -> SavedParameter:
    """A parameter, with copies of its values in sets that are finite."""
    arrays = [np.array(own(value)) for value in values if value.shape == moment.square.shape]
    return SavedParameter(name, own(moment.square), tuple(array for array in arrays if np.isfinite(array).all()), moment.drift)


def own(tensor: Tensor) -> np.ndarray:
    """A tensor in memory as an array of float32."""
    return tensor.detach().cpu().float().numpy()
