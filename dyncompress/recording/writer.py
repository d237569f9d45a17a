"""Record a training run, in memory that doesn't grow with the number of weights times the number of records."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.recording.digest import weights_digest
from dyncompress.recording.increment_fisher import random_walk
from dyncompress.recording.optimizer_state import OptimizerState
from dyncompress.recording.trajectory_file import save_trajectory
from dyncompress.types import Array, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

    from dyncompress.recording.moments import RunningGradient, RunningMotion

EVERY = 5  # optimizer steps between records by default; benchmarks/recording.py measures what they cost
CONSTANT = 0.01  # relative change up to which a learning rate counts as constant


class TrajectoryWriter:
    """Records the late phase of training: moments and sketches of each layer's weights, and losses.

    Record at the constant, final learning rate of a run, at equal distances, for small batches every fifth step or less often.
    The moments are kept on the device of the weights. Memory: about 32 bytes per weight, 40 with the state of an optimizer, and
    `4 * sketch` bytes per layer and record, twice that with gradients or the state of an optimizer.

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
        learning_rate, batch_size: of the recorded phase; nan and 0: unknown. The attribute `learning_rate` may be set before each
            `append`; if it changes, the trajectory's notes say so.

    Attributes:
        optimizer: the state of an optimizer of the Adam family after the step of the next `append`, which sets it back to None.
    """

    def __init__(self, seed: int = 0, sketch: int = 256, learning_rate: float = math.nan, batch_size: int = 0) -> None:
        if sketch < 1:
            raise InvalidRequest(f"TrajectoryWriter: sketch is {sketch}; it must be at least 1.")
        self.seed, self.sketch = seed, sketch
        self.learning_rate, self.batch_size = learning_rate, batch_size
        self.optimizer: OptimizerState | None = None
        self.notes: list[str] = []
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._rates: list[float] = []
        self._by_example: list[np.ndarray] = []
        self._running: dict[str, RunningMotion] = {}
        self._signs: dict[str, Tensor] = {}
        self._sketches: dict[str, list[np.ndarray]] = {}
        self._gradients: list[dict[str, np.ndarray]] = []
        self._optimizer = ""
        self._running_gradients: dict[str, RunningGradient] = {}
        self._gradient_sums: list[dict[str, np.ndarray]] = []
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
        """Record the weights of one step; no array is kept or changed.

        Args:
            step: optimizer step, larger than the last recorded one.
            weights: layer name -> weight `(out, in / groups, *kernel)`, torch or numpy; the same layers every time.
            losses: training loss at this step, or the losses of its examples, whose mean is recorded; None: unknown.
            gradients: layer name -> gradient of the minibatch of this step, in the weight's shape; its sketch is recorded. The
                gradient of a layer that is left out is unknown.
            losses_per_example: `[n]` of the same n examples at every record, for data-dependent dimensions.

        Raises:
            InvalidRequest: the step doesn't increase, layers or shapes change, or a weight isn't finite; nothing is recorded.
        """
        from dyncompress.recording.sketch import entry_signs

        tensors = {name: _as_tensor(weight) for name, weight in weights.items()}
        given = {name: _as_tensor(gradient) for name, gradient in (gradients or {}).items() if gradient is not None}
        by_example = None if losses_per_example is None else _numpy32(_as_tensor(losses_per_example))
        self._check(step, tensors)
        self._check_parts(step, tensors, given, by_example)
        state = self._take_state(step, tensors)
        if not self._running:
            self._signs = {name: entry_signs(self.seed, name, t.numel()).to(t.device) for name, t in tensors.items()}
        sums = self._gradient_totals(tensors, state)
        rows, gradient_rows, sum_rows = (self._sketch_rows(part) for part in (tensors, given, sums))
        for name, row in rows.items():
            # a sketch is a sum over all entries, so it isn't finite if one entry isn't
            if not np.isfinite(row).all():
                raise InvalidRequest(f"step {step}: layer '{name}' holds NaN or infinity; the run diverged, stop recording.")
        self._update(tensors, rows)
        self._update_gradients(step, state, {name: sums[name] for name in _finite(sum_rows)})
        self._steps.append(int(step))
        self._losses.append(math.nan if losses is None else float(_numpy32(_as_tensor(losses)).mean()))
        self._rates.append(float(self.learning_rate))
        self._gradients.append(_finite(gradient_rows))  # a scaled loss may overflow
        self._gradient_sums.append(_finite(sum_rows))
        self._by_example += [] if by_example is None else [by_example]

    def finish(self, weights: Mapping[str, Array]) -> None:
        """Store the digest of the final weights, by which the trajectory is recognised as that of a model.

        Without this call the digest is that of the last recorded weights, which aren't the final ones if training went on.

        Args:
            weights: layer name -> final weight, for the layers that were recorded.

        Raises:
            InvalidRequest: nothing was recorded, or layers or shapes aren't those of the record.
        """
        if not self._steps:
            raise InvalidRequest("TrajectoryWriter: nothing was recorded; train for more steps or record more often.")
        tensors = {name: _as_tensor(weight) for name, weight in weights.items()}
        self._check_layers("the weights to finish with", tensors)
        self._digest = weights_digest(tensors)

    def trajectory(self) -> Trajectory:
        """The trajectory recorded so far.

        Raises:
            InvalidRequest: nothing was recorded.
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
            gradients=self._gradient_sketches(self._gradients),
            losses_per_example=np.stack(self._by_example) if self._by_example else None,
            notes=(*self.notes, *_irregular(self._steps, self._rates)),
            optimizer=self._optimizer,
            gradient_variance={name: running.variance() for name, running in self._running_gradients.items()},
            gradient_sums=self._gradient_sketches(self._gradient_sums),
        )

    def save(self, path: str | Path) -> Path:
        """Write the trajectory to an `.npz` file, completely or not at all, and return its path."""
        return save_trajectory(self.trajectory(), path)

    def _check(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Check that a step and its weights can continue the record."""
        if not tensors:
            raise InvalidRequest(f"step {step}: no weights were given; pass layer -> weight.")
        if self._steps and step <= self._steps[-1]:
            raise InvalidRequest(f"step {step} comes after step {self._steps[-1]}; steps must increase.")
        self._check_layers(f"step {step}", tensors)

    def _check_layers(self, where: str, tensors: Mapping[str, Tensor]) -> None:
        """Check that layers and shapes are those of the first record."""
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
        """Check that gradients and losses have the shapes of the record."""
        _check_shapes(f"step {step}: the gradient", tensors, gradients)
        before = [len(row) for row in self._by_example[:1]]
        now = [] if by_example is None else [by_example.size if by_example.ndim == 1 else -1]
        if now == [-1] or (self._steps and now != before):
            raise InvalidRequest(f"step {step}: losses_per_example must be `[n]`, of the same n examples at every record.")

    def _take_state(self, step: int, tensors: Mapping[str, Tensor]) -> OptimizerState:
        """The state of the optimizer, as tensors of the weights' shapes; an empty one if none was given."""
        state = self.optimizer or OptimizerState("")
        self.optimizer = None
        sizes, squares = ({name: _as_tensor(a) for name, a in part.items()} for part in (state.step_sizes, state.squares))
        _check_shapes(f"step {step}: the optimizer's step size", tensors, sizes)
        _check_shapes(f"step {step}: the optimizer's average of squared gradients", tensors, squares)
        return replace(state, step_sizes=sizes, squares=squares)

    def _gradient_totals(self, tensors: Mapping[str, Tensor], state: OptimizerState) -> dict[str, Tensor]:
        """Layer name -> sum of the averaged gradients of the steps since the last record; 0 where the step size is 0."""
        import torch

        totals = {}
        for name, sizes in state.step_sizes.items() if self._steps else ():
            size, change = _as_tensor(sizes).float(), tensors[name].float() - self._running[name].last.float()
            totals[name] = torch.where(size > 0, change / size, 0)
        return totals

    def _update_gradients(self, step: int, state: OptimizerState, sums: Mapping[str, Tensor]) -> None:
        """Add the optimizer's squared gradients, or the squares of the sums, to the layers' variances of gradients."""
        from dyncompress.recording.moments import RunningGradient

        self._optimizer = state.name or self._optimizer
        for name in {**state.squares, **state.step_sizes}:
            running = self._running_gradients.setdefault(name, RunningGradient(self._running[name].first))
            if name in state.squares:
                running.add_squares(_as_tensor(state.squares[name]))
            if name in sums:
                steps = step - self._steps[-1]
                known = name in state.squares
                spread = 0.0 if known else random_walk(steps, state.averaging) * (1 - state.averaging) ** 2
                running.add_sum(sums[name], steps, spread)

    def _sketch_rows(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Layer name -> sketch, with one transfer from the device for all layers."""
        import torch

        from dyncompress.recording.sketch import block_sketch

        if not tensors:
            return {}
        rows = [block_sketch(tensor, self._signs[name].to(tensor.device), self.sketch) for name, tensor in tensors.items()]
        whole = _numpy32(torch.cat([row.to(rows[0].device) for row in rows]))
        ends = np.cumsum([len(row) for row in rows])[:-1]
        return dict(zip(tensors, np.split(whole, ends), strict=True))

    def _update(self, tensors: Mapping[str, Tensor], rows: Mapping[str, np.ndarray]) -> None:
        """Add the weights and sketches of one step to every layer's record."""
        from dyncompress.recording.moments import RunningMotion

        for name, tensor in tensors.items():
            if name in self._running:
                self._running[name].update(tensor)
            else:
                self._running[name] = RunningMotion(tensor)
            self._sketches.setdefault(name, []).append(rows[name])

    def _gradient_sketches(self, records: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Layer name -> sketches `[T, d]`, nan where the gradient is unknown; empty if no gradient was recorded."""
        if not any(records):
            return {}
        unknown = {name: np.full_like(rows[0], np.nan) for name, rows in self._sketches.items()}
        return {name: np.stack([row.get(name, unknown[name]) for row in records]) for name in self._sketches}


def _irregular(steps: Sequence[int], rates: Sequence[float]) -> list[str]:
    """Sentences about assumptions of the measures that the records don't fulfil."""
    notes = []
    if len({later - earlier for earlier, later in itertools.pairwise(steps)}) > 1:
        notes.append("records aren't at equal distances; increments over different times are mixed")
    known = [rate for rate in rates if math.isfinite(rate)]
    if known and max(known) - min(known) > CONSTANT * max(known):
        notes.append(
            f"the learning rate changed during the record, from {known[0]:.3g} to {known[-1]:.3g}; measures assume a constant one"
        )
    return notes


def _check_shapes(what: str, tensors: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> None:
    """Check that every part belongs to a layer and has the shape of its weight."""
    for name, part in parts.items():
        if name not in tensors or part.shape != tensors[name].shape:
            weight = f"the weight has shape {tuple(tensors[name].shape)}" if name in tensors else "no such layer is recorded"
            raise InvalidRequest(f"{what} of '{name}' has shape {tuple(part.shape)}; {weight}.")


def _finite(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows without NaN and infinity."""
    return {name: row for name, row in rows.items() if np.isfinite(row).all()}


def _as_tensor(array: Array) -> Tensor:
    """The array as a detached torch tensor; numpy arrays are copied, since torch takes no read-only ones."""
    import torch

    return array.detach() if isinstance(array, torch.Tensor) else torch.from_numpy(np.array(array))


def _numpy32(tensor: Tensor) -> np.ndarray:
    """A tensor as a float32 numpy array."""
    return tensor.detach().cpu().float().numpy()
