# pyright: reportMissingImports=false
# (Lightning is an optional dependency: it is imported when the function is called)
"""Record training with Lightning's Trainer."""

from __future__ import annotations

from typing import Any

from dyncompress.recording.torch_callback import Recorder


def lightning_callback(recorder: Recorder) -> Any:
    """A callback for `lightning.pytorch.Trainer(callbacks=[...])` that records the weights every few optimizer steps.

    The recorded loss is what `training_step` returned, for the last batch of a step if gradients are accumulated. The
    learning rate is that of the first group of the first optimizer, whose state is recorded as well. Only the first process
    records. When training ends, the digest of the module's weights is stored in the record.

    Args:
        recorder: as `torch_callback.record` returns it. Record the module that you will compress, since names and weights must be
            the same: usually the network inside the LightningModule, not the LightningModule.

    Returns:
        A `lightning.pytorch.Callback`; one of `pytorch_lightning` if only that is installed.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError:
        from pytorch_lightning import Callback

    class Recording(Callback):  # pyright: ignore[reportGeneralTypeIssues]
        """Calls the recorder after every optimizer step."""

        def __init__(self) -> None:
            self.last_step = 0

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """Start at the trainer's step count, which isn't 0 in a resumed run."""
            self.last_step = trainer.global_step

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            """Record if the batch ended with an optimizer step; with accumulated gradients not every batch does."""
            if trainer.is_global_zero and trainer.global_step > self.last_step:
                optimizer = trainer.optimizers[0] if trainer.optimizers else None
                recorder.step(_loss(outputs, trainer.accumulate_grad_batches), optimizer=optimizer)
            self.last_step = trainer.global_step

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            """Store the digest of the final weights, also if the last step wasn't recorded."""
            if trainer.is_global_zero:
                recorder.finish()

    return Recording()


def _loss(outputs: Any, accumulated: int) -> Any:
    """The loss that `training_step` returned; Lightning divides it by the number of batches whose gradients are accumulated."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return None if loss is None else loss * accumulated
