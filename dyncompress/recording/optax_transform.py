# pyright: reportMissingImports=false
# (JAX and optax are the caller's: nothing here is imported before a function is called)
"""Hooks a TrajectoryWriter into optax: a gradient transformation that changes nothing and records what the others make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.recording.layout import outputs_first
from dyncompress.recording.writer import EVERY, TrajectoryWriter

INPUTS_FIRST = ("kernel", "w")  # how flax and haiku name weights `(*kernel, in / groups, out)`


def recorded(writer: TrajectoryWriter, every: int = EVERY) -> Any:
    """The last part of an `optax.chain`: passes updates on, and records `params + updates` every few steps, inside `jit` too.

        optimizer = optax.chain(optax.sgd(0.01), recorded(writer))
        updates, state = optimizer.update(gradients, state, params, value=loss)

    The loss is recorded where `update` is given it as `value`, optax's own name for it. `writer.finish(layer_weights(params))`
    ties the record to the weights that training ended with. One device: the host is called in order (`io_callback`).

    Args:
        writer: where iterates go.
        every: optimizer steps from one record to the next.

    Returns:
        an `optax.GradientTransformationExtraArgs`.

    Raises:
        InvalidRequest: `every` is below 1; or, when it is used, `params` were not given.
    """
    import jax
    import optax
    from jax.experimental import io_callback

    if every < 1:
        raise InvalidRequest(f"recorded: every is {every}; it must be at least 1.")

    def init(params: Any) -> Any:
        """No step taken."""
        return jax.numpy.zeros((), "int32")

    def update(updates: Any, state: Any, params: Any = None, *, value: Any = None, **_: Any) -> tuple[Any, Any]:
        """Updates as they came, one step counted."""
        if params is None:
            raise InvalidRequest("recorded: the iterates are needed; call optimizer.update(gradients, state, params).")
        step, loss = state + 1, jax.numpy.asarray(np.nan if value is None else value)
        leaves = _leaves(optax.apply_updates(params, updates))
        names, arrays = [name for name, _ in leaves], [array for _, array in leaves]

        def append(step: Any, loss: Any, arrays: Sequence[Any]) -> None:
            writer.append(int(step), _laid_out(names, arrays), np.asarray(loss, np.float32))

        def tell() -> None:
            io_callback(append, None, step, loss, arrays, ordered=True)

        jax.lax.cond(step % every == 0, tell, lambda: None)
        return updates, step

    return optax.GradientTransformationExtraArgs(init, update)


def layer_weights(params: Any) -> dict[str, np.ndarray]:
    """Name -> weight `(out, in / groups, *kernel)`, float32, of every leaf with two axes or more.

    Names are the path of the leaf, joined by dots. Leaves named `kernel` (flax) or `w` (haiku) are turned from
    `(*kernel, in / groups, out)`; all others are taken as they lie (equinox: already so; embeddings `(n, features)`).

    Args:
        params: any pytree.
    """
    leaves = _leaves(params)
    return _laid_out([name for name, _ in leaves], [array for _, array in leaves])


def _leaves(params: Any) -> list[tuple[str, Any]]:
    """The leaves that are weights, by name."""
    import jax

    found, _ = jax.tree_util.tree_flatten_with_path(params)
    named = [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in found]
    return [(name, leaf) for name, leaf in named if np.ndim(leaf) > 1]


def _laid_out(names: Sequence[str], arrays: Sequence[Any]) -> dict[str, np.ndarray]:
    """Every weight with its outputs first; float32, since numpy knows no bfloat16."""
    found = {}
    for name, array in zip(names, arrays, strict=True):
        weight = np.asarray(array).astype(np.float32)
        found[name] = outputs_first(weight) if name.rpartition(".")[2] in INPUTS_FIRST else weight
    return found
