"""Plans for several budgets from one call."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import dyncompress as dc
from dyncompress import cli
from dyncompress.recipe.profile_file import save_profile
from tests import tiny


def test_pareto_lists_the_plans_that_no_other_plan_beats() -> None:
    profile = tiny.profile("narrow")
    budgets = [*(dc.Budget(macs=share) for share in (0.9, 0.8, 0.8, 0.6)), {"bytes": 300.0}]
    found = dc.pareto(profile, budgets)
    assert 2 <= len(found) <= 3  # the duplicate and the impossible budget are left out
    for one in found:
        assert one.macs <= (one.budget.macs or 0) * profile.macs * (1 + 1e-9)
        assert not any(o.macs < one.macs and o.distortion < one.distortion for o in found)


def test_without_budgets_the_plans_spread_over_the_reachable_range() -> None:
    profile = tiny.profile()
    found = dc.pareto(profile)
    assert len(found) >= 5 and found.row == "bytes" and found.unit == "nats"
    smallest = profile.fixed_bytes + sum(min(o.bytes for o in options) for options in profile.table.values())
    most_careful = sum(min(o.distortion for o in options) for options in profile.table.values())
    assert found[0].bytes == pytest.approx(smallest) and found[-1].distortion == pytest.approx(most_careful)
    assert [one.bytes for one in found] == sorted(one.bytes for one in found)


@pytest.mark.parametrize("row", ["bytes", "macs", "distortion"])
def test_each_spread_keeps_its_own_budgets(row: str) -> None:
    for one in dc.pareto(tiny.profile("narrow"), of=row):
        assert getattr(one, row) <= getattr(one.budget, row) * (1 + 1e-9)


def test_if_no_budget_can_be_met_the_message_states_the_smallest_plan() -> None:
    with pytest.raises(dc.Infeasible, match=r"the smallest plan takes [\d,]+ bytes"):
        dc.pareto(tiny.profile(), [{"bytes": 0.001}])
    with pytest.raises(dc.InvalidRequest, match="holds no times"):
        dc.pareto(tiny.profile(), of="seconds")
    with pytest.raises(dc.InvalidRequest, match="'joules' is none of them"):
        dc.pareto(tiny.profile(), of="joules")


# ---------------------------------------------------------------- the command
@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_profile(tiny.profile(), tmp_path / "profile.json")


def test_the_command_lists_the_plans_of_the_verb(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pareto", str(saved.parent), "--budgets", "0.3,0.4,0.5", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    wanted = dc.pareto(tiny.profile(), [{"bytes": share} for share in (0.3, 0.4, 0.5)])
    assert [plan["bytes"] for plan in data["plans"]] == [one.bytes for one in wanted]
    assert data["unit"] == "nats" and data["original"] == tiny.profile().float_bytes
    assert cli.main(["pareto", str(saved)]) == 0
    text = capsys.readouterr().out
    assert "share of the original's bytes" in text and "predicted distortion, nats" in text


@pytest.mark.parametrize(("name", "start"), [("c.html", "<!doctype html>"), ("c.svg", "<svg"), ("c.csv", "budget,bytes,macs,")])
def test_the_curve_is_written(name: str, start: str, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = saved.with_name(name)
    assert cli.main(["pareto", str(saved), "--out", str(out), "--json"]) == 0
    data, text = json.loads(capsys.readouterr().out), out.read_text()
    assert text.startswith(start) and data["paths"] == {name: str(out)}
    marks = text.count("<title>plan: ") if name != "c.csv" else len(text.splitlines()) - 1
    assert marks == len(data["plans"])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--out", "curve.pdf"], 2, "a curve is written as .html, .svg, .csv"),
        (["--budgets", "0.1,x"], 2, "write numbers with commas"),
        (["--budgets", "0.001"], 3, "none of the budgets can be met"),
        (["--of", "seconds"], 2, "holds no times"),
    ],
)
def test_a_wrong_argument_gives_one_sentence(
    words: list[str], code: int, message: str, saved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved.parent)
    assert cli.main(["pareto", str(saved), *words]) == code
    assert message in capsys.readouterr().err
    assert [path.name for path in saved.parent.iterdir()] == ["profile.json"]


def test_measure_shows_distortions_and_how_to_see_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text("from tests import tiny\n\n\ndef build():\n    return tiny.network()\n")
    np.savez(tmp_path / "x.npz", x=tiny.CALIBRATION)
    words = ["measure", f"{tmp_path}/net.py:build", "--calibration", str(tmp_path / "x.npz"), "--quiet"]
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert "distortion, nats" in text and "fisher" in text and "4 options, 8 bits to 4 bits" in text
    (setting,) = re.findall(r"--set '(measure=.*?)'", text)
    assert cli.main([*words, "--set", setting]) == 0
    text = capsys.readouterr().out
    assert "stable_rank" in text and " ± " in text and "computes no measures" not in text
