# pyright: reportArgumentType=false, reportPrivateImportUsage=false
# (torch exports TracerWarning without saying so; onnx stubs are partial)
"""ONNX export of plain convolutional networks by tracing, in a tenth of the time that torch.export takes.

A trace records what one example did. Where Python code reads a value (a branch, a conversion, a fixed shape) torch warns, and
this file turns the warning into an error. An operator outside a short list is an error too. Such networks are left to
torch.export. Nodes that depend on constants only, such as paddings and slices, are computed here and leave the graph.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from dyncompress.errors import Unsupported

# Operators of networks without control flow, attention or recurrence: both exporters write the same graph for these.
PLAIN = frozenset(
    {"Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MaxPool", "Mul", "Pad"}
    | {"ReduceMean", "Relu", "Slice"}
)
_CONSTANT_NUMBERS = 4_096  # largest constant that is computed: indices and paddings, not tables


def export_by_tracing(
    module: nn.Module, inputs: Mapping[str, Tensor], names: Sequence[str], by_name: bool, opset: int
) -> onnx.ModelProto:
    """Export a module to a graph with a free batch axis.

    Args:
        module: in eval mode.
        inputs: two or more examples by input name.
        names: input names, in order.
        by_name: whether the forward method takes the inputs by name.
        opset: of the graph.

    Raises:
        Unsupported: the trace depends on values of the example, or has an operator outside `PLAIN`.
    """
    args = () if by_name else tuple(inputs[name] for name in names)
    axes = {name: {0: "batch"} for name in names}
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", torch.jit.TracerWarning)
        try:
            torch.onnx.export(
                module, args, buffer, kwargs=dict(inputs) if by_name else None, input_names=list(names), opset_version=opset,
                dynamo=False, verbose=False, dynamic_axes=axes,
            )  # fmt: skip
        except (torch.jit.TracerWarning, SystemError) as error:  # raised inside a C method, a warning comes as a SystemError
            raise Unsupported("the forward pass depends on values that a trace would freeze") from error
    model = onnx.load_from_string(buffer.getvalue())
    fold_constants(model.graph, opset)
    rename(model.graph)
    others = {node.op_type for node in model.graph.node} - PLAIN
    if others:
        raise Unsupported(f"operators {', '.join(sorted(others))} are left to the other exporter")
    return model


def fold_constants(graph: onnx.GraphProto, opset: int) -> None:
    """Compute the nodes that read constants only, in place. Results that other nodes read become initializers `c0`, `c1`, ...

    Float initializers are parameters and don't count as constants.
    """
    outputs = {value.name for value in graph.output}
    original = {t.name for t in graph.initializer if t.data_type != TensorProto.FLOAT and math.prod(t.dims) <= _CONSTANT_NUMBERS}
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in original}
    remaining = []
    for node in graph.node:
        results = None if outputs & set(node.output) else _constant_outputs(node, values, opset)
        if results is None:
            remaining.append(node)
        else:
            values.update(results)
    names: dict[str, str] = {}
    constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    for name in (name for node in remaining for name in node.input if name in values and name not in original):
        value = values[name]
        names[name] = constants.setdefault((value.dtype.str, value.shape, value.tobytes()), f"c{len(constants)}")
    for node in remaining:
        node.input[:] = [names.get(name, name) for name in node.input]
    arrays = {new: values[name] for name, new in names.items()}
    graph.initializer.extend(numpy_helper.from_array(value, new) for new, value in arrays.items())
    del graph.node[:]
    graph.node.extend(remaining)


def rename(graph: onnx.GraphProto) -> None:
    """Give nodes and values short names, in place: a trace writes the module's path into every name."""
    fixed = {value.name for value in (*graph.input, *graph.initializer)}
    names: dict[str, str] = {}
    for i, node in enumerate(graph.node):
        node.name = f"node_{node.op_type.lower()}_{i}"
        for j, name in enumerate(node.output):
            names[name] = f"{node.op_type.lower()}_{i}" + (f"_{j}" if j else "")
    assert not fixed & set(names.values())
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for value in graph.output:
        value.name = names.get(value.name, value.name)
        if value.type.tensor_type.shape.dim and value.type.tensor_type.shape.dim[0].dim_param:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"


def _constant_outputs(node: onnx.NodeProto, constants: Mapping[str, np.ndarray], opset: int) -> dict[str, np.ndarray] | None:
    """A node's outputs by name, if all its inputs are constants and the outputs are small; None otherwise."""
    inputs = list(dict.fromkeys(name for name in node.input if name))
    if any(name not in constants for name in inputs) or any(a.HasField("g") or a.graphs for a in node.attribute):
        return None
    ends = [[onnx.ValueInfoProto(name=name) for name in side] for side in (inputs, node.output)]
    alone = helper.make_model(helper.make_graph([node], "one", *ends), opset_imports=[helper.make_opsetid("", opset)])
    values = [np.asarray(value) for value in ReferenceEvaluator(alone).run(None, {name: constants[name] for name in inputs})]
    if any(value.size > _CONSTANT_NUMBERS for value in values):
        return None
    return dict(zip(node.output, values, strict=True))
