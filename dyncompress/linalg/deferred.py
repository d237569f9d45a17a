"""The module torch, imported at its first use, so that a wrong recipe is refused without waiting for the import of torch."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Deferred:
    """A module that is imported when one of its attributes is first read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        """Import the module and return its attribute."""
        return getattr(importlib.import_module(self._name), attribute)


if TYPE_CHECKING:
    import torch
    from torch import Tensor as Tensor
else:
    torch = Deferred("torch")

    def __getattr__(name: str) -> Any:
        """`Tensor`, for annotations: the class of torch where jaxtyping is loaded to check them, else a stand-in.

        Raises:
            AttributeError: another name.
        """
        if name != "Tensor":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return torch.Tensor if "jaxtyping" in sys.modules else type("Tensor", (), {})


def without_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run under `torch.no_grad()`; torch's own decorator would import torch where the function is defined."""

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.no_grad():
            return function(*args, **kwargs)

    return inner
