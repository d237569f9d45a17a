# pyright: reportArgumentType=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Networks that run on one batch size only, and checks for networks whose outputs depend on other examples.

A network written for one example, or one that reshapes its input to `(4, -1)`, runs on one batch size only. Its private copy
takes batches of any size and splits them into pieces of that size, so that the rest of the library needn't know. The ONNX file
has that batch size, and a note says so.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.calling import CALL_ERRORS, outputs, restoring_buffers, tensors_of
from dyncompress.models.torch.copying import forward_of
from dyncompress.models.torch.source import TOLERANCE, difference
from dyncompress.types import Batch

# Change of an output, as a share of its range, above which examples of one batch are not independent. Products of other sizes
# round differently, by about a millionth.
_MIXED = 1e-2


def resize_batch(batch: Batch, rows: int) -> dict[str, Tensor]:
    """The first `rows` examples of a batch; the examples of a shorter batch are repeated.

    Example:
        >>> resize_batch({"x": torch.tensor([1, 2])}, 5)["x"].tolist()
        [1, 2, 1, 2, 1]
    """
    tensors = {name: torch.as_tensor(value) for name, value in batch.items()}
    times = {name: -(-rows // max(len(value), 1)) for name, value in tensors.items()}
    return {name: torch.cat([value] * times[name])[:rows] for name, value in tensors.items()}


def single_batch_size(module: nn.Module, whole: Batch, names: Sequence[str]) -> int:
    """The only batch size that a network runs on; 0 where it runs on other sizes than that of the data, or on none.

    Args:
        module: a private copy.
        whole: a batch of the size that the caller uses, by input name.
        names: input names, in order.
    """
    rows = len(whole[names[0]])
    other = resize_batch(whole, 2)
    if _runs(module, other, names) and (rows > 1 or _answers_agree(module, whole, other, names)):
        return 0
    return rows if rows != 2 and _runs(module, resize_batch(whole, rows), names) else 0


def _runs(module: nn.Module, batch: Batch, names: Sequence[str]) -> bool:
    """Whether the network runs on the batch and returns one row of output for each example."""
    rows = len(batch[names[0]])
    with restoring_buffers(module):
        try:
            values = outputs(module, batch, names)
        except CALL_ERRORS:
            return False
    return bool(values) and all(value.ndim > 0 and len(value) == rows for value in values)


def _answers_agree(module: nn.Module, one: Batch, two: Batch, names: Sequence[str]) -> bool:
    """Whether the network returns the same output for an example alone and in a larger batch."""
    with restoring_buffers(module):
        try:
            alone, beside = outputs(module, one, names), outputs(module, two, names)
        except CALL_ERRORS:
            return True  # it doesn't run on one example, so that only the larger batch counts
    return all(difference(b[:1], a) <= TOLERANCE for a, b in zip(alone, beside, strict=True))


def cut_into_pieces(module: nn.Module, size: int) -> None:
    """Let a private copy take batches of any size, which it splits into pieces of `size` examples, in place.

    Args:
        module: a private copy that runs on `size` examples.
        size: of a piece; a shorter last piece is filled up with copies of its last example.
    """
    method = forward_of(module)

    @functools.wraps(method)
    def forward(self: nn.Module, *args: Any, **keywords: Any) -> Any:
        """The network's own output for one piece; for several, a tuple of tensors with the rows of all pieces."""
        inner = functools.partial(method, self)
        rows = next((len(value) for value in (*args, *keywords.values()) if isinstance(value, Tensor) and value.ndim), size)
        if rows == size:
            return inner(*args, **keywords)
        parts = []
        for start in range(0, rows, size):
            take = functools.partial(_piece, start=start, size=size, rows=rows)
            parts.append(tensors_of(inner(*map(take, args), **{name: take(value) for name, value in keywords.items()})))
        return tuple(torch.cat(values)[:rows] for values in zip(*parts, strict=True))

    signature = inspect.signature(module.forward)
    module.forward = types.MethodType(forward, module)
    module.forward.__func__.__signature__ = inspect.Signature(
        [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD), *signature.parameters.values()]
    )


def _piece(value: Any, *, start: int, size: int, rows: int) -> Any:
    """One piece of a tensor whose first axis is the batch axis; any other value as it is."""
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != rows:
        return value
    part = value[start : start + size]
    return part if len(part) == size else torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])


def refuse_mixing(module: nn.Module, example_outputs: Sequence[Tensor], example: Batch, names: Sequence[str]) -> None:
    """Refuse a network whose output for an example depends on the other examples in its batch.

    Args:
        module: a private copy that takes batches of any size.
        example_outputs: its outputs on the example.
        example: two or more examples by input name; with one example nothing is checked.
        names: input names, in order.

    Raises:
        InvalidRequest: an output changes; says by how much, and the likely reasons.
    """
    if len(example[names[0]]) < 2:
        return
    with restoring_buffers(module):  # the last example: in a scan over another axis, the first one doesn't depend on others
        try:
            alone = outputs(module, {name: value[-1:] for name, value in example.items()}, names)
        except CALL_ERRORS:  # where a network doesn't run on one example, the other examples are replaced
            others = {name: torch.as_tensor(value).roll(1, 0) for name, value in example.items()}
            mixed = {name: torch.cat([others[name][:-1], torch.as_tensor(example[name])[-1:]]) for name in example}
            alone = tuple(value[-1:] if value.ndim else value for value in outputs(module, mixed, names))
    pairs = [(a, b[-1:]) for a, b in zip(alone, example_outputs, strict=False) if a.is_floating_point() and a.ndim and b.ndim]
    errors = [difference(a, b) for a, b in pairs if a.shape == b.shape]
    if max(errors, default=0.0) > _MIXED:
        raise InvalidRequest(
            f"the model's output for an example changes with the others in its batch (by {100 * max(errors):.2g} % of its "
            "range): if the first axis of its inputs isn't the batch axis, wrap it in a module that transposes them; if it takes "
            "statistics over the batch, give it remembered ones."
        )


def refuse_memory(module: nn.Module, example_outputs: Sequence[Tensor], example: Batch, names: Sequence[str]) -> None:
    """Refuse a network whose output depends on earlier calls: an ONNX file keeps no state between calls.

    Args:
        module: a private copy; its buffers are restored.
        example_outputs: its outputs on the example, from its last call.
        example: by input name; the network runs on it again, after other inputs.
        names: input names, in order.

    Raises:
        InvalidRequest: an output changes; names the buffer that holds the state.
    """
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    if not before:
        return
    with restoring_buffers(module):
        outputs(module, {name: _other_inputs(value) for name, value in example.items()}, names)
        changed = [
            name
            for name, buffer in module.named_buffers()
            if name in before and (buffer.shape != before[name].shape or not torch.equal(buffer, before[name]))
        ]
        again = outputs(module, example, names) if changed else example_outputs
    if any(difference(b, a) > TOLERANCE for a, b in zip(example_outputs, again, strict=True)):
        raise InvalidRequest(
            f"the model's output for an example depends on the example before it: its forward keeps a state in buffer "
            f"'{changed[0]}', and an ONNX file has none; make the state an input and an output of forward."
        )


def _other_inputs(value: Any) -> Tensor:
    """Other values of the same shape and dtype: floats times -1/2, other types in the reverse order of examples."""
    tensor = torch.as_tensor(value)
    return -tensor / 2 if tensor.is_floating_point() else tensor.flip(0)
