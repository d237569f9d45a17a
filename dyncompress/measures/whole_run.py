"""A recorded run as one layer, so that measures of a layer's trajectory can be read off the whole network's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.types import ExampleLosses, Gradients, Iterates, Layer, Need, Observation, Trajectory


def whole_run(trajectory: Trajectory) -> Observation:
    """All layers side by side: squared distances of layers add up, so one sketch beside another is a sketch of both.

    Args:
        trajectory: with a sketch of every layer.

    Returns:
        An observation of `Iterates` and, where they were recorded, of `ExampleLosses` and `Gradients`.

    Raises:
        InvalidRequest: the trajectory has no layer.
    """
    if not trajectory.sketches:
        raise InvalidRequest("whole_run: the trajectory holds no layer; record one with TrajectoryWriter.")
    values: dict[Need, Any] = {Iterates(): _beside(trajectory.sketches)}
    if trajectory.losses_per_example is not None:
        values[ExampleLosses()] = trajectory.losses_per_example
    if trajectory.gradients:
        values[Gradients()] = _beside(trajectory.gradients)
    shape = (1, sum(motion.mean.size for motion in trajectory.motion.values()))
    return Observation(Layer("whole run", "run", shape, macs=0), values)


def _beside(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """`[T, d]` of every layer -> `[T, sum of d]`."""
    return np.concatenate(list(parts.values()), axis=1)
