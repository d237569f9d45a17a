"""Code of the user's own that a command imports and calls: whatever it raises becomes one sentence with the user's own line."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from dyncompress.errors import DyncompressError, InvalidRequest

LONGEST = 400  # characters of an exception's text in a sentence
_files: dict[str, str] = {}  # resolved file -> what the user called it, of every file that a command imported


def remember(file: str | Path | None, name: str) -> None:
    """Note a file that is the user's: an exception that passes through it is told as the user's.

    Args:
        file: of the module, or None where it has none.
        name: how a message calls it, e.g. `model 'net.py:network'`.
    """
    if file is not None:
        _files[str(Path(file).resolve())] = name


@contextmanager
def calling_user_code(name: str) -> Iterator[None]:
    """Turn whatever is raised inside into one sentence; errors of this library and Ctrl-C pass.

    Args:
        name: how the message calls the code, e.g. `model 'net.py:network'`.

    Raises:
        InvalidRequest: names the code, the exception and the user's own line.
    """
    try:
        yield
    except (DyncompressError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise InvalidRequest(sentence(name, error)) from error


def guard_data(data: Any, name: str) -> Any:
    """Data that the user's code returned; what it raises while batches are drawn is told as the user's.

    Arrays, tuples, lists, mappings and paths run no code of the user's, and come back as they are.
    """
    _refuse_special(data, name)
    if isinstance(data, str | Path | tuple | list | dict) or hasattr(data, "detach"):
        return data
    if hasattr(data, "shape") or hasattr(data, "inputs"):
        return data
    if hasattr(data, "__next__"):
        return _draw_batches(data, name)
    return _Batches(data, name) if hasattr(data, "__iter__") else data


class _Batches:
    """An iterable that can be read again and again."""

    def __init__(self, data: Any, name: str) -> None:
        self._data, self._name = data, name

    def __iter__(self) -> Iterator[Any]:
        """The batches from the first one on."""
        with calling_user_code(self._name):
            batches = iter(self._data)
        return _draw_batches(batches, self._name)


def _draw_batches(batches: Iterator[Any], name: str) -> Iterator[Any]:
    """One batch after the other; only drawing them is the user's code, not what is done with them."""
    while True:
        with calling_user_code(name):
            batch, ended = _next(batches)
        if ended:
            return
        _refuse_special(batch, name)
        yield batch


def _refuse_special(data: Any, name: str) -> None:
    """Refuse tensors that hold no plain numbers, at any depth of the user's tuples, lists and mappings.

    Raises:
        InvalidRequest: tells their kind.
    """
    if isinstance(data, dict | tuple | list):
        for value in data.values() if isinstance(data, dict) else data:
            _refuse_special(value, name)
    elif hasattr(data, "detach"):
        kind = special_kind(data)
        if kind:
            raise InvalidRequest(f"{name} returned a {kind} tensor; give dense tensors of numbers.")


def special_kind(tensor: Any) -> str:
    """What a tensor is, if it isn't a plain array of numbers; else empty."""
    kinds = {"nested": tensor.is_nested, "sparse": "strided" not in str(tensor.layout), "quantized": tensor.is_quantized}
    return next((kind for kind, is_it in {**kinds, "meta": tensor.is_meta}.items() if is_it), "")


def _next(batches: Iterator[Any]) -> tuple[Any, bool]:
    try:
        return next(batches), False
    except StopIteration:
        return None, True


# ---------------------------------------------------------------- sentences
def of_user(error: BaseException) -> str | None:
    """The sentence about an exception that passed through a file of the user's; None where it passed through none."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = _files.get(str(Path(frame.f_code.co_filename).resolve()))
        if name is not None:
            return sentence(name, error)
    return None


def place_of_user(error: BaseException) -> str:
    """`net.py line 12`, of an exception that passed through a file of the user's; else empty."""
    return "" if of_user(error) is None else _line(error)


def sentence(name: str, error: BaseException) -> str:
    """What was raised, where in the user's code, and with what words."""
    line = _line(error)
    where = f" at {line}" if line else ""
    if isinstance(error, SystemExit):
        return f"{name} ended the program with sys.exit({text_of(error)}){where}; let it return its value instead."
    text = text_of(error)
    return f"{name} raised {type(error).__name__}{where}{': ' if text else ''}{text.removesuffix('.')}."


def text_of(error: BaseException) -> str:
    """An exception's own words in one line; of a class whose `__str__` raises, that it can't be shown."""
    try:
        words = error.msg if isinstance(error, SyntaxError) else str(error)
        text = " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in str(words)).split())
    except BaseException:  # the user's own class; its fault is not the one to report
        return "its message can't be shown"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _line(error: BaseException) -> str:
    """`net.py line 12`: the innermost line of the user's own files, else of any file that isn't installed."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name} line {error.lineno}"
    frames = [(frame.f_code.co_filename, number) for frame, number in traceback.walk_tb(error.__traceback__)]
    own = [place for place in frames if _is_own(place[0])]
    return f"{Path(own[-1][0]).name} line {own[-1][1]}" if own else ""


def _is_own(file: str) -> bool:
    """Whether a file is neither this library's, nor Python's, nor an installed package's."""
    installed = (str(Path(__file__).parents[1]), sys.prefix, sys.base_prefix)
    return not file.startswith(("<", *installed)) and "site-packages" not in file


def last_line(trace: TracebackType | None) -> str:
    """`profiling.py line 31`: where an exception was raised, in any file; empty where nothing is known."""
    places = [(frame.f_code.co_filename, number) for frame, number in traceback.walk_tb(trace)]
    inside = [place for place in places if place[0].startswith(str(Path(__file__).parents[1]))] or places
    return f"{Path(inside[-1][0]).name} line {inside[-1][1]}" if inside else ""
