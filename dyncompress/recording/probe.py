"""A trajectory for those who kept none: a short run of plain SGD from the final weights, recorded and discarded."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.recording.torch_callback import Recorder, layer_weights, record
from dyncompress.recording.writer import EVERY, TrajectoryWriter
from dyncompress.types import Trajectory

NOTE = (
    "recorded by a probe, {steps} steps of SGD from the final weights at rate {rate:.3g} on {labels}: it measures the local "
    "noise of these steps, not the original training"
)
LOOKS = 16  # minibatch gradients from which the noise is estimated; its relative error is about sqrt(2 / 16)
BURN_IN = 0.2  # share of the steps before the first record: the run starts at rest
TOLERATED = 4.0  # measured rise over the predicted one, above which the rate is halved: the loss isn't quadratic there
HALVINGS = 8

Loss = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Problem:
    """What a probe descends on.

    Attributes:
        module: in eval mode, of the caller's making: it is changed, and brought back at the end.
        loss: (rows `[b]` of the examples, generator) -> their mean loss, labels drawn by the generator where there are none.
        harm: () -> how much worse the module answers than at the start, in nats.
        examples: how many there are.
        labels: where labels come from, for the note.
    """

    module: nn.Module
    loss: Loss
    harm: Callable[[], float]
    examples: int
    labels: str


@dataclass(frozen=True)
class Probe:
    """A short SGD run at a constant rate, chosen so that the loss rises no more than `rise` on average.

    Near a minimum with Hessian H, w <- w - eta (H w + noise) comes to rest at the covariance C with H C + C H = eta S, S that of
    the minibatch gradient (eta H small). The mean loss is then higher by tr(H C) / 2 = eta tr(S) / 4, whatever H is, and never
    higher before. tr(S) is read off a few minibatch gradients, hence

        eta = 4 rise / tr(S).

    With labels drawn from the model's own answers the start is the minimum of the mean loss, exactly, and S is the Fisher
    information over the batch size. Where the harm measured at the end is beyond four times `rise`, the rate is halved and the
    run begins anew. A rate that is given is taken as it is.

    **Source**: stationary covariance of SGD: Mandt, Hoffman, Blei (JMLR 2017), section 3; that the trace gives a rate without H
    is its own consequence.
    **Assumes**: the final weights are near a minimum of the loss; the loss is quadratic as far as the run goes.
    **Fails when**: the gradient's mean isn't small beside its noise (labels the model doesn't know): the run then descends.
    Directions of curvature below 1 / (eta steps) don't come to rest: their variance is that of a random walk, eta^2 times their
    gradient variance times the steps. Increments over few steps have the gradient's variance: they are LARGE where the Fisher
    information is, and the weights sensitive.

    Attributes:
        steps: of SGD, in all.
        batch: examples a step.
        rate: of SGD; None: as above.
        rise: of the mean loss that is aimed at, in nats.
        seed: of the order of the examples, of drawn labels, and of the sketches.
    """

    steps: int = 500
    batch: int = 64
    rate: float | None = None
    rise: float = 0.01
    seed: int = 0

    def __call__(self, problem: Problem, advance: Callable[[], None] = lambda: None) -> Trajectory:
        """Run, record, and put the weights back.

        Args:
            problem: what to descend on.
            advance: called after every step that counts.

        Raises:
            InvalidRequest: a field is senseless, or the run diverged at the rate that was given.
            Unsupported: outputs carry no gradient, or the loss is not quadratic at any scale.
        """
        self._check(problem)
        parameters = [p.requires_grad_(True) for p in problem.module.parameters() if p.is_floating_point()]
        rate = self.rate if self.rate is not None else 4 * self.rise / self._noise(problem, parameters)
        bearable = TOLERATED * self.rise if self.rate is None else sys.float_info.max
        writer, harm = self._run(problem, parameters, rate, advance)
        for _ in range(HALVINGS if self.rate is None else 0):
            if harm <= bearable:
                break
            rate /= 2
            writer, harm = self._run(problem, parameters, rate, lambda: None)
        if harm > bearable:
            told = f"at learning rate {rate:.3g} the outputs diverge by {harm:.3g} nats"
            if self.rate is not None:
                raise InvalidRequest(f"probe: the run diverged, {told}; give a smaller rate, or none.")
            raise Unsupported(f"probe: {told} after {HALVINGS} halvings; give a rate, or record a run of training.")
        writer.finish(layer_weights(problem.module))
        writer.notes.append(NOTE.format(steps=self.steps, rate=rate, labels=problem.labels))
        writer.notes.append(f"the outputs at its end diverged by {harm:.2g} nats from the model's")
        return writer.trajectory()

    def _check(self, problem: Problem) -> None:
        """Refuse what can't run."""
        recorded = (self.steps - round(BURN_IN * self.steps)) // EVERY
        if recorded < 2:
            raise InvalidRequest(f"probe: steps is {self.steps}; 200 to 1000 are advised, {4 * EVERY} are the fewest.")
        if self.batch < 1 or problem.examples <= self.batch:
            raise InvalidRequest(
                f"probe: batch is {self.batch} of {problem.examples} examples; minibatches must differ: give more examples, or a "
                "smaller batch."
            )
        if not (self.rise > 0 and (self.rate is None or (self.rate > 0 and math.isfinite(self.rate)))):
            raise InvalidRequest(f"probe: rate is {self.rate} and rise {self.rise}; they must be positive.")

    def _noise(self, problem: Problem, parameters: Sequence[Tensor]) -> float:
        """tr(S): the summed variance of the minibatch gradient, unbiased."""
        squares, total = 0.0, [torch.zeros_like(p) for p in parameters]
        generator = torch.Generator().manual_seed(self.seed)
        for rows in _batches(problem.examples, self.batch, LOOKS, generator):
            for sum_of, slope in zip(total, _slopes(problem, rows, generator, parameters), strict=True):
                squares += float(slope.square().sum())
                sum_of += slope
        found = (squares - sum(float(sum_of.square().sum()) for sum_of in total) / LOOKS) / (LOOKS - 1)
        if not (math.isfinite(found) and found > 0):
            raise Unsupported(f"probe: the variance of the gradient is {found}; give a rate, or record a run of training.")
        return found

    def _run(
        self, problem: Problem, parameters: Sequence[Tensor], rate: float, advance: Callable[[], None]
    ) -> tuple[TrajectoryWriter, float]:
        """One run, the weights put back after it; the record, and the harm at its end (infinite where it diverged)."""
        start = [p.detach().clone() for p in parameters]
        writer = TrajectoryWriter(seed=self.seed, learning_rate=rate, batch_size=self.batch)
        recorder: Recorder = record(problem.module, writer, gradients=True)
        generator = torch.Generator().manual_seed(self.seed)
        recorder.steps = quiet = round(BURN_IN * self.steps)
        try:
            for step, rows in enumerate(_batches(problem.examples, self.batch, self.steps, generator)):
                loss = problem.loss(rows, generator)
                if not math.isfinite(float(loss.detach())):
                    return writer, math.inf
                _descend(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), rate)
                if step >= quiet:
                    recorder.step(loss)
                advance()
            harm = problem.harm()
        except InvalidRequest:  # of the record: a weight overflowed
            return writer, math.inf
        finally:
            _put_back(parameters, start)
        return writer, harm if math.isfinite(harm) else math.inf


