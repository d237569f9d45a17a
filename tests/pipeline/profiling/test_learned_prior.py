"""A learned prior in a recipe: its inputs, its combination with probes and Fisher information, and the text in the plan."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dyncompress as dc
from dyncompress.allocation import Prior, prior_to_table
from dyncompress.measures import StableRank
from dyncompress.recipe.bundled_files import prior_files
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import Profile
from tests import tiny

MEASURES = ("stable_rank", "depth", "log_fan_in")


def prior(*coefficients: float) -> Prior:
    return Prior(MEASURES, 0.0, 10.0, np.array(coefficients), 0.01 * np.eye(3), 0.25, ("one", "other"))


def recipe(given: Prior, base: str = "error", probes: float = 0.0) -> Recipe:
    zeros = dc.load_recipe("heavy-tail", {"quantize.weight_bits": [8], "prune.sparsities": [0.0, 0.3, 0.5, 0.7, 0.9]})
    return replace(
        zeros,
        quantizer=None,
        weight_bits=(),
        measures={"stable_rank": StableRank()},
        coefficients={},
        priors={"pruning": {base: given}},
        probes=probes,
        sensitivity=("fisher",) if base == "fisher" else ("theory",),
        budget=dc.Budget(sparsity=0.5),
    )


@cache
def measured(depth: float, base: str = "error", probes: float = 0.0, data: bool = False) -> Profile:
    given = {"calibration": tiny.CALIBRATION} if data else {"example": tiny.CALIBRATION[:2]}
    return dc.measure(tiny.network(), recipe(prior(0.0, depth, 0.0), base, probes), target=tiny.TARGET, **given)


def zeros(profile: Profile, base: str = "error", probes: float = 0.0) -> dict[str, float]:
    plan = dc.allocate(profile, recipe=recipe(prior(0.0, 0.0, 0.0), base, probes))
    return {layer: choice.sparsity for layer, choice in plan.asked.items()}


def test_a_prior_multiplies_exact_errors() -> None:
    flat, deep = measured(0.0), measured(1.0)
    ratios = [deep.table[layer][-1].distortion / flat.table[layer][-1].distortion for layer in tiny.LAYERS]
    assert ratios == sorted(ratios)  # the prior makes deeper layers more sensitive
    assert ratios[-1] / ratios[0] == pytest.approx(np.exp(2 * np.sqrt(2)))  # places 0 to 4 have z-scores of -sqrt 2 to sqrt 2
    first, last = tiny.LAYERS[1], tiny.LAYERS[3]
    assert zeros(deep)[first] >= zeros(flat)[first]
    assert zeros(deep)[last] <= zeros(flat)[last]


def test_a_plan_states_the_contributions_of_theory_and_probes() -> None:
    assert all("theory 100 %" in said and "probe" not in said for said in measured(1.0).source.values())
    some = measured(1.0, probes=0.4, data=True).source  # the two largest of five
    assert sum("its probe" in said for said in some.values()) == 2
    plan = dc.allocate(measured(1.0, probes=0.4, data=True), recipe=recipe(prior(0.0, 1.0, 0.0), probes=0.4))
    assert any("its probe" in why for why in plan.why.values())


def test_probes_of_every_layer_outweigh_the_prior() -> None:
    def spread(probes: float) -> float:
        one, other = (measured(depth, probes=probes, data=True) for depth in (-2.0, 2.0))
        logs = [np.log(one.table[n][-1].distortion / other.table[n][-1].distortion) for n in tiny.LAYERS]
        return float(np.ptp(logs))

    assert spread(1.0) < 0.3 * spread(0.0)


def test_without_data_nothing_is_probed() -> None:
    assert measured(1.0, probes=1.0).table == measured(1.0).table


def test_a_prior_corrects_fisher_information() -> None:
    flat, deep = (measured(depth, "fisher", data=True) for depth in (0.0, 1.0))
    ratios = [deep.table[layer][-1].distortion / flat.table[layer][-1].distortion for layer in tiny.LAYERS]
    assert ratios[-1] / ratios[0] == pytest.approx(np.exp(2 * np.sqrt(2)))
    assert all(said.startswith("fisher (pruning: theory") for said in flat.source.values())


def test_a_prior_without_a_needed_kind_of_choice_is_refused() -> None:
    both = dc.load_recipe("heavy-tail", {"theory": {}})
    lacking = replace(both, priors={"pruning": {"error": prior(0.0, 1.0, 0.0)}})
    with pytest.raises(dc.InvalidRequest, match=r"quantization on 'error'"):
        dc.measure(tiny.network(), lacking, target=tiny.TARGET, example=tiny.CALIBRATION[:2])


# ---------------------------------------------------------------- files
def written(folder: Path, table: dict[str, Any]) -> str:
    """Write a prior as a TOML file."""
    lines = ["schema = 1"]
    for kind, bases in table.items():
        for base, plain in bases.items():
            lines.append(f"[{kind}.{base}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items() if not isinstance(value, dict)]
            for part in ("coefficients", "covariance"):
                lines += [f"[{kind}.{base}.{part}]", *(f"{key} = {json.dumps(v)}" for key, v in plain[part].items())]
    (folder / "own.toml").write_text("\n".join(lines) + "\n")
    return str(folder / "own.toml")


def test_a_recipe_names_a_prior_and_measures_what_it_reads(tmp_path: Path) -> None:
    path = written(tmp_path, {"pruning": {"error": prior_to_table(prior(0.5, 1.0, 0.0))}})
    free = {"theory.pruning": {}, "theory.quantization": {}, "measure": []}
    found = dc.load_recipe("heavy-tail", {**free, "theory.prior": path, "theory.probes": 0.5})
    assert found.priors["pruning"]["error"].coefficients.tolist() == [0.5, 1.0, 0.0]
    assert list(found.measures) == ["stable_rank"]  # depth and fan-in need no measure
    assert found.probes == 0.5


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"theory.prior": "smal-networks"}, ["prior 'smal-networks'", "no such prior"]),
        ({"theory.probes": 0.5}, ["theory.probes is 0.5", "set theory.prior"]),
        ({"theory.prior": "own", "theory.pruning": {"stable_rank": 1.0}}, ["coefficients and a prior"]),
        ({"theory.prior": "own", "theory.pruning": {}, "theory.quantization": {}, "theory.probes": 2.0}, ["share of the layers"]),
    ],
)
def test_mistakes_give_sentences(tmp_path: Path, overrides: dict[str, Any], words: list[str]) -> None:
    path = written(tmp_path, {"pruning": {"error": prior_to_table(prior(0.5, 1.0, 0.0))}})
    overrides = {key: path if value == "own" else value for key, value in overrides.items()}
    with pytest.raises(dc.InvalidRequest) as caught:
        dc.load_recipe("heavy-tail", overrides)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("name", sorted(prior_files()))
def test_shipped_priors_work_with_and_without_data(name: str) -> None:
    free = dc.load_recipe("heavy-tail", {"theory": {"prior": name}, "budget.bytes": 0.4})
    profile = dc.measure(tiny.network(), free, target=tiny.TARGET, example=tiny.CALIBRATION[:2])
    assert all("theory 100 %" in said for said in profile.source.values())
    shares = {"prune.sparsities": [0.0, 0.5, 0.8], "budget.sparsity": 0.6}
    probed = dc.load_recipe("sparse", {"theory": {"prior": name, "probes": 1.0}, **shares})
    profile = dc.measure(tiny.network(), probed, target=tiny.TARGET, calibration=tiny.CALIBRATION)
    assert any("fisher (" in said and "its probe" in said for said in profile.source.values())


def test_a_prior_of_unknown_kinds_or_measures_is_refused(tmp_path: Path) -> None:
    plain = prior_to_table(prior(0.5, 1.0, 0.0))
    free = {"theory.pruning": {}, "theory.quantization": {}}
    with pytest.raises(dc.InvalidRequest, match="prunning"):
        dc.load_recipe("heavy-tail", {**free, "theory.prior": written(tmp_path, {"prunning": {"error": plain}})})
    plain["coefficients"] = {name.replace("stable", "staple"): v for name, v in plain["coefficients"].items()}
    plain["covariance"] = {name.replace("stable", "staple"): v for name, v in plain["covariance"].items()}
    with pytest.raises(dc.InvalidRequest, match="staple_rank"):
        dc.load_recipe("heavy-tail", {**free, "theory.prior": written(tmp_path, {"pruning": {"error": plain}})})
