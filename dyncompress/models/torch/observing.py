# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportOptionalMemberAccess=false, reportOptionalOperand=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""What may be known about each layer, streamed: second moments of inputs, Fisher information and moments of outputs.

Forward hooks accumulate, so memory holds one batch's activations and the accumulators, never the data. Where the input
moments of all layers together would not fit, the layers are taken in several passes over the data.
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
from dyncompress.models.torch.calling import EnoughError, called, flattened, frozen, hooked, placed, split
from dyncompress.models.torch.curvature import hessian_spectra
from dyncompress.models.torch.inputs import InputSums
from dyncompress.models.torch.layers import Trace, channel_axis, parameter_of
from dyncompress.models.torch.noise import noise_gains
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

# Bytes that the input moments of one pass over the data may take, or the largest layer's if that is more.
_MOMENT_BYTES = 1 << 26
# Examples that the Fisher information is taken on: a mean of a heavy-tailed number, since few examples are unsure.
_FISHER_EXAMPLES = 1024
# Numbers that the layers' outputs may take at once, when a backward pass keeps them alive.
_LIVE_NUMBERS = 200_000_000
# Share of an output error's power that is alike at all positions. Independent errors (0) don't add up in front of an average
# over positions, and real ones do: rounding the last convolution costs ten times what independence predicts.
_SHARED = 0.05
# Share of the uniform law in the answers that Fisher information is taken at. Where a softmax is saturated its second derivative
# is zero while a larger error still changes the answer: without it, steps of rounding would know no bound. To what sure answers
# of ordinary logits (about 10) cost it adds less than a thousandth.
_UNSURE = 1e-4
_STREAMED = (InputMoment, OutputFisher, OutputMoments)
_DERIVED = (NoiseGain, HessianSpectrum)


@dataclass
class Collected:
    """Accumulators of one layer.

    Attributes:
        moment: of the inputs.
        fisher: `[out]` sum over examples and positions of squared gradients, float64.
        examples: that the sum is over.
        reached: whether the layer was called.
        sums: count, sum and sum of squares of the outputs, float64 `[out]`.
    """

    moment: InputSums = field(default_factory=InputSums)
    fisher: Tensor | None = None
    sums: tuple[float, Tensor, Tensor] | None = None
    examples: int = 0
    reached: bool = False


