"""Load what arguments name: a model or data as `file.py:callable` or `package.module:callable`, files of models and `.npz`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.models import SCRIPTS, load
from dyncompress.models.user_code import calling_user_code, guard_data, remember
from dyncompress.recipe.text_files import is_file, read_bytes

MODEL_ENDINGS = (".onnx", ".pt2", *SCRIPTS)
_FIRST_BYTE = b"\x08"  # of every ONNX file: the tag of its first field, the IR version


def check_model(source: str) -> None:
    """Check the form of a model argument, and that its file exists, without importing torch.

    Raises:
        Unsupported: it is a file of another format; the message says how to name the network instead.
        InvalidRequest: it has another form, there is no such file, or the file isn't Python.
    """
    ending = Path(source).suffix.lower()
    if ending in MODEL_ENDINGS:
        if not is_file(Path(source), f"model '{source}'"):
            raise InvalidRequest(f"model '{source}': there is no such file.")
        with Path(source).open("rb") as file:
            first = file.read(1)
        if ending == ".onnx" and first != _FIRST_BYTE:
            raise InvalidRequest(f"model: '{source}' is no ONNX file; give a file that onnx can load.")
        return
    if ending == ".safetensors":
        raise Unsupported(
            f"model '{source}' holds weights without their network; name a function that builds the network and loads its "
            "weights, e.g. `net.py:model`."
        )
    _check_callable(source, "model")


def check_data(source: str, what: str) -> None:
    """Check the form of a data argument, an `.npz` file or a callable, and that its file exists, without importing torch.

    Args:
        source: as on the command line.
        what: `calibration data` or `held-out data`, for messages.

    Raises:
        InvalidRequest: it has another form, or there is no such file.
    """
    path = Path(source)
    if path.suffix != ".npz":
        _check_callable(source, what)
    elif not is_file(path, f"{what} '{source}'"):
        raise InvalidRequest(f"{what} '{source}': no such file; write one with numpy.savez('{path.name}', x=x, y=y).")


def load_model(source: str) -> Any:
    """The network that `file.py:callable` or `package.module:callable` returns, or what a file holds, see `models.load`.

    Raises:
        Unsupported: it is a file of another format; the message says how to name the network instead.
        InvalidRequest: there is no such file, module or callable, it doesn't return a `torch.nn.Module`, or the file is no ONNX.
    """
    check_model(source)
    if Path(source).suffix.lower() in MODEL_ENDINGS:
        return load(source)
    import torch

    model = _call(source, "model")
    if not isinstance(model, torch.nn.Module):
        raise InvalidRequest(f"model '{source}' returned a {type(model).__name__}; it has to return a torch.nn.Module.")
    return model


def load_data(source: str, what: str) -> Any:
    """The path of an existing `.npz` file, or the iterable of batches that `file.py:callable` returns.

    Args:
        source: as on the command line.
        what: `calibration data` or `held-out data`, for messages.

    Raises:
        InvalidRequest: there is no such file, module or callable, or it returns None.
    """
    check_data(source, what)
    path = Path(source)
    if path.suffix == ".npz":
        return path
    data = _call(source, what)
    if data is None:  # None would mean that no data are given
        raise InvalidRequest(f"{what} '{source}' returned None; it has to return examples or batches of them.")
    return guard_data(data, f"{what} '{source}'")


def _check_callable(source: str, what: str) -> None:
    """Refuse an argument that isn't `place:name`, and a file that doesn't exist or isn't Python."""
    place, colon, name = source.rpartition(":")
    if not colon or not place or not name:
        other = ".onnx" if what == "model" else ".npz"
        forms = f"`file.py:callable` or `package.module:callable`, or an {other} file"
        raise InvalidRequest(f"{what} '{source}': give it as {forms}.")
    if not place.endswith(".py"):
        if not all(part.isidentifier() for part in place.split(".")):
            raise InvalidRequest(f"{what} '{source}': '{place}' is neither a .py file nor the name of a module.")
        return
    if not is_file(Path(place), f"{what} '{source}'"):
        raise InvalidRequest(f"{what} '{source}': there is no file {place}.")
    text = read_bytes(Path(place), f"{what} '{source}'")
    with (
        calling_user_code(f"{what} '{source}'"),
        warnings.catch_warnings(action="ignore"),
    ):  # warnings are shown when the file is imported
        compile(text, place, "exec", dont_inherit=True)


def _call(source: str, what: str) -> Any:
    """Import the named callable, call it, and return its result."""
    place, _, name = source.rpartition(":")
    module = _from_file(Path(place), source, what) if place.endswith(".py") else _from_name(place, source, what)
    with calling_user_code(f"{what} '{source}'"):
        function = getattr(module, name, None)
    if not callable(function):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(name, public, 1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        raise InvalidRequest(f"{what} '{source}': {place} has no callable '{name}'{hint}")
    with calling_user_code(f"{what} '{source}'"):
        return function()


def _from_file(path: Path, source: str, what: str) -> ModuleType:
    """Import a file by its path; its folder is put on `sys.path`, as `python file.py` does."""
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    key = f"dyncompress_source_{path.stem}"
    if key in sys.modules and sys.modules[key].__file__ == str(path.resolve()):
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, path.resolve())
    if spec is None or spec.loader is None:
        raise InvalidRequest(f"{what} '{source}': {path} can't be imported as Python.")
    module = importlib.util.module_from_spec(spec)
    remember(path, f"{what} '{source}'")
    sys.modules[key], complete = module, False
    try:
        with calling_user_code(f"{what} '{source}'"):
            spec.loader.exec_module(module)
        complete = True
    finally:
        if not complete:  # the next import must not return an incomplete module
            del sys.modules[key]
    return module


def _from_name(name: str, source: str, what: str) -> ModuleType:
    """Import a module by name; the working directory is on the search path."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    with calling_user_code(f"{what} '{source}'"):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
                raise
            raise InvalidRequest(f"{what} '{source}': there is no module '{error.name}' here.") from error
    remember(getattr(module, "__file__", None), f"{what} '{source}'")
    return module
