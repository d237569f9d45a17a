# pyright: reportArgumentType=false, reportCallIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Layers compressed one after the other, each fitted to the original's output on the inputs that earlier layers leave it.

The calibration examples run through the network twice in one batch: the first half as the original computes them, the second
half as the layers that are compressed already compute them. At each layer, y is the original's output and x' the layer's inputs
in the second half. The weight that least squares fits to y on x' is W + E[(y - W x') x'^T] E[x' x'^T]^-1; `ResidualMoments`
holds these moments. The layer is compressed at once, and the second half continues with its new weight, so that the whole
network takes one forward pass. Where a layer's output is added to a tensor that is known by then, as at the end of a residual
block, the error of that tensor counts as part of the residual.

**Source**: asymmetric calibration, Li et al., "GPTAQ", 2025; Nagel et al. 2020, section 3.4. Both halves in one pass are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight
from torch.overrides import TorchFunctionMode

from dyncompress import linalg
from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.blocks import silent_block_outputs
from dyncompress.models.torch.calling import call, device_inputs, temporary_hooks
from dyncompress.models.torch.inputs import InputSums, patches
from dyncompress.models.torch.layer_trace import used_once
from dyncompress.models.torch.layers import canonical, channel_axis, kind_of, native_layout
from dyncompress.models.torch.traced_model import TracedModel
from dyncompress.models.torch.turns import Turns
from dyncompress.types import Batch, LayerFit, ResidualMoments

# Numbers in the largest activation of the pass, both halves together.
_LARGEST_ACTIVATION = 100_000_000
# Shapes of examples that have a pass of their own; examples of further shapes aren't used.
_MOST_SHAPES = 64
_ADDITIONS = ("add", "add_", "__add__", "__iadd__")
# Numbers of the inputs whose products are formed at once.
_BLOCK_NUMBERS = 16_000_000
# Numbers of a temporary output: the allocator reuses memory of this size, and requests larger pieces from the system each time.
_TEMPORARY_NUMBERS = 4_000_000


