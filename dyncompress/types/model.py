# pyright: reportReturnType=false
# (the methods of Protocols have no bodies)
"""The edits of a model, the Protocol of a model adapter, and the compressed model."""

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
    """Keep the output channels `indices` of every layer of a channel group; the layers that read them lose the other inputs."""

    group: str
    indices: tuple[int, ...]

    __repr__ = short_repr


@dataclass(frozen=True)
class Affine:
    """Multiply a layer's output channels by `gain` `[out]` and add `shift` `[out]`, by changing its weight and bias."""

    layer: str
    gain: Array
    shift: Array

    __repr__ = short_repr


@dataclass(frozen=True)
class Drop:
    """Remove a residual block except for its shortcut."""

    block: str

    __repr__ = short_repr


@dataclass(frozen=True)
class LowRank:
    """Replace a layer by `inner` `[r, in, *kernel]` without bias and then `outer` `[out, r]` with `bias` (None: the layer's)."""

    layer: str
    inner: Array
    outer: Array
    bias: Array | None = None

    __repr__ = short_repr


INNER, OUTER = ".0", ".1"  # suffixes of the names of the two layers that replace one

Edit = SetWeight | Keep | Affine | Drop | LowRank


@runtime_checkable
class Model(Protocol):
    """A model adapter: a network of one framework, described by its layers. Its arrays are torch tensors on their device.

    Every adapter has these attributes and methods. The capabilities below are optional; `isinstance` tests for them.
    """

    @property
    def module(self) -> Any:
        """The network in its own framework."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in their order."""

    @property
    def example(self) -> Batch:
        """One batch of inputs that the network accepts."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one example."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the network that the user should know."""

    @property
    def free(self) -> Mapping[str, tuple[int, ...]]:
        """Input name -> its axes, other than the batch axis, that may have any length."""

    @property
    def state_digest(self) -> str:
        """sha256 of all parameters and buffers of the original network."""

    def digest(self) -> str:
        """sha256 of the layers' weights, which `Trajectory.digest` is compared with."""

    def layers(self) -> tuple[Layer, ...]:
        """All layers in the order of the forward pass."""

    def observe(self, needs: Sequence[Need], data: Sequence[Batch], seed: int = 0) -> Iterator[tuple[str, Observation]]:
        """Observe the layers on the batches of `data`; yields pairs of a layer's name and its observation.

        A need that the adapter can't determine is absent from the observation.
        """

    def edited(self, edits: Sequence[Edit]) -> Model:
        """A new model with the edits applied; this one isn't changed."""

    def with_notes(self, *notes: str) -> Model:
        """The same model with more `notes`."""

    def with_free_axes(self, free: Mapping[str, tuple[int, ...]]) -> Model:
        """The same model with other `free` axes."""

    def predict(self, inputs: Batch) -> tuple[Array, ...]:
        """The outputs of the network, nested outputs flattened to one tuple."""

    def original(self, inputs: Batch) -> tuple[Array, ...]:
        """The outputs of the network before any edit."""

    def to_onnx(self, example: Batch) -> tuple[bytes, Mapping[str, tuple[Placement, ...]]]:
        """The float32 ONNX file without metadata, and layer -> positions of its weight in it, for the layers that are found."""

    def to_onnx_with_notes(self, example: Batch) -> tuple[bytes, Mapping[str, tuple[Placement, ...]], tuple[str, ...]]:
        """The results of `to_onnx`, and sentences about what the exporter couldn't do."""


# ---------------------------------------------------------------- optional capabilities of an adapter
@runtime_checkable
class Structured(Protocol):
    """The adapter can remove channels, drop residual blocks, and replace a layer by two thin ones."""

    def channel_groups(self) -> tuple[ChannelGroup, ...]:
        """The sets of layers whose output channels can only be removed together."""

    def residual_blocks(self) -> tuple[ResidualBlock, ...]:
        """The modules that add a shortcut to the output of their last layer, in the order of the forward pass."""

    def factorable_layers(self) -> frozenset[str]:
        """The names of the layers that two thin layers can replace."""


@runtime_checkable
class MomentMatching(Protocol):
    """The adapter can match the moments of the layers' outputs to those of another model."""

    def matched(self, reference: Any, batches: Sequence[Batch]) -> tuple[Any, Mapping[str, tuple[Array, Array]]]:
        """The model with matched moments, and layer -> (gain, shift), each `[out]`."""


@runtime_checkable
class LayerwiseCalibration(Protocol):
    """The adapter can fit layers in the order of the forward pass, each on inputs from the fitted layers before it."""

    def in_sequence(
        self, batches: Sequence[Batch], names: Sequence[str], fit: LayerFit, *, dropped: Sequence[Drop] = ()
    ) -> dict[str, tuple[Array, Array]]:
        """Layer -> (new weight, shift of its output). Layers that can't be fitted in order are absent.

        Args:
            batches: calibration inputs.
            names: layers to fit.
            fit: computes the new weight of one layer.
            dropped: residual blocks that are replaced by their shortcuts.
        """


