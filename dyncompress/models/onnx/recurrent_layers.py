"""LSTM, GRU and RNN nodes as torch's own modules, whose matrices are layers.

ONNX stacks the gates of an LSTM as input, output, forget, cell and torch as input, forget, cell, output; those of a GRU as
update, reset, new against reset, update, new. ONNX has one array of both biases, and one array for both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from onnx import NodeProto, helper
from torch import Tensor, nn

from dyncompress.models.onnx.node import Node, Value
from dyncompress.types import Placement

# Operator -> torch's module, the gates in torch's order counted in ONNX's, and ONNX's default activations.
_KINDS: Mapping[str, tuple[Callable[..., nn.RNNBase], tuple[int, ...], tuple[str, ...]]] = {
    "LSTM": (nn.LSTM, (0, 2, 3, 1), ("sigmoid", "tanh", "tanh")),
    "GRU": (nn.GRU, (1, 0, 2), ("sigmoid", "tanh")),
    "RNN": (nn.RNN, (0,), ("tanh",)),
}
_WEIGHT, _STATE = 1, 2  # inputs of the node: matrices for the inputs and for the state


def recurrent_module(node: NodeProto, attributes: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> nn.RNNBase | None:
    """The module of a recurrent node; None where it computes something that torch's module doesn't.

    Args:
        node: LSTM, GRU or RNN.
        attributes: of the node.
        arrays: initializer -> its value.
    """
    kind, order, defaults = _KINDS[node.op_type]
    names = [*node.input, *[""] * (8 - len(node.input))]
    w, r, b = (arrays.get(name) for name in names[1:4])
    directions = {"forward": 1, "bidirectional": 2}.get(attributes.get("direction", "forward"), 0)
    given = [name.lower() for name in attributes.get("activations", ())]
    plain = given in ([], list(defaults) * directions) and not attributes.get("clip") and not attributes.get("input_forget")
    plain = plain and (node.op_type != "GRU" or attributes.get("linear_before_reset", 0) == 1)
    if w is None or r is None or (names[3] and b is None) or names[4] or names[7] or not directions or not plain:
        return None
    module = kind(w.shape[2], r.shape[2], bias=b is not None, bidirectional=directions == 2)
    with torch.no_grad():
        for direction, end in enumerate(("", "_reverse")[:directions]):
            getattr(module, f"weight_ih_l0{end}").copy_(_in_order(w[direction], order))
            getattr(module, f"weight_hh_l0{end}").copy_(_in_order(r[direction], order))
            if b is not None:
                for name, half in zip(("bias_ih", "bias_hh"), b[direction].chunk(2), strict=True):
                    getattr(module, f"{name}_l0{end}").copy_(_in_order(half, order))
    return module


def held_by(node: NodeProto) -> tuple[str, ...]:
    """The initializers that the module of a recurrent node holds."""
    return tuple(name for name in node.input[1:4] if name)


def call_recurrent(node: Node, module: nn.Module, inputs: Sequence[Value]) -> tuple[Tensor, ...]:
    """All outputs of a recurrent node.

    Args:
        node: its layout says whether the batch or the time comes first.
        module: made by `recurrent_module`.
        inputs: all inputs of the node; the initial states are the sixth and the seventh.
    """
    x, states = inputs[0], [value for value in inputs[5:7] if isinstance(value, Tensor)]
    assert isinstance(x, Tensor) and isinstance(module, nn.RNNBase)
    batch_first = bool(node.get("layout", 0))
    if batch_first:
        x, states = x.transpose(0, 1), [state.transpose(0, 1) for state in states]
    zeros = x.new_zeros(2 if module.bidirectional else 1, x.shape[1], module.hidden_size)
    if isinstance(module, nn.LSTM):
        given = [value if isinstance(value, Tensor) else zeros for value in (*inputs[5:7], None, None)[:2]]
        given = [state.transpose(0, 1) for state in given] if batch_first and states else given
        sequence, last = module(x, tuple(state.contiguous() for state in given))
    else:
        sequence, final = module(x, states[0].contiguous() if states else zeros)
        last = (final,)
    directions = len(zeros)
    sequence = sequence.unflatten(2, (directions, module.hidden_size)).transpose(1, 2)  # [T, D, B, h]
    if batch_first:
        return (sequence.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in last))
    return (sequence, *last)


def recurrent_nodes(node: NodeProto, name: str, part: nn.RNNBase, stored: Any) -> tuple[list[NodeProto], dict[str, Placement]]:
    """The node with the module's matrices, behind a Concat of both directions, and layer -> the place of its matrix.

    Args:
        node: to be rewritten; it is changed.
        name: of the module.
        part: the module.
        stored: function (name, tensor) -> the name of an initializer that holds the tensor.
    """
    order = _inverse(_KINDS[node.op_type][1])
    ends = ("", "_reverse") if part.bidirectional else ("",)
    layout = "gates:" + ",".join(map(str, order))
    before: list[NodeProto] = []
    places: dict[str, Placement] = {}
    for index, matrix in ((_WEIGHT, "ih"), (_STATE, "hh")):
        halves = []
        for end in ends:
            value = _in_order(getattr(part, f"weight_{matrix}_l0{end}").detach(), order)[None]
            halves.append(stored(f"{node.input[index]}{end if len(ends) > 1 else ''}", value))
            places[f"{name}.{matrix}_l0{end}"] = Placement(halves[-1], layout)
        if len(ends) > 1:
            joined = f"{node.output[0] or node.output[-1]}_{matrix}"
            before.append(helper.make_node("Concat", halves, [joined], axis=0))
            halves = [joined]
        node.input[index] = halves[0]
    if part.bias:
        rows = [
            torch.cat([_in_order(getattr(part, f"bias_{half}_l0{end}").detach(), order) for half in ("ih", "hh")]) for end in ends
        ]
        node.input[3] = stored(node.input[3], torch.stack(rows))
    return [*before, node], places


def _in_order(value: Tensor, order: Sequence[int]) -> Tensor:
    """Blocks of rows in another order."""
    blocks = value.chunk(len(order))
    return torch.cat([blocks[block] for block in order])


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    """The order that undoes an order.

    Example:
        >>> _inverse((0, 2, 3, 1))
        (0, 3, 1, 2)
    """
    return tuple(sorted(range(len(order)), key=order.__getitem__))
