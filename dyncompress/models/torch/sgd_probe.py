"""The verb `probe`: records a short run of SGD, for networks whose training wasn't recorded."""

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
from dyncompress.models.signature import resolve_inputs
from dyncompress.models.torch import calling, copying, hooks, layers
from dyncompress.models.torch.class_scores import are_scores, as_scores
from dyncompress.recording.probe import Probe, Problem
from dyncompress.types import Batch, Trajectory
from dyncompress.types.progress import SILENT, Progress

EXAMPLES = 4096  # largest number of calibration examples that are read
DIVERGENCE_EXAMPLES = 512  # of these, the examples on which outputs are compared
STORED_NUMBERS = 2**26  # size of the model's own outputs up to which they are stored; larger ones are computed at every step


@calling.as_verb
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
    """Record a short run of SGD that starts at the model's final weights, on a copy of the model.

    The trajectory describes the local noise of these steps and not the original training, and its notes say so. Its digest is
    the model's, so that other verbs accept it. BatchNorm and dropout stay in eval mode. On a CPU the same seed gives the same
    trajectory.

    Args:
        model: a torch module; it isn't changed.
        calibration: data as for `measure`, of which the first 4096 examples are read.
        labels: classes `[n]`, or targets of the output's shape, for the same examples in the same order. None draws labels from
            the model's own outputs at every step, so that the model is at the minimum of the mean loss: for class scores
            `[n, c]` a class from their softmax, for other outputs the output plus noise with its standard deviation.
        steps: number of SGD steps, 200 to 1000; the first fifth isn't recorded, and of the others every fifth step is.
        batch: number of examples in each step.
        rate: learning rate of SGD; None for the rate at which the loss is expected to rise by 0.01 nats (`Probe`).
        seed: of the order of the examples and of the labels that are drawn.
        progress: receives the progress of the run.

    Returns:
        the trajectory: sketches and moments of the weights, and the losses.

    Raises:
        InvalidRequest: the model doesn't run on the examples, there are too few of them, the labels don't fit, or the given rate
            diverges.
        Unsupported: the model's outputs have no gradient.

    Example:
        >>> import torch
        >>> x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
        >>> trajectory = probe(torch.nn.Linear(4, 3).eval(), x, steps=200)
        >>> len(trajectory.steps)
        32
    """
    names, data = resolve_inputs(model, calibration)
    batches = as_batches(data, names, EXAMPLES)
    layers.refuse_bad_values(model)
    own = _float_copy(model, batches[0], names)
    calling.checked_outputs(own, batches[0], names, layers.compressible_modules(own))
    inputs = {name: torch.cat([torch.as_tensor(part[name]) for part in batches]) for name in names}
    objective = _Objective(own, _float_copy(model, batches[0], names), names, inputs, _targets(labels, len(inputs[names[0]])))
    source = "labels drawn from the model's own answers" if labels is None else "the labels given"
    problem = Problem(own, objective.loss, objective.divergence, objective.examples, source)
    with progress.phase("probe the local noise", steps) as step:
        return Probe(steps, batch, rate, seed=seed)(problem, step.advance)


def _float_copy(model: nn.Module, example: Batch, names: Sequence[str]) -> nn.Module:
    """A float32 copy in eval mode without parametrizations, as `open_model` makes it before folding."""
    own = copying.private_copy(copying.unwrap(model))
    hooks.absorb(own, example, names, layers_apart=False)
    copying.remove_parametrizations(own)
    return own.float()


def _targets(labels: Any, examples: int) -> Tensor | None:
    """Labels as a tensor `[examples, ...]`, without those of examples that aren't read; None where there are no labels.

    Raises:
        InvalidRequest: there are fewer labels than examples.
    """
    if labels is None:
        return None
    targets = torch.as_tensor(np.asarray(labels) if not isinstance(labels, Tensor) else labels.detach().cpu())
    if targets.ndim == 0 or len(targets) < examples:
        raise InvalidRequest(
            f"probe: labels have shape {tuple(targets.shape)} for {examples} examples; give one label per example."
        )
    return targets[:examples]


