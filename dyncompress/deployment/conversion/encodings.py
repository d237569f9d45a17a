"""A float ONNX file and the encodings of its tensors, for compilers that quantize by themselves.

`model.onnx` is the graph without QuantizeLinear and DequantizeLinear. Its weights are the decoded ones, so that rounding them to
their encoding changes nothing. `encodings.json` has AIMET's format 1.0.0, which Qualcomm's `qairt-converter` reads by its option
`--quantization_overrides`.

Each encoding says: value = scale * (code + offset), with unsigned codes of `bw` bits. Signed codes are shifted by half their
range, so that a weight of 8 bits has offset -128. Scales of channels belong to the axis that the operator reads as its output
channels, and scales of blocks are listed in the order of the weight's own axes. Scales of a table's rows or of a recurrent layer
can't be expressed: such weights have no encoding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.constants import constant, remove_unread
from dyncompress.deployment.conversion import Converted, Inputs
from dyncompress.deployment.conversion.comparison import as_defined, compare
from dyncompress.deployment.conversion.fake_quantization import fake_quantized
from dyncompress.deployment.conversion.plain_graph import fold, plain_model
from dyncompress.deployment.conversion.stored_codes import StoredCodes, decode_tables_first, stored_codes
from dyncompress.deployment.domain import FOLLOWING, MOVING, PRODUCTS, WEIGHTED
from dyncompress.errors import Differs, InvalidRequest, Unsupported

VERSION = "1.0.0"
MODEL, ENCODINGS = "model.onnx", "encodings.json"
SAME = 1e-6  # of an output's largest value; on one machine both files are equal
_CLIPPED = ((-1.0, 1.0), (0.0, 1.0), (0.0, 6.0))  # ends of common Clip nodes: where a grid ends there, the Clip is restored
_INTEGERS = ("QLinear", "DynamicQuantize", "MatMulInteger", "ConvInteger", "MatMulNBits", "QGemm", "GatherBlockQuantized")


@dataclass(frozen=True)
class _Grid:
    """Scale and zero point of a QuantizeLinear, for unsigned codes of some bits."""

    scale: np.float32
    zero: int
    bits: int
    symmetric: bool

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest value on the grid."""
        return float(-self.zero * self.scale), float((2**self.bits - 1 - self.zero) * self.scale)


@dataclass
class _Activations:
    """What is known while the QuantizeLinear nodes of a graph are taken out.

    Attributes:
        floats: value of codes -> the float value that takes its place.
        grids: value of codes -> its grid.
        points: float value -> the grid to which every reader sees it rounded.
        readers: nodes that read codes.
    """

    floats: dict[ir.Value, ir.Value] = field(default_factory=dict)
    grids: dict[ir.Value, _Grid] = field(default_factory=dict)
    points: dict[ir.Value, _Grid] = field(default_factory=dict)
    readers: set[ir.Node] = field(default_factory=set)

    def add(self, codes: ir.Value, value: ir.Value, grid: _Grid) -> None:
        """Note codes, whose place a float value takes.

        Raises:
            Unsupported: something else than a DequantizeLinear or a node that moves values reads the codes.
        """
        users = [use.node for use in codes.uses()]
        other = next((user for user in users if user.op_type not in ("DequantizeLinear", *MOVING)), None)
        if other is not None or codes.is_graph_output():
            who = "the caller of the file" if other is None else f"node '{other.outputs[0].name}' ({other.op_type})"
            raise Unsupported(f"{who} reads the codes '{codes.name}'; put a DequantizeLinear in front, so that it reads floats.")
        self.floats[codes], self.grids[codes] = value, grid
        self.readers.update(users)


