"""Trajectories in `.npz` files: written completely or not at all, and checked when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dyncompress.coding.npz import read_format, write_arrays
from dyncompress.errors import InvalidRequest
from dyncompress.types import Trajectory, WeightMotion

FORMAT = "dyncompress trajectory 1"


def save_trajectory(trajectory: Trajectory, path: str | Path) -> Path:
    """Write a trajectory to an `.npz` file, under a temporary name that is renamed at the end.

    Args:
        trajectory: to write.
        path: of the file; no suffix is added.

    Returns:
        The path.

    Raises:
        InvalidRequest: the file can't be written (no folder, no permission, no space); no part of it is left behind.
    """
    path = Path(path)
    arrays = {
        "format": np.array(FORMAT),
        "names": np.array(list(trajectory.motion), dtype=np.str_),
        "steps": trajectory.steps,
        "losses": trajectory.losses,
        "seed": np.array(trajectory.seed),
        "digest": np.array(trajectory.digest),
        "learning_rate": np.array(trajectory.learning_rate),
        "batch_size": np.array(trajectory.batch_size),
        "notes": np.array(trajectory.notes, dtype=np.str_),
        "optimizer": np.array(trajectory.optimizer),
    }
    if trajectory.losses_per_example is not None:
        arrays["losses_per_example"] = trajectory.losses_per_example
    for index, (name, motion) in enumerate(trajectory.motion.items()):
        arrays[f"{index}.mean"] = motion.mean
        arrays[f"{index}.variance"] = motion.variance
        arrays[f"{index}.increment_variance"] = motion.increment_variance
        arrays[f"{index}.sketch"] = trajectory.sketches[name]
        for part, values in _optional(trajectory).items():
            if name in values:
                arrays[f"{index}.{part}"] = values[name]
    return write_arrays(path, arrays, "trajectory")


def load_trajectory(path: str | Path) -> Trajectory:
    """Read a trajectory that `TrajectoryWriter.save` or `save_trajectory` wrote.

    Args:
        path: of the file.

    Returns:
        The trajectory.

    Raises:
        InvalidRequest: the file is missing, truncated, damaged, or not a trajectory.
    """
    path = Path(path)
    remedy = "record or copy it again"
    arrays = read_format(path, FORMAT, "trajectory", "TrajectoryWriter.save", remedy)
    try:
        trajectory = _from_arrays(arrays)
        _check(trajectory, path)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InvalidRequest(f"trajectory '{path}' is truncated or no trajectory; {remedy}.") from error
    return trajectory


def _optional(trajectory: Trajectory) -> dict[str, Mapping[str, np.ndarray]]:
    """Part of the names in a file -> values of the layers that have such an array."""
    return {
        "gradient": trajectory.gradients,
        "gradient_variance": trajectory.gradient_variance,
        "gradient_sums": trajectory.gradient_sums,
    }


def _from_arrays(file: Mapping[str, np.ndarray]) -> Trajectory:
    """The trajectory that the arrays of a file describe."""
    names, steps = [str(name) for name in file["names"]], file["steps"]
    motion, sketches = {}, {}
    for index, name in enumerate(names):
        parts = (file[f"{index}.{part}"] for part in ("mean", "variance", "increment_variance"))
        motion[name] = WeightMotion(*parts, count=len(steps))
        sketches[name] = file[f"{index}.sketch"]
    return Trajectory(
        steps=steps,
        losses=file["losses"],
        motion=motion,
        sketches=sketches,
        seed=int(file["seed"]),
        digest=str(file["digest"]),
        learning_rate=float(file["learning_rate"]),
        batch_size=int(file["batch_size"]),
        gradients=_part(file, "gradient"),
        losses_per_example=file.get("losses_per_example"),
        notes=tuple(str(note) for note in file["notes"]) if "notes" in file else (),  # files of version 0.1.0 have none
        optimizer=str(file.get("optimizer", "")),  # files of version 0.3.0 have none
        gradient_variance=_part(file, "gradient_variance"),
        gradient_sums=_part(file, "gradient_sums"),
    )


def _part(file: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """Layer name -> array, for the layers of which the file holds this part."""
    names = enumerate(str(name) for name in file["names"])
    return {name: file[f"{index}.{part}"] for index, name in names if f"{index}.{part}" in file}


def _check(trajectory: Trajectory, path: Path) -> None:
    """Check that the arrays are finite numbers and that their shapes fit together.

    Raises:
        InvalidRequest: they don't.
    """
    motions = [part for m in trajectory.motion.values() for part in (m.mean, m.variance, m.increment_variance)]
    optional = [array for values in _optional(trajectory).values() for array in values.values()]
    others = [trajectory.steps, *trajectory.sketches.values(), *optional]
    losses = [part for part in (trajectory.losses, trajectory.losses_per_example) if part is not None]
    if any(array.dtype.kind not in "iuf" for array in (*motions, *others, *losses)):
        raise InvalidRequest(f"trajectory '{path}': it holds texts where numbers are needed; record it again.")
    if any(np.isinf(array).any() for array in (*motions, *others, *losses)):  # nan stands for unknown values
        raise InvalidRequest(f"trajectory '{path}': it holds infinite values; record a run that doesn't diverge.")
    if trajectory.seed < 0 or trajectory.batch_size < 0 or trajectory.learning_rate < 0:
        raise InvalidRequest(f"trajectory '{path}': its seed, batch size or learning rate is below zero; record it again.")
    count = len(trajectory.steps)
    fits = count > 0 and trajectory.losses.shape == (count,)
    for name, motion in trajectory.motion.items():
        fits &= len(trajectory.sketches[name]) == count
        fits &= motion.mean.shape == motion.variance.shape == motion.increment_variance.shape
        for part, values in _optional(trajectory).items():
            shape = motion.mean.shape if part == "gradient_variance" else trajectory.sketches[name].shape
            fits &= name not in values or values[name].shape == shape
    fits &= trajectory.losses_per_example is None or len(trajectory.losses_per_example) == count
    if not fits:
        raise InvalidRequest(f"trajectory '{path}': its arrays have lengths that don't belong together; record it again.")
