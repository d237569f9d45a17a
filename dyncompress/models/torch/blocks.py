# pyright: reportArgumentType=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Residual blocks, identified by what they compute: with its last layer's output set to zero, a block returns its shortcut.

Every module with one tensor as input and one as output is tried: out = act(shortcut + y), with y the output of the layer that is
called last, and act the identity or a ReLU. Where the shortcut is the block's input itself, the block can be dropped: its input
replaces its output. Each drop is verified on a copy of the whole network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.calling import CALL_ERRORS, outputs, temporary_hooks
from dyncompress.models.torch.copying import deep_copy
from dyncompress.models.torch.layer_trace import Trace
from dyncompress.types import Batch, Drop, ResidualBlock

_TOLERANCE = 1e-5  # share of the largest output: the float32 sums are the same but for their order


class Shortcut(nn.Module):
    """What replaces a dropped block: the identity, followed by a ReLU where the block ended with one."""

    def __init__(self, relu: bool) -> None:
        """With or without a ReLU."""
        super().__init__()
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """The input, or its positive part."""
        return torch.relu(x) if self.relu else x


@dataclass(frozen=True)
class _Call:
    """One call of a module: its name, its input and its output."""

    name: str
    input: Tensor
    output: Tensor


def residual_blocks(module: nn.Module, trace: Trace, example: Batch, names: Sequence[str]) -> tuple[ResidualBlock, ...]:
    """The innermost modules that add a shortcut to their last layer's output, in forward order.

    Args:
        module: left as it is.
        trace: of the same module.
        example: one batch by input name.
        names: input names, in order.
    """
    owners = {owner: layer for layer, owner in trace.modules.items()}
    by_name: dict[str, ResidualBlock] = {}
    calls = _calls(module, owners, example, names)
    # Inner modules come first, so that the innermost module owns a closing layer.
    for call in sorted(calls, key=lambda c: -c.name.count(".")):
        block = _block(module, call, owners, trace)
        if block is not None and block.closing not in {other.closing for other in by_name.values()}:
            by_name[call.name] = block
    producers = {id(call.output): call.name for call in calls if call.name in by_name}
    in_order = []
    for call in calls:
        if call.name in by_name:
            block = by_name[call.name]
            before = producers.get(id(call.input), "")
            droppable = block.droppable and _drop_is_exact(module, block, example, names)
            in_order.append(ResidualBlock(block.name, block.layers, block.closing, block.identity, droppable, block.relu, before))
    return tuple(in_order)


def drop(module: nn.Module, blocks: Sequence[ResidualBlock], edits: Sequence[Drop]) -> None:
    """Replace blocks by their shortcuts, in place.

    Args:
        module: a private copy.
        blocks: of the module.
        edits: the blocks to drop.

    Raises:
        InvalidRequest: there is no such block, or it can't be dropped; names those that can.
    """
    droppable = _droppable_blocks(blocks, edits)
    for edit in edits:
        parent, _, child = edit.block.rpartition(".")
        setattr(module.get_submodule(parent), child, Shortcut(droppable[edit.block].relu))


def _droppable_blocks(blocks: Sequence[ResidualBlock], edits: Sequence[Drop]) -> dict[str, ResidualBlock]:
    """Name -> block that can be dropped; `InvalidRequest` where an edit names another one."""
    droppable = {block.name: block for block in blocks if block.droppable}
    for edit in edits:
        if edit.block not in droppable:
            names = ", ".join(droppable) or "none"
            raise InvalidRequest(f"there is no block '{edit.block}' that its shortcut can replace; this model offers {names}.")
    return droppable


@contextlib.contextmanager
def bypass_blocks(module: nn.Module, blocks: Sequence[ResidualBlock], edits: Sequence[Drop]) -> Iterator[None]:
    """Context manager: the second half of every batch skips the blocks of `edits`; the first half runs through them."""
    shortcuts = {name: Shortcut(block.relu) for name, block in _droppable_blocks(blocks, edits).items()}

    def bypass(name: str, args: tuple, output: Tensor) -> Tensor:
        half = len(output) // 2
        return torch.cat([output[:half], shortcuts[name](args[0][half:])])

    parts = {edit.block: module.get_submodule(edit.block) for edit in edits}
    handles = [part.register_forward_hook(lambda _m, a, y, name=name: bypass(name, a, y)) for name, part in parts.items()]
    with temporary_hooks(handles):
        yield


