"""Records a training run in memory that doesn't grow with the weights times the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.recording.digest import weights_digest
from dyncompress.recording.trajectory_file import save_trajectory
from dyncompress.types import Array, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

    from dyncompress.recording.moments import RunningMotion


class TrajectoryWriter:
    """Collects weights of the late phase of training, layer by layer: moments, sketches, losses.

    Record at a constant, final learning rate and at equal distances; at small batches every fifth step or rarer. Moments stay on
    the weights' device. Memory: about 32 bytes a weight, plus `4 * sketch` bytes a layer and record.

    Example:
        >>> import numpy as np
        >>> writer = TrajectoryWriter(seed=0)
        >>> for step in range(3):
        ...     writer.append(step, {"fc": np.full((2, 3), float(step))})
        >>> writer.trajectory().motion["fc"].mean[0, 0].item()
        1.0

    Args:
        seed: of the sketches.
        sketch: length of each layer's sketch.
        learning_rate, batch_size: of the recorded phase, for the record; nan and 0: not told.
    """

    def __init__(self, seed: int = 0, sketch: int = 256, learning_rate: float = math.nan, batch_size: int = 0) -> None:
        if sketch < 1:
            raise InvalidRequest(f"TrajectoryWriter: sketch is {sketch}; it must be at least 1.")
        self.seed, self.sketch = seed, sketch
        self.learning_rate, self.batch_size = learning_rate, batch_size
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._running: dict[str, RunningMotion] = {}
        self._signs: dict[str, Tensor] = {}
        self._sketches: dict[str, list[np.ndarray]] = {}

    def append(self, step: int, weights: Mapping[str, Array], losses: Any = None) -> None:
        """Record one iterate; the weights are read, not kept.

        Args:
            step: optimizer step, larger than the last one recorded.
            weights: layer -> weight `(out, in / groups, *kernel)`, torch or numpy; the same layers every time.
            losses: training loss at this step, or the losses of its examples (their mean is recorded); None: not known.

        Raises:
            InvalidRequest: steps go back, layers or shapes change, or a weight isn't finite. Nothing is recorded then.
        """
        from dyncompress.recording.sketch import block_sketch, entry_signs

        tensors = {name: _as_tensor(weight) for name, weight in weights.items()}
        self._check(step, tensors)
        if not self._running:
            self._signs = {name: entry_signs(self.seed, name, t.numel()).to(t.device) for name, t in tensors.items()}
        rows = {name: _numpy32(block_sketch(tensor, self._signs[name], self.sketch)) for name, tensor in tensors.items()}
        for name, row in rows.items():
            # a sketch adds up every entry, so one NaN or infinity shows in it
            if not np.isfinite(row).all():
                raise InvalidRequest(f"step {step}: layer '{name}' holds NaN or infinity; the run diverged, stop recording.")
        self._take_in(tensors, rows)
        self._steps.append(int(step))
        self._losses.append(math.nan if losses is None else float(_numpy32(_as_tensor(losses)).mean()))

    def trajectory(self) -> Trajectory:
        """What was recorded so far.

        Raises:
            InvalidRequest: nothing was.
        """
        if not self._steps:
            raise InvalidRequest("TrajectoryWriter: nothing was recorded; call append during training.")
        return Trajectory(
            steps=np.array(self._steps, dtype=np.int64),
            losses=np.array(self._losses, dtype=np.float64),
            motion={name: running.motion() for name, running in self._running.items()},
            sketches={name: np.stack(rows) for name, rows in self._sketches.items()},
            seed=self.seed,
            digest=weights_digest({name: running.last for name, running in self._running.items()}),
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
        )

    def save(self, path: str | Path) -> Path:
        """Write the trajectory to an `.npz` file, whole or not at all."""
        return save_trajectory(self.trajectory(), path)

    def _check(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Refuse what can't continue the record."""
        if not tensors:
            raise InvalidRequest(f"step {step}: no weights were given; pass layer -> weight.")
        if self._steps and step <= self._steps[-1]:
            raise InvalidRequest(f"step {step} comes after step {self._steps[-1]}; steps must increase.")
        if self._running and tensors.keys() != self._running.keys():
            changed = sorted(tensors.keys() ^ self._running.keys())
            raise InvalidRequest(f"step {step}: layers changed since the first record: {', '.join(changed)}; pass the same ones.")
        for name, running in self._running.items():
            if tensors[name].shape != running.first.shape:
                was, now = tuple(running.first.shape), tuple(tensors[name].shape)
                raise InvalidRequest(f"step {step}: layer '{name}' has shape {now}, before {was}; start a new writer.")

    def _take_in(self, tensors: Mapping[str, Tensor], rows: Mapping[str, np.ndarray]) -> None:
        """Update moments and sketches of every layer."""
        from dyncompress.recording.moments import RunningMotion

        for name, tensor in tensors.items():
            if name in self._running:
                self._running[name].update(tensor)
            else:
                self._running[name] = RunningMotion(tensor)
            self._sketches.setdefault(name, []).append(rows[name])


def _as_tensor(array: Array) -> Tensor:
    """The array as a torch tensor, detached; numpy is copied, so that a read-only array does too."""
    import torch

    return array.detach() if isinstance(array, torch.Tensor) else torch.from_numpy(np.array(array))


def _numpy32(tensor: Tensor) -> np.ndarray:
    """Float32 numpy."""
    return tensor.detach().cpu().float().numpy()
