# pyright: reportMissingImports=false
# (JAX and optax are optional dependencies: they are imported when a function is called)
"""Record training with optax: a gradient transformation that passes updates on unchanged and records the resulting weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.recording.layout import outputs_first
from dyncompress.recording.writer import EVERY, TrajectoryWriter

INPUTS_FIRST = ("kernel", "w")  # the names that flax and haiku give weights of layout `(*kernel, in / groups, out)`


def recorded(writer: TrajectoryWriter, every: int = EVERY) -> Any:
    """The last part of an `optax.chain`: it passes updates on, and records `params + updates` every few steps, also inside `jit`.

        optimizer = optax.chain(optax.sgd(0.01), recorded(writer))
        updates, state = optimizer.update(gradients, state, params, value=loss)

    The loss is recorded if `update` gets it as `value`, which is optax's name for it. After training, call
    `writer.finish(layer_weights(params))` to store the digest of the final weights. The host is called in order (`io_callback`),
    which works on one device.

    Args:
        writer: that receives the iterates.
        every: optimizer steps between records.

    Returns:
        An `optax.GradientTransformationExtraArgs`. Its `update` raises InvalidRequest if it gets no `params`.

    Raises:
        InvalidRequest: `every` is below 1.
    """
    import jax
    import optax
    from jax.experimental import io_callback

    if every < 1:
        raise InvalidRequest(f"recorded: every is {every}; it must be at least 1.")

    def init(params: Any) -> Any:
        """The state before the first step: the number of steps, 0."""
        return jax.numpy.zeros((), "int32")

    def update(updates: Any, state: Any, params: Any = None, *, value: Any = None, **_: Any) -> tuple[Any, Any]:
        """Return the updates unchanged and the state with one step more."""
        if params is None:
            raise InvalidRequest("recorded: `params` are needed; call optimizer.update(gradients, state, params).")
        step, loss = state + 1, jax.numpy.asarray(np.nan if value is None else value)
        leaves = _leaves(optax.apply_updates(params, updates))
        names, arrays = [name for name, _ in leaves], [array for _, array in leaves]

        def append(step: Any, loss: Any, arrays: Sequence[Any]) -> None:
            writer.append(int(step), _to_layout(names, arrays), np.asarray(loss, np.float32))

        def call_host() -> None:
            io_callback(append, None, step, loss, arrays, ordered=True)

        jax.lax.cond(step % every == 0, call_host, lambda: None)
        return updates, step

    return optax.GradientTransformationExtraArgs(init, update)


def layer_weights(params: Any) -> dict[str, np.ndarray]:
    """The weights of a pytree: all leaves with two or more axes.

    Leaves named `kernel` (flax) or `w` (haiku) are converted from `(*kernel, in / groups, out)`. All others keep their layout:
    those of equinox have the library's already, and embeddings are `(n, features)`.

    Args:
        params: any pytree.

    Returns:
        Name -> weight `(out, in / groups, *kernel)`, float32. A name is the path of the leaf, joined by dots.
    """
    leaves = _leaves(params)
    return _to_layout([name for name, _ in leaves], [array for _, array in leaves])


def _leaves(params: Any) -> list[tuple[str, Any]]:
    """(name, leaf) of the leaves that are weights."""
    import jax

    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    named = [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]
    return [(name, leaf) for name, leaf in named if np.ndim(leaf) > 1]


def _to_layout(names: Sequence[str], arrays: Sequence[Any]) -> dict[str, np.ndarray]:
    """Name -> weight in the library's layout; float32, since numpy has no bfloat16."""
    weights = {}
    for name, array in zip(names, arrays, strict=True):
        weight = np.asarray(array).astype(np.float32)
        weights[name] = outputs_first(weight) if name.rpartition(".")[2] in INPUTS_FIRST else weight
    return weights
