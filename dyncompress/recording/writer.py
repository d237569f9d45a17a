"""Records a training run in memory that doesn't grow with the weights times the steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
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

EVERY = 5  # optimizer steps from one record to the next, where nothing else is asked for; benchmarks/recording.py has the price
CONSTANT = 0.01  # relative change of the learning rate above which it isn't called constant


class TrajectoryWriter:
    """Collects weights of the late phase of training, layer by layer: moments, sketches, losses.

    Record at a constant, final learning rate and at equal distances; at small batches every fifth step or rarer. Moments stay on
    the weights' device. Memory: about 32 bytes a weight, plus `4 * sketch` bytes a layer and record, twice that with gradients.

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
        learning_rate, batch_size: of the recorded phase, for the record; nan and 0: not told. The attribute `learning_rate` may
            be set before each `append`; if it changed, the trajectory's notes say so.
    """

    def __init__(self, seed: int = 0, sketch: int = 256, learning_rate: float = math.nan, batch_size: int = 0) -> None:
        if sketch < 1:
            raise InvalidRequest(f"TrajectoryWriter: sketch is {sketch}; it must be at least 1.")
        self.seed, self.sketch = seed, sketch
        self.learning_rate, self.batch_size = learning_rate, batch_size
        self.notes: list[str] = []
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._rates: list[float] = []
        self._by_example: list[np.ndarray] = []
        self._running: dict[str, RunningMotion] = {}
        self._signs: dict[str, Tensor] = {}
        self._sketches: dict[str, list[np.ndarray]] = {}
        self._gradients: list[dict[str, np.ndarray]] = []
        self._digest = ""

    def __repr__(self) -> str:
        return (
            f"TrajectoryWriter(records={len(self._steps)}, layers={len(self._running)}, sketch={self.sketch}, seed={self.seed})"
        )

    def append(
        self,
        step: int,
        weights: Mapping[str, Array],
        losses: Any = None,
        *,
        gradients: Mapping[str, Array | None] | None = None,
        losses_per_example: Array | None = None,
    ) -> None:
        """Record one iterate; what is given is read, not kept.

        Args:
            step: optimizer step, larger than the last one recorded.
            weights: layer -> weight `(out, in / groups, *kernel)`, torch or numpy; the same layers every time.
            losses: training loss at this step, or the losses of its examples (their mean is recorded); None: not known.
            gradients: layer -> gradient of the minibatch of this step, shaped as the weight; a layer without one counts as not
                known. Their sketches are recorded; None: none is known.
            losses_per_example: `[n]` of the same n examples at every record, for data-dependent dimensions.

        Raises:
            InvalidRequest: steps go back, layers or shapes change, or a weight isn't finite. Nothing is recorded then.
        """
        from dyncompress.recording.sketch import entry_signs

        tensors = {name: _as_tensor(weight) for name, weight in weights.items()}
        given = {name: _as_tensor(gradient) for name, gradient in (gradients or {}).items() if gradient is not None}
        by_example = None if losses_per_example is None else _numpy32(_as_tensor(losses_per_example))
        self._check(step, tensors)
        self._check_parts(step, tensors, given, by_example)
        if not self._running:
            self._signs = {name: entry_signs(self.seed, name, t.numel()).to(t.device) for name, t in tensors.items()}
        rows, slopes = self._sketched(tensors), self._sketched(given)
        for name, row in rows.items():
            # a sketch adds up every entry, so one NaN or infinity shows in it
            if not np.isfinite(row).all():
                raise InvalidRequest(f"step {step}: layer '{name}' holds NaN or infinity; the run diverged, stop recording.")
        self._take_in(tensors, rows)
        self._steps.append(int(step))
        self._losses.append(math.nan if losses is None else float(_numpy32(_as_tensor(losses)).mean()))
        self._rates.append(float(self.learning_rate))
        self._gradients.append({name: row for name, row in slopes.items() if np.isfinite(row).all()})  # scaled losses overflow
        self._by_example += [] if by_example is None else [by_example]

    def finish(self, weights: Mapping[str, Array]) -> None:
        """Tie the record to these weights, the ones that training ended with: the last step needn't have been recorded.

        Args:
            weights: the layers that were recorded.

        Raises:
            InvalidRequest: nothing was recorded, or layers or shapes aren't those of the record.
        """
        if not self._steps:
            raise InvalidRequest("TrajectoryWriter: nothing was recorded; train for more steps or record more often.")
        tensors = {name: _as_tensor(weight) for name, weight in weights.items()}
        self._check_layers("the weights to finish with", tensors)
        self._digest = weights_digest(tensors)

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
            digest=self._digest or weights_digest({name: running.last for name, running in self._running.items()}),
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            gradients=self._gradient_sketches(),
            losses_per_example=np.stack(self._by_example) if self._by_example else None,
            notes=(*self.notes, *_irregular(self._steps, self._rates)),
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
        self._check_layers(f"step {step}", tensors)

    def _check_layers(self, where: str, tensors: Mapping[str, Tensor]) -> None:
        """Refuse other layers or shapes than before."""
        if self._running and tensors.keys() != self._running.keys():
            changed = sorted(tensors.keys() ^ self._running.keys())
            raise InvalidRequest(f"{where}: layers changed since the first record: {', '.join(changed)}; pass the same ones.")
        for name, running in self._running.items():
            if tensors[name].shape != running.first.shape:
                was, now = tuple(running.first.shape), tuple(tensors[name].shape)
                raise InvalidRequest(f"{where}: layer '{name}' has shape {now}, before {was}; start a new writer.")

    def _check_parts(
        self, step: int, tensors: Mapping[str, Tensor], gradients: Mapping[str, Tensor], by_example: np.ndarray | None
    ) -> None:
        """Refuse gradients and losses that don't belong to the record."""
        for name, gradient in gradients.items():
            if name not in tensors or gradient.shape != tensors[name].shape:
                wanted = f"it has shape {tuple(tensors[name].shape)}" if name in tensors else "no such layer is recorded"
                raise InvalidRequest(f"step {step}: the gradient of '{name}' has shape {tuple(gradient.shape)}; {wanted}.")
        before = [len(row) for row in self._by_example[:1]]
        told = [] if by_example is None else [by_example.size if by_example.ndim == 1 else -1]
        if told == [-1] or (self._steps and told != before):
            raise InvalidRequest(f"step {step}: losses_per_example must be `[n]`, of the same n examples at every record.")

    def _sketched(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Every layer's sketch, in one transfer from the device."""
        import torch

        from dyncompress.recording.sketch import block_sketch

        if not tensors:
            return {}
        rows = [block_sketch(tensor, self._signs[name].to(tensor.device), self.sketch) for name, tensor in tensors.items()]
        whole = _numpy32(torch.cat([row.to(rows[0].device) for row in rows]))
        ends = np.cumsum([len(row) for row in rows])[:-1]
        return dict(zip(tensors, np.split(whole, ends), strict=True))

    def _take_in(self, tensors: Mapping[str, Tensor], rows: Mapping[str, np.ndarray]) -> None:
        """Update moments and sketches of every layer."""
        from dyncompress.recording.moments import RunningMotion

        for name, tensor in tensors.items():
            if name in self._running:
                self._running[name].update(tensor)
            else:
                self._running[name] = RunningMotion(tensor)
            self._sketches.setdefault(name, []).append(rows[name])

    def _gradient_sketches(self) -> dict[str, np.ndarray]:
        """Layer -> `[T, d]`, nan where no gradient was known; empty where none ever was."""
        if not any(self._gradients):
            return {}
        unknown = {name: np.full_like(rows[0], np.nan) for name, rows in self._sketches.items()}
        return {name: np.stack([row.get(name, unknown[name]) for row in self._gradients]) for name in self._sketches}


def _irregular(steps: Sequence[int], rates: Sequence[float]) -> list[str]:
    """What the measures' assumptions lack, in sentences."""
    notes = []
    if len({later - earlier for earlier, later in itertools.pairwise(steps)}) > 1:
        notes.append("records aren't at equal distances; increments over different times are mixed")
    told = [rate for rate in rates if math.isfinite(rate)]
    if told and max(told) - min(told) > CONSTANT * max(told):
        notes.append(f"the learning rate changed while it was recorded, {told[0]:.3g} to {told[-1]:.3g}; constancy is assumed")
    return notes


def _as_tensor(array: Array) -> Tensor:
    """The array as a torch tensor, detached; numpy is copied, so that a read-only array does too."""
    import torch

    return array.detach() if isinstance(array, torch.Tensor) else torch.from_numpy(np.array(array))


def _numpy32(tensor: Tensor) -> np.ndarray:
    """Float32 numpy."""
    return tensor.detach().cpu().float().numpy()
