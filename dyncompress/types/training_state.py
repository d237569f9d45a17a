"""What an optimizer keeps of a training run: the mean square of every parameter's gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dyncompress.types.representation import describe, short_repr

SETTLED = 100  # steps below which the mean of the squares has no reliable scale


@dataclass(frozen=True)
class SavedParameter:
    """One parameter of a training state, in the layout of the framework that saved it.

    Attributes:
        name: in the file, e.g. `encoder.0.weight`.
        square: mean square of the minibatch gradient, in the parameter's shape; averaged as the optimizer does it, without the
            bias of a start at zero.
        values: the parameter in each set of weights that the file holds: the last ones, and averaged ones (EMA, SWA) beside
            them; empty if it holds none.
        drift: the estimated share of `square` that is the square of the mean gradient, in [0, 1): what isn't noise.
    """

    name: str
    square: np.ndarray
    values: tuple[np.ndarray, ...] = ()
    drift: float = 0.0

    __repr__ = short_repr


@dataclass(frozen=True)
class TrainingState:
    """The second moments of a training run's gradients, read from a checkpoint; `load_training_state` makes one.

    Attributes:
        parameters: name -> parameter. Those whose state couldn't be told apart are absent, and `notes` says why.
        optimizer: a name for messages, e.g. `Adam`.
        averaged: number of gradients that the mean effectively goes over; 1 for a buffer of momentum.
        steps: optimizer steps of the run; 0 if unknown.
        batch_size: examples of one optimizer step, accumulated batches included; 0 if unknown.
        relative: whether the unit of the squares is unknown, since gradients were clipped or their maximum was kept.
        source: the path, for messages.
        notes: sentences on what was left out, and why.
    """

    parameters: Mapping[str, SavedParameter]
    optimizer: str
    averaged: float
    steps: int = 0
    batch_size: int = 0
    relative: bool = False
    source: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def nats(self) -> bool:
        """Whether distortions that are predicted from the squares are in nats: their unit and the batch size are known.

        A mean over few steps orders the layers, and its scale isn't reliable: memorised networks see no large gradient for long.
        """
        return bool(self.batch_size) and not self.relative and not self.averaged < SETTLED

    def __repr__(self) -> str:
        return describe(self, optimizer=self.optimizer, steps=self.steps, parameters=tuple(self.parameters))
