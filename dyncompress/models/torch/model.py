# pyright: reportArgumentType=false, reportIndexIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""The model adapter of PyTorch modules: lists their layers, observes and edits them, and writes ONNX.

The caller's module is never changed: the adapter works on a copy in eval mode with BatchNorm folded.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch import (
    batches,
    blocks,
    calling,
    channels,
    copying,
    gain_distillation,
    layer_trace,
    layers,
    low_rank,
    matching,
    observing,
    sequence,
    weight_distillation,
)
from dyncompress.types import (
    Affine,
    Batch,
    ChannelGroup,
    DistillationTask,
    Drop,
    Edit,
    Keep,
    Layer,
    LayerFit,
    LowRank,
    Need,
    Observation,
    Placement,
    ResidualBlock,
    SetWeight,
)

if TYPE_CHECKING:
    from dyncompress.models.torch.skeleton import Skeleton

# Cached properties that depend on a module's structure and not on the values of its weights.
_OF_STRUCTURE = ("trace", "_channels", "_layers", "_blocks", "_factorable")


class Exporter(Protocol):
    """Writes the ONNX file of a module."""

    def __call__(
        self, module: nn.Module, example: Batch, /
    ) -> tuple[bytes, Mapping[str, tuple[Placement, ...]], tuple[str, ...]]:
        """The file's bytes, layer -> the places of its weight, and notes, as `TorchModel.to_onnx_with_notes` returns them."""
        ...


@dataclass
class ExportCache:
    """What one export leaves for the next one of the same structure.

    Attributes:
        skeleton: the last exported graph without its weights; None before the first export.
    """

    skeleton: Skeleton | None = None


