"""Training states in `.npz` files of this library's own, for runs of frameworks whose checkpoints can't be read everywhere."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from dyncompress.coding.npz import read_format, write_arrays
from dyncompress.errors import InvalidRequest
from dyncompress.types import SavedParameter, TrainingState

FORMAT = "dyncompress training state 1"


def save_training_state(state: TrainingState, path: str | Path) -> Path:
    """Write a training state to an `.npz` file, under a temporary name that is renamed at the end.

    Args:
        state: to write.
        path: of the file, which ends in `.npz`.

    Returns:
        The path.

    Raises:
        InvalidRequest: the path has another ending, or the file can't be written; no part of it is left behind.

    Example:
        >>> import tempfile, torch
        >>> from dyncompress.recording.training_states import load_training_state, training_state_of
        >>> layer = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.Adam(layer.parameters())
        >>> layer(torch.ones(1, 3)).sum().backward(); optimizer.step()
        >>> path = save_training_state(training_state_of(optimizer, batch_size=1), tempfile.mkdtemp() + "/state.npz")
        >>> load_training_state(path).batch_size
        1
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InvalidRequest(f"training state '{path}' must end in .npz; give '{path.with_suffix('.npz')}'.")
    arrays = {
        "format": np.array(FORMAT),
        "names": np.array(list(state.parameters), dtype=np.str_),
        "optimizer": np.array(state.optimizer),
        "averaged": np.array(state.averaged, dtype=np.float64),
        "steps": np.array(state.steps),
        "batch_size": np.array(state.batch_size),
        "relative": np.array(state.relative),
        "notes": np.array(state.notes, dtype=np.str_),
        "drifts": np.array([saved.drift for saved in state.parameters.values()], dtype=np.float64),
        "sets": np.array([len(saved.values) for saved in state.parameters.values()], dtype=np.int64),
    }
    for index, saved in enumerate(state.parameters.values()):
        arrays[f"{index}.square"] = saved.square
        arrays |= {f"{index}.values.{place}": values for place, values in enumerate(saved.values)}
    return write_arrays(path, arrays, "training state")


def is_training_state(path: str | Path) -> bool:
    """Whether a file is a training state that `save_training_state` wrote; only its format is read.

    Args:
        path: of any file; it may be missing.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open("format.npy") as stream:
            head = stream.read(4096)
    except (OSError, LookupError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, struct.error):
        return False
    return FORMAT.encode("utf-32-le") in head


def read_training_state(path: Path, batch_size: int = 0) -> TrainingState:
    """Read a training state that `save_training_state` wrote.

    Args:
        path: of the file.
        batch_size: in place of the one in the file; 0: that one.

    Raises:
        InvalidRequest: the file is missing, truncated, damaged, or no training state.
    """
    remedy = "save or copy it again"
    arrays = read_format(path, FORMAT, "training state", "save_training_state", remedy)
    try:
        state = _from_arrays(arrays, str(path))
        _check(state)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InvalidRequest(f"training state '{path}' is damaged: its arrays don't belong together; {remedy}.") from error
    return replace(state, batch_size=batch_size or state.batch_size)


def _from_arrays(arrays: Mapping[str, np.ndarray], source: str) -> TrainingState:
    """The training state that the arrays of a file describe."""
    parameters = {}
    for index, (name, drift, sets) in enumerate(zip(arrays["names"], arrays["drifts"], arrays["sets"], strict=True)):
        values = tuple(arrays[f"{index}.values.{place}"] for place in range(int(sets)))
        parameters[str(name)] = SavedParameter(str(name), arrays[f"{index}.square"], values, float(drift))
    return TrainingState(
        parameters=parameters,
        optimizer=str(arrays["optimizer"]),
        averaged=float(arrays["averaged"]),
        steps=int(arrays["steps"]),
        batch_size=int(arrays["batch_size"]),
        relative=bool(arrays["relative"]),
        source=source,
        notes=tuple(str(note) for note in arrays["notes"]),
    )


def _check(state: TrainingState) -> None:
    """Check that squares are squares, and that shapes fit together.

    Raises:
        InvalidRequest: a square is infinite or below zero.
        ValueError: the arrays have other dtypes or shapes.
    """
    for name, saved in state.parameters.items():
        arrays = (saved.square, *saved.values)
        if any(array.dtype != np.float32 or array.shape != saved.square.shape or array.ndim < 2 for array in arrays):
            raise ValueError(name)
        if not all(np.isfinite(array).all() for array in arrays) or (saved.square < 0).any():
            raise InvalidRequest(
                f"training state '{state.source}': the squares or values of '{name}' aren't finite, or are below zero; save it "
                "again."
            )
    drifts = [saved.drift for saved in state.parameters.values()]
    if state.steps < 0 or state.batch_size < 0 or not all(0 <= drift < 1 for drift in drifts) or not state.parameters:
        raise ValueError(state.source)
