"""Rounding for an entropy coder without data: steps and error feedback by what a recorded run tells, and assumed inputs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dyncompress.errors import InvalidRequest
from dyncompress.linalg.deferred import without_gradients
from dyncompress.quantization.entropy import Entropy
from dyncompress.quantization.grid import Grid, checked
from dyncompress.quantization.input_prior import InputPrior
from dyncompress.types import Choice, Encoding, InputMoment, Need, Observation, OutputFisher, Weight, WeightFisher

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EntropyPrior:
    """`Entropy`, its moment and Fisher information made of the Fisher information of the weights by `InputPrior`.

    Where no run was recorded, an error counts relative to the layer's weights.

    Cost: as `Entropy`.

    Attributes:
        damping, rows, grid: of `Entropy`.
        mean, near: of `InputPrior`; with 0 for both, codes are the nearest ones.
    """

    damping: float = 0.01
    rows: float = 0.5
    mean: float = InputPrior.mean
    near: float = InputPrior.near
    grid: Grid = field(default_factory=Grid)

    def __post_init__(self) -> None:
        """Check the fields."""
        self._entropy()
        for name in ("mean", "near"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidRequest(f"quantize.entropy_prior: {name} is {getattr(self, name)}; a share in [0, 1) is needed.")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight, and what an error of each costs."""
        return (Weight(), WeightFisher())

    @property
    def entropy_coded(self) -> bool:
        """Yes: it rounds by `choice.step`."""
        return True

    @property
    def sketch(self) -> None:
        """None: tables of options are made with the quantizer itself."""
        return None

    def on_grid(self, grid: Grid) -> EntropyPrior:
        """The same quantizer on another grid."""
        return replace(self, grid=grid)

    @without_gradients
    def __call__(self, weight: Tensor, observation: Observation, choice: Choice) -> Encoding:
        """Round a weight `[out, in / groups, *kernel]` with `choice.step`.

        Raises:
            InvalidRequest: the weight isn't finite, or the step isn't positive.
        """
        checked(weight)
        prior, layer = InputPrior(self.mean, self.near), observation.layer
        rows, columns = prior.split(weight, observation)
        values: dict[Need, Tensor] = {InputMoment(): prior.moment(columns, weight.shape, layer.kind), OutputFisher(): rows}
        return self._entropy()(weight, Observation(layer, values), choice)

    def _entropy(self) -> Entropy:
        return Entropy(damping=self.damping, rows=self.rows, grid=self.grid)
