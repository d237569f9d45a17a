"""What can be known about a layer: the needs that a measure names, the observation of them, and recorded training."""

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

    The value is a list of arrays. view `slices`: one array for the `(out, in)` matrix of each kernel position. `flat`: one array,
    of the `(out, in * kernel)` matrix. `windows`: one array for each square window of FARMS (see `linalg.spectra`).
    """

    view: str = "slices"


@dataclass(frozen=True)
class InputMoment:
    """Second moment of the layer's inputs, `[groups, fan_in, fan_in]`: the mean of x x^T over examples and positions."""


@dataclass(frozen=True)
class OutputFisher:
    """Diagonal Fisher information of the layer's outputs, `[out]`.

    The KL divergence that an error e of the outputs causes is predicted as 1/2 sum_c fisher_c E[e_c^2] nats, with e_c^2 averaged
    over examples and positions. 5 % of the error power is assumed correlated across positions:
    fisher_c = 0.95 E[sum_p g_p^2] + 0.05 E[(sum_p g_p)^2], where g_p is the gradient of the log-likelihood with respect to the
    output of channel c at position p.
    """


@dataclass(frozen=True)
class OutputMoments:
    """`(mean, std)`, each `[out]`, of the layer's output over examples and positions."""


@dataclass(frozen=True)
class NoiseGain:
    """How strongly noise in the layer's output changes the network's output: `(cushion, gain)`, each `[examples]`, float64.

    cushion: ||W X||_F / (||W||_F ||X||_F), where the columns of X are the example's inputs at all positions.
    gain: the relative size, at the network's output f, of white noise of relative size 1 at the layer's output y, to first order:
    ||J||_F ||y|| / (sqrt(size of y) ||f||), where J is the derivative of f with respect to y.
    """


@dataclass(frozen=True)
class HessianSpectrum:
    """Eigenvalues of the layer's diagonal block of the loss's Hessian: `(values, counts)`, each `[batches, nodes]`, float64.

    A count is the number of directions that an eigenvalue represents. The counts of a batch sum to the number of weights; they
    are zero for unused nodes. The loss is the mean cross-entropy with the model's own predictions as labels; for outputs that
    aren't scores of classes, it is half the squared distance from the outputs themselves. The eigenvalues are exact for a layer
    with at most `nodes` weights, else they are the nodes of stochastic Lanczos quadrature.

    Attributes:
        nodes: number of eigenvalues for each batch.
        batches: number of batches.
    """

    nodes: int = 20
    batches: int = 4


@dataclass(frozen=True)
class Motion:
    """Statistics of every weight over the late training trajectory: a `WeightMotion`."""


@dataclass(frozen=True)
class WeightFisher:
    """Fisher information of every weight, in the weight's shape, estimated from the increments late in training.

    Half of it times the square of an error is a distortion. The unit is nats if the trajectory holds what the scale needs:
    learning rate and batch size.
    """


@dataclass(frozen=True)
class Iterates:
    """Iterates of the weights late in training, `[T, d]`, in order and at equal numbers of steps, or linear sketches of them."""


@dataclass(frozen=True)
class ExampleLosses:
    """Losses of the same n examples at each of T iterates late in training, `[T, n]`."""


@dataclass(frozen=True)
class Gradients:
    """Minibatch gradients at the iterates late in training, or their sums between records, `[T, d]`, or linear sketches of them.

    Unknown rows are nan.
    """


OfModels = Weight | Bias | Spectrum | InputMoment | OutputFisher | OutputMoments | NoiseGain | HessianSpectrum
OfTrajectories = Motion | WeightFisher | Iterates | ExampleLosses | Gradients  # answered by a recorded run, and by no model
Need = OfModels | OfTrajectories


