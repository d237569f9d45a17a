"""Rules about the form of a file: versions, domains and operators, types, shapes, and where and how its tensors are stored."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import onnx
from onnx import TensorProto

from dyncompress.deployment.stripping import nodes_of
from dyncompress.deployment.target_check.graph import View, place, type_bits, type_name
from dyncompress.deployment.target_check.report import FILE, Finding
from dyncompress.types import Target

STANDARD = ("", "ai.onnx")


def version_findings(model: onnx.ModelProto, target: Target) -> Iterator[Finding]:
    """The IR version and the opset, where they are newer than the target's."""
    if model.ir_version > target.ir_version:
        yield Finding(
            "refused",
            FILE,
            "",
            f"The file has IR version {model.ir_version}, and '{target.name}' reads up to {target.ir_version}; set "
            f"model.ir_version = {target.ir_version} and save it again.",
        )
    opset = max((entry.version for entry in model.opset_import if entry.domain in STANDARD), default=0)
    if opset > target.opset:
        yield Finding(
            "refused",
            FILE,
            "",
            f"The file has opset {opset}, and '{target.name}' reads up to {target.opset}; export it with "
            f"opset_version={target.opset}, or convert it with onnx.version_converter.",
        )


def form_findings(model: onnx.ModelProto, content: bytes, target: Target) -> Iterator[Finding]:
    """The size of the file, its inputs and outputs, and the operators that the target doesn't read."""
    if target.max_model_bytes and len(content) > target.max_model_bytes:
        yield Finding(
            "refused",
            FILE,
            "",
            f"The file has {len(content):,} bytes, and '{target.name}' takes {target.max_model_bytes:,}; compress it to a "
            f"budget of {target.max_model_bytes} bytes.",
        )
    for value in (*model.graph.input, *model.graph.output):
        yield from _value_findings(value, target)
    if target.static_shapes:
        stored = {tensor.name for tensor in model.graph.initializer}
        yield from _free_axes((value for value in model.graph.input if value.name not in stored), target)
    own = {(function.domain, function.name) for function in model.functions}
    for node in nodes_of(model.graph):
        if (node.domain, node.op_type) not in own:
            yield from _operator_findings(node, target)


def _value_findings(value: onnx.ValueInfoProto, target: Target) -> Iterator[Finding]:
    """An input or output whose type the target doesn't read."""
    if not target.element_types:
        return
    kind = value.type.WhichOneof("value") or "tensor_type"
    element = value.type.tensor_type.elem_type
    name = type_name(element) if kind == "tensor_type" else kind.removesuffix("_type")
    if name not in target.element_types and not (kind == "tensor_type" and not element):
        yield Finding(
            "refused",
            value.name,
            "",
            f"This input or output of the graph has type {name}, and '{target.name}' reads tensors of "
            f"{', '.join(target.element_types)}; leave the part of the graph that needs it to the program around it.",
        )


def _free_axes(values: Iterable[onnx.ValueInfoProto], target: Target) -> Iterator[Finding]:
    """Inputs with axes of free length, for a target that needs fixed ones."""
    for value in values:
        dims = value.type.tensor_type.shape.dim
        free = [axis for axis, dim in enumerate(dims) if not dim.HasField("dim_value")]
        if free:
            yield Finding(
                "refused",
                value.name,
                "",
                f"Axis {', '.join(map(str, free))} of this input has no fixed length, and '{target.name}' needs static shapes; "
                "set the lengths, e.g. a batch of one, with onnxruntime.tools.make_dynamic_shape_fixed.",
            )


def _operator_findings(node: onnx.NodeProto, target: Target) -> Iterator[Finding]:
    """An operator of a domain that the target doesn't know, one that it refuses, or one that is newer than its opset."""
    if node.domain not in STANDARD:
        if node.domain not in target.operator_domains:
            yield Finding(
                "refused",
                place(node),
                node.op_type,
                f"The operator belongs to the domain '{node.domain}', which '{target.name}' doesn't read; write it with "
                "operators of ONNX.",
            )
        return
    since = _first_opset(node.op_type)
    if node.op_type in target.refused_operators:
        yield Finding(
            "refused",
            place(node),
            node.op_type,
            f"'{target.name}' doesn't run {node.op_type}; write it with other operators, or leave that part to the program "
            "around the network.",
        )
    elif since > target.opset:
        yield Finding(
            "refused",
            place(node),
            node.op_type,
            f"{node.op_type} exists since opset {since}, and '{target.name}' reads up to {target.opset}; export with "
            f"opset_version={target.opset}, which writes it with older operators.",
        )


