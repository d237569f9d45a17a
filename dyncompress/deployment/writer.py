"""Write the integer ONNX file of a float graph: weights as integer codes, activations on integer grids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.activations import quantize_activations
from dyncompress.deployment.bias import StoredScale, fits_accumulator, integer_bias, scales_for_bias
from dyncompress.deployment.constants import Constants, constant, remove_unread
from dyncompress.deployment.domain import Domain, integer_domain
from dyncompress.deployment.dynamic_form import dynamic_nodes, quantize_at_run
from dyncompress.deployment.embeddings import gather_first
from dyncompress.deployment.faster_form import Shapes, faster_in_float
from dyncompress.deployment.float_graph import FloatGraph
from dyncompress.deployment.grid import Grid, activation_grid
from dyncompress.deployment.lstm_weights import order_lstm_weights
from dyncompress.deployment.opset import converted
from dyncompress.deployment.shorten import shorten
from dyncompress.deployment.storage import DOMAIN, before_cast, functions, store_codes
from dyncompress.deployment.weights import StoredWeight, dequantize, dequantize_by, float_at_load, stored_weight
from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.types import Encoding, Target

Encodings = Mapping[str, tuple[Encoding, str]]
Ranges = Mapping[str, tuple[float, float]]


def write(float_file: bytes, encodings: Encodings, ranges: Ranges, target: Target, shapes: Shapes | None = None) -> bytes:
    """Write the integer file of a float32 file.

    Weights with an encoding become integer initializers, stored at their width. Activations with a range are quantized where an
    integer kernel exists. All other values stay float. The graph is changed in this order: opset, layout of the weights, choice
    of the integer domain, QuantizeLinear and DequantizeLinear nodes, weights and biases, names.

    Args:
        float_file: float32 ONNX with folded BatchNorm, whose weights equal `codes * scale` of their encodings.
        encodings: initializer name -> (encoding in the canonical layout, layout of `types.Placement`).
        ranges: activation name -> (smallest, largest), as the function `ranges` returns them; empty: only weights are integers.
        target: opset, form of products (the first of its `forms`; the dynamic one reads no ranges), activation grids, and widths
            of weights.
        shapes: of activations for one example, of `shapes_of_one`: nodes compute in float where the target's kernel times say
            that it is faster; None: every node that can computes on integers.

    Returns:
        The bytes of the file, unsealed.

    Raises:
        InvalidRequest: an encoding doesn't fit its initializer, or a range isn't finite.
        Unsupported: the target doesn't take a width, or the graph needs a newer opset than the target's.
    """
    return write_and_list(float_file, encodings, ranges, target, shapes)[0]


def write_and_list(
    float_file: bytes, encodings: Encodings, ranges: Ranges, target: Target, shapes: Shapes | None
) -> tuple[bytes, frozenset[str]]:
    """The file that `write` returns, and the names of the activations that are quantized in it."""
    model = converted(FloatGraph.of(float_file), target)
    graph = model.graph
    weights = _stored_weights(graph, encodings, target)
    constants = Constants(graph, plain=not target.folds_constants, dense=set(target.weight_bits) == {8})
    if is_dynamic(target):
        order_lstm_weights(graph, weights)
    dynamic = dynamic_nodes(graph, weights) if is_dynamic(target) else set()
    grids = _Grids({} if is_dynamic(target) or target.activation_dtype == "float32" else ranges, target)
    domain = _integer_domain(graph, weights, grids)
    if shapes and target.kernel_times is not None:
        floats = faster_in_float(graph, domain, shapes, target.kernel_times)
        domain = _integer_domain(graph, weights, grids, floats)
    at_run = {node.inputs[0] for node in dynamic}
    quantized = frozenset(value.name or "" for value in (*domain.quantized, *at_run) if value is not None)
    read = quantize_activations(constants, domain, {value: grids(value) for value in domain.quantized})  # type: ignore[misc]
    _replace_weights(constants, weights, _Places(domain, read, dynamic))
    return _serialize(model, target), quantized


def is_dynamic(target: Target) -> bool:
    """Whether files for the target quantize activations at run time."""
    return target.activation_dtype != "float32" and target.forms[0] == "dynamic"


@dataclass(frozen=True)
class _Grids:
    """The grid of a value, from the ranges by name; None for a value without a range."""

    ranges: Ranges
    target: Target

    def __call__(self, value: ir.Value) -> Grid | None:
        ends = self.ranges.get(value.name or "")
        return None if ends is None else activation_grid(*ends, self.target, value.name or "")


def _stored_weights(graph: ir.Graph, encodings: Encodings, target: Target) -> dict[str, StoredWeight]:
    """Initializer name -> the encoding in the initializer's layout, checked against graph and target."""
    weights = {}
    for name, (encoding, layout) in encodings.items():
        if name not in graph.initializers:
            raise InvalidRequest(
                f"encoding '{name}' names no initializer of the ONNX file, which has {len(graph.initializers)}; use its names."
            )
        if encoding.bits not in target.weight_bits:
            raise Unsupported(
                f"initializer '{name}' has {encoding.bits} bits, target '{target.name}' takes {list(target.weight_bits)}; "
                "quantize it to one of these."
            )
        codes = np.asarray(encoding.codes)
        if target.reduce_range and codes.size and (codes.min() < -64 or codes.max() > 63):
            raise InvalidRequest(
                f"initializer '{name}' has codes from {codes.min()} to {codes.max()}, target '{target.name}' saturates beyond "
                "[-64, 63]; quantize it with a 7-bit range."
            )
        if target.weight_symmetric_range and encoding.bits == 8 and codes.size and codes.min() < -127:
            raise InvalidRequest(
                f"initializer '{name}' has codes from {codes.min()} to {codes.max()}, target '{target.name}' takes [-127, 127]; "
                "quantize it with a symmetric range."
            )
        initializer = graph.initializers[name]
        groups = max((_groups(use.node) for use in initializer.uses()), default=1)
        assert initializer.const_value is not None
        weights[name] = stored_weight(name, tuple(initializer.const_value.shape.numpy()), encoding, layout, groups)
    return weights


