# pyright: reportArgumentType=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Residual blocks, found by what they compute: with the outputs of its last layer at zero, a block returns its shortcut.

Every module of one tensor in and one tensor out is tried on its own: out = act(shortcut + y), with y the output of the layer
called last and act nothing or a ReLU. Where the shortcut is the block's input itself, the block can be dropped: its input
takes its place. Each drop is verified on a copy of the whole network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.calling import CALL_ERRORS, deep_copy, outputs, temporary_hooks
from dyncompress.models.torch.layer_trace import Trace
from dyncompress.types import Batch, Drop, ResidualBlock

_TOLERANCE = 1e-5  # of the largest output: the sums are the same float32 sums but for their order


class Shortcut(nn.Module):
    """What is left of a dropped block: its input, through the ReLU that ended the block."""

    def __init__(self, relu: bool) -> None:
        """Remember whether a ReLU follows."""
        super().__init__()
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """The input, or its positive part."""
        return torch.relu(x) if self.relu else x


@dataclass(frozen=True)
class _Call:
    """One call of a module: what went in and what came out."""

    name: str
    given: Tensor
    returned: Tensor


def residual_blocks(module: nn.Module, trace: Trace, example: Batch, names: Sequence[str]) -> tuple[ResidualBlock, ...]:
    """The innermost modules that add a shortcut to their last layer, in forward order; none where a network has none.

    Args:
        module: left as it is.
        trace: of the same module.
        example: one batch.
        names: of the inputs.
    """
    owners = {owner: layer for layer, owner in trace.modules.items()}
    found: dict[str, ResidualBlock] = {}
    calls = _calls(module, owners, example, names)
    for call in sorted(calls, key=lambda c: -c.name.count(".")):  # inner modules first: they own their closing layer
        block = _block(module, call, owners, trace)
        if block is not None and block.closing not in {other.closing for other in found.values()}:
            found[call.name] = block
    returned = {id(call.returned): call.name for call in calls if call.name in found}
    linked = []
    for call in calls:
        if call.name in found:
            block = found[call.name]
            before = returned.get(id(call.given), "")
            droppable = block.droppable and _drop_is_exact(module, block, example, names)
            linked.append(ResidualBlock(block.name, block.layers, block.closing, block.identity, droppable, block.relu, before))
    return tuple(linked)


def drop(module: nn.Module, blocks: Sequence[ResidualBlock], edits: Sequence[Drop]) -> None:
    """Put shortcuts in place of blocks, in place.

    Raises:
        InvalidRequest: there is no such block, or it can't be dropped.
    """
    known = _droppable_blocks(blocks, edits)
    for edit in edits:
        parent, _, child = edit.block.rpartition(".")
        setattr(module.get_submodule(parent), child, Shortcut(known[edit.block].relu))


def _droppable_blocks(blocks: Sequence[ResidualBlock], edits: Sequence[Drop]) -> dict[str, ResidualBlock]:
    """Name -> block that can be dropped; all edits name one."""
    known = {block.name: block for block in blocks if block.droppable}
    for edit in edits:
        if edit.block not in known:
            offered = ", ".join(known) or "none"
            raise InvalidRequest(f"there is no block '{edit.block}' that its shortcut can replace; this model offers {offered}.")
    return known


@contextlib.contextmanager
def bypass_blocks(module: nn.Module, blocks: Sequence[ResidualBlock], edits: Sequence[Drop]) -> Iterator[None]:
    """Inside this block, the second half of every batch takes the shortcut past the dropped blocks; the first doesn't."""
    known = {name: Shortcut(block.relu) for name, block in _droppable_blocks(blocks, edits).items()}

    def bypass(name: str, args: tuple, output: Tensor) -> Tensor:
        half = len(output) // 2
        return torch.cat([output[:half], known[name](args[0][half:])])

    parts = {edit.block: module.get_submodule(edit.block) for edit in edits}
    handles = [part.register_forward_hook(lambda _m, a, y, name=name: bypass(name, a, y)) for name, part in parts.items()]
    with temporary_hooks(handles):
        yield


