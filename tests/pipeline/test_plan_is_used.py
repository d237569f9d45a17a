"""A plan or profile fixes its recipe, its target and its weights: none is replaced silently, and another one is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dyncompress as dc
from dyncompress import cli
from dyncompress.cli import requests
from dyncompress.cli.arguments import parse
from dyncompress.recipe.plan_file import plan_to_toml
from dyncompress.recipe.profile_file import profile_from_json, save_profile
from dyncompress.types.progress import SILENT
from tests import tiny
from tests.tiny import CALIBRATION, HELD_OUT, TARGET, network

ARM = "onnxruntime-arm64"


class Refuses:
    """A `Progress` that fails the test when heavy work begins."""

    def phase(self, name: str, total: int | None = None) -> Any:
        pytest.fail(f"'{name}' began before the request was refused")


def smallest() -> dc.Plan:
    """A plan that needs a recipe with a pruner, for a target other than the default."""
    asked = {**tiny.plan().asked, "conv2": dc.Choice(sparsity=0.5, weight_bits=6, activation_bits=8)}
    return replace(tiny.plan(), asked=asked, recipe="smallest", target=ARM)


def refused(call: Callable[[], Any], *facts: str) -> None:
    with pytest.raises(dc.InvalidRequest) as caught:
        call()
    assert all(fact in str(caught.value) for fact in facts), str(caught.value)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The arguments of `compress` for the tiny network in a user's folder."""
    (tmp_path / "net.py").write_text("from tests.tiny import network\n")
    np.savez(tmp_path / "calibration.npz", x=CALIBRATION)
    return ["compress", f"{tmp_path}/net.py:network", "--calibration", f"{tmp_path}/calibration.npz", "--out", f"{tmp_path}/out"]


# ---------------------------------------------------------------- recipe and target
def test_a_plan_is_applied_with_its_own_recipe_and_target(tmp_path: Path, words: list[str]) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(plan_to_toml(smallest()))
    file = dc.compress(network(), calibration=CALIBRATION, plan=path)
    assert file.target.name == ARM and file.plan.realised["conv2"].method == "MagnitudeRefit + Gptq"
    assert cli.main([*words, "--plan", str(path), "--quiet"]) == 0
    assert (tmp_path / "out" / "model.onnx").read_bytes() == file.content
    again = dc.apply(network(), path, calibration=CALIBRATION)
    assert (again.plan.recipe, again.plan.target) == ("smallest", ARM) and dc.export(again).content == file.content


def test_another_recipe_or_target_is_refused(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, Any] = {"calibration": CALIBRATION, "plan": smallest(), "progress": Refuses()}
    facts = ("made for recipe 'smallest', and recipe 'edge-int8' was given", 'write recipe = "edge-int8" in its file')
    refused(lambda: dc.compress(network(), "edge-int8", **given), *facts)
    refused(lambda: dc.compress(network(), target=TARGET, **given), f"for target '{ARM}', and target '{TARGET}' was given")
    given["plan"] = tiny.profile()
    facts = ("the profile was made for recipe 'edge-int8', and recipe 'edge-int4' was given", "measure with this recipe")
    refused(lambda: dc.compress(network(), "edge-int4", **given), *facts)
    (tmp_path / "plan.toml").write_text(plan_to_toml(smallest()))
    for option in (["--recipe", "edge-int8"], ["--target", TARGET]):
        assert cli.main([*words, "--plan", str(tmp_path / "plan.toml"), *option]) == 2
        text = capsys.readouterr().err
        assert "the plan was made for" in text and f"'{option[1]}' was given; leave the" in text and text.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_a_recipe_that_does_not_ship_has_to_be_passed(tmp_path: Path) -> None:
    mine = replace(dc.load_recipe("edge-int8"), name="mine")
    plan = replace(tiny.plan(), recipe="mine")
    facts = ("the plan was made by recipe 'mine', which doesn't come with the library", "--recipe FILE")
    for verb in (dc.compress, dc.apply):
        refused(lambda verb=verb: verb(network(), plan=plan, calibration=CALIBRATION, progress=Refuses()), *facts)
    refused(lambda: dc.allocate(replace(tiny.profile(), recipe="mine")), "the profile was made by recipe 'mine'")
    board = replace(tiny.plan(), target="board")
    refused(lambda: dc.compress(network(), plan=board, calibration=CALIBRATION), "for target 'board'", "--target FILE")
    assert dc.compress(network(), mine, plan=plan, calibration=CALIBRATION).body == tiny.file().body


