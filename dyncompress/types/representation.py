"""Text for values: short text for `repr`, without arrays, bytes and long tables, and complete text for digests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import islice
from typing import Any

import numpy as np

MOST_CHARACTERS = 1_500  # of a repr
MOST_OF_STRING = 120  # characters of one string in it
ENTRIES = 3  # of a mapping or sequence
DEPTH = 2  # levels of nested dataclasses that are shown


def short_repr(self: Any) -> str:
    """The `repr` of a dataclass: its class, and the fields that differ from their defaults.

    Arrays are shown as dtype and shape, bytes as their number, and collections as their first entries and the number of the
    others, so that the text has fewer than 2 000 characters for any value. Fields with `repr=False` are left out.

    Args:
        self: an instance of a dataclass. In a class body: `__repr__ = short_repr`.

    Example:
        >>> from dyncompress.types import Choice
        >>> Choice(weight_bits=4, indices=(0, 2, 3, 5, 8))
        Choice(indices=(0, 2, 3, ... 2 more), weight_bits=4)
    """
    return _shortened(_fields(self, DEPTH), MOST_CHARACTERS)


def describe(value: Any, **shown: Any) -> str:
    """The class of a value and the given entries, for values whose fields are less useful than numbers derived from them.

    Example:
        >>> describe(ValueError(), bytes=1_234, name="small")
        "ValueError(bytes=1234, name='small')"
    """
    entries = ", ".join(f"{name}={_text(entry, 1)}" for name, entry in shown.items())
    return _shortened(f"{type(value).__name__}({entries})", MOST_CHARACTERS)


def whole_text(value: Any) -> str:
    """A text that contains everything in a value, for digests: different values have different texts.

    Arrays are represented by their dtype, shape and sha256, and objects that are neither dataclasses nor collections by their
    `repr`.

    Example:
        >>> from dyncompress.types import Budget
        >>> whole_text({"a": (1, 2.5), "b": Budget(bytes=0.25)})
        "{'a': (1, 2.5), 'b': Budget(bytes=0.25, macs=None, seconds=None, sparsity=None, distortion=None, risk_increase=None)}"
    """
    if is_dataclass(value) and not isinstance(value, type):
        entries = (f"{f.name}={whole_text(getattr(value, f.name))}" for f in fields(value))
        return f"{type(value).__name__}({', '.join(entries)})"
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
    """The class and those of its fields that don't have their defaults."""
    shown = [f for f in fields(value) if f.repr and not _is_default(f, getattr(value, f.name))]
    return f"{type(value).__name__}({', '.join(f'{f.name}={_text(getattr(value, f.name), depth - 1)}' for f in shown)})"


def _is_default(field: Field[Any], value: Any) -> bool:
    """Whether a field has its default; False for arrays, which aren't compared because of their size."""
    if field.default_factory is not MISSING:
        return isinstance(value, Mapping | list | tuple | Set) and not value
    plain = value is None or isinstance(value, bool | int | float | str | bytes | tuple | Set)
    return field.default is not MISSING and plain and (value is field.default or value == field.default or value != value)


def _text(value: Any, depth: int) -> str:
    """A short text for any value."""
    if hasattr(value, "dtype") and getattr(value, "shape", None) == ():
        return repr(value.item())
    if value is None or isinstance(value, bool | int | float | complex):
        return repr(value)
    if isinstance(value, str):
        return repr(_shortened(value, MOST_OF_STRING))
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
    """The first entries of a collection, and the number of the others."""
    opening, closing = ("{", "}") if isinstance(value, Mapping | Set) else ("[", "]") if isinstance(value, list) else ("(", ")")
    if depth < 0:
        return f"{opening}{len(value)} entries{closing}"
    if isinstance(value, Mapping):
        shown = [f"{_text(key, depth - 1)}: {_text(entry, depth - 1)}" for key, entry in islice(value.items(), ENTRIES)]
    else:
        shown = [_text(entry, depth - 1) for entry in islice(value, ENTRIES)]
    more = len(value) - len(shown)
    alone = "," if isinstance(value, tuple) and len(value) == 1 else ""
    return opening + ", ".join(shown + [f"... {more} more"] * (more > 0)) + alone + closing


def _shortened(text: str, most: int) -> str:
    """The text, without its middle if it is longer than `most` characters."""
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"
