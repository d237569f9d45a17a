"""What a recorder reads from an optimizer that gives every weight a step size of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dyncompress.types import Array
from dyncompress.types.representation import short_repr


@dataclass(frozen=True)
class OptimizerState:
    """The state of an optimizer after a step, in the layout of the recorded weights.

    Adam and its relatives divide the average of a weight's gradients by the root of the average of their squares. So all weights
    move at the same speed, and only with the divisor do their increments tell how large the gradients were.

    Attributes:
        name: of the optimizer's class.
        averaging: the factor m in [0, 1) by which the optimizer averages gradients: m average + (1 - m) gradient.
        step_sizes: layer name -> what the averaged gradient of each weight was multiplied by, the learning rate included.
        squares: layer name -> average of the squared minibatch gradients of each weight, corrected for its start at zero.
    """

    name: str
    averaging: float = 0.0
    step_sizes: Mapping[str, Array] = field(default_factory=dict)
    squares: Mapping[str, Array] = field(default_factory=dict)

    __repr__ = short_repr