@dataclass(frozen=True)
class TorchModel:
    """The adapter of one torch module, as `types.Model` describes it; `open_model` makes one.

    An edit returns a new model and leaves this one as it is.

    Attributes:
        module: a private copy in eval mode with BatchNorm folded.
        input_names: input names in order: names of parameters of the forward method where the data are given by name.
        notes: what the user should know about the copy.
        example: one batch that the module runs on; shapes and channel groups are read from it.
        original_digest: sha256 of the layers' weights before folding.
        normalised: layers into which a BatchNorm was folded.
        kept: layer -> its output channels, counted in the model as it was opened; layers that lost none are absent.
        source: the caller's own module in eval mode, which edits don't affect: the reference for ONNX files.
        state_digest: sha256 of the source's `state_dict`.
        size: the one batch size that the source runs on; 0 for any.
        free: input -> axes after the batch axis that may have any length.
        exports: the last export, which later exports of the same structure reuse.
        exporter: writes the file in place of torch's exporter, for modules that were opened from a file; None for others.
        came_as: returns the float32 file that the model came as; None for models that weren't a file.

    Example:
        >>> from dyncompress.models.torch.opening import open_model
        >>> model = open_model(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), {"x": torch.zeros(2, 3)})
        >>> [(layer.name, layer.shape, layer.macs) for layer in model.layers()]
        [('0', (4, 3), 12), ('2', (2, 4), 8)]
        >>> zero = model.edited([SetWeight("2", torch.zeros(2, 4), torch.ones(2))])
        >>> zero.predict({"x": torch.ones(1, 3)})[0].tolist()
        [[1.0, 1.0]]
    """

    module: nn.Module
    input_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    example: Batch = field(default_factory=dict, repr=False, compare=False)
    original_digest: str = field(default="", repr=False)
    normalised: frozenset[str] = field(default=frozenset(), repr=False)
    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)
    source: nn.Module | None = field(default=None, repr=False, compare=False)
    state_digest: str = field(default="", repr=False)
    size: int = 0
    free: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    exports: ExportCache = field(default_factory=ExportCache, repr=False, compare=False)
    exporter: Exporter | None = field(default=None, repr=False, compare=False)
    came_as: Callable[[], bytes] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def trace(self) -> layer_trace.Trace:
        """The layers as one forward pass calls them."""
        return layer_trace.trace_layers(self.module, self.example, self.input_names)

    @cached_property
    def _channels(self) -> channels.Channels:
        return channels.channels_of(self.module, self.trace, self.example, self.input_names)

    def layers(self) -> tuple[Layer, ...]:
        """All layers in the order of the forward pass; layers that are never called come last."""
        return tuple(self.trace.layers)

    def channel_groups(self) -> tuple[ChannelGroup, ...]:
        """Sets of layers whose output channels can be removed together; each removal was tried on a copy."""
        return self._channels.groups

    def fixed_channels(self) -> Mapping[str, str]:
        """Layer -> why its output channels can't be removed."""
        producers = {name for group in self._channels.groups for name in group.producers}
        return {name: reason for name, reason in self._channels.reasons.items() if name not in producers}

    @cached_property
    def _blocks(self) -> tuple[ResidualBlock, ...]:
        return blocks.residual_blocks(self.module, self.trace, self.example, self.input_names)

    def residual_blocks(self) -> tuple[ResidualBlock, ...]:
        """Modules that add a shortcut to their last layer's output, in forward order; each drop was tried on a copy."""
        return self._blocks

    @cached_property
    def _factorable(self) -> frozenset[str]:
        return low_rank.factorable(self.module, self.trace, self.example, self.input_names)

    def factorable_layers(self) -> frozenset[str]:
        """Layers that two layers of lower rank can replace; tried on a copy."""
        return self._factorable

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layers for one example; products of activations with activations don't count."""
        return sum(layer.macs for layer in self.trace.layers)

    def digest(self) -> str:
        """sha256 of the layers' weights before folding, equal to the digest of a recorded trajectory that ends in this model."""
        return self.original_digest

    def observe(self, needs: Sequence[Need], data: Iterable[Batch] = (), seed: int = 0) -> Iterator[tuple[str, Observation]]:
        """Observe the layers in forward order.

        Args:
            needs: what to observe, values of `types.Need`. `Motion` comes from a trajectory and is ignored here.
            data: calibration batches by input name; several passes over them may be made.
            seed: of the random numbers that Fisher information, noise gains and Hessian spectra draw.

        Returns:
            an iterator of layer names and observations.

        Raises:
            InvalidRequest: the needs ask for data and there are none, or a batch doesn't fit the model.
        """
        batches = data if isinstance(data, Sequence) else list(data)
        return observing.observe_layers(self, needs, batches, seed)

    def predict(self, inputs: Batch) -> tuple[Tensor, ...]:
        """The outputs for one batch, as a tuple of tensors without gradients.

        Args:
            inputs: `[n, ...]` by input name.

        Raises:
            InvalidRequest: the inputs don't fit the model.
        """
        try:
            return calling.outputs(self.module, inputs, self.input_names)
        except calling.CALL_ERRORS as error:
            raise InvalidRequest(
                f"the model can't run on these inputs: {str(error).splitlines()[0] if str(error) else error!r}"
            ) from error

    def original(self, inputs: Batch) -> tuple[Tensor, ...]:
        """The outputs of the caller's own module, which edits don't affect; floating-point outputs as float32.

        Args:
            inputs: `[n, ...]` by input name.

        Raises:
            InvalidRequest: the inputs don't fit it.
        """
        source = self.module if self.source is None else self.source
        return tuple(
            t.float() if t.is_floating_point() else t for t in calling.caller_outputs(source, inputs, self.input_names, self.size)
        )

    def to_onnx(self, example: Batch | None = None) -> tuple[bytes, Mapping[str, tuple[Placement, ...]]]:
        """Export to a float32 ONNX file without metadata, with a free batch axis where the exporter allows it.

        Args:
            example: inputs to export with; None for those that the model was opened with.

        Returns:
            the file's bytes, and layer -> the places of its weight in the file; layers that can't be located are absent.

        Raises:
            Unsupported: no exporter takes the model.
        """
        content, places, _ = self.to_onnx_with_notes(example)
        return content, places

    def to_onnx_with_notes(
        self, example: Batch | None = None
    ) -> tuple[bytes, Mapping[str, tuple[Placement, ...]], tuple[str, ...]]:
        """`to_onnx`, and as third value sentences about what the exporter couldn't do."""
        from dyncompress.models.torch import onnx_graph, skeleton  # onnx is imported only where a file is written
        from dyncompress.models.torch.exporting import ExportInputs

        if self.exporter is not None:
            return self.exporter(self.module, self.example if example is None else example)
        example = self.example if example is None or any(self.free.values()) else example  # free axes need one example only
        example = batches.resize_batch(example, self.size) if self.size else example
        form, last = skeleton.form_of(example), self.exports.skeleton
        content = None if last is None else last.fill(self.module, form)
        if last is not None and content is not None:
            return content, last.places, last.notes
        inputs = ExportInputs(example, self.input_names, self.free, self.size)
        exported = onnx_graph.export_onnx(self.module, self.trace.layers, self.trace.users, inputs)
        self.exports.skeleton = skeleton.skeleton(exported[0], self.module, form, *exported[1:])
        return exported

    def float_file(self, example: Batch | None = None) -> bytes:
        """The float32 file that sizes and times are compared with: the one that the model came as, else its export."""
        return self.to_onnx(example)[0] if self.came_as is None else self.came_as()

    def edited(self, edits: Sequence[Edit]) -> TorchModel:
        """A new model with the edits applied; this one stays as it is.

        Weights, gains and shifts are applied first, in their order and in the shapes of this model. Then layers are factorised,
        then blocks dropped, then channels removed.

        Raises:
            InvalidRequest: an edit names an unknown layer, block or group, or its shape doesn't fit.
        """
        module = copying.sharing_copy(self.module)
        keeps = [edit for edit in edits if isinstance(edit, Keep)]
        drops = [edit for edit in edits if isinstance(edit, Drop)]
        factors = [edit for edit in edits if isinstance(edit, LowRank)]
        for edit in edits:
            if not isinstance(edit, Keep | Drop | LowRank):
                self._edit(module, edit)
        if not (keeps or drops or factors):
            return self._with_weights_of(module)
        new = replace(self, module=module, exports=ExportCache())
        if factors:
            low_rank.factorise(module, self.trace, factors)
            new = replace(new, normalised=low_rank.rename_layers(self.normalised, factors))
            return new.edited([*drops, *keeps]) if drops or keeps else new
        if drops:
            blocks.drop(module, self._blocks, drops)
            return new.edited(keeps) if keeps else new
        kept = dict(self.kept)
        for name, rows in channels.keep(module, self._channels, keeps, self.example, self.input_names).items():
            before = self.kept.get(name)
            kept[name] = rows if before is None else tuple(before[row] for row in rows)
        return replace(new, kept=kept)

    def _with_weights_of(self, module: nn.Module) -> TorchModel:
        """The model of a module of the same structure: what was read from the structure holds for it too."""
        new = replace(self, module=module, exports=replace(self.exports))
        new.__dict__.update({name: self.__dict__[name] for name in _OF_STRUCTURE if name in self.__dict__})
        return new

    def with_notes(self, *notes: str) -> TorchModel:
        """The same model with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def with_free_axes(self, free: Mapping[str, tuple[int, ...]]) -> TorchModel:
        """The same model with these axes free in its ONNX file: input -> axes after the batch axis."""
        return replace(self, free=free)

    def in_sequence(
        self, batches: Sequence[Batch], names: Sequence[str], fit: LayerFit, *, dropped: Sequence[Drop] = ()
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Fit layers in the order of the forward pass, each on the inputs that the fitted layers produce; see `sequence`."""
        with blocks.bypass_blocks(self.module, self.residual_blocks() if dropped else (), dropped):
            return sequence.in_sequence(self, batches, names, fit)

    def distilled(self, reference: TorchModel, batches: Sequence[Batch], how: DistillationTask) -> TorchModel:
        """The model with weights distilled from the reference; see `weight_distillation`."""
        return weight_distillation.distill_weights(self, reference, batches, how)

    def tunable(self) -> bool:
        """Whether `tuned` can run: at least one layer is called exactly once with a weight of its own."""
        return gain_distillation.tunable(self)

    def tuned(
        self, reference: TorchModel, batches: Sequence[Batch], how: DistillationTask
    ) -> tuple[TorchModel, dict[str, tuple[Tensor, Tensor]]]:
        """The model with gains and shifts distilled from the reference; see `gain_distillation`."""
        return gain_distillation.distill_gains(self, reference, batches, how)

    def _edit(self, module: nn.Module, edit: SetWeight | Affine) -> None:
        """Apply one edit of a weight to a copy of the module, in place."""
        layer = self._target(module, edit.layer)
        if isinstance(edit, SetWeight):
            layers.set_weight(edit.layer, layer, edit.weight, edit.bias)
        else:
            layers.set_affine(edit.layer, layer, edit.gain, edit.shift)

    def _target(self, module: nn.Module, name: str) -> nn.Module:
        """The part of a module that holds a layer's weight; an unknown name is an `InvalidRequest`."""
        if name not in self.trace.modules:
            near = difflib.get_close_matches(name, self.trace.modules, 1)
            raise InvalidRequest(
                f"there is no layer '{name}' that can be edited{f'; did you mean {near[0]!r}?' if near else '.'}"
            )
        return module.get_submodule(self.trace.modules[name])

    def matched(
        self, reference: TorchModel, batches: Sequence[Batch], only: Sequence[str] | None = None
    ) -> tuple[TorchModel, dict[str, tuple[Tensor, Tensor]]]:
        """Match the mean and standard deviation of each layer's outputs to those of a reference on the same examples.

        Args:
            reference: the original model.
            batches: calibration inputs by name.
            only: layers to match; None for those whose weights differ from the reference's or into which a BatchNorm was folded.

        Returns:
            the new model, and layer -> (gain, shift), each `[out]`. The scale of an encoding has to be multiplied by the gain.

        Raises:
            InvalidRequest: there are fewer than two examples, or the reference lacks channels of the model.
        """
        names = self._to_match(reference) if only is None else tuple(only)
        gains = matching.gains(self, reference, batches, names)
        return self.edited([Affine(name, gain, shift) for name, (gain, shift) in gains.items()]), gains

    def _to_match(self, reference: TorchModel) -> tuple[str, ...]:
        """The layers that `matched` matches by default."""
        names = []
        for name, path in self.trace.modules.items():
            own, other = self.module.get_submodule(path).weight, reference.module.get_submodule(path).weight
            if name in self.normalised or own.shape != other.shape or not torch.equal(own, other):
                names.append(name)
        return tuple(names)
