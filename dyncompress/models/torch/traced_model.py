"""The part of the adapter that the files beside it read: a Protocol, so that none of them imports the adapter itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self, TypeVar

from torch import nn

from dyncompress.models.torch.layer_trace import Trace
from dyncompress.types import Edit, Layer, ResidualBlock


class TracedModel(Protocol):
    """A module together with its trace and its edits, as `TorchModel` holds them."""

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
        """Its layers as one forward pass calls them."""
        ...

    @property
    def kept(self) -> Mapping[str, tuple[int, ...]]:
        """Layer -> its output channels, counted in the model as it was opened; layers that lost none are absent."""
        ...

    def layers(self) -> tuple[Layer, ...]:
        """All layers in the order of the forward pass, with their channel groups."""
        ...

    def residual_blocks(self) -> tuple[ResidualBlock, ...]:
        """Modules that add a shortcut to their last layer's output, in forward order."""
        ...

    def edited(self, edits: Sequence[Edit]) -> Self:
        """A new model with the edits applied."""
        ...


M = TypeVar("M", bound=TracedModel)