def _calls(module: nn.Module, owners: Mapping[str, str], example: Batch, names: Sequence[str]) -> list[_Call]:
    """Calls of the modules that contain layers, are called once, take one tensor as only argument, and return one tensor."""
    by_module: dict[str, list[Any]] = {}
    handles = []
    for name, part in module.named_modules():
        if name and name not in owners and any(owner.startswith(name + ".") for owner in owners):

            def look(_part: nn.Module, args: tuple, keywords: dict, output: Any, name: str = name) -> None:
                plain = len(args) == 1 and not keywords and isinstance(args[0], Tensor) and isinstance(output, Tensor)
                by_module.setdefault(name, []).append(_Call(name, args[0], output) if plain else None)

            handles.append(part.register_forward_hook(look, with_kwargs=True))
    with temporary_hooks(handles):
        outputs(module, example, names)
    return [calls[0] for calls in by_module.values() if len(calls) == 1 and calls[0] is not None]


def _block(module: nn.Module, call: _Call, owners: Mapping[str, str], trace: Trace) -> ResidualBlock | None:
    """The residual block that a module forms; None where it isn't one."""
    if not (call.input.is_floating_point() and call.output.is_floating_point()):
        return None
    part = module.get_submodule(call.name)
    inside = [owners[name] for name in owners if name.startswith(call.name + ".")]
    order = {layer.name: i for i, layer in enumerate(trace.layers)}
    inside.sort(key=order.__getitem__)
    closing = inside[-1]
    if trace.calls.get(closing) != 1 or len(trace.users[closing]) > 1:
        return None
    last = module.get_submodule(trace.modules[closing])
    shortcut, layer_output = silent_block_outputs(part, last, call.input)
    if layer_output is None or layer_output.shape != call.output.shape:
        return None
    identity = call.input.shape == layer_output.shape and _is_sum(call.input, layer_output, call.output)
    if not identity and not (shortcut.shape == layer_output.shape and _is_sum(shortcut, layer_output, call.output)):
        return None
    relu = identity and not _same(shortcut, call.input)  # for a positive input a final ReLU changes nothing
    return ResidualBlock(call.name, tuple(inside), closing, identity, identity, relu)


def _is_sum(shortcut: Tensor, layer_output: Tensor, output: Tensor) -> bool:
    """Whether the output is the sum of a nonzero shortcut and a layer's output, or the ReLU of that sum."""
    total = shortcut + layer_output
    return bool(shortcut.any()) and (_same(output, total) or _same(output, torch.relu(total)))


@torch.no_grad()
def silent_block_outputs(block: nn.Module, last: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """A block's output with its last layer's output set to zero, and that layer's actual output.

    Args:
        block: run once on `x`.
        last: a layer inside the block.
        x: the block's input.

    Returns:
        the block's output, and the last output of the layer; None where the block doesn't call the layer.
    """
    layer_outputs: list[Tensor] = []

    def silence(_layer: nn.Module, _args: tuple, output: Tensor) -> Tensor:
        layer_outputs.append(output)
        return torch.zeros_like(output)

    with temporary_hooks([last.register_forward_hook(silence)]):
        shortcut = block(x)
    return shortcut, layer_outputs[0] if layer_outputs else None


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree within the tolerance."""
    return bool((one - other).abs().max() <= _TOLERANCE * other.abs().max() + 1e-12)


def _drop_is_exact(module: nn.Module, block: ResidualBlock, example: Batch, names: Sequence[str]) -> bool:
    """Whether the network without the block returns the same outputs as with the block's last layer set to zero."""
    last = module.get_submodule(block.closing)
    with temporary_hooks([last.register_forward_hook(lambda _l, _a, output: torch.zeros_like(output))]):
        expected = outputs(module, example, names)
    own = deep_copy(module)
    try:
        drop(own, (block,), (Drop(block.name),))
        actual = outputs(own, example, names)
    except CALL_ERRORS:
        return False
    return len(actual) == len(expected) and all(a.shape == b.shape and _same(a, b) for a, b in zip(actual, expected, strict=True))
