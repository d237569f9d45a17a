"""Make dataclasses of the tables of a TOML or JSON file: keys are exactly the fields, and every error names its position."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from dyncompress.errors import InvalidRequest, nearest

T = TypeVar("T")
Where = Callable[[str], str]  # key (empty: the table itself) -> how messages name its position
LARGEST = 10**18  # smaller integers fit into 64 bits, which numpy and torch need for seeds and counts
MOST_CHARACTERS = 80  # of a value in a message
NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a text", dict: "a table", list: "a list"}


def at(place: str) -> Where:
    """A `Where` that names the same position for every key.

    Example:
        >>> at("measure.hill")("fraction")
        'measure.hill'
    """
    return lambda key: place


def build(cls: type[T], table: Any, where: Where) -> T:
    """An instance of the dataclass `cls` with the values of `table`.

    Args:
        cls: a dataclass.
        table: key -> value, as tomllib or json return it.
        where: names the position of a key, e.g. `measure.hill` or `plan.toml line 41`.

    Raises:
        InvalidRequest: an unknown or missing key, a value of the wrong type, or one that the class itself refuses.

    Example:
        >>> from dyncompress.types import Budget
        >>> build(Budget, {"bytes": 1000}, at("budget"))
        Budget(bytes=1000.0)

    """
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    check_keys(table, fields, where)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in table:
            raise InvalidRequest(f"{where('')}: key '{name}' is missing.")
    hints = get_type_hints(cls)
    values = {key: read(hints[key], value, f"{where(key)}: '{key}'") for key, value in table.items()}
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"{where('')}: {error}") from error


def check_keys(table: Any, known: Collection[str], where: Where) -> None:
    """Refuse a value that isn't a table, and the first key of a table that isn't known."""
    if not isinstance(table, Mapping):
        raise InvalidRequest(f"{where('')}: {value_text(table)} was given where a table is needed.")
    for key in table:
        if key not in known:
            raise InvalidRequest(f"{where(key)}: unknown key '{key}'{nearest(key, known)}")


def read(kind: Any, value: Any, what: str) -> Any:
    """Convert `value` to the type `kind`: lists become tuples, and integers become floats where a float is needed.

    Args:
        kind: bool, int, float, str, a dataclass, `tuple[X, ...]`, `Mapping[str, X]`, or one of these or None.
        value: as tomllib or json return it.
        what: how messages name the value, e.g. `measure.hill: 'fraction'`.

    Raises:
        InvalidRequest: the value has another type.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return read(next(one for one in inner if one is not type(None)), value, what)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build(kind, value, at(what))
    if origin is tuple:
        _need(isinstance(value, list | tuple), value, "a list", what)
        return tuple(read(inner[0], entry, what) for entry in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        _need(isinstance(value, Mapping), value, "a table", what)
        return {key: read(inner[1], entry, f"{what} '{key}'") for key, entry in value.items()}
    return _scalar(kind, value, what)


def value_text(value: Any) -> str:
    """A value as messages show it, at most about 80 characters.

    Example:
        >>> value_text("gptq"), value_text(True), value_text([1, 2])
        ("'gptq'", 'true', 'a list')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple | Mapping):
        return "a table" if isinstance(value, Mapping) else "a list"
    if isinstance(value, int) and abs(value) >= LARGEST:
        return "an integer of more than 18 digits"
    text = repr(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."


def _scalar(kind: Any, value: Any, what: str) -> Any:
    """A boolean, number or text."""
    if isinstance(value, int) and not isinstance(value, bool):
        _need(abs(value) < LARGEST, value, "an integer of at most 18 digits", what)
    if kind is float:
        _need(isinstance(value, int | float) and not isinstance(value, bool), value, NAMES[float], what)
        return float(value)
    _need(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), value, NAMES.get(kind, kind.__name__), what)
    return value


def _need(condition: bool, value: Any, kind: str, what: str) -> None:
    if not condition:
        raise InvalidRequest(f"{what} is {value_text(value)}; {kind} is needed.")


def check_finite(value: float, what: str) -> None:
    """Refuse nan and infinity, which TOML can write."""
    if not math.isfinite(value):
        raise InvalidRequest(f"{what} is {value}; a finite number is needed.")