@dataclass
class _Objective:
    """The loss of a probe, and the divergence from the original network.

    Attributes:
        module: the network whose weights SGD changes.
        original: a copy with the original weights.
        names: input names, in order.
        inputs: `[n, ...]` by input name.
        targets: `[n, ...]`; None where labels are drawn from the original's outputs.
    """

    module: nn.Module
    original: nn.Module
    names: Sequence[str]
    inputs: dict[str, Tensor]
    targets: Tensor | None

    def __post_init__(self) -> None:
        """Compute the standard deviations of the outputs, store the outputs if they are small, and check the targets."""
        first = self._compute_original(torch.arange(min(DIVERGENCE_EXAMPLES, self.examples)))
        self.spread = [max(float(part.std(correction=0)), 1e-6) for part in first]
        self.stored: list[Tensor] | None = None
        if sum(part[0].numel() for part in first) * self.examples <= STORED_NUMBERS:
            parts = [self._compute_original(rows) for rows in torch.arange(self.examples).split(DIVERGENCE_EXAMPLES)]
            self.stored = [torch.cat(pieces) for pieces in zip(*parts, strict=True)]
        if self.targets is not None:
            _check_targets(self.targets, first[0], self.examples)

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len(self.inputs[self.names[0]])

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Mean negative log-likelihood of these examples' labels, in nats, added up over the outputs.

        For outputs that aren't class scores: half the mean squared error over the outputs' own variance.
        """
        outputs = self._outputs(self.module, rows)
        if self.targets is not None:
            return _likelihood(outputs[0], self.targets[rows].to(outputs[0].device), self.spread[0])
        originals = self._original_outputs(rows)
        labels = [_draw_labels(output, spread, generator) for output, spread in zip(originals, self.spread, strict=True)]
        terms = [_likelihood(o, y.to(o.device), s) for o, y, s in zip(outputs, labels, self.spread, strict=True)]
        return torch.stack(terms).sum()

    @torch.no_grad()
    def divergence(self) -> float:
        """Divergence from the original's outputs, in nats: KL for scores, else half the mean squared error over the variance."""
        total, count = 0.0, min(DIVERGENCE_EXAMPLES, self.examples)
        for rows in torch.arange(count).split(128):
            pairs = zip(self._original_outputs(rows), self._outputs(self.module, rows), self.spread, strict=True)
            total += sum(_divergence(original.to(o.device), o, spread) for original, o, spread in pairs) * len(rows) / count
        return total

    def _original_outputs(self, rows: Tensor) -> Sequence[Tensor]:
        """The original's outputs on these examples, stored or computed."""
        return self._compute_original(rows) if self.stored is None else [part[rows] for part in self.stored]

    @torch.no_grad()
    def _compute_original(self, rows: Tensor) -> list[Tensor]:
        """The original's outputs on these examples, on the CPU."""
        return [output.cpu() for output in self._outputs(self.original, rows)]

    def _outputs(self, module: nn.Module, rows: Tensor) -> list[Tensor]:
        """Floating-point outputs of a network on these examples."""
        batch = {name: value[rows.to(value.device)] for name, value in self.inputs.items()}
        result = calling.call(module, calling.device_inputs(batch, module, self.names), self.names)
        return [output for output in calling.tensors_of(result) if output.is_floating_point()]


def _draw_labels(output: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    """Labels drawn from the model's own prediction: classes from its softmax, else its output plus noise with std `spread`."""
    if are_scores(output):
        return torch.multinomial(as_scores(output).softmax(1), 1, generator=generator)[:, 0]
    return output + spread * torch.randn(output.shape, generator=generator)


def _likelihood(output: Tensor, target: Tensor, spread: float) -> Tensor:
    """Mean negative log-likelihood in nats, up to a constant."""
    if are_scores(output) and not target.is_floating_point():
        return functional.cross_entropy(as_scores(output), target.long())
    return 0.5 * (output - target.to(output.dtype)).square().mean() / spread**2


def _divergence(original: Tensor, output: Tensor, spread: float) -> float:
    """Mean divergence of one output in nats: KL(original || output), or half the squared error over the variance."""
    if are_scores(output):
        log_p, log_q = as_scores(original).log_softmax(1), as_scores(output, original).log_softmax(1)
        return float(functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True))
    return float(0.5 * (output - original).square().mean() / spread**2)


def _check_targets(targets: Tensor, output: Tensor, examples: int) -> None:
    """Refuse labels that don't fit the first output.

    Raises:
        InvalidRequest: the labels are neither classes for scores nor targets of the output's shape.
    """
    if are_scores(output) and not targets.is_floating_point() and targets.ndim == 1:
        if int(targets.min()) >= 0 and int(targets.max()) < output.shape[1]:
            return
        raise InvalidRequest(f"probe: labels go from {int(targets.min())} to {int(targets.max())} for {output.shape[1]} scores.")
    if targets.is_floating_point() and targets.shape[1:] == output.shape[1:]:
        return
    raise InvalidRequest(
        f"probe: labels are {str(targets.dtype).removeprefix('torch.')}{list(targets.shape)} for outputs of "
        f"{list(output.shape[1:])} an example; give classes [n], targets shaped as the output, or none."
    )
