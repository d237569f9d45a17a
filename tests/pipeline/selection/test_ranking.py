"""`rank`: orders by the sign of theory, several measures vote, gaps judge; refusals; tables of runs; the command."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import dyncompress as dc
from dyncompress import cli
from dyncompress.cli.run_table import read_runs
from dyncompress.errors import InvalidRequest
from dyncompress.measures import MEASURES, EsdMid, Magnitude, StableRank, whole_run
from dyncompress.pipeline.selection.prediction import PREDICTIONS, added, averaged, of_network, traced
from dyncompress.pipeline.selection.ranking import LEARNED, Ranking, rank
from dyncompress.recording import TrajectoryWriter, save_trajectory
from dyncompress.recording.torch_callback import layer_weights
from dyncompress.reports.ranking import ranking_json, ranking_text
from dyncompress.types import Estimate, Iterates, Need, Observation, Trajectory

EXAMPLE = np.zeros((2, 6), dtype=np.float32)


def network(seed: int = 0, scale: float = 1.0) -> nn.Module:
    """6 -> 12 -> 3."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def run(size: float, seed: int = 0, records: int = 40, model: nn.Module | None = None) -> Trajectory:
    """A noisy record of steps of this size, which ends at the model's weights."""
    model, draw, writer = model or network(), torch.Generator().manual_seed(seed), TrajectoryWriter(sketch=16)
    weights = layer_weights(model)
    for step in range(records - 1):
        writer.append(step, {name: w + size * torch.randn(w.shape, generator=draw) for name, w in weights.items()})
    writer.append(records, weights)
    return writer.trajectory()


RUNS = {"wide": run(0.3), "narrow": run(0.1), "middle": run(0.2)}
GAPS = {"wide": 3.0, "narrow": 1.0, "middle": 2.0}


def names(ranking: Ranking) -> list[str]:
    return [row.checkpoint for row in ranking.rows]


# ---------------------------------------------------------------- orders
def test_the_smallest_lifetime_sum_comes_first() -> None:
    found = dc.rank(RUNS, "lifetime_sum")
    assert names(found) == ["narrow", "middle", "wide"]
    assert [row.place for row in found.rows] == [1, 2, 3]
    assert found.best == "narrow"
    assert not found.agreements
    assert "not a certificate" in found.notes[0]
    sums = [row.estimates["lifetime_sum"].value for row in found.rows]
    assert sums == sorted(sums)
    assert sums[0] == MEASURES["lifetime_sum"]()(whole_run(RUNS["narrow"])).value


@pytest.mark.parametrize("order", [["wide", "narrow", "middle"], ["middle", "wide", "narrow"]])
def test_the_order_in_which_checkpoints_are_given_does_not_matter(order: list[str]) -> None:
    assert names(rank({name: RUNS[name] for name in order}, ["lifetime_sum", "magnitude"])) == ["narrow", "middle", "wide"]


def test_gaps_judge_the_order() -> None:
    settings = {"wide": {"rate": 0.3}, "narrow": {"rate": 0.1}, "middle": {"rate": 0.2}}
    found = rank(RUNS, ["lifetime_sum"], gaps=GAPS, hyperparameters=settings).agreements["lifetime_sum"]
    assert found.kendall.value == pytest.approx(1)
    assert found.granulated["rate"].value == pytest.approx(1)
    assert found.mean_granulated is not None
    assert found.partial is not None
    assert math.isnan(found.partial.value), "three runs and one hyper-parameter leave no freedom"
    turned = rank(RUNS, ["lifetime_sum"], gaps={name: -gap for name, gap in GAPS.items()})
    assert turned.agreements["lifetime_sum"].kendall.value == pytest.approx(-1)
    assert turned.agreements["lifetime_sum"].partial is None
    assert names(turned) == ["narrow", "middle", "wide"], "gaps judge a prediction of theory, they don't change it"


@dataclass(frozen=True)
class Size:
    """A measure that no theory knows: minus the size of the last step."""

    factor: float = -1.0

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Iterates(),)

    def __call__(self, observation: Observation) -> Estimate:
        last = np.diff(observation[Iterates()], axis=0)[-1]
        return Estimate(self.factor * float(np.linalg.norm(last)), 0.0, 1)


