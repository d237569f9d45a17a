"""The recorder in a training loop: which weights are recorded, in which layout, at which steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dyncompress.errors import InvalidRequest
from dyncompress.measures import FluctuationScale
from dyncompress.models.torch.opening import open_model
from dyncompress.recording import TrajectoryWriter, load_trajectory, weights_digest
from dyncompress.recording.torch_callback import Recorder, layer_weights, record
from dyncompress.types import Layer, Motion, Observation


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv1d(4, 8, 3, groups=2),
            nn.BatchNorm1d(8),
            nn.ConvTranspose1d(8, 6, 3, groups=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(60, 2),
        )


def train(steps: int, **options: int) -> tuple[nn.Module, TrajectoryWriter]:
    """A few steps of noisy training with the recorder attached to the optimizer."""
    model, generator = network(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    recorder = record(model, TrajectoryWriter(), **{"every": 1, **options})
    handle = recorder.attach(optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4, 10, generator=generator)).square().mean().backward()
        optimizer.step()
    handle.remove()
    optimizer.step()
    assert recorder.steps == steps
    return model, recorder.writer


def test_only_weights_of_layers_are_recorded() -> None:
    weights = layer_weights(nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3), nn.Linear(3, 2), nn.PReLU(), nn.Conv3d(1, 2, 1)))
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {"0": (5, 3), "2": (2, 3), "4": (2, 1, 1, 1, 1)}
    assert not any(weight.requires_grad for weight in weights.values())


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_transposed_convolutions_are_laid_out_by_output(groups: int) -> None:
    layer = nn.ConvTranspose2d(6, 12, (2, 3), groups=groups, bias=False)
    weight = layer_weights(nn.Sequential(layer))["0"]
    assert weight.shape == (12, 6 // groups, 2, 3)
    # the same layer as a plain convolution of the padded input with the kernel turned around
    x = torch.randn(1, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    plain = nn.functional.conv2d(nn.functional.pad(x, (2, 2, 1, 1)), weight.flip(2, 3), groups=groups)
    torch.testing.assert_close(layer(x).detach(), plain)


def test_records_every_few_steps_of_a_training_loop() -> None:
    _, writer = train(12, every=4)
    trajectory = writer.trajectory()
    assert trajectory.steps.tolist() == [4, 8, 12]
    assert set(trajectory.motion) == {"0", "2", "5"}
    assert trajectory.motion["2"].mean.shape == (6, 4, 3)


def test_a_recorded_run_feeds_the_measures(tmp_path: Path) -> None:
    _, writer = train(40)
    motion = load_trajectory(writer.save(tmp_path / "run.npz")).motion["5"]
    layer = Layer("5", "linear", motion.mean.shape, macs=motion.mean.size)
    estimate = FluctuationScale()(Observation(layer, {Motion(): motion}))
    assert estimate.valid
    assert 0 < estimate.stderr < estimate.value < np.abs(motion.mean).max()


def test_digest_is_that_of_the_module_at_the_last_record() -> None:
    model = network()
    recorder = record(model, TrajectoryWriter(), every=1)
    recorder.step(loss=torch.tensor(0.25, requires_grad=True))
    assert recorder.writer.trajectory().digest == weights_digest(layer_weights(model))
    assert recorder.writer.trajectory().losses.tolist() == [0.25]


def test_the_last_step_need_not_be_recorded() -> None:
    model, writer = train(11, every=4)
    assert writer.trajectory().steps.tolist() == [4, 8]
    Recorder(model, writer).finish()  # it has recorded nothing yet
    assert writer.trajectory().digest != weights_digest(layer_weights(model))
    recorder = record(model, TrajectoryWriter(), every=2)
    for _ in range(3):
        recorder.step()
    recorder.module[0].weight.data.mul_(2)
    recorder.finish()
    assert recorder.writer.trajectory().steps.tolist() == [2]
    writer = recorder.writer
    assert writer.trajectory().digest == weights_digest(layer_weights(model))


def test_gradients_and_the_rate_are_read_off_the_optimizer() -> None:
    _, writer = train(6, every=2, gradients=True)
    trajectory = writer.trajectory()
    assert trajectory.learning_rate == 0.05
    # plain gradient descent: an iterate is the last one less the rate times the gradient, and so are their sketches
    _, again = train(6, every=1, gradients=True)
    full = again.trajectory()
    for name, sketch in full.sketches.items():
        np.testing.assert_allclose(np.diff(sketch, axis=0), -0.05 * full.gradients[name][1:], atol=1e-6)
        assert np.array_equal(full.gradients[name][1::2], trajectory.gradients[name])


def test_two_runs_record_the_same() -> None:
    first, second = train(6)[1].trajectory(), train(6)[1].trajectory()
    assert first.digest == second.digest
    for name in first.motion:
        assert np.array_equal(first.sketches[name], second.sketches[name])
        assert np.array_equal(first.motion[name].variance, second.motion[name].variance)


def test_invalid_requests_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="every is 0"):
        record(nn.Linear(2, 2), TrajectoryWriter(), every=0)
    with pytest.raises(InvalidRequest, match="LayerNorm has no convolution, linear or embedding"):
        record(nn.LayerNorm(3), TrajectoryWriter())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(tokens).mean(1))


@pytest.mark.parametrize(
    ("model", "example"),
    [(network(), torch.zeros(2, 4, 10)), (Tied(), torch.zeros(2, 5, dtype=torch.int64)), (nn.Linear(3, 2), torch.zeros(2, 3))],
    ids=["folded", "tied", "one layer"],
)
def test_a_record_belongs_to_the_model_as_the_door_opens_it(model: nn.Module, example: torch.Tensor) -> None:
    recorder = record(model.eval(), TrajectoryWriter(), every=1)
    recorder.step()
    assert open_model(model, {"x": example}).digest() == recorder.writer.trajectory().digest
