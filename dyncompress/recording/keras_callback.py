# pyright: reportMissingImports=false
# (Keras is the caller's: nothing here is imported before a function is called)
"""Hooks a TrajectoryWriter into Keras 3, whatever its backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.recording.layout import depthwise_outputs_first, outputs_first, transposed_outputs_first
from dyncompress.recording.writer import EVERY, TrajectoryWriter


def keras_callback(writer: TrajectoryWriter, every: int = EVERY) -> Any:
    """A callback for `model.fit(callbacks=[...])` that records every few batches.

    Keras tells callbacks the mean of the losses of an epoch so far; the loss of the batches since the last call is computed back
    from it, weighting batches equally. When training ends, the record is tied to the weights of that moment.

    Args:
        writer: where iterates go.
        every: batches from one record to the next; with `steps_per_execution`, the first multiple of that which is no smaller.

    Returns:
        a `keras.callbacks.Callback`.

    Raises:
        InvalidRequest: `every` is below 1.
    """
    import keras

    if every < 1:
        raise InvalidRequest(f"keras_callback: every is {every}; it must be at least 1.")

    class Recording(keras.callbacks.Callback):
        """Counts batches, and records."""

        def __init__(self) -> None:
            super().__init__()
            self.steps, self.recorded, self.before = 0, 0, (0, 0.0)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            """Keras starts its mean anew."""
            self.before = (0, 0.0)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            """The model is asked for only where there is something to record: under JAX that copies its state."""
            now = (batch + 1, (logs or {}).get("loss"))
            self.steps += now[0] - self.before[0]
            if self.steps - self.recorded >= every:
                self.recorded = self.steps
                writer.learning_rate = _rate(self.model)
                writer.append(self.steps, layer_weights(self.model), _latest(self.before, now))
            self.before = now

        def on_train_end(self, logs: Any = None) -> None:
            """The last batch needn't have been recorded."""
            if self.recorded:
                writer.finish(layer_weights(self.model))

    return Recording()


def layer_weights(model: Any) -> dict[str, np.ndarray]:
    """Layer path -> weight `(out, in / groups, *kernel)`, float32, of every dense, convolution and embedding layer.

    Args:
        model: a built Keras model; layers inside layers count.
    """
    import keras

    found = {}
    for layer in model._flatten_layers():  # `layers` stops at the first level
        for kind, (attribute, turned) in _layouts().items():
            if isinstance(layer, kind) and getattr(layer, "built", False):
                weight = np.asarray(keras.ops.convert_to_numpy(getattr(layer, attribute)), np.float32)
                found[layer.path] = turned(weight)
                break
    return found


def _layouts() -> dict[tuple[type, ...], tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """Kinds of layers -> the attribute that holds the weight, and how it is turned."""
    from keras import layers

    return {
        (layers.DepthwiseConv1D, layers.DepthwiseConv2D): ("kernel", depthwise_outputs_first),
        (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose): ("kernel", transposed_outputs_first),
        (layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Dense): ("kernel", outputs_first),
        (layers.Embedding,): ("embeddings", np.asarray),
    }


def _latest(before: tuple[int, Any], now: tuple[int, Any]) -> float | None:
    """The mean loss of the batches since `before`, from the means of an epoch's first batches."""
    if now[1] is None or before[1] is None:
        return None
    return (float(now[1]) * now[0] - float(before[1]) * before[0]) / (now[0] - before[0])


def _rate(model: Any) -> float:
    """The optimizer's learning rate."""
    import keras

    return float(np.asarray(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))