def _groups(node: ir.Node) -> int:
    return int(node.attributes["group"].value) if "group" in node.attributes else 1


def _bias(node: ir.Node) -> np.ndarray | None:
    return constant(node.inputs[2]) if len(node.inputs) > 2 else None


def _integer_domain(
    graph: ir.Graph, weights: Mapping[str, StoredWeight], grids: _Grids, in_float: Set[ir.Node] = frozenset()
) -> Domain:
    """The integer domain of a graph, without the layers whose bias doesn't fit into an int32 accumulator.

    A bias doesn't fit where the weights of a channel are nearly, but not exactly, zero, as behind a folded BatchNorm gain near
    zero: its code exceeds int32. Such a layer computes in float; its weight is still stored as integers.
    """
    names = {name for name, weight in weights.items() if weight.per_channel is not None}
    while True:
        domain = integer_domain(graph, names, grids, in_float)
        overflowing = {name for node in domain.compute if (name := _overflowing_weight(node, domain, weights, grids))}
        if not overflowing:
            return domain
        names -= overflowing


def _overflowing_weight(node: ir.Node, domain: Domain, weights: Mapping[str, StoredWeight], grids: _Grids) -> str:
    """The name of a node's weight if its bias doesn't fit into the accumulator, else an empty string."""
    source, second = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    weight = weights.get(second.name or "") if second is not None else None
    if weight is None or source is None:
        return ""
    grid = grids(domain.grid_of.get(source, source))
    assert grid is not None
    bias = _bias(node)
    scale = scales_for_bias(weight.codes, weight.axis, weight.scale, bias, float(grid.scale))
    return "" if fits_accumulator(bias, scale, float(grid.scale)) else weight.name


@dataclass(frozen=True)
class _Places:
    """Where a graph computes on integers.

    Attributes:
        domain: of the static form.
        read: (node, input index) -> the grid of the dequantized value that the node reads there.
        dynamic: nodes in the dynamic form.
    """

    domain: Domain
    read: Mapping[tuple[ir.Node, int], Grid]
    dynamic: Set[ir.Node]


