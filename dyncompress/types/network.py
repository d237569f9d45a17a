"""The layers of a network, and how they depend on each other: all that is known without data.

Weights have the layout `(out, in / groups, *kernel)` everywhere; the model adapters convert other layouts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dyncompress.types.representation import short_repr

Array = Any  # torch.Tensor on its device, or numpy.ndarray
Batch = Mapping[str, Array]  # inputs by name, each [n, ...]
FLOAT_BITS = 32  # the width of weights and activations that stay in float32
CHANNELS = "channels:"  # prefix of a unit that is a channel group
BLOCKS = "block:"  # prefix of a unit that is a residual block; units without a prefix are layers
STRUCTURE = (CHANNELS, BLOCKS)


WITHOUT_INPUTS = ("embedding", "recurrent")  # kinds of layers whose weight multiplies no input that can be observed


@dataclass(frozen=True)
class Layer:
    """A layer with a weight, and what is known about it without data.

    Attributes:
        name: in the model, e.g. `layer1.0.conv1`.
        kind: `conv1d`, `conv2d`, `conv3d`, `conv_transpose1d`, `conv_transpose2d`, `linear`, `embedding`, `recurrent` (a
            matrix of an LSTM, GRU or RNN), or the class name of a module whose weights aren't compressed.
        shape: of the weight, `(out, in / groups, *kernel)`.
        macs: multiply-accumulates of one example.
        groups: number of convolution groups.
        left_alone: why the weight can't be compressed at all; empty: it can.
        called: whether the forward pass calls it on the first examples; False: it is in a branch that these don't take.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    macs: int
    groups: int = 1
    left_alone: str = ""
    called: bool = True

    __repr__ = short_repr

    @property
    def weights(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape))

    @property
    def has_inputs(self) -> bool:
        """Whether the inputs that the weight multiplies can be observed."""
        return self.called and self.kind not in WITHOUT_INPUTS

    @property
    def out(self) -> int:
        """Number of output channels (rows of the weight)."""
        return self.shape[0]

    @property
    def fan_in(self) -> int:
        """Number of inputs of one output: the length of a row of the weight as a matrix."""
        return self.weights // max(self.shape[0], 1)


@dataclass(frozen=True)
class ChannelGroup:
    """Layers whose output channels can only be removed together. A channel may be a whole attention head.

    Attributes:
        name: of its first producer.
        size: number of channels.
        producers: layers whose rows are removed, depthwise layers in between included.
        consumers: layer -> n, the number of consecutive columns of its weight matrix `(out, in / groups * kernel)` that belong to
            one channel; columns `c * n` to `(c + 1) * n` belong to channel c.
        rows: producer -> the number of consecutive rows that belong to one channel, where a channel is an attention head; empty
            where each row is a channel.
        parts: equal parts of every producer's rows, each with rows of all channels: 3 where one layer computes queries, keys and
            values one after the other, 2 where one layer computes gates and what they multiply.

    Example:
        Two heads of two rows each, in a layer that computes queries, keys and values:

        >>> ChannelGroup("qkv", 2, ("qkv",), {"out": 2}, {"qkv": 2}, 3).rows_of("qkv", [1])
        (2, 3, 6, 7, 10, 11)
    """

    name: str
    size: int
    producers: tuple[str, ...]
    consumers: Mapping[str, int]
    rows: Mapping[str, int] = field(default_factory=dict)
    parts: int = 1

    __repr__ = short_repr

    def rows_of(self, producer: str, channels: Iterable[int]) -> tuple[int, ...]:
        """The rows of a producer's weight that belong to some channels."""
        n, chosen = self.rows.get(producer, 1), tuple(channels)
        return tuple((part * self.size + c) * n + i for part in range(self.parts) for c in chosen for i in range(n))


@dataclass(frozen=True)
class ResidualBlock:
    """A module that returns act(shortcut + y), where y is the output of its last layer.

    Attributes:
        name: of the module.
        layers: inside it, in the order of the forward pass.
        closing: the layer whose output is added to the shortcut.
        identity: whether the shortcut is exactly the module's input.
        droppable: whether the shortcut alone can replace the module; this was tried on a copy of the network.
        relu: whether a ReLU follows the shortcut when the block is dropped.
        follows: the block whose output is this block's input; empty: none.
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
    """The position of a layer's weight in the ONNX file: the name of an initializer, and its layout.

    `as_is`: `(out, in / groups, *kernel)`; `transposed`: two axes, `(in, out)`; `conv_transpose`: `(in, out / groups, *kernel)`;
    `gates:i,j,...`: the blocks of rows in that order, with a leading axis of length 1.
    """

    initializer: str
    layout: str = "as_is"

    __repr__ = short_repr
