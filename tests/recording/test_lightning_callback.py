"""Lightning's Trainer with the recorder's callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dyncompress.recording import TrajectoryWriter, weights_digest
from dyncompress.recording.lightning_callback import lightning_callback
from dyncompress.recording.torch_callback import layer_weights, record

lightning = pytest.importorskip("lightning", reason='needs Lightning: pip install "dyncompress[recording]"')
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning warns of its own setting: few workers, no logger


class Regression(lightning.LightningModule):
    """A network inside a LightningModule, which keeps the losses it returned."""

    def __init__(self, optimizer: str = "SGD") -> None:
        super().__init__()
        self.optimizer_name = optimizer
        self.net, self.returned = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1)), []

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss = (self.net(batch[0]) - batch[1]).square().mean()
        self.returned.append(float(loss))
        return loss

    def configure_optimizers(self) -> Any:
        return getattr(torch.optim, self.optimizer_name)(self.parameters(), lr=0.05)


def train(
    folder: Path, accumulate: int = 1, every: int = 3, optimizer: str = "SGD", **options: bool
) -> tuple[Regression, TrajectoryWriter]:
    """Sixteen batches of eight."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(128, 4, generator=generator), torch.randn(128, 1, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Regression(optimizer)
    writer = TrajectoryWriter(batch_size=8)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=accumulate,
        default_root_dir=folder,
        callbacks=[lightning_callback(record(model.net, writer, every=every, **options))],
    )
    trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=8))
    return model, writer


def test_every_few_steps_are_recorded_and_the_end_is_the_models(tmp_path: Path) -> None:
    model, writer = train(tmp_path)
    trajectory = writer.trajectory()
    assert trajectory.steps.tolist() == [3, 6, 9, 12, 15]
    assert set(trajectory.motion) == {"0", "2"}
    np.testing.assert_allclose(trajectory.losses, np.array(model.returned)[2::3], rtol=1e-6)
    assert trajectory.learning_rate == 0.05 and trajectory.batch_size == 8
    assert trajectory.digest == weights_digest(layer_weights(model.net))  # after step 16, which wasn't recorded


def test_batches_that_share_a_step_are_one(tmp_path: Path) -> None:
    model, writer = train(tmp_path, accumulate=2, every=2)
    trajectory = writer.trajectory()
    assert trajectory.steps.tolist() == [2, 4, 6, 8]
    np.testing.assert_allclose(trajectory.losses, np.array(model.returned)[3::4], rtol=1e-6)


def test_gradients_are_those_of_the_steps(tmp_path: Path) -> None:
    _, writer = train(tmp_path, every=1, gradients=True)
    trajectory = writer.trajectory()
    for name, sketch in trajectory.sketches.items():
        np.testing.assert_allclose(np.diff(sketch, axis=0), -0.05 * trajectory.gradients[name][1:], atol=1e-6)


def test_the_state_of_adam_is_read(tmp_path: Path) -> None:
    _, writer = train(tmp_path, optimizer="AdamW")
    trajectory = writer.trajectory()
    assert (trajectory.optimizer, trajectory.learning_rate) == ("AdamW", 0.05)
    for name, motion in trajectory.motion.items():
        assert trajectory.gradient_variance[name].shape == motion.mean.shape
        assert (trajectory.gradient_variance[name] > 0).any() and np.isfinite(trajectory.gradient_sums[name][1:]).all()
