# pyright: reportReturnType=false
# (the methods of Protocols have no bodies)
"""Edits of a model, the Protocol of a model adapter, and the compressed model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dyncompress.types.file import Encoding
from dyncompress.types.network import Array, Batch, Layer, Placement
from dyncompress.types.observation import Need, Observation
from dyncompress.types.plan import Plan
from dyncompress.types.representation import describe, short_repr


@dataclass(frozen=True)
class SetWeight:
    """Replace the weight (and the bias, if given) of a layer."""

    layer: str
    weight: Array
    bias: Array | None = None

    __repr__ = short_repr


@dataclass(frozen=True)
class Keep:
    """Keep these output channels of every layer of a group, and what depends on them."""

    group: str
    indices: tuple[int, ...]

    __repr__ = short_repr


@dataclass(frozen=True)
class Affine:
    """Multiply a layer's output channels by `gain` and add `shift`, inside its weight and bias."""

    layer: str
    gain: Array
    shift: Array

    __repr__ = short_repr


@dataclass(frozen=True)
class Drop:
    """Leave nothing of a residual block but its shortcut."""

    block: str

    __repr__ = short_repr


@dataclass(frozen=True)
class LowRank:
    """Two layers in place of one: `inner` `[r, in, *kernel]`, bias 0, and `outer` `[out, r]` with `bias` (None: the layer's)."""

    layer: str
    inner: Array
    outer: Array
    bias: Array | None = None

    __repr__ = short_repr


Edit = SetWeight | Keep | Affine | Drop | LowRank


class Model(Protocol):
    """A model adapter: a network of one framework, seen as layers."""

    @property
    def module(self) -> Any:
        """The network in its own framework."""

    @property
    def example(self) -> Batch:
        """One batch that it runs on."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one example."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about it."""

    @property
    def free(self) -> Mapping[str, tuple[int, ...]]:
        """Input -> axes behind the batch axis that take any length."""

    def layers(self) -> tuple[Layer, ...]:
        """All layers in the order of the forward pass."""

    def observe(self, needs: Sequence[Need], data: Iterable[Batch]) -> Iterator[tuple[str, Observation]]:
        """Layer by layer, what `needs` asks for."""

    def edited(self, edits: Sequence[Edit]) -> Model:
        """A new model; this one is untouched."""

    def predict(self, inputs: Batch) -> tuple[Array, ...]:
        """The outputs, flattened to a tuple."""

    def original(self, inputs: Batch) -> tuple[Array, ...]:
        """The outputs of the network that came in, whatever was edited since."""

    def to_onnx(self, example: Batch) -> tuple[bytes, Mapping[str, tuple[Placement, ...]]]:
        """The float32 ONNX file, stripped, and where each layer's weight lies in it (layers not found are absent)."""

    def to_onnx_with_notes(self, example: Batch) -> tuple[bytes, Mapping[str, tuple[Placement, ...]], tuple[str, ...]]:
        """The same, and sentences about what the exporter couldn't do."""


@dataclass(frozen=True)
class Compressed:
    """A compressed model before export.

    Attributes:
        model: the adapter of the compressed network; its weights equal the encodings' values.
        encodings: layer -> Encoding, for the layers stored as integers.
        plan: with what was realised.
        stages: `prune`, `weights`, `match`, `teach`, `distil` -> divergence from the original after that stage, on calibration
            data; `teach` comes first where the plan rounds.
        calibration: the batches used, for activation ranges at export.
        errors: layer -> relative error of its output, on its own inputs, after pruning and after rounding.
        activation_share: of the examples that activation ranges hold whole, where the outputs bear it.
        aside: batches that nothing was fitted on, which parity is measured on first.
    """

    model: Model
    encodings: Mapping[str, Encoding]
    plan: Plan
    stages: Mapping[str, float]
    calibration: Sequence[Batch]
    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    activation_share: float = 0.98
    aside: Sequence[Batch] = ()

    def __repr__(self) -> str:
        told = {"recipe": self.plan.recipe, "target": self.plan.target, "rounded_layers": len(self.encodings)}
        return describe(self, **told, stages=self.stages)

    @property
    def module(self) -> Any:
        """The compressed network in its own framework, e.g. a `torch.nn.Module`."""
        return self.model.module
