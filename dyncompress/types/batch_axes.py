"""Which axis of a file's inputs and outputs holds the examples.

The library's arrays have the examples on their first axis. A file may have them elsewhere, as the state of a recurrent network
`[layers, n, width]`, or take a number that holds for all examples, as a sample rate. Axes of any length have words for names, and
the examples are where the word is that names the first axis of the first input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Axes = Mapping[str, int | None]


def batch_axes(shapes: Mapping[str, Sequence[int | str | None]]) -> dict[str, int | None]:
    """Name -> the axis of the examples; None for a value without axes.

    Args:
        shapes: of the inputs, in order, and of the outputs: a number for a fixed length, a word or None for any length.

    Example:
        >>> batch_axes({"x": ["n", 512], "state": [2, "n", 128], "rate": [], "y": ["n", 1]})
        {'x': 0, 'state': 1, 'rate': None, 'y': 0}
    """
    word = batch_word(shapes)
    return {name: None if not shape else list(shape).index(word) if word in shape else 0 for name, shape in shapes.items()}


def batch_word(shapes: Mapping[str, Sequence[int | str | None]]) -> str | None:
    """The name of the axis of the examples; None where it has none."""
    first = next((shape[0] for shape in shapes.values() if shape), None)
    return first if isinstance(first, str) and first else None
