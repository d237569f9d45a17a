# pyright: reportArgumentType=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Attention heads and hidden units that torch-pruning's graph doesn't follow, from the order in which linear layers are called.

The graph ends at a fused attention function, and it doesn't know GPT-2's linear layers or a layer that computes gates and values
at once. Layers called one after the other whose widths fit are therefore tried directly:

- attention: three layers, at least two of them with the same input, and a layer that reads their width; or one layer of three
  times that width. A channel is a head, with grouped queries a key's head and the queries that share it. The number of heads is
  an attribute of a module around these layers, or any divisor of the width.
- a perceptron: one layer (or two with the same input, or one of twice the width), and a layer that reads their width.

Each candidate must pass the check of removal.py, also at the output of the layer that reads the channels. Numbers of heads that a
module stores are reduced with the heads, and numbers equal to the width where that alone doesn't pass.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from dyncompress.models.torch.calling import outputs, temporary_hooks
from dyncompress.models.torch.layer_trace import Trace, used_once
from dyncompress.models.torch.removal import Channels, Counts, cut, removal_is_exact
from dyncompress.types import Batch, ChannelGroup, Layer

ONE_HEAD = "its attention has a single head"
HEADS_FIXED = (
    "its heads can't be removed: the attention's code, or something that it reads such as a position bias for each head or a "
    "norm over all heads, depends on their number"
)
_MOST_DIVISORS = 12  # numbers of heads that are tried where no module names one


@dataclass(frozen=True)
class _Candidate:
    """A group to be tried, with attributes in the order in which they are tried.

    Attributes:
        group: the group.
        counts: sets of attributes that may have to shrink with it; the first that passes the check is used.
    """

    group: ChannelGroup
    counts: tuple[Counts, ...] = ((),)


def with_direct_groups(module: nn.Module, trace: Trace, known: Channels, example: Batch, names: Sequence[str]) -> Channels:
    """The known groups, and verified groups of heads and hidden units of layers that none of them names.

    Args:
        module: a private copy; it is restored.
        trace: of the same module.
        known: groups of torch-pruning's graph, and the reasons of layers that have none.
        example: one batch by input name.
        names: input names, in order.
    """
    used = {name for group in known.groups for name in (*group.producers, *group.consumers)}
    layers = [la for la in trace.layers if la.kind == "linear" and not la.left_alone and used_once(module, trace, la.name)]
    inputs = _inputs(module, layers, example, names)
    found: dict[str, _Candidate] = {}
    reasons, start = dict(known.reasons), 0
    while start < len(layers):
        step = 1
        for window, kind in _windows(layers[start : start + 4], inputs, used):
            candidates = list(_heads(module, window) if kind == "heads" else _units(window))
            passing = _first_exact(module, candidates, example, names)
            if passing is not None:
                found[passing.group.name] = passing
                used.update(layer.name for layer in window)
                step = len(window)
                break
            if kind == "heads" and (len(window) == 4 or _head_numbers(module, window)):
                reasons.update(dict.fromkeys((la.name for la in window[:-1]), HEADS_FIXED if candidates else ONE_HEAD))
                step = len(window) - 1
        start += step
    order = {layer.name: i for i, layer in enumerate(trace.layers)}
    groups = sorted([*known.groups, *(one.group for one in found.values())], key=lambda group: order[group.name])
    return Channels(tuple(groups), reasons, {name: one.counts[0] for name, one in found.items()})


