"""What the files beside the adapter read of it: a Protocol, so that none of them imports the adapter itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, TypeVar

from torch import nn

from dyncompress.models.torch.layer_trace import Trace
from dyncompress.types import Edit, ResidualBlock


class TracedModel(Protocol):
    """A module, what one forward pass of it shows, and its edits; `TorchModel` is one."""

    @property
    def module(self) -> nn.Module:
        """The adapter's own copy of the network."""
        ...

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in their order."""
        ...

    @property
    def trace(self) -> Trace:
        """What one forward pass shows."""
        ...

    def residual_blocks(self) -> tuple[ResidualBlock, ...]:
        """Parts that add a shortcut to their last layer, in forward order."""
        ...

    def edited(self, edits: Sequence[Edit]) -> Self:
        """A new model with the edits applied."""
        ...


M = TypeVar("M", bound=TracedModel)
