# pyright: reportArgumentType=false, reportCallIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Distillation on unlabelled inputs: a student learns its teacher's outputs, min KL(teacher || student).

Images are shifted a little, flipped where that is allowed, and mixed. A share of the examples is held out; the result is the
student's state of least divergence on these, which may be the initial one. Which parameters learn, and in which units, is up to
the student: `gain_distillation.py` and `weight_distillation.py` define one each.

**Source**: knowledge distillation, Hinton et al. 2015, at temperature 1 and without the term for labels.

Cost: for each epoch, a forward pass of the teacher, and a forward and a backward pass of the student. Memory: the activations
that a backward pass keeps for one batch, the gradients, Adam's two moments and the best state.
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

from dyncompress.models.augmentation import augment
from dyncompress.models.torch.calling import CALL_ERRORS, call, device_inputs, tensors_of
from dyncompress.models.torch.class_scores import are_scores, as_scores
from dyncompress.models.torch.copying import deep_copy
from dyncompress.models.torch.traced_model import TracedModel
from dyncompress.types import Batch, DistillationTask

# Numbers that the layers' outputs may hold at once, since the backward pass keeps them.
_LIVE_NUMBERS = 200_000_000
_LARGEST_GRADIENT = 1.0
_WARM_UP_SHARE = 0.05  # share of the steps in which the learning rate rises, because Adam's first moments are unreliable

State = TypeVar("State", covariant=True)


class Student(Protocol[State]):
    """A network with parameters that learn."""

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Adam's parameter groups, each with its learning rate."""
        ...

    def state(self) -> State:
        """A copy of the parameters that learn."""
        ...

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """The outputs in order, with gradients."""
        ...


