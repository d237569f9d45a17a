"""The Trainer of Hugging Face transformers with the recorder's callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dyncompress.models.torch.opening import open_model
from dyncompress.recording import TrajectoryWriter, weights_digest
from dyncompress.recording.torch_callback import layer_weights, record
from dyncompress.recording.transformers_callback import transformers_callback

transformers = pytest.importorskip("transformers", reason='needs transformers: pip install "dyncompress[recording]"')
pytest.importorskip("accelerate", reason='Trainer needs accelerate: pip install "dyncompress[recording]"')
pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns of its own setting


class Network(nn.Module):
    """Returns its loss where labels are given, and keeps what it returned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.returned = nn.Linear(4, 5), nn.Linear(5, 2), []

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.second(torch.relu(self.first(x)))
        if labels is None:
            return {"logits": logits}
        loss = nn.functional.cross_entropy(logits, labels)
        self.returned += [float(loss.detach())] if self.training else []
        return {"loss": loss, "logits": logits}


def train(
    folder: Path, accumulate: int = 1, every: int = 3, optimizer: str = "sgd", **options: bool
) -> tuple[Network, TrajectoryWriter]:
    """Sixteen batches of eight, looked at on other examples after every fifth step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Network()
    generator = torch.Generator().manual_seed(0)
    data: list[dict[str, Any]] = [{"x": torch.randn(4, generator=generator), "labels": i % 2} for i in range(128)]
    writer = TrajectoryWriter(batch_size=8)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        gradient_accumulation_steps=accumulate,
        num_train_epochs=1,
        learning_rate=0.05,
        lr_scheduler_type="constant",
        optim=optimizer,
        max_grad_norm=0,
        eval_strategy="steps",
        eval_steps=5,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    callback = transformers_callback(record(model, writer, every=every, **options))
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data[:8], callbacks=[callback])
    trainer.train()
    assert not model._forward_hooks
    return model, writer


def test_every_few_steps_are_recorded_and_the_end_is_the_models(tmp_path: Path) -> None:
    model, writer = train(tmp_path)
    trajectory = writer.trajectory()
    assert trajectory.steps.tolist() == [3, 6, 9, 12, 15]
    assert set(trajectory.motion) == {"first", "second"}
    np.testing.assert_allclose(trajectory.losses, np.array(model.returned)[2::3], rtol=1e-6)
    assert trajectory.learning_rate == 0.05
    assert trajectory.digest == weights_digest(layer_weights(model))


def test_batches_that_share_a_step_are_one_and_their_loss_is_not_known(tmp_path: Path) -> None:
    _, writer = train(tmp_path, accumulate=2, every=2)
    trajectory = writer.trajectory()
    assert trajectory.steps.tolist() == [2, 4, 6, 8]
    assert np.isnan(trajectory.losses).all()


def test_gradients_are_those_of_the_steps(tmp_path: Path) -> None:
    _, writer = train(tmp_path, every=1, gradients=True)
    trajectory = writer.trajectory()
    for name, sketch in trajectory.sketches.items():
        np.testing.assert_allclose(np.diff(sketch, axis=0), -0.05 * trajectory.gradients[name][1:], atol=1e-6)


def test_the_state_of_adam_is_read_through_the_optimizer_of_accelerate(tmp_path: Path) -> None:
    _, writer = train(tmp_path, optimizer="adamw_torch")
    trajectory = writer.trajectory()
    assert (trajectory.optimizer, trajectory.learning_rate) == ("AdamW", 0.05)
    for name, motion in trajectory.motion.items():
        assert trajectory.gradient_variance[name].shape == motion.mean.shape
        assert (trajectory.gradient_variance[name] > 0).any() and np.isfinite(trajectory.gradient_sums[name][1:]).all()


def test_a_record_of_gpt2_belongs_to_the_model_as_the_door_opens_it() -> None:
    size = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 20, "n_positions": 16}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**size)).eval()
    recorder = record(model, TrajectoryWriter(), every=1)
    recorder.step()
    trajectory = recorder.writer.trajectory()
    assert trajectory.motion["transformer.h.0.mlp.c_fc"].mean.shape == (32, 8)  # stored as (in, out)
    assert open_model(model, {"input_ids": torch.zeros(1, 5, dtype=torch.int64)}).digest() == trajectory.digest
