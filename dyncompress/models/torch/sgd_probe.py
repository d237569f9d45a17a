"""The verb `probe`: the local noise of a network whose training wasn't recorded, as a trajectory that the other verbs take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dyncompress.errors import InvalidRequest
from dyncompress.models.data import as_batches
from dyncompress.models.signature import filled
from dyncompress.models.torch import calling, hooks, layers
from dyncompress.recording.probe import Probe, Problem
from dyncompress.types import Batch, Trajectory
from dyncompress.types.progress import SILENT, Progress

EXAMPLES = 4096  # at most so many are read
JUDGED = 512  # and on so many of them answers are compared
LIVE = 2**26  # numbers of the model's own answers that are kept; above, they are computed again at every step


@calling.with_gradients
def probe(
    model: Any,
    calibration: Any,
    *,
    labels: Any = None,
    steps: int = 500,
    batch: int = 64,
    rate: float | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Trajectory:
    """A short run of SGD from the final weights on a copy of the model, recorded and discarded.

    It measures the local noise of these steps and not the original training; the trajectory's notes say so, and its digest is
    the model's: `compress(model, "trajectory", trajectory=probe(model, x), calibration=x)`. BatchNorm stays in eval mode, dropout
    off. The same seed gives the same record on a CPU.

    Args:
        model: a torch module; it is not changed.
        calibration: as for `measure`; the first 4096 examples are read.
        labels: `[n]` classes, or targets shaped as the output, of the same examples in their order; None: labels are drawn from
            the model's own answers at every step (scores `[n, c]`: a class from their softmax; anything else: the output with
            noise of its own standard deviation), so that the model is at the minimum of the mean loss.
        steps: 200 to 1000; the first fifth isn't recorded, then every fifth step is.
        batch: examples a step.
        rate: of SGD; None: the one at which the loss is expected to rise by 0.01 nats (`recording.probe.Probe`).
        seed: of the order of the examples and of drawn labels.
        progress: who is told.

    Raises:
        InvalidRequest: the model doesn't run on the examples, there are too few, labels don't fit, or the given rate diverges.
        Unsupported: the model's outputs carry no gradient.

    Example:
        >>> import dyncompress, torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
        >>> x = torch.randn(64, 64)
        >>> trajectory = dyncompress.probe(network, x, steps=50, batch=16, rate=1e-3)
        >>> list(trajectory.motion), len(trajectory.steps)
        (['0', '2'], 8)
    """
    names, data = filled(model, calibration)
    batches = as_batches(data, names, EXAMPLES)
    layers.refuse_bad_values(model)
    own = _prepared(model, batches[0], names)
    calling.checked_outputs(own, batches[0], names, layers.compressible(own))
    inputs = {name: torch.cat([torch.as_tensor(part[name]) for part in batches]) for name in names}
    objective = _Objective(own, _prepared(model, batches[0], names), names, inputs, _targets(labels, len(inputs[names[0]])))
    source = "labels drawn from the model's own answers" if labels is None else "the labels given"
    problem = Problem(own, objective.loss, objective.harm, objective.examples, source)
    with progress.phase("probe the local noise", steps) as step:
        return Probe(steps, batch, rate, seed=seed)(problem, step.advance)


def _prepared(model: nn.Module, example: Batch, names: Sequence[str]) -> nn.Module:
    """A copy of plain float32 weights in eval mode, as the door makes before it folds."""
    own = calling.private_copy(calling.unwrapped(model))
    hooks.absorb(own, example, names, layers_apart=False)
    calling.without_parametrizations(own)
    return own.float()


def _targets(labels: Any, examples: int) -> Tensor | None:
    """Labels as a tensor, one an example; those of examples that aren't read are left out.

    Raises:
        InvalidRequest: there are fewer than examples.
    """
    if labels is None:
        return None
    found = torch.as_tensor(np.asarray(labels) if not isinstance(labels, Tensor) else labels.detach().cpu())
    if found.ndim == 0 or len(found) < examples:
        raise InvalidRequest(f"probe: labels have shape {tuple(found.shape)} for {examples} examples; give one an example.")
    return found[:examples]


@dataclass
class _Objective:
    """The loss that a probe descends on, and how far it has come.

    Attributes:
        module: moving.
        original: at rest.
        names: of the inputs.
        inputs: by name, `[n, ...]`.
        targets: `[n, ...]`, or None: drawn from the original's answers.
    """

    module: nn.Module
    original: nn.Module
    names: Sequence[str]
    inputs: dict[str, Tensor]
    targets: Tensor | None

    def __post_init__(self) -> None:
        """The first answers say what kind they are, and how large."""
        first = self._answers(torch.arange(min(JUDGED, self.examples)))
        self.spread = [max(float(part.std(correction=0)), 1e-6) for part in first]
        self.kept: list[Tensor] | None = None
        if sum(part[0].numel() for part in first) * self.examples <= LIVE:
            parts = [self._answers(rows) for rows in torch.arange(self.examples).split(JUDGED)]
            self.kept = [torch.cat(pieces) for pieces in zip(*parts, strict=True)]
        if self.targets is not None:
            _check_targets(self.targets, first[0], self.examples)

    @property
    def examples(self) -> int:
        """How many there are."""
        return len(self.inputs[self.names[0]])

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Mean negative log-likelihood of these examples' labels, given or drawn, in nats; squared errors over the outputs' own
        variance, mean over outputs, where they aren't scores."""
        outputs = self._outputs(self.module, rows)
        if self.targets is not None:
            return _likelihood(outputs[0], self.targets[rows].to(outputs[0].device), self.spread[0])
        wanted = self._wanted(rows)
        drawn = [_drawn(answer, spread, generator) for answer, spread in zip(wanted, self.spread, strict=True)]
        terms = [_likelihood(o, d.to(o.device), s) for o, d, s in zip(outputs, drawn, self.spread, strict=True)]
        return torch.stack(terms).sum()

    @torch.no_grad()
    def harm(self) -> float:
        """Divergence from the original's answers: KL of scores, else half the squared error over the outputs' variance."""
        total, count = 0.0, min(JUDGED, self.examples)
        for rows in torch.arange(count).split(128):
            pairs = zip(self._wanted(rows), self._outputs(self.module, rows), self.spread, strict=True)
            total += sum(_divergence(wanted.to(o.device), o, spread) for wanted, o, spread in pairs) * len(rows) / count
        return total

    def _wanted(self, rows: Tensor) -> Sequence[Tensor]:
        """The original's answers."""
        return self._answers(rows) if self.kept is None else [part[rows] for part in self.kept]

    @torch.no_grad()
    def _answers(self, rows: Tensor) -> list[Tensor]:
        """The original's answers, computed."""
        return [output.cpu() for output in self._outputs(self.original, rows)]

    def _outputs(self, module: nn.Module, rows: Tensor) -> list[Tensor]:
        """Float outputs on these examples."""
        batch = {name: value[rows.to(value.device)] for name, value in self.inputs.items()}
        found = calling.call(module, calling.placed(batch, module, self.names), self.names)
        return [output for output in calling.flattened(found) if output.is_floating_point()]


