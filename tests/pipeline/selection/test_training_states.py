"""`rank` on checkpoints with the state of an optimizer in place of trajectories: forms, batch sizes, refusals, tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dyncompress as dc
from dyncompress import cli
from dyncompress.errors import InvalidRequest
from dyncompress.pipeline.selection.ranking import Ranking, rank
from dyncompress.recording import TrajectoryWriter, save_trajectory
from dyncompress.recording.torch_callback import layer_weights

EXAMPLE = np.zeros((2, 6), dtype=np.float32)
NOISES = {"quiet": 0.0, "middle": 0.15, "noisy": 0.3}  # shares of the labels that are wrong
BATCH = 16
MEASURES = ["fisher_trace", "fisher_rao_norm"]
NET = "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))\n"


def trained(noise: float, optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW) -> tuple[nn.Module, torch.optim.Optimizer]:
    """6 -> 12 -> 3 on labels of which a share is wrong."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=draw)
    y = x[:, :3].argmax(1)
    wrong = torch.rand(400, generator=draw) < noise
    y[wrong] = torch.randint(0, 3, (int(wrong.sum()),), generator=draw)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    made = optimizer(model.parameters(), lr=0.01)  # type: ignore[call-arg]
    for _ in range(300):
        rows = torch.randint(0, 400, (BATCH,), generator=draw)
        made.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        made.step()
    return model, made


def whole(model: nn.Module, optimizer: torch.optim.Optimizer, **more: Any) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), **more}


@pytest.fixture(scope="module")
def runs() -> dict[str, tuple[nn.Module, torch.optim.Optimizer]]:
    return {name: trained(noise) for name, noise in NOISES.items()}


