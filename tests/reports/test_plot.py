"""The plot is well-formed, has every finite point once at its place, and is logarithmic where values differ much."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyncompress.reports.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, legend, plot

SPACE = "{http://www.w3.org/2000/svg}"
AXES = ("bytes", "divergence, nats")


def circles(text: str) -> list[tuple[float, float]]:
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in ElementTree.fromstring(text).iter(f"{SPACE}circle")]


@given(st.lists(st.tuples(st.floats(1, 1e9), st.floats(0, 1e3)), min_size=1, max_size=8))
def test_every_point_lies_inside_the_axes(points: list[tuple[float, float]]) -> None:
    centres = circles(plot([Series("a", tuple(points), line=True)], "t", AXES))
    assert len(centres) == len(points)
    for x, y in centres:
        assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1
        assert TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1


def test_larger_values_lie_further_right_and_higher() -> None:
    (a, b), (c, d) = circles(plot([Series("a", ((1e3, 0.1), (2e3, 0.2)))], "t", AXES))
    assert a < c and b > d


def test_equal_factors_are_equal_distances_where_values_differ_much() -> None:
    ys = [y for _, y in circles(plot([Series("a", ((1.0, 1e-4), (2.0, 1e-2), (3.0, 1.0)))], "t", AXES))]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.11)


def test_points_that_are_not_finite_are_left_out_and_an_empty_plot_is_an_empty_string() -> None:
    assert plot([Series("a", ((1.0, math.nan),))], "t", AXES) == ""
    assert legend([Series("a", ((1.0, math.nan),))]) == ""
    assert len(circles(plot([Series("a", ((1.0, math.nan), (1.0, 0.0)))], "t", AXES))) == 1


def test_names_are_escaped() -> None:
    series = [Series("<b>", ((1.0, 1.0),))]
    assert "<b>" not in plot(series, "<b>", ("<b>", "<b>")) + legend(series)
    assert "<style>" in plot(series, "t", AXES, standalone=True)
