"""A recorded training run beside the model it ends at, with the records of each layer in the coordinates of that model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyncompress.errors import InvalidRequest
from dyncompress.recording import load_trajectory
from dyncompress.recording.increment_fisher import IncrementFisher, increment_fisher
from dyncompress.types import Gradients, Iterates, Model, Motion, Need, Trajectory, WeightFisher, WeightMotion


@dataclass(frozen=True)
class RecordedRun:
    """A trajectory, and the Fisher information estimated from its increments.

    Attributes:
        trajectory: as recorded.
        fisher: empty where the trajectory has too few records.
    """

    trajectory: Trajectory
    fisher: IncrementFisher

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the trajectory, and on the scale of the distortions that are estimated from it."""
        return (*self.trajectory.notes, self.fisher.note)

    def of(self, layer: str, weight: Tensor) -> Mapping[Need, Any]:
        """What was recorded of a layer: motion in the coordinates of the folded weight, sketches as they were recorded.

        Nothing where it wasn't, or has fewer channels by now.
        """
        run = self.trajectory
        while layer not in run.motion and layer.endswith(".layer"):  # one that the model puts inside the caller's module
            layer = layer.removesuffix(".layer")
        if layer not in run.motion or run.motion[layer].mean.shape != tuple(weight.shape):
            return {}
        values: dict[Need, Any] = {Motion(): folded_motion(run.motion[layer], weight), Iterates(): run.sketches[layer]}
        if layer in run.gradients:
            values[Gradients()] = run.gradients[layer]
        if layer in self.fisher.layers:
            gain = row_gain(run.motion[layer].mean, weight)
            # a row of zeros has no gain: its Fisher information is unknown, and counts as 0
            fisher = self.fisher.layers[layer] / np.square(np.where(gain > 0, gain, np.inf))
            values[WeightFisher()] = torch.from_numpy(fisher.astype(np.float32)).to(weight.device)
        return values


def recorded_run(trajectory: Trajectory | str | Path, model: Model) -> RecordedRun:
    """The recorded run of a model, from a trajectory or its path.

    Raises:
        InvalidRequest: it is another model's.
    """
    run = trajectory if isinstance(trajectory, Trajectory) else load_trajectory(trajectory)
    if run.digest != model.digest():
        raise InvalidRequest(
            f"the trajectory ends at other weights than the model's (digest {run.digest[:12]} against {model.digest()[:12]}); "
            "give the trajectory of this model's training, with its last step recorded."
        )
    return RecordedRun(run, increment_fisher(run))


def folded_motion(motion: WeightMotion, weight: Tensor) -> WeightMotion:
    """The motion of the trained weight, in the coordinates of the weight after normalisation layers were folded into it."""
    gain = row_gain(motion.mean, weight)
    return replace(
        motion,
        mean=motion.mean * gain,
        variance=motion.variance * np.square(gain),
        increment_variance=motion.increment_variance * np.square(gain),
    )


def row_gain(mean: np.ndarray, weight: Tensor) -> np.ndarray:
    """What folding multiplied each output's weights by, `[out, 1, ...]`: the ratio of their norms."""
    rows = np.asarray(weight.detach().cpu().double()).reshape(mean.shape[0], -1)
    before = np.linalg.norm(mean.reshape(mean.shape[0], -1), axis=1)
    return (np.linalg.norm(rows, axis=1) / np.maximum(before, 1e-12)).reshape(-1, *[1] * (mean.ndim - 1))