@functools.cache
def _first_opset(operator: str) -> int:
    """The opset in which an operator appeared; 0 for one that ONNX doesn't have."""
    versions = [
        schema.since_version
        for schema in onnx.defs.get_all_schemas_with_history()
        if schema.name == operator and schema.domain == ""
    ]
    return min(versions, default=0)


def tensor_findings(view: View, target: Target) -> Iterator[Finding]:
    """How the file stores its tensors: in other files, in types that the target doesn't read, or with too many axes."""
    external = [tensor for tensor in view.tensors.values() if tensor.data_location == TensorProto.EXTERNAL]
    if external:
        where = next((entry.value for entry in external[0].external_data if entry.key == "location"), "another file")
        yield Finding(
            "refused",
            external[0].name,
            "",
            f"The values of {len(external)} tensors are in another file, '{where}', so that this file can't be read alone; write "
            "a whole one with onnx.save(onnx.load('model.onnx'), 'whole.onnx').",
        )
    for name, tensor in view.tensors.items():
        yield from _stored_type(name, tensor, target)
    for node in view.model.graph.node:
        yield from _decoded_at_every_run(node, view, target)
        yield from _rank(node, view, target)


def _stored_type(name: str, tensor: TensorProto, target: Target) -> Iterator[Finding]:
    """A tensor whose element type the target doesn't read, or reads slowly."""
    bits, kind = type_bits(tensor.data_type), type_name(tensor.data_type)
    if target.element_types and kind not in target.element_types:
        wanted = "whole bytes (int8)" if 0 < bits < 8 else f"one of {', '.join(target.element_types)}"
        yield Finding(
            "refused", name, "", f"The tensor is stored as {kind}, which '{target.name}' doesn't read; store it as {wanted}."
        )
    elif not target.element_types and 0 < bits < 8 and min(target.weight_bits) >= 8:
        yield Finding(
            "refused",
            name,
            "",
            f"The tensor is stored as {kind}, packed, and '{target.name}' takes whole bytes; store the codes as int8.",
        )
    elif kind == "float64":
        yield Finding(
            "slow",
            name,
            "",
            "The tensor is stored as float64: it takes twice the bytes of float32, and no fast kernel computes with it; convert "
            "the model to float32 before the export.",
        )


def _decoded_at_every_run(node: onnx.NodeProto, view: View, target: Target) -> Iterator[Finding]:
    """A constant that a Cast changes to float32: at every run, unless the runtime folds constants."""
    if node.op_type != "Cast" or not node.input or node.input[0] not in view.tensors:
        return
    kind = type_name(view.tensors[node.input[0]].data_type)
    if kind not in ("float16", "bfloat16"):
        return
    if target.folds_constants:
        yield Finding(
            "note",
            place(node),
            node.op_type,
            f"The weight is stored as {kind} and becomes float32 when the file is loaded: the file is smaller, the memory isn't.",
        )
    else:
        yield Finding(
            "slow",
            place(node),
            node.op_type,
            f"The weight is stored as {kind} and '{target.name}' doesn't fold constants, so that it is cast to float32 at every "
            "run; store it as float32, or as int8 with a DequantizeLinear.",
        )


def _rank(node: onnx.NodeProto, view: View, target: Target) -> Iterator[Finding]:
    """An operator with an output of too many axes."""
    largest = max((len(view.shapes.get(value, ())) for value in node.output), default=0)
    if target.largest_rank and largest > target.largest_rank:
        yield Finding(
            "refused",
            place(node),
            node.op_type,
            f"Its output has {largest} axes, and '{target.name}' takes at most {target.largest_rank}; merge axes with a Reshape.",
        )
