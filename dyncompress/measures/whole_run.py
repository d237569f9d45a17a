"""A recorded run as one layer, so that measures of a layer's trajectory can be applied to the whole network's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.types import ExampleLosses, Gradients, Iterates, Layer, Need, Observation, Trajectory
from dyncompress.types.arrays import Num


def whole_run(trajectory: Trajectory) -> Observation:
    """The observation of a whole network: the sketches of all its layers, concatenated.

    Squared distances of layers add up, so concatenated sketches are a sketch of the concatenated weights.

    Args:
        trajectory: the recorded run, with a sketch `[T, d]` of every layer.

    Returns:
        An observation of `Iterates` and, where they were recorded, of `ExampleLosses` and `Gradients`.

    Raises:
        InvalidRequest: the trajectory holds no layer.
    """
    if not trajectory.sketches:
        raise InvalidRequest("whole_run: the trajectory holds no layer; record one with TrajectoryWriter.")
    values: dict[Need, Any] = {Iterates(): _concatenated(trajectory.sketches)}
    if trajectory.losses_per_example is not None:
        values[ExampleLosses()] = trajectory.losses_per_example
    if trajectory.gradients:
        values[Gradients()] = _concatenated(trajectory.gradients)
    shape = (1, sum(motion.mean.size for motion in trajectory.motion.values()))
    return Observation(Layer("whole run", "run", shape, macs=0), values)


def _concatenated(parts: Mapping[str, Num[np.ndarray, "T _"]]) -> Num[np.ndarray, "T total"]:
    """Concatenate the sketches `[T, d]` of all layers to `[T, sum of d]`."""
    return np.concatenate(list(parts.values()), axis=1)
