"""Which inputs of a model the data fill: its forward method's parameters, matched with what the first batch holds."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.models.data import LABEL_KEYS, load_npz
from dyncompress.types import Batch, HeldOut


def resolve_inputs(model: Any, data: Any) -> tuple[tuple[str, ...], Any]:
    """The names of the inputs that `data` fill, and the data, with nothing of it lost where it can be read only once.

    Args:
        model: with a `forward` method.
        data: anything `examples.as_batches` takes.

    Raises:
        InvalidRequest: the model isn't a torch module.
        Unsupported: the model is a file, or TorchScript.

    Example:
        >>> class Net:
        ...     def forward(self, pixels, mask=None): ...
        >>> resolve_inputs(Net(), {"pixels": [1], "labels": [0]})[0]
        ('pixels',)
    """
    if isinstance(model, str | Path):
        raise Unsupported(f"'{model}' is a file; models are torch modules for now: load it, or name a function that returns it.")
    if isinstance(model, type):
        raise InvalidRequest(f"the model is the class {model.__name__}; give an instance of it, with its trained weights.")
    if not hasattr(model, "forward"):
        raise InvalidRequest(f"the model is a {type(model).__name__}; give a torch.nn.Module.")
    given = inspect.signature(_inner(model).forward).parameters.values()
    parameters = [p for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = tuple(p.name for p in parameters if p.default is p.empty) or tuple(p.name for p in parameters[:1]) or ("x",)
    first, data = _first(data)
    if isinstance(first, tuple | list) and first and isinstance(first[0], Mapping):
        first = first[0]
    if isinstance(first, Mapping):
        labels = {key for key in LABEL_KEYS if key not in required}  # a network that takes them returns its loss first
        named = tuple(p.name for p in parameters if p.name in first and p.name not in labels)
        return (named if set(required) <= set(named) else required), data
    return required, data


def _inner(model: Any) -> Any:
    """The network inside what torch wraps around one, known by name: nothing here imports torch.

    Raises:
        Unsupported: it is TorchScript.
    """
    if any(cls.__name__ == "ScriptModule" for cls in type(model).__mro__):
        raise Unsupported("the model is TorchScript, whose layers can't be edited; give the module that it was made of.")
    if hasattr(model, "_orig_mod"):  # torch.compile
        return _inner(model._orig_mod)
    wraps = any(cls.__name__ in ("DataParallel", "DistributedDataParallel") for cls in type(model).__mro__)
    return _inner(model.module) if wraps else model


def refuse_other_form(held_out: Batch, calibration: Batch, free: Mapping[str, Sequence[int]] | None = None) -> None:
    """Refuse held-out inputs that have another shape or dtype than the calibration's.

    Args:
        held_out, calibration: inputs by name.
        free: input -> axes that may have another length.

    Raises:
        InvalidRequest: names the input and both forms.
    """
    for name, value in calibration.items():
        if name not in held_out:
            raise InvalidRequest(f"held-out data: input '{name}' is missing, which the calibration data have; give it.")
        forms = [(_kind(array), list(array.shape[1:])) for array in (held_out[name], value)]
        open_ends = {axis - 1 for axis in (free or {}).get(name, ())}
        fixed = [(dtype, [None if i in open_ends else size for i, size in enumerate(shape)]) for dtype, shape in forms]
        if fixed[0] != fixed[1]:
            (dtype, shape), (was, before) = forms
            raise InvalidRequest(
                f"held-out data: input '{name}' is {dtype} {shape} an example, the calibration data's is {was} {before}; "
                "prepare both alike."
            )


def _kind(array: Any) -> str:
    """An array's dtype; floats of any width are one, since networks and files take them as float32."""
    name = str(array.dtype).removeprefix("torch.")
    return "float32" if "float" in name else name


def _first(data: Any) -> tuple[Any, Any]:
    """The first batch, and data that still hold it."""
    if isinstance(data, HeldOut):
        return data.inputs, data
    if isinstance(data, str | Path):
        return load_npz(data), data
    if isinstance(data, Mapping | tuple) or hasattr(data, "shape"):
        return data, data
    if isinstance(data, list):
        return (data[0] if data else None), data
    if hasattr(data, "__next__"):
        first = next(data, None)
        return first, itertools.chain([] if first is None else [first], data)
    return (next(iter(data), None) if hasattr(data, "__iter__") else None), data
