"""Dynamics as the prior and data as the correction: Fisher information of a training run, pooled with that of the examples."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from dyncompress.quantization.input_prior import InputPrior
from dyncompress.types import InputMoment, Observation, OutputFisher, Weight, WeightFisher

RUN_EXAMPLES = 64  # calibration examples as which a training run counts


def pooled(observation: Observation, examples: int, unit: float) -> Observation:
    """The observation with its outputs' Fisher information pooled: a mean in which the run counts as `RUN_EXAMPLES` examples.

    The moment of the inputs stays the data's: rounding with it is better from 32 examples on than with an assumed one.

    Args:
        observation: of one layer.
        examples: number of calibration examples that it was observed on.
        unit: what the run's Fisher information is multiplied by.
    """
    run = run_rows(observation)
    if run is None:
        return observation
    data = observation[OutputFisher()]
    share = examples / (examples + RUN_EXAMPLES)
    rows = (share * data.double() + (1 - share) * unit * run.to(data.device)).to(data.dtype)
    return Observation(observation.layer, {**observation.values, OutputFisher(): rows})


def run_rows(observation: Observation) -> Tensor | None:
    """The Fisher information of the outputs that a training run gives for the inputs that were seen, `[out]` float64.

    None where one of the two is unknown.
    """
    known = all(need in observation for need in (Weight(), WeightFisher(), InputMoment(), OutputFisher()))
    if not known or not observation[WeightFisher()].any():
        return None
    rows, _ = InputPrior().split(observation[Weight()], observation)
    power = observation[InputMoment()].double().diagonal(dim1=-2, dim2=-1).mean(-1)  # [groups]; the split's moment has mean 1
    return rows / power.to(rows.device).clamp_min(1e-12).repeat_interleave(len(rows) // len(power))


def unit_of(observations: Iterable[Observation]) -> float:
    """The median over layers of the ratio of the data's Fisher information to that of a run in another unit; 1 without layers."""
    ratios = []
    for observation in observations:
        run = run_rows(observation)
        if run is not None and float(run.sum()) > 0 and float(observation[OutputFisher()].sum()) > 0:
            ratios.append(float(observation[OutputFisher()].double().sum()) / float(run.sum()))
    return float(np.median(ratios)) if ratios else 1.0
