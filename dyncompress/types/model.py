# pyright: reportReturnType=false
# (the methods of Protocols have no bodies)
"""Edits of a model, the Protocol of a model adapter, and the compressed model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from dyncompress.types.file import Encoding
from dyncompress.types.network import Array, Batch, ChannelGroup, Layer, Placement, ResidualBlock
from dyncompress.types.observation import Need, Observation
from dyncompress.types.plan import Distillation, Plan
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


INNER, OUTER = ".0", ".1"  # behind the name of a layer of lower rank: its two factors

Edit = SetWeight | Keep | Affine | Drop | LowRank


@runtime_checkable
class Model(Protocol):
    """A model adapter: a network of one framework, seen as layers. Its arrays are torch tensors, on their device.

    This much is required of every adapter; the capabilities below are optional, and a caller asks for one by `isinstance`.
    """

    @property
    def module(self) -> Any:
        """The network in its own framework."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in their order."""

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

    @property
    def state_digest(self) -> str:
        """sha256 of all the numbers of the network that came in."""

    def digest(self) -> str:
        """sha256 of its layers' weights, as the last weights of a recorded trajectory have it."""

    def layers(self) -> tuple[Layer, ...]:
        """All layers in the order of the forward pass."""

    def observe(self, needs: Sequence[Need], data: Sequence[Batch], seed: int = 0) -> Iterator[tuple[str, Observation]]:
        """Layer by layer, what `needs` asks for and the adapter can tell; what it can't is absent from the observation."""

    def edited(self, edits: Sequence[Edit]) -> Model:
        """A new model; this one is untouched."""

    def with_notes(self, *notes: str) -> Model:
        """The same model with more notes."""

    def with_free_axes(self, free: Mapping[str, tuple[int, ...]]) -> Model:
        """The same model with these axes free in its file."""

    def predict(self, inputs: Batch) -> tuple[Array, ...]:
        """The outputs, flattened to a tuple."""

    def original(self, inputs: Batch) -> tuple[Array, ...]:
        """The outputs of the network that came in, whatever was edited since."""

    def to_onnx(self, example: Batch) -> tuple[bytes, Mapping[str, tuple[Placement, ...]]]:
        """The float32 ONNX file, stripped, and where each layer's weight lies in it (layers not found are absent)."""

    def to_onnx_with_notes(self, example: Batch) -> tuple[bytes, Mapping[str, tuple[Placement, ...]], tuple[str, ...]]:
        """The same, and sentences about what the exporter couldn't do."""


# ---------------------------------------------------------------- optional capabilities of an adapter
@runtime_checkable
class Structured(Protocol):
    """Layers can be narrowed, dropped in blocks, and split into two of a lower rank."""

    def channel_groups(self) -> tuple[ChannelGroup, ...]:
        """Sets of layers whose output channels can be removed together."""

    def residual_blocks(self) -> tuple[ResidualBlock, ...]:
        """Parts that add a shortcut to their last layer, in the order of the forward pass."""

    def factorable_layers(self) -> frozenset[str]:
        """Layers that two of a lower rank can take the place of."""


@runtime_checkable
class MomentMatching(Protocol):
    """The outputs of layers can be given the moments that another model's have."""

    def matched(self, reference: Any, batches: Sequence[Batch]) -> tuple[Any, Mapping[str, tuple[Array, Array]]]:
        """The model with matched moments, and layer -> (gain, shift), each `[out]`."""


@runtime_checkable
class LayerwiseCalibration(Protocol):
    """Layers can be fitted in the order of the forward pass, each on what the layers before leave it."""

    def in_sequence(
        self, batches: Sequence[Batch], names: Sequence[str], fit: LayerFit, *, dropped: Sequence[Drop] = ()
    ) -> dict[str, tuple[Array, Array]]:
        """Layer -> (new weight, shift of its output); layers that can't be taken in order are absent.

        Args:
            batches: calibration inputs.
            names: layers to fit.
            fit: makes the new weight of one layer.
            dropped: blocks that are passed by.
        """


@runtime_checkable
class Trainable(Protocol):
    """Weights, gains and shifts can be learned from the original's outputs by gradient descent."""

    def distilled(self, reference: Any, batches: Sequence[Batch], how: DistillationTask) -> Any:
        """The model with weights learned from the reference's outputs; layers in `how.spared` keep theirs."""

    def tunable(self) -> bool:
        """Whether a layer has a gain or a shift that can be learned on its own."""

    def tuned(
        self, reference: Any, batches: Sequence[Batch], how: DistillationTask
    ) -> tuple[Any, dict[str, tuple[Array, Array]]]:
        """The model with learned gains (where `how.gains`) and shifts, and layer -> (gain, shift)."""


@dataclass(frozen=True)
class DistillationTask:
    """What one distillation is told.

    Attributes:
        spec: epochs, rate, and how images are varied.
        seed: of the order and of the variations.
        flips: whether images may be flipped left to right.
        spared: layers that keep their weights.
        gains: whether gains may change, beside shifts.
    """

    spec: Distillation
    seed: int = 0
    flips: bool = True
    spared: Mapping[str, str] = field(default_factory=dict)
    gains: bool = True


@dataclass(frozen=True)
class SequentialMoments:
    """The moments that one layer is fitted on: y is the original's output, x the input that the compressed layers leave it.

    Attributes:
        moment: `[groups, K, K]`, second moment of the inputs x.
        residual_cross_moment: `[out, K]`, the mean of (y - W x) x^T.
        mean: `[groups, K]`, of the inputs x.
        shift: `[out]`, the mean of y - W x.
    """

    moment: Array
    residual_cross_moment: Array
    mean: Array
    shift: Array


class LayerFit(Protocol):
    """Makes the new weight of one layer from its moments."""

    def __call__(self, layer: str, moments: SequentialMoments) -> Array:
        """The weight, in the shape of `Layer.shape`."""
        ...


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
