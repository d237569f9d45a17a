"""Tables of a TOML or JSON file -> dataclasses, strictly: keys are exactly the fields, and every mistake names its place."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from dyncompress.errors import InvalidRequest, nearest

T = TypeVar("T")
Where = Callable[[str], str]  # key (empty: the table itself) -> the place to name in a message
LARGEST = 10**18  # integers below it fit into 64 bits, as seeds and counts of numpy and torch must
SHOWN = 80  # characters of a value in a message
NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a text", dict: "a table", list: "a list"}


def at(place: str) -> Where:
    """The same place for every key."""
    return lambda key: place


def build(cls: type[T], table: Any, where: Where) -> T:
    """The dataclass `cls` with the values of `table`.

    Args:
        cls: a dataclass.
        table: key -> value as tomllib or json give them.
        where: names the place of a key, e.g. `measure.hill` or `plan.toml line 41`.

    Raises:
        InvalidRequest: an unknown or missing key, a value of the wrong type, or one that the class refuses.
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
    """Refuse what isn't a table, and the first unknown key."""
    if not isinstance(table, Mapping):
        raise InvalidRequest(f"{where('')}: {shown(table)} was given where a table is needed.")
    for key in table:
        if key not in known:
            raise InvalidRequest(f"{where(key)}: unknown key '{key}'{nearest(key, known)}")


def read(kind: Any, value: Any, what: str) -> Any:
    """`value` as the type `kind`; lists become tuples, and an integer may stand for a float.

    Args:
        kind: bool, int, float, str, a dataclass, `tuple[X, ...]`, `Mapping[str, X]`, or one of these or None.
        value: as tomllib or json give it.
        what: for messages, e.g. `measure.hill: 'fraction'`.
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
    return _plain(kind, value, what)


def shown(value: Any) -> str:
    """A value in a message, short.

    Example:
        >>> shown("gptq"), shown(True), shown([1, 2])
        ("'gptq'", 'true', 'a list')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple | Mapping):
        return "a table" if isinstance(value, Mapping) else "a list"
    if isinstance(value, int) and abs(value) >= LARGEST:
        return "an integer of more than 18 digits"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _plain(kind: Any, value: Any, what: str) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        _need(abs(value) < LARGEST, value, "an integer of at most 18 digits", what)
    if kind is float:
        _need(isinstance(value, int | float) and not isinstance(value, bool), value, NAMES[float], what)
        return float(value)
    _need(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), value, NAMES.get(kind, kind.__name__), what)
    return value


def _need(fine: bool, value: Any, wanted: str, what: str) -> None:
    if not fine:
        raise InvalidRequest(f"{what} is {shown(value)}; {wanted} is needed.")


def check_finite(value: float, what: str) -> None:
    """Refuse nan and infinity, which TOML can write."""
    if not math.isfinite(value):
        raise InvalidRequest(f"{what} is {value}; a finite number is needed.")
