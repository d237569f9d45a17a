# pyright: reportArgumentType=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Networks that run on batches of one size alone, and networks that remember what they were shown.

A stream processor that was written for one example, a reshape to `(4, -1)`: such a network is compressed batch by batch. Its
private copy takes any number of examples and cuts them into pieces of the size it was written for, so that everything else need
not know. The file has that batch size, and says so.
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
from dyncompress.models.torch.calling import CALL_ERRORS, forward_of, outputs, restoring_buffers, tensors_of
from dyncompress.models.torch.source import TOLERANCE, difference
from dyncompress.types import Batch

# Of an output's range, from which on examples of one batch aren't answered each for itself: products of other sizes are rounded
# otherwise, by a millionth.
_MIXED = 1e-2


def resize_batch(batch: Batch, rows: int) -> dict[str, Tensor]:
    """The first `rows` examples; those of a shorter batch are repeated."""
    found = {name: torch.as_tensor(value) for name, value in batch.items()}
    times = {name: -(-rows // max(len(value), 1)) for name, value in found.items()}
    return {name: torch.cat([value] * times[name])[:rows] for name, value in found.items()}


def single_batch_size(module: nn.Module, whole: Batch, names: Sequence[str]) -> int:
    """The one batch size that a network runs on; 0 where it runs on others than that of its data, or on none.

    Args:
        module: a private copy.
        whole: a batch of the size that its owner uses.
        names: of the inputs.
    """
    rows = len(whole[names[0]])
    other = resize_batch(whole, 2)
    if _runs(module, other, names) and (rows > 1 or _answers_agree(module, whole, other, names)):
        return 0
    return rows if rows != 2 and _runs(module, resize_batch(whole, rows), names) else 0


def _runs(module: nn.Module, batch: Batch, names: Sequence[str]) -> bool:
    """Whether the network takes the batch, and answers every example of it."""
    rows = len(batch[names[0]])
    with restoring_buffers(module):
        try:
            found = outputs(module, batch, names)
        except CALL_ERRORS:
            return False
    return bool(found) and all(value.ndim > 0 and len(value) == rows for value in found)


def _answers_agree(module: nn.Module, one: Batch, two: Batch, names: Sequence[str]) -> bool:
    """Whether an example is answered alike in a batch of its own and in a larger one."""
    with restoring_buffers(module):
        try:
            alone, beside = outputs(module, one, names), outputs(module, two, names)
        except CALL_ERRORS:
            return True  # alone it doesn't run at all: the larger batch is the one to go by
    return all(difference(b[:1], a) <= TOLERANCE for a, b in zip(alone, beside, strict=True))


def cut_into_pieces(module: nn.Module, size: int) -> None:
    """Let a private copy take batches of any size, in pieces of the one that it runs on, in place.

    Args:
        module: runs on `size` examples.
        size: of a piece; the last one is filled up by repetition.
    """
    method = forward_of(module)

    @functools.wraps(method)
    def forward(self: nn.Module, *args: Any, **keywords: Any) -> Any:
        """The network's own output, or the joined tensors of all pieces."""
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
    """One piece of a tensor with an entry for each example; anything else as it is."""
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != rows:
        return value
    part = value[start : start + size]
    return part if len(part) == size else torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])


def refuse_mixing(module: nn.Module, found: Sequence[Tensor], example: Batch, names: Sequence[str]) -> None:
    """Refuse a network whose answer to an example hangs on the others in its batch: it is no function of examples.

    Args:
        module: a private copy that takes batches of any size.
        found: its outputs on the example.
        example: two examples at least; with one, nothing is tried.
        names: of the inputs.

    Raises:
        InvalidRequest: says by how much, and what is likely.
    """
    if len(example[names[0]]) < 2:
        return
    with restoring_buffers(module):  # the last one is compared: in a scan over what is no batch axis, the first stands alone
        try:
            alone = outputs(module, {name: value[-1:] for name, value in example.items()}, names)
        except CALL_ERRORS:  # some networks don't run on one example; then the others are changed
            others = {name: torch.as_tensor(value).roll(1, 0) for name, value in example.items()}
            mixed = {name: torch.cat([others[name][:-1], torch.as_tensor(example[name])[-1:]]) for name in example}
            alone = tuple(value[-1:] if value.ndim else value for value in outputs(module, mixed, names))
    pairs = [(a, b[-1:]) for a, b in zip(alone, found, strict=False) if a.is_floating_point() and a.ndim and b.ndim]
    errors = [difference(a, b) for a, b in pairs if a.shape == b.shape]
    if max(errors, default=0.0) > _MIXED:
        raise InvalidRequest(
            f"the model's output for an example changes with the others in its batch (by {100 * max(errors):.2g} % of its "
            "range): if the first axis of its inputs isn't the batch axis, wrap it in a module that transposes them; if it takes "
            "statistics over the batch, give it remembered ones."
        )


def refuse_memory(module: nn.Module, found: Sequence[Tensor], example: Batch, names: Sequence[str]) -> None:
    """Refuse a network whose answer hangs on what it was shown before: a file has no memory between calls.

    Args:
        module: a private copy; its buffers are left as they are.
        found: its outputs on the example, which it was asked last.
        example: what it is asked again, after something else.
        names: of the inputs.

    Raises:
        InvalidRequest: names the buffer that carries the state.
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
        again = outputs(module, example, names) if changed else found
    if any(difference(b, a) > TOLERANCE for a, b in zip(found, again, strict=True)):
        raise InvalidRequest(
            f"the model's output for an example changes when it is shown another one before: its forward keeps a state in buffer "
            f"'{changed[0]}', and a file has none; make the state an input and an output of forward."
        )


def _other_inputs(value: Any) -> Tensor:
    """Other numbers of the same kind: floats halved with their sign changed, anything else in another order."""
    tensor = torch.as_tensor(value)
    return -tensor / 2 if tensor.is_floating_point() else tensor.flip(0)