def distill(student: Student[State], teacher: Network, inputs: Batch, task: DistillationTask, live: int) -> State:
    """Train the student, and return its state of least divergence on held-out examples: initial, or after one of the epochs.

    Args:
        student: its parameters are changed in place.
        teacher: the original network.
        inputs: all unlabelled examples as one batch, `[n, ...]` by input name.
        task: the schedule and the seed; a share `task.spec.held_out` of the examples is held out.
        live: numbers in the outputs of all of the student's layers for one example, which bounds the batch size.
    """
    schedule, n = task.spec, len(next(iter(inputs.values())))
    held_out = max(1, round(n * schedule.held_out))
    generator = torch.Generator().manual_seed(task.seed)
    size = max(1, min(schedule.batch, _LIVE_NUMBERS // max(live, 1)))
    held_out_rows, rows_to_learn = torch.randperm(n, generator=generator).split([held_out, n - held_out])
    # The weights may have been fitted to these very images, so that augmented images are used.
    test_batch = augment(_rows(inputs, held_out_rows), schedule, generator, horizontal_flip=task.flips)
    answers = _answers(teacher, test_batch, size)
    best, best_state = _divergence(student, test_batch, answers, size), student.state()
    groups = student.groups(schedule.rate)
    parameters = [p for group in groups for p in group["params"]]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    steps = schedule.epochs * math.ceil(len(rows_to_learn) / size)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate_factor(step, steps))
    for _ in range(schedule.epochs):
        for rows in torch.randperm(len(rows_to_learn), generator=generator).split(size):
            batch = augment(_rows(inputs, rows_to_learn[rows]), schedule, generator, horizontal_flip=task.flips)
            with _reduced_precision(parameters[0].device):
                with torch.no_grad():
                    target = teacher(batch)
                answer = student(batch)
            optimizer.zero_grad()
            with _deterministic_convolutions():
                loss(target, answer).backward()
            nn.utils.clip_grad_norm_(parameters, _LARGEST_GRADIENT)
            optimizer.step()
            scheduler.step()
        divergence = _divergence(student, test_batch, answers, size)
        if divergence < best:
            best, best_state = divergence, student.state()
    return best_state


def loss(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """The distillation loss, added up over the outputs: a mean over examples, differentiable in the student's outputs.

    For class scores `[n, c]` with c > 1: KL(softmax(teacher) || softmax(student)) in nats, of the probabilities where these are
    the outputs. For any other output: the squared error over the variance of the teacher's output.

    Args:
        teacher, student: the outputs in order, the batch axis first; integer and boolean outputs don't count.

    Example:
        >>> round(float(loss([torch.tensor([[0.0, 0.0]])], [torch.tensor([[0.0, 1.0986123]])])), 4)
        0.1438
    """
    total = torch.zeros(())
    for t, s in zip(teacher, student, strict=True):
        if not t.is_floating_point():
            continue
        t, s = t.float(), s.float()
        if are_scores(t):
            p, q = functional.log_softmax(as_scores(t), dim=1), functional.log_softmax(as_scores(s, t), dim=1)
            part = functional.kl_div(q, p, reduction="batchmean", log_target=True)
        else:
            spread = (t - t.mean()).square().mean().clamp_min(torch.finfo(torch.float32).tiny)
            part = (s - t).square().mean() / spread
        total = total.to(part.device) + part
    return total


@dataclass(frozen=True)
class Network:
    """A module whose parameters require no gradient, called on batches by input name.

    Attributes:
        module: the network.
        names: its input names, in order.
        layout: memory format of four-dimensional inputs.
    """

    module: nn.Module
    names: tuple[str, ...]
    layout: torch.memory_format

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """The outputs in order."""
        inputs = device_inputs(batch, self.module, self.names)
        inputs = {name: x.contiguous(memory_format=self.layout) if x.ndim == 4 else x for name, x in inputs.items()}
        return tensors_of(call(self.module, inputs, self.names))


def networks(teacher: TracedModel, student: TracedModel, example: Batch) -> tuple[Network, Network]:
    """Copies of the teacher and the student, channels last where both run with that layout.

    Convolutions run faster with channels last, but a module that calls `view` may fail on it.

    Args:
        teacher, student: the models; neither is changed.
        example: a batch on which the layouts are tried.
    """
    copies = [deep_copy(model.module).requires_grad_(False) for model in (teacher, student)]
    for layout in (torch.channels_last, torch.contiguous_format):
        try:
            pair = [Network(m.to(memory_format=layout), teacher.input_names, layout) for m in copies]  # refused for 3-D weights
            with torch.no_grad():
                [network({name: value[:2] for name, value in example.items()}) for network in pair]
        except CALL_ERRORS:
            if layout == torch.contiguous_format:
                raise
        else:
            return pair[0], pair[1]
    raise AssertionError("the last layout either runs or raises")


@torch.no_grad()
def _divergence(student: Student, batch: Batch, answers: Sequence[Sequence[Tensor]], size: int) -> float:
    """Mean loss on the held-out examples, in full precision."""
    parts = [loss(target, student(part)) * len(target[0]) for target, part in zip(answers, _parts(batch, size), strict=True)]
    return float(torch.stack(parts).sum()) / len(next(iter(batch.values())))


@torch.no_grad()
def _answers(teacher: Network, batch: Batch, size: int) -> list[tuple[Tensor, ...]]:
    """The teacher's outputs on the held-out examples, piece by piece."""
    return [teacher(part) for part in _parts(batch, size)]


def _reduced_precision(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where the hardware multiplies it; held-out examples are always judged in full precision."""
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # the oldest supported torch doesn't have it
        supported = device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=supported)


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    """Split a batch into pieces of at most `size` examples."""
    for start in range(0, len(next(iter(batch.values()))), size):
        yield {name: value[start : start + size] for name, value in batch.items()}


def _rows(batch: Batch, rows: Tensor) -> dict[str, Tensor]:
    """The examples with these row indices."""
    return {name: value[rows.to(value.device)] for name, value in batch.items()}


def _rate_factor(step: int, steps: int) -> float:
    """Factor of the learning rate after `step` of `steps` steps: a linear warm-up, then half a cosine down to zero."""
    warm_up = max(1, round(_WARM_UP_SHARE * steps))
    return min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * min(step / max(steps, 1), 1.0))))


@contextmanager
def _deterministic_convolutions() -> Iterator[None]:
    """Inside this block cuDNN uses deterministic algorithms, so that the same seed gives the same gradients."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before
