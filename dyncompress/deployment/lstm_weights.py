"""Weights of LSTMs as initializers of their own, in the order of gates that the operator reads.

Exporters leave the order of gates to the graph: Slice, Concat and Unsqueeze nodes between an initializer and the LSTM. They are
computed here, on codes and scales alike, so that an integer LSTM can read the codes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.constants import constant
from dyncompress.deployment.weights import StoredWeight

WEIGHTS = (1, 2)  # inputs of an LSTM: of its input, and of its state


@dataclass(frozen=True)
class _Rows:
    """Rows of encoded weights.

    Attributes:
        codes: `[rows, inputs]`, or `[directions, rows, inputs]`.
        scales: of the rows, in the shape of `codes` with 1 instead of the inputs.
        source: the weight that the codes come from, or the widest one.
    """

    codes: np.ndarray
    scales: np.ndarray
    source: StoredWeight


def order_lstm_weights(graph: ir.Graph, weights: dict[str, StoredWeight]) -> None:
    """Give every LSTM initializers of its own in place of encoded weights whose rows the graph moves, in place.

    The moving nodes are removed where nothing else reads them. An LSTM of which one weight isn't encoded, or is computed in
    another way, stays as it is.

    Args:
        graph: the float graph.
        weights: the encoded initializers by name, to which the new ones are added.
    """
    for node in [node for node in graph if node.op_type == "LSTM" and not node.domain]:
        values = [node.inputs[index] for index in WEIGHTS]
        moved = [_rows(value, weights) for value in values]
        for index, value, rows in zip(WEIGHTS, values, moved, strict=True):
            if value is None or value.is_initializer() or not all(part is not None and part.codes.ndim == 3 for part in moved):
                continue
            assert rows is not None
            name = f"{rows.source.name}__{node.outputs[0].name}_{index}"
            tensor = ir.Tensor(rows.codes * rows.scales.astype(np.float32))
            own = ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
            graph.register_initializer(own)
            scales = np.ascontiguousarray(rows.scales[..., 0])
            weights[name] = replace(rows.source, name=name, codes=np.ascontiguousarray(rows.codes), scale=scales, axis=1)
            node.replace_input_with(index, own)
            _remove_unread(graph, value)


def _rows(value: ir.Value | None, weights: dict[str, StoredWeight]) -> _Rows | None:
    """The rows that a value holds; None if it is anything but moved rows of encoded weights."""
    if value is None:
        return None
    if value.is_initializer():
        return _stored_rows(weights.get(value.name or ""))
    node = value.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "Concat" and node.attributes["axis"].as_int() == 0:
        parts = [_rows(part, weights) for part in node.inputs]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts) or len({part.codes.shape[1:] for part in known}) > 1:
            return None
        widest = max((part.source for part in known), key=lambda source: source.bits)
        return _Rows(np.concatenate([p.codes for p in known]), np.concatenate([p.scales for p in known]), widest)
    part = _rows(node.inputs[0] if node.inputs else None, weights)
    if part is None or node.op_type == "Identity":
        return part
    options = [constant(option) for option in node.inputs[1:]]
    numbers = [int(option.reshape(-1)[0]) for option in options if option is not None and option.size == 1]
    if not numbers or len(numbers) < len(options):
        return None
    if node.op_type == "Unsqueeze" and numbers == [0]:
        return replace(part, codes=part.codes[None], scales=part.scales[None])
    if node.op_type == "Slice" and numbers[2:] in ([], [0], [0, 1]):
        kept = slice(*numbers[:2])
        return replace(part, codes=part.codes[kept], scales=part.scales[kept])
    return None


def _stored_rows(weight: StoredWeight | None) -> _Rows | None:
    """The rows of an initializer that has one scale for each, or one for all."""
    if weight is None or weight.per_channel is None or weight.axis not in (None, weight.codes.ndim - 2):
        return None
    shape = (*weight.codes.shape[:-1], 1)
    return _Rows(weight.codes, np.broadcast_to(weight.scale[..., None] if weight.scale.ndim else weight.scale, shape), weight)


def _remove_unread(graph: ir.Graph, value: ir.Value) -> None:
    """Remove the node that computes a value which nothing reads, and those before it likewise."""
    node = value.producer()
    if node is None or any(out.uses() or out.is_graph_output() for out in node.outputs):
        return
    inputs = {id(source): source for source in node.inputs if source is not None}
    graph.remove(node, safe=True)
    for source in inputs.values():
        _remove_unread(graph, source)
