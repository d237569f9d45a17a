"""Control flow: If, Loop and Scan."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyncompress.models.onnx.node import Functions, Node, NoTorchFunctionError, Subgraph, Value
from dyncompress.models.onnx.values import integers


def if_else(node: Node, condition: Tensor) -> tuple[Value, ...]:
    """The outputs of one of two graphs."""
    return node.attributes["then_branch" if bool(condition) else "else_branch"](())


def loop(node: Node, count: Tensor | None = None, condition: Tensor | None = None, *state: Value) -> tuple[Value, ...]:
    """The last state of a body that is run over and over, and its other outputs of all steps stacked."""
    body, states = node.attributes["body"], state
    most = None if count is None else integers(count)[0]
    going = torch.tensor(True) if condition is None else condition
    rows: list[tuple[Value, ...]] = []
    for step in itertools.count():
        if (most is not None and step >= most) or not bool(going):
            break
        test, *outputs = body((torch.tensor(step), going, *states))
        states = tuple(outputs[: len(state)])
        rows.append(tuple(outputs[len(state) :]))
        if condition is not None:  # otherwise what the body says of it doesn't count
            going = test
    if rows:
        return (*states, *(_stacked(column) for column in zip(*rows, strict=True)))
    return (*states, *_no_steps(body, (torch.tensor(0), going, *states), 1 + len(state), len(node.outputs) - len(state)))


def _stacked(values: Sequence[Any]) -> Any:
    """Tensors, or arrays of strings, along a new first axis."""
    return torch.stack(tuple(values)) if isinstance(values[0], Tensor) else np.stack(values)


def _no_steps(body: Subgraph, inputs: Sequence[Value], start: int, count: int) -> list[Value]:
    """The stacked outputs of no step at all: of length 0, and otherwise such as a first step would give.

    Args:
        body: is tried once, as nothing else tells shapes and types.
        inputs: of a first step.
        start: number of the first output that is stacked.
        count: of outputs that are stacked.
    """
    if count == 0:
        return []
    try:
        with torch.no_grad():
            return [_stacked([value])[:0] for value in body(inputs)[start:]]
    except (RuntimeError, IndexError, ValueError):  # no error of the file: this step isn't one of its steps
        return [torch.zeros(0)] * count


def _slices(x: Value, axis: int, backwards: int, length: int | None = None) -> tuple[Tensor, ...]:
    """The first so many slices along an axis, in the order of the steps."""
    if not isinstance(x, Tensor):
        raise NoTorchFunctionError("torch has no strings to scan")
    slices = x.unbind(axis)[:length]
    return slices[::-1] if backwards else slices


def _scanned(
    body: Subgraph, states: Sequence[Value], rows: Iterable[tuple[Value, ...]]
) -> tuple[Sequence[Value], list[tuple[Any, ...]]]:
    """The last state, and the values of each further output, of a body that is run for each row of slices."""
    first, collected = len(states), []
    for row in rows:
        outputs = body((*states, *row))
        states = outputs[:first]
        collected.append(outputs[first:])
    return states, list(zip(*collected, strict=True))


def scan(node: Node, *inputs: Value) -> tuple[Value, ...]:
    """The last state of a body that is run for each slice of some inputs, and its other outputs stacked."""
    body, number = node.attributes["body"], node.attributes["num_scan_inputs"]
    states, scanned = inputs[:-number], inputs[-number:]
    axes, backwards = (node.get(f"scan_input_{name}") or [0] * number for name in ("axes", "directions"))
    slices = [_slices(x, axis, back) for x, axis, back in zip(scanned, axes, backwards, strict=True)]
    last, columns = _scanned(body, states, zip(*slices, strict=True))
    count = len(node.outputs) - len(states)
    if slices[0]:
        directions = node.get("scan_output_directions") or [0] * len(columns)
        stacks = [_stacked(column[::-1] if back else column) for column, back in zip(columns, directions, strict=True)]
    else:
        blank = [x.new_zeros(_without(x.shape, axis)) for x, axis in zip(scanned, axes, strict=True)]  # type: ignore
        stacks = _no_steps(body, (*states, *blank), len(states), count)
    to = node.get("scan_output_axes") or [0] * len(stacks)
    return (*last, *(stack.movedim(0, axis) if axis else stack for stack, axis in zip(stacks, to, strict=True)))  # type: ignore


def _without(shape: Sequence[int], axis: int) -> list[int]:
    """A shape without an axis."""
    return [size for number, size in enumerate(shape) if number != axis % len(shape)]


def scan_batch(node: Node, lengths: Tensor | None, *inputs: Tensor) -> tuple[Value, ...]:
    """As `scan`, for each sample of a batch up to its own length, with zeros after its end."""
    body, number = node.attributes["body"], node.attributes["num_scan_inputs"]
    states, scanned = inputs[:-number], inputs[-number:]
    backwards = node.get("directions") or [0] * number
    batch, longest = scanned[0].shape[:2]
    ends = [longest] * batch if lengths is None else integers(lengths)
    samples = []
    for place, end in enumerate(ends):
        slices = [_slices(x[place], 0, back, end) for x, back in zip(scanned, backwards, strict=True)]
        own = [state[place] for state in states]
        last, columns = _scanned(body, own, zip(*slices, strict=True))
        stacks = [_stacked(column) for column in columns]
        if end == 0:
            blank = [x.new_zeros(x.shape[2:]) for x in scanned]
            stacks = _no_steps(body, (*own, *blank), len(own), len(node.outputs) - len(own))
        ended = [torch.cat([stack, stack.new_zeros(longest - end, *stack.shape[1:])]) for stack in stacks]  # type: ignore
        samples.append((*last, *ended))
    return tuple(_stacked(values) for values in zip(*samples, strict=True))


FUNCTIONS: Functions = {
    "If": {1: if_else},
    "Loop": {1: loop},
    "Scan": {8: scan_batch, 9: scan},
}