def _calls(module: nn.Module, owners: Mapping[str, str], example: Batch, names: Sequence[str]) -> list[_Call]:
    """Calls of the modules that hold layers, take one tensor and nothing else, return one, and are called once."""
    seen: dict[str, list[Any]] = {}
    handles = []
    for name, part in module.named_modules():
        if name and name not in owners and any(owner.startswith(name + ".") for owner in owners):

            def look(_part: nn.Module, args: tuple, keywords: dict, output: Any, name: str = name) -> None:
                plain = len(args) == 1 and not keywords and isinstance(args[0], Tensor) and isinstance(output, Tensor)
                seen.setdefault(name, []).append(_Call(name, args[0], output) if plain else None)

            handles.append(part.register_forward_hook(look, with_kwargs=True))
    with temporary_hooks(handles):
        outputs(module, example, names)
    return [found[0] for found in seen.values() if len(found) == 1 and found[0] is not None]


def _block(module: nn.Module, call: _Call, owners: Mapping[str, str], trace: Trace) -> ResidualBlock | None:
    """The residual block that a module is; None if it is none."""
    if not (call.given.is_floating_point() and call.returned.is_floating_point()):
        return None
    part = module.get_submodule(call.name)
    inside = [owners[name] for name in owners if name.startswith(call.name + ".")]
    order = {layer.name: i for i, layer in enumerate(trace.layers)}
    inside.sort(key=order.__getitem__)
    closing = inside[-1]
    if trace.calls.get(closing) != 1 or len(trace.users[closing]) > 1:
        return None
    last = module.get_submodule(trace.modules[closing])
    shortcut, added = silent_block_outputs(part, last, call.given)
    if added is None or added.shape != call.returned.shape:
        return None
    identity = call.given.shape == added.shape and _is_sum(call.given, added, call.returned)
    if not identity and not (shortcut.shape == added.shape and _is_sum(shortcut, added, call.returned)):
        return None
    relu = identity and not _same(shortcut, call.given)  # where what comes in is positive, a ReLU on top changes nothing
    return ResidualBlock(call.name, tuple(inside), closing, identity, identity, relu)


def _is_sum(shortcut: Tensor, added: Tensor, returned: Tensor) -> bool:
    """Whether the output is the sum, or its positive part."""
    total = shortcut + added
    return bool(shortcut.any()) and (_same(returned, total) or _same(returned, torch.relu(total)))


@torch.no_grad()
def silent_block_outputs(block: nn.Module, last: nn.Module, given: Tensor) -> tuple[Tensor, Tensor | None]:
    """What a block returns with the outputs of its last layer at zero, and what these were."""
    added: list[Tensor] = []

    def silence(_layer: nn.Module, _args: tuple, output: Tensor) -> Tensor:
        added.append(output)
        return torch.zeros_like(output)

    with temporary_hooks([last.register_forward_hook(silence)]):
        shortcut = block(given)
    return shortcut, added[0] if added else None


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree but for rounding."""
    return bool((one - other).abs().max() <= _TOLERANCE * other.abs().max() + 1e-12)


def _drop_is_exact(module: nn.Module, block: ResidualBlock, example: Batch, names: Sequence[str]) -> bool:
    """Whether the whole network runs without the block, and returns what it returns with the block's last layer silent."""
    last = module.get_submodule(block.closing)
    with temporary_hooks([last.register_forward_hook(lambda _l, _a, output: torch.zeros_like(output))]):
        wanted = outputs(module, example, names)
    own = deep_copy(module)
    try:
        drop(own, (block,), (Drop(block.name),))
        found = outputs(own, example, names)
    except CALL_ERRORS:
        return False
    return len(found) == len(wanted) and all(a.shape == b.shape and _same(a, b) for a, b in zip(found, wanted, strict=True))
