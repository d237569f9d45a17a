"""What is known of a model's training, beside the model: a recorded trajectory, or the state that its optimizer kept.

Both give each layer's values in the coordinates of the model as it is opened, with normalisation layers folded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyncompress.errors import InvalidRequest
from dyncompress.pipeline.coarse_run import coarse_trajectory
from dyncompress.pipeline.saved_run import SavedRun, folded_fisher, row_gain, saved_run
from dyncompress.recording import load_trajectory
from dyncompress.recording.increment_fisher import IncrementFisher, increment_fisher
from dyncompress.recording.training_states import is_training_state, load_training_state, training_state_of
from dyncompress.recording.training_states.order import Shapes
from dyncompress.types import (
    Gradients,
    Iterates,
    Model,
    Motion,
    Need,
    TrainingState,
    Trajectory,
    WeightFisher,
    WeightMotion,
)


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

    @property
    def nats(self) -> bool:
        """Whether the unit of the distortions is known."""
        return self.fisher.nats

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
        rows = run.gradients.get(layer, run.gradient_sums.get(layer))
        if rows is not None:
            values[Gradients()] = rows
        if layer in self.fisher.layers:
            gain = row_gain(run.motion[layer].mean, weight)
            values[WeightFisher()] = folded_fisher(self.fisher.layers[layer], gain, weight)
        return values


def recorded_run(given: Any, model: Model, batch_size: int = 0) -> RecordedRun | SavedRun:
    """The run that a model's training left behind.

    Args:
        given: a trajectory or the path of one (`.npz`); a training state; a path that `load_training_state` reads; or what
            `training_state_of` takes: a torch optimizer, a loaded checkpoint, a Keras model, or (params, opt_state) of optax.
        model: that the training ended at.
        batch_size: of a training state that doesn't say it; 0: unknown.

    Raises:
        InvalidRequest: it is another model's, or can't be read.
    """
    if isinstance(given, str | Path) and Path(given).suffix == ".npz" and not is_training_state(given):
        given = load_trajectory(given)
    if isinstance(given, Trajectory):
        return _of_trajectory(given, model)
    parameters = [(name, tuple(p.shape)) for name, p in trained_parameters(model)]
    if isinstance(given, str | Path):
        given = _loaded(Path(given), model, parameters)
        if isinstance(given, Trajectory):
            return _of_trajectory(given, model)
    elif not isinstance(given, TrainingState):
        given = training_state_of(given, parameters=parameters)
    given = given if given.batch_size else replace(given, batch_size=batch_size)
    return saved_run(given, model, dict(trained_parameters(model)))


def _loaded(path: Path, model: Model, parameters: Shapes) -> TrainingState | Trajectory:
    """The state in a checkpoint; of a folder whose last checkpoint has none, the coarse trajectory of all of them."""
    try:
        return load_training_state(path, parameters=parameters)
    except InvalidRequest as error:
        source = getattr(model, "source", None)
        if not path.is_dir() or "no state of an optimizer" not in str(error) or not isinstance(source, torch.nn.Module):
            raise
        return coarse_trajectory(path, source)


def trained_parameters(model: Model) -> list[tuple[str, Tensor]]:
    """The parameters of the caller's own module that were trained, in order; none if the model wasn't a module."""
    source = getattr(model, "source", None)
    if not isinstance(source, torch.nn.Module):
        return []
    return [(name, p.detach()) for name, p in source.named_parameters()]


def _of_trajectory(run: Trajectory, model: Model) -> RecordedRun:
    """A recorded trajectory, checked to be the model's."""
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
