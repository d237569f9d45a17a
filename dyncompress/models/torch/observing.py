# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportOptionalMemberAccess=false, reportOptionalOperand=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""What can be observed at each layer, streamed over the data: input moments, Fisher information and moments of the outputs.

Forward hooks accumulate sums, so memory holds one batch's activations and the accumulators, never the data. Where the input
moments of all layers together would not fit into memory, several passes over the data observe a few layers each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dyncompress import linalg
from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.calling import (
    EnoughError,
    call_calibration_batch,
    device_inputs,
    frozen_parameters,
    split,
    temporary_hooks,
    tensors_of,
)
from dyncompress.models.torch.class_scores import are_scores, as_scores
from dyncompress.models.torch.curvature import hessian_spectra
from dyncompress.models.torch.inputs import InputSums
from dyncompress.models.torch.layer_trace import SelectedLayers
from dyncompress.models.torch.layers import channel_axis, parameter_of
from dyncompress.models.torch.noise import noise_gains
from dyncompress.models.torch.traced_model import TracedModel
from dyncompress.types import (
    Batch,
    Bias,
    HessianSpectrum,
    InputMoment,
    Layer,
    Need,
    NoiseGain,
    Observation,
    OutputFisher,
    OutputMoments,
    Spectrum,
    Weight,
)

# Bytes that the input moments of one pass over the data may take; the largest layer's moment may take more.
_MOMENT_BYTES = 1 << 26
# Examples that the Fisher information is estimated from: a mean of a heavy-tailed number, since few examples are uncertain.
_FISHER_EXAMPLES = 1024
# Numbers that the layers' outputs may hold at once, when a backward pass keeps them.
_LIVE_NUMBERS = 200_000_000
# Share of an output error's power that is equal at all positions. Independent errors (share 0) cancel in an average over
# positions, and real errors don't: rounding the last convolution costs ten times what independence predicts.
_SHARED = 0.05
# Share of the uniform distribution in the predictions at which the Fisher information is taken. Where a softmax is saturated its
# second derivative is zero, although a larger error still changes the prediction: without this share, step sizes would have no
# bound. It adds less than a thousandth to the Fisher information of confident predictions with ordinary logits (about 10).
_UNIFORM_SHARE = 1e-4
_STREAMED = (InputMoment, OutputFisher, OutputMoments)
_DERIVED = (NoiseGain, HessianSpectrum)

OutputSums = tuple[float, Tensor, Tensor]  # count, sum and sum of squares of a layer's outputs, float64 `[out]`


@dataclass
class Accumulators:
    """The sums of one layer.

    Attributes:
        moment: second moment of the inputs.
        fisher: `[out]`, float64: squared gradients, summed over examples and positions; None before the first output.
        sums: of the outputs; None before the first output.
        examples: number of examples that `fisher` sums over.
        reached: whether the layer was called.
    """

    moment: InputSums = field(default_factory=InputSums)
    fisher: Tensor | None = None
    sums: OutputSums | None = None
    examples: int = 0
    reached: bool = False


def observe_layers(
    model: TracedModel, needs: Sequence[Need], data: Sequence[Batch], seed: int
) -> Iterator[tuple[str, Observation]]:
    """Observe the layers of a model in forward order.

    A layer that is left alone yields its `Weight` only. An embedding yields no input moment and nothing about its output.

    Args:
        model: the traced model.
        needs: what to observe; needs that a model can't provide, such as `Motion`, are ignored.
        data: calibration batches; may be empty where the needs concern weights only.
        seed: of the random labels and signs that Fisher information, noise gains and Hessian spectra draw.

    Yields:
        layer name and observation.

    Raises:
        InvalidRequest: the needs ask for data and there are none, or a batch doesn't fit the model.
    """
    streamed = tuple(need for need in needs if isinstance(need, _STREAMED))
    derived = tuple(need for need in needs if isinstance(need, _DERIVED))
    if (streamed or derived) and not data:
        raise InvalidRequest(
            f"observing {', '.join(repr(need) for need in (*streamed, *derived))} needs calibration data, and none was given."
        )
    for layers in _passes(model.layers(), streamed):
        yield from _observe_pass(model, layers, needs, data, seed)


