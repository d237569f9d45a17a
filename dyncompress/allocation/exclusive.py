"""Units inside a block that may be removed: if the block is dropped, the choices of its layers and channels have no effect.

A block and the units inside it are solved as one unit. Its options are the drop, and every combination of the options inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from dyncompress.types import BLOCKS, CHANNELS, Option

MOST = 512  # combinations of one block; of more, only those remain that aren't worse than another in all costs and distortion


@dataclass(frozen=True)
class JointOption:
    """One option of several units together.

    Attributes:
        parts: unit -> its option; units inside a dropped block are absent.
        bytes, macs, seconds, distortion, nonzeros: sums over the parts.
    """

    parts: Mapping[str, Option]
    bytes: float
    macs: float
    seconds: float
    distortion: float
    nonzeros: float = 0.0


def units_inside(table: Mapping[str, Sequence[Option]]) -> dict[str, tuple[str, ...]]:
    """For each block's unit, the units of the layers and channels inside it, by their names."""
    blocks = [unit for unit in table if unit.startswith(BLOCKS)]
    named = {unit: unit.removeprefix(CHANNELS) for unit in table if not unit.startswith(BLOCKS)}
    return {block: tuple(u for u, name in named.items() if name.startswith(block.removeprefix(BLOCKS) + ".")) for block in blocks}


def join_blocks(table: Mapping[str, Sequence[Option]]) -> dict[str, tuple[JointOption, ...]]:
    """The table in which every block and the units inside it are one unit; a dropped block costs nothing.

    Args:
        table: unit -> its options.

    Returns:
        unit -> its joint options; units inside a block are part of the block's unit.

    Example:
        >>> from dyncompress.types import Choice
        >>> stays, layer = Option(Choice(), 0, 0, 0.0), Option(Choice(), 9, 9, 0.0)
        >>> table = {"block:b": (stays, Option(Choice(drop=True), -9, -9, 1.0)), "b.layer": (layer,)}
        >>> table["channels:b.layer"] = (stays, Option(Choice(keep=4), -5, -5, 0.5))
        >>> [int(joint.macs) for joint in join_blocks(table)["block:b"]]
        [9, 4, 0]
    """
    members = units_inside(table)
    in_blocks = {unit for units in members.values() for unit in units}
    joint: dict[str, tuple[JointOption, ...]] = {}
    for unit, options in table.items():
        if unit in in_blocks:
            continue
        others = [(name, table[name]) for name in members.get(unit, ())]
        joint_options: list[JointOption] = []
        for option in options:
            if option.choice.drop:
                joint_options.append(JointOption({unit: option}, 0.0, 0.0, option.seconds, option.distortion))
                continue
            names = [name for name, _ in others]
            combinations = product(*(lines for _, lines in others))
            joint_options.extend(
                _joint_option({unit: option, **dict(zip(names, combination, strict=True))}) for combination in combinations
            )
        joint[unit] = tuple(joint_options if len(joint_options) <= MOST else _efficient(joint_options))
    return joint


def _joint_option(parts: Mapping[str, Option]) -> JointOption:
    """The joint option of these options."""
    options = parts.values()
    return JointOption(
        parts,
        sum(o.bytes for o in options),
        sum(o.macs for o in options),
        sum(o.seconds for o in options),
        sum(o.distortion for o in options),
        sum(o.nonzeros for o in options),
    )


def _efficient(joint_options: Sequence[JointOption]) -> list[JointOption]:
    """The options, in their order, that no other dominates by costs and distortion that are at most as large, and one smaller."""
    points = np.array([[w.bytes, w.macs, w.seconds, w.distortion] for w in joint_options])
    return [w for i, w in enumerate(joint_options) if not ((points <= points[i]).all(1) & (points < points[i]).any(1)).any()]
