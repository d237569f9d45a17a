"""Torch, imported at its first use: a wrong recipe is refused without the seconds that importing torch takes."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Deferred:
    """A module that is imported when something of it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        """The module's own attribute."""
        return getattr(importlib.import_module(self._name), attribute)


if TYPE_CHECKING:
    import torch
else:
    torch = Deferred("torch")


def without_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """The function under `torch.no_grad()`, whose own decorator would import torch where the function is defined."""

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.no_grad():
            return function(*args, **kwargs)

    return inner
