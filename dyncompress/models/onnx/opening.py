"""Open an ONNX file as a torch module: check it against onnxruntime, and let the torch adapter do the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.models.onnx.graph_module import GraphModule, examples_in_place
from dyncompress.models.onnx.interpreter import Interpreter, node_of
from dyncompress.models.onnx.layers import layers_of
from dyncompress.models.onnx.node import Function, NoTorchFunctionError, Value
from dyncompress.models.onnx.operators import function_of
from dyncompress.models.onnx.reading import OnnxGraph, declare_shapes, name_batch_axes
from dyncompress.models.onnx.runtime import RUNTIME_ERRORS, FileModule, Session, runtime_function
from dyncompress.models.onnx.simplifying import simplified
from dyncompress.models.onnx.values import to_numpy, to_value
from dyncompress.models.torch import batches, calling, opening, source
from dyncompress.models.torch.model import TorchModel
from dyncompress.types import Batch, Placement
from dyncompress.types.batch_axes import batch_word

NOISE = 1e-6  # absolute
QUANTIZED = {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear", "QuantizeLinear"}
TOLERANCE = 1e-4  # share of a value's largest magnitude; another computation differs by more


def open_model(graph: OnnxGraph, example: Batch, batch: Batch | None = None) -> TorchModel:
    """The adapter of a graph: a torch module that computes it node by node, and is written as the same graph.

    Nodes without a torch function, and those whose function differs from onnxruntime's results on the example, are computed by
    onnxruntime, without a gradient.

    Args:
        graph: in one form.
        example: one or two examples by input name, `[n, ...]`.
        batch: a whole batch, for graphs that run on one batch size only; None for the example.

    Raises:
        InvalidRequest: the inputs don't fit the graph.
        Unsupported: onnxruntime can't load the graph.
    """
    size = graph.batch_size
    example = batches.resize_batch(example, size) if size else example
    declare_shapes(graph, {name: np.shape(value) for name, value in example.items() if not _has_shape(graph, name)})
    name_batch_axes(graph)
    values = _reference_values(graph, example, inner=False)
    declare_shapes(graph, {name: value.shape for name, value in values.items() if name in graph.output_names})
    _name_axes_of_outputs(graph, example)
    file, simple = FileModule(graph).eval(), simplified(graph)
    values = _reference_values(simple, example)
    differing = _differing_nodes(simple, values)
    fallback = partial(_function, simple, frozenset(differing))
    interpreter = Interpreter(simple.proto.graph, simple.versions, fallback=fallback)
    module = GraphModule(simple, layers_of(simple, {name: value.ndim for name, value in values.items()}), interpreter).eval()
    model = opening.open_model(module, example, batch, size=size, plain=True)
    notes = [*_notes(graph, differing), *_uncalled(model)]
    _refuse_another(graph, model.predict(model.example), file, model)
    opened = replace(model, source=file, exporter=export, came_as=graph.proto.SerializeToString, state_digest=graph.digest)
    return opened.with_notes(*notes)


def _has_shape(graph: OnnxGraph, name: str) -> bool:
    """Whether an input has a shape, even one without axes."""
    return any(value.name == name and value.type.tensor_type.HasField("shape") for value in graph.proto.graph.input)


def export(module: nn.Module, _example: Batch) -> tuple[bytes, Mapping[str, tuple[Placement, ...]], tuple[str, ...]]:
    """The file of a module that was opened from one, the places of its layers' weights, and no notes."""
    from dyncompress.models.onnx.writing import written

    assert isinstance(module, GraphModule)
    model, places = written(module)
    return model.SerializeToString(), places, ()


def _refuse_another(graph: OnnxGraph, outputs: Sequence[Tensor], file: FileModule, model: TorchModel) -> None:
    """Refuse a module whose outputs on the example differ from those of the file.

    Raises:
        Unsupported: names the output and the difference.
    """
    wanted = calling.caller_outputs(file, model.example, graph.input_names, model.size)
    for name, own, other in zip(graph.output_names, outputs, wanted, strict=True):
        error = _error(own, other)
        if error > source.TOLERANCE:
            reason = "a part of it depends on rounding or random numbers: make it repeatable"
            if QUANTIZED & {node.op_type for node in graph.proto.graph.node}:
                reason = "it is quantized already, and its rounding differs: give the float file that it was made from"
            raise Unsupported(
                f"output '{name}' of the graph, computed by torch, differs from onnxruntime's by {100 * error:.2g} % of its "
                f"range on the first examples; {reason}."
            )


def _error(own: Tensor, wanted: Tensor) -> float:
    """The difference of two values relative to the range of the second; differences below `NOISE` are rounding.

    onnxruntime's Sigmoid and Softmax are exact to 1e-7 of their range, which is 1, and not to a share of a tiny value.
    """
    if own.shape == wanted.shape and own.is_floating_point() and wanted.is_floating_point():
        own = torch.where((own.double() - wanted.to(own.device).double()).abs() < NOISE, wanted.to(own), own)
    return source.difference(own, wanted)


