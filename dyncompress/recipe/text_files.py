"""Read the user's text, TOML and JSON files; every fault of a file is an error of one sentence."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dyncompress.errors import InvalidRequest

MOST_BYTES = 1 << 28  # of a text file; the profile of a network with a thousand layers takes 10 MB


def read_bytes(path: Path, what: str) -> bytes:
    """The content of a regular file. Pipes and devices are refused, because reading one may never end.

    Args:
        path: of the file.
        what: how messages name it.

    Raises:
        InvalidRequest: there is no such file, it is a directory, a pipe or a device, or it can't be opened.
    """
    try:
        if not path.exists():
            raise InvalidRequest(f"{what}: no such file or directory.")
        if not path.is_file():
            raise InvalidRequest(f"{what}: it {'is a directory' if path.is_dir() else 'is a device or a pipe'}; name a file.")
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{what}: {(error.strerror or str(error)).lower()}.") from error


def read_text(path: Path, what: str) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark.

    Args:
        path: of the file.
        what: how messages name it, e.g. `plan out/plan.toml`.

    Raises:
        InvalidRequest: there is no such file, it is a directory, a pipe or a device, it can't be opened, or it isn't text in
            UTF-8.
    """
    content = read_bytes(path, what)
    if len(content) > MOST_BYTES:
        raise InvalidRequest(f"{what}: it has {len(content):,} bytes, too many for such a text; name another file.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{what}: it is no text in UTF-8 (byte {error.start}); save it in that encoding.") from error
    if "\0" in text:
        raise InvalidRequest(f"{what}: it holds a null byte and so is no text; save it as text in UTF-8.")
    return text


def toml(text: str, what: str) -> dict[str, Any]:
    """The table of a TOML text.

    Args:
        text: the whole text.
        what: how messages name it.

    Raises:
        InvalidRequest: it isn't TOML, is nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return tomllib.loads(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{what}: it is no valid TOML: {' '.join(str(error).split())}.") from error
    except ValueError as error:
        raise InvalidRequest(f"{what}: it holds a number with too many digits; write a smaller one.") from error
    except RecursionError as error:
        raise InvalidRequest(f"{what}: its lists or tables are nested too deeply; write fewer levels.") from error


def refuse_not_finite(value: Any, what: str, key: str = "") -> None:
    """Refuse nan and infinity, which TOML can write, anywhere in a table.

    Args:
        value: a table, a list, or a single value of one.
        what: the file, for messages.
        key: dotted key of `value`.

    Raises:
        InvalidRequest: a number isn't finite; the message names its key.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(f"{what}: {key} is {value}; a finite number is needed.")
    inside = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in inside:
        inner = key if isinstance(value, list) else f"{key}.{name}" if key else str(name)
        refuse_not_finite(entry, what, inner)


def is_file(path: Path, what: str) -> bool:
    """Whether a regular file exists at the path.

    Raises:
        InvalidRequest: the path is a directory, a device or a pipe, or its folder can't be searched.
    """
    try:
        if path.exists() and not path.is_file():
            kind = "a directory" if path.is_dir() else "a device or a pipe"
            raise InvalidRequest(f"{what}: {path} is {kind}; name an ordinary file.")
        return path.is_file()
    except OSError as error:  # a name that is too long, or no permission
        raise InvalidRequest(f"{what}: {str(error.strerror).lower()}.") from error


def is_directory(path: Path) -> bool:
    """Whether a directory exists at the path; False where it can't be accessed, which `is_file` reports."""
    try:
        return path.is_dir()
    except OSError:
        return False


def json_table(text: str, name: str) -> dict[str, Any]:
    """The object of a JSON text, as a dictionary. `{"float": "nan"}` in it is read as a number that JSON has no syntax for.

    Args:
        text: the whole text.
        name: how messages name the file.

    Raises:
        InvalidRequest: it isn't JSON, is truncated, holds a key twice, or isn't an object.
    """
    try:
        content = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite)
        if "\\ud" in text.lower():  # half of a surrogate pair, which no file could be written with
            json.dumps(content, ensure_ascii=False).encode()
    except InvalidRequest as error:
        raise InvalidRequest(f"{name}: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{name}: the file is truncated or no JSON ({error}).") from error
    if not isinstance(content, dict):
        raise InvalidRequest(f"{name}: this is no file of dyncompress.")
    return content


def _refuse_constant(word: str) -> Any:
    """NaN and infinity aren't JSON; files of this library write them as text."""
    raise InvalidRequest(f'{word} is no JSON; write {{"float": "{word.lower()}"}}')


def _finite(digits: str) -> float:
    """The number of a JSON text; refuse one with so large an exponent that it would be read as infinity."""
    return float(digits) if math.isfinite(float(digits)) else _refuse_constant(digits)


def _object(pairs: list[tuple[str, Any]]) -> Any:
    """A dictionary, or the number that `{"float": "nan"}` stands for; refuse a key that occurs twice."""
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        raise InvalidRequest(f"key '{max(keys, key=keys.count)}' stands twice in one object; write it once")
    if table.keys() == {"float"} and isinstance(table["float"], str):
        try:
            return float(table["float"])
        except ValueError as error:
            raise InvalidRequest(f"'{table['float']}' is no number") from error
    return table