def _observe_pass(
    model: TracedModel, layers: Sequence[Layer], needs: Sequence[Need], data: Sequence[Batch], seed: int
) -> Iterator[tuple[str, Observation]]:
    """Observe the layers of one pass over the data."""
    module, trace, names = model.module, model.trace, model.input_names
    streamed = tuple(need for need in needs if isinstance(need, _STREAMED))
    derived = tuple(need for need in needs if isinstance(need, _DERIVED))
    observable = [layer for layer in layers if _observable(layer)]
    parts = {layer.name: module.get_submodule(trace.modules[layer.name]) for layer in observable if streamed or derived}
    selected = SelectedLayers(module, names, parts)
    sums: dict[str, Accumulators] = {}
    if streamed:
        pieces = (piece for batch in data for piece in split(batch, names, _LIVE_NUMBERS // max(trace.activations, 1)))
        once = all(trace.calls.get(name) == 1 for name in parts)
        sums = _stream(selected, streamed, pieces, seed, stops=once and set(streamed) == {InputMoment()})
    views = [need for need in needs if isinstance(need, Spectrum)]
    weights = (parameter_of(module, layer).detach() for layer in observable)
    spectra = linalg.streamed_spectra((weight, need.view) for weight in weights for need in views)
    derivatives = {need: _network_derivatives(selected, need, data, seed) for need in derived}
    for layer in layers:
        values = _values(module, layer, needs, sums.pop(layer.name, None))
        values |= {view: next(spectra) for view in views if _observable(layer)}
        values |= {need: by_layer[layer.name] for need, by_layer in derivatives.items() if layer.name in by_layer}
        yield layer.name, Observation(layer, values)


def _network_derivatives(
    layers: SelectedLayers, need: NoiseGain | HessianSpectrum, data: Sequence[Batch], seed: int
) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Layer -> the value of a need that takes derivatives of the whole network."""
    if isinstance(need, NoiseGain):
        return noise_gains(layers, data, seed)
    return hessian_spectra(layers, need, data, seed)


def _observable(layer: Layer) -> bool:
    """Whether the inputs and outputs of a layer can be observed."""
    return not layer.left_alone and layer.has_inputs


def _passes(layers: Sequence[Layer], streamed: Sequence[Need]) -> Iterator[list[Layer]]:
    """Consecutive layers whose input moments fit into memory together; all layers where no moment is asked for.

    The moments of one pass take no more than the largest layer's alone, so that peak memory doesn't grow with the number of
    layers. Each pass costs a forward pass of the data, up to the last layer observed.
    """
    block: list[Layer] = []
    total = 0
    moments = InputMoment() in streamed
    sizes = [8 * layer.groups * layer.fan_in**2 if moments and _observable(layer) else 0 for layer in layers]
    limit = max(_MOMENT_BYTES, *sizes) if sizes else 0
    for layer, size in zip(layers, sizes, strict=True):
        if block and total + size > limit:
            yield block
            block, total = [], 0
        block.append(layer)
        total += size
    if block:
        yield block


def _values(module: nn.Module, layer: Layer, needs: Sequence[Need], sums: Accumulators | None) -> dict[Need, Any]:
    """The observed values that need neither other layers nor derivatives; other needs are ignored."""
    weight = parameter_of(module, layer).detach()
    values: dict[Need, Any] = {}
    for need in needs:
        if isinstance(need, Weight):
            values[need] = weight.clone(memory_format=torch.contiguous_format)
        elif isinstance(need, Bias) and _observable(layer):
            bias = module.get_submodule(layer.name).bias
            values[need] = None if bias is None else bias.detach().clone()
        elif isinstance(need, _STREAMED) and sums is not None and sums.reached:  # no example may reach the layer's branch
            values[need] = _value_of_sums(need, sums)
    return values


def _value_of_sums(need: Need, sums: Accumulators) -> Any:
    """The value of one streamed need, float32."""
    if isinstance(need, InputMoment):
        return sums.moment.value.float()
    if isinstance(need, OutputFisher):
        return (sums.fisher / sums.examples).float()
    count, total, squares = sums.sums
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()


class _Stream:
    """The hooks of one pass, and the sums that they add to.

    Attributes:
        sums: layer -> accumulators.
        waiting: layers that the present forward pass hasn't reached yet.
    """

    def __init__(self, layers: SelectedLayers, streamed: Sequence[Need], *, stops: bool) -> None:
        """Start with empty sums; `stops` ends every forward pass at the last layer."""
        self.layers, self.stops = layers.modules, stops
        self.inputs = InputMoment() in streamed
        self.fisher, self.outputs = OutputFisher() in streamed, OutputMoments() in streamed
        self.sums = {name: Accumulators() for name in self.layers}
        self.waiting: set[str] = set()

    def register(self) -> list[Any]:
        """Register the hooks; returns their handles."""
        handles = []
        for name, layer in self.layers.items():
            if self.inputs:
                handles.append(layer.register_forward_pre_hook(lambda m, a, name=name: self.add_input(name, m, a)))
            if self.fisher or self.outputs:
                handles.append(layer.register_forward_hook(lambda m, _a, o, name=name: self.add_output(name, m, o)))
        return handles

    def add_input(self, name: str, layer: nn.Module, args: tuple) -> None:
        """Add one input to a layer's moment.

        Raises:
            EnoughError: only inputs are asked for, and every layer has been reached.
        """
        self.sums[name].moment.add(layer, args[0].detach())
        self.sums[name].reached = True
        self.waiting.discard(name)
        if self.stops and not self.waiting:
            raise EnoughError

    def add_output(self, name: str, layer: nn.Module, output: Tensor) -> Tensor | None:
        """Add one output to a layer's sums, and its gradient where Fisher information is asked for."""
        sums = self.sums[name]
        sums.reached = True
        if self.outputs:
            sums.sums = _add_output(sums.sums, layer, output.detach())
        if not self.fisher or not torch.is_grad_enabled():
            return None
        if sums.fisher is None:
            sums.fisher = torch.zeros(output.shape[channel_axis(layer, output)], dtype=torch.float64, device=output.device)
        total = sums.fisher
        tensor = output if output.requires_grad else output.detach().requires_grad_()

        def add_gradient(gradient: Tensor) -> None:
            total.add_(_squares(layer, gradient))

        tensor.register_hook(add_gradient)
        # The first layers have no gradient to pass on: a leaf starts there, and its clone allows in-place activations.
        return None if tensor is output else tensor.clone()


def _stream(
    layers: SelectedLayers, streamed: Sequence[Need], data: Iterable[Batch], seed: int, *, stops: bool
) -> dict[str, Accumulators]:
    """One pass over the data with hooks on the layers.

    Args:
        layers: the network and the layers.
        streamed: the streamed needs.
        data: batches that fit into memory with their activations.
        seed: of the Fisher information's random signs.
        stops: whether a forward pass may end at the last layer: each is called once, and only inputs are asked for.
    """
    module, names = layers.module, layers.input_names
    stream = _Stream(layers, streamed, stops=stops)
    examples = 0
    with ExitStack() as stack:
        stack.enter_context(temporary_hooks(stream.register()))
        stack.enter_context(frozen_parameters(module))
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        stack.enter_context(linalg.full_precision(device))
        generator = torch.Generator().manual_seed(seed)
        for batch in data:
            backward = stream.fisher and examples < _FISHER_EXAMPLES
            if not backward and tuple(streamed) == (OutputFisher(),):
                break
            stream.waiting.update(layers.modules)
            with suppress(EnoughError):
                _run_batch(module, device_inputs(batch, module, names), names, generator if backward else None)
            examples += len(batch[names[0]]) if backward else 0
    for sums in stream.sums.values():
        sums.examples = examples
    return stream.sums


def _run_batch(module: nn.Module, inputs: Mapping[str, Tensor], names: Sequence[str], generator: torch.Generator | None) -> None:
    """Run one batch forward and, where a generator is given, backward for the Fisher information.

    Raises:
        InvalidRequest: the batch doesn't fit the model.
    """
    with torch.set_grad_enabled(generator is not None):
        output = call_calibration_batch(module, inputs, names)
    if generator is not None:
        scores = [score for score in (_log_likelihood(t, generator) for t in tensors_of(output)) if score is not None]
        if scores:
            torch.stack(scores).sum().backward()


def _log_likelihood(output: Tensor, generator: torch.Generator) -> Tensor | None:
    """A scalar whose squared gradient is, in expectation, the Fisher information of the model's own predictive distribution.

    For scores `[n, classes]` (of probabilities their logarithm): p is the softmax, mixed with the uniform distribution by
    `_UNIFORM_SHARE`. Then F = diag(p) - p p^T = B B^T for B = diag(sqrt p) - p sqrt(p)^T, and the scalar is output . B z with
    random signs z. A label drawn from p has the same expectation but a larger variance: for a confident prediction its gradient
    is nearly always near zero and rarely large, and a thousand examples left a relative error of 12 %.

    Any other floating-point output is the mean of a Gaussian with the output's own standard deviation: the scalar is the sum of
    output * z / std, with z standard normal.

    Returns:
        the scalar; None for an output without a gradient.
    """
    if not output.requires_grad or not output.is_floating_point():
        return None
    if are_scores(output):
        output = as_scores(output.float())
        p = torch.lerp(
            functional.softmax(output.detach().float(), dim=1), torch.full_like(output, 1 / output.shape[1]), _UNIFORM_SHARE
        )
        signs = 2 * torch.randint(0, 2, output.shape, generator=generator).to(p) - 1
        spread = p.sqrt() * signs
        return (output.float() * (spread - p * spread.sum(1, keepdim=True))).sum()
    z = torch.randn(output.shape, generator=generator).to(output.device)
    std = output.detach().float().std() if output.numel() > 1 else torch.tensor(1.0)
    return (output.float() * z).sum() / std.clamp_min(1e-12).to(output.device)


def _squares(layer: nn.Module, gradient: Tensor) -> Tensor:
    """Squared gradient of each output channel, float64 `[out]`, summed over examples.

    (1 - s) sum over positions of g^2 + s (sum over positions of g)^2, with s the share `_SHARED` of errors that are equal at all
    positions.
    """
    axis = channel_axis(layer, gradient)
    positions = [a for a in range(1, gradient.ndim) if a != axis]
    if positions:
        together = gradient.detach().sum(positions).square().sum(0, dtype=torch.float64)
        return (1 - _SHARED) * _squares_by_channel(gradient, axis) + _SHARED * together
    return _squares_by_channel(gradient, axis)


def _squares_by_channel(gradient: Tensor, axis: int) -> Tensor:
    """Squared gradient of each output channel, summed over examples and positions, float64 `[out]`."""
    return gradient.detach().square().sum([a for a in range(gradient.ndim) if a != axis], dtype=torch.float64)


def _add_output(sums: OutputSums | None, layer: nn.Module, output: Tensor) -> OutputSums:
    """Count, sum and sum of squares after one more output."""
    axis = channel_axis(layer, output)
    axes = [a for a in range(output.ndim) if a != axis]
    count = output.numel() / output.shape[axis]
    total, squares = output.sum(axes, dtype=torch.float64), output.double().square().sum(axes)
    return (count, total, squares) if sums is None else (sums[0] + count, sums[1] + total, sums[2] + squares)
