"""Sequences of tensors and optional values: SequenceAt, SplitToSequence, SequenceMap, Optional, ...."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dyncompress.models.onnx.node import Functions, Node, Value
from dyncompress.models.onnx.operators.text import with_strings
from dyncompress.models.onnx.values import integers


def _position(position: Tensor) -> int:
    """The number that a tensor of one element holds."""
    return integers(position)[0]


def sequence_empty(node: Node) -> list[Value]:
    """No elements."""
    return []


def sequence_construct(node: Node, *inputs: Value) -> list[Value]:
    """The inputs as a sequence."""
    return list(inputs)


def sequence_insert(node: Node, sequence: Sequence[Value], item: Value, position: Tensor | None = None) -> list[Value]:
    """The sequence with one element more, at the end if no position is given."""
    place = len(sequence) if position is None else _position(position)
    return [*sequence[:place], item, *sequence[place:]]


def sequence_erase(node: Node, sequence: Sequence[Value], position: Tensor | None = None) -> list[Value]:
    """The sequence without one element, the last if no position is given."""
    dropped = range(len(sequence))[-1 if position is None else _position(position)]
    return [item for place, item in enumerate(sequence) if place != dropped]


def sequence_at(node: Node, sequence: Sequence[Value], position: Tensor) -> Value:
    """One element."""
    return sequence[_position(position)]


def sequence_length(node: Node, sequence: Sequence[Value]) -> Tensor:
    """How many elements there are."""
    return torch.tensor(len(sequence))


def split_to_sequence(node: Node, x: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
    """Parts of `x` along an axis: of some sizes, all of one size, or its slices."""
    axis = node.get("axis", 0)
    if sizes is None and not node.get("keepdims", 1):
        return list(x.unbind(axis))
    if sizes is None or sizes.ndim == 0:
        size, length = 1 if sizes is None else _position(sizes), x.shape[axis]
        return [x.narrow(axis, start, min(size, length - start)) for start in range(0, length, size)]
    return list(x.split(integers(sizes), axis))


def concat_from_sequence(node: Node, sequence: Sequence[Tensor]) -> Tensor:
    """The elements one after the other along an axis, or along a new one."""
    join = torch.stack if node.get("new_axis", 0) else torch.cat
    return join(list(sequence), node.attributes["axis"])


def sequence_map(node: Node, sequence: Sequence[Value], *others: Value) -> tuple[list[Value], ...]:
    """The outputs of the body for each element, with the same element of other sequences; tensors go to each."""
    rows = [
        node.attributes["body"]((item, *(other[place] if isinstance(other, list) else other for other in others)))
        for place, item in enumerate(sequence)
    ]
    return tuple([row[number] for row in rows] for number in range(len(node.outputs)))


def optional(node: Node, value: Value = None) -> Value:
    """The value, or none."""
    return value


def optional_has_element(node: Node, value: Value = None) -> Tensor:
    """Whether there is a value."""
    return torch.tensor(value is not None)


def optional_get_element(node: Node, value: Value) -> Value:
    """The value that there must be."""
    if value is None:
        raise ValueError("OptionalGetElement of an optional value without an element")
    return value


FUNCTIONS: Functions = {
    "SequenceEmpty": {11: sequence_empty},
    "SequenceConstruct": {11: sequence_construct},
    "SequenceInsert": {11: sequence_insert},
    "SequenceErase": {11: sequence_erase},
    "SequenceAt": {11: sequence_at},
    "SequenceLength": {11: sequence_length},
    "SequenceMap": {17: sequence_map},
    "Optional": {15: optional},
    "OptionalHasElement": {15: optional_has_element},
    "OptionalGetElement": {15: optional_get_element},
    **with_strings({"SplitToSequence": {11: split_to_sequence}, "ConcatFromSequence": {11: concat_from_sequence}}),
}
