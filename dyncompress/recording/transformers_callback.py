# pyright: reportMissingImports=false
# (transformers is the caller's: nothing here is imported before the function is called)
"""Hooks a Recorder into the Trainer of Hugging Face transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from dyncompress.recording.torch_callback import Recorder, rate_of


def transformers_callback(recorder: Recorder) -> Any:
    """A callback for `transformers.Trainer(callbacks=[...])` that records every few optimizer steps.

    Trainer tells callbacks no loss; the one in the model's own output is read, and counts as not known where gradients are
    accumulated over several batches or a loss function outside the model is used. Only the first process records. When training
    ends, the record is tied to the weights of that moment, the best ones where `load_best_model_at_end` is set.

    Args:
        recorder: of `torch_callback.record`.

    Returns:
        a `transformers.TrainerCallback`.
    """
    from transformers import TrainerCallback

    class Recording(TrainerCallback):
        """Tells the recorder of every optimizer step."""

        def __init__(self) -> None:
            self.losses: list[Any] = []
            self.hook: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            """Look at what the model returns."""
            if model is not None:
                self.hook = model.register_forward_hook(self.look)

        def look(self, module: nn.Module, _args: Any, output: Any) -> None:
            """Keep the loss of a training pass."""
            loss = output.get("loss") if isinstance(output, Mapping) else None
            if module.training and loss is not None:
                self.losses.append(loss.detach())

        def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            """The weights are new and the gradients not yet cleared."""
            if state.is_world_process_zero:
                rate = math.nan if optimizer is None else rate_of(optimizer)
                recorder.step(self.losses[0] if len(self.losses) == 1 else None, rate)
            self.losses.clear()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """The last step needn't have been recorded."""
            if self.hook is not None:
                self.hook.remove()
            if state.is_world_process_zero:
                recorder.finish()

    return Recording()
