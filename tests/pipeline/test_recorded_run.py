"""A trajectory in the coordinates of folded weights: motion grows with the gain, Fisher information falls, distortion stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import dyncompress as dc
from dyncompress.pipeline.profiling import probes
from dyncompress.pipeline.recorded_run import folded_motion
from dyncompress.pipeline.task import Task, with_run
from dyncompress.recording.torch_callback import record
from dyncompress.types import Choice, Gradients, Iterates, Motion, Option, Weight, WeightFisher, WeightMotion
from dyncompress.types.progress import NoStep
from tests import tiny
from tests.traits import calls


def test_motion_follows_folded_weights() -> None:
    mean = np.arange(1.0, 13.0).reshape(3, 2, 2)
    motion = WeightMotion(mean, np.ones_like(mean), np.full_like(mean, 2.0), 9)
    gain = np.array([0.5, -2.0, 1.0])[:, None, None]
    folded = folded_motion(motion, torch.from_numpy(mean * gain))
    np.testing.assert_allclose(folded.mean, mean * np.abs(gain))
    np.testing.assert_allclose(folded.variance, np.broadcast_to(gain**2, mean.shape))
    np.testing.assert_allclose(folded.increment_variance, 2 * np.broadcast_to(gain**2, mean.shape))


@pytest.fixture(scope="module")
def model() -> Task:
    recipe = dc.load_recipe("trajectory")
    return with_run(tiny.task(tiny.network(), recipe, None, tiny.CALIBRATION[:1]), tiny.trained()[1])


def test_every_recorded_layer_has_its_motion(model: Task) -> None:
    for name, observation in model.observe((Weight(),)):
        assert {Motion(), Iterates(), WeightFisher()} <= set(observation.values) and Gradients() not in observation
        assert observation[WeightFisher()].shape == observation[Weight()].shape, name


def test_the_distortion_of_a_relative_error_is_that_of_the_trained_weights(model: Task) -> None:
    """Folding multiplies a row by a gain and divides its Fisher information by the squared gain; the distortion is equal."""
    trained = {name: tiny.network().get_submodule(name).weight for name in tiny.LAYERS}
    motion = {name: replace(m, mean=trained[name].numpy()) for name, m in model.run.trajectory.motion.items()}
    run = replace(model.run, trajectory=replace(model.run.trajectory, motion=motion))  # the mean iterate is the last one
    for name, observation in model.observe((Weight(),)):
        weight = observation[Weight()]
        folded = run.of(name, weight)[WeightFisher()] * weight.square()
        wanted = torch.from_numpy(run.fisher.layers[name]) * trained[name].square()
        torch.testing.assert_close(folded, wanted, rtol=1e-3, atol=1e-4 * float(wanted.max()), msg=name)


class Inside(nn.Module):
    """A convolution that contains its BatchNorm, and attention: the opened model has layers that the user's model lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.attention, self.head = (
            calls.ConvNorm(3, 8, 3),
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Linear(8, 4),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.conv(x).flatten(2).mT[:, ::8]
        return self.head((tokens + self.attention(tokens, tokens, tokens)[0]).mean(1))


def test_layers_inside_modules_have_the_motion_of_these_modules() -> None:
    x, y = (torch.from_numpy(part) for part in tiny.images(64, seed=1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Inside().train()
    optimizer, writer = torch.optim.SGD(net.parameters(), lr=0.05), dc.TrajectoryWriter(seed=0, learning_rate=0.05, batch_size=32)
    recorder = record(net, writer, every=1)
    for rows in torch.arange(64).repeat(6).split(32):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows] % 4)
        loss.backward()
        optimizer.step()
        recorder.step(loss.detach())
    run = writer.trajectory()
    inside = with_run(tiny.task(net.eval(), dc.load_recipe("trajectory"), [{"x": x}]), run)
    has_motion = {name: Motion() in observation for name, observation in inside.observe((Weight(),))}
    assert has_motion == {
        "conv.layer": True, "attention.q_proj": False, "attention.k_proj": False, "attention.v_proj": False,
        "attention.out_proj": True, "head": True,
    }  # fmt: skip
    profile = dc.measure(net, "trajectory", target=tiny.TARGET, trajectory=run, calibration=[{"x": x}])
    assert profile.table.keys() == has_motion.keys() and not profile.reasons
    dc.apply(net, dc.allocate(profile, dc.Budget(bytes=0.5)), trajectory=run, calibration=[{"x": x}])


def test_a_layer_that_changed_its_shape_has_no_motion(model: Task) -> None:
    weight = torch.zeros(4, 3, 3, 3)
    assert not model.run.of("stem", weight) and not model.run.of("absent", weight)
    silent = model.run.of("stem", torch.zeros(8, 3, 3, 3))
    assert not silent[WeightFisher()].any()


@pytest.mark.parametrize("change", ["channels", "rank"])
def test_smaller_structures_keep_the_motion_of_the_other_layers(change: str) -> None:
    """The motion of layers before a change is taken from the trajectory, with or without the change."""
    run = tiny.trained()[1]
    given = {"trajectory": run, "calibration": tiny.CALIBRATION}
    profile = dc.measure(tiny.network(), "trajectory", target=tiny.TARGET, **given)
    plan = dc.allocate(profile, dc.Budget(bytes=0.22))
    asked = {**plan.asked, "channels:conv2": Choice(keep=12)}
    if change == "rank":
        asked = {**plan.asked, "conv3": replace(plan.asked["conv3"], rank=8)}
    whole, less = (dc.apply(tiny.network(), replace(plan, asked=a), **given).encodings for a in (plan.asked, asked))
    for name in ("stem", "conv1"):
        assert torch.equal(whole[name].scale, less[name].scale) and torch.equal(whole[name].codes, less[name].codes)


def test_probes_of_structure_work_with_a_trajectory(monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny.trained()[1]
    model = with_run(tiny.task(tiny.network(), dc.load_recipe("trajectory"), tiny.CALIBRATION), run)
    seen = []
    monkeypatch.setattr(probes, "restructure", lambda few, *_, **__: (seen.append(few), (few, {}))[1])
    lines = (Option(Choice(), 0.0, 0.0, 0.0), Option(Choice(keep=4), -1.0, -1.0, 1.0))
    probes.probe_structure(model, {"channels:stem": lines}, NoStep())
    few, source = seen[0].source, model.source
    assert few.run is source.run and few.seed == source.seed and few.cache is not source.cache