@runtime_checkable
class Trainable(Protocol):
    """The adapter can train weights, gains and shifts by gradient descent to reproduce the original's outputs."""

    def distilled(self, reference: Any, batches: Sequence[Batch], how: DistillationTask) -> Any:
        """The model with all weights trained on the reference's outputs, except those of the layers in `how.spared`."""

    def tunable(self) -> bool:
        """Whether any layer has a gain or a shift that can be trained without its weight."""

    def tuned(
        self, reference: Any, batches: Sequence[Batch], how: DistillationTask
    ) -> tuple[Any, dict[str, tuple[Array, Array]]]:
        """The model with trained shifts and, if `how.gains`, gains; and layer -> (gain, shift), each `[out]`."""


@dataclass(frozen=True)
class DistillationTask:
    """The settings of one distillation.

    Attributes:
        spec: passes, learning rates and data augmentation.
        seed: of the order of the examples and of the augmentation.
        flips: whether images are flipped horizontally.
        spared: layer -> why its weights aren't trained.
        gains: whether gains are trained as well as shifts.
    """

    spec: Distillation
    seed: int = 0
    flips: bool = True
    spared: Mapping[str, str] = field(default_factory=dict)
    gains: bool = True

    __repr__ = short_repr


@dataclass(frozen=True)
class ResidualMoments:
    """Moments of one layer's inputs x' and of its residual y - W x', with y the original's output. All are float64.

    Attributes:
        moment: `[groups, K, K]`, E[x' x'^T].
        residual_cross_moment: `[out, K]`, E[(y - W x') x'^T].
        mean: `[groups, K]`, E[x'].
        residual_mean: `[out]`, E[y - W x'].
    """

    moment: Array
    residual_cross_moment: Array
    mean: Array
    residual_mean: Array


class LayerFit(Protocol):
    """Computes the new weight of one layer from its moments."""

    def __call__(self, layer: str, moments: ResidualMoments) -> Array:
        """The weight, in the shape of `Layer.shape`."""
        ...


@dataclass(frozen=True)
class Shown:
    """Examples on which the stages of the work are compared with the model that came in, and what that model computes on them.

    Attributes:
        batches: inputs by name.
        outputs: of the model that came in on all of them, numpy, each `[n, ...]`.
    """

    batches: Sequence[Batch]
    outputs: Sequence[Array]

    __repr__ = short_repr


@dataclass(frozen=True)
class Compressed:
    """A compressed model before export; `dyncompress.export` makes the ONNX file of it.

    Attributes:
        model: adapter of the compressed network, whose weights equal the values of the encodings.
        encodings: layer -> encoding, for the layers that are stored as integers.
        plan: with the choices that were applied.
        stages: `prune`, `weights`, `match`, `teach` (distillation of all weights) and `distil` (of gains and biases) ->
            divergence from the original after that stage, on calibration data. `teach` comes first if the plan rounds.
        calibration: the batches, from which the export determines activation ranges.
        errors: layer -> relative errors of its output, on the layer's own inputs, after pruning and after rounding.
        activation_share: share of the calibration examples whose values activation ranges have to hold, see `Recipe`.
        aside: batches that nothing was fitted on; differences from the original are measured on them first.
        shown: the examples on which the file is compared with the original; None: they are chosen at export.

    Example:
        >>> import dyncompress, torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
        >>> x = torch.randn(64, 64)
        >>> profile = dyncompress.measure(network, "edge-int8", target="onnxruntime-x86-vnni", calibration=x)
        >>> plan = dyncompress.allocate(profile, dyncompress.Budget(bytes=0.5))
        >>> small = dyncompress.apply(network, plan, calibration=x)
        >>> sorted(small.encodings), small.encodings["0"].bits
        (['0', '2'], 8)
        >>> small.module(x).shape
        torch.Size([64, 8])
    """

    model: Model
    encodings: Mapping[str, Encoding]
    plan: Plan
    stages: Mapping[str, float]
    calibration: Sequence[Batch]
    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    activation_share: float = 0.98
    aside: Sequence[Batch] = ()
    shown: Shown | None = None

    def __repr__(self) -> str:
        shown = {"recipe": self.plan.recipe, "target": self.plan.target, "rounded_layers": len(self.encodings)}
        return describe(self, **shown, stages=self.stages)

    @property
    def module(self) -> Any:
        """The compressed network in its own framework, e.g. a `torch.nn.Module`."""
        return self.model.module
