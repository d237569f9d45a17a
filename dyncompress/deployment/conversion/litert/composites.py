"""Operators of ONNX that LiteRT doesn't have, written as several of its own, in float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.conversion.litert.flatbuffer import activation, options
from dyncompress.deployment.conversion.litert.graph import input_of, place
from dyncompress.deployment.conversion.litert.tensors import Stored
from dyncompress.deployment.conversion.litert.translation import Ending, Translation, constant_value
from dyncompress.errors import Unsupported

_OPTIONS = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions"}


@dataclass(frozen=True)
class _Expression:
    """A float value in a chain of operators, all with the axes of the node's input."""

    state: Translation
    value: Stored

    def then(self, name: str, other: _Expression | np.ndarray | float | None = None, fused: str = "NONE") -> _Expression:
        """The value of an operator on this and another value or constant, which is broadcast."""
        inputs, rank = [self.value], len(self.value.shape)
        if isinstance(other, _Expression):
            inputs.append(other.value)
        elif other is not None:
            inputs.append(constant_value(np.asarray(other, np.float32)).with_rank(rank))
        shape = np.broadcast_shapes(*(value.shape for value in inputs))
        table = options(_OPTIONS[name], fusedActivationFunction=activation(fused)) if name in _OPTIONS else None
        return _Expression(self.state, self.state.apply(name, inputs, Stored(shape, "float32"), table))

    def mean(self, axes: Sequence[int]) -> _Expression:
        """The mean over axes, which stay with length 1."""
        order, state = self.value.order, self.state
        places = state.writer.constant(np.array([order.index(axis) for axis in axes], np.int32))
        shape = tuple(1 if axis in axes else length for axis, length in enumerate(self.value.shape))
        table = options("ReducerOptions", keepDims=True)
        inputs = [state.tensor(self.value, order), places]
        return _Expression(state, state.emit("MEAN", inputs, Stored(shape, "float32"), order, table))

    def normalized(self, axes: Sequence[int], epsilon: float) -> _Expression:
        """The value with mean 0 and variance 1 over axes."""
        centred = self.then("SUB", self.mean(axes))
        variance = centred.then("MUL", centred).mean(axes)
        return centred.then("MUL", variance.then("ADD", epsilon).then("RSQRT"))


def batch_norm(state: Translation, node: ir.Node) -> None:
    """Translate a BatchNormalization that wasn't folded into a convolution: a product and a sum for each channel."""
    gain, shift, mean, variance = _parameters(state, node, range(1, 5))
    x, ending = _input(state, node), state.float_ending(node)
    slope = gain / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    product = x.then("MUL", _by_channel(slope, x))
    _bind(ending, product.then("ADD", _by_channel(shift - mean * slope, x), ending.activation))


def layer_norm(state: Translation, node: ir.Node) -> None:
    """Translate a LayerNormalization."""
    x = _input(state, node)
    rank = len(x.value.shape)
    first = node.attributes.get_int("axis", -1) % rank
    result = x.normalized(range(first, rank), node.attributes.get_float("epsilon", 1e-5) or 0.0)
    for name, parameter in zip(("MUL", "ADD"), _parameters(state, node, range(1, len(node.inputs))), strict=False):
        result = result.then(name, parameter)
    _bind(Ending(node.outputs[0]), result)


def instance_norm(state: Translation, node: ir.Node) -> None:
    """Translate an InstanceNormalization, of which exporters also make group normalization."""
    gain, shift = _parameters(state, node, (1, 2))
    x = _input(state, node)
    result = x.normalized(range(2, len(x.value.shape)), node.attributes.get_float("epsilon", 1e-5) or 0.0)
    _bind(Ending(node.outputs[0]), result.then("MUL", _by_channel(gain, x)).then("ADD", _by_channel(shift, x)))


def hard_sigmoid(state: Translation, node: ir.Node) -> None:
    """Translate a HardSigmoid: a line between 0 and 1."""
    get, x = node.attributes.get_float, _input(state, node)
    line = x.then("MUL", get("alpha", 0.2)).then("ADD", get("beta", 0.5), "RELU")
    _bind(Ending(node.outputs[0]), line.then("MINIMUM", 1.0))


def softplus(state: Translation, node: ir.Node) -> None:
    """Translate a Softplus: max(x, 0) + log(1 + exp(-|x|)), which doesn't overflow."""
    x = _input(state, node)
    rest = x.then("ABS").then("NEG").then("EXP").then("ADD", 1.0).then("LOG")
    _bind(Ending(node.outputs[0]), x.then("MAXIMUM", 0.0).then("ADD", rest))


def reciprocal(state: Translation, node: ir.Node) -> None:
    """Translate a Reciprocal, as a power."""
    _bind(Ending(node.outputs[0]), _input(state, node).then("POW", -1.0))


def _input(state: Translation, node: ir.Node) -> _Expression:
    return _Expression(state, state.value(node.inputs[0]))


def _parameters(state: Translation, node: ir.Node, indices: Sequence[int]) -> list[np.ndarray]:
    """Constant inputs of a node."""
    found = [state.array(input_of(node, index)) for index in indices]
    if any(array is None for array in found):
        raise Unsupported(f"{place(node)}: its statistics or gains are computed; export the model in eval mode.")
    return [array for array in found if array is not None]


def _by_channel(array: np.ndarray, x: _Expression) -> np.ndarray:
    """Numbers of channels, to be broadcast over a value `[n, channels, ...]`."""
    return array.reshape(1, -1, *[1] * (len(x.value.shape) - 2))


def _bind(ending: Ending, result: _Expression) -> None:
    result.state.bind(ending, result.value)


OPERATORS = {
    "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm,
    "InstanceNormalization": instance_norm,
    "HardSigmoid": hard_sigmoid,
    "Softplus": softplus,
    "Reciprocal": reciprocal,
}
