"""Record a trajectory without training: a short run of plain SGD from the final weights, which are restored afterwards."""

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
NOISE_BATCHES = 16  # minibatch gradients from which the noise is estimated; its relative error is about sqrt(2 / 16)
BURN_IN = 0.2  # share of the steps before the first record, since the run starts at a minimum and not in equilibrium
TOLERATED = 4.0  # ratio of the measured divergence to `rise` above which the rate is halved: the loss isn't quadratic there
HALVINGS = 8

Loss = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Problem:
    """The module and the loss that a probe runs SGD on.

    Attributes:
        module: in eval mode; its weights are changed during the run and restored at the end.
        loss: (row indices of the examples `[b]`, generator) -> their mean loss; missing labels are drawn by the generator.
        divergence: () -> the divergence of the module's outputs from those at the start, in nats.
        examples: number of examples.
        labels: where the labels come from, for the trajectory's note.
    """

    module: nn.Module
    loss: Loss
    divergence: Callable[[], float]
    examples: int
    labels: str


@dataclass(frozen=True)
class Probe:
    """A short run of SGD at a constant rate, which is chosen so that the loss rises by at most `rise` on average.

    Near a minimum with Hessian H, the iteration w <- w - eta (H w + noise) has a stationary covariance C with
    H C + C H = eta S, where S is the covariance of the minibatch gradient and eta H is small. The mean loss is then higher than
    at the minimum by tr(H C) / 2 = eta tr(S) / 4, for any H, and by less before. The trace of S is estimated from a few
    minibatch gradients, which gives the rate

        eta = 4 rise / tr(S).

    If the labels are drawn from the model's own outputs, the start is exactly a minimum of the mean loss, and S is the Fisher
    information divided by the batch size. If the divergence at the end exceeds four times `rise`, the rate is halved and the run
    is repeated. A rate that is passed is used unchanged.

    **Source**: stationary covariance of SGD: Mandt, Hoffman, Blei (JMLR 2017), section 3, from which the rate follows without H.
    **Assumes**: the final weights are near a minimum of the loss, and the loss is quadratic within the run.
    **Fails when**: the mean gradient isn't small relative to its noise, as for labels that the model predicts badly: the run then
    descends. Directions with a curvature below 1 / (eta steps) don't become stationary: their variance is that of a random walk,
    eta^2 times the gradient's variance times the number of steps. Increments over few steps have the gradient's variance, so they
    are large where the Fisher information is large and the weights are sensitive.

    Attributes:
        steps: number of SGD steps, burn-in included.
        batch: examples per step.
        rate: learning rate; None: chosen as above.
        rise: rise of the mean loss that the rate is chosen for, in nats.
        seed: of the order of the examples, of drawn labels, and of the sketches.
    """

    steps: int = 500
    batch: int = 64
    rate: float | None = None
    rise: float = 0.01
    seed: int = 0

    def __call__(self, problem: Problem, advance: Callable[[], None] = lambda: None) -> Trajectory:
        """Run SGD, record it, and restore the weights.

        Args:
            problem: the module and its loss.
            advance: called after every step of the first run, for a progress bar.

        Returns:
            The trajectory, with notes that it comes from a probe and by how much the outputs diverged at its end.

        Raises:
            InvalidRequest: a field is out of range, or the run diverged at the rate that was passed.
            Unsupported: the outputs carry no gradient, or the run diverged at every rate that was tried.
        """
        self._check(problem)
        parameters = [p.requires_grad_(True) for p in problem.module.parameters() if p.is_floating_point()]
        rate = self.rate if self.rate is not None else 4 * self.rise / self._noise(problem, parameters)
        limit = TOLERATED * self.rise if self.rate is None else sys.float_info.max
        writer, divergence = self._run(problem, parameters, rate, advance)
        for _ in range(HALVINGS if self.rate is None else 0):
            if divergence <= limit:
                break
            rate /= 2
            writer, divergence = self._run(problem, parameters, rate, lambda: None)
        if divergence > limit:
            result = f"at learning rate {rate:.3g} the outputs diverge by {divergence:.3g} nats"
            if self.rate is not None:
                raise InvalidRequest(f"probe: the run diverged, {result}; give a smaller rate, or none.")
            raise Unsupported(f"probe: {result} after {HALVINGS} halvings; give a rate, or record a run of training.")
        writer.finish(layer_weights(problem.module))
        writer.notes.append(NOTE.format(steps=self.steps, rate=rate, labels=problem.labels))
        writer.notes.append(f"the outputs at its end diverged by {divergence:.2g} nats from the model's")
        return writer.trajectory()

    def _check(self, problem: Problem) -> None:
        """Check the fields, and the number of examples."""
        records = (self.steps - round(BURN_IN * self.steps)) // EVERY
        if records < 2:
            raise InvalidRequest(f"probe: steps is {self.steps}; give at least {4 * EVERY}, better 200 to 1000.")
        if self.batch < 1 or problem.examples <= self.batch:
            raise InvalidRequest(
                f"probe: batch is {self.batch} of {problem.examples} examples; minibatches must differ: give more examples, or a "
                "smaller batch."
            )
        if not (self.rise > 0 and (self.rate is None or (self.rate > 0 and math.isfinite(self.rate)))):
            raise InvalidRequest(f"probe: rate is {self.rate} and rise {self.rise}; they must be positive.")

    def _noise(self, problem: Problem, parameters: Sequence[Tensor]) -> float:
        """tr(S), the unbiased variance of the minibatch gradient, summed over all parameters."""
        squares, sums = 0.0, [torch.zeros_like(p) for p in parameters]
        generator = torch.Generator().manual_seed(self.seed)
        for rows in _batches(problem.examples, self.batch, NOISE_BATCHES, generator):
            for total, gradient in zip(sums, _gradients(problem, rows, generator, parameters), strict=True):
                squares += float(gradient.square().sum())
                total += gradient
        trace = (squares - sum(float(total.square().sum()) for total in sums) / NOISE_BATCHES) / (NOISE_BATCHES - 1)
        if not (math.isfinite(trace) and trace > 0):
            raise Unsupported(f"probe: the variance of the gradient is {trace}; give a rate, or record a run of training.")
        return trace

    def _run(
        self, problem: Problem, parameters: Sequence[Tensor], rate: float, advance: Callable[[], None]
    ) -> tuple[TrajectoryWriter, float]:
        """Do one run and restore the weights; return the record and the divergence at its end, infinite if the run diverged."""
        start = [p.detach().clone() for p in parameters]
        writer = TrajectoryWriter(seed=self.seed, learning_rate=rate, batch_size=self.batch)
        recorder: Recorder = record(problem.module, writer, gradients=True)
        generator = torch.Generator().manual_seed(self.seed)
        recorder.steps = burn_in = round(BURN_IN * self.steps)
        try:
            for step, rows in enumerate(_batches(problem.examples, self.batch, self.steps, generator)):
                loss = problem.loss(rows, generator)
                if not math.isfinite(float(loss.detach())):
                    return writer, math.inf
                _descend(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), rate)
                if step >= burn_in:
                    recorder.step(loss)
                advance()
            divergence = problem.divergence()
        except InvalidRequest:  # from the writer: a weight overflowed
            return writer, math.inf
        finally:
            _restore(parameters, start)
        return writer, divergence if math.isfinite(divergence) else math.inf


@torch.no_grad()
def _descend(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None], rate: float) -> None:
    """Take one step of SGD, and leave the gradients in `grad`, where the recorder reads them."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
        if gradient is not None:
            parameter.sub_(rate * gradient)


def _gradients(problem: Problem, rows: Tensor, generator: torch.Generator, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The minibatch gradient of each parameter; zero for parameters that the loss doesn't depend on."""
    loss = problem.loss(rows, generator)
    if not loss.requires_grad:
        raise Unsupported("probe: the model's outputs carry no gradient (its forward method detaches them); record training.")
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if gradient is None else gradient for p, gradient in zip(parameters, gradients, strict=True)]


def _batches(examples: int, size: int, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row indices `[size]` of `count` minibatches, in epochs of random order; an incomplete last batch of an epoch is dropped."""
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(count):
        if len(order) < size:
            order = torch.randperm(examples, generator=generator)
        yield order[:size]
        order = order[size:]


@torch.no_grad()
def _restore(parameters: Sequence[Tensor], start: Sequence[Tensor]) -> None:
    """Restore the parameters' values and clear their gradients."""
    for parameter, value in zip(parameters, start, strict=True):
        parameter.copy_(value)
        parameter.grad = None
