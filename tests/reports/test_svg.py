"""Drawings: well-formed, lengths in proportion, whiskers one standard error long, labels escaped."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyncompress.reports import svg

SPACE = "{http://www.w3.org/2000/svg}"


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=5))
def test_bars_are_in_proportion(values: list[float]) -> None:
    drawn = parsed(svg.bars([svg.Bar("a", value, "") for value in values], "t"))
    widths = [float(rect.attrib["width"]) for rect in drawn.iter(f"{SPACE}rect")]
    largest = max(values) or 1.0
    assert widths == pytest.approx([svg.PLOT * value / largest for value in values], abs=0.051)


def test_a_bar_never_leaves_the_drawing_and_nan_has_none() -> None:
    drawn = parsed(svg.bars([svg.Bar("a", 64.0, ""), svg.Bar("b", math.nan, "none")], "t", full=32.0))
    assert [float(rect.attrib["width"]) for rect in drawn.iter(f"{SPACE}rect")] == [svg.PLOT, 0.0]


def test_labels_are_escaped_and_long_ones_keep_their_end() -> None:
    text = svg.bars([svg.Bar("<script>" + "x" * 40 + ".conv1", 1.0, "a & b")], "t <t>")
    assert "<script>" not in text
    label = next(node.text for node in parsed(text).iter(f"{SPACE}text") if node.attrib["class"] == "label")
    assert label is not None
    assert label.endswith(".conv1")
    assert len(label) == svg.LABEL_LETTERS


def test_a_whisker_is_one_standard_error_to_either_side() -> None:
    drawn = parsed(svg.points([svg.Point("a", 2.0, 0.5, ""), svg.Point("b", 4.0, math.nan, "")], "t"))
    rules = sorted(float(line.attrib["x1"]) for line in drawn.iter(f"{SPACE}line") if line.attrib["class"] == "rule")
    values = [float(node.text or "") for node in drawn.iter(f"{SPACE}text") if node.attrib["class"] == "tick"]
    scale = (rules[-1] - rules[0]) / (max(values) - min(values))
    whiskers = [line for line in drawn.iter(f"{SPACE}line") if line.attrib["class"] == "whisker"]
    assert len(whiskers) == 1
    assert float(whiskers[0].attrib["x2"]) - float(whiskers[0].attrib["x1"]) == pytest.approx(scale, abs=0.2)


@given(st.floats(-1e6, 1e6, allow_subnormal=False), st.floats(0, 1e6, allow_subnormal=False))
def test_ticks_cover_the_range_with_a_handful_of_round_numbers(low: float, span: float) -> None:
    found = svg.ticks(low, low + span)
    assert 2 <= len(found) <= 8
    assert found[0] <= low + 1e-6 * abs(low)
    assert found[-1] >= low + span - 1e-6 * abs(low + span)


def test_an_empty_drawing_is_still_one() -> None:
    assert parsed(svg.points([svg.Point("a", math.nan, math.nan, "–")], "t")).tag == f"{SPACE}svg"
