# pyright: reportMissingImports=false
# (Lightning is the caller's: nothing here is imported before the function is called)
"""Hooks a Recorder into Lightning's Trainer."""

from __future__ import annotations

import math
from typing import Any

from dyncompress.recording.torch_callback import Recorder, rate_of


def lightning_callback(recorder: Recorder) -> Any:
    """A callback for `lightning.pytorch.Trainer(callbacks=[...])` that records every few optimizer steps.

    Losses are those that `training_step` returned, of the step's last batch where gradients are accumulated; the learning rate is
    that of the first optimizer's first group. Only the first process records. When training ends, the record is tied to the
    weights of that moment.

    Args:
        recorder: of `torch_callback.record`. Record the network itself, not the LightningModule around it, where that network
            is what you will compress: names and weights have to be the same then.

    Returns:
        a `lightning.pytorch.Callback`; of `pytorch_lightning`, where only that is installed.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError:
        from pytorch_lightning import Callback

    class Recording(Callback):  # pyright: ignore[reportGeneralTypeIssues]
        """Tells the recorder of every optimizer step."""

        def __init__(self) -> None:
            self.seen = 0

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """A run that is continued has steps behind it."""
            self.seen = trainer.global_step

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            """A batch whose gradients are only accumulated is no step."""
            if trainer.is_global_zero and trainer.global_step > self.seen:
                rate = rate_of(trainer.optimizers[0]) if trainer.optimizers else math.nan
                recorder.step(_loss(outputs, trainer.accumulate_grad_batches), rate)
            self.seen = trainer.global_step

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            """The last step needn't have been recorded."""
            if trainer.is_global_zero:
                recorder.finish()

    return Recording()


def _loss(outputs: Any, accumulated: int) -> Any:
    """What `training_step` returned; Lightning has divided it by the number of batches that share a step."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return None if loss is None else loss * accumulated
