"""A trajectory from the checkpoints that a run left behind, which are fewer and further apart than recorded iterates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from dyncompress.errors import InvalidRequest
from dyncompress.recording.writer import TrajectoryWriter
from dyncompress.types import Array, Trajectory

FEWEST = 2  # sets of weights whose difference is one increment


def trajectory_of(
    checkpoints: Iterable[tuple[int, Mapping[str, Array]]],
    *,
    learning_rate: float = math.nan,
    batch_size: int = 0,
    optimizer: str = "",
    seed: int = 0,
) -> Trajectory:
    """The trajectory of a few sets of weights, in the order of their steps; it belongs to the last one.

    What can be read from it depends on the number T of checkpoints and on how far apart they are. Every measure states its
    standard error and refuses fewer points than it needs:

    - From 3: the order of the layers by Fisher information, if the checkpoints are from the end of a run of SGD with a constant
      rate; it is relative, and in nats for no number of checkpoints more than 50 steps apart (`increment_fisher`). With Adam it
      isn't in the weights at all: read the optimizer's state of the last checkpoint instead (`load_training_state`).
    - From 3: fluctuation scale; from 5: participation ratio, whose standard error spans what so few can't show. Both are marked
      invalid below 30.
    - From 20: PH dimension and TwoNN; from 21: tail index. They are marked invalid below 200 and 1 000, and have large errors.
    - Lifetime sum and magnitude describe any number of points, and compare only with those of as many points as far apart.

    **Cost**: one pass over each set of weights. They are read one after another, so a generator keeps one of them in memory.

    Args:
        checkpoints: (optimizer step, layer name -> weight `(out, in / groups, *kernel)`), at least 2 with different steps; as
            `torch_callback.layer_weights` gives them.
        learning_rate, batch_size: of the run; nan and 0: unknown.
        optimizer: name of its class; empty: unknown, and taken for SGD.
        seed: of the sketches.

    Returns:
        The trajectory. Its notes say how far apart the checkpoints are.

    Raises:
        InvalidRequest: there are fewer than 2, steps don't increase, layers or shapes change, or a weight isn't finite.

    Example:
        >>> import numpy as np
        >>> run = trajectory_of([(step, {"fc": np.full((2, 3), step / 1000)}) for step in (1000, 2000, 3000)])
        >>> run.motion["fc"].mean[0].tolist(), run.notes
        ([2.0, 2.0, 2.0], ('3 checkpoints, 1000 steps apart: increments are drift and noise together',))
    """
    writer = TrajectoryWriter(seed, learning_rate=learning_rate, batch_size=batch_size)
    steps = []
    for step, weights in checkpoints:
        writer.append(step, weights)
        steps.append(step)
    if len(steps) < FEWEST:
        raise InvalidRequest(f"trajectory_of: {len(steps)} checkpoints; give at least {FEWEST} of one run.")
    apart = sorted({later - earlier for earlier, later in itertools.pairwise(steps)})
    distance = f"{apart[0]}" if len(apart) == 1 else f"{apart[0]} to {apart[-1]}"
    writer.notes.append(f"{len(steps)} checkpoints, {distance} steps apart: increments are drift and noise together")
    return replace(writer.trajectory(), optimizer=optimizer)
