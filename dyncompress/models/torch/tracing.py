# pyright: reportArgumentType=false, reportPrivateImportUsage=false
# (torch exports TracerWarning without saying so; onnx stubs are partial)
"""The float graph of a plain convolutional network, written by tracing: a tenth of the time of torch.export and its exporter.

A trace keeps what one example did. Where Python looked at a value (a branch, a conversion, a shape written down) torch warns, and
here a warning is a refusal. So is any operator outside a short list: the others are left to the exporter that captures programs.
What only computes with constants (how far to pad, where to slice) is computed here, so that the file doesn't carry it.
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

# Operators of networks without control flow, attention or recurrence, whose graphs are alike whoever writes them.
PLAIN = frozenset(
    {"Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MaxPool", "Mul", "Pad"}
    | {"ReduceMean", "Relu", "Slice"}
)
_CONSTANT_NUMBERS = 4_096  # constants are computed up to this size: indices and paddings, not tables


def export_by_tracing(
    module: nn.Module, inputs: Mapping[str, Tensor], names: Sequence[str], by_name: bool, opset: int
) -> onnx.ModelProto:
    """The graph with a free batch axis.

    Args:
        module: in eval mode.
        inputs: an example, two rows at least.
        names: of the inputs.
        by_name: whether the forward method takes them by name.
        opset: of the graph.

    Raises:
        Unsupported: the trace isn't sure to be the program, or it holds another operator than those of `PLAIN`.
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
    """Compute, in place, what reads constants alone; what is still read of it becomes an initializer `c0`, `c1`, ...

    Float initializers are parameters and take no part.
    """
    outputs = {value.name for value in graph.output}
    given = {t.name for t in graph.initializer if t.data_type != TensorProto.FLOAT and math.prod(t.dims) <= _CONSTANT_NUMBERS}
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in given}
    staying = []
    for node in graph.node:
        found = None if outputs & set(node.output) else _constant_outputs(node, known, opset)
        if found is None:
            staying.append(node)
        else:
            known.update(found)
    names: dict[str, str] = {}
    constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    for name in (name for node in staying for name in node.input if name in known and name not in given):
        value = known[name]
        names[name] = constants.setdefault((value.dtype.str, value.shape, value.tobytes()), f"c{len(constants)}")
    for node in staying:
        node.input[:] = [names.get(name, name) for name in node.input]
    arrays = {new: known[name] for name, new in names.items()}
    graph.initializer.extend(numpy_helper.from_array(value, new) for new, value in arrays.items())
    del graph.node[:]
    graph.node.extend(staying)


def rename(graph: onnx.GraphProto) -> None:
    """Short names, in place: a trace writes the path of the module into every value."""
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


def _constant_outputs(node: onnx.NodeProto, known: Mapping[str, np.ndarray], opset: int) -> dict[str, np.ndarray] | None:
    """The node's outputs, if they follow from small constants."""
    read = list(dict.fromkeys(name for name in node.input if name))
    if any(name not in known for name in read) or any(a.HasField("g") or a.graphs for a in node.attribute):
        return None
    ends = [[onnx.ValueInfoProto(name=name) for name in side] for side in (read, node.output)]
    alone = helper.make_model(helper.make_graph([node], "one", *ends), opset_imports=[helper.make_opsetid("", opset)])
    values = [np.asarray(value) for value in ReferenceEvaluator(alone).run(None, {name: known[name] for name in read})]
    if any(value.size > _CONSTANT_NUMBERS for value in values):
        return None
    return dict(zip(node.output, values, strict=True))
