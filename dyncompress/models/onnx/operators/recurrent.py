"""Recurrent layers: RNN, GRU, LSTM."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dyncompress.models.onnx.node import Functions, Node, NoTorchFunctionError

Activation = Callable[[Tensor], Tensor]
States = tuple[Tensor, ...]
# The next states of a direction: the input's share of the gates and the states -> states, the output first.
Step = Callable[[Tensor, States], States]

# Name -> the defaults of alpha and beta that it takes, and the function.
_ACTIVATIONS: dict[str, tuple[tuple[float | None, float | None], Callable[[Tensor, float, float], Tensor]]] = {
    "relu": ((None, None), lambda x, alpha, beta: x.relu()),
    "tanh": ((None, None), lambda x, alpha, beta: x.tanh()),
    "sigmoid": ((None, None), lambda x, alpha, beta: x.sigmoid()),
    "softsign": ((None, None), lambda x, alpha, beta: x / (1 + x.abs())),
    "softplus": ((None, None), lambda x, alpha, beta: torch.logaddexp(x, torch.zeros_like(x))),
    "affine": ((1.0, 0.0), lambda x, alpha, beta: alpha * x + beta),
    "scaledtanh": ((1.0, 1.0), lambda x, alpha, beta: alpha * (beta * x).tanh()),
    "hardsigmoid": ((0.2, 0.5), lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1)),
    "leakyrelu": ((0.01, None), lambda x, alpha, beta: torch.where(x >= 0, x, alpha * x)),
    "thresholdedrelu": ((1.0, None), lambda x, alpha, beta: torch.where(x >= alpha, x, torch.zeros_like(x))),
    "elu": ((1.0, None), lambda x, alpha, beta: torch.where(x >= 0, x, alpha * x.clamp(max=0).expm1())),
}


@dataclass(frozen=True)
class Layer:
    """One direction of a recurrent layer.

    Attributes:
        node: the node.
        weights: the input's, the recurrent ones, their two biases; gates lie along the first axis, in ONNX's order.
        activations: in the order of the node.
        peepholes: of an LSTM's gates i, o and f, or None.
    """

    node: Node
    weights: tuple[Tensor, Tensor, Tensor, Tensor]
    activations: list[Activation]
    peepholes: tuple[Tensor, ...] | None

    def limited(self, x: Tensor) -> Tensor:
        """The input of an activation, clipped where the node says so."""
        clip = self.node.get("clip", 0.0)
        return x.clamp(-clip, clip) if clip else x

    def active(self, which: int, x: Tensor) -> Tensor:
        """The output of an activation."""
        return self.activations[which](self.limited(x))


def rnn_step(layer: Layer) -> Step:
    """A plain recurrence."""
    _, recurrent, _, bias = layer.weights
    return lambda gates, states: (layer.active(0, gates + functional.linear(states[0], recurrent, bias)),)


def gru_step(layer: Layer) -> Step:
    """A recurrence with an update and a reset gate."""
    _, recurrent, _, bias = layer.weights
    size = recurrent.shape[1]
    reset_after = bool(layer.node.get("linear_before_reset", 0))

    def step(gates: Tensor, states: States) -> States:
        """The next hidden state."""
        (hidden,) = states
        both = gates[:, : 2 * size] + functional.linear(hidden, recurrent[: 2 * size], bias[: 2 * size])
        update, reset = layer.active(0, both).chunk(2, 1)
        if reset_after:
            past = reset * functional.linear(hidden, recurrent[2 * size :], bias[2 * size :])
        else:
            past = functional.linear(reset * hidden, recurrent[2 * size :], bias[2 * size :])
        return ((1 - update) * layer.active(1, gates[:, 2 * size :] + past) + update * hidden,)

    return step


def lstm_step(layer: Layer) -> Step:
    """A recurrence with a cell, whose gates may look at the cell and may be coupled."""
    _, recurrent, _, bias = layer.weights
    peep_i, peep_o, peep_f = layer.peepholes or (0.0, 0.0, 0.0)
    coupled = bool(layer.node.get("input_forget", 0))

    def step(gates: Tensor, states: States) -> States:
        """The next hidden state and the next cell."""
        hidden, cell = states
        i, o, f, c = (gates + functional.linear(hidden, recurrent, bias)).chunk(4, 1)
        i = layer.active(0, i + peep_i * cell)
        f = 1 - i if coupled else layer.active(0, f + peep_f * cell)
        cell = f * cell + i * layer.active(1, c)
        return layer.active(0, o + peep_o * cell) * layer.activations[2](cell), cell

    return step


def _activations(node: Node, defaults: Sequence[str], directions: int) -> list[list[Activation]]:
    """The activations of every direction; alpha and beta go in order to those that take them."""
    names = [name.lower() for name in node.get("activations") or list(defaults) * directions]
    alphas, betas = iter(node.get("activation_alpha") or ()), iter(node.get("activation_beta") or ())
    functions = []
    for name in names:
        if name not in _ACTIVATIONS:
            raise NoTorchFunctionError(f"no activation {name} of a recurrent layer")
        (alpha, beta), function = _ACTIVATIONS[name]
        functions.append(_bound(function, _next(alphas, alpha), _next(betas, beta)))
    each = len(defaults)
    return [functions[number * each : (number + 1) * each] for number in range(directions)]


def _next(given: Iterator[float], default: float | None) -> float:
    """The next number that the node gives, if the activation takes one."""
    return 0.0 if default is None else next(given, default)


def _bound(function: Callable[[Tensor, float, float], Tensor], alpha: float, beta: float) -> Activation:
    """An activation with its numbers."""
    return lambda x: function(x, alpha, beta)


def _unrolled(layer: Layer, step: Callable[[Layer], Step], x: Tensor, states: States, lengths: Tensor | None) -> tuple:
    """The outputs for every time and the last states, by a loop over time."""
    weight, _, bias, _ = layer.weights
    gates, advance, outputs = functional.linear(x, weight, bias), step(layer), []
    for time in range(x.shape[0]):
        following = advance(gates[time], states)
        if lengths is None:
            outputs.append(following[0])
        else:  # a sequence that has ended keeps its states, and its outputs are zero
            on = (lengths > time)[:, None]
            outputs.append(torch.where(on, following[0], torch.zeros_like(following[0])))
            following = tuple(torch.where(on, new, old) for new, old in zip(following, states, strict=True))
        states = following
    return torch.stack(outputs) if outputs else x.new_zeros(0, *states[0].shape), states


def _fused(node: Node, layer: Layer, x: Tensor, states: States) -> tuple | None:
    """The same by torch's own layer, where its meaning is the node's."""
    if x.numel() == 0 or states[0].numel() == 0 or layer.peepholes is not None:
        return None
    if any(node.get(name) for name in ("clip", "activations", "input_forget")):
        return None
    order = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 2, 3, 1]}[node.operator]
    if node.operator == "GRU" and not node.get("linear_before_reset", 0):
        return None
    weights = [torch.cat([weight.chunk(len(order))[gate] for gate in order]) for weight in layer.weights]
    hidden = [state[None].contiguous() for state in states]
    shape = (True, 1, 0.0, True, False, False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not part of single contiguous chunk")
        if node.operator == "LSTM":
            y, *last = torch.lstm(x, hidden, weights, *shape)
        else:
            y, *last = (torch.gru if node.operator == "GRU" else torch.rnn_tanh)(x, hidden[0], weights, *shape)
    return y, tuple(state[0] for state in last)


def _turned(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Every sequence backwards, within its length."""
    if lengths is None:
        return x.flip(0)
    time = torch.arange(x.shape[0], device=x.device)[:, None]
    index = torch.where(time < lengths, lengths - 1 - time, time)
    return x.gather(0, index[:, :, None].expand_as(x))