@pytest.fixture(scope="module")
def saved(runs: dict[str, tuple[nn.Module, torch.optim.Optimizer]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of every run that doesn't say the batch size, a table, a network and an example."""
    folder = tmp_path_factory.mktemp("runs")
    lines = ["name,model,weights,trajectory,gap,batch_size"]
    for i, (name, (model, optimizer)) in enumerate(runs.items()):
        torch.save(whole(model, optimizer), folder / f"{name}.pt")
        lines.append(f"{name},net.py:build,{name}.pt,{name}.pt,{i},{BATCH}")
    (folder / "runs.csv").write_text("\n".join(lines) + "\n")
    (folder / "net.py").write_text(NET)
    np.savez(folder / "x.npz", x=EXAMPLE)
    return folder


def values(ranking: Ranking, measure: str = "fisher_trace") -> dict[str, float]:
    return {row.checkpoint: row.estimates[measure].value for row in ranking.rows}


def test_more_noise_of_labels_more_fisher_information(runs: dict[str, Any], saved: Path) -> None:
    pairs = {name: (model, saved / f"{name}.pt") for name, (model, _) in runs.items()}
    sizes = {name: {"batch_size": BATCH} for name in runs}
    found = rank(pairs, MEASURES, example=EXAMPLE, gaps={"quiet": 0.0, "middle": 1.0, "noisy": 2.0}, hyperparameters=sizes)
    assert [row.checkpoint for row in found.rows] == ["quiet", "middle", "noisy"]
    assert found.agreements["fisher_trace"].kendall.value == pytest.approx(1)
    assert [one.sign for one in found.predictions.values()] == [1, 1]
    assert all(row.estimates[name].valid for row in found.rows for name in MEASURES)


def test_the_numbers_are_those_of_the_optimizer(runs: dict[str, Any], saved: Path) -> None:
    """The sum over layers of batch size times mean square, without the estimated share of the mean gradient."""
    model, optimizer = runs["noisy"]
    state = dc.load_training_state(saved / "noisy.pt", batch_size=BATCH)
    two = {"a": (model, state), "b": (model, replace(state, batch_size=2 * BATCH))}
    found = rank(two, MEASURES, example=EXAMPLE)
    trace = norm = 0.0
    for name, p in model.named_parameters():
        if p.ndim == 2:
            square = optimizer.state[p]["exp_avg_sq"] / (1 - 0.999**300)
            fisher = BATCH * square.double() * (1 - state.parameters[name].drift)
            trace, norm = trace + float(fisher.sum()), norm + float((fisher * p.detach().double() ** 2).sum())
    assert values(found)["a"] == pytest.approx(trace, rel=1e-4)
    assert values(found, "fisher_rao_norm")["a"] == pytest.approx(norm, rel=1e-4)
    assert values(found)["b"] == pytest.approx(2 * trace, rel=1e-4)


@pytest.mark.parametrize("form", ["path", "text", "folder", "optimizer", "loaded", "state"])
def test_every_form_of_a_state(form: str, runs: dict[str, Any], saved: Path, tmp_path: Path) -> None:
    model, optimizer = runs["quiet"]
    path = tmp_path / "step-300.pt"
    torch.save(whole(model, optimizer, batch_size=BATCH), path)
    given = {
        "path": lambda: path,
        "text": lambda: str(path),
        "folder": lambda: tmp_path,
        "optimizer": lambda: optimizer,
        "loaded": lambda: whole(model, optimizer),
        "state": lambda: dc.load_training_state(path),
    }[form]()
    sizes = {name: {"batch_size": BATCH} for name in ("given", "wanted")}
    pairs = {"given": (model, given), "wanted": (model, dc.load_training_state(saved / "quiet.pt", batch_size=BATCH))}
    found = values(rank(pairs, MEASURES, example=EXAMPLE, hyperparameters=sizes))
    assert found["given"] == pytest.approx(found["wanted"], rel=1e-5)


def test_the_batch_size_in_a_checkpoint_counts_before_the_hyper_parameter(runs: dict[str, Any]) -> None:
    model, optimizer = runs["quiet"]
    pairs = {"silent": (model, whole(model, optimizer)), "says": (model, whole(model, optimizer, batch_size=2 * BATCH))}
    sizes = {name: {"batch_size": BATCH} for name in pairs}
    found = values(rank(pairs, "fisher_trace", example=EXAMPLE, hyperparameters=sizes))
    assert found["says"] == pytest.approx(2 * found["silent"], rel=1e-6)


def test_a_recorded_trajectory_gives_them_too() -> None:
    """SGD on a flat loss whose gradient is noise of variance v: the Fisher information is the batch size times v."""
    draw, rate, variance = torch.Generator().manual_seed(3), 0.001, 0.25
    pairs = {}
    for name, factor in {"small": 1.0, "large": 4.0}.items():
        model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
        writer = TrajectoryWriter(sketch=16, learning_rate=rate, batch_size=BATCH)
        for step in range(400):
            writer.append(step, {key: w.clone() for key, w in layer_weights(model).items()})
            with torch.no_grad():
                for w in (model[0].weight, model[2].weight):
                    w.sub_(rate * math.sqrt(factor * variance) * torch.randn(w.shape, generator=draw))
        writer.append(400, layer_weights(model))
        pairs[name] = (model, writer.trajectory())
    found = values(rank(pairs, MEASURES, example=EXAMPLE))
    for name, factor in {"small": 1.0, "large": 4.0}.items():
        # momentum is estimated, as zero or a little more, which lowers the scale by as much
        assert found[name] == pytest.approx(BATCH * factor * variance * 108, rel=0.15)


def test_a_part_that_the_state_does_not_hold_is_noted(runs: dict[str, Any]) -> None:
    model, optimizer = trained(0.1)
    state = deepcopy(whole(model, optimizer))
    with torch.no_grad():
        model[2].weight.copy_(torch.randn(3, 12, generator=torch.Generator().manual_seed(5)))
    pairs = {"changed": (model, state), "whole": runs["quiet"]}
    sizes = {name: {"batch_size": BATCH} for name in pairs}
    found = rank(pairs, "fisher_trace", example=EXAMPLE, hyperparameters=sizes)
    estimate = {row.checkpoint: row.estimates["fisher_trace"] for row in found.rows}["changed"]
    assert not estimate.valid
    assert math.isfinite(estimate.value)
    assert any("1 of 2 layers gave no number" in note for note in found.notes)


# ---------------------------------------------------------------- refusals
def refused(checkpoints: Mapping[str, Any], measures: Any, message: str, **more: Any) -> None:
    with pytest.raises(InvalidRequest, match=message) as error:
        rank(checkpoints, measures, example=EXAMPLE, **more)
    assert "\n" not in str(error.value)


def test_states_alone_and_measures_of_movement_are_refused(runs: dict[str, Any], saved: Path) -> None:
    path, (model, optimizer) = saved / "quiet.pt", runs["quiet"]
    state = dc.load_training_state(path, batch_size=BATCH)
    alone = r"checkpoint 'a' is .* alone, and only a trajectory \(.npz\) is read without its network; give \(module, "
    for given in (state, path, str(path), saved, optimizer, whole(model, optimizer), (None, path)):
        refused({"a": given, "b": given}, "fisher_trace", alone)
    moved = (
        r"checkpoint 'a': {} reads how the weights moved, and a training state holds one moment of the run; record a trajectory"
    )
    for measure in ("lifetime_sum", "ph_dimension", "two_nn", "increment_tail"):
        refused({"a": (model, state), "b": (model, state)}, measure, moved.format(measure))
    for measure in ("fluctuation_scale", "signal_to_noise"):
        gaps = {"a": 1.0, "b": 2.0, "c": 3.0}
        refused(dict.fromkeys(gaps, (model, state)), measure, moved.format(measure), gaps=gaps)


def test_an_unknown_unit_is_refused(runs: dict[str, Any], saved: Path) -> None:
    model, _ = runs["quiet"]
    path = saved / "quiet.pt"
    state = dc.load_training_state(path)
    two = {"a": (model, path), "b": (model, path)}
    unknown = (
        r"checkpoint 'a': fisher_rao_norm compares runs in nats, but it doesn't say the batch size; give load_training_state"
    )
    refused(two, ["fisher_rao_norm"], unknown)
    for size in ("large", 0.0):
        refused(two, ["fisher_rao_norm"], unknown, hyperparameters={name: {"batch_size": size} for name in two})
    clipped = replace(state, relative=True, batch_size=BATCH)
    refused({"a": (model, clipped), "b": (model, clipped)}, "fisher_trace", "squares of its gradients have a unit of their own")
    writer = TrajectoryWriter(sketch=16)
    for step in range(10):
        writer.append(step, {name: w + 0.1 * (step < 9) * torch.randn(w.shape) for name, w in layer_weights(model).items()})
    run = writer.trajectory()
    refused(
        {"a": (model, run), "b": (model, run)}, "fisher_trace", "in nats, but distortions are relative: the trajectory has no"
    )
    still = TrajectoryWriter(sketch=16)
    for step in range(10):
        still.append(step, layer_weights(model))
    run = still.trajectory()
    refused({"a": (model, run), "b": (model, run)}, "fisher_trace", "in nats, but the trajectory gives no distortions")


def test_a_foreign_or_missing_state_names_its_checkpoint(runs: dict[str, Any], saved: Path) -> None:
    model = runs["quiet"][0]
    refused({"a": (model, saved / "noisy.pt"), "b": model}, "fisher_trace", r"checkpoint 'a': checkpoint '.*noisy.pt' is another")
    refused(
        {"a": (model, saved / "gone.pt"), "b": model}, "fisher_trace", r"checkpoint 'a': checkpoint '.*gone.pt' does not exist"
    )
    refused({"a": model, "b": model}, "fisher_trace", "checkpoint 'a' has no trajectory or checkpoint with the optimizer's state")
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    refused({"a": (model, plain), "b": model}, "fisher_trace", "checkpoint 'a': ")


# ---------------------------------------------------------------- tables and the command
def test_the_command_reads_checkpoints(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["rank", saved / "runs.csv", "--measures", *MEASURES, "stable_rank", "--example", saved / "x.npz", "--quiet"]
    assert cli.main([str(word) for word in words]) == 0
    text = capsys.readouterr().out
    assert "Liang, Poggio, Rakhlin, Stokes 2019" in text
    assert cli.main([*map(str, words), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    traces = {row["checkpoint"]: row["estimates"]["fisher_trace"]["value"] for row in found["rows"]}
    assert sorted(traces, key=lambda name: traces[name]) == ["quiet", "middle", "noisy"]
    assert found["agreements"]["fisher_trace"]["kendall"]["value"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name,trajectory\na,quiet.pt\nb,noisy.pt\n",
            "line 2: run 'a' has 'quiet.pt' and no model; only a trajectory (.npz) is read",
        ),
        ("name,model,weights,trajectory\na,net.py:build,quiet.pt,noisy.pt\nb,net.py:build,,\n", "noisy.pt' is another model's"),
        ("name,model,weights,trajectory\na,net.py:build,quiet.pt,quiet.pt\nb,net.py:build,,\n", "doesn't say the batch size"),
    ],
)
def test_a_wrong_table_ends_in_one_sentence(text: str, message: str, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (saved / "wrong.csv").write_text(text)
    words = ["rank", saved / "wrong.csv", "--measures", "fisher_trace", "--example", saved / "x.npz", "--quiet"]
    assert cli.main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert message in err and out == ""
    assert err.count("\n") == 1


def test_trajectories_and_checkpoints_of_different_runs_are_ranked_together(
    runs: dict[str, Any], saved: Path, tmp_path: Path
) -> None:
    """A measure of weights reads both kinds alike."""
    model = runs["noisy"][0]
    writer = TrajectoryWriter(sketch=16)
    writer.append(0, layer_weights(model))
    save_trajectory(writer.trajectory(), tmp_path / "noisy.npz")
    pairs = {"noisy": (model, tmp_path / "noisy.npz"), "quiet": (runs["quiet"][0], saved / "quiet.pt")}
    assert {row.checkpoint for row in rank(pairs, "stable_rank", example=EXAMPLE).rows} == set(pairs)
