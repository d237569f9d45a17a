"""Operators that work element by element, and those along one axis whose shape stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.conversion.litert.flatbuffer import activation, options
from dyncompress.deployment.conversion.litert.graph import given_constant, input_of, place, shape_of
from dyncompress.deployment.conversion.litert.tensors import Stored
from dyncompress.deployment.conversion.litert.translation import TYPES, Ending, Translation, constant_value, grid_of, limits_of
from dyncompress.errors import Unsupported

UNARY = {
    **{"Abs": "ABS", "Ceil": "CEIL", "Cos": "COS", "Elu": "ELU", "Exp": "EXP", "Floor": "FLOOR", "Gelu": "GELU"},
    **{"HardSwish": "HARD_SWISH", "LeakyRelu": "LEAKY_RELU", "Log": "LOG", "Neg": "NEG", "Relu": "RELU", "Round": "ROUND"},
    **{"Sigmoid": "LOGISTIC", "Sign": "SIGN", "Sin": "SIN", "Sqrt": "SQRT", "Tanh": "TANH"},
}
BINARY = {
    "Add": "ADD",
    "Sub": "SUB",
    "Mul": "MUL",
    "Div": "DIV",
    "Pow": "POW",
    "PRelu": "PRELU",
    "Max": "MAXIMUM",
    "Min": "MINIMUM",
}
COMPARISONS = {
    **{"Equal": "EQUAL", "Greater": "GREATER", "GreaterOrEqual": "GREATER_EQUAL", "Less": "LESS", "LessOrEqual": "LESS_EQUAL"},
    **{"And": "LOGICAL_AND", "Or": "LOGICAL_OR"},
}
_OPTIONS = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions"}
_ON_INTEGERS = ("ADD", "SUB", "MUL")
_CLIPS = {(0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1", (0.0, np.inf): "RELU"}


def quantize(state: Translation, node: ir.Node) -> None:
    """Translate a QuantizeLinear that no operator took in."""
    source, output, grid = node.inputs[0], node.outputs[0], grid_of(node)
    assert source is not None
    if source in state.codes:
        state.stored[output] = state.requantized(state.codes[source], grid)
    else:
        value = state.value(source)
        state.stored[output] = state.apply("QUANTIZE", [value], Stored(value.shape, "int8", grid), options("QuantizeOptions"))


def dequantize(state: Translation, node: ir.Node) -> None:
    """Note that a float value is known by its codes; those of constants are read by the nodes behind."""
    source = node.inputs[0]
    if source in state.stored:
        value = state.stored[source]
        if value.quantization != grid_of(node):
            raise Unsupported(
                f"{place(node)}: it has another scale or zero point than the QuantizeLinear before; write them alike."
            )
        state.codes[node.outputs[0]] = value
    elif state.array(node.outputs[0]) is None:
        raise Unsupported(
            f"{place(node)}: it reads codes that no QuantizeLinear made; quantize inside the graph, from float inputs."
        )


def unary(state: Translation, node: ir.Node) -> None:
    """Translate a function of one value, in float."""
    value, name, table = state.value(node.inputs[0]), UNARY[node.op_type], None
    if name == "ELU" and node.attributes.get_float("alpha", 1.0) != 1.0:
        raise Unsupported(f"{place(node)}: LiteRT has this function with alpha 1 only.")
    if name == "LEAKY_RELU":
        table = options("LeakyReluOptions", alpha=node.attributes.get_float("alpha", 0.01))
    if name == "GELU":
        table = options("GeluOptions", approximate=node.attributes.get_string("approximate", "none") == "tanh")
    state.stored[node.outputs[0]] = state.apply(name, [value], Stored(value.shape, value.dtype), table)


def relu(state: Translation, node: ir.Node) -> None:
    """Translate a Relu, which works on codes as on values."""
    state.moved(node, lambda value: state.apply("RELU", [value], Stored(value.shape, value.dtype, value.quantization)))


def clip(state: Translation, node: ir.Node) -> None:
    """Translate a Clip."""
    value, limits = state.value(node.inputs[0]), limits_of(node)
    result = Stored(value.shape, value.dtype)
    if limits in _CLIPS:
        state.stored[node.outputs[0]] = state.apply(_CLIPS[limits], [value], result)
        return
    for name, limit in zip(("MAXIMUM", "MINIMUM"), limits, strict=True):
        if np.isfinite(limit):
            other = constant_value(np.array(limit, value.dtype)).with_rank(len(value.shape))
            value = state.apply(name, [value, other], Stored(value.shape, value.dtype))
    state.stored[node.outputs[0]] = value


def binary(state: Translation, node: ir.Node) -> None:
    """Translate a function of two values; sums, differences and products are computed on integers where all is quantized."""
    if len(node.inputs) != 2:
        raise Unsupported(f"{place(node)}: LiteRT has this function of two values only; write it of pairs.")
    name = BINARY[node.op_type]
    ending, operands = state.integer_ending(node), state.known_codes(node.inputs)
    if name not in _ON_INTEGERS or ending is None or operands is None:
        ending = state.float_ending(node) if name in _OPTIONS else Ending(node.outputs[0])
        operands = [state.value(value) for value in node.inputs]
    result = state.result(ending)
    result.dtype = operands[0].dtype if ending.grid is None else "int8"
    operands = [_broadcast(state, value, len(result.shape)) for value in operands]
    table = options(_OPTIONS[name], fusedActivationFunction=activation(ending.activation)) if name in _OPTIONS else None
    state.bind(ending, state.apply(name, operands, result, table))


def comparison(state: Translation, node: ir.Node) -> None:
    """Translate a comparison or a logical function of two values."""
    result = Stored(shape_of(node.outputs[0]), "bool")
    operands = [_broadcast(state, state.value(value), len(result.shape)) for value in node.inputs]
    state.stored[node.outputs[0]] = state.apply(COMPARISONS[node.op_type], operands, result)


def logical_not(state: Translation, node: ir.Node) -> None:
    """Translate a Not."""
    value = state.value(node.inputs[0])
    state.stored[node.outputs[0]] = state.apply("LOGICAL_NOT", [value], Stored(value.shape, "bool"))


def where(state: Translation, node: ir.Node) -> None:
    """Translate a Where."""
    condition, *values = (state.value(value) for value in node.inputs)
    result = Stored(shape_of(node.outputs[0]), values[0].dtype)
    operands = [_broadcast(state, value, len(result.shape)) for value in (condition, *values)]
    state.stored[node.outputs[0]] = state.apply("SELECT_V2", operands, result)


def _broadcast(state: Translation, value: Stored, rank: int) -> Stored:
    """A value with as many axes as the result has."""
    if len(value.shape) == rank:
        return value
    return (
        value.with_rank(rank) if value.data is not None else state.reshaped(value, (1,) * (rank - len(value.shape)) + value.shape)
    )


def softmax(state: Translation, node: ir.Node) -> None:
    """Translate a Softmax or LogSoftmax, with its axis last."""
    value = state.value(node.inputs[0])
    axis = node.attributes.get_int("axis", -1) % len(value.shape)
    order = (*[other for other in value.plain if other != axis], axis)
    name, table = ("SOFTMAX", options("SoftmaxOptions", beta=1.0)) if node.op_type == "Softmax" else ("LOG_SOFTMAX", None)
    state.stored[node.outputs[0]] = state.emit(name, [state.tensor(value, order)], Stored(value.shape, "float32"), order, table)


def cast(state: Translation, node: ir.Node) -> None:
    """Translate a Cast between float32, int32, int64 and bool."""
    output = node.outputs[0]
    dtype = "" if output.dtype is None else output.dtype.numpy().name
    value = state.value(node.inputs[0])
    if value.dtype == dtype:
        state.stored[output] = value
        return
    if dtype not in TYPES or value.quantization is not None:
        raise Unsupported(
            f"{place(node)}: it turns codes or {value.dtype} into {dtype}, which isn't translated; export it in float32."
        )
    state.stored[output] = state.apply("CAST", [value], Stored(shape_of(output), dtype))


def identity(state: Translation, node: ir.Node) -> None:
    """Translate an Identity or a Dropout, which does nothing when a model is used."""
    if input_of(node, 2) is not None and given_constant(node, 2):
        raise Unsupported(f"{place(node)}: it drops values at random, as in training; export the model in eval mode.")
    state.moved(node, lambda value: value)


Operator = Callable[[Translation, ir.Node], None]
OPERATORS: dict[str, Operator] = {
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(BINARY, binary),
    **dict.fromkeys(COMPARISONS, comparison),
    "Not": logical_not,
    "Where": where,
    "Relu": relu,
    "Clip": clip,
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "Cast": cast,
    "Identity": identity,
    "Dropout": identity,
}
