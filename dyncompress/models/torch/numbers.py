# pyright: reportArgumentType=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Conversion of a private copy to float32: parameters, buffers, and the casts in its forward methods."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dyncompress.models.torch.copying import forward_of

_OTHERS = (torch.float16, torch.bfloat16, torch.float64)
_CASTS = frozenset({"half", "bfloat16", "double", "type", "to"})


def to_float32(module: nn.Module) -> bool:
    """Convert a private copy in place: parameters, buffers, and the dtypes that its forward methods cast to.

    Returns:
        whether a parameter had another floating-point dtype; if none had, nothing is changed.
    """
    if not any(p.is_floating_point() and p.dtype != torch.float32 for p in module.parameters()):
        return False
    module.float()
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and value.dtype in _OTHERS:
                object.__setattr__(part, name, value.float())
            elif isinstance(value, torch.dtype) and value in _OTHERS:
                object.__setattr__(part, name, torch.float32)
    method = forward_of(module)

    @functools.wraps(method)
    def forward(self: nn.Module, *args: Any, **keywords: Any) -> Any:
        """The network's own output, computed in float32."""
        with _InFloat32():
            return method(self, *args, **keywords)

    module.forward = types.MethodType(forward, module)
    return True


class _InFloat32(TorchFunctionMode):
    """Replaces every other floating-point dtype in a call of a torch function by float32."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Run the function with float32 in place of other floating-point dtypes."""
        name, keywords = getattr(func, "__name__", ""), dict(kwargs or {})
        if keywords.get("dtype") in _OTHERS:
            keywords["dtype"] = torch.float32
        if name in _CASTS and args:
            if name in ("half", "bfloat16", "double"):
                return args[0].to(torch.float32)
            targets = [torch.float32 if isinstance(a, torch.dtype) and a in _OTHERS else a for a in args[1:]]
            args = (args[0], *targets)
        return func(*args, **keywords)
