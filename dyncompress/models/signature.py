"""The inputs of a model that given data provide: parameters of its forward method that occur in the first batch."""

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
    """The names of the inputs that `data` provide, and the data.

    Inputs are the forward method's parameters without a default, and those with a default that the first batch has by name.
    Labels of the first batch aren't inputs unless the method requires them.

    Args:
        model: a torch module, or a model adapter.
        data: anything that `data.as_batches` takes.

    Returns:
        input names in the order of the parameters, and data that still hold the first batch, also where `data` is a generator.

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
        raise Unsupported(f"'{model}' is a file; load it first, see dyncompress.models.load.")
    if isinstance(model, type):
        raise InvalidRequest(f"the model is the class {model.__name__}; give an instance of it, with its trained weights.")
    if hasattr(model, "input_names"):  # a model adapter, or a graph that was read from a file
        return model.input_names, data
    if not hasattr(model, "forward"):
        raise InvalidRequest(f"the model is a {type(model).__name__}; give a torch.nn.Module.")
    signature = inspect.signature(_inner(model).forward).parameters.values()
    parameters = [p for p in signature if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = tuple(p.name for p in parameters if p.default is p.empty) or tuple(p.name for p in parameters[:1]) or ("x",)
    first, data = _first(data)
    if isinstance(first, tuple | list) and first and isinstance(first[0], Mapping):
        first = first[0]
    if isinstance(first, Mapping):
        labels = {key for key in LABEL_KEYS if key not in required}  # with labels, such a network returns its loss first
        provided = tuple(p.name for p in parameters if p.name in first and p.name not in labels)
        return (provided if set(required) <= set(provided) else required), data
    return required, data


def _inner(model: Any) -> Any:
    """The network inside torch's wrappers, which are known by their class names, so that torch isn't imported.

    Raises:
        Unsupported: the model is TorchScript.
    """
    if any(cls.__name__ == "ScriptModule" for cls in type(model).__mro__):
        raise Unsupported("the model is TorchScript, whose layers can't be edited; give the module that it was made of.")
    if hasattr(model, "_orig_mod"):  # torch.compile
        return _inner(model._orig_mod)
    wrapped = any(cls.__name__ in ("DataParallel", "DistributedDataParallel") for cls in type(model).__mro__)
    return _inner(model.module) if wrapped else model


def refuse_other_form(held_out: Batch, calibration: Batch, free: Mapping[str, Sequence[int]] | None = None) -> None:
    """Refuse held-out inputs whose shape or dtype differs from the calibration data's.

    Args:
        held_out, calibration: one batch each, `[n, ...]` by input name.
        free: input -> axes that may have another length.

    Raises:
        InvalidRequest: an input is missing or differs; names it, and both shapes and dtypes.
    """
    for name, value in calibration.items():
        if name not in held_out:
            raise InvalidRequest(f"held-out data: input '{name}' is missing, which the calibration data have; give it.")
        forms = [(_kind(array), list(array.shape[1:])) for array in (held_out[name], value)]
        free_axes = {axis - 1 for axis in (free or {}).get(name, ())}
        held_out_form, form = [(d, [None if i in free_axes else n for i, n in enumerate(shape)]) for d, shape in forms]
        if held_out_form != form:
            (dtype, shape), (other_dtype, other_shape) = forms
            raise InvalidRequest(
                f"held-out data: input '{name}' is {dtype} {shape} per example, the calibration data's is "
                f"{other_dtype} {other_shape}; prepare both alike."
            )


def _kind(array: Any) -> str:
    """Name of an array's dtype; floats of any width are `float32`, which networks and files take them as."""
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
