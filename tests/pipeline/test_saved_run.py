"""A checkpoint with the optimizer's state in place of a recorded trajectory: matching, units, refusals."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dyncompress as dc
from dyncompress.errors import InvalidRequest
from dyncompress.models import open_model
from dyncompress.pipeline.observed_model import ObservedModel
from dyncompress.pipeline.pooled_fisher import RUN_EXAMPLES
from dyncompress.pipeline.recorded_run import RecordedRun, recorded_run
from dyncompress.pipeline.saved_run import SavedRun
from dyncompress.recording.training_states import training_state_of
from dyncompress.types import POOLED, InputMoment, OutputFisher, TrainingState, Weight, WeightFisher


class Mixed(nn.Module):
    """A layer of each kind whose weight lies in its parameters in another form."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(12, 8)
        self.memory = nn.GRU(8, 6, batch_first=True)
        self.look = nn.MultiheadAttention(6, 2, batch_first=True)
        self.wide = nn.ConvTranspose1d(6, 6, 3, groups=2)
        self.up = nn.ConvTranspose1d(6, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.conv = nn.Conv1d(4, 4, 3, groups=2)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x, _ = self.memory(self.words(tokens))
        x, _ = self.look(x, x, x)
        x = self.conv(torch.relu(self.norm(self.up(torch.relu(self.wide(x.transpose(1, 2)))))))
        return self.head(x.mean(-1))


STEPS = 120
TOKENS = torch.randint(0, 12, (64, 9), generator=torch.Generator().manual_seed(0))


def trained(model: nn.Module, steps: int = STEPS) -> torch.optim.Optimizer:
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    model.train()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(TOKENS), TOKENS.sum(1) % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    return optimizer


def saved(tmp_path: Path, **parts: Any) -> Path:
    torch.save(parts, tmp_path / "last.pt")
    return tmp_path / "last.pt"


def opened(model: nn.Module) -> Any:
    return open_model(model, {"tokens": TOKENS[:2]})


def fishers(model: nn.Module, given: Any) -> dict[str, np.ndarray]:
    adapter = opened(model)
    run = recorded_run(given, adapter)
    weights = {name: observation[Weight()] for name, observation in adapter.observe((Weight(),))}
    return {name: run.of(name, w)[WeightFisher()].numpy() for name, w in weights.items() if run.of(name, w)}


@pytest.fixture(scope="module")
def run() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = Mixed()
    return model, trained(model)


def test_every_layer_finds_its_parameter_in_the_file(run: tuple[nn.Module, torch.optim.Optimizer], tmp_path: Path) -> None:
    model, optimizer = run
    path = saved(tmp_path, state_dict=model.state_dict(), optimizer=optimizer.state_dict())
    found = fishers(model, replace(dc.load_training_state(path), batch_size=64))
    names = {"words", "memory.ih_l0", "memory.hh_l0", "look.q_proj", "look.k_proj", "look.v_proj", "look.out_proj"}
    assert found.keys() == names | {"wide", "up", "conv", "head"}

    def square(name: str) -> np.ndarray:
        state = optimizer.state[dict(model.named_parameters())[name]]
        first = state["exp_avg"] / (1 - 0.9**STEPS)
        second = state["exp_avg_sq"] / (1 - 0.999**STEPS)
        noise = 0.1 / 1.9 * (1 + 0.9**STEPS) / (1 - 0.9**STEPS)
        share = (float(first.square().sum() / second.sum()) - noise) / (1 - noise)
        return 64 * second.numpy() * (1 - min(max(share, 0), 0.95))

    np.testing.assert_allclose(found["head"], square("head.weight"), rtol=1e-4)
    grouped = square("wide.weight")  # (in, out / groups, kernel)
    np.testing.assert_allclose(found["wide"][:3], grouped[:3].swapaxes(0, 1), rtol=1e-4)
    np.testing.assert_allclose(found["wide"][3:], grouped[3:].swapaxes(0, 1), rtol=1e-4)
    np.testing.assert_allclose(found["look.k_proj"], square("look.in_proj_weight")[6:12], rtol=1e-4)
    np.testing.assert_allclose(found["memory.hh_l0"], square("memory.weight_hh_l0"), rtol=1e-4)
    gain = (model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()).detach().numpy()
    np.testing.assert_allclose(
        found["up"], square("up.weight").swapaxes(0, 1) / gain[:, None, None] ** 2, rtol=1e-3, err_msg="folded, outputs first"
    )


@pytest.mark.parametrize("form", ["optimizer", "its state alone", "loaded", "state"])
def test_other_forms_give_the_same(form: str, run: tuple[nn.Module, torch.optim.Optimizer], tmp_path: Path) -> None:
    model, optimizer = run
    whole = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    path = saved(tmp_path, **whole)
    given = {
        "optimizer": lambda: optimizer,
        "its state alone": lambda: saved(tmp_path, optimizer=whole["optimizer"]),
        "loaded": lambda: whole,
        "state": lambda: dc.load_training_state(path),
    }[form]()
    wanted, found = fishers(model, path), fishers(model, given)
    assert wanted.keys() == found.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6)


