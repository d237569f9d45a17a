"""Rounding for an entropy coder without calibration data: from a recorded training run and a prior on the inputs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dyncompress.errors import InvalidRequest
from dyncompress.linalg.deferred import Tensor, without_gradients
from dyncompress.quantization.entropy import Entropy
from dyncompress.quantization.grid import Grid, float_matrix
from dyncompress.quantization.input_prior import InputPrior
from dyncompress.types import Choice, Encoding, InputMoment, Need, Observation, OutputFisher, Weight, WeightFisher
from dyncompress.types.arrays import Float


@dataclass(frozen=True)
class EntropyPrior:
    """`Entropy` with the inputs' moment and the outputs' Fisher information that `InputPrior` derives from a recorded run.

    The run gives the Fisher information of each weight (`WeightFisher`). Without a run, the cost of an error is its share of the
    layer's squared weights.

    **Cost**: as `Entropy`.

    Attributes:
        damping, rows, grid: as in `Entropy`.
        mean, near: as in `InputPrior`; with 0 for both there is no error feedback and every weight gets the nearest code.

    Example:
        >>> import torch
        >>> from dyncompress.types import Layer
        >>> seen = Observation(Layer("fc", "linear", (1, 2), 0), {WeightFisher(): torch.ones(1, 2)})
        >>> EntropyPrior()(torch.tensor([[3.1, -0.9]]), seen, Choice(weight_bits=8, step=1.0)).codes
        tensor([[ 3, -1]], dtype=torch.int8)
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
                raise InvalidRequest(f"quantize.entropy_prior: {name} is {getattr(self, name)}; give a share in [0, 1).")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The weight, and the Fisher information of each weight."""
        return (Weight(), WeightFisher())

    @property
    def entropy_coded(self) -> bool:
        """Yes: it rounds by `choice.step`."""
        return True

    @property
    def sketch(self) -> None:
        """None: tables of options are computed with the quantizer itself."""
        return None

    def on_grid(self, grid: Grid) -> EntropyPrior:
        """The same quantizer on another grid."""
        return replace(self, grid=grid)

    @without_gradients
    def __call__(self, weight: Float[Tensor, ...], observation: Observation, choice: Choice) -> Encoding:
        """Round a weight `[out, in / groups, *kernel]` with the step-size multiplier `choice.step`.

        Returns:
            Codes in the weight's shape, int8, and a scale `[out]`, float32.

        Raises:
            InvalidRequest: the weight isn't finite, or the step isn't positive.
        """
        float_matrix(weight)
        prior, layer = InputPrior(self.mean, self.near), observation.layer
        rows, columns = prior.split(weight, observation)
        values: dict[Need, Tensor] = {InputMoment(): prior.moment(columns, weight.shape, layer.kind), OutputFisher(): rows}
        return self._entropy()(weight, Observation(layer, values), choice)

    def _entropy(self) -> Entropy:
        """The quantizer that does the rounding; its own checks cover the shared fields."""
        return Entropy(damping=self.damping, rows=self.rows, grid=self.grid)
