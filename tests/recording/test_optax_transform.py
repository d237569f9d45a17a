"""An optax chain with the recorder at its end, with and without jit."""

from __future__ import annotations

import os

import numpy as np
import pytest

from dyncompress.errors import InvalidRequest
from dyncompress.recording import TrajectoryWriter, weights_digest
from dyncompress.recording.optax_transform import layer_weights, recorded

os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax = pytest.importorskip("jax", reason='needs JAX: pip install "dyncompress[recording]"')
optax = pytest.importorskip("optax", reason='needs optax: pip install "dyncompress[recording]"')
pytestmark = pytest.mark.filterwarnings("ignore")


def parameters() -> dict:
    """As flax names them."""
    draw = np.random.default_rng(0).standard_normal
    head = {"kernel": draw((4, 3)).astype(np.float32), "bias": np.zeros(3, np.float32)}
    return {"conv": {"kernel": draw((3, 5, 2, 4)).astype(np.float32)}, "head": head, "table": {"embedding": np.ones((7, 2))}}


def loss(params: dict, x: object) -> object:
    return sum(jax.numpy.square(leaf - x).mean() for leaf in jax.tree_util.tree_leaves(params))


def train(jitted: bool) -> tuple[dict, TrajectoryWriter, list[tuple[dict, float]]]:
    """Eleven steps; the iterates and losses as the loop sees them."""
    writer = TrajectoryWriter(learning_rate=0.05)
    optimizer = optax.chain(optax.sgd(0.05, momentum=0.9), recorded(writer, every=3))
    params = jax.tree_util.tree_map(jax.numpy.asarray, parameters())
    state, seen = optimizer.init(params), []

    def step(params: dict, state: object, x: object) -> tuple:
        value, slope = jax.value_and_grad(loss)(params, x)
        updates, state = optimizer.update(slope, state, params, value=value)
        return optax.apply_updates(params, updates), state, value

    step = jax.jit(step) if jitted else step
    for x in range(11):
        params, state, value = step(params, state, float(x % 3))
        seen.append((layer_weights(params), float(value)))
    jax.effects_barrier()
    return params, writer, seen


@pytest.mark.parametrize("jitted", [True, False])
def test_the_iterates_of_every_few_steps_are_recorded(jitted: bool) -> None:
    params, writer, seen = train(jitted)
    trajectory = writer.trajectory()
    assert trajectory.steps.tolist() == [3, 6, 9]
    np.testing.assert_allclose(trajectory.losses, [value for _, value in seen[2::3]], rtol=1e-5)
    shapes = {name: motion.mean.shape for name, motion in trajectory.motion.items()}
    assert shapes == {"conv.kernel": (4, 2, 3, 5), "head.kernel": (3, 4), "table.embedding": (7, 2)}
    for name, motion in trajectory.motion.items():
        values = np.stack([weights[name] for weights, _ in seen[2::3]]).astype(np.float64)
        np.testing.assert_allclose(motion.mean, values.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(motion.variance, values.var(0, ddof=1), rtol=1e-4)
    writer.finish(layer_weights(params))
    assert writer.trajectory().digest == weights_digest(seen[-1][0])


def test_updates_pass_unchanged_and_a_loss_is_optional() -> None:
    writer, params = TrajectoryWriter(), {"w": jax.numpy.ones((2, 3))}
    transform = recorded(writer, every=1)
    updates, state = transform.update({"w": jax.numpy.full((2, 3), 0.5)}, transform.init(params), params)
    jax.effects_barrier()
    assert np.array_equal(updates["w"], np.full((2, 3), 0.5)) and int(state) == 1
    trajectory = writer.trajectory()
    assert trajectory.motion["w"].mean.tolist() == [[1.5, 1.5]] * 3
    assert np.isnan(trajectory.losses).all()


def test_half_precision_is_read() -> None:
    writer, params = TrajectoryWriter(), {"w": jax.numpy.ones((2, 3), jax.numpy.bfloat16)}
    transform = recorded(writer, every=1)
    transform.update({"w": jax.numpy.ones((2, 3), jax.numpy.bfloat16)}, transform.init(params), params)
    jax.effects_barrier()
    assert writer.trajectory().motion["w"].mean.tolist() == [[2.0, 2.0]] * 3


def test_invalid_requests_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="every is 0"):
        recorded(TrajectoryWriter(), every=0)
    transform = recorded(TrajectoryWriter())
    with pytest.raises(InvalidRequest, match=r"optimizer\.update\(gradients, state, params\)"):
        transform.update({"w": np.ones((2, 2))}, transform.init({}))
