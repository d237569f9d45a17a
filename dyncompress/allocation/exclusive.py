"""Units that another unit's choice makes moot: where a block is dropped, nothing is left to choose about its channels.

Such units are solved as one: the options of the whole are the drop, and every combination of what is inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from dyncompress.types import BLOCKS, CHANNELS, Option

MOST = 512  # combinations of one block; beyond, only those that no other beats in every cost and in harm


@dataclass(frozen=True)
class Whole:
    """One option of several units together.

    Attributes:
        parts: unit -> its option; units that are moot are absent.
        bytes, macs, seconds, distortion, nonzeros: summed.
    """

    parts: Mapping[str, Option]
    bytes: float
    macs: float
    seconds: float
    distortion: float
    nonzeros: float = 0.0


def inside(table: Mapping[str, Sequence[Option]]) -> dict[str, tuple[str, ...]]:
    """Block's unit -> the units of the layers and channels inside it, by their names."""
    blocks = [unit for unit in table if unit.startswith(BLOCKS)]
    named = {unit: unit.removeprefix(CHANNELS) for unit in table if not unit.startswith(BLOCKS)}
    return {block: tuple(u for u, name in named.items() if name.startswith(block.removeprefix(BLOCKS) + ".")) for block in blocks}


def joined(table: Mapping[str, Sequence[Option]]) -> dict[str, tuple[Whole, ...]]:
    """The table with every block and the units inside it as one unit; a dropped block costs nothing, whatever was inside.

    Args:
        table: unit -> options.

    Returns:
        unit -> its options; a block's unit stands for all inside it.

    Example:
        >>> from dyncompress.types import Choice
        >>> stays, layer = Option(Choice(), 0, 0, 0.0), Option(Choice(), 9, 9, 0.0)
        >>> table = {"block:b": (stays, Option(Choice(drop=True), -9, -9, 1.0)), "b.layer": (layer,)}
        >>> table["channels:b.layer"] = (stays, Option(Choice(keep=4), -5, -5, 0.5))
        >>> [int(whole.macs) for whole in joined(table)["block:b"]]
        [9, 4, 0]
    """
    within = inside(table)
    moot = {unit for units in within.values() for unit in units}
    found: dict[str, tuple[Whole, ...]] = {}
    for unit, options in table.items():
        if unit in moot:
            continue
        others = [(name, table[name]) for name in within.get(unit, ())]
        wholes: list[Whole] = []
        for option in options:
            if option.choice.drop:
                wholes.append(Whole({unit: option}, 0.0, 0.0, option.seconds, option.distortion))
                continue
            names = [name for name, _ in others]
            combinations = product(*(lines for _, lines in others))
            wholes.extend(_whole({unit: option, **dict(zip(names, combination, strict=True))}) for combination in combinations)
        found[unit] = tuple(wholes if len(wholes) <= MOST else _efficient(wholes))
    return found


def _whole(parts: Mapping[str, Option]) -> Whole:
    options = parts.values()
    return Whole(
        parts,
        sum(o.bytes for o in options),
        sum(o.macs for o in options),
        sum(o.seconds for o in options),
        sum(o.distortion for o in options),
        sum(o.nonzeros for o in options),
    )


def _efficient(wholes: Sequence[Whole]) -> list[Whole]:
    """Those that no other beats or equals in everything, in their order."""
    points = np.array([[w.bytes, w.macs, w.seconds, w.distortion] for w in wholes])
    return [w for i, w in enumerate(wholes) if not ((points <= points[i]).all(1) & (points < points[i]).any(1)).any()]
