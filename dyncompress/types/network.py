"""The network, layer by layer: what is known of it without data.

Weights have one layout everywhere, `(out, in / groups, *kernel)`; the model adapters translate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dyncompress.types.representation import short_repr

Array = Any  # torch.Tensor on its device, or numpy.ndarray
Batch = Mapping[str, Array]  # inputs by name, each [n, ...]
FLOAT_BITS = 32  # the width that stands for "left in float32"
CHANNELS = "channels:"  # prefix of a unit that is a channel group
BLOCKS = "block:"  # prefix of a unit that is a residual block; units without a prefix are layers
STRUCTURE = (CHANNELS, BLOCKS)


WITHOUT_INPUTS = ("embedding", "recurrent")  # kinds: a table looks up, and what a recurrent weight multiplies is inside one call


@dataclass(frozen=True)
class Layer:
    """One weight of the model and what is known about it without data.

    Attributes:
        name: the model's own name, e.g. `layer1.0.conv1`.
        kind: `conv1d`, `conv2d`, `conv3d`, `conv_transpose1d`, `conv_transpose2d`, `linear`, `embedding`, `recurrent` (a
            matrix of an LSTM, GRU or RNN), or the class name of a module whose weights are left alone.
        shape: of the weight, `(out, in / groups, *kernel)`.
        macs: multiply-accumulates of one example.
        groups: convolution groups.
        group: name of the set of layers whose output channels are removed together; empty: they can't be removed.
        left_alone: why the weight can't be compressed at all; empty: it can.
        fixed_channels: why its output channels can't be removed; empty: they can.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    macs: int
    groups: int = 1
    group: str = ""
    left_alone: str = ""
    fixed_channels: str = ""

    __repr__ = short_repr

    @property
    def weights(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape))

    @property
    def has_inputs(self) -> bool:
        """Whether the inputs that the weight multiplies can be observed."""
        return self.kind not in WITHOUT_INPUTS

    @property
    def out(self) -> int:
        """Number of output channels (rows of the weight)."""
        return self.shape[0]

    @property
    def fan_in(self) -> int:
        """Inputs of one output: the length of a row of the weight as a matrix."""
        return self.weights // max(self.shape[0], 1)


@dataclass(frozen=True)
class ChannelGroup:
    """Layers whose output channels can only be removed together.

    Attributes:
        name: stands in `Layer.group` of the producers.
        size: number of channels.
        producers: layers whose rows go (a depthwise layer in between is one of them).
        consumers: layer -> how many consecutive columns of its weight matrix `(out, in / groups * kernel)` one channel owns;
            channel c owns columns `c * n` to `(c + 1) * n`.
    """

    name: str
    size: int
    producers: tuple[str, ...]
    consumers: Mapping[str, int]

    __repr__ = short_repr


@dataclass(frozen=True)
class ResidualBlock:
    """A part of the network that returns act(shortcut + y), y the output of its last layer.

    Attributes:
        name: of the part.
        layers: inside it, in forward order.
        closing: the layer whose output is added to the shortcut.
        identity: whether the shortcut is exactly what comes in.
        droppable: whether the shortcut alone can take its place; tried on a copy.
        relu: whether a ReLU stays in its place.
        follows: the block whose output it takes as it is; empty: none.
    """

    name: str
    layers: tuple[str, ...]
    closing: str
    identity: bool
    droppable: bool
    relu: bool = False
    follows: str = ""

    __repr__ = short_repr


@dataclass(frozen=True)
class Placement:
    """Where one use of a layer's weight lies in the ONNX file: the initializer's name, and its layout.

    `as_is`: `(out, in / groups, *kernel)`; `transposed`: two axes, `(in, out)`; `conv_transpose`: `(in, out / groups, *kernel)`;
    `gates:i,j,...`: blocks of rows in that order, behind an axis of length 1.
    """

    initializer: str
    layout: str = "as_is"

    __repr__ = short_repr
