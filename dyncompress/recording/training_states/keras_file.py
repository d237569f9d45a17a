"""Training states in the files of Keras 3; no class that a file names is made, and nothing outside the file is read."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dyncompress.coding.npz import RATIO, memory_bytes
from dyncompress.errors import InvalidRequest
from dyncompress.recording.training_states.assembly import About, assembled
from dyncompress.recording.training_states.keras_slots import Slots, slots_of
from dyncompress.recording.training_states.keras_variables import Variable, variables_of
from dyncompress.recording.training_states.moments import Moment, NoMomentError, second_moment
from dyncompress.recording.training_states.order import by_shape
from dyncompress.types import TrainingState

REMEDY = 'save the compiled model whole, model.save("run.keras")'
UNSURE = "the file doesn't tell the order of the layers within layers of a class of your own"
_KINDS = ("momentum", "velocity", "norm", "accumulator", "accumulated_grad")  # ends of the names of optimizers' variables
_BROKEN = (  # what zipfile, h5py and NumPy raise on bytes that aren't theirs
    *(OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, MemoryError, SystemError),
    *(OverflowError, zipfile.BadZipFile, zlib.error, struct.error),
)


def keras_state(path: Path, batch_size: int) -> TrainingState:
    """The training state in a file of Keras 3: `.keras`, or a whole model in `.h5`.

    Args:
        path: of the file.
        batch_size: examples of one step; 0: unknown.

    Raises:
        InvalidRequest: it can't be read, it holds weights only, its optimizer keeps no squares of gradients, or h5py is missing.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise InvalidRequest(f"checkpoint '{path}' is read with {error.name}; pip install {error.name}.") from error
    try:
        with path.open("rb") as file:
            start = file.read(4)
        config, content = _zipped(path) if start[:2] == b"PK" else (None, path)
        opened: Any = h5py.File(content, "r")
        with opened as file:
            _check_size(file, path)
            return _of_archive(file, config, path, batch_size) if config else _of_model_file(file, path, batch_size)
    except NoMomentError as error:
        raise InvalidRequest(
            f"checkpoint '{path}': {error}; give the file of a run with Adam, RMSprop, Adagrad, Adafactor, or SGD with momentum."
        ) from error
    except _BROKEN as error:
        told = error.__cause__ or error  # h5py puts an error of its own in front
        reason = (str(told).splitlines() or [type(told).__name__])[0][:120]
        raise InvalidRequest(f"checkpoint '{path}' can't be read ({reason}); save or copy it again.") from error


def keras_model_state(model: Any, batch_size: int) -> TrainingState:
    """The training state of a compiled model of Keras 3 in memory.

    Args:
        model: after training; its `optimizer` and `trainable_variables` are read.
        batch_size: examples of one step; 0: unknown.

    Raises:
        InvalidRequest: it isn't compiled, or its optimizer keeps no squares of gradients.
    """
    if getattr(model, "optimizer", None) is None:
        raise InvalidRequest("the Keras model has no optimizer; give the model as fit() left it, or compile it before training.")
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    arrays = [_floats(np.asarray(_array(variable))) for variable in optimizer.variables]
    try:
        slots = slots_of(type(optimizer).__name__, optimizer.get_config(), arrays)
    except NoMomentError as error:
        raise InvalidRequest(f"the Keras model: {error}; train it with Adam, RMSprop, Adagrad or SGD with momentum.") from error
    own = [Variable(v.path, _floats(np.asarray(_array(v)))) for v in model.trainable_variables]
    return _state(slots, dict(enumerate(own)), About("the Keras model", slots.optimizer, batch_size=batch_size))


def _array(variable: Any) -> Any:
    """A Keras variable's value in memory."""
    value = variable.value
    return value.detach().float().cpu() if isinstance(value, torch.Tensor) else value


def _zipped(path: Path) -> tuple[Mapping[str, Any], io.BytesIO]:
    """Configuration and weights of a `.keras` file.

    Raises:
        ValueError: a part can't be as large as it says.
    """
    with zipfile.ZipFile(path) as archive:
        for name in ("config.json", "model.weights.h5"):
            member = archive.getinfo(name)
            if member.file_size > RATIO * member.compress_size + RATIO:
                raise ValueError(f"its part {name} can't be as large as it says")
        return json.loads(archive.read("config.json")), io.BytesIO(archive.read("model.weights.h5"))


def _check_size(file: Any, path: Path) -> None:
    """Refuse links out of the file, and arrays that it can't hold; before any array is read.

    Raises:
        ValueError: tells which.
    """
    import h5py

    total = 0

    def visit(name: str, link: Any) -> str | None:  # a text ends the visit; h5py takes no errors here
        nonlocal total
        if not isinstance(link, h5py.HardLink):
            return f"its entry '{name}' is a link"
        item = file[name]
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual or item.dtype.hasobject:
                return f"its array '{name}' lies outside it, or holds objects"
            total += item.nbytes
        return None

    if wrong := file.visititems_links(visit):
        raise ValueError(wrong)
    if total > min(memory_bytes(), RATIO * path.stat().st_size + RATIO):
        raise ValueError(f"its arrays can't take {total:,} bytes")