def _replace_weights(constants: Constants, weights: Mapping[str, StoredWeight], integers: _Places) -> None:
    """Replace every use of every encoded initializer, in the form that suits the node which reads it."""
    tied, anchors = _store_tied(constants, weights), _main_nodes(constants.graph)
    places = {node: place for place, node in enumerate(constants.graph)}
    for weight in weights.values():
        initializer = constants.graph.initializers[weight.name]
        uses = sorted(initializer.uses(), key=lambda use: places[anchors[use.node]])
        codes = tied.get(weight.name)
        for use in uses:
            node = use.node
            if anchors[node] is not node:  # a subgraph reads values of the main graph, where the weight is made once
                node.replace_input_with(use.idx, float_at_load(constants, weight, codes, anchors[node]))
            elif node in integers.dynamic:
                codes = codes if codes is not None else store_codes(constants, weight.codes, weight.bits, node)
                quantize_at_run(constants, weight, codes, node, use.idx)
            elif node in integers.domain.compute:
                codes = codes if codes is not None else store_codes(constants, weight.codes, weight.bits, node)
                _replace_weight_and_bias(constants, weight, codes, node, integers.read[node, 0])
            elif node.op_type == "Gather" and use.idx == 0 and weight.layout == "as_is" and not weight.encoding.group:
                codes = codes if codes is not None else store_codes(constants, weight.codes, weight.bits, node)
                gather_first(constants, weight, codes, node)
            elif node.op_type == "MatMul" and (constants.plain or _stays_packed(node, use.idx, weight)):
                codes = codes if codes is not None else store_codes(constants, weight.codes, weight.bits, node)
                node.replace_input_with(use.idx, dequantize(constants, weight, before_cast(codes), node))
            else:
                node.replace_input_with(use.idx, float_at_load(constants, weight, codes, node))
        cast = codes.producer() if codes is not None and not codes.uses() else None
        if cast is not None and cast.op_type == "Cast":
            constants.graph.remove(cast, safe=True)


def _stays_packed(node: ir.Node, index: int, weight: StoredWeight) -> bool:
    """Whether onnxruntime reads a dequantized weight of a MatMul as codes, in MatMulNBits (1.32).

    It does for a matrix on the right, with scales of outputs or of groups of 16, 32, 64, ... inputs, unless a Relu or Clip alone
    reads the result. Anything else, and every Gemm, it would dequantize at every run.
    """
    readers = list(node.outputs[0].uses())
    if index != 1 or weight.codes.ndim != 2 or (len(readers) == 1 and readers[0].node.op_type in ("Relu", "Clip")):
        return False
    group = weight.encoding.group
    if not group:
        return weight.axis in (None, 1)
    if np.prod(weight.encoding.codes.shape[1:]) % group:
        return True  # only a DequantizeLinear can hold a last group that is smaller
    return weight.layout == "transposed" and group >= 16 and group & (group - 1) == 0


def _main_nodes(graph: ir.Graph) -> dict[ir.Node, ir.Node]:
    """Each node -> the node of the main graph that it is, or inside whose subgraphs it lies."""
    anchors: dict[ir.Node, ir.Node] = {}

    def visit(nodes: Iterable[ir.Node], main: ir.Node | None) -> None:
        for node in nodes:
            anchors[node] = main or node
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    visit(attribute.value, anchors[node])
                elif attribute.type == ir.AttributeType.GRAPHS:
                    for inner in attribute.value:
                        visit(inner, anchors[node])

    visit(graph, None)
    return anchors


def _store_tied(constants: Constants, weights: Mapping[str, StoredWeight]) -> dict[str, ir.Value]:
    """Store the codes of weights that the graph holds twice, as they are and transposed, once; the file transposes them at load.

    Returns:
        Initializer name -> the value that holds its codes, for both uses.
    """
    first, values = constants.graph[0], {}
    untransposed = {id(weight.encoding): weight for weight in weights.values() if weight.layout == "as_is"}
    for weight in weights.values():
        other = untransposed.get(id(weight.encoding))
        if constants.plain or weight.layout != "transposed" or other is None:
            continue
        if other.name not in values:
            values[other.name] = store_codes(constants, other.codes, other.bits, first)
        values[weight.name] = constants.node("Transpose", [values[other.name]], first, {"perm": [1, 0]})
    return values


def _replace_weight_and_bias(constants: Constants, weight: StoredWeight, codes: ir.Value, node: ir.Node, grid: Grid) -> None:
    """Give a node of the integer domain its dequantized codes and its int32 bias; `grid` is that of its input."""
    bias = _bias(node)
    scale = scales_for_bias(weight.codes, weight.axis, weight.scale, bias, float(grid.scale))
    scales = constants.tensor(scale)
    node.replace_input_with(1, dequantize_by(constants, weight, codes, scales, node))
    if bias is not None:
        node.replace_input_with(2, integer_bias(constants, bias, StoredScale(scale, scales), grid, node))


def _serialize(model: ir.Model, target: Target) -> bytes:
    """Add the local functions that the graph calls, shorten its text and serialize it."""
    graph = model.graph
    remove_unread(graph)  # the float weights, before they would be copied
    used = {node.op_type for node in graph.all_nodes() if node.domain == DOMAIN}
    if used:
        graph.opset_imports[DOMAIN] = 1
        for function in functions(used, target.opset):
            model.functions[function.identifier()] = function
    proto = ir.serde.serialize_model(model)
    del proto.graph.value_info[:]
    proto.ir_version = target.ir_version
    return shorten(proto).SerializeToString(deterministic=True)
