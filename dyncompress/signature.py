"""Which inputs of a model the data fill: its forward method's parameters, matched with what the first batch holds."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.examples import load_npz
from dyncompress.types import HeldOut


def filled(model: Any, data: Any) -> tuple[tuple[str, ...], Any]:
    """The names of the inputs that `data` fill, and the data, with nothing of it lost where it can be read only once.

    Args:
        model: with a `forward` method.
        data: anything `examples.as_batches` takes.

    Raises:
        InvalidRequest: the model isn't a torch module.
        Unsupported: the model is a file.

    Example:
        >>> class Net:
        ...     def forward(self, pixels, mask=None): ...
        >>> filled(Net(), {"pixels": [1], "labels": [0]})[0]
        ('pixels',)
    """
    if isinstance(model, str | Path):
        raise Unsupported(f"'{model}' is a file; models are torch modules for now: load it, or name a function that returns it.")
    if not hasattr(model, "forward"):
        raise InvalidRequest(f"the model is a {type(model).__name__}; give a torch.nn.Module.")
    given = inspect.signature(model.forward).parameters.values()
    parameters = [p for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = tuple(p.name for p in parameters if p.default is p.empty) or tuple(p.name for p in parameters[:1]) or ("x",)
    first, data = _first(data)
    if isinstance(first, tuple | list) and first and isinstance(first[0], Mapping):
        first = first[0]
    if isinstance(first, Mapping):
        named = tuple(p.name for p in parameters if p.name in first)
        return (named if set(required) <= set(named) else required), data
    return required, data


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
