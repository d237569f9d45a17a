"""A quantizer that rounds every layer once to each width, since the plans of all allocators choose from the same options."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from dyncompress.types import Array, Choice, Encoding, Need, Observation, Quantizer


@dataclass(frozen=True)
class RememberedRounding:
    """Rounds as another quantizer does, and keeps the result: int8, a byte for each weight and width.

    Assumes: one network and one grid, so that the layer's name and the choice determine the weight, and nothing is pruned first.

    Attributes:
        quantizer: that rounds.
        known: (layer, choice) -> encoding, shared by copies on another grid.
    """

    quantizer: Quantizer
    known: dict[tuple[str, Choice], Encoding] = field(default_factory=dict, repr=False, compare=False)

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the quantizer reads."""
        return self.quantizer.needs

    @property
    def entropy_coded(self) -> bool:
        """Whether the quantizer rounds to steps."""
        return self.quantizer.entropy_coded

    @property
    def sketch(self) -> None:
        """None: the errors of options are those of the quantizer itself."""
        return None

    def on_grid(self, grid: Any) -> RememberedRounding:
        """The same on another grid."""
        return replace(self, quantizer=self.quantizer.on_grid(grid))

    def __call__(self, weight: Array, observation: Observation, choice: Choice) -> Encoding:
        """The weight as integers with their scales, computed the first time that the layer is rounded so."""
        key = observation.layer.name, choice
        if key not in self.known:
            self.known[key] = self.quantizer(weight, observation, choice)
        return self.known[key]
