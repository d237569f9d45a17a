"""Which axis of a file's inputs and outputs holds the examples.

The library's arrays have the examples on their first axis. A file may have them elsewhere, as the state of a recurrent network
`[layers, n, width]`, or take a number that holds for all examples, as a sample rate. Axes of any length have words for names, and
the examples are where the word is that names the first axis of the first input. Where that axis has a fixed length, they are on
the only axis that has this length, and on the first one where several have it.
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
        >>> batch_axes({"x": [1, 64, "width"], "y": ["steps", 1, 40], "z": [1, 1]})
        {'x': 0, 'y': 1, 'z': 0}
    """
    word = batch_word(shapes)
    size = next((shape[0] for shape in shapes.values() if shape), None)
    return {name: _axis(list(shape), size if isinstance(size, int) and size > 0 else word) for name, shape in shapes.items()}


def _axis(shape: list[int | str | None], wanted: int | str | None) -> int | None:
    """The axis of a shape that has the wanted length or name, the first one where none or several have it."""
    if not shape:
        return None
    if isinstance(wanted, int):
        return shape.index(wanted) if shape.count(wanted) == 1 else 0
    return shape.index(wanted) if wanted in shape else 0


def batch_word(shapes: Mapping[str, Sequence[int | str | None]]) -> str | None:
    """The name of the axis of the examples; None where it has none."""
    first = next((shape[0] for shape in shapes.values() if shape), None)
    return first if isinstance(first, str) and first else None
