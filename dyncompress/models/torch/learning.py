# pyright: reportArgumentType=false, reportCallIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""A student learns to answer as its teacher does, min KL(teacher || student), on unlabelled inputs.

Images are shifted a little, flipped where that is allowed, and mixed. A part of the examples is kept aside; the state of least
divergence on it is returned, the one that came in included. What of the student moves, and in which units, is its own to say.

**Source**: knowledge distillation, Hinton et al. 2015, at temperature 1 and without its term for labels.

Cost: of one pass, the teacher forward and the student forward and backward. Memory: what a backward pass keeps of one batch,
gradients, two moments of Adam and the best state so far.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dyncompress.models.augmentation import augmented
from dyncompress.models.torch.calling import CALL_ERRORS, call, copied, flattened, placed
from dyncompress.models.torch.model import TorchModel
from dyncompress.types import Batch, Distillation

# Numbers that the layers' outputs may take at once, since the backward pass keeps them alive.
_LIVE_NUMBERS = 200_000_000
_LARGEST_GRADIENT = 1.0
_WARM_SHARE = 0.05  # of the steps: the rate rises from nothing, since Adam's first steps know no scale

State = TypeVar("State", covariant=True)


class Student(Protocol[State]):
    """A network with parameters that learn."""

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Adam's parameter groups, each with its rate."""
        ...

    def state(self) -> State:
        """A copy of the parameters as they are."""
        ...

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """The outputs in order."""
        ...


def learned(
    student: Student[State], teacher: Network, inputs: Batch, *, spec: Distillation, seed: int, live: int, mirrored: bool = True
) -> State:
    """The student's state of least divergence on examples kept aside, after one of the epochs or before the first.

    Args:
        student: its parameters are changed.
        teacher: the original.
        inputs: unlabelled, all examples in one; a share `spec.held_out` of them, drawn by the seed, is kept aside.
        spec: how long, how fast.
        seed: of the order of the examples and their augmentation.
        live: numbers that the student's layers put out for one example.
        mirrored: whether images may be flipped left to right.
    """
    n = len(next(iter(inputs.values())))
    aside = max(1, round(n * spec.held_out))
    generator = torch.Generator().manual_seed(seed)
    size = max(1, min(spec.batch, _LIVE_NUMBERS // max(live, 1)))
    judge, learn = torch.randperm(n, generator=generator).split([aside, n - aside])
    # weights may have been fitted to these very images: others judge
    exam = augmented(_rows(inputs, judge), spec, generator, mirrored=mirrored)
    wanted = _answers(teacher, exam, size)
    best, kept = _divergence(student, exam, wanted, size), student.state()
    groups = student.groups(spec.rate)
    parameters = [p for group in groups for p in group["params"]]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    steps = spec.epochs * math.ceil(len(learn) / size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, steps))
    for _ in range(spec.epochs):
        for rows in torch.randperm(len(learn), generator=generator).split(size):
            batch = augmented(_rows(inputs, learn[rows]), spec, generator, mirrored=mirrored)
            with _reduced_precision(parameters[0].device):
                with torch.no_grad():
                    target = teacher(batch)
                answer = student(batch)
            optimizer.zero_grad()
            with _repeatable():
                loss(target, answer).backward()
            nn.utils.clip_grad_norm_(parameters, _LARGEST_GRADIENT)
            optimizer.step()
            schedule.step()
        now = _divergence(student, exam, wanted, size)
        if now < best:
            best, kept = now, student.state()
    return kept


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


@dataclass(frozen=True)
class Network:
    """A module without gradients of its own, and the layout of the images that it is given."""

    module: nn.Module
    names: tuple[str, ...]
    layout: torch.memory_format

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """The outputs in order."""
        inputs = placed(batch, self.module, self.names)
        inputs = {name: x.contiguous(memory_format=self.layout) if x.ndim == 4 else x for name, x in inputs.items()}
        return flattened(call(self.module, inputs, self.names))


def networks(teacher: TorchModel, student: TorchModel, example: Batch) -> tuple[Network, Network]:
    """Copies of both, images laid out as convolutions run fastest where both run so (a view inside a module may not)."""
    copies = [copied(model.module).requires_grad_(False) for model in (teacher, student)]
    for layout in (torch.channels_last, torch.contiguous_format):
        pair = [Network(m.to(memory_format=layout), teacher.input_names, layout) for m in copies]
        try:
            with torch.no_grad():
                [network({name: value[:2] for name, value in example.items()}) for network in pair]
        except CALL_ERRORS:
            if layout == torch.contiguous_format:
                raise
        else:
            break
    return pair[0], pair[1]


@torch.no_grad()
def _divergence(student: Student, batch: Batch, wanted: Sequence[Sequence[Tensor]], size: int) -> float:
    """Mean loss on examples kept aside, in full precision."""
    parts = [loss(target, student(part)) * len(target[0]) for target, part in zip(wanted, _parts(batch, size), strict=True)]
    return float(torch.stack(parts).sum()) / len(next(iter(batch.values())))


@torch.no_grad()
def _answers(teacher: Network, batch: Batch, size: int) -> list[tuple[Tensor, ...]]:
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


@contextmanager
def _repeatable() -> Iterator[None]:
    """Gradients of convolutions by algorithms that add in one order, where the device knows others."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before
