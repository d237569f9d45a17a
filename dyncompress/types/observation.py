"""What may be known about a layer: the needs that a measure names, the observation that answers them, and recorded training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.types.network import Layer
from dyncompress.types.representation import describe, short_repr


@dataclass(frozen=True)
class Weight:
    """The weight, `[out, in / groups, *kernel]`."""


@dataclass(frozen=True)
class Bias:
    """The bias, `[out]`, or None."""


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of W W^T, float64, ascending, not divided by anything.

    view `slices`: a list, one array for each kernel position's `(out, in)` matrix; `flat`: a list with one array, of the
    `(out, in * kernel)` matrix; `windows`: a list, one array for each square window of FARMS.
    """

    view: str = "slices"


@dataclass(frozen=True)
class InputMoment:
    """Second moment of the layer's inputs, `[groups, fan_in, fan_in]`: the mean of x x^T over examples and positions."""


@dataclass(frozen=True)
class OutputFisher:
    """`[out]`: what the square of an output error costs: half of sum_c fisher_c * E[e_c^2] predicts the KL divergence, in nats,
    of an error e (e_c^2 averaged over examples and positions) of which a twentieth of the power is alike at all positions.
    That is 0.95 E[sum_p g_p^2] + 0.05 E[(sum_p g_p)^2], g_p the gradient of the log-likelihood at position p."""


@dataclass(frozen=True)
class OutputMoments:
    """`(mean, std)`, each `[out]`, of the layer's output over examples and positions."""


@dataclass(frozen=True)
class NoiseGain:
    """`(cushion, gain)`, each `[examples]`, float64, of an example's way through the layer and on to the output.

    cushion: ||W X||_F / (||W||_F ||X||_F), X the example's inputs of all positions as columns.
    gain: relative size at the network's output of white noise of relative size 1 at the layer's output y, to first order:
    ||J||_F ||y|| / (sqrt(size of y) ||f||), J the derivative of the outputs f by y.
    """


@dataclass(frozen=True)
class HessianSpectrum:
    """`(values, counts)`, each `[batches, nodes]`, float64: eigenvalues of the layer's own block of the loss's Hessian, batch by
    batch, and how many directions each stands for (counts add up to the layer's weights, or are zero where nodes are missing).

    The loss is the cross-entropy with the model's own answers as labels (mean over examples); where outputs aren't scores, half
    the squared distance to the outputs themselves. Eigenvalues are exact where the layer has at most `nodes` weights, else
    nodes of stochastic Lanczos quadrature.
    """

    nodes: int = 20
    batches: int = 4


@dataclass(frozen=True)
class Motion:
    """Per-weight statistics of the late training trajectory: a `WeightMotion`."""


@dataclass(frozen=True)
class WeightFisher:
    """Fisher information of every weight, shaped as the weight, estimated from its late increments.

    Half of it times an error's square is a distortion, in nats where the trajectory has what the scale takes.
    """


@dataclass(frozen=True)
class Iterates:
    """`[T, d]` late iterates of the weights, in order and at equal distances in time, or linear sketches of them."""


@dataclass(frozen=True)
class ExampleLosses:
    """`[T, n]` losses of the same n examples under each of T late iterates."""


@dataclass(frozen=True)
class Gradients:
    """`[T, d]` minibatch gradients along the late iterates, or linear sketches of them; rows of nan where none is known."""


OfModels = Weight | Bias | Spectrum | InputMoment | OutputFisher | OutputMoments | NoiseGain | HessianSpectrum
OfTrajectories = Motion | WeightFisher | Iterates | ExampleLosses | Gradients  # what a recorded run gives, and no model
Need = OfModels | OfTrajectories


@dataclass(frozen=True)
class Observation:
    """The closed list of what is known about one layer; `observation[InputMoment()]` reads one entry."""

    layer: Layer
    values: Mapping[Need, Any]

    def __repr__(self) -> str:
        return describe(self, layer=self.layer.name, shape=self.layer.shape, collected=[repr(need) for need in self.values])

    def __getitem__(self, need: Need) -> Any:
        """The array of `need`.

        Raises:
            InvalidRequest: it was not collected; the message names the need to add.
        """
        if need not in self.values:
            raise InvalidRequest(f"layer '{self.layer.name}': {need!r} was not collected; add it to the observation's needs.")
        return self.values[need]

    def __contains__(self, need: Need) -> bool:
        """Whether `need` was collected."""
        return need in self.values


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        value: the estimate.
        stderr: its standard error (nan where no theory gives one; `notes` then says so).
        n: how many data points entered.
        fit: goodness of fit of the model behind the estimator, e.g. a Kolmogorov-Smirnov distance; nan if it has none.
        valid: False where the estimator's own conditions fail; `notes` says which.
        notes: sentences for the report.
    """

    value: float
    stderr: float
    n: int
    fit: float = float("nan")
    valid: bool = True
    notes: tuple[str, ...] = ()

    __repr__ = short_repr


@dataclass(frozen=True)
class WeightMotion:
    """Welford moments of one layer's late iterates, in the weight's own layout.

    Attributes:
        mean: `[out, in / groups, *kernel]` mean of the recorded iterates.
        variance, increment_variance: the same shape; of the iterates (holds the drift), and of the increments between them.
        count: number of recorded iterates.
    """

    mean: np.ndarray
    variance: np.ndarray
    increment_variance: np.ndarray
    count: int

    __repr__ = short_repr


@dataclass(frozen=True)
class Trajectory:
    """What was recorded of a training run.

    Attributes:
        steps: `[T]` optimizer steps at which weights were recorded.
        losses: `[T]` training losses at these steps (nan where none was given).
        motion: by layer.
        sketches: by layer, `[T, d]` seeded sign-block sketches of the iterates.
        seed: of the sketches.
        digest: sha256 of the weights it belongs to, the last recorded ones where nothing else was told; a trajectory that isn't
            the model's is refused.
        learning_rate, batch_size: of the recorded phase; nan and 0 where not told.
        gradients: by layer, `[T, d]` sketches, with the same signs, of the minibatch gradients of these steps; a row is nan where
            none was known; empty where none was asked for.
        losses_per_example, notes: `[T, n]` losses of the same n examples at every record, or None; how it was made.
    """

    steps: np.ndarray
    losses: np.ndarray
    motion: Mapping[str, WeightMotion]
    sketches: Mapping[str, np.ndarray]
    seed: int
    digest: str
    learning_rate: float = float("nan")
    batch_size: int = 0
    gradients: Mapping[str, np.ndarray] = field(default_factory=dict)
    losses_per_example: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        span = (int(self.steps[0]), int(self.steps[-1])) if len(self.steps) else ()
        return describe(self, records=len(self.steps), steps=span, layers=tuple(self.motion), digest=self.digest[:12])
