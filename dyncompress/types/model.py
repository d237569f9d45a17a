# pyright: reportReturnType=false
# (the methods of Protocols have no bodies)
"""The edits of a model, the Protocol of a model adapter, and the compressed model."""

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


Edit = SetWeight | Keep | Affine | Drop | LowRank


class Model(Protocol):
    """A model adapter: a network of one framework, described by its layers."""

    @property
    def module(self) -> Any:
        """The network in its own framework."""

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

    def layers(self) -> tuple[Layer, ...]:
        """All layers in the order of the forward pass."""

    def observe(self, needs: Sequence[Need], data: Iterable[Batch]) -> Iterator[tuple[str, Observation]]:
        """Observe the layers on the batches of `data`: yields pairs of a layer's name and the observation with all `needs`."""

    def edited(self, edits: Sequence[Edit]) -> Model:
        """A new model with the edits applied; this one isn't changed."""

    def predict(self, inputs: Batch) -> tuple[Array, ...]:
        """The outputs of the network, nested outputs flattened to one tuple."""

    def original(self, inputs: Batch) -> tuple[Array, ...]:
        """The outputs of the network before any edit."""

    def to_onnx(self, example: Batch) -> tuple[bytes, Mapping[str, tuple[Placement, ...]]]:
        """The float32 ONNX file without metadata, and layer -> positions of its weight in it, for the layers that are found."""

    def to_onnx_with_notes(self, example: Batch) -> tuple[bytes, Mapping[str, tuple[Placement, ...]], tuple[str, ...]]:
        """The results of `to_onnx`, and sentences about what the exporter couldn't do."""


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

    def __repr__(self) -> str:
        shown = {"recipe": self.plan.recipe, "target": self.plan.target, "rounded_layers": len(self.encodings)}
        return describe(self, **shown, stages=self.stages)

    @property
    def module(self) -> Any:
        """The compressed network in its own framework, e.g. a `torch.nn.Module`."""
        return self.model.module
