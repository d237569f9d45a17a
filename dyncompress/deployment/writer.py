"""The integer ONNX file: one float graph in, weights as integers and activations on their grids out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.activations import quantize_activations
from dyncompress.deployment.bias import fits, integer_bias, revived
from dyncompress.deployment.constants import Constants, constant
from dyncompress.deployment.domain import Domain, integer_domain
from dyncompress.deployment.embeddings import gather_first
from dyncompress.deployment.grid import Grid, activation_grid
from dyncompress.deployment.opset import at_opset
from dyncompress.deployment.shorten import shorten
from dyncompress.deployment.storage import DOMAIN, functions, stored
from dyncompress.deployment.stripping import parse, strip
from dyncompress.deployment.weights import StoredWeight, dequantized, folded, scaled, stored_weight
from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.types import Encoding, Target

Encodings = Mapping[str, tuple[Encoding, str]]
Ranges = Mapping[str, tuple[float, float]]


def write(float_file: bytes, encodings: Encodings, ranges: Ranges, target: Target) -> bytes:
    """The integer file of a float32 one.

    Weights with an encoding become integer initializers, packed at their width; activations with a range get grids where an
    integer kernel exists; what has neither stays float. Surgeries in order: opset, weights' layout, integer domain,
    Q and DQ, weights and biases, names.

    Args:
        float_file: float32 ONNX, BatchNorm folded, its weights equal to `codes * scale`.
        encodings: initializer -> (encoding in the canonical layout, layout of types.Placement).
        ranges: value -> (smallest, largest), of `ranges`; may be empty for weight-only files.
        target: opset, activation grids, allowed widths.

    Returns:
        The file's bytes, unsealed.

    Raises:
        InvalidRequest: an encoding doesn't fit its initializer, or a range isn't finite.
        Unsupported: a width that the target doesn't take, or a graph that its opset can't hold.
    """
    model = ir.serde.deserialize_model(at_opset(parse(strip(float_file)), target))
    graph = model.graph
    weights = _stored_weights(graph, encodings, target)
    constants = Constants(graph, plain=not target.folds_constants, dense=set(target.weight_bits) == {8})
    grids = _Grids(ranges if target.activation_dtype != "float32" else {}, target)
    domain = _integer_domain(graph, weights, grids)
    read = quantize_activations(constants, domain, {value: grids(value) for value in domain.quantized})  # type: ignore[misc]
    _replace_weights(constants, weights, domain, read)
    return _finished(model, target)


@dataclass(frozen=True)
class _Grids:
    """Grids by value, from ranges by name; values that a graph computes from constants alone have none."""

    ranges: Ranges
    target: Target

    def __call__(self, value: ir.Value) -> Grid | None:
        found = self.ranges.get(value.name or "")
        return None if found is None else activation_grid(*found, self.target, value.name or "")


def _stored_weights(graph: ir.Graph, encodings: Encodings, target: Target) -> dict[str, StoredWeight]:
    weights = {}
    for name, (encoding, layout) in encodings.items():
        if name not in graph.initializers:
            raise InvalidRequest(f"encoding '{name}' names no initializer of the ONNX file; it has {len(graph.initializers)}.")
        if encoding.bits not in target.weight_bits:
            raise Unsupported(
                f"initializer '{name}' has {encoding.bits} bits, target '{target.name}' takes {list(target.weight_bits)}."
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


def _integer_domain(graph: ir.Graph, weights: Mapping[str, StoredWeight], grids: _Grids) -> Domain:
    """The domain, without the layers whose bias no int32 accumulator holds.

    That happens where a channel's weights are nearly, but not exactly, zero (a BatchNorm gain near zero, folded): the bias
    then has more steps than an int32. Such a layer computes in float; its weight is still stored as integers.
    """
    names = {name for name, weight in weights.items() if weight.per_channel is not None}
    while True:
        domain = integer_domain(graph, names, grids)
        overflowing = {name for node in domain.compute if (name := _overflows(node, domain, weights, grids))}
        if not overflowing:
            return domain
        names -= overflowing


def _overflows(node: ir.Node, domain: Domain, weights: Mapping[str, StoredWeight], grids: _Grids) -> str:
    """The name of the node's weight if its bias doesn't fit, else empty."""
    source, second = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    weight = weights.get(second.name or "") if second is not None else None
    if weight is None or source is None:
        return ""
    grid = grids(domain.carried.get(source, source))
    assert grid is not None
    bias = _bias(node)
    scale = revived(weight.codes, weight.axis, weight.scale, bias, float(grid.scale))
    return "" if fits(bias, scale, float(grid.scale)) else weight.name


def _replace_weights(
    constants: Constants,
    weights: Mapping[str, StoredWeight],
    domain: Domain,
    read: Mapping[tuple[ir.Node, int], Grid],
) -> None:
    """Every use of every encoded initializer, by what reads it."""
    tied = _tied(constants, weights)
    for weight in weights.values():
        initializer = constants.graph.initializers[weight.name]
        uses = sorted(initializer.uses(), key=lambda use: constants.graph.index(use.node))
        codes = tied.get(weight.name)
        for use in uses:
            node = use.node
            if node in domain.compute:
                codes = codes if codes is not None else stored(constants, weight.codes, weight.bits, node)
                _integer_layer(constants, weight, codes, node, read[node, 0])
            elif node.op_type == "Gather" and use.idx == 0 and weight.layout == "as_is" and not weight.encoding.group:
                codes = codes if codes is not None else stored(constants, weight.codes, weight.bits, node)
                gather_first(constants, weight, codes, node)
            elif node.op_type == "MatMul":  # kept packed by MatMulNBits; a Gemm would dequantize at every run
                codes = codes if codes is not None else stored(constants, weight.codes, weight.bits, node)
                node.replace_input_with(use.idx, dequantized(constants, weight, codes, node))
            else:
                node.replace_input_with(use.idx, folded(constants, weight, codes, node))


def _tied(constants: Constants, weights: Mapping[str, StoredWeight]) -> dict[str, ir.Value]:
    """Codes of weights that the graph holds as they are and transposed, a tied table's: stored once, and turned at load."""
    first, found = constants.graph[0], {}
    plain = {id(weight.encoding): weight for weight in weights.values() if weight.layout == "as_is"}
    for weight in weights.values():
        other = plain.get(id(weight.encoding))
        if constants.plain or weight.layout != "transposed" or other is None:
            continue
        if other.name not in found:
            found[other.name] = stored(constants, other.codes, other.bits, first)
        found[weight.name] = constants.node("Transpose", [found[other.name]], first, {"perm": [1, 0]})
    return found


def _integer_layer(constants: Constants, weight: StoredWeight, codes: ir.Value, node: ir.Node, grid: Grid) -> None:
    bias = _bias(node)
    scale = revived(weight.codes, weight.axis, weight.scale, bias, float(grid.scale))
    scales = constants.tensor(scale)
    node.replace_input_with(1, scaled(constants, weight, codes, scales, node))
    if bias is not None:
        node.replace_input_with(2, integer_bias(constants, bias, scale, grid, scales, node))


def _finished(model: ir.Model, target: Target) -> bytes:
    graph = model.graph
    used = {node.op_type for node in graph.all_nodes() if node.domain == DOMAIN}
    if used:
        graph.opset_imports[DOMAIN] = 1
        for function in functions(used, target.opset):
            model.functions[function.identifier()] = function
    proto = ir.serde.serialize_model(model)
    del proto.graph.value_info[:]
    proto.ir_version = target.ir_version
    return shorten(proto).SerializeToString(deterministic=True)
