# pyright: reportArgumentType=false, reportCallIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Layers compressed one after the other, each to give the original's output from the inputs that the layers before leave it.

The examples run through the network twice at once: the first half of the batch as the original computes it, the second half
behind the layers that are compressed already. At each layer, with y the original's output and x' the inputs of the second half,
least squares has all it needs: the weight that makes up for all errors before is W + E[(y - W x') x'^T] E[x' x'^T]^-1. The layer
is compressed there and then, and the second half goes on with what it is now: one forward pass for the whole network. Where a
layer's output is added to something that is known by then, as at the end of a residual block, the error of that other summand is
made up for as well.

**Source**: asymmetric calibration, Li et al., "GPTAQ", 2025; Nagel et al. 2020, section 3.4. Both halves in one pass are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight
from torch.overrides import TorchFunctionMode

from dyncompress import linalg
from dyncompress.models.torch.blocks import silenced
from dyncompress.models.torch.calling import call, hooked, placed
from dyncompress.models.torch.inputs import InputSums, patches
from dyncompress.models.torch.layers import canonical, channel_axis, kind_of, stored, used_once
from dyncompress.models.torch.matching import together
from dyncompress.models.torch.model import TorchModel
from dyncompress.types import Batch, LayerFit, SequentialMoments

# Numbers in the largest activation of the pass, both halves.
_LARGEST_ACTIVATION = 100_000_000
_ADDITIONS = ("add", "add_", "__add__", "__iadd__")
# Numbers of the inputs that are looked at together.
_BLOCK_NUMBERS = 16_000_000
# Numbers of an output that comes and goes: memory of that size is used again, larger pieces are asked of the system each time.
_LITTLE = 4_000_000


@torch.no_grad()
def in_sequence(
    model: TorchModel, batches: Sequence[Batch], names: Sequence[str], solve: LayerFit, *, shortcuts: bool = True
) -> dict[str, tuple[Tensor, Tensor]]:
    """Compress these layers in the order of the forward pass.

    Args:
        model: the original.
        batches: calibration inputs; as many examples as fit the largest activation into 400 MB are used.
        names: layers to compress; those that are called more than once, or whose batch axis isn't in front, are passed over.
        solve: layer and what it should make up for -> its new weight.
        shortcuts: whether errors of what is added to a layer's output count.

    Returns:
        layer -> (weight, shift of the output); empty where no layer can be taken so.
    """
    batch = together(batches, model.input_names, max(2, _LARGEST_ACTIVATION // (2 * model.trace.largest)))
    plain = [name for name in names if used_once(model.module, model.trace, name)]
    plan = _looked_ahead(model, {name: value[:4] for name, value in batch.items()}, plain)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    kept: dict[int, Tensor] = {}
    keep = frozenset(plan.values()) if shortcuts else frozenset()
    calls = _Calls(lambda number, _func, _args, result: kept.update({number: result} if number in keep else {}))
    late = {b.closing: b.name for b in model.residual_blocks() if plan.get(b.closing, 0) is None} if shortcuts else {}
    given: dict[str, Tensor] = {}

    def enter(block: str, args: tuple) -> None:
        """Keep what enters a block whose shortcut is computed behind its last layer."""
        if not calls.off:
            given[block] = args[0]

    def replace(name: str, layer: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        """Compress one layer; the second half goes on with its new weight."""
        if calls.off:  # called from below
            return None
        number = plan[name]
        other = None if number is None else kept.get(number)
        if name in late:
            with calls.uncounted():
                other, _ = silenced(model.module.get_submodule(late[name]), layer, given.pop(late[name]))
        with calls.paused():
            half = len(output) // 2
            x, y, own = args[0][half:], output[:half], output[half:]
            lack = torch.sub(y, own, out=own)  # in place, as what takes its place below: these are the largest tensors there are
            if other is not None and other.shape == output.shape:
                lack += other[:half]
                lack -= other[half:]
            wanted = _wanted(layer, x, lack)
            weight = solve(name, wanted).to(layer.weight)
            change = (weight - canonical(layer)).flatten(1).double().unflatten(0, (len(wanted.mean), -1))
            shift = (wanted.shift - (change * wanted.mean[:, None, :]).sum(-1).flatten()).to(layer.weight)
            found[name] = weight, shift
            given_weight = {"weight": stored(layer, weight)}
            shape = [-1 if axis == channel_axis(layer, output) else 1 for axis in range(output.ndim)]
            step = max(1, _LITTLE // max(own[0].numel(), 1))
            for inputs, outputs in zip(x.split(step), own.split(step), strict=True):
                torch.add(torch.func.functional_call(layer, given_weight, (inputs,)), shift.view(shape), out=outputs)
            return output

    layers = {name: model.module.get_submodule(model.trace.modules[name]) for name in plan}
    handles = [m.register_forward_hook(lambda m, a, y, name=name: replace(name, m, a, y)) for name, m in layers.items()]
    for block in late.values():
        part = model.module.get_submodule(block)
        handles.append(part.register_forward_pre_hook(lambda _m, a, block=block: enter(block, a)))
    twice = {name: torch.cat([value, value]) for name, value in batch.items()}
    inputs = placed(twice, model.module, model.input_names)
    with hooked(handles), calls, linalg.full_precision(next(iter(inputs.values())).device):
        call(model.module, inputs, model.input_names)
    return found


def _wanted(layer: nn.Module, x: Tensor, lack: Tensor) -> SequentialMoments:
    """Sums over the examples, in blocks of bounded size, over the number of positions."""
    rows = lack.numel() // canonical(layer).shape[0]
    moment, total, mean, shift = InputSums(), 0.0, 0.0, 0.0
    step = max(1, _BLOCK_NUMBERS // max(x[0].numel(), lack[0].numel(), 1))
    for inputs, missing in zip(x.split(step), lack.split(step), strict=True):
        moment.add(layer, inputs)
        mean = mean + _summed(layer, inputs)
        shift = shift + missing.sum([a for a in range(missing.ndim) if a != channel_axis(layer, missing)]).double()
        total = total + canonical(layer, _correlated(layer, inputs, missing)).flatten(1).double()
    return SequentialMoments(moment.value, total / rows, mean / rows, shift / rows)


def _summed(layer: nn.Module, x: Tensor) -> Tensor:
    """Inputs of all output positions, summed, `[groups, K]` float64: patches are linear in the image."""
    if kind_of(layer) == "linear":
        return x.flatten(0, -2).sum(0).double()[None]
    return patches(layer, x.sum(0, keepdim=True)).sum(1).double()


def _correlated(layer: nn.Module, x: Tensor, lack: Tensor) -> Tensor:
    """Sum of lack x^T over examples and positions, in the layout of the module's weight: the gradient of <layer(x), lack>."""
    if isinstance(layer, nn.Linear):
        return lack.flatten(0, -2).mT @ x.flatten(0, -2)
    if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple):
        how = layer.stride, layer.padding, layer.dilation, layer.groups
        return conv2d_weight(x, layer.weight.shape, lack, *how)  # without the layer's output, which isn't needed
    weight = layer.weight.detach().clone().requires_grad_()
    with torch.enable_grad():
        output = torch.func.functional_call(layer, {"weight": weight}, (x,))
        return torch.autograd.grad(output, weight, lack)[0]


# ---------------------------------------------------------------- what is added to what
class _Calls(TorchFunctionMode):
    """Counts the calls of torch functions that return a tensor, and shows each: number, function, arguments, result."""

    def __init__(self, notice: Callable[[int, Callable, tuple, Tensor], None]) -> None:
        """Start at 0."""
        super().__init__()
        self.notice, self.count, self.off = notice, 0, False

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Run, show and count."""
        result = func(*args, **(kwargs or {}))
        if not self.off and isinstance(result, Tensor):
            self.notice(self.count, func, args, result)
            self.count += 1
        return result

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Don't count inside this block."""
        self.off = True
        try:
            yield
        finally:
            self.off = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Don't count inside this block, nor ask at every call whether to: modules with `product_places` don't work here."""
        with self.uncounted(), torch._C.DisableTorchFunction():
            yield


class _Additions:
    """Which layer's output is added to the result of which call."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.results: list[Tensor] = []
        self.layers: dict[str, tuple[int, Tensor]] = {}
        self.partner: dict[str, int] = {}

    def notice(self, _number: int, func: Callable, args: tuple, result: Tensor) -> None:
        """Look for a layer's output among the summands; a partner that comes later isn't known in time."""
        if getattr(func, "__name__", "") in _ADDITIONS and len(args) > 1:
            for name, (at, output) in reversed(self.layers.items()):
                other = args[1] if args[0] is output else args[0] if args[1] is output else None
                if isinstance(other, Tensor):
                    made = [k for k, earlier in enumerate(self.results[:at]) if earlier is other]
                    self.partner.update({name: made[-1]} if made else {})
                    break
        self.results.append(result)


def _looked_ahead(model: TorchModel, few: Batch, names: Sequence[str]) -> dict[str, int | None]:
    """Layer -> the call whose result is added to its output (None: nothing that is known in time).

    Layers where the second half of a batch changes the inputs of the first are left out.
    """
    notes = _Additions()
    first, second = _halves_swapped(few)
    before = _inputs(model, first, names, notes)
    after = _inputs(model, second, names, _Additions())
    half = {name: len(x) // 2 for name, x in before.items()}
    fit = [
        name
        for name, x in before.items()
        if name in after and torch.allclose(x[: half[name]], after[name][: half[name]], rtol=1e-3, atol=1e-5)
    ]
    return {name: notes.partner.get(name) for name in fit}


def _halves_swapped(few: Batch) -> tuple[Batch, Batch]:
    """Batches [a, b] and [a, a], a the first half of the examples."""
    n = len(next(iter(few.values()))) // 2
    return (
        {name: value[: 2 * n] for name, value in few.items()},
        {name: torch.cat([value[:n], value[:n]]) for name, value in few.items()},
    )


def _inputs(model: TorchModel, batch: Batch, names: Sequence[str], notes: _Additions) -> dict[str, Tensor]:
    """The layers' inputs."""
    found: dict[str, Tensor] = {}
    calls = _Calls(notes.notice)

    def look(name: str, args: tuple, output: Tensor) -> None:
        with calls.paused():
            found[name] = args[0].clone()
        notes.layers[name] = calls.count, output

    layers = {name: model.module.get_submodule(model.trace.modules[name]) for name in names}
    handles = [m.register_forward_hook(lambda _m, a, y, name=name: look(name, a, y)) for name, m in layers.items()]
    inputs = placed(batch, model.module, model.input_names)  # outside: its calls aren't the network's
    with hooked(handles), calls:
        call(model.module, inputs, model.input_names)
    return found
