"""Read the values of options that argparse itself can't read, and refuse wrong ones with a message that shows the form."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence

from dyncompress.errors import InvalidRequest


def settings(words: Sequence[str]) -> dict[str, str]:
    """The values of `--set` as dotted key -> text, which `load_recipe` reads as TOML.

    Example:
        >>> settings(["budget.bytes=0.2", "quantize.weight_bits=[4, 8]"])
        {'budget.bytes': '0.2', 'quantize.weight_bits': '[4, 8]'}

    Raises:
        InvalidRequest: a value without `=`.
    """
    table = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.strip():
            raise InvalidRequest(f"--set {word}: write it as key=value, e.g. --set budget.bytes=0.2.")
        table[key.strip()] = text.strip()
    return table


def free_axes(words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The values of `--free-axes` as input name -> axes.

    Example:
        >>> free_axes(["x=2,3", "mask=1"])
        {'x': (2, 3), 'mask': (1,)}

    Raises:
        InvalidRequest: a value has another form.
    """
    axes_of = {}
    for word in words:
        name, _, axes = word.partition("=")
        numbers = axes.split(",")
        if not name.strip() or not all(number.strip().isdecimal() and len(number) < 4 for number in numbers):
            raise InvalidRequest(f"--free-axes {word}: write it as INPUT=AXIS,AXIS, e.g. --free-axes x=2,3.")
        axes_of[name.strip()] = tuple(int(number) for number in numbers)
    return axes_of


def amounts(words: str) -> list[float]:
    """The numbers of `--budgets`, which commas separate.

    Example:
        >>> amounts("0.1, 0.2,30000"), amounts("")
        ([0.1, 0.2, 30000.0], [])

    Raises:
        InvalidRequest: one of them isn't a number.
    """
    try:
        return [float(word) for word in words.split(",") if word.strip()]
    except ValueError as error:
        raise InvalidRequest(f"--budgets {words}: write numbers with commas between them, e.g. --budgets 0.1,0.2,0.3.") from error


def integer(least: int, most: int) -> Callable[[str], int]:
    """A function that reads the value of an option as an integer from `least` to `most`, for `type=` in argparse.

    Example:
        >>> integer(1, 9)("7")
        7
    """

    def read(text: str) -> int:
        number = int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else None
        if number is None or not least <= number <= most:
            raise argparse.ArgumentTypeError(f"'{text[:40]}' is given, and an integer from {least} to {most} is needed")
        return number

    return read


def positive(text: str) -> float:
    """Read the value of an option as a positive, finite number.

    Raises:
        ArgumentTypeError: it is something else.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is given, and a positive number is needed")
    return number
