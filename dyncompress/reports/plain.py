"""Convert values to what JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain_json(value: Any) -> Any:
    """Convert a value for JSON: keys become strings, arrays and tuples lists, and nan and infinity null; others become strings.

    Example:
        >>> from pathlib import Path
        >>> plain_json({"a": float("nan"), "b": (1, 2), "c": Path("x")})
        {'a': None, 'b': [1, 2], 'c': 'x'}
    """
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple | set | frozenset):
        return [plain_json(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
