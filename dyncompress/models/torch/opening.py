# pyright: reportArgumentType=false, reportIndexIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Opening a torch module: copy, check, bring into one form, and fold BatchNorm; the result is a `TorchModel`.

The caller's module is never changed: the adapter works on a copy in eval mode with BatchNorm folded.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch import (
    attention,
    batches,
    calling,
    copying,
    folding,
    hooks,
    layers,
    numbers,
    plain_layers,
    recurrent,
    source,
)
from dyncompress.models.torch.model import TorchModel
from dyncompress.types import Batch


def open_model(
    module: nn.Module, example: Batch, batch: Batch | None = None, *, size: int | None = None, plain: bool = False
) -> TorchModel:
    """Open a torch module for compression: copy it, check it on an example, and fold BatchNorm into its layers.

    Args:
        module: the trained network; it is never changed.
        example: one or two examples by input name, `[n, ...]`.
        batch: a whole batch as the caller uses it, for networks that run on one batch size only; None for the example.
        size: the one batch size that the module runs on, 0 for any; None to find it by running the module.
        plain: the layers are torch's own, called with one tensor each, so that none has to be brought into that form.

    Raises:
        InvalidRequest: `module` isn't a torch module, holds values that aren't finite, doesn't run on the example, or returns
            different outputs when it is called again.
        Unsupported: a part of it is TorchScript, quantized, or sparse.

    Example:
        >>> import torch
        >>> model = open_model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(), {"x": torch.zeros(2, 3, 8, 8)})
        >>> model.module[1]
        Identity()
        >>> [(layer.kind, layer.shape) for layer in model.layers()]
        [('conv2d', (4, 3, 3, 3))]
    """
    if not isinstance(module, nn.Module):
        raise InvalidRequest(f"the model is a {type(module).__name__}; give a torch.nn.Module.")
    if not example:
        raise InvalidRequest("the example has no inputs; give one batch, inputs by name.")
    layers.refuse_bad_values(module)
    notes = ["the model was in training mode; a copy in eval mode is compressed."] if module.training else []
    module = copying.unwrap(module)
    own = copying.private_copy(module)
    digest = layers.digest_of({name: layers.canonical(m) for name, m in layers.compressible_modules(own).items()})
    state = layers.digest_of({name: t for name, t in own.state_dict().items() if isinstance(t, Tensor)})
    names = tuple(example)
    hooks.absorb(own, example, names)
    notes += _to_plain_form(own)
    size = batches.single_batch_size(own, batch or example, names) if size is None else size
    example = batches.resize_batch(batch or example, size) if size else example
    attention.separate_projections(own, example, names)
    if not plain:
        plain_layers.make_plain(own, example, names)
    if size:
        batches.cut_into_pieces(own, size)
        example = batches.resize_batch(batch or example, 2 * size)  # two pieces: the trace counts two calls of every layer
    example_outputs = calling.checked_outputs(own, example, names, layers.compressible_modules(own))
    batches.refuse_memory(own, example_outputs, example, names)
    caller = copying.in_eval_mode(module)
    source.refuse_another(caller, example_outputs, example, names, size)
    if not size:
        batches.refuse_mixing(own, example_outputs, example, names)
    folded = folding.fold(own, example, names)
    read, pairs = (*notes, *folded.notes), frozenset(folded.pairs)
    return TorchModel(own, names, read, example, digest, pairs, source=caller, state_digest=state, size=size)


def _to_plain_form(own: nn.Module) -> list[str]:
    """Remove wrappers and parametrizations of a private copy and convert it to float32, in place; notes for the user."""
    notes = []
    copying.remove_wrappers(own)
    copying.remove_parametrizations(own)
    if numbers.to_float32(own):
        notes.append("weights were converted to float32.")
    recurrent.add_weight_layers(own)
    config: Any = getattr(own, "config", None)
    if getattr(config, "use_cache", False):
        config.use_cache = False
    return notes
