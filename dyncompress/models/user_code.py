"""Calls of the user's own code: any exception that it raises becomes one sentence that names the user's line."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from dyncompress.errors import DyncompressError, InvalidRequest

LONGEST = 400  # characters of an exception's message that a sentence quotes
_files: dict[str, str] = {}  # resolved path -> the user's name for it, for every file that a command imported


def remember(file: str | Path | None, name: str) -> None:
    """Register a file of the user's, so that `of_user` recognises an exception that passes through it.

    Args:
        file: the module's file; None for a module without one.
        name: how a message names the code, e.g. `model 'net.py:network'`.
    """
    if file is not None:
        _files[str(Path(file).resolve())] = name


@contextmanager
def calling_user_code(name: str) -> Iterator[None]:
    """Inside this block any exception becomes one sentence, except errors of this library and Ctrl-C.

    Args:
        name: how the message names the code, e.g. `model 'net.py:network'`.

    Raises:
        InvalidRequest: the block raised an exception; names the code, the exception and the user's line.
    """
    try:
        yield
    except (DyncompressError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise InvalidRequest(sentence(name, error)) from error


def guard_data(data: Any, name: str) -> Any:
    """Data from the user's code, wrapped so that an exception while batches are read becomes one sentence.

    Arrays, tuples, lists, mappings and paths run none of the user's code and are returned as they are.

    Raises:
        InvalidRequest: the data hold a tensor that isn't a dense array of numbers.
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
    """An iterable of the user's that can be read several times."""

    def __init__(self, data: Any, name: str) -> None:
        self._data, self._name = data, name

    def __iter__(self) -> Iterator[Any]:
        """The batches, starting with the first."""
        with calling_user_code(self._name):
            batches = iter(self._data)
        return _draw_batches(batches, self._name)


def _draw_batches(batches: Iterator[Any], name: str) -> Iterator[Any]:
    """The batches one by one. Only reading them is the user's code, not what the caller does with them."""
    while True:
        with calling_user_code(name):
            batch, is_end = _next(batches)
        if is_end:
            return
        _refuse_special(batch, name)
        yield batch


def _refuse_special(data: Any, name: str) -> None:
    """Refuse tensors that aren't dense arrays of numbers, at any depth of tuples, lists and mappings.

    Raises:
        InvalidRequest: names the kind of tensor.
    """
    if isinstance(data, dict | tuple | list):
        for value in data.values() if isinstance(data, dict) else data:
            _refuse_special(value, name)
    elif hasattr(data, "detach"):
        kind = special_kind(data)
        if kind:
            raise InvalidRequest(f"{name} returned a {kind} tensor; give dense tensors of numbers.")


def special_kind(tensor: Any) -> str:
    """The kind of a nested, sparse, quantized or meta tensor; empty for a dense array of numbers."""
    kinds = {"nested": tensor.is_nested, "sparse": "strided" not in str(tensor.layout), "quantized": tensor.is_quantized}
    return next((kind for kind, is_it in {**kinds, "meta": tensor.is_meta}.items() if is_it), "")


def _next(batches: Iterator[Any]) -> tuple[Any, bool]:
    """The next batch, and whether there was none. A `StopIteration` would end the caller's own generator."""
    try:
        return next(batches), False
    except StopIteration:
        return None, True


def of_user(error: BaseException) -> str | None:
    """The sentence about an exception that passed through one of the user's files; None for any other exception."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = _files.get(str(Path(frame.f_code.co_filename).resolve()))
        if name is not None:
            return sentence(name, error)
    return None


def place_of_user(error: BaseException) -> str:
    """E.g. `net.py line 12`, for an exception that passed through one of the user's files; empty for any other."""
    return "" if of_user(error) is None else _line(error)


def sentence(name: str, error: BaseException) -> str:
    """One sentence about an exception: its type, the user's line, and its message.

    Args:
        name: how the sentence names the user's code.
        error: the exception.
    """
    line = _line(error)
    where = f" at {line}" if line else ""
    if isinstance(error, SystemExit):
        return f"{name} ended the program with sys.exit({text_of(error)}){where}; let it return its value instead."
    text = text_of(error)
    return f"{name} raised {type(error).__name__}{where}{': ' if text else ''}{text.removesuffix('.')}."


def text_of(error: BaseException) -> str:
    """An exception's message on one line, at most 400 characters; a substitute where its `__str__` raises."""
    try:
        words = error.msg if isinstance(error, SyntaxError) else str(error)
        text = " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in str(words)).split())
    except BaseException:  # the `__str__` of the user's own class, which isn't the error to report
        return "its message can't be shown"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _line(error: BaseException) -> str:
    """E.g. `net.py line 12`: the innermost line outside this library, Python and installed packages; else empty."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name} line {error.lineno}"
    frames = [(frame.f_code.co_filename, number) for frame, number in traceback.walk_tb(error.__traceback__)]
    places = [place for place in frames if _is_users(place[0])]
    return f"{Path(places[-1][0]).name} line {places[-1][1]}" if places else ""


def _is_users(file: str) -> bool:
    """Whether a file belongs neither to this library, nor to Python, nor to an installed package."""
    prefixes = (str(Path(__file__).parents[1]), sys.prefix, sys.base_prefix)
    return not file.startswith(("<", *prefixes)) and "site-packages" not in file


def last_line(trace: TracebackType | None) -> str:
    """E.g. `profiling.py line 31`: the innermost line of this library in a traceback, else of any file; else empty."""
    places = [(frame.f_code.co_filename, number) for frame, number in traceback.walk_tb(trace)]
    inside = [place for place in places if place[0].startswith(str(Path(__file__).parents[1]))] or places
    return f"{Path(inside[-1][0]).name} line {inside[-1][1]}" if inside else ""