def test_an_unknown_sign_is_refused_or_learned() -> None:
    with pytest.raises(InvalidRequest, match="no theory says whether the gap grows with Size"):
        rank(RUNS, [Size()])
    for factor in (-1.0, 1.0):
        found = rank(RUNS, [Size(factor)], gaps=GAPS)
        assert found.predictions["Size"].sign == factor
        assert found.agreements["Size"].kendall.value == pytest.approx(1)
        assert names(found) == ["narrow", "middle", "wide"]
        assert any(LEARNED in note for note in found.notes)


def test_several_measures_vote_with_their_places() -> None:
    """One reads sizes, the other their opposite twice: the places cancel, and the mean of three decides."""
    against = {"a": Size(1.0), "b": Size(1.0), "c": Size(-1.0)}
    found = rank(RUNS, against, gaps=GAPS)
    assert {name: prediction.sign for name, prediction in found.predictions.items()} == {"a": 1, "b": 1, "c": -1}
    both = rank({"x": RUNS["wide"], "y": RUNS["wide"]}, ["lifetime_sum", "magnitude"])
    assert [row.place for row in both.rows] == [1.5, 1.5], "ties are shared"


def test_a_measure_with_two_settings_is_named() -> None:
    found = rank(RUNS, {"near": Magnitude(0.1), "far": Magnitude(10.0)})
    assert list(found.predictions) == ["near", "far"]
    assert all(found.rows[0].estimates[name].value < found.rows[2].estimates[name].value for name in ("near", "far"))


# ---------------------------------------------------------------- networks
def test_layers_make_a_network() -> None:
    models = {"small": network(0, 0.5), "large": network(0, 2.0)}
    found = rank(models, ["stable_rank", "esd_mid"], example=EXAMPLE)
    mean = np.mean([(w.norm() / torch.linalg.matrix_norm(w, 2)).item() ** 2 for w in layer_weights(network()).values()])
    for row in found.rows:
        assert row.estimates["stable_rank"].value == pytest.approx(mean, rel=1e-4), "free of scale"
    assert rank(models, [StableRank(), EsdMid()], example=EXAMPLE).rows == found.rows


def test_shares() -> None:
    layers = {"a": Estimate(1.0, 0.3, 9), "b": Estimate(4.0, 0.4, 9), "none": Estimate(math.nan, math.nan, 0, valid=False)}
    sizes = {"a": 10, "b": 20, "none": 5}
    found = of_network(layers, sizes, averaged)
    assert (found.value, found.stderr, found.n, found.valid) == (2.5, pytest.approx(0.25), 2, False)
    assert "1 of 3 layers gave no number" in found.notes
    assert of_network(layers, sizes, added).value == 5
    assert of_network(layers, sizes, traced).value == 90
    assert math.isnan(of_network({"none": layers["none"]}, sizes, averaged).value)


def test_both_of_one_run() -> None:
    models = {f"run {i}": network(i) for i in range(2)}
    pairs = {name: (model, run(0.1, model=model)) for name, model in models.items()}
    found = rank(pairs, ["lifetime_sum", "stable_rank", "hessian_trace"], calibration=iter([EXAMPLE, EXAMPLE + 1]))
    assert all(len(row.estimates) == 3 for row in found.rows)
    with pytest.raises(InvalidRequest, match="checkpoint 'run 0': its trajectory ends at other weights"):
        rank({**pairs, "run 0": (models["run 0"], pairs["run 1"][1])}, "lifetime_sum")


def test_predictions_name_measures_that_exist_and_their_sources() -> None:
    assert set(PREDICTIONS) <= set(MEASURES)
    assert all(found.sign in (1, -1) and found.source for found in PREDICTIONS.values())


