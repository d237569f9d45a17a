# pyright: reportMissingImports=false
# (Keras is an optional dependency: it is imported when a function is called)
"""Record training with Keras 3, on any of its backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.recording.layout import depthwise_outputs_first, outputs_first, transposed_outputs_first
from dyncompress.recording.writer import EVERY, TrajectoryWriter


def keras_callback(writer: TrajectoryWriter, every: int = EVERY) -> Any:
    """A callback for `model.fit(callbacks=[...])` that records the weights every few batches.

    Keras passes callbacks the mean of an epoch's losses so far. The loss of the batches since the last record is computed from
    it, with equal weight for every batch. When training ends, the digest of the model's weights is stored in the record.

    Args:
        writer: that receives the iterates.
        every: batches between records; with `steps_per_execution` it is rounded up to a multiple of that.

    Returns:
        A `keras.callbacks.Callback`.

    Raises:
        InvalidRequest: `every` is below 1.
    """
    import keras

    if every < 1:
        raise InvalidRequest(f"keras_callback: every is {every}; it must be at least 1.")

    class Recording(keras.callbacks.Callback):
        """Counts batches and records every few of them."""

        def __init__(self) -> None:
            super().__init__()
            self.steps, self.last_record, self.before = 0, 0, (0, 0.0)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            """Reset the mean loss, as Keras does."""
            self.before = (0, 0.0)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            """Record if it is time; only then is the model read, since under JAX that copies its state."""
            now = (batch + 1, (logs or {}).get("loss"))
            self.steps += now[0] - self.before[0]
            if self.steps - self.last_record >= every:
                self.last_record = self.steps
                writer.learning_rate = _rate(self.model)
                writer.append(self.steps, layer_weights(self.model), _mean_loss_since(self.before, now))
            self.before = now

        def on_train_end(self, logs: Any = None) -> None:
            """Store the digest of the final weights, also if the last batch wasn't recorded."""
            if self.last_record:
                writer.finish(layer_weights(self.model))

    return Recording()


def layer_weights(model: Any) -> dict[str, np.ndarray]:
    """The weights of all dense, convolution and embedding layers, also of those inside other layers.

    Args:
        model: a built Keras model.

    Returns:
        Layer path -> weight `(out, in / groups, *kernel)`, float32.
    """
    import keras

    weights = {}
    for layer in model._flatten_layers():  # `layers` stops at the first level
        for kind, (attribute, to_layout) in _layouts().items():
            if isinstance(layer, kind) and getattr(layer, "built", False):
                weight = np.asarray(keras.ops.convert_to_numpy(getattr(layer, attribute)), np.float32)
                weights[layer.path] = to_layout(weight)
                break
    return weights


def _layouts() -> dict[tuple[type, ...], tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """Kinds of layers -> the attribute that holds the weight, and the function that converts its layout."""
    from keras import layers

    return {
        (layers.DepthwiseConv1D, layers.DepthwiseConv2D): ("kernel", depthwise_outputs_first),
        (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose): ("kernel", transposed_outputs_first),
        (layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Dense): ("kernel", outputs_first),
        (layers.Embedding,): ("embeddings", np.asarray),
    }


def _mean_loss_since(before: tuple[int, Any], now: tuple[int, Any]) -> float | None:
    """The mean loss of the batches from `before` to `now`, both (number of batches, mean of their losses) of one epoch."""
    if now[1] is None or before[1] is None:
        return None
    return (float(now[1]) * now[0] - float(before[1]) * before[0]) / (now[0] - before[0])


def _rate(model: Any) -> float:
    """The optimizer's learning rate."""
    import keras

    return float(np.asarray(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))
