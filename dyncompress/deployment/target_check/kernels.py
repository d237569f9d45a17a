"""Which nodes of a file onnxruntime computes on integer kernels, read off its optimised graph.

Optimisations rename values, but the codes of a weight keep their name, and so do the outputs of nodes that stay in float. Sums
have no weight: their scales tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from dyncompress.deployment.domain import PRODUCTS
from dyncompress.deployment.fusion import INTEGER_KERNELS, optimized_model
from dyncompress.deployment.target_check.graph import View
from dyncompress.deployment.target_check.integers import fused_outputs
from dyncompress.types import Target


@dataclass(frozen=True)
class Kernels:
    """What the optimised graph computes.

    Attributes:
        of_output: value -> operator that computes it.
        integer_inputs: values that integer kernels read.
        inputs: values that any operator reads.
        sums: names of the scales of both terms and of the result, for every integer sum.
    """

    of_output: Mapping[str, str]
    integer_inputs: frozenset[str]
    inputs: frozenset[str]
    sums: frozenset[tuple[str, ...]]


def kernels_here(content: bytes, target: Target) -> Kernels:
    """The kernels that onnxruntime on this machine uses for a file, with the target's session options.

    Args:
        content: the file.
        target: whose session options are used.

    Raises:
        Unsupported: onnxruntime refuses the file.
    """
    nodes = optimized_model(content, target).graph.node
    integer = [node for node in nodes if node.op_type.startswith(INTEGER_KERNELS)]
    return Kernels(
        {value: node.op_type for node in nodes for value in node.output},
        frozenset(value for node in integer for value in node.input),
        frozenset(value for node in nodes for value in node.input),
        frozenset(_scales(node.input[1], node.input[4], node.input[6]) for node in integer if node.op_type == "QLinearAdd"),
    )


def runs_on_integers(node: onnx.NodeProto, graph: View, kernels: Kernels) -> bool | None:
    """Whether an integer kernel computes a node of the file; None if the optimised graph doesn't tell.

    Args:
        node: a product or an Add.
        graph: that it belongs to.
        kernels: of the optimised graph.
    """
    weight = graph.dequantizer(node, 1)
    if node.op_type in PRODUCTS and weight is not None and graph.is_constant(node, 1):
        if weight.input[0] in kernels.integer_inputs:
            return True
        return False if weight.input[0] in kernels.inputs else None
    for value in reversed(fused_outputs(node, graph)):
        kernel = kernels.of_output.get(value, "")
        if kernel.startswith(INTEGER_KERNELS):
            return True
        if node.op_type in kernel:  # FusedConv, NhwcFusedConv, FusedMatMul, MatMulNBits
            return False
    return True if node.op_type == "Add" and _scales_of_sum(node, graph) in kernels.sums else None


def _scales(first: str, second: str, result: str) -> tuple[str, ...]:
    """The scales of a sum, whose terms may be exchanged."""
    return (*sorted((first, second)), result)


def _scales_of_sum(node: onnx.NodeProto, graph: View) -> tuple[str, ...] | None:
    """The names of the scales around an Add; None if one of them isn't quantized."""
    terms = [graph.dequantizer(node, index) for index in (0, 1)]
    quantizer = graph.producers.get(fused_outputs(node, graph)[-1])
    if terms[0] is None or terms[1] is None or quantizer is None or quantizer.op_type != "QuantizeLinear":
        return None
    return _scales(terms[0].input[1], terms[1].input[1], quantizer.input[1])
