"""One node of an ONNX graph as the functions of the operators see it, and the values that flow between nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

# A tensor; an array of strings, which torch doesn't have; a sequence of tensors; an optional value that is absent.
Value = Tensor | np.ndarray | list | None
Subgraph = Callable[[Sequence[Value]], tuple[Value, ...]]  # a body of If, Loop or Scan: its inputs -> its outputs


@dataclass(frozen=True)
class Node:
    """A node without its inputs.

    Attributes:
        name: unique in the file.
        operator: e.g. "Conv".
        domain: of the operator; empty for ONNX's own.
        version: of the domain's operator set that the file asks for.
        attributes: name -> int, float, str, Tensor, list of these, or a `Subgraph`; absent ones aren't in it.
        outputs: names of the outputs; empty where an optional one isn't wanted.

    Example:
        >>> node = Node("softmax", "Softmax", "", 13, {"axis": 1}, ("y",))
        >>> node.get("axis", -1), node.get("other", 0)
        (1, 0)
    """

    name: str
    operator: str
    domain: str
    version: int
    attributes: Mapping[str, Any]
    outputs: tuple[str, ...]

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default where the file doesn't give it."""
        return self.attributes.get(name, default)


# What one operator computes: `function(node, *inputs)`, with None for an absent optional input.
Function = Callable[..., Any]
# Operator -> the version of the operator set since which a function holds -> that function.
Functions = Mapping[str, Mapping[int, Function]]


class NoTorchFunctionError(NotImplementedError):
    """Torch can't compute this node, e.g. for these dtypes; onnxruntime is asked to."""
