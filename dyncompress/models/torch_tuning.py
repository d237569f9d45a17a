# pyright: reportArgumentType=false, reportCallIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Label-free distillation of the cheap parameters: a gain and a shift for every output channel of every layer.

A compressed network learns to answer as its teacher does, min KL(teacher || student), on unlabelled images that are flipped and
shifted a little; outputs that aren't scores by their squared error over the teacher's variance. Only y -> gain y + shift of the
layers' outputs moves: scales take the gains, biases the shifts, and both are stored anyway, so that it costs no byte. Integer
codes and zeros stay where they are. Weights ask for no gradient, which saves a third of the backward pass.

A part of the examples is kept aside; the state of least divergence on it is returned, the one that came in included.

**Source**: knowledge distillation (Hinton et al. 2015) of normalisation parameters; gains are learned by their logarithm, shifts
in units of the output's standard deviation, so that one rate fits all.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch import TorchModel
from dyncompress.models.torch_calling import CALL_ERRORS, call, flattened, hooked, placed
from dyncompress.models.torch_layers import channel_axis, kind_of
from dyncompress.models.torch_matching import moments_of, together
from dyncompress.types import Affine, Batch, Distillation

# Numbers that the layers' outputs may take at once, since the backward pass keeps them alive.
_LIVE_NUMBERS = 200_000_000
_LARGEST_GRADIENT = 1.0
_WARM_SHARE = 0.05  # of the steps: the rate rises from nothing, since Adam's first steps know no scale
_LOOKED_AT = 256  # examples whose outputs' moments set the units
_SMALLEST_IMAGE = 8  # rows and columns from which an input `[n, c, h, w]` is taken for an image