@torch.no_grad()
def in_sequence(
    model: TracedModel, batches: Sequence[Batch], names: Sequence[str], solve: LayerFit, *, shortcuts: bool = True
) -> dict[str, tuple[Tensor, Tensor]]:
    """Compress layers in the order of the forward pass.

    Args:
        model: the original.
        batches: calibration inputs; as many examples are used as fit the largest activation into 400 MB.
        names: layers to compress. Layers that are called several times and layers whose batch axis isn't first are ignored.
        solve: called once for each layer, in order; returns the layer's new weight in canonical layout.
        shortcuts: whether the error of a tensor that is added to a layer's output counts as part of the layer's residual.

    Returns:
        layer -> (new weight in canonical layout, shift `[out]` of its output); empty where no layer can be compressed this way.

    Raises:
        InvalidRequest: there are fewer than two calibration examples.
    """
    joined = batches_by_shape(model, batches, max(2, _LARGEST_ACTIVATION // (2 * model.trace.largest)))
    single = [name for name in names if used_once(model.module, model.trace, name)]
    plans = [_addition_plan(model, {name: value[:4] for name, value in batch.items()}, single) for batch in joined]
    common = [name for name in plans[0] if all(name in plan for plan in plans)]
    fit = _SharedFit(solve)
    passes = [_SequentialPass(model, {name: plan[name] for name in common}, fit, shortcuts) for plan in plans]
    inputs = [_doubled(model, batch) for batch in joined]
    precision = linalg.full_precision(next(iter(inputs[0].values())).device)
    hooks = _hooks(model, passes[0], lambda: passes[fit.turns.number])
    with temporary_hooks(hooks), precision:
        fit.turns.run([partial(one.run, batch) for one, batch in zip(passes, inputs, strict=True)])
    return fit.weights


def batches_by_shape(model: TracedModel, batches: Sequence[Batch], limit: int) -> Sequence[Batch]:
    """The calibration examples, those of one shape in one batch.

    Args:
        model: names the inputs.
        batches: calibration inputs.
        limit: the largest number of examples of the first batch's size; longer ones count as several.

    Raises:
        InvalidRequest: there are fewer than two examples.
    """
    names, used = model.input_names, 0.0
    unit = _numbers(batches[0]) if batches else 1.0
    by_shape: dict[Any, list[Batch]] = {}
    for batch in batches:
        tensors = {name: torch.as_tensor(batch[name]) for name in names}
        size = _numbers(tensors) / unit
        some = max(1, int((limit - used) / size)) if used < limit else 0
        shape = tuple(tuple(value.shape[1:]) for value in tensors.values())
        if some and (shape in by_shape or len(by_shape) < _MOST_SHAPES):
            by_shape.setdefault(shape, []).append({name: value[:some] for name, value in tensors.items()})
            used += size * len(by_shape[shape][-1][names[0]])
    joined = [{name: torch.cat([part[name] for part in parts]) for name in names} for parts in by_shape.values()]
    n = sum(len(batch[names[0]]) for batch in joined)
    if n < 2:
        raise InvalidRequest(f"fitting layers in order needs at least 2 calibration examples, and {n} were given; give more.")
    return joined


def _numbers(batch: Batch) -> float:
    """Numbers in one example of a batch."""
    return sum(value[:1].numel() for value in map(torch.as_tensor, batch.values())) or 1


def _doubled(model: TracedModel, batch: Batch) -> Mapping[str, Tensor]:
    """A batch with every example twice, on the model's device."""
    return device_inputs({name: torch.cat([value, value]) for name, value in batch.items()}, model.module, model.input_names)


def _hooks(model: TracedModel, one: _SequentialPass, running: Callable[[], _SequentialPass]) -> list[Any]:
    """Register hooks that call the running pass; returns their handles. `one` is any of the passes."""
    module, paths = model.module, model.trace.modules
    parts = {name: module.get_submodule(paths[name]) for name in one.plan}
    handles = [m.register_forward_hook(lambda m, a, y, name=name: running().compress(name, m, a, y)) for name, m in parts.items()]
    for block in one.late.values():
        part = module.get_submodule(block)
        handles.append(part.register_forward_pre_hook(lambda _m, a, block=block: running().keep_block_input(block, a)))
    return handles


class _SharedFit:
    """The new weights, each from the moments of all passes together.

    Attributes:
        weights: layer -> (new weight, shift), filled in the order of the pass.
        turns: of the passes.
    """

    def __init__(self, solve: LayerFit) -> None:
        """Start without weights."""
        self.solve, self.turns = solve, Turns()
        self.weights: dict[str, tuple[Tensor, Tensor]] = {}
        self._moments: dict[str, list[tuple[int, ResidualMoments]]] = {}

    def weight_of(self, name: str, layer: nn.Module, rows: int, moments: ResidualMoments) -> tuple[Tensor, Tensor]:
        """A layer's new weight and shift, when all passes have reached it; `moments` are this pass's over `rows` positions."""
        self._moments.setdefault(name, []).append((rows, moments))
        self.turns.pass_on()
        if name not in self.weights:
            whole = _mean_moments(self._moments.pop(name))
            weight = self.solve(name, whole).to(layer.weight)
            change = (weight - canonical(layer)).flatten(1).double().unflatten(0, (len(whole.mean), -1))
            shift = whole.residual_mean - (change * whole.mean[:, None, :]).sum(-1).flatten()
            self.weights[name] = weight, shift.to(layer.weight)
        return self.weights[name]


def _mean_moments(parts: Sequence[tuple[int, ResidualMoments]]) -> ResidualMoments:
    """The moments over the positions of several passes."""
    total = sum(rows for rows, _ in parts)
    first, *others = [(rows / total, moments) for rows, moments in parts]
    if not others:
        return first[1]
    values = {}
    for name in ("moment", "residual_cross_moment", "mean", "residual_mean"):
        values[name] = sum((share * getattr(moments, name) for share, moments in others), first[0] * getattr(first[1], name))
    return ResidualMoments(**values)


class _SequentialPass:
    """The forward pass of one batch of `in_sequence`, and the state that its hooks share.

    Attributes:
        plan: layer -> the call whose result is added to its output.
        fit: gives the new weights.
        calls: counter of the network's calls of torch functions.
        addends: number of a call -> its result, for calls whose result is added to a layer's output.
        late: layer -> the residual block that it closes, where the shortcut is computed after the layer.
        block_inputs: residual block -> its input.
    """

    def __init__(self, model: TracedModel, plan: Mapping[str, int | None], fit: _SharedFit, shortcuts: bool) -> None:
        """Prepare a pass over the layers of `plan`."""
        self.model, self.plan, self.fit = model, plan, fit
        self.calls = _Calls(self.keep_addend)
        self.addend_numbers = frozenset(plan.values()) if shortcuts else frozenset()
        self.addends: dict[int, Tensor] = {}
        self.late: dict[str, str] = {}
        if shortcuts:
            self.late = {b.closing: b.name for b in model.residual_blocks() if plan.get(b.closing, 0) is None}
        self.block_inputs: dict[str, Tensor] = {}

    def run(self, inputs: Mapping[str, Tensor]) -> None:
        """Run the network on a batch that holds every example twice."""
        with torch.no_grad(), self.calls:  # both hold for this thread alone
            call(self.model.module, inputs, self.model.input_names)

    def keep_addend(self, number: int, _function: Callable, _args: tuple, result: Tensor) -> None:
        """Keep the result of a call that is later added to a layer's output."""
        if number in self.addend_numbers:
            self.addends[number] = result

    def keep_block_input(self, block: str, args: tuple) -> None:
        """Keep the input of a block whose shortcut is computed after its last layer."""
        if not self.calls.off:
            self.block_inputs[block] = args[0]

    def addend(self, name: str, layer: nn.Module) -> Tensor | None:
        """The tensor that is added to a layer's output, both halves; None where it isn't known in time."""
        number = self.plan[name]
        if name not in self.late:
            return None if number is None else self.addends.get(number)
        block = self.late[name]
        with self.calls.uncounted():
            shortcut, _ = silent_block_outputs(self.model.module.get_submodule(block), layer, self.block_inputs.pop(block))
        return shortcut

    def compress(self, name: str, layer: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        """Forward hook: compress one layer, and replace the second half of its output by that of the new weight."""
        if self.calls.off:  # this very pass calls the layer, inside `addend`
            return None
        addend = self.addend(name, layer)
        with self.calls.paused():
            half = len(output) // 2
            x, y, own = args[0][half:], output[:half], output[half:]
            residual = torch.sub(y, own, out=own)  # in place: activations are the largest tensors of the pass
            if addend is not None and addend.shape == output.shape:
                residual += addend[:half]
                residual -= addend[half:]
            rows = residual.numel() // canonical(layer).shape[0]
            weights = self.fit.weight_of(name, layer, rows, _residual_moments(layer, x, residual))
            _write_output(layer, weights, x, own)
            return output


def _write_output(layer: nn.Module, weights: tuple[Tensor, Tensor], x: Tensor, output: Tensor) -> None:
    """Write a layer's output with another weight, plus a shift of its channels, into `output`."""
    weight, shift = weights
    parameters = {"weight": native_layout(layer, weight)}
    shape = [-1 if axis == channel_axis(layer, output) else 1 for axis in range(output.ndim)]
    step = max(1, _TEMPORARY_NUMBERS // max(output[0].numel(), 1))
    for inputs, outputs in zip(x.split(step), output.split(step), strict=True):
        torch.add(torch.func.functional_call(layer, parameters, (inputs,)), shift.view(shape), out=outputs)


def _residual_moments(layer: nn.Module, x: Tensor, residual: Tensor) -> ResidualMoments:
    """The moments over examples and positions, summed in blocks of bounded size."""
    rows = residual.numel() // canonical(layer).shape[0]
    moment, total, mean, residual_mean = InputSums(), 0.0, 0.0, 0.0
    step = max(1, _BLOCK_NUMBERS // max(x[0].numel(), residual[0].numel(), 1))
    for inputs, residuals in zip(x.split(step), residual.split(step), strict=True):
        axes = [axis for axis in range(residuals.ndim) if axis != channel_axis(layer, residuals)]
        moment.add(layer, inputs)
        mean = mean + _input_sums(layer, inputs)
        residual_mean = residual_mean + residuals.sum(axes).double()
        total = total + canonical(layer, _residual_products(layer, inputs, residuals)).flatten(1).double()
    return ResidualMoments(moment.value, total / rows, mean / rows, residual_mean / rows)


def _input_sums(layer: nn.Module, x: Tensor) -> Tensor:
    """Inputs summed over all output positions, `[groups, K]` float64. Patches are linear in the image, so it is summed first."""
    if kind_of(layer) == "linear":
        return x.flatten(0, -2).sum(0).double()[None]
    return patches(layer, x.sum(0, keepdim=True)).sum(1).double()


def _residual_products(layer: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    """Sum of residual x^T over examples and positions, in the layout of the module's weight.

    This is the gradient of <layer(x), residual> with respect to the weight.
    """
    if isinstance(layer, nn.Linear):
        return residual.flatten(0, -2).mT @ x.flatten(0, -2)
    if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple):
        options = layer.stride, layer.padding, layer.dilation, layer.groups
        return conv2d_weight(x, layer.weight.shape, residual, *options)  # it doesn't compute the layer's output
    weight = layer.weight.detach().clone().requires_grad_()
    with torch.enable_grad():
        output = torch.func.functional_call(layer, {"weight": weight}, (x,))
        return torch.autograd.grad(output, weight, residual)[0]


class _Calls(TorchFunctionMode):
    """Counts the calls of torch functions that return a tensor, and reports each: number, function, arguments, result."""

    def __init__(self, report: Callable[[int, Callable, tuple, Tensor], None]) -> None:
        """Start counting at 0."""
        super().__init__()
        self.report, self.count, self.off = report, 0, False

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Run the function, report the call, and count it."""
        result = func(*args, **(kwargs or {}))
        if not self.off and isinstance(result, Tensor):
            self.report(self.count, func, args, result)
            self.count += 1
        return result

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Calls inside this block don't count."""
        self.off = True
        try:
            yield
        finally:
            self.off = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Calls inside this block don't count and don't reach any torch function mode, which is faster.

        Modules with `product_places` don't work inside this block.
        """
        with self.uncounted(), torch._C.DisableTorchFunction():
            yield


class _Additions:
    """Which call's result is added to which layer's output.

    Attributes:
        results: of all calls, in order.
        layers: layer -> (number of calls before its output, its output).
        partner: layer -> number of the call whose result is added to its output.
    """

    def __init__(self) -> None:
        """Start without calls."""
        self.results: list[Tensor] = []
        self.layers: dict[str, tuple[int, Tensor]] = {}
        self.partner: dict[str, int] = {}

    def add_call(self, _number: int, func: Callable, args: tuple, result: Tensor) -> None:
        """Note the other summand of an addition to a layer's output, if it was computed before that output."""
        if getattr(func, "__name__", "") in _ADDITIONS and len(args) > 1:
            for name, (at, output) in reversed(self.layers.items()):
                other = args[1] if args[0] is output else args[0] if args[1] is output else None
                if isinstance(other, Tensor):
                    numbers = [k for k, earlier in enumerate(self.results[:at]) if earlier is other]
                    self.partner.update({name: numbers[-1]} if numbers else {})
                    break
        self.results.append(result)


def _addition_plan(model: TracedModel, few: Batch, names: Sequence[str]) -> dict[str, int | None]:
    """Layer -> the call whose result is added to its output; None where no such result is known in time.

    Layers for which the second half of a batch changes the inputs of the first half are left out.

    Args:
        model: the original.
        few: four examples or fewer.
        names: layers that are called once.
    """
    additions = _Additions()
    first, second = _halves_swapped(few)
    before = _inputs(model, first, names, additions)
    after = _inputs(model, second, names, _Additions())
    half = {name: len(x) // 2 for name, x in before.items()}
    independent = [
        name
        for name, x in before.items()
        if name in after and torch.allclose(x[: half[name]], after[name][: half[name]], rtol=1e-3, atol=1e-5)
    ]
    return {name: additions.partner.get(name) for name in independent}


def _halves_swapped(few: Batch) -> tuple[Batch, Batch]:
    """Batches [a, b] and [a, a], a the first half of the examples."""
    n = max(1, len(next(iter(few.values()))) // 2)
    return (
        {name: value[: 2 * n] for name, value in few.items()},
        {name: torch.cat([value[:n], value[:n]]) for name, value in few.items()},
    )


def _inputs(model: TracedModel, batch: Batch, names: Sequence[str], additions: _Additions) -> dict[str, Tensor]:
    """Layer -> its input; adds the pass's calls to `additions`."""
    layer_inputs: dict[str, Tensor] = {}
    calls = _Calls(additions.add_call)

    def record(name: str, args: tuple, output: Tensor) -> None:
        with calls.paused():
            layer_inputs[name] = args[0].clone()
        additions.layers[name] = calls.count, output

    layers = {name: model.module.get_submodule(model.trace.modules[name]) for name in names}
    handles = [m.register_forward_hook(lambda _m, a, y, name=name: record(name, a, y)) for name, m in layers.items()]
    inputs = device_inputs(batch, model.module, model.input_names)  # outside the counter: its calls aren't the network's
    with temporary_hooks(handles), calls:
        call(model.module, inputs, model.input_names)
    return layer_inputs