def _inputs(module: nn.Module, layers: Sequence[Layer], example: Batch, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Layer -> what identifies the memory of its input: equal for layers that read the same tensor, transposed or not."""
    tensors: dict[str, Tensor] = {}  # held until the end, so that no memory is used twice

    def note(name: str, args: tuple) -> None:
        tensors.update({name: args[0]} if args else {})

    parts = {layer.name: module.get_submodule(layer.name) for layer in layers}
    handles = [part.register_forward_pre_hook(lambda _m, args, name=name: note(name, args)) for name, part in parts.items()]
    with temporary_hooks(handles):
        outputs(module, example, names)
    return {name: (tensor.data_ptr(), tensor.numel()) for name, tensor in tensors.items()}


def _windows(
    layers: Sequence[Layer], inputs: Mapping[str, tuple[int, int]], used: set[str]
) -> Iterator[tuple[Sequence[Layer], str]]:
    """The first layers of a list that may form an attention ("heads") or a perceptron ("units"), by their widths and inputs."""
    for length, kind in ((4, "heads"), (2, "heads"), (3, "units"), (2, "units")):
        window = layers[:length]
        if len(window) < length or used & {layer.name for layer in window}:
            continue
        *makers, reader = window
        widths, width = [layer.out for layer in makers], reader.fan_in
        shared = len({inputs.get(layer.name) for layer in makers}) < len(makers)
        fits = {
            (4, "heads"): shared and max(widths) == width,
            (2, "heads"): widths[0] == 3 * width,
            (3, "units"): shared and widths == [width, width] and width > 1,
            (2, "units"): widths[0] in (width, 2 * width) and width > 1,
        }[length, kind]
        if fits:
            yield window, kind


def _units(window: Sequence[Layer]) -> Iterator[_Candidate]:
    """The hidden units of a perceptron."""
    *makers, reader = window
    yield _Candidate(
        ChannelGroup(
            makers[0].name,
            reader.fan_in,
            tuple(layer.name for layer in makers),
            {reader.name: 1},
            parts=makers[0].out // reader.fan_in,
        )
    )


def _heads(module: nn.Module, window: Sequence[Layer]) -> Iterator[_Candidate]:
    """The heads of an attention, for every number of heads that its modules name; the largest first."""
    *makers, reader = window
    least = min(reader.fan_in, *(layer.out for layer in makers))
    divisors = [n for n in range(least // 2, 1, -1) if least % n == 0]
    for size in sorted(_head_numbers(module, window) or divisors[:_MOST_DIVISORS], reverse=True):
        if size < 2 or reader.fan_in % size or any(layer.out % size for layer in makers):
            continue
        for parts in (3, 1) if len(makers) == 1 else (1,):
            rows = {layer.name: layer.out // size // parts for layer in makers}
            group = ChannelGroup(makers[0].name, size, tuple(rows), {reader.name: reader.fan_in // size}, rows, parts)
            yield _Candidate(group, _counts(module, window, size))


def _first_exact(module: nn.Module, candidates: Sequence[_Candidate], example: Batch, names: Sequence[str]) -> _Candidate | None:
    """The first candidate that passes the check, with the attributes that it passes with."""
    for candidate in candidates:
        group = candidate.group
        for counts in candidate.counts:
            if removal_is_exact(module, group, functools.partial(_remove, module, group, counts), example, names):
                return _Candidate(group, (counts,))
    return None


def _remove(module: nn.Module, group: ChannelGroup, counts: Counts, gone: Sequence[int]) -> None:
    """Remove channels in place."""
    cut(module, group, [c for c in range(group.size) if c not in gone], counts)


def _parts_around(window: Sequence[Layer]) -> list[str]:
    """The innermost module around all layers of a window, and the modules between it and each layer."""
    paths = [layer.name.split(".")[:-1] for layer in window]
    depth = next((i for i, steps in enumerate(zip(*paths, strict=False)) if len(set(steps)) > 1), min(map(len, paths)))
    return list(dict.fromkeys(".".join(path[:end]) for path in paths for end in range(depth, len(path) + 1)))


def _head_numbers(module: nn.Module, window: Sequence[Layer]) -> set[int]:
    """Numbers of heads by what the modules around an attention store, or where they store nothing their configurations do."""
    *makers, reader = window
    least = min(reader.fan_in, *(layer.out for layer in makers))
    parts = [module.get_submodule(name) for name in _parts_around(window)]
    for owners in (parts, [part.config for part in parts if hasattr(part, "config")]):
        numbers = [
            (key, n)
            for owner in owners
            for key, n in getattr(owner, "__dict__", {}).items()
            if "head" in key and type(n) is int and n > 0 and least % n == 0
        ]
        if numbers:
            return {n if _counts_heads(key) else least // n for key, n in numbers}
    return set()


def _counts_heads(attribute: str) -> bool:
    """Whether an attribute of this name is a number of heads rather than a width of them."""
    return "head" in attribute and "dim" not in attribute and "size" not in attribute


def _counts(module: nn.Module, window: Sequence[Layer], size: int) -> tuple[Counts, ...]:
    """Attributes that may have to shrink with the heads: those that count them; also those equal to a width; none."""
    *makers, reader = window
    head_dim = min(layer.out for layer in makers) // size // (3 if len(makers) == 1 else 1)
    numbers = {size, reader.fan_in // max(head_dim, 1)}
    widths = {reader.fan_in, *(layer.out for layer in makers)}
    heads, wide = [], []
    for name in _parts_around(window):
        for key, n in vars(module.get_submodule(name)).items():
            if type(n) is int and n in numbers and _counts_heads(key):
                heads.append((name, key))
            elif type(n) is int and n in widths:
                wide.append((name, key))
    return tuple(dict.fromkeys((tuple(heads), (*heads, *wide), ())))
