# pyright: reportMissingImports=false
# (Keras is an optional dependency: it is imported when a function is called)
"""Record training with Keras 3, on any of its backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.recording.layout import depthwise_outputs_first, outputs_first, transposed_outputs_first
from dyncompress.recording.optimizer_state import OptimizerState
from dyncompress.recording.writer import EVERY, TrajectoryWriter


def keras_callback(writer: TrajectoryWriter, every: int = EVERY) -> Any:
    """A callback for `model.fit(callbacks=[...])` that records the weights every few batches.

    Keras passes callbacks the mean of an epoch's losses so far. The loss of the batches since the last record is computed
    from it, with equal weight for every batch. The state of an optimizer of the Adam family is recorded as well. When
    training ends, the digest of the model's weights is stored in the record.

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
                writer.optimizer = optimizer_state(self.model)
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
    return {name: to_layout(_float32(weight)) for name, weight, to_layout in _weights(model)}


def optimizer_state(model: Any) -> OptimizerState:
    """What the optimizer of a compiled model stores of each layer's weight, in the layout of `layer_weights`.

    Optimizers with a variable `velocity` keep an average of squared gradients: Adam, AdamW, Nadam, Lamb, RMSprop. Step sizes are
    those of Adam and AdamW.
    """
    import keras

    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # inside a LossScaleOptimizer
    stored = {variable.name: variable for variable in optimizer.variables}
    decay = float(getattr(optimizer, "beta_2", getattr(optimizer, "rho", 0.0)))
    filled = 1 - decay ** int(_float32(optimizer.iterations))  # of an average that starts at zero
    sizes, squares = {}, {}
    for name, weight, to_layout in _weights(model) if filled > 0 else ():
        key = getattr(weight, "path", "").replace("/", "_")  # from which Keras makes the names of an optimizer's variables
        if f"{key}_velocity" not in stored:
            continue
        square = _float32(stored[f"{key}_velocity"]) / filled
        squares[name] = to_layout(square)
        if isinstance(optimizer, keras.optimizers.Adam):
            largest = _float32(stored.get(f"{key}_velocity_hat", stored[f"{key}_velocity"]))
            # Keras adds epsilon to the root before the correction for the start at zero
            divisor = (np.sqrt(largest) + optimizer.epsilon) / np.sqrt(filled)
            sizes[name] = to_layout((_rate(model) / divisor).astype(np.float32))
    return OptimizerState(type(optimizer).__name__, getattr(optimizer, "beta_1", 0.0), sizes, squares)


def _weights(model: Any) -> Iterator[tuple[str, Any, Callable[[np.ndarray], np.ndarray]]]:
    """Layer path, weight in Keras' own layout, and what converts that, for the layers that the library compresses."""
    for layer in model._flatten_layers():  # `layers` stops at the first level
        for kind, (attribute, to_layout) in _layouts().items():
            if isinstance(layer, kind) and getattr(layer, "built", False):
                yield layer.path, getattr(layer, attribute), to_layout
                break


def _float32(variable: Any) -> np.ndarray:
    """A variable of any backend as a float32 numpy array."""
    import keras

    return np.asarray(keras.ops.convert_to_numpy(variable), np.float32)


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
    return float(_float32(model.optimizer.learning_rate))
