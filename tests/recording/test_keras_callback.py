"""Keras 3 on each backend that is installed; a process has one backend, so each runs in its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dyncompress.recording import load_trajectory

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("keras") is None, reason='needs Keras: pip install "dyncompress[recording]"'
)
RUN = '''
import json, sys
import numpy as np, keras
from keras import layers
from dyncompress.recording import TrajectoryWriter, weights_digest
from dyncompress.recording.keras_callback import keras_callback, layer_weights

keras.utils.set_random_seed(0)
inner = keras.Sequential([layers.DepthwiseConv2D(3, depth_multiplier=2), layers.Conv2DTranspose(3, (2, 3))], name="inner")
model = keras.Sequential([keras.Input((8, 7, 4)), layers.Conv2D(6, (3, 2), groups=2), inner, layers.Flatten(), layers.Dense(2)])
model.compile(optimizer=keras.optimizers.SGD(0.05), loss="mse")
x, y = np.random.default_rng(0).standard_normal((56, 8, 7, 4)), np.random.default_rng(1).standard_normal((56, 2))
seen = []

class Exact(keras.callbacks.Callback):
    """Computes the loss of each batch before its step, without the training loop."""

    def on_train_batch_begin(self, batch, logs=None):
        rows = slice(8 * batch, 8 * batch + 8)
        seen.append(float(np.square(np.asarray(keras.ops.convert_to_numpy(self.model(x[rows]))) - y[rows]).mean()))

writer = TrajectoryWriter(batch_size=8)
model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[Exact(), keras_callback(writer, every=3)])
writer.save(sys.argv[1])
shapes = {name: list(weight.shape) for name, weight in layer_weights(model).items()}
dense = keras.ops.convert_to_numpy(model.layers[-1].kernel).T.tolist()
print(json.dumps({"losses": seen, "shapes": shapes, "digest": weights_digest(layer_weights(model)), "dense": dense,
                  "backend": keras.backend.backend(), "last": layer_weights(model)[model.layers[-1].path].tolist()}))
'''


@pytest.mark.parametrize("backend", [pytest.param("torch", marks=pytest.mark.slow), "jax"])
def test_every_few_batches_are_recorded_and_the_end_is_the_models(backend: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f'needs {backend}: pip install "dyncompress[recording]"')
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, "-c", RUN, str(tmp_path / "run.npz")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result, trajectory = json.loads(done.stdout), load_trajectory(tmp_path / "run.npz")
    assert result["backend"] == backend
    assert trajectory.steps.tolist() == [3, 6, 9, 12]  # two epochs of seven batches
    np.testing.assert_allclose(trajectory.losses, np.array(result["losses"])[2::3], rtol=1e-4)
    assert trajectory.learning_rate == pytest.approx(0.05)
    assert trajectory.digest == result["digest"] and result["last"] == result["dense"]
    assert sorted(map(tuple, result["shapes"].values())) == sorted([(6, 2, 3, 2), (12, 1, 3, 3), (3, 12, 2, 3), (2, 90)])
    assert {name: list(motion.mean.shape) for name, motion in trajectory.motion.items()} == result["shapes"]
    assert all((motion.increment_variance > 0).any() for motion in trajectory.motion.values())


ADAM = """
import json, sys
import numpy as np, keras
from keras import layers
from dyncompress.recording import TrajectoryWriter
from dyncompress.recording.keras_callback import keras_callback

keras.utils.set_random_seed(0)
inner = keras.Sequential([layers.Dense(8, use_bias=False)], name="inner")
model = keras.Sequential([keras.Input((6,)), inner, layers.Dense(3, use_bias=False)])
model.compile(optimizer=keras.optimizers.Adam(1e-4, beta_1=0.5, beta_2=0.9), loss="mse")
x, y = np.random.default_rng(0).standard_normal((800, 6)), np.random.default_rng(1).standard_normal((800, 3))
writer = TrajectoryWriter(batch_size=4)
model.fit(x, y, batch_size=4, epochs=1, shuffle=False, verbose=0, callbacks=[keras_callback(writer, every=1)])
writer.save(sys.argv[1])

kernels = [np.asarray(keras.ops.convert_to_numpy(w), float) for w in model.trainable_weights]
slopes = [[], []]
for rows in range(0, 800, 4):  # gradients at the end, which are those of the whole run: the weights hardly moved
    a, h = x[rows:rows + 4], x[rows:rows + 4] @ kernels[0]
    d = 2 * (h @ kernels[1] - y[rows:rows + 4]) / 12
    slopes[0].append(a.T @ (d @ kernels[1].T))
    slopes[1].append(h.T @ d)
print(json.dumps([np.var(s, 0).T.tolist() for s in slopes]))
"""


@pytest.mark.parametrize("backend", [pytest.param("torch", marks=pytest.mark.slow), "jax"])
def test_adams_state_gives_the_squares_and_sums_of_gradients(backend: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f'needs {backend}: pip install "dyncompress[recording]"')
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, "-c", ADAM, str(tmp_path / "run.npz")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trajectory = load_trajectory(tmp_path / "run.npz")
    assert trajectory.optimizer == "Adam"
    for (name, variance), expected in zip(trajectory.gradient_variance.items(), json.loads(done.stdout), strict=True):
        assert np.median(variance / np.array(expected)) == pytest.approx(1, abs=0.1)
        sums = trajectory.gradient_sums[name][1:]  # of one step each, an average with m = 0.5: a third of the variance
        assert sums.var(0).mean() * 3 == pytest.approx(variance.mean(), rel=0.25)