# ---------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("checkpoints", "measures", "more", "message"),
    [
        ({"one": RUNS["wide"]}, "lifetime_sum", {}, "1 checkpoint can't be ordered"),
        ([RUNS["wide"], RUNS["narrow"]], "lifetime_sum", {}, "the checkpoints are a list; give a mapping"),
        (RUNS, "lifetime_sun", {}, "no measure 'lifetime_sun'; did you mean 'lifetime_sum'"),
        (RUNS, [], {}, "no measure is given"),
        (RUNS, ["lifetime_sum", "lifetime_sum"], {}, "'lifetime_sum' is given twice"),
        (RUNS, [3], {}, "'int' is a int; give a measure"),
        (RUNS, "lifetime_sum", {"gaps": {**GAPS, "wid": 1.0}}, "no checkpoint 'wid'; did you mean 'wide'"),
        (RUNS, "lifetime_sum", {"gaps": {**GAPS, "wide": math.nan}}, "'wide' is nan; give a finite number"),
        (RUNS, "lifetime_sum", {"gaps": {"wide": 1.0}}, "1 of 3 checkpoints have one; a correlation takes 3"),
        (RUNS, "lifetime_sum", {"hyperparameters": {"wide": {"rate": 1}}}, "those of checkpoint 'narrow' are missing"),
        (RUNS, "lifetime_sum", {"hyperparameters": {n: {n: 1} for n in RUNS}}, "checkpoint 'narrow' differs in narrow, wide"),
        (RUNS, "lifetime_sum", {"hyperparameters": {n: {"rate": math.inf} for n in RUNS}}, "'rate' of checkpoint 'wide' is inf"),
        (RUNS, "data_ph_dimension", {}, "losses of examples; record them"),
        (RUNS, "gradient_noise_tail", {}, "gradients; record them"),
        (RUNS, "stable_rank", {"example": EXAMPLE}, "'wide' is a trajectory alone, and stable_rank reads weights"),
        ({"a": network(0), "b": network(1)}, "lifetime_sum", {}, "checkpoint 'a' has no trajectory, which lifetime_sum reads"),
        ({"a": network(0), "b": network(1)}, "stable_rank", {}, "give example=x, or calibration=batches"),
        ({"a": network(0), "b": network(1)}, "hessian_trace", {"example": EXAMPLE}, "hessian_trace observes networks on data"),
        ({"a": 3, "b": 4}, "stable_rank", {"example": EXAMPLE}, "checkpoint 'a' is a int; give a torch module"),
    ],
)
def test_what_can_not_be_ranked_is_refused_in_one_sentence(
    checkpoints: Mapping[str, Any], measures: Any, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        rank(checkpoints, measures, **more)


def test_a_run_without_a_number_comes_last() -> None:
    stuck = replace(RUNS["wide"], sketches={name: part[:1] for name, part in RUNS["wide"].sketches.items()})
    found = rank({"stuck": stuck, **RUNS}, "lifetime_sum", gaps=GAPS)
    assert names(found)[-1] == "stuck"
    assert math.isnan(found.rows[-1].place)
    assert any("1 of 4 checkpoints have no gap" in note for note in found.notes)
    assert any("outside its own conditions for 1 of 4" in note for note in found.notes)
    assert found.agreements["lifetime_sum"].kendall.n == 3


# ---------------------------------------------------------------- tables and the command
NET = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three runs: weights beside one network, trajectories, gaps, two hyper-parameters."""
    (tmp_path / "net.py").write_text(NET)
    lines = ["name, model, weights, trajectory, gap, learning_rate, optimizer"]
    for i, (name, size) in enumerate({"wide": 0.3, "narrow": 0.1, "middle": 0.2, "fine": 0.05}.items()):
        model = network(i)
        save_file(model.state_dict(), tmp_path / f"{name}.safetensors")
        save_trajectory(run(size, model=model), tmp_path / f"{name}.npz")
        lines.append(f"{name}, net.py:build, {name}.safetensors, {name}.npz, {10 * size}, {size}, {'sgd' if i % 2 else 'adam'}")
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n\n")
    np.savez(tmp_path / "x.npz", x=EXAMPLE)
    return tmp_path


def called(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_orders_the_runs_of_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("rank", folder / "runs.csv", "--measures", "lifetime_sum", "stable_rank", "--example", folder / "x.npz", "--quiet")
    code, out, err = called(capsys, *words)
    assert (code, err) == (0, "")
    assert "not a certificate" in out
    assert "by learning_rate" in out
    code, out, _ = called(capsys, *words, "--json")
    found = json.loads(out)
    assert code == 0
    assert sorted(found["order"]) == ["fine", "middle", "narrow", "wide"]
    assert found["agreements"]["lifetime_sum"]["kendall"]["value"] == pytest.approx(1)
    assert found["predictions"]["lifetime_sum"]["sign"] == 1
    values = {row["checkpoint"]: row["estimates"]["lifetime_sum"]["value"] for row in found["rows"]}
    assert sorted(values, key=lambda name: values[name]) == ["fine", "narrow", "middle", "wide"]


def test_a_table_is_read_lazily_and_whole(folder: Path) -> None:
    table = read_runs(folder / "runs.csv")
    assert table.keys() == ["wide", "narrow", "middle", "fine"]
    assert table.gaps == pytest.approx({"wide": 3, "narrow": 1, "middle": 2, "fine": 0.5})
    assert table.hyperparameters is not None
    assert table.hyperparameters["wide"] == {"learning_rate": 0.3, "optimizer": "adam"}
    module, trajectory = table["narrow"]
    assert torch.equal(module[0].weight, network(1)[0].weight)
    assert trajectory == folder / "narrow.npz"
    torch.save(network(5).state_dict(), folder / "narrow.pt")
    (folder / "one.csv").write_text("name,model,weights\na,net.py:build,narrow.pt\nb,net.py:build,\n")
    plain = read_runs(folder / "one.csv")
    assert plain.gaps is None
    assert plain.hyperparameters is None
    assert torch.equal(plain["a"][0][0].weight, network(5)[0].weight)
    assert torch.equal(plain["b"][0][0].weight, network(0)[0].weight)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column name"),
        ("name,gap\na,1\n", "no column model or trajectory"),
        ("name,trajectory,gaps\na,a.npz,1\n", "column 'gaps' would be a hyper-parameter; did you mean 'gap'"),
        ("name,trajectory,rate,rate\n", "two have the same"),
        ("name,trajectory\na,a.npz\na,b.npz\n", "line 3: name 'a' stands there twice"),
        ("name,trajectory\n,a.npz\n", "line 2: the name is empty"),
        ("name,trajectory\na\n", "line 2: 1 cells under 2 columns"),
        ("name,trajectory,model\na,,\n", "run 'a' has neither model nor trajectory"),
        ("name,trajectory,model,weights\na,a.npz,,w.pt\n", "run 'a' has weights and no model"),
        ("name,trajectory,gap\na,a.npz,much\n", "the gap of run 'a' is 'much'"),
        ("name,trajectory,gap\na,a.npz,nan\n", "the gap of run 'a' is 'nan'"),
        ("name,trajectory,rate\na,a.npz,\n", "'rate' of run 'a' is empty"),
    ],
)
def test_a_wrong_table_ends_in_one_sentence(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs.csv").write_text(text)
    code, out, err = called(capsys, "rank", tmp_path / "runs.csv", "--measures", "lifetime_sum")
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_weights_that_are_not_the_models_are_refused(folder: Path) -> None:
    rows = "a,net.py:build,{}\nb,net.py:build,\n"
    torch.save(nn.Linear(2, 2).state_dict(), folder / "other.pt")
    torch.save([1], folder / "list.pt")
    (folder / "text.safetensors").write_text("no tensors")
    (folder / "text.pt").write_text("no tensors")
    cases = {
        "other.pt": "don't fit its model",
        "list.pt": "it holds a list",
        "text.safetensors": "no safetensors file",
        "text.pt": "more than tensors",
        "gone.pt": "there is no such file",
    }
    for name, message in cases.items():
        (folder / "runs.csv").write_text("name,model,weights\n" + rows.format(name))
        with pytest.raises(InvalidRequest, match=message):
            _ = read_runs(folder / "runs.csv")["a"]
    with pytest.raises(InvalidRequest, match="no such file or directory"):
        read_runs(folder / "gone.csv")


def test_reports_tell_everything() -> None:
    settings = {name: {"rate": gap, "optimizer": "sgd"} for name, gap in GAPS.items()}
    found = rank(RUNS, ["lifetime_sum", "ph_dimension"], gaps=GAPS, hyperparameters=settings)
    text = ranking_text(found)
    for word in ("narrow", "Kendall", "by rate", "1.00", "Andreeva et al. 2024", "not a certificate", "?"):
        assert word in text
    data = ranking_json(found)
    assert [row["checkpoint"] for row in data["rows"]] == data["order"] == names(found)
    assert "grows with it" in ranking_text(rank(RUNS, "lifetime_sum"))
