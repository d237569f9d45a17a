"""Initializers of a graph under surgery: each distinct constant is stored once, and new values get names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir


class Constants:
    """The initializers and nodes that a surgery adds to one graph.

    Equal constants (zero points, shapes, tied scales) share one initializer: in a small model the names and headers of
    repeated scalars outweigh a layer.

    Attributes:
        graph: under surgery.
        plain: whether the reader of the file can't be trusted to fold constants: everything is then written out.
        dense: whether codes are to lie in the file as whole bytes, however rare they are.
    """

    def __init__(self, graph: ir.Graph, plain: bool = False, dense: bool = False) -> None:
        """Start with what the graph holds."""
        self.graph = graph
        self.plain, self.dense = plain, dense or plain
        self._count = 0
        self._known: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def _name(self) -> str:
        self._count += 1
        return f"__{self._count}"  # provisional: `shorten` gives the final names

    def tensor(self, array: np.ndarray | np.generic, dtype: ir.DataType | None = None) -> ir.Value:
        """An initializer holding `array`; `dtype` where numpy's own doesn't tell (4-bit integers).

        Args:
            array: any shape.
            dtype: ONNX element type.

        Returns:
            The value, registered in the graph.
        """
        array = np.ascontiguousarray(array).reshape(np.shape(array))  # ascontiguousarray makes scalars one-dimensional
        key = (str(dtype or array.dtype), array.shape, hashlib.sha256(array.tobytes()).digest())
        if key in self._known:
            return self._known[key]
        tensor = ir.Tensor(array, dtype=dtype) if dtype is not None else ir.Tensor(array)
        value = ir.Value(name=self._name(), const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
        self.graph.register_initializer(value)
        self._known[key] = value
        return value

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        before: ir.Node | None,
        attributes: Mapping[str, int | list[int]] | None = None,
        domain: str = "",
    ) -> ir.Value:
        """Add one node before `before` (None: at the end) and return its only output."""
        made = ir.node(op, inputs, attributes, domain=domain)
        made.outputs[0].name = self._name()
        if before is None:
            self.graph.append(made)
        else:
            self.graph.insert_before(before, made)
        return made.outputs[0]


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer or of a Constant node; None for anything computed."""
    if value is None:
        return None
    tensor = value.const_value if value.is_initializer() else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()