@dataclass(frozen=True)
class Observation:
    """What is known about one layer: `observation[InputMoment()]` is the value of one need.

    Attributes:
        layer: the layer.
        values: need -> its value, with the shape that the need's class describes.
    """

    layer: Layer
    values: Mapping[Need, Any]

    def __repr__(self) -> str:
        return describe(self, layer=self.layer.name, shape=self.layer.shape, collected=[repr(need) for need in self.values])

    def __getitem__(self, need: Need) -> Any:
        """The value of `need`.

        Raises:
            InvalidRequest: it wasn't collected; the message names the need to add.
        """
        if need not in self.values:
            raise InvalidRequest(f"layer '{self.layer.name}': {need!r} was not collected; add it to the observation's needs.")
        return self.values[need]

    def __contains__(self, need: Need) -> bool:
        """Whether `need` was collected."""
        return need in self.values


@dataclass(frozen=True)
class Estimate:
    """An estimate with its uncertainty.

    Attributes:
        value: the estimate.
        stderr: its standard error; nan if no theory provides one, as `notes` then says.
        n: number of data points.
        fit: goodness of fit of the estimator's model, e.g. a Kolmogorov-Smirnov distance; nan if it has none.
        valid: False if the conditions of the estimator don't hold; `notes` says which.
        notes: sentences for the report.
    """

    value: float
    stderr: float
    n: int
    fit: float = float("nan")
    valid: bool = True
    notes: tuple[str, ...] = ()

    __repr__ = short_repr

    def __eq__(self, other: object) -> bool:
        """Whether all fields are equal; nan equals nan, so that an estimate equals its copy."""
        if not isinstance(other, Estimate):
            return NotImplemented
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return all(a == b or (a != a and b != b) for a, b in pairs)

    def __hash__(self) -> int:
        return hash((self.n, self.valid, self.notes))


@dataclass(frozen=True)
class WeightMotion:
    """Mean and variances of one layer's iterates late in training, in the weight's shape.

    Attributes:
        mean: `[out, in / groups, *kernel]` mean of the recorded iterates.
        variance: the same shape, of the iterates; drift during the recording contributes to it.
        increment_variance: the same shape, of the increments between consecutive recorded iterates.
        count: number of recorded iterates.
    """

    mean: np.ndarray
    variance: np.ndarray
    increment_variance: np.ndarray
    count: int

    __repr__ = short_repr


@dataclass(frozen=True)
class Trajectory:
    """What was recorded of a training run; `TrajectoryWriter` makes one.

    Attributes:
        steps: `[T]` optimizer steps at which weights were recorded.
        losses: `[T]` training losses at these steps; nan if none was given.
        motion: layer -> statistics of its weights.
        sketches: layer -> `[T, d]` seeded sign-block sketches of the iterates.
        seed: of the sketches.
        digest: sha256 of the weights that the trajectory belongs to, by default the last recorded ones; a trajectory of another
            model's weights is refused.
        learning_rate, batch_size: of the recorded phase; nan and 0 if unknown.
        gradients: layer -> `[T, d]` sketches, with the same signs, of the minibatch gradients of these steps; unknown rows are
            nan; empty: no gradients were recorded.
        losses_per_example: `[T, n]` losses of the same n examples at every recorded step, or None.
        notes: how the trajectory was made.
        optimizer: name of the optimizer's class, such as "AdamW"; empty if unknown.
        gradient_variance: layer -> variance of the minibatch gradient of each weight, in the weight's shape, float32, from what
            an optimizer of the Adam family stores; empty for others.
        gradient_sums: layer -> `[T, d]` sketches, with the same signs, of the sum of the minibatch gradients since the last
            record: its increment, divided by the step size of each weight. The optimizer's momentum averages these gradients
            with earlier ones. Unknown rows, such as the first, are nan; empty for optimizers with one step size for all weights.
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
    optimizer: str = ""
    gradient_variance: Mapping[str, np.ndarray] = field(default_factory=dict)
    gradient_sums: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __repr__(self) -> str:
        span = (int(self.steps[0]), int(self.steps[-1])) if len(self.steps) else ()
        return describe(self, records=len(self.steps), steps=span, layers=tuple(self.motion), digest=self.digest[:12])
