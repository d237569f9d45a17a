"""The door out: integer ONNX files, how they run, and the seal on them.

Loaded name by name, so that `seal` and `unseal` need nothing but numpy, and `Session` no onnx.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_INDEX = {
    "strip": "strip",
    "ranges": "activation_ranges",
    "write": "writer",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in _INDEX:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_INDEX[name]}"), name)
