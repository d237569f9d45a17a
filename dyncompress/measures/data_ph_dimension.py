"""The persistent-homology dimension of a trajectory, in a distance between the losses of examples."""

from __future__ import annotations

from dataclasses import dataclass

from dyncompress.measures.border import require, unusable
from dyncompress.measures.distances import all_finite, loss_distances
from dyncompress.measures.ph_dimension import dimension_of
from dyncompress.types import Estimate, ExampleLosses, Need, Observation


@dataclass(frozen=True)
class DataPhDimension:
    """`ph_dimension` in the pseudo-metric rho(w, w') = mean over examples of |loss(w, z) - loss(w', z)|.

    Source: Dupuis, Deligiannidis, Simsekli, ICML 2023; their code leaves out the division by the number of examples, which
    doesn't change the slope. Departures as in `ph_dimension`. For the same seed and number of iterates, the subsamples are those
    of `ph_dimension`, so that both are computed on the same points.
    Assumes: losses of the same examples under every iterate (one evaluation for each iterate; a few thousand examples suffice).
    No Lipschitz constant is assumed.
    Cost: T^2 n / 2 for n examples, then as `ph_dimension`.
    Fails when: as `ph_dimension`; losses that are nearly all equal (0-1 losses at convergence) leave few distinct iterates. The
    bound of the paper contains a mutual information that can't be computed.

    Attributes:
        alpha: exponent of the lifetimes.
        repeats: number of schedules of subsamples.
        seed: seed of the subsamples.
    """

    alpha: float = 1.0
    repeats: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        require(self.alpha > 0, "data_ph_dimension", "alpha", self.alpha, "above 0")
        require(self.repeats >= 2, "data_ph_dimension", "repeats", self.repeats, "at least 2")

    @property
    def needs(self) -> tuple[Need, ...]:
        """Losses of examples along the trajectory."""
        return (ExampleLosses(),)

    def __call__(self, observation: Observation) -> Estimate:
        """The dimension of the trajectory in the pseudo-metric of its losses."""
        losses = observation[ExampleLosses()]
        if not all_finite(losses):
            return unusable(len(losses), "the losses hold NaN or infinity")
        return dimension_of(loss_distances(losses), self.alpha, self.repeats, self.seed)