def convert(content: bytes, inputs: Inputs | None = None) -> Converted:
    """The float graph and the encodings of an ONNX file with QuantizeLinear and DequantizeLinear.

    Args:
        content: the bytes of the file.
        inputs: name -> array `[n, ...]`, on which the result is compared with the file; None: random ones.

    Returns:
        `model.onnx` and `encodings.json`.

    Raises:
        InvalidRequest: the bytes aren't an ONNX file, or nothing is quantized in it.
        Unsupported: a node computes on integers in another form.
        Differs: `model.onnx`, rounded by `encodings.json`, computes something else than the file.
    """
    model = ir.serde.deserialize_model(plain_model(content))
    graph = model.graph
    _refuse(graph)
    decode_tables_first(graph)
    weights = _decoded(graph)
    known = _without_quantizers(graph)
    if not weights and not known.points:
        raise InvalidRequest("the file has no quantized weights or activations, so that there are no encodings to write.")
    remove_unread(graph)
    proto = ir.serde.serialize_model(model)
    fold(proto, decode=True, named=weights)
    left = next((node for node in proto.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")), None)
    if left is not None:
        raise Unsupported(f"node '{left.output[0]}' ({left.op_type}) computes its scale; store the scale in the file.")
    present = {*graph.inputs, *(value for node in graph for value in node.outputs)}
    points = {value: grid for value, grid in known.points.items() if value in present}
    stored = {name: codes for name, codes in weights.items() if name in graph.initializers}
    unlisted = [name for name, codes in stored.items() if not _is_expressible(graph.initializers[name], codes)]
    listed = _listed({name: codes for name, codes in stored.items() if name not in unlisted}, points)
    result, text = proto.SerializeToString(deterministic=True), json.dumps(listed, indent=1) + "\n"
    gap, unknown = compare(as_defined(content), as_defined(fake_quantized(result, listed)), inputs)
    if gap > SAME:
        raise Differs(
            f"the float file, rounded by its encodings, differs from the file by {gap:.2g} of the largest output; report it."
        )
    counts = f"encodings of weights and biases: {len(listed['param_encodings'])}; of activations: {len(points)}."
    same = (
        "" if unknown else f"{MODEL}, rounded by {ENCODINGS}, computes what the file computes, to {SAME:g} of the largest output."
    )
    notes = [counts, same or unknown]
    if unlisted:
        notes.append(
            f"weights without encoding, since AIMET's format can't express where their scales belong: {', '.join(unlisted)}."
        )
    return Converted({MODEL: result, ENCODINGS: text.encode()}, tuple(notes))


def _refuse(graph: ir.Graph) -> None:
    """Refuse operators on integers that aren't in the form of QuantizeLinear and DequantizeLinear in the main graph."""
    for node in graph.all_nodes():
        inside = node.graph is not graph and node.op_type in ("QuantizeLinear", "DequantizeLinear")
        if node.op_type.startswith(_INTEGERS) or inside:
            where = " inside a branch or a loop" if inside else ", which computes on integers by itself"
            raise Unsupported(
                f"node '{node.outputs[0].name}' is a {node.op_type}{where}; encodings are written of files with QuantizeLinear "
                "and DequantizeLinear in their main graph."
            )


# ---------------------------------------------------------------- weights
def _decoded(graph: ir.Graph) -> dict[str, StoredCodes]:
    """Replace stored codes by the float values, in place; name of the new initializer -> the codes."""
    weights: dict[str, StoredCodes] = {}
    places: dict[tuple[bytes, ...], ir.Value] = {}
    for value, codes in stored_codes(graph).items():
        key = (
            codes.codes.tobytes(),
            codes.scale.tobytes(),
            codes.zero_point.tobytes(),
            repr((codes.codes.shape, codes.axis)).encode(),
        )
        stored = places.get(key)
        if stored is None:
            stored = places[key] = ir.Value(name=f"{value.name}_decoded", const_value=ir.tensor(codes.values))
            graph.register_initializer(stored)
            weights[stored.name or ""] = codes
        value.replace_all_uses_with(stored)
    return weights


# ---------------------------------------------------------------- activations
def _without_quantizers(graph: ir.Graph) -> _Activations:
    """Take QuantizeLinear and DequantizeLinear out of a graph, in place."""
    known = _Activations()
    for node in list(graph):
        if node.op_type == "QuantizeLinear" and constant(node.inputs[0]) is None:
            _take_out(graph, node, known)
        elif node in known.readers:
            _join(graph, node, known) if node.op_type == "DequantizeLinear" else _move(node, known)
    return known


def _grid(node: ir.Node) -> _Grid:
    """The grid of a QuantizeLinear or DequantizeLinear.

    Raises:
        Unsupported: the graph computes it, or it has several scales.
    """
    scale = constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros((), np.uint8)
    if scale is None or zero is None or scale.size != 1 or scale.dtype != np.float32 or zero.dtype.name not in _BITS:
        raise Unsupported(
            f"node '{node.outputs[0].name}' ({node.op_type}) has no single constant float32 scale with codes of 8 or 16 bits; "
            "quantize activations with one."
        )
    bits, value = _BITS[zero.dtype.name], int(zero.reshape(()))
    shift = 2 ** (bits - 1) if zero.dtype.kind == "i" else 0
    return _Grid(np.float32(scale.reshape(())), value + shift, bits, value + shift == 2 ** (bits - 1))


_BITS = {"uint8": 8, "int8": 8, "uint16": 16, "int16": 16}


def _take_out(graph: ir.Graph, node: ir.Node, known: _Activations) -> None:
    """Let the readers of a QuantizeLinear read the value that it rounds.

    Where a reader sees that value without rounding, the others get a copy of it, with a name of its own for the encoding.
    """
    value, codes, grid = node.inputs[0], node.outputs[0], _grid(node)
    assert value is not None
    uses = [use.node for use in value.uses()]
    alone = not value.is_graph_output() and all(user.op_type == "QuantizeLinear" and _grid(user) == grid for user in uses)
    limits = _limits(value, grid, known)
    if known.points.get(value) == grid or (alone and limits is None):
        point = value
    else:
        point = _inserted(graph, node, value, limits)
        for user in uses if alone else [node]:
            user.replace_input_with(0, point)
    known.points[point] = grid
    known.add(codes, point, grid)


def _inserted(graph: ir.Graph, before: ir.Node, value: ir.Value, limits: tuple[float, float] | None) -> ir.Value:
    """A Relu, a Clip or an Identity of a value."""
    inputs = [value]
    if limits is not None and np.isfinite(limits[1]):
        for end in limits:
            stored = ir.Value(name=f"{before.outputs[0].name}_end{len(inputs)}", const_value=ir.tensor(np.float32(end)))
            graph.register_initializer(stored)
            inputs.append(stored)
    operator = "Identity" if limits is None else "Relu" if len(inputs) == 1 else "Clip"
    node = ir.node(operator, inputs)
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = f"{before.outputs[0].name}_point", value.type, value.shape
    graph.insert_before(before, node)
    return node.outputs[0]


def _limits(value: ir.Value, grid: _Grid, known: _Activations) -> tuple[float, float] | None:
    """The ends of the Relu or Clip that rounding to a grid stands for, which a float graph needs; None if there is none.

    A grid that begins at zero makes negative values zero. So the file has no Relu there, and the float graph gets one.
    """
    producer, (low, high) = value.producer(), grid.ends
    if producer is None or producer.op_type not in (*WEIGHTED, *FOLLOWING):
        return None
    if (
        all(known.points[v].ends[0] >= 0 if v in known.points else False for v in producer.inputs)
        and producer.op_type in FOLLOWING
    ):
        return None  # nothing is negative here
    half = 0.51 * float(grid.scale)
    if any(abs(low - ends[0]) <= half and abs(high - ends[1]) <= half for ends in _CLIPPED):
        return low, high
    return (0.0, np.inf) if low >= 0 else None


def _move(node: ir.Node, known: _Activations) -> None:
    """Let a node that moves codes move values."""
    source = node.inputs[0]
    assert source is not None
    grid = known.grids[source]
    node.replace_input_with(0, known.floats[source])
    if node.op_type == "Pad" and len(node.inputs) > 2 and node.inputs[2] is not None:
        fill = constant(node.inputs[2])
        shift = 2 ** (grid.bits - 1) if fill is not None and fill.dtype.kind == "i" else 0
        if fill is None or int(fill.reshape(())) + shift != grid.zero:
            raise Unsupported(f"node '{node.outputs[0].name}' (Pad) fills with another code than that of zero; fill with zero.")
        node.replace_input_with(2, None)
    for out in node.outputs:
        out.type = ir.TensorType(ir.DataType.FLOAT)
        known.add(out, out, grid)


def _join(graph: ir.Graph, node: ir.Node, known: _Activations) -> None:
    """Let the readers of a DequantizeLinear read the float value."""
    codes, out = node.inputs[0], node.outputs[0]
    assert codes is not None
    if _grid(node) != known.grids[codes]:
        raise Unsupported(
            f"node '{out.name}' (DequantizeLinear) has another grid than the codes that it reads; use one for both."
        )
    value = known.floats[codes]
    if out.is_graph_output():
        if value.is_graph_input() or value.is_graph_output():
            value = ir.node("Identity", [value]).outputs[0]
            graph.insert_after(node, value.producer())  # type: ignore[arg-type]
        name = out.name
        out.name = f"{name}_codes"
        value.name, value.type, value.shape = name, out.type, out.shape
    out.replace_all_uses_with(value, replace_graph_outputs=True)


# ---------------------------------------------------------------- the list
def _listed(weights: Mapping[str, StoredCodes], points: Mapping[ir.Value, _Grid]) -> dict[str, Any]:
    """The encodings in AIMET's format."""
    return {
        "version": VERSION,
        "activation_encodings": [
            _entry(value.name or "", grid.bits, [grid.scale], [grid.zero], grid.symmetric) for value, grid in points.items()
        ],
        "param_encodings": [_weight_entry(name, codes) for name, codes in weights.items()],
    }


def _is_expressible(value: ir.Value, codes: StoredCodes) -> bool:
    """Whether a reader of an encoding, which names no axis, takes the scales for those of the right axis."""
    if codes.axis is None:
        return True
    channels = {_channel_axis(use.node, use.idx, codes.codes.ndim) for use in value.uses()}
    return -1 not in channels and all((codes.axis == axis) != bool(codes.block) for axis in channels)


def _channel_axis(node: ir.Node, index: int, axes: int) -> int:
    """The axis of output channels in the weight or bias of a product; -1 for other nodes."""
    if node.op_type not in PRODUCTS or index == 0:
        return -1
    if index == 2:
        return 0
    by_rows = node.op_type == "Conv" or (
        node.op_type == "Gemm" and "transB" in node.attributes and node.attributes["transB"].as_int()
    )
    return 0 if by_rows else 1 if node.op_type == "ConvTranspose" else axes - 1


def _weight_entry(name: str, codes: StoredCodes) -> dict[str, Any]:
    """The encoding of a weight or bias; codes that fit into 4 bits have 4."""
    kind = codes.codes.dtype
    bits = 8 * kind.itemsize
    zeros = codes.zero_point.astype(np.int64).reshape(-1)
    if (
        bits == 8
        and kind.kind == "i"
        and not zeros.any()
        and codes.codes.min(initial=0) >= -8
        and codes.codes.max(initial=0) <= 7
    ):
        bits = 4
    unsigned = zeros + (2 ** (bits - 1) if kind.kind == "i" else 0)
    scales = np.broadcast_to(codes.scale.reshape(-1), unsigned.shape) if codes.scale.size == 1 else codes.scale.reshape(-1)
    entry = _entry(name, bits, scales, np.broadcast_to(unsigned, scales.shape), bool((unsigned == 2 ** (bits - 1)).all()))
    entry["enc_type"] = "PER_TENSOR" if codes.axis is None else "PER_BLOCK" if codes.block else "PER_CHANNEL"
    return entry | ({"block_size": codes.block} if codes.block else {})


def _entry(
    name: str, bits: int, scales: Sequence[Any] | np.ndarray, zeros: Sequence[int] | np.ndarray, symmetric: bool
) -> dict[str, Any]:
    return {
        "name": name,
        "bw": bits,
        "dtype": "INT",
        "enc_type": "PER_TENSOR",
        "is_sym": symmetric,
        "scale": [float(scale) for scale in scales],
        "offset": [-int(zero) for zero in zeros],
    }