def observations(
    module: nn.Module,
    trace: Trace,
    layers: Sequence[Layer],
    needs: Sequence[Need],
    data: Sequence[Batch],
    names: Sequence[str],
    seed: int,
) -> Iterator[tuple[str, Observation]]:
    """Layer by layer in forward order, what `needs` asks for.

    Layers left alone give their `Weight` only; embeddings no input moment and nothing of their output.

    Raises:
        InvalidRequest: data are asked for and there are none, or a batch doesn't fit the model.
    """
    wanted = tuple(need for need in needs if isinstance(need, _STREAMED))
    derived = tuple(need for need in needs if isinstance(need, _DERIVED))
    if (wanted or derived) and not data:
        raise InvalidRequest(
            f"observing {', '.join(repr(need) for need in (*wanted, *derived))} needs calibration data, and none was given."
        )
    for chosen in _passes(layers, wanted):
        found: dict[str, Collected] = {}
        streams = [layer for layer in chosen if _streams(layer)] if wanted or derived else []
        targets = {layer.name: module.get_submodule(trace.modules[layer.name]) for layer in streams}
        if wanted:
            pieces = (piece for batch in data for piece in split(batch, names, _LIVE_NUMBERS // max(trace.activations, 1)))
            once = all(trace.calls.get(name) == 1 for name in targets)
            found = _streamed(module, targets, wanted, pieces, names, seed, stops=once and set(wanted) == {InputMoment()})
        views = [need for need in needs if isinstance(need, Spectrum)]
        spectral = [layer for layer in chosen if _streams(layer)] if views else []
        spectra = linalg.streamed_spectra((parameter_of(module, layer).detach(), n.view) for layer in spectral for n in views)
        further = {need: _derived(module, targets, need, data, names, seed) for need in derived}
        for layer in chosen:
            values = _values(module, layer, needs, found.pop(layer.name, None))
            values |= {view: next(spectra) for view in views if _streams(layer)}
            values |= {need: found_of[layer.name] for need, found_of in further.items() if layer.name in found_of}
            yield layer.name, Observation(layer, values)


def _derived(
    module: nn.Module,
    targets: Mapping[str, nn.Module],
    need: NoiseGain | HessianSpectrum,
    data: Sequence[Batch],
    names: Sequence[str],
    seed: int,
) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Layer -> what needs derivatives of the whole network."""
    if isinstance(need, NoiseGain):
        return noise_gains(module, targets, data, names, seed)
    return hessian_spectra(module, targets, need=need, data=data, names=names, seed=seed)


def _streams(layer: Layer) -> bool:
    """Whether its inputs and outputs can be observed."""
    return not layer.left_alone and layer.has_inputs


def _passes(layers: Sequence[Layer], wanted: Sequence[Need]) -> Iterator[list[Layer]]:
    """Consecutive layers whose input moments fit into memory together; all of them where no moment is wanted.

    Moments of one pass take no more than the largest layer's alone, so that the peak is that of the largest layer however many
    there are; the price is a forward pass of the data (up to the last layer observed) for each.
    """
    block: list[Layer] = []
    total = 0
    sizes = [8 * layer.groups * layer.fan_in**2 if InputMoment() in wanted and _streams(layer) else 0 for layer in layers]
    limit = max(_MOMENT_BYTES, *sizes) if sizes else 0
    for layer, size in zip(layers, sizes, strict=True):
        if block and total + size > limit:
            yield block
            block, total = [], 0
        block.append(layer)
        total += size
    if block:
        yield block


def _values(module: nn.Module, layer: Layer, needs: Sequence[Need], found: Collected | None) -> dict[Need, Any]:
    """The entries of one layer's observation that need no other layer; what isn't the door's to give is passed over."""
    weight = parameter_of(module, layer).detach()
    values: dict[Need, Any] = {}
    for need in needs:
        if isinstance(need, Weight):
            values[need] = weight.clone(memory_format=torch.contiguous_format)
        elif isinstance(need, Bias) and _streams(layer):
            bias = module.get_submodule(layer.name).bias
            values[need] = None if bias is None else bias.detach().clone()
        elif isinstance(need, _STREAMED) and found is not None and found.reached:  # a branch that no example took has no inputs
            values[need] = _reading(need, found)
    return values


def _reading(need: Need, found: Collected) -> Any:
    """The value of one streamed need."""
    if isinstance(need, InputMoment):
        return found.moment.value.float()
    if isinstance(need, OutputFisher):
        return (found.fisher / found.examples).float()
    count, total, squares = found.sums
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()


def _streamed(
    module: nn.Module,
    targets: Mapping[str, nn.Module],
    wanted: Sequence[Need],
    data: Iterable[Batch],
    names: Sequence[str],
    seed: int,
    *,
    stops: bool,
) -> dict[str, Collected]:
    """One pass over the data with hooks on these layers; `stops`: each is called once, and what follows the last isn't needed."""
    found = {name: Collected() for name in targets}
    fisher = OutputFisher() in wanted
    examples = 0
    waiting: set[str] = set()

    def before(name: str, layer: nn.Module, args: tuple) -> None:
        found[name].moment.add(layer, args[0].detach())
        found[name].reached = True
        leave(name)

    def leave(name: str) -> None:
        """End the pass where only inputs were wanted, and no layer is left whose inputs are."""
        waiting.discard(name)
        if stops and not waiting:
            raise EnoughError

    def after(name: str, layer: nn.Module, output: Tensor) -> Tensor | None:
        """Take in one output, and ask for its gradient where Fisher information is wanted."""
        found[name].reached = True
        if OutputMoments() in wanted:
            found[name].sums = _added(found[name].sums, layer, output.detach())
        if not fisher or not torch.is_grad_enabled():
            return None
        collected = found[name]
        if collected.fisher is None:
            collected.fisher = torch.zeros(output.shape[channel_axis(layer, output)], dtype=torch.float64, device=output.device)
        tensor = output if output.requires_grad else output.detach().requires_grad_()

        def back(gradient: Tensor) -> None:
            collected.fisher.add_(_squares(layer, gradient))

        tensor.register_hook(back)
        # The first layers have no gradient to pass on: a leaf starts there, and its clone lets an activation work in place.
        return None if tensor is output else tensor.clone()

    handles = []
    for name, layer in targets.items():
        if InputMoment() in wanted:
            handles.append(layer.register_forward_pre_hook(lambda m, a, name=name: before(name, m, a)))
        if fisher or OutputMoments() in wanted:
            handles.append(layer.register_forward_hook(lambda m, _a, o, name=name: after(name, m, o)))
    with ExitStack() as stack:
        stack.enter_context(hooked(handles))
        stack.enter_context(frozen(module))
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        stack.enter_context(linalg.full_precision(device))
        generator = torch.Generator().manual_seed(seed)
        for batch in data:
            backward = fisher and examples < _FISHER_EXAMPLES
            if not backward and wanted == (OutputFisher(),):
                break
            waiting.update(targets)
            with suppress(EnoughError):
                _visited(module, placed(batch, module, names), names, backward, generator)
            examples += len(batch[names[0]]) if backward else 0
    for collected in found.values():
        collected.examples = examples
    return found


def _visited(
    module: nn.Module, inputs: Mapping[str, Tensor], names: Sequence[str], fisher: bool, generator: torch.Generator
) -> None:
    """Run one batch forward and, for the Fisher information, backward.

    Raises:
        InvalidRequest: the batch doesn't fit the model.
    """
    with torch.set_grad_enabled(fisher):
        output = called(module, inputs, names)
    if fisher:
        scores = [score for score in (_log_likelihood(t, generator) for t in flattened(output)) if score is not None]
        if scores:
            torch.stack(scores).sum().backward()


def _log_likelihood(output: Tensor, generator: torch.Generator) -> Tensor | None:
    """A scalar whose squared gradient is, on average, the Fisher information of the model's own predictive law.

    Scores `[n, classes]`: with p the softmax, mixed with the uniform law by `_UNSURE`,
    F = diag(p) - p p^T = B B^T for B = diag(sqrt p) - p sqrt(p)^T, and the scalar is
    output . B z, z random signs. A label drawn from p gives the same on average, but of a sure answer nearly always nothing
    and rarely much: a thousand examples left the whole uncertain by 12 %. Anything else is read as the mean of a Gaussian with
    the output's own standard deviation: sum of output * z / std.
    """
    if not output.requires_grad or not output.is_floating_point():
        return None
    if output.ndim == 2 and output.shape[1] >= 2:
        p = torch.lerp(functional.softmax(output.detach().float(), dim=1), torch.full_like(output, 1 / output.shape[1]), _UNSURE)
        signs = 2 * torch.randint(0, 2, output.shape, generator=generator).to(p) - 1
        spread = p.sqrt() * signs
        return (output.float() * (spread - p * spread.sum(1, keepdim=True))).sum()
    z = torch.randn(output.shape, generator=generator).to(output.device)
    std = output.detach().float().std() if output.numel() > 1 else torch.tensor(1.0)
    return (output.float() * z).sum() / std.clamp_min(1e-12).to(output.device)


def _squares(layer: nn.Module, gradient: Tensor) -> Tensor:
    """Sum over everything but channels of the squared gradient, a share of it of the positions' sum, float64 `[out]`."""
    axis = channel_axis(layer, gradient)
    positions = [a for a in range(1, gradient.ndim) if a != axis]
    if positions:
        together = gradient.detach().sum(positions).square().sum(0, dtype=torch.float64)
        return (1 - _SHARED) * _each(gradient, axis) + _SHARED * together
    return _each(gradient, axis)


def _each(gradient: Tensor, axis: int) -> Tensor:
    """Sum over everything but channels of the squared gradient, float64 `[out]`."""
    return gradient.detach().square().sum([a for a in range(gradient.ndim) if a != axis], dtype=torch.float64)


def _added(sums: tuple[float, Tensor, Tensor] | None, layer: nn.Module, output: Tensor) -> tuple[float, Tensor, Tensor]:
    """Count, sum and sum of squares with one more batch."""
    axis = channel_axis(layer, output)
    axes = [a for a in range(output.ndim) if a != axis]
    count = output.numel() / output.shape[axis]
    total, squares = output.sum(axes, dtype=torch.float64), output.double().square().sum(axes)
    return (count, total, squares) if sums is None else (sums[0] + count, sums[1] + total, sums[2] + squares)