def _layer(step: Callable[[Layer], Step], defaults: Sequence[str], names: Sequence[str]) -> Callable[..., tuple]:
    """The function of a recurrent operator.

    Args:
        step: the recurrence of one direction.
        defaults: activations of one direction.
        names: of the inputs after X, W and R.
    """

    def run(node: Node, x: Tensor, w: Tensor, r: Tensor, *optional: Tensor | None) -> tuple[Tensor, ...]:
        """The outputs for every time and the last states."""
        given = {name: value for name, value in zip(names, optional, strict=False) if value is not None}
        first = bool(node.get("layout", 0))  # whether the batch is the first axis
        x = x.transpose(0, 1) if first else x
        directions, size, gates = w.shape[0], r.shape[2], w.shape[1]
        biases = given["B"] if "B" in given else x.new_zeros(directions, 2 * gates)
        lengths = given["sequence_lens"].to(x.device, torch.int64) if "sequence_lens" in given else None
        zeros = x.new_zeros(directions, x.shape[1], size)
        initial = [given.get(name) for name in ("initial_h", "initial_c") if name in names]
        initial = [zeros if state is None else state.transpose(0, 1) if first else state for state in initial]
        activations, found = _activations(node, defaults, directions), []
        for direction in range(directions):
            backward = node.get("direction", "forward") == "reverse" or direction == 1
            peepholes = given["P"][direction].chunk(3) if "P" in given else None
            bias, recurrent_bias = biases[direction].chunk(2)
            weights = (w[direction], r[direction], bias, recurrent_bias)
            layer = Layer(node, weights, activations[direction], peepholes)
            states = tuple(state[direction] for state in initial)
            sequence = _turned(x, lengths) if backward else x
            result = _fused(node, layer, sequence, states) if lengths is None else None
            y, last = result or _unrolled(layer, step, sequence, states, lengths)
            found.append((_turned(y, lengths) if backward else y, *last))
        y, *states = (torch.stack(values) for values in zip(*found, strict=True))
        if first:
            return y.permute(2, 1, 0, 3), *(state.transpose(0, 1) for state in states)
        return y.transpose(0, 1), *states

    return run


_SHORT = ("B", "sequence_lens", "initial_h")

FUNCTIONS: Functions = {
    "RNN": {7: _layer(rnn_step, ("Tanh",), _SHORT)},
    "GRU": {7: _layer(gru_step, ("Sigmoid", "Tanh"), _SHORT)},
    "LSTM": {7: _layer(lstm_step, ("Sigmoid", "Tanh", "Tanh"), (*_SHORT, "initial_c", "P"))},
}
