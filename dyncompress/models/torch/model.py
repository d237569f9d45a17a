# pyright: reportArgumentType=false, reportIndexIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""The door for PyTorch: a module seen as layers, observed, edited, and written to ONNX.

The module that comes in is never changed: the door works on a copy in eval mode, BatchNorm folded.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch import (
    attention,
    batches,
    blocks,
    calling,
    channels,
    folding,
    hooks,
    layers,
    low_rank,
    matching,
    numbers,
    observing,
    plain_layers,
    recurrent,
    source,
)
from dyncompress.models.torch.folding import preprocessing_warning
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

__all__ = ["TorchModel", "open_model", "preprocessing_warning"]


@dataclass(frozen=True)
class TorchModel:
    """A torch module behind `types.Model`. Every edit returns a new one.

    Attributes:
        module: a copy of its own, in eval mode, BatchNorm folded.
        input_names: names of the inputs, as parameters of its forward method or in their order.
        notes: what the user should know about opening it.
        example: one batch that the module runs on; shapes and channel groups are read from it.
        original_digest: of the weights before folding.
        normalised: layers that took in a BatchNorm.
        kept: layer -> its output channels, counted in the model as it was opened; only where channels were removed.
        source: the caller's own module, which edits leave out of account: what files are compared with.
        state_digest: of everything in the source's `state_dict`.
        size: the one batch size that the source runs on; 0: any.
        free: input -> its axes behind the batch axis that may have any length.
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

    @cached_property
    def trace(self) -> layers.Trace:
        """What one forward pass shows."""
        return layers.traced(self.module, self.example, self.input_names)

    @cached_property
    def _channels(self) -> channels.Channels:
        return channels.channels_of(self.module, self.trace, self.example, self.input_names)

    @cached_property
    def _layers(self) -> tuple[Layer, ...]:
        return self._channels.noted(self.trace.layers)

    def layers(self) -> tuple[Layer, ...]:
        """All layers in the order of the forward pass; those never called last."""
        return self._layers

    def channel_groups(self) -> tuple[ChannelGroup, ...]:
        """Sets of layers whose output channels can be removed together; each was tried on a copy."""
        return self._channels.groups

    @cached_property
    def _blocks(self) -> tuple[ResidualBlock, ...]:
        return blocks.residual_blocks(self.module, self.trace, self.example, self.input_names)

    def residual_blocks(self) -> tuple[ResidualBlock, ...]:
        """Parts that add a shortcut to their last layer, in forward order; those that can be dropped were tried on a copy."""
        return self._blocks

    @cached_property
    def _factorable(self) -> frozenset[str]:
        return low_rank.factorable(self.module, self.trace, self.example, self.input_names)

    def factorable_layers(self) -> frozenset[str]:
        """Layers that two of a lower rank can take the place of; tried on a copy."""
        return self._factorable

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one example, layers only (products of activations with activations not counted)."""
        return sum(layer.macs for layer in self.trace.layers)

    def digest(self) -> str:
        """sha256 of the weights before folding, as a recorded trajectory's last weights have it."""
        return self.original_digest

    def observe(self, needs: Sequence[Need], data: Iterable[Batch] = (), seed: int = 0) -> Iterator[tuple[str, Observation]]:
        """Layer by layer in forward order, what `needs` asks for.

        Args:
            needs: values of `types.Need`; `Motion` isn't the door's to give and is passed over.
            data: calibration batches by name; read as often as memory makes necessary.
            seed: of the labels that the Fisher information draws.
        """
        batches = data if isinstance(data, Sequence) else list(data)
        return observing.observations(self.module, self.trace, self.layers(), needs, batches, self.input_names, seed)

    def predict(self, inputs: Batch) -> tuple[Tensor, ...]:
        """The outputs, flattened to a tuple, without gradients.

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
        """The outputs of the module that came in, called as its owner calls it, whatever was edited since; float32.

        Raises:
            InvalidRequest: the inputs don't fit it.
        """
        source = self.module if self.source is None else self.source
        return tuple(
            t.float() if t.is_floating_point() else t for t in calling.caller_outputs(source, inputs, self.input_names, self.size)
        )

    def to_onnx(self, example: Batch | None = None) -> tuple[bytes, Mapping[str, tuple[Placement, ...]]]:
        """The float32 ONNX file, stripped, with a batch axis of any size where the exporter can, and where the weights lie.

        Args:
            example: inputs to export with; None: those it was opened with.

        Raises:
            Unsupported: no exporter takes the model.
        """
        content, places, _ = self.to_onnx_with_notes(example)
        return content, places

    def to_onnx_with_notes(
        self, example: Batch | None = None
    ) -> tuple[bytes, Mapping[str, tuple[Placement, ...]], tuple[str, ...]]:
        """`to_onnx` and sentences about what the exporter couldn't do."""
        from dyncompress.models.torch import onnx_graph, skeleton  # onnx is imported only where a file is written

        example = self.example if example is None or any(self.free.values()) else example  # one length serves for all
        example = batches.resized(example, self.size) if self.size else example
        form, known = skeleton.form_of(example), self.__dict__.get("_skeleton")
        content = None if known is None else known.filled(self.module, form)
        if known is not None and content is not None:
            return content, known.places, known.notes
        found = onnx_graph.exported(
            self.module, self.trace.layers, self.trace.users, example, self.input_names, self.free, self.size
        )
        self.__dict__["_skeleton"] = skeleton.skeleton(found[0], self.module, form, *found[1:])
        return found

    def edited(self, edits: Sequence[Edit]) -> TorchModel:
        """A new model with the edits applied; this one is untouched.

        Weights, gains and shifts come first, in the shapes of this model and in their order; then layers are split in two, then
        blocks dropped, then channels removed.

        Raises:
            InvalidRequest: an edit names an unknown layer or group, or its shape doesn't fit.
        """
        new = replace(self, module=calling.copied(self.module), kept=dict(self.kept))
        keeps = [edit for edit in edits if isinstance(edit, Keep)]
        drops = [edit for edit in edits if isinstance(edit, Drop)]
        splits = [edit for edit in edits if isinstance(edit, LowRank)]
        for edit in edits:
            if not isinstance(edit, Keep | Drop | LowRank):
                self._edit(new.module, edit)
        if splits:
            low_rank.factorise(new.module, self.trace, splits)
            new = replace(new, normalised=low_rank.renamed(self.normalised, splits))
            return new.edited([*drops, *keeps]) if drops or keeps else new
        if drops:
            blocks.drop(new.module, self._blocks, drops)
            return new.edited(keeps) if keeps else new
        if not keeps:  # the structure is the same: what was read from it holds
            known = ("trace", "_channels", "_layers", "_blocks", "_skeleton", "_factorable")
            new.__dict__.update({key: self.__dict__[key] for key in known if key in self.__dict__})
            return new
        for name, rows in channels.keep(new.module, self._channels, keeps, self.example, self.input_names).items():
            before = self.kept.get(name)
            new.kept[name] = rows if before is None else tuple(before[row] for row in rows)
        return new

    def with_notes(self, *notes: str) -> TorchModel:
        """The same model with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def with_free_axes(self, free: Mapping[str, tuple[int, ...]]) -> TorchModel:
        """The same model with these axes free in its file."""
        return replace(self, free=free)

    def in_sequence(
        self, batches: Sequence[Batch], names: Sequence[str], fit: LayerFit, *, dropped: Sequence[Drop] = ()
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Fit layers in the order of the forward pass, each on what the layers before leave it; see `sequence`."""
        from dyncompress.models.torch import sequence

        with blocks.bypassed(self.module, self.residual_blocks() if dropped else (), dropped):
            return sequence.in_sequence(self, batches, names, fit)

    def distilled(self, reference: TorchModel, batches: Sequence[Batch], how: DistillationTask) -> TorchModel:
        """The model with weights learned from the reference's outputs; see `distillation`."""
        from dyncompress.models.torch import distillation

        return distillation.taught(self, reference, batches, spec=how.spec, seed=how.seed, spared=how.spared, mirrored=how.flips)

    def tunable(self) -> bool:
        """Whether a layer has a gain or a shift that can be learned on its own."""
        from dyncompress.models.torch import tuning

        return tuning.tunable(self)

    def tuned(
        self, reference: TorchModel, batches: Sequence[Batch], how: DistillationTask
    ) -> tuple[TorchModel, dict[str, tuple[Tensor, Tensor]]]:
        """The model with gains and shifts learned from the reference's outputs; see `tuning`."""
        from dyncompress.models.torch import tuning

        return tuning.tuned(self, reference, batches, spec=how.spec, seed=how.seed, gains=how.gains, mirrored=how.flips)

    def _edit(self, module: nn.Module, edit: SetWeight | Affine) -> None:
        """Apply one edit to the copy, in place."""
        layer = self._target(module, edit.layer)
        if isinstance(edit, SetWeight):
            layers.set_weight(edit.layer, layer, edit.weight, edit.bias)
        else:
            layers.set_affine(edit.layer, layer, edit.gain, edit.shift)

    def _target(self, module: nn.Module, name: str) -> nn.Module:
        if name not in self.trace.modules:
            near = difflib.get_close_matches(name, self.trace.modules, 1)
            raise InvalidRequest(
                f"there is no layer '{name}' that can be edited{f'; did you mean {near[0]!r}?' if near else '.'}"
            )
        return module.get_submodule(self.trace.modules[name])

    def matched(
        self, reference: TorchModel, batches: Sequence[Batch], only: Sequence[str] | None = None
    ) -> tuple[TorchModel, dict[str, tuple[Tensor, Tensor]]]:
        """Give every layer's outputs the mean and standard deviation that the reference's have on the same examples.

        Args:
            reference: the original model.
            batches: calibration inputs.
            only: layers to match; None: those whose weights differ from the reference's and those that took in a BatchNorm.

        Returns:
            the new model, and layer -> (gain, shift), each `[out]`: an encoding's scale takes the gain.
        """
        names = self._to_match(reference) if only is None else tuple(only)
        gains = matching.gains(self, reference, batches, names)
        return self.edited([Affine(name, gain, shift) for name, (gain, shift) in gains.items()]), gains

    def _to_match(self, reference: TorchModel) -> tuple[str, ...]:
        """Default layers of `matched`."""
        found = []
        for name, path in self.trace.modules.items():
            own, other = self.module.get_submodule(path).weight, reference.module.get_submodule(path).weight
            if name in self.normalised or own.shape != other.shape or not torch.equal(own, other):
                found.append(name)
        return tuple(found)