def tuned(
    model: TorchModel, teacher: TorchModel, batches: Sequence[Batch], *, spec: Distillation, seed: int = 0, gains: bool = True
) -> tuple[TorchModel, dict[str, tuple[Tensor, Tensor]]]:
    """Distil the teacher into gains and shifts.

    Args:
        model: the compressed network.
        teacher: the original.
        batches: unlabelled inputs; a share `spec.held_out` of the examples, drawn by the seed, chooses among the epochs' states.
        spec: how long, how fast.
        seed: of the order of the examples and their augmentation.
        gains: whether the outputs' scale may change; else shifts alone are learned.

    Returns:
        the new model, and layer -> (gain, shift), each `[out]`: an encoding's scale takes the gain.

    Raises:
        InvalidRequest: fewer than two examples.
    """
    inputs = together(batches, model.input_names, 2**62)
    n = len(inputs[model.input_names[0]])
    aside = max(1, round(n * spec.held_out))
    original, network = _networks(teacher, model, {name: value[:_LOOKED_AT] for name, value in inputs.items()})
    student = _Student(model, network, {name: value[:_LOOKED_AT] for name, value in inputs.items()}, gains)
    generator = torch.Generator().manual_seed(seed)
    size = max(1, min(spec.batch, _LIVE_NUMBERS // max(model.trace.activations, 1)))
    judge, learn = (_rows(inputs, rows) for rows in torch.randperm(n, generator=generator).split([aside, n - aside]))
    judge = augmented(judge, spec, generator)  # weights may have been fitted to these very images: others than them judge
    wanted = _answers(original, judge, size)
    best, kept = student.divergence(judge, wanted, size), student.state()
    steps = spec.epochs * math.ceil((n - aside) / size)
    device = next(iter(student.gain.values())).device
    optimizer = torch.optim.Adam(student.parameters(), lr=spec.rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, steps))
    for _ in range(spec.epochs):
        for rows in torch.randperm(n - aside, generator=generator).split(size):
            batch = augmented(_rows(learn, rows), spec, generator)
            with _reduced_precision(device):
                with torch.no_grad():
                    target = original(batch)
                answer = student(batch)
            optimizer.zero_grad()
            loss(target, answer).backward()
            nn.utils.clip_grad_norm_(student.parameters(), _LARGEST_GRADIENT)
            optimizer.step()
            schedule.step()
        now = student.divergence(judge, wanted, size)
        if now < best:
            best, kept = now, student.state()
    found = student.affine(kept)
    return model.edited([Affine(name, gain, shift) for name, (gain, shift) in found.items()]), found


def loss(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) in nats for `[n, c]` scores, else squared error over the teacher's variance.

    Args:
        teacher, student: the outputs in order, examples first; those that aren't floats don't count.

    Example:
        >>> round(float(loss([torch.tensor([[0.0, 0.0]])], [torch.tensor([[0.0, 1.0986123]])])), 4)
        0.1438
    """
    total = torch.zeros(())
    for t, s in zip(teacher, student, strict=True):
        if not t.is_floating_point():
            continue
        t, s = t.float(), s.float()
        if t.ndim == 2 and t.shape[1] > 1:
            p, q = functional.log_softmax(t, dim=1), functional.log_softmax(s, dim=1)
            part = functional.kl_div(q, p, reduction="batchmean", log_target=True)
        else:
            spread = (t - t.mean()).square().mean().clamp_min(torch.finfo(torch.float32).tiny)
            part = (s - t).square().mean() / spread
        total = total.to(part.device) + part
    return total


def augmented(batch: Batch, spec: Distillation, generator: torch.Generator) -> dict[str, Tensor]:
    """Images flipped left to right by chance, shifted, and mixed with one another; other inputs as they are.

    Answers to mixtures tell more of the teacher than answers to images do (Zhang et al. 2018 mix labels too; here none are
    needed). The edges of shifted images are mirrored.
    """
    found = {name: torch.as_tensor(value) for name, value in batch.items()}
    for name, value in found.items():
        if is_image(value):
            moved = _moved(value, spec.shift, generator) if spec.shift else value
            found[name] = _mixed(moved, spec.mix, generator) if spec.mix else moved
    return found


def is_image(value: Tensor) -> bool:
    """Whether an input is float `[n, c, h, w]` of at least 8 rows and columns."""
    return value.ndim == 4 and value.is_floating_point() and min(value.shape[2:]) >= _SMALLEST_IMAGE


def _mixed(images: Tensor, mix: float, generator: torch.Generator) -> Tensor:
    """Every image with a share of another."""
    share = mix * torch.rand(len(images), 1, 1, 1, generator=generator).to(images)
    other = torch.randperm(len(images), generator=generator).to(images.device)
    return torch.lerp(images, images[other], share)


def _moved(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Flip and shift every image on its own."""
    n, _, height, width = images.shape
    flip = torch.randint(0, 2, (n, 1), generator=generator).bool()
    down, right = torch.randint(-shift, shift + 1, (2, n, 1), generator=generator)

    def mirrored(at: Tensor, size: int) -> Tensor:
        """Positions outside [0, size) reflected at the edges."""
        return (size - 1) - ((size - 1) - at.abs()).abs()

    rows = mirrored(torch.arange(height) + down, height)
    columns = mirrored(torch.arange(width) + right, width)
    columns = torch.where(flip, columns.flip(1), columns)
    where = (torch.arange(n)[:, None, None], slice(None), rows[:, :, None], columns[:, None, :])
    picked = images[tuple(i.to(images.device) if isinstance(i, Tensor) else i for i in where)]
    return picked.permute(0, 3, 1, 2)  # advanced indices come first: [n, h, w, c], which is channels_last already


@dataclass(frozen=True)
class _Network:
    """A module without gradients of its own, and the layout of the images that it is given."""

    module: nn.Module
    names: tuple[str, ...]
    layout: torch.memory_format

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """The outputs in order."""
        inputs = placed(batch, self.module, self.names)
        inputs = {name: x.contiguous(memory_format=self.layout) if x.ndim == 4 else x for name, x in inputs.items()}
        return flattened(call(self.module, inputs, self.names))


def _networks(teacher: TorchModel, student: TorchModel, example: Batch) -> tuple[_Network, _Network]:
    """Copies of both, images laid out as convolutions run fastest where both run so (a view inside a module may not)."""
    copies = [copy.deepcopy(model.module).requires_grad_(False) for model in (teacher, student)]
    for layout in (torch.channels_last, torch.contiguous_format):
        pair = [_Network(m.to(memory_format=layout), teacher.input_names, layout) for m in copies]
        try:
            with torch.no_grad():
                [network({name: value[:2] for name, value in example.items()}) for network in pair]
        except CALL_ERRORS:
            if layout == torch.contiguous_format:
                raise
        else:
            break
    return pair[0], pair[1]


class _Student:
    """The compressed network with a gain and a shift behind every layer."""

    def __init__(self, model: TorchModel, network: _Network, example: Batch, gains: bool) -> None:
        """Look at the outputs' moments once: y -> mean + exp(a) (y - mean) + b std keeps the two apart."""
        self.network, self.gains = network, gains
        paths = {name: path for name, path in model.trace.modules.items() if _free(model, name)}
        self.layers = {name: network.module.get_submodule(path) for name, path in paths.items()}
        if not self.layers:
            raise InvalidRequest("the model has no layer that is called once a pass, with a weight of its own, to distil into.")
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}
        with hooked(self._hooks(self._look)), torch.no_grad():
            network(example)
        self.gain = {name: torch.zeros_like(mean, requires_grad=gains) for name, (mean, _) in self.moments.items()}
        self.shift = {name: torch.zeros_like(mean, requires_grad=True) for name, (mean, _) in self.moments.items()}

    def _hooks(self, hook: Callable[[str, nn.Module, Tensor], Tensor | None]) -> list[RemovableHandle]:
        """The same hook behind every layer."""
        return [m.register_forward_hook(lambda m, _a, y, name=name: hook(name, m, y)) for name, m in self.layers.items()]

    def _look(self, name: str, layer: nn.Module, output: Tensor) -> None:
        mean, std = moments_of(layer, output)
        typical = 1e-3 * std.median()
        self.moments[name] = mean.float(), torch.maximum(std, typical).clamp_min(1e-12).float()

    def parameters(self) -> list[Tensor]:
        """What is learned."""
        return [*(self.gain.values() if self.gains else ()), *self.shift.values()]

    def state(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Copies of the parameters as they are."""
        return {name: (self.gain[name].detach().clone(), self.shift[name].detach().clone()) for name in self.gain}

    def affine(self, state: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
        """A state as layer -> (gain, shift) in the outputs' own units."""
        found = {}
        for name, (a, b) in state.items():
            mean, std = self.moments[name]
            found[name] = a.exp(), mean - a.exp() * mean + b * std
        return found

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """The outputs with the present gains and shifts."""
        with hooked(self._hooks(self._applied)):
            return self.network(batch)

    def _applied(self, name: str, layer: nn.Module, output: Tensor) -> Tensor:
        """An evaluating BatchNorm is exactly this map, and one kernel forward and one backward."""
        mean, std = self.moments[name]
        axis = channel_axis(layer, output)
        y = output.movedim(axis, 1) if output.ndim > 2 and axis != 1 else output
        weight, bias = self.gain[name].exp() * std, mean + self.shift[name] * std
        y = functional.batch_norm(y, mean, std.square(), weight, bias, training=False, eps=0.0)
        return y.movedim(1, axis) if output.ndim > 2 and axis != 1 else y

    @torch.no_grad()
    def divergence(self, batch: Batch, wanted: Sequence[Sequence[Tensor]], size: int) -> float:
        """Mean loss on examples kept aside."""
        parts = [loss(target, self(part)) * len(target[0]) for target, part in zip(wanted, _parts(batch, size), strict=True)]
        return float(torch.stack(parts).sum()) / len(next(iter(batch.values())))


def _free(model: TorchModel, name: str) -> bool:
    """Whether one gain and shift stand for the layer's every use."""
    trace = model.trace
    alone = trace.calls.get(name, 0) == 1 and len(trace.users[name]) == 1
    return alone and kind_of(model.module.get_submodule(trace.modules[name])) != "embedding"


@torch.no_grad()
def _answers(teacher: _Network, batch: Batch, size: int) -> list[tuple[Tensor, ...]]:
    """The teacher's outputs on examples kept aside."""
    return [teacher(part) for part in _parts(batch, size)]


def _reduced_precision(device: torch.device) -> torch.autocast:
    """Gradients in bfloat16 where the hardware multiplies it: a state is judged in full precision all the same."""
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        read = getattr(torch.cpu, "get_capabilities", dict)  # newer than the oldest torch that is supported
        able = device.type == "cpu" and bool(read().get("avx512_bf16") or read().get("amx_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=able)


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    """Pieces of at most `size` examples."""
    for start in range(0, len(next(iter(batch.values()))), size):
        yield {name: value[start : start + size] for name, value in batch.items()}


def _rows(batch: Batch, rows: Tensor) -> dict[str, Tensor]:
    """These examples."""
    return {name: value[rows.to(value.device)] for name, value in batch.items()}


def _share(step: int, steps: int) -> float:
    """Of the rate, after `step` of `steps`: a short rise, then half a cosine to zero."""
    warm = max(1, round(_WARM_SHARE * steps))
    return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(step / max(steps, 1), 1.0))))
