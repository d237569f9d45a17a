"""Load a training state from a file, a folder, or an optimizer that is still in memory."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dyncompress.errors import InvalidRequest
from dyncompress.recording.training_states.contents import contents_of
from dyncompress.recording.training_states.order import Shapes
from dyncompress.recording.training_states.state_file import is_training_state, read_training_state
from dyncompress.recording.training_states.tensor_files import SUFFIXES, read_tensors
from dyncompress.recording.training_states.torch_checkpoint import state_from
from dyncompress.recording.training_states.trainer_folder import is_trainer_folder, trainer_contents
from dyncompress.types import TrainingState

KERAS = (".keras", ".h5", ".hdf5")
WHOLE = (".pt", ".pth", ".ckpt", ".tar", *KERAS)  # files in a folder that may hold weights and optimizer together


def load_training_state(path: str | Path, *, batch_size: int = 0, parameters: Shapes = ()) -> TrainingState:
    """Load what an optimizer kept of a training run.

    Reads checkpoints of PyTorch (`torch.save` of a dictionary with the state dicts of model and optimizer, in whatever places),
    `.ckpt` files of Lightning, folders of transformers' Trainer and of accelerate, `.keras` files, `.npz` files that
    `save_training_state` wrote, and folders that hold several such checkpoints, of which the last one is read. Nothing is
    unpickled that could run code.

    **Cost**: tensors are mapped from the file where its format allows it, and two copies of the parameters are kept in float32.

    Args:
        path: of a file or folder.
        batch_size: examples of one optimizer step, accumulated batches and all devices counted, where the file doesn't say; 0:
            unknown, and distortions are then relative.
        parameters: names and shapes of the model's own parameters in order, for files that hold a state without weights.

    Returns:
        The state.

    Raises:
        InvalidRequest: the path is missing, unreadable, holds objects whose unpickling could run code, or no second moments.

    Example:
        >>> import tempfile, torch
        >>> layer = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.Adam(layer.parameters())
        >>> layer(torch.ones(1, 3)).sum().backward(); optimizer.step()
        >>> path = tempfile.mkdtemp() + "/last.pt"
        >>> torch.save({"model": layer.state_dict(), "optimizer": optimizer.state_dict()}, path)
        >>> load_training_state(path).parameters["weight"].square.round(3)
        array([[1., 1., 1.],
               [1., 1., 1.]], dtype=float32)
    """
    path = Path(path)
    if not path.exists():
        raise InvalidRequest(f"checkpoint '{path}' does not exist; check the path.")
    if path.is_dir():
        if is_trainer_folder(path):
            return state_from(trainer_contents(path), str(path), parameters, batch_size)
        return load_training_state(_last(path), batch_size=batch_size, parameters=parameters)
    if path.suffix == ".npz":
        return read_training_state(path, batch_size)
    if path.suffix in KERAS:
        from dyncompress.recording.training_states.keras_file import keras_state

        return keras_state(path, batch_size)
    return state_from(contents_of(read_tensors(path)), str(path), parameters, batch_size)


def training_state_of(
    given: Any, *, batch_size: int = 0, parameters: Shapes = (), steps: int = 0, decay: float = math.nan
) -> TrainingState:
    """The training state that something in memory holds.

    Args:
        given: after training: a `torch.optim.Optimizer`; a checkpoint as `torch.load` returns it; a compiled model of Keras 3; or
            `(params, opt_state)` of optax, also as an object or a dictionary with these names.
        batch_size, parameters: as in `load_training_state`.
        steps: optimizer steps, where a state of optax doesn't count them; 0: unknown.
        decay: of the mean squares (Adam's b2, RMSprop's decay, SGD's momentum), where a state of optax doesn't hold it; nan:
            optax's default.

    Returns:
        The state.

    Raises:
        InvalidRequest: it holds no second moments.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.RMSprop(layer.parameters())
        >>> layer(torch.tensor([[2.0, 3.0]])).sum().backward(); optimizer.step()
        >>> training_state_of(optimizer).parameters["parameter 0"].square.round(3)
        array([[4., 9.]], dtype=float32)
    """
    if isinstance(given, Mapping) and {"params", "opt_state"} <= given.keys():
        given = (given["params"], given["opt_state"])
    if isinstance(given, Mapping):
        return state_from(contents_of(given), "in memory", parameters, batch_size)
    if hasattr(given, "params") and hasattr(given, "opt_state"):
        given = (given.params, given.opt_state)
    if isinstance(given, tuple) and len(given) == 2:
        from dyncompress.recording.training_states.optax_state import optax_state

        return optax_state(*given, batch_size=batch_size, steps=steps, decay=decay)
    if hasattr(given, "optimizer") and hasattr(given, "trainable_variables"):
        from dyncompress.recording.training_states.keras_file import keras_model_state

        return keras_model_state(given, batch_size)
    if not isinstance(given, torch.optim.Optimizer):
        raise InvalidRequest(
            f"a training state can't be read from a {type(given).__name__}; give a torch optimizer, a loaded checkpoint, a "
            "compiled Keras model, or (params, opt_state) of optax."
        )
    return _of_optimizer(given, batch_size)


def _of_optimizer(optimizer: torch.optim.Optimizer, batch_size: int) -> TrainingState:
    """The training state of a torch optimizer; its parameters are numbered where it has no names for them."""
    state, weights = optimizer.state_dict(), {}
    groups = []
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        names = group.get("param_names") or [f"parameter {len(weights) + place}" for place in range(len(group["params"]))]
        weights |= {name: parameter.detach() for name, parameter in zip(names, group["params"], strict=True)}
        groups.append({**saved, "param_names": names})
    contents = contents_of({"optimizer": {**state, "param_groups": groups}, "model": weights})
    return state_from(contents, "the optimizer", (), batch_size)


def _last(folder: Path) -> Path:
    """The last checkpoint in a folder.

    Raises:
        InvalidRequest: there is none.
    """
    last = checkpoints_in(folder)
    if not last:
        raise InvalidRequest(
            f"folder '{folder}' holds no checkpoint: no {', '.join(dict.fromkeys((*SUFFIXES, *KERAS)))} and no folder with an "
            "optimizer.pt; check the path."
        )
    return last[-1]


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, in the order of the last number in their names; those without a number are last.

    Files of weights alone, `.safetensors` and `.bin`, aren't among them.
    """
    inside = list(folder.iterdir())
    found = [
        f for f in inside if f.is_file() and (f.suffix in WHOLE or f.suffix == ".npz") and not f.name.startswith("rng_state")
    ]
    found = [f for f in found if f.suffix != ".npz" or is_training_state(f)]
    found += [f for f in inside if f.is_dir() and is_trainer_folder(f)]
    return sorted(found, key=lambda f: ([int(n) for n in re.findall(r"\d+", f.stem)][-1:] or [10**18], f.name))
