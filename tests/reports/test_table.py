"""Tables: every layer has its row, numbers carry their uncertainty, columns line up."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dyncompress.reports import Table, layer_table, measures_sentence, profile_table
from dyncompress.types import Choice, Option, Plan, Profile

LETTERS = st.characters(codec="ascii", exclude_categories=["Cc"])
CELLS = st.text(LETTERS, min_size=1, max_size=12).map(lambda text: text.strip() or "x")


@given(st.lists(st.tuples(CELLS, CELLS), max_size=6))
def test_columns_start_at_the_same_place_in_every_line(rows: list[tuple[str, str]]) -> None:
    lines = Table(("a", "b"), tuple(rows)).plain().splitlines()
    width = max(len(row[0]) for row in [("a", "b"), *rows])
    assert len(lines) == len(rows) + 1
    for line, (first, second) in zip(lines, [("a", "b"), *rows], strict=True):
        assert line == f"{first.ljust(width)}  {second}"


def test_every_layer_has_one_row_in_the_order_of_the_forward_pass(plan: Plan, profile: Profile) -> None:
    table = layer_table(plan, profile.layers, profile.estimates)
    assert [row[0] for row in table.rows] == ["stem", "body.<1>", "head"]
    assert table.header == ("layer", "shape", "hill", "choice", "why")
    assert table.rows[0] == ("stem", "8×3×3×3", "2.5 ± 0.25", "8 bits", "few weights, much distortion")
    assert table.rows[1][2:4] == ("4.5 ?", "4 bits, 50 % zeros")
    assert table.rows[2][2:] == ("–", "left alone", "recipe 'r' leaves it alone")


def test_what_was_done_is_shown_rather_than_what_was_asked(plan: Plan) -> None:
    done = replace(plan, realised={"stem": Choice(weight_bits=6)})
    assert [row[2] for row in layer_table(done).rows[:2]] == ["6 bits", "4 bits, 50 % zeros"]


def test_a_channel_group_has_its_row_too(plan: Plan, profile: Profile) -> None:
    wider = replace(plan, asked={**plan.asked, "channels:g": Choice(keep=4)})
    assert [row[0] for row in layer_table(wider, profile.layers).rows] == ["stem", "body.<1>", "channels:g", "head"]


def test_a_profile_tells_the_span_of_each_layers_options(profile: Profile) -> None:
    table = profile_table(profile)
    assert table.rows[0] == ("stem", "8×3×3×3", "216", "2.5 ± 0.25", "0.001 to 0.01", "fisher", "2 options, 8 bits to 4 bits")
    assert table.rows[2][-1] == "left alone: recipe 'r' leaves it alone"


def test_groups_and_single_options_are_told_as_what_they_are(profile: Profile) -> None:
    whole, half = Option(Choice(), 0.0, 0.0, 0.0), Option(Choice(keep=4), -9.0, -9.0, 0.5, stderr=0.25)
    alone = Option(Choice(weight_bits=4), 450.0, 1.0, 0.0)
    table = {"stem": (alone,), "channels:g": (whole, half)}
    wider = replace(profile, table=table, source={"stem": "only choice", "channels:g": "probe"})
    rows = profile_table(wider).rows
    assert rows[0][-3:] == ("–", "only choice", "4 bits only")
    assert rows[-1] == ("channels:g", "", "", "–", "0 to 0.5 ± 0.25", "probe", "2 options, all kept to 4 channels")


def test_a_recipe_without_measures_says_how_to_get_some(profile: Profile) -> None:
    assert measures_sentence(profile) == ""
    assert "--set 'measure=[{name=" in measures_sentence(replace(profile, estimates={}))