def open_model(module: nn.Module, example: Batch, batch: Batch | None = None) -> TorchModel:
    """Open a torch module: copy, check, run once, fold BatchNorm.

    Args:
        module: never changed.
        example: two examples (or one) by input name, `[n, ...]`.
        batch: a whole batch as its owner makes them, for networks that run on no other size; None: the example.

    Raises:
        InvalidRequest: it isn't a module, holds no numbers or NaN or infinite values, doesn't run on the example, or doesn't
            answer alike when it is asked again.
        Unsupported: a part of it is TorchScript.
    """
    if not isinstance(module, nn.Module):
        raise InvalidRequest(f"the model is a {type(module).__name__}; give a torch.nn.Module.")
    if not example:
        raise InvalidRequest("the example has no inputs; give one batch, inputs by name.")
    layers.refuse_bad_values(module)
    notes = ["the model was in training mode; a copy in eval mode is compressed."] if module.training else []
    module = calling.unwrapped(module)
    own = calling.private_copy(module)
    digest = layers.digest_of({name: layers.canonical(m) for name, m in layers.compressible(own).items()})
    state = layers.digest_of({name: t for name, t in own.state_dict().items() if isinstance(t, Tensor)})
    names = tuple(example)
    hooks.absorb(own, example, names)
    notes += _prepared(own)
    size = batches.only_size(own, batch or example, names)
    example = batches.resized(batch or example, size) if size else example
    attention.separate_projections(own, example, names)
    plain_layers.make_plain(own, example, names)
    if size:
        batches.cut(own, size)
        example = batches.resized(batch or example, 2 * size)  # two pieces: every layer is seen to be called twice
    found = calling.checked_outputs(own, example, names, layers.compressible(own))
    batches.refuse_memory(own, found, example, names)
    caller = calling.evaluating(module)
    source.refuse_another(caller, found, example, names, size)
    if not size:
        batches.refuse_mixing(own, found, example, names)
    folded = folding.fold(own, example, names)
    return TorchModel(
        own,
        names,
        (*notes, *folded.notes),
        example,
        digest,
        frozenset(folded.pairs),
        source=caller,
        state_digest=state,
        size=size,
    )


def _prepared(own: nn.Module) -> list[str]:
    """Bring the copy into the one form that the door works on; what that changed, in sentences."""
    notes = []
    calling.without_wrappers(own)
    calling.without_parametrizations(own)
    if numbers.to_float32(own):
        notes.append("weights were converted to float32.")
    recurrent.hold(own)
    config: Any = getattr(own, "config", None)
    if getattr(config, "use_cache", False):
        config.use_cache = False
    return notes
