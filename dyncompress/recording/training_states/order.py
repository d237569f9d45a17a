"""Which parameter a state belongs to, where the file numbers its states and doesn't name them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Shape = tuple[int, ...]
Shapes = Sequence[tuple[str, Shape]]  # names and shapes of parameters, in order


def by_shape(states: Sequence[tuple[Key, Shape, int]], parameters: Shapes) -> tuple[dict[Key, str], list[str]]:
    """Match numbered states to parameters: those of one shape, in their order.

    Optimizers keep the order in which parameters were given to them, which is that of the model within each group. A shape of
    which there are other numbers of states and parameters, or whose states lie in several groups, can't be told apart.

    Args:
        states: key, shape and group of each state, in the optimizer's order.
        parameters: name and shape of each parameter, in the model's order.

    Returns:
        Key -> name of the parameter, in the optimizer's order, and a sentence on every shape that is left out.

    Example:
        >>> by_shape([(0, (2, 3), 0), (1, (4, 2), 0)], [("a.weight", (2, 3)), ("b.weight", (4, 2))])[0]
        {0: 'a.weight', 1: 'b.weight'}
    """
    keys: Mapping[Shape, list[Key]] = defaultdict(list)
    groups: Mapping[Shape, set[int]] = defaultdict(set)
    names: Mapping[Shape, list[str]] = defaultdict(list)
    for key, shape, group in states:
        keys[shape].append(key)
        groups[shape].add(group)
    for name, shape in parameters:
        names[shape].append(name)
    found: dict[Key, str] = {}
    left = []
    for shape, those in keys.items():
        if len(those) != len(names[shape]):
            left.append(
                f"parameters of shape {list(shape)} are left out: the optimizer has {len(those)} states of that shape, and the "
                f"model {len(names[shape])} parameters"
            )
        elif len(groups[shape]) > 1 and len(those) > 1:
            left.append(f"parameters of shape {list(shape)} are left out: their states lie in several groups of the optimizer")
        else:
            found.update(zip(those, names[shape], strict=True))
    return {key: found[key] for key, _, _ in states if key in found}, left


def by_place(states: Sequence[tuple[Key, Shape | None]], parameters: Shapes) -> dict[Key, str]:
    """Match the states of an optimizer with one group to parameters by their places, where all shapes agree.

    Args:
        states: key and shape of each parameter of the optimizer, in its order; None for one without a state, as of a frozen one.
        parameters: name and shape of each parameter, in the model's order.

    Returns:
        Key -> name of the parameter; empty if numbers or shapes differ.

    Example:
        >>> by_place([(0, None), (1, (2, 2))], [("frozen.weight", (2, 2)), ("head.weight", (2, 2))])
        {1: 'head.weight'}
    """
    pairs = list(zip(states, parameters, strict=False))
    if len(states) != len(parameters) or any(shape not in (None, own) for (_, shape), (_, own) in pairs):
        return {}
    return {key: name for (key, shape), (name, _) in pairs if shape is not None}
