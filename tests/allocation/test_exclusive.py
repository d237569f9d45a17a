"""Blocks and the units inside them, solved as one unit, compared with enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dyncompress.allocation.exclusive import MOST, join_blocks, units_inside
from dyncompress.types import Choice, Option


def option(distortion: float, macs: float, **choice: object) -> Option:
    return Option(Choice(**choice), bytes=2 * macs, macs=macs, distortion=distortion, seconds=macs / 10)  # type: ignore[arg-type]


TABLE = {
    "block:b": (option(0.0, 0), option(3.0, -30, drop=True)),
    "channels:b.one": (option(0.0, 0), option(1.0, -8, keep=4), option(1.8, -12, keep=2)),
    "b.one": (option(0.0, 20, weight_bits=8), option(0.5, 20, weight_bits=4)),
    "b.two": (option(0.0, 10, weight_bits=8),),
    "bb": (option(0.0, 5, weight_bits=8),),
}


def test_a_block_holds_what_its_name_begins() -> None:
    assert units_inside(TABLE) == {"block:b": ("channels:b.one", "b.one", "b.two")}  # not the units of block bb


def test_every_combination_or_the_drop_alone() -> None:
    result = join_blocks(TABLE)
    assert list(result) == ["block:b", "bb"]
    kept = [
        (sum(o.macs for o in parts), sum(o.distortion for o in parts))
        for parts in itertools.product(TABLE["block:b"][:1], *(TABLE[u] for u in ("channels:b.one", "b.one", "b.two")))
    ]
    assert [(whole.macs, whole.distortion) for whole in result["block:b"]] == [*kept, (0.0, 3.0)]
    dropped = result["block:b"][-1]
    assert list(dropped.parts) == ["block:b"] and dropped.bytes == 0 and dropped.seconds == -3.0


def test_tables_without_blocks_stay_as_they_are() -> None:
    plain = {unit: TABLE[unit] for unit in ("b.one", "bb")}
    result = join_blocks(plain)
    assert {unit: [w.macs for w in wholes] for unit, wholes in result.items()} == {"b.one": [20, 20], "bb": [5]}


@pytest.mark.parametrize("row", ["bytes", "macs", "seconds"])
def test_many_combinations_are_thinned_without_losing_a_best_one(row: str) -> None:
    draw = np.random.default_rng(0)
    layers = {f"b.{i}": tuple(Option(Choice(), *(float(v) for v in draw.uniform(1, 9, 3))) for _ in range(9)) for i in range(3)}
    table = {"block:b": (option(0.0, 0), option(99.0, -30, drop=True)), **layers}
    result = join_blocks(table)["block:b"]
    assert len(result) < 9**3 and MOST < 9**3
    for price in (0.0, 0.3, 1.0, 5.0):
        everything = [sum(o.distortion + price * getattr(o, row) for o in parts) for parts in itertools.product(*layers.values())]
        assert min(w.distortion + price * getattr(w, row) for w in result if len(w.parts) > 1) == pytest.approx(min(everything))
