"""Checkpoints that the trainers of Lightning and transformers write, against the gradients of every step."""

from __future__ import annotations

import pathlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dyncompress.errors import InvalidRequest
from dyncompress.recording.training_states import load_training_state
from dyncompress.types import TrainingState

pytestmark = pytest.mark.filterwarnings("ignore")  # both warn of their own setting
Seen = dict[str, list[np.ndarray]]


def remember(model: nn.Module, seen: Seen) -> None:
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            seen.setdefault(name, []).append(parameter.grad.double().numpy().copy())


def check(state: TrainingState, seen: Seen, decay: float = 0.999) -> None:
    assert set(state.parameters) == {name for name, gradients in seen.items() if gradients[0].ndim > 1}
    for name, saved in state.parameters.items():
        gradients = np.stack(seen[name])
        weights = decay ** np.arange(len(gradients))[::-1]
        want = np.tensordot(weights / weights.sum(), np.square(gradients), 1)
        np.testing.assert_allclose(saved.square, want, rtol=1e-4, atol=1e-5 * want.max(), err_msg=name)


@pytest.mark.parametrize("odd", [False, True])
def test_lightning(odd: bool, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason='needs Lightning: pip install "dyncompress[recording]"')

    class Regression(lightning.LightningModule):
        def __init__(self, batch_size: int, where: Any = None) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 5), nn.Linear(5, 5))
            self.seen: Seen = {}

        def training_step(self, batch: Any, index: int) -> Tensor:
            return (self.net(batch[0]) - batch[1]).square().mean()

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            remember(self, self.seen)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters())
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)]

    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(48, 4, generator=generator), torch.randn(48, 5, generator=generator))
    model = Regression(8, pathlib.PurePosixPath("runs") if odd else None)
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=2, default_root_dir=tmp_path, enable_checkpointing=True, **options)
    trainer.fit(model, DataLoader(data, batch_size=8))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = load_training_state(tmp_path / "last.ckpt")
    check(state, model.seen)
    assert (state.steps, state.batch_size, state.optimizer) == (12, 8, "Adam")
    for name, saved in state.parameters.items():
        assert (saved.values[0] == model.state_dict()[name].numpy()).all()


def bert_run(folder: Path, **options: Any) -> tuple[nn.Module, Seen]:
    """Twelve batches of four, with checkpoints."""
    transformers = pytest.importorskip("transformers", reason='needs transformers: pip install "dyncompress[recording]"')
    pytest.importorskip("accelerate", reason='Trainer needs accelerate: pip install "dyncompress[recording]"')
    small = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(transformers.BertConfig(**small, max_position_embeddings=9))
    seen: Seen = {}

    class Remember(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            remember(kwargs["model"], seen)

    tokens = torch.randint(20, (48, 6), generator=torch.Generator().manual_seed(0))
    data: list[dict[str, Any]] = [{"input_ids": row, "labels": row} for row in tokens]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        num_train_epochs=1,
        logging_steps=1,
        save_steps=3,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    transformers.Trainer(model=model, args=arguments, train_dataset=data, callbacks=[Remember()]).train()
    return model, seen


def test_the_folder_of_transformers_trainer(tmp_path: Path) -> None:
    model, seen = bert_run(tmp_path, gradient_accumulation_steps=2, max_grad_norm=100.0, weight_decay=0.1)
    state = load_training_state(tmp_path)
    check(state, seen)
    assert (state.steps, state.batch_size, state.relative) == (6, 8, False)
    assert not state.notes and state.source.endswith("checkpoint-6")
    for name, saved in state.parameters.items():
        assert len(saved.values) == 1 and (saved.values[0] == model.state_dict()[name].numpy()).all()
    folder = tmp_path / "checkpoint-6"
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="4KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    check(load_training_state(folder), seen)
    config = (folder / "config.json").read_text()
    for other in ("{}", config.replace("BertForMaskedLM", "Mine"), config.replace("BertForMaskedLM", "AutoConfig")):
        (folder / "config.json").write_text(other)
        left_out = load_training_state(folder)
        want = {name: gradients for name, gradients in seen.items() if name in left_out.parameters}
        assert {np.stack(gradients).shape[1:] for gradients in want.values()} == {(20, 8), (9, 8), (2, 8)}
        check(left_out, want)
        assert "files of safetensors don't keep the order of the model's parameters" in left_out.notes[0]
        shapes = [("module." + name, tuple(p.shape)) for name, p in model.named_parameters()]
        check(load_training_state(folder, parameters=shapes), seen)
    for rank in range(4):
        (folder / f"rng_state_{rank}.pth").touch()
    assert load_training_state(folder).batch_size == 32  # of four processes
    (folder / "training_args.bin").write_bytes(b"cut")
    (folder / "trainer_state.json").write_text("{")
    with pytest.raises(InvalidRequest, match=r"trainer_state\.json' can't be read"):
        load_training_state(folder)


def test_clipped_gradients_are_noted(tmp_path: Path) -> None:
    _, seen = bert_run(tmp_path, max_grad_norm=0.01)
    state = load_training_state(tmp_path / "checkpoint-12")
    check(state, seen)
    assert state.relative and state.notes == (
        "gradients were clipped to norm 0.01 in 100% of the later steps that the run logged",
    )


def test_the_folder_of_accelerate(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", reason='needs accelerate: pip install "dyncompress[recording]"')
    accelerator = accelerate.Accelerator(cpu=True)
    torch.manual_seed(0)
    model, seen = nn.Sequential(nn.Linear(4, 5), *(nn.Linear(5, 5) for _ in range(11))), {}
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), betas=(0.5, 0.9)))
    for step in range(5):
        optimizer.zero_grad()
        accelerator.backward(model(torch.full((2, 4), float(step))).square().mean())
        remember(model, seen)
        optimizer.step()
    accelerator.save_state(str(tmp_path / "step_5"))
    state = load_training_state(tmp_path, parameters=[(name, tuple(p.shape)) for name, p in model.named_parameters()])
    check(state, seen, 0.9)
    assert (state.steps, state.batch_size) == (5, 0)
    assert list(load_training_state(tmp_path).parameters) == ["0.weight"]  # the file lists 10.weight before 2.weight