def test_missing_arguments_come_from_the_plan() -> None:
    for command in ("compress", "measure"):
        args = parse([command, "net.py:f", "--out", "o"])
        assert args.recipe is None and args.target is None


def test_a_budget_of_another_recipe_keeps_the_options_of_the_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = dc.allocate(tiny.profile(), dc.Budget(bytes=0.4), recipe="smallest")
    assert plan.recipe == "edge-int8" and plan.asked == dc.allocate(tiny.profile(), dc.Budget(bytes=0.4)).asked
    assert plan.notes[-1] == (
        "recipe 'smallest' gave the budget and the allocator alone: the choices are those of recipe 'edge-int8', which the "
        "profile was measured with and which the plan is applied with."
    )
    path = save_profile(tiny.profile(), tmp_path / "profile.json")
    assert cli.main(["plan", str(path), "--recipe", "smallest", "--set", "budget.bytes=0.4"]) == 0
    assert "note: recipe 'smallest' gave the budget" in capsys.readouterr().out


# ---------------------------------------------------------------- weights
def test_a_plan_or_profile_of_other_weights_is_refused() -> None:
    other = copy.deepcopy(network())
    other.head.weight.data[0, 0] += 1  # type: ignore[union-attr, operator, index]
    known = tiny.profile().digest[:12]
    for made in (tiny.plan(), tiny.profile()):
        given: dict[str, Any] = {"calibration": CALIBRATION, "held_out": HELD_OUT, "plan": made, "progress": Refuses()}
        facts = ("other weights than the model's", f"digest {known} against ", "again for this model")
        refused(lambda given=given: dc.compress(other, "edge-int8", **given), *facts)
    refused(lambda: dc.apply(other, tiny.plan(), calibration=CALIBRATION, progress=Refuses()), known)
    unknown = replace(tiny.plan(), digest="")
    assert dc.apply(other, unknown, calibration=CALIBRATION).plan.realised


# ---------------------------------------------------------------- profiles on disk
def test_a_profile_measured_by_another_version_is_measured_again(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    request = requests.open_request(parse(words), None)
    before = request.key()
    assert before == request.key()
    monkeypatch.setattr(requests, "__version__", "another")
    assert request.key() != before


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"float_bytes":', '"float_bytes":1,"float_bytes":', "key 'float_bytes' stands twice in one object"),
        ('"distortion":', '"distortion":0.5,"distortion":', "key 'distortion' stands twice"),
        ('"macs":', '"macs":NaN,"m":', "NaN is no JSON"),
        ('"macs":', '"macs":-Infinity,"m":', "-Infinity is no JSON"),
        ('{"float":"nan"}', '{"float":"nought"}', "'nought' is no number"),
    ],
)
def test_json_with_repeated_or_missing_keys_is_refused(old: str, new: str, sentence: str, tmp_path: Path) -> None:
    text = save_profile(tiny.profile(), tmp_path / "profile.json").read_text()
    assert old in text
    (tmp_path / "profile.json").write_text(text.replace(old, new, 1))
    refused(lambda: profile_from_json(tmp_path / "profile.json"), "profile.json: ", sentence)


def test_measure_accepts_the_usual_names(words: list[str], tmp_path: Path) -> None:
    request = requests.open_request(parse(["measure", *words[1:]]), None)
    assert (request.recipe.name, request.target.name) == ("edge-int8", TARGET)
    profile, text = requests.reuse_or_measure(request, None, SILENT)
    assert json.loads(text)["depends_on"] == request.key() and profile.recipe == "edge-int8"