def _function(graph: OnnxGraph, differing: frozenset[str], node: NodeProto) -> Function | None:
    """The function of onnxruntime for a node that torch doesn't compute, None for the others."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        function_of(domain, node.op_type, graph.versions.get(domain, 1))
        known = True
    except NoTorchFunctionError:
        known = False
    if known and not differing & set(node.output):
        return None
    return runtime_function(node, graph.versions, graph.proto.ir_version)


def _reference_values(graph: OnnxGraph, example: Batch, *, inner: bool = True) -> dict[str, np.ndarray]:
    """The values of the main graph on an example, as onnxruntime computes them; without `inner` those of its ends alone.

    Raises:
        InvalidRequest: an input is missing or doesn't fit.
        Unsupported: onnxruntime can't load the graph.
    """
    missing = [name for name in graph.input_names if name not in example]
    if missing:
        raise InvalidRequest(f"the model's input '{missing[0]}' is missing; the batch has {', '.join(sorted(example))}.")
    model = ModelProto()
    model.CopyFrom(graph.proto)
    outputs = set(graph.output_names)
    between = [name for node in model.graph.node for name in node.output if name and name not in outputs]
    session = Session(model)
    kinds = session.element_types
    inputs = _in_place(graph, example, kinds)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (between if inner else ()))
    names = [value.name for value in model.graph.output]
    try:
        found = session.run(inputs)
    except RUNTIME_ERRORS as error:
        reason = " ".join(str(error).split())[:300].rpartition(" : ")[2].partition(" Please fix")[0]
        raise InvalidRequest(f"the model can't run on these inputs: {reason}; give inputs that fit it.") from error
    return {**inputs, **{name: value for name, value in zip(names, found, strict=True) if isinstance(value, np.ndarray)}}


def _in_place(graph: OnnxGraph, example: Batch, kinds: Mapping[str, np.dtype]) -> dict[str, np.ndarray]:
    """A batch as the file takes it: the examples on their axis, numbers of the file's types."""
    given = {name: examples_in_place(torch.as_tensor(example[name]), graph.axes[name]) for name in graph.input_names}
    return {name: np.ascontiguousarray(to_numpy(value).astype(kinds[name], copy=False)) for name, value in given.items()}


def _name_axes_of_outputs(graph: OnnxGraph, example: Batch) -> None:
    """Name the axis of the examples in the outputs that don't say it, in place: the one whose length follows their number."""
    word = batch_word(graph.shapes)
    nameless = [v for v in graph.proto.graph.output if word not in graph.shapes[v.name] and v.type.tensor_type.shape.dim]
    if word is None or not nameless:
        return
    session = Session(graph.proto)
    try:
        two, three = (session.run(_in_place(graph, batches.resize_batch(example, n), session.element_types)) for n in (2, 3))
    except RUNTIME_ERRORS:
        return  # it runs on one number of examples only, which later checks say
    shapes = dict(zip(graph.output_names, zip(map(np.shape, two), map(np.shape, three), strict=True), strict=True))
    for value in nameless:
        one, other = shapes[value.name]
        moving = [axis for axis, (a, b) in enumerate(zip(one, other, strict=False)) if (a, b) == (2, 3)]
        if len(moving) == 1:
            value.type.tensor_type.shape.dim[moving[0]].dim_param = word


def _differing_nodes(graph: OnnxGraph, values: Mapping[str, np.ndarray]) -> dict[str, str]:
    """First output -> operator, of the nodes of the main graph whose torch function gives other results than onnxruntime."""
    found, initializers = {}, graph.initializers
    for node in graph.proto.graph.node:
        if any(attribute.HasField("g") for attribute in node.attribute):
            continue  # bodies are compared as parts of the whole
        inputs: list[Value] = []
        for name in node.input:
            if not name:
                inputs.append(None)
            elif name in initializers:
                inputs.append(to_value(initializers[name]))
            elif name in values:
                inputs.append(_tensor(values[name]))
            else:
                break
        if len(inputs) < len(node.input):
            continue
        if _differs(node, inputs, graph, values):
            found[node.output[0]] = node.op_type
    return found


def _differs(node: NodeProto, inputs: Sequence[Value], graph: OnnxGraph, values: Mapping[str, np.ndarray]) -> bool:
    """Whether torch has no function for a node, or one whose results differ from onnxruntime's."""
    own = node_of(node, graph.versions)
    try:
        function = function_of(own.domain, own.operator, own.version)
        with torch.no_grad():
            outputs: Any = function(own, *inputs)
    except (NoTorchFunctionError, *calling.CALL_ERRORS, ArithmeticError):  # a case that the function doesn't know
        return True
    for name, value in zip(node.output, outputs if isinstance(outputs, tuple) else (outputs,), strict=False):
        if not name or name not in values or not isinstance(value, Tensor):
            continue
        error = _error(value, _tensor(values[name])) if values[name].dtype.kind not in "OSU" else 0.0
        if error > TOLERANCE:
            return True
    return False


def _uncalled(model: TorchModel) -> list[str]:
    """A sentence about the layers in branches that the first examples don't take."""
    names = [layer.name for layer in model.trace.layers if not layer.called]
    if not names:
        return []
    layers = f"layer '{names[0]}' is" if len(names) == 1 else f"{len(names)} layers (such as '{names[0]}') are"
    return [
        f"{layers} in branches that the first examples don't take: compressed by the weights alone, to 8 bits, and not compared "
        "with the original's results."
    ]


def _notes(graph: OnnxGraph, differing: Mapping[str, str]) -> list[str]:
    """A sentence about the nodes that onnxruntime computes."""
    operators = sorted(set(differing.values()))
    count = len(differing)
    if not count:
        return []
    nodes = "1 node is" if count == 1 else f"{count} nodes are"
    names = ", ".join(operators)
    return [f"{nodes} computed by onnxruntime, without a gradient, since torch computes something else or nothing: {names}."]


def _tensor(array: np.ndarray) -> Any:
    return array if array.dtype.kind in "OSU" else torch.from_numpy(np.array(array, copy=True))
