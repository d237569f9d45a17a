"""Rows are well-formed, bars in proportion, whiskers one standard error long, and labels escaped."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyncompress.reports import rows
from dyncompress.reports.plot import ticks


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def style(element: ElementTree.Element) -> dict[str, float]:
    """The percentages of an element."""
    return {name: float(value) for name, value in re.findall(r"(\w+):(-?[\d.]+)%", element.attrib["style"])}


def drawn(text: str, tag: str) -> list[ElementTree.Element]:
    return [element for row in parsed(text).iter("span") if row.attrib["class"] == "track" for element in row.iter(tag)]


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=5))
def test_bars_are_in_proportion(values: list[float]) -> None:
    widths = [style(bar)["width"] for bar in drawn(rows.bars([rows.Bar("a", value, "") for value in values], "t"), "i")]
    largest = max(values) or 1.0
    assert widths == pytest.approx([100 * value / largest for value in values], abs=0.051)


def test_a_bar_never_leaves_the_drawing_and_nan_has_none() -> None:
    text = rows.bars([rows.Bar("a", 64.0, ""), rows.Bar("b", math.nan, "none")], "t", full=32.0)
    assert [style(bar)["width"] for bar in drawn(text, "i")] == [100.0, 0.0]


def test_labels_are_escaped_and_complete() -> None:
    label = "<script>" + "x" * 40 + ".conv1"
    text = rows.bars([rows.Bar(label, 1.0, "a & b")], "t <t>")
    assert "<script>" not in text
    assert [row.text for row in parsed(text).iter("span") if row.attrib["class"] == "name"] == [label]


def test_a_whisker_is_one_standard_error_to_either_side() -> None:
    text = rows.points([rows.Point("a", 2.0, 0.5, ""), rows.Point("b", 4.0, math.nan, "")], "t")
    first, second = (style(dot)["left"] for dot in drawn(text, "i"))
    (whisker,) = (style(line) for line in drawn(text, "s"))
    assert whisker["left"] + whisker["width"] / 2 == pytest.approx(first, abs=0.02)
    assert whisker["width"] == pytest.approx((second - first) / 2, abs=0.02)
    assert all(0 <= style(rule)["left"] <= 100 for rule in drawn(text, "u"))


@given(st.floats(-1e6, 1e6, allow_subnormal=False), st.floats(0, 1e6, allow_subnormal=False))
def test_ticks_cover_the_range_with_a_handful_of_round_numbers(low: float, span: float) -> None:
    positions = ticks(low, low + span)
    assert 2 <= len(positions) <= 8
    assert positions[0] <= low + 1e-6 * abs(low)
    assert positions[-1] >= low + span - 1e-6 * abs(low + span)


def test_an_empty_drawing_is_still_one() -> None:
    assert not drawn(rows.points([rows.Point("a", math.nan, math.nan, "–")], "t"), "i")