def _floats(array: np.ndarray) -> np.ndarray:
    """An array as torch takes it; bfloat16 is stored as two bytes without a type."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.array(array) if array.dtype.kind in "iufb" else np.array(array, dtype=np.float32)


def _of_archive(file: Any, config: Mapping[str, Any], path: Path, batch_size: int) -> TrainingState:
    """The training state in the weights of a `.keras` file."""
    optimizer = (config.get("compile_config") or {}).get("optimizer")
    group = file.get("optimizer/inner_optimizer/vars", file.get("optimizer/vars"))
    if not isinstance(optimizer, Mapping) or group is None:
        raise InvalidRequest(f"checkpoint '{path}' holds no state of an optimizer; {REMEDY}, after model.compile and model.fit.")
    while "inner_optimizer" in optimizer["config"]:
        optimizer = optimizer["config"]["inner_optimizer"]
    arrays = [_floats(group[str(index)][()]) for index in range(len(group))]
    slots = slots_of(optimizer["class_name"], optimizer["config"], arrays)
    variables, mixed = variables_of(file, config, _floats)
    states = [(place, shape, 0) for place, shape in enumerate(map(_shape, slots.states)) if len(shape) > 1 and shape not in mixed]
    found, left = by_shape(states, [(name, variable.value.shape) for name, variable in variables.items()])
    unsure = (f"parameters of shape {list(shape)} are left out: {UNSURE}" for shape in sorted(mixed))
    notes = (*unsure, *left)
    if not found:
        raise InvalidRequest(
            f"checkpoint '{path}': {next(iter(notes), 'it holds no weights of layers')}; give the model that fit() left to "
            "training_state_of, and save that with save_training_state."
        )
    own = {place: variables[name] for place, name in found.items()}
    return _state(slots, own, About(str(path), slots.optimizer, batch_size=batch_size, notes=notes))


def _shape(state: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of a variable, from what the optimizer keeps of it."""
    return max((tuple(value.shape) for value in state.values() if isinstance(value, torch.Tensor)), key=len)


def _of_model_file(file: Any, path: Path, batch_size: int) -> TrainingState:
    """The training state in an `.h5` file of a whole model, which names the variables of its optimizer."""
    weights, group = file.get("model_weights"), file.get("optimizer_weights")
    if weights is None or group is None or "training_config" not in file.attrs:
        raise InvalidRequest(f"checkpoint '{path}' holds weights and no state of an optimizer; {REMEDY}.")
    optimizer = json.loads(file.attrs["training_config"])["optimizer_config"]
    names = list(_texts(group, "weight_names"))
    if not names or not names[0].endswith("/iteration"):
        raise InvalidRequest(f"checkpoint '{path}' was saved by Keras 2, whose optimizers aren't read; {REMEDY}, with Keras 3.")
    slots = slots_of(optimizer["class_name"], optimizer["config"], [_floats(group[name][()]) for name in names])
    kept = {name.partition("/")[2] for name in names}
    own = [
        Variable(name, _floats(weights[layer][name][()]))
        for layer in _texts(weights, "layer_names")
        for name in _texts(weights[layer], "weight_names")
        if any(f"{name.replace('/', '_')}_{kind}" in kept for kind in _KINDS)
    ]
    shapes = [_shape(state) for state in slots.states]
    if [variable.value.shape for variable in own] != shapes:
        raise InvalidRequest(f"checkpoint '{path}': its optimizer's variables aren't those of its layers; {REMEDY}.")
    return _state(slots, dict(enumerate(own)), About(str(path), slots.optimizer, batch_size=batch_size))


def _texts(group: Any, name: str) -> Iterator[str]:
    """The texts of an attribute, which Keras splits when it is long."""
    parts = (
        [name] if name in group.attrs else [key for key in (f"{name}{i}" for i in range(len(group.attrs))) if key in group.attrs]
    )
    for part in parts:
        for text in group.attrs[part]:
            yield text.decode("utf-8") if isinstance(text, bytes) else str(text)


def _state(slots: Slots, own: Mapping[int, Variable], about: About) -> TrainingState:
    """The training state of variables that were found.

    Args:
        slots: of the optimizer.
        own: place in the optimizer -> variable.
        about: the run, without the steps.

    Raises:
        InvalidRequest: shapes differ.
    """
    moments: dict[str, Moment] = {}
    values: dict[str, Sequence[torch.Tensor]] = {}
    for place, variable in own.items():
        if place >= len(slots.states) or _shape(slots.states[place]) != variable.value.shape:
            raise InvalidRequest(
                f"{about.source}: the optimizer's variables have other shapes than the model's trainable ones; give the model as "
                "fit() left it."
            )
        moments[variable.name] = second_moment(slots.states[place], slots.group)
        values[variable.name] = [torch.from_numpy(variable.value), *slots.averages[place : place + 1]]
    run = About(about.source, about.optimizer, slots.steps, about.batch_size, slots.relative, about.notes)
    return assembled(moments, values, run)
