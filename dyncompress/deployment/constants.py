"""Add initializers and nodes to a graph: each distinct constant is stored once, and new values get names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir


class Constants:
    """Adds initializers and nodes to one graph.

    Equal constants (zero points, shapes, tied scales) share one initializer: in a small model the names and headers of
    repeated scalars would take more bytes than a layer.

    Attributes:
        graph: that is changed.
        plain: whether every constant is written out, for runtimes that don't fold constants.
        dense: whether every code is stored as a whole byte.
    """

    def __init__(self, graph: ir.Graph, plain: bool = False, dense: bool = False) -> None:
        """Start with the graph as it is; `dense` holds wherever `plain` does."""
        self.graph = graph
        self.plain, self.dense = plain, dense or plain
        self._count = 0
        self._by_content: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def _name(self) -> str:
        self._count += 1
        return f"__{self._count}"  # provisional: `shorten` gives the final names

    def tensor(self, array: np.ndarray | np.generic, dtype: ir.DataType | None = None) -> ir.Value:
        """Register an initializer with the values of `array`, or return the one that has the same content.

        Args:
            array: any shape.
            dtype: ONNX element type, where numpy's dtype doesn't determine it (4-bit integers).

        Returns:
            The initializer's value.
        """
        array = np.ascontiguousarray(array).reshape(np.shape(array))  # ascontiguousarray makes scalars one-dimensional
        key = (str(dtype or array.dtype), array.shape, hashlib.sha256(array.tobytes()).digest())
        if key in self._by_content:
            return self._by_content[key]
        tensor = ir.Tensor(array, dtype=dtype) if dtype is not None else ir.Tensor(array)
        value = ir.Value(name=self._name(), const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
        self.graph.register_initializer(value)
        self._by_content[key] = value
        return value

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        before: ir.Node | None,
        attributes: Mapping[str, int | list[int]] | None = None,
        domain: str = "",
    ) -> ir.Value:
        """Insert a node in front of `before` (None: at the end) and return its only output."""
        node = ir.node(op, inputs, attributes, domain=domain)
        node.outputs[0].name = self._name()
        if before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(before, node)
        return node.outputs[0]


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer or of a Constant node's output; None for a value that the graph computes."""
    if value is None:
        return None
    tensor = value.const_value if value.is_initializer() else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def remove_unread(graph: ir.Graph) -> None:
    """Remove the nodes and the initializers that nothing reads, in place."""
    outputs = set(graph.outputs)
    for node in reversed(list(graph)):
        if not any(value.uses() or value in outputs for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in outputs:
            graph.initializers.pop(name)
