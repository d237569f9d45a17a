"""Texts of values: short ones for `repr`, without the arrays, bytes and long tables, and whole ones for digests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import islice
from typing import Any

import numpy as np

MOST = 1_500  # characters of a whole text
LETTERS = 120  # of one string
ENTRIES = 3  # of a mapping or sequence
DEPTH = 2  # values inside values that are written out


def short_repr(self: Any) -> str:
    """The `repr` of a dataclass: its class, and the fields that differ from their defaults, each in few words.

    Arrays are told by their type and shape, bytes by their number, collections by their first entries and how many more there
    are, so that the text stays below 2 000 characters whatever the value holds. Fields with `repr=False` are left out.

    Args:
        self: an instance of a dataclass. In a class body: `__repr__ = short_repr`.

    Example:
        >>> from dyncompress.types import Choice
        >>> Choice(weight_bits=4, indices=(0, 2, 3, 5, 8))
        Choice(indices=(0, 2, 3, ... 2 more), weight_bits=4)
    """
    return _cut(_fields(self, DEPTH), MOST)


def describe(value: Any, **shown: Any) -> str:
    """The class of a value and what is told of it: for values whose fields say less than a few numbers made of them.

    Example:
        >>> describe(ValueError(), bytes=1_234, name="small")
        "ValueError(bytes=1234, name='small')"
    """
    told = ", ".join(f"{name}={_text(entry, 1)}" for name, entry in shown.items())
    return _cut(f"{type(value).__name__}({told})", MOST)


def whole_text(value: Any) -> str:
    """Everything that a value holds, as one text that differs where the values do: for digests, not for people.

    Arrays enter by their element type, shape and sha256. What is neither a dataclass nor a collection enters by its `repr`.

    Example:
        >>> from dyncompress.types import Budget
        >>> whole_text({"a": (1, 2.5), "b": Budget(bytes=0.25)})
        "{'a': (1, 2.5), 'b': Budget(bytes=0.25, macs=None, seconds=None, sparsity=None, distortion=None, risk_increase=None)}"
    """
    if is_dataclass(value) and not isinstance(value, type):
        told = (f"{f.name}={whole_text(getattr(value, f.name))}" for f in fields(value))
        return f"{type(value).__name__}({', '.join(told)})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{whole_text(key)}: {whole_text(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, Set):
        return "{" + ", ".join(sorted(map(whole_text, value))) + "}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(whole_text, value)) + ")"
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}{hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    return repr(value)


def _fields(value: Any, depth: int) -> str:
    """The class and its fields."""
    told = [f for f in fields(value) if f.repr and not _as_by_default(f, getattr(value, f.name))]
    return f"{type(value).__name__}({', '.join(f'{f.name}={_text(getattr(value, f.name), depth - 1)}' for f in told)})"


def _as_by_default(field: Field[Any], value: Any) -> bool:
    """Whether a field holds its default; arrays never do, since comparing them would cost their length."""
    if field.default_factory is not MISSING:
        return isinstance(value, Mapping | list | tuple | Set) and not value
    plain = value is None or isinstance(value, bool | int | float | str | bytes | tuple | Set)
    return field.default is not MISSING and plain and (value is field.default or value == field.default or value != value)


def _text(value: Any, depth: int) -> str:
    """Any value in few words."""
    if hasattr(value, "dtype") and getattr(value, "shape", None) == ():
        return repr(value.item())
    if value is None or isinstance(value, bool | int | float | complex):
        return repr(value)
    if isinstance(value, str):
        return repr(_cut(value, LETTERS))
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value):,} bytes>"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"<{str(value.dtype).removeprefix('torch.')} {list(value.shape)}>"
    if isinstance(value, Mapping | list | tuple | Set):
        return _collection(value, depth)
    if is_dataclass(value) and not isinstance(value, type):
        return _fields(value, depth) if depth > 0 else f"{type(value).__name__}(...)"
    return f"<{getattr(value, '__name__', type(value).__name__)}>"


def _collection(value: Any, depth: int) -> str:
    """The first entries, and how many more there are."""
    opening, closing = ("{", "}") if isinstance(value, Mapping | Set) else ("[", "]") if isinstance(value, list) else ("(", ")")
    if depth < 0:
        return f"{opening}{len(value)} entries{closing}"
    if isinstance(value, Mapping):
        told = [f"{_text(key, depth - 1)}: {_text(entry, depth - 1)}" for key, entry in islice(value.items(), ENTRIES)]
    else:
        told = [_text(entry, depth - 1) for entry in islice(value, ENTRIES)]
    more = len(value) - len(told)
    alone = "," if isinstance(value, tuple) and len(value) == 1 else ""
    return opening + ", ".join(told + [f"... {more} more"] * (more > 0)) + alone + closing


def _cut(text: str, most: int) -> str:
    """The text, its middle left out where it is longer than `most`."""
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"
