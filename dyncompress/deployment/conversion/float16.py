"""A float file that computes in half precision, for GPUs and phones; inputs and outputs stay float32.

Half precision holds numbers up to 65 504. A node that reads, stores or computes larger ones stays in float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from dyncompress.deployment.constants import remove_unread
from dyncompress.deployment.conversion import Converted, Inputs
from dyncompress.deployment.conversion.comparison import UNKNOWN, as_defined, difference, inputs_for, outputs
from dyncompress.deployment.conversion.plain_graph import fold, plain_model
from dyncompress.errors import Differs, InvalidRequest, Unsupported

MODEL = "model.onnx"
LARGEST = 0.5 * float(
    np.finfo(np.float16).max
)  # of a node's numbers; half of what the type holds, since other inputs may be larger
CLOSE = 0.03  # of an output's largest value
_INTEGERS = ("QuantizeLinear", "DynamicQuantize", "QLinear", "MatMulInteger", "ConvInteger", "QGemm")
_Values = Mapping[str, np.ndarray]


def convert(content: bytes, inputs: Inputs | None = None) -> Converted:
    """A float file, or one whose weights alone are stored as integers, in half precision.

    Args:
        content: the bytes of the ONNX file.
        inputs: name -> array `[n, ...]`, on which too large numbers are looked for, and both files compared; None: random ones.

    Returns:
        `model.onnx`.

    Raises:
        InvalidRequest: the bytes aren't an ONNX file, or nothing in it is float32.
        Unsupported: activations are quantized.
        Differs: the outputs differ by more than 3 % of the largest, or become infinite.
    """
    model = plain_model(content)
    graph = model.graph
    quantizer = next((node for node in graph.node if node.op_type.startswith(_INTEGERS)), None)
    if quantizer is not None:
        raise Unsupported(
            f"node '{quantizer.output[0]}' ({quantizer.op_type}) quantizes activations, which half precision doesn't change; "
            "give a float file, or one made with quantize.activation_bits = 32."
        )
    fold(model, decode=True)
    if not any(tensor.data_type == onnx.TensorProto.FLOAT for tensor in graph.initializer):
        raise InvalidRequest("the file stores no float32 weights, so that half precision would change nothing.")
    for index, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{index}"
    try:
        examples = inputs_for(as_defined(content), inputs)
        values = _values(model, examples)
    except (InvalidRequest, Unsupported):
        if inputs is not None:
            raise
        examples, values = None, {}
    kept = _too_large(model, values)
    result = _halved(model, kept)
    if examples is None:
        outcome = UNKNOWN.format("it doesn't run on random inputs")
    else:
        gap = _gap(model, result, kept, (examples, values))
        outcome = f"on {_count(examples)} examples the outputs differ by {100 * gap:.2g} % of the largest."
    names = (
        f"{len(kept)} nodes stay in float32, since their numbers may exceed half precision: {', '.join(kept)}." if kept else ""
    )
    return Converted({MODEL: result}, tuple(filter(None, (names, outcome))))


def _gap(model: onnx.ModelProto, result: bytes, kept: list[str], tried: tuple[_Values, _Values]) -> float:
    """The largest difference of the outputs in half precision.

    onnxruntime's kernels for processors compute in float32 and round seldom. So the float graph, with every value rounded where a
    GPU rounds it, is compared as well.

    Raises:
        Differs: it is larger than `CLOSE`.
    """
    examples, values = tried
    wanted = [values[value.name] for value in model.graph.output]
    gap = max(difference(outputs(as_defined(one), examples), wanted) for one in (result, _rounded(model, kept, tried)))
    if not gap <= CLOSE:
        raise Differs(
            f"in half precision the outputs differ by {100 * gap:.3g} % of the largest, at most {100 * CLOSE:g} % is allowed; "
            "this network needs float32."
        )
    return gap


def _count(examples: _Values) -> int:
    return next((len(array) for array in examples.values() if array.ndim), 1)


def _values(model: onnx.ModelProto, examples: _Values) -> dict[str, np.ndarray]:
    """All values that the nodes of a graph compute."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    present = {value.name for value in model.graph.output}
    inner = [name for node in model.graph.node for name in node.output if name and name not in present]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    found = outputs(as_defined(probe.SerializeToString()), examples)
    return {value.name: array for value, array in zip(probe.graph.output, found, strict=True)}


def _too_large(model: onnx.ModelProto, values: _Values) -> list[str]:
    """Names of the nodes that read or compute a number beyond `LARGEST`, in the order of the graph."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    large = {name for name, array in (*stored.items(), *values.items()) if _is_large(array)}
    return [node.name for node in model.graph.node if large & {*node.input, *node.output}]


def _rounded(model: onnx.ModelProto, kept: list[str], tried: tuple[_Values, _Values]) -> bytes:
    """The float graph, with a rounding to half precision where a node in half precision reads or has computed a value."""
    copy, halves = onnx.ModelProto(), {out for node in model.graph.node if node.name not in kept for out in node.output}
    copy.CopyFrom(model)
    graph = copy.graph
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    floats |= {name for part in tried for name, array in part.items() if array.dtype == np.float32}
    nodes: list[onnx.NodeProto] = []
    done: dict[str, str] = {}

    def read(name: str, half: bool) -> str:
        if name not in floats or not (half or name in halves):
            return name
        if name not in done:
            done[name] = f"{name}__rounded"
            nodes.append(helper.make_node("Cast", [name], [f"{name}__half"], to=onnx.TensorProto.FLOAT16))
            nodes.append(helper.make_node("Cast", [f"{name}__half"], [done[name]], to=onnx.TensorProto.FLOAT))
        return done[name]

    for node in graph.node:
        node.input[:] = [read(name, node.name not in kept) for name in node.input]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return copy.SerializeToString()


def _is_large(array: np.ndarray) -> bool:
    """Whether a finite float of an array is beyond `LARGEST`; infinities, as of masks, stay infinite."""
    return array.dtype == np.float32 and bool(np.abs(array[np.isfinite(array)]).max(initial=0.0) > LARGEST)


def _halved(model: onnx.ModelProto, kept: list[str]) -> bytes:
    """The model in half precision, but for some nodes, with its nodes in an order in which they can be computed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with warnings.catch_warnings(action="ignore"):
        half = ir.serde.deserialize_model(convert_float_to_float16(copy, keep_io_types=True, node_block_list=kept))
    half.graph.sort()
    for node in list(half.graph):
        source = _cast(node, ir.DataType.FLOAT)
        before = None if source is None or source.producer() is None else _cast(source.producer(), ir.DataType.FLOAT16)
        if before is not None:  # between two nodes that stay in float32 the value would be rounded, or become infinite
            node.outputs[0].replace_all_uses_with(before)
    remove_unread(half.graph)
    proto = ir.serde.serialize_model(half)
    del proto.graph.value_info[:]
    return proto.SerializeToString(deterministic=True)


def _cast(node: ir.Node | None, to: ir.DataType) -> ir.Value | None:
    """The value that a node casts, if it is a Cast to this type that was inserted here; None for a Cast of the file's own."""
    if node is None or node.op_type != "Cast" or not (node.name or "").endswith(("_cast_to_fp16_node", "_cast_to_fp32_node")):
        return None
    return node.inputs[0] if node.attributes["to"].as_int() == int(to) else None