@torch.no_grad()
def _descend(parameters: Sequence[Tensor], slopes: Sequence[Tensor | None], rate: float) -> None:
    """One step; gradients stay where a recorder looks for them."""
    for parameter, slope in zip(parameters, slopes, strict=True):
        parameter.grad = slope
        if slope is not None:
            parameter.sub_(rate * slope)


def _slopes(problem: Problem, rows: Tensor, generator: torch.Generator, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The minibatch gradient; zero for parameters that the loss doesn't see."""
    loss = problem.loss(rows, generator)
    if not loss.requires_grad:
        raise Unsupported("probe: the model's outputs carry no gradient (its forward method detaches them); record training.")
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if slope is None else slope for p, slope in zip(parameters, found, strict=True)]


def _batches(examples: int, size: int, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`count` times the rows of a minibatch: passes over the examples in random order, what is left of a pass dropped."""
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(count):
        if len(order) < size:
            order = torch.randperm(examples, generator=generator)
        yield order[:size]
        order = order[size:]


@torch.no_grad()
def _put_back(parameters: Sequence[Tensor], start: Sequence[Tensor]) -> None:
    """The weights as they were, and no gradients."""
    for parameter, value in zip(parameters, start, strict=True):
        parameter.copy_(value)
        parameter.grad = None