def test_renamed_layers_are_recognised_by_their_values(run: tuple[nn.Module, torch.optim.Optimizer]) -> None:
    model, optimizer = run
    state = optimizer.state_dict()
    other = {f"encoder.part{i}": value for i, value in enumerate(dict(model.named_parameters()).values())}
    found = fishers(model, {"weights": {k: v.detach() for k, v in other.items()}, "optimizer": state})
    assert {"up", "head", "memory.ih_l0", "look.v_proj"} <= found.keys()


def test_another_models_state_is_refused(run: tuple[nn.Module, torch.optim.Optimizer]) -> None:
    model, optimizer = run
    torch.manual_seed(7)
    with pytest.raises(InvalidRequest, match=r"is another model's: \d+ of the model's [\d,]+ weights are found in it"):
        fishers(Mixed(), {"model": model.state_dict(), "optimizer": optimizer.state_dict()})


def test_a_head_that_was_replaced_is_left_out_with_a_sentence(run: tuple[nn.Module, torch.optim.Optimizer]) -> None:
    model, optimizer = run
    changed = deepcopy(model)
    torch.manual_seed(8)
    changed.head = nn.Linear(4, 3)
    record = recorded_run({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, opened(changed))
    assert isinstance(record, SavedRun) and "head" not in record.layers
    assert any("no squares of gradients for head" in note for note in record.notes)


def test_a_frozen_part_is_left_out_with_a_sentence() -> None:
    torch.manual_seed(2)
    model = Mixed()
    model.words.requires_grad_(False)
    optimizer = trained(model)
    record = recorded_run({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, opened(model))
    assert isinstance(record, SavedRun) and "words" not in record.layers and "head" in record.layers


def test_a_later_step_of_the_run_is_taken_with_a_note(run: tuple[nn.Module, torch.optim.Optimizer]) -> None:
    model, optimizer = run
    later = {name: value * 1.0 for name, value in model.state_dict().items()}
    later["head.weight"] = later["head.weight"] + 0.02 * later["head.weight"].std() * torch.randn(3, 4)
    record = recorded_run({"model": later, "optimizer": optimizer.state_dict()}, opened(model))
    assert any("it is of another step of the run" in note for note in record.notes)


def test_averaged_weights_are_found_beside_the_last_ones(run: tuple[nn.Module, torch.optim.Optimizer]) -> None:
    model, optimizer = run
    averaged = deepcopy(model)
    torch.manual_seed(3)
    with torch.no_grad():
        for p in averaged.parameters():
            p.mul_(1 + 0.3 * torch.randn_like(p))
    whole = {"model": model.state_dict(), "ema": averaged.state_dict(), "optimizer": optimizer.state_dict()}
    record = recorded_run(whole, opened(averaged))
    assert isinstance(record, SavedRun) and record.layers["head"].averaged
    assert any("averaged ones" in note for note in record.notes)


def test_nats_where_the_batch_size_is_known(run: tuple[nn.Module, torch.optim.Optimizer]) -> None:
    model, optimizer = run
    whole = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    relative = recorded_run(whole, opened(model))
    assert any("distortions are relative: the batch size" in note for note in relative.notes)
    known = recorded_run({**whole, "batch_size": 64}, opened(model))
    assert any("in nats" in note and "batch size 64" in note for note in known.notes)
    state = replace(dc.training_state_of(whole), batch_size=64, averaged=39.0)
    brief = recorded_run(state, opened(model))
    assert not brief.nats and any("over about 39 steps, too few for their scale" in note for note in brief.notes)


def test_a_plan_from_a_checkpoint_alone(run: tuple[nn.Module, torch.optim.Optimizer], tmp_path: Path) -> None:
    model, optimizer = run
    path = saved(tmp_path, model=model.state_dict(), optimizer=optimizer.state_dict())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    profile = dc.measure(model, "trajectory", target="onnxruntime-x86-vnni", example=TOKENS[:2], trajectory=path)
    assert set(profile.source.values()) == {"trajectory"}
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_what_is_no_trajectory_gets_a_sentence(run: tuple[nn.Module, torch.optim.Optimizer]) -> None:
    with pytest.raises(InvalidRequest, match=r"can't be read from a int; give a torch optimizer"):
        recorded_run(3, opened(run[0]))


def test_a_state_is_short_in_print() -> None:
    assert len(repr(TrainingState({}, "Adam", 1999.0))) < 200


def test_a_folder_of_weights_alone_is_a_coarse_trajectory(tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    optimizer, x = torch.optim.SGD(model.parameters(), lr=0.05), torch.randn(64, 8)
    for step in range(1, 41):
        some = torch.randint(0, 64, (8,))
        nn.functional.cross_entropy(model(x[some]), some % 3).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            torch.save({"model": model.state_dict()}, tmp_path / f"step_{step:03d}.pt")
    adapter = open_model(model, {"x": x[:2]})
    record = recorded_run(tmp_path, adapter)
    assert isinstance(record, RecordedRun) and record.trajectory.steps.tolist() == [10, 20, 30, 40]
    assert record.of("0", model[0].weight)[WeightFisher()].shape == (6, 8) and not record.nats
    (tmp_path / "step_040.pt").rename(tmp_path / "step_005.pt")
    with pytest.raises(InvalidRequest, match="ends at other weights"):
        recorded_run(tmp_path, adapter)
    (tmp_path / "step_005.pt").unlink()
    (tmp_path / "step_010.pt").unlink()
    with pytest.raises(InvalidRequest, match=r"holds no state of an optimizer and 2 checkpoints"):
        recorded_run(tmp_path, adapter)


def test_the_run_counts_as_64_examples_beside_the_data() -> None:
    torch.manual_seed(5)
    model, x = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(96, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    for _ in range(STEPS):
        some = torch.randint(0, 96, (16,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[some]), some % 3).backward()
        optimizer.step()
    state = replace(training_state_of(optimizer), batch_size=16)
    source = ObservedModel(open_model(model, {"x": x[:2]}), [{"x": x}], calibrated=True)
    needs = (Weight(), InputMoment(), OutputFisher())
    data, both = dict(source.observe(needs)), dict(replace(source, run=recorded_run(state, source.model)).observe(needs))
    for name, observation in both.items():
        moment = observation[InputMoment()].double()
        torch.testing.assert_close(moment, data[name][InputMoment()].double(), msg="the moment stays the data's")
        fisher = observation[WeightFisher()].double()
        rows = fisher.mean(1) + 0.01 * fisher.mean()
        told = rows / moment[0].diagonal().mean()
        wanted = 96 / 160 * data[name][OutputFisher()].double() + 64 / 160 * told
        torch.testing.assert_close(observation[OutputFisher()].double(), wanted, rtol=1e-4, atol=1e-9)


def test_a_profile_of_both_is_in_nats_and_says_so(run: tuple[nn.Module, torch.optim.Optimizer]) -> None:
    model, optimizer = run
    target = "onnxruntime-x86-vnni"
    profile = dc.measure(model, "smallest", target=target, calibration=TOKENS, trajectory=optimizer)
    assert set(profile.source.values()) == {POOLED} and str(RUN_EXAMPLES) in POOLED
    assert profile.unit == "nats"
    assert "nats (fisher with the training run as 64 examples)" in str(dc.allocate(profile, dc.Budget(bytes=0.99)))