def _scores(output: Tensor) -> bool:
    """Whether an output is class scores."""
    return output.ndim == 2 and output.shape[1] > 1


def _drawn(answer: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    """Labels as the model itself would give them: classes from its softmax, else its output under its own spread of noise."""
    if _scores(answer):
        return torch.multinomial(answer.softmax(1), 1, generator=generator)[:, 0]
    return answer + spread * torch.randn(answer.shape, generator=generator)


def _likelihood(output: Tensor, target: Tensor, spread: float) -> Tensor:
    """Mean negative log-likelihood, but for constants."""
    if _scores(output) and not target.is_floating_point():
        return functional.cross_entropy(output, target.long())
    return 0.5 * (output - target.to(output.dtype)).square().mean() / spread**2


def _divergence(wanted: Tensor, output: Tensor, spread: float) -> float:
    """Nats."""
    if _scores(output):
        log_p, log_q = wanted.log_softmax(1), output.log_softmax(1)
        return float(functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True))
    return float(0.5 * (output - wanted).square().mean() / spread**2)


def _check_targets(targets: Tensor, output: Tensor, examples: int) -> None:
    """Refuse labels that don't fit the first output.

    Raises:
        InvalidRequest: they are neither classes for scores nor targets of the output's shape.
    """
    if _scores(output) and not targets.is_floating_point() and targets.ndim == 1:
        if int(targets.min()) >= 0 and int(targets.max()) < output.shape[1]:
            return
        raise InvalidRequest(f"probe: labels go from {int(targets.min())} to {int(targets.max())} for {output.shape[1]} scores.")
    if targets.is_floating_point() and targets.shape[1:] == output.shape[1:]:
        return
    raise InvalidRequest(
        f"probe: labels are {str(targets.dtype).removeprefix('torch.')}{list(targets.shape)} for outputs of "
        f"{list(output.shape[1:])} an example; give classes [n], targets shaped as the output, or none."
    )
