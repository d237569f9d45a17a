# pyright: reportMissingImports=false
# (transformers is an optional dependency: it is imported when the function is called)
"""Record training with the Trainer of Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dyncompress.recording.torch_callback import Recorder


def transformers_callback(recorder: Recorder) -> Any:
    """A callback for `transformers.Trainer(callbacks=[...])` that records the weights every few optimizer steps.

    Trainer passes no loss to callbacks, so the loss in the model's output is recorded. It is recorded as unknown if gradients are
    accumulated over several batches or the loss is computed outside the model. Only the first process records. When training
    ends, the digest of the module's weights is stored in the record; with `load_best_model_at_end` these are the best weights.

    Args:
        recorder: as `torch_callback.record` returns it.

    Returns:
        A `transformers.TrainerCallback`.
    """
    from transformers import TrainerCallback

    class Recording(TrainerCallback):
        """Calls the recorder after every optimizer step."""

        def __init__(self) -> None:
            self.losses: list[Any] = []
            self.hook: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            """Add a forward hook that reads the model's output."""
            if model is not None:
                self.hook = model.register_forward_hook(self.keep_loss)

        def keep_loss(self, module: nn.Module, _args: Any, output: Any) -> None:
            """Keep the loss of a forward pass in training mode."""
            loss = output.get("loss") if isinstance(output, Mapping) else None
            if module.training and loss is not None:
                self.losses.append(loss.detach())

        def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            """Record if it is time: the weights are updated and the gradients not yet cleared."""
            if state.is_world_process_zero:
                recorder.step(self.losses[0] if len(self.losses) == 1 else None, optimizer=optimizer)
            self.losses.clear()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Store the digest of the final weights, also if the last step wasn't recorded."""
            if self.hook is not None:
                self.hook.remove()
            if state.is_world_process_zero:
                recorder.finish()

    return Recording()
