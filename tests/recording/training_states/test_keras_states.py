"""Files of Keras 3 from each backend that is installed, against known gradients; a process has one backend."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dyncompress.errors import InvalidRequest
from dyncompress.recording.training_states import load_training_state
from dyncompress.types import TrainingState

h5py = pytest.importorskip("h5py", reason='needs h5py: pip install "dyncompress[recording]"')
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("keras") is None, reason='needs Keras: pip install "dyncompress[recording]"'
)
STEPS = 6
ADAMS = ["adam", "amsgrad", "adamw", "nadam", "lamb", "adamax", "clipped", "scaled"]
ALL = [*ADAMS, "adadelta", "adagrad", "rmsprop", "adafactor", "sgd", "scheduled", "plain", "lion"]

RUN = '''
import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, optimizers

from dyncompress.errors import InvalidRequest
from dyncompress.recording.training_states import save_training_state, training_state_of

STEPS = 6
schedule = optimizers.schedules.ExponentialDecay(1e-3, 10, 0.9)
OPTIMIZERS = {
    "adam": lambda: optimizers.Adam(1e-3, beta_2=0.9),
    "amsgrad": lambda: optimizers.Adam(1e-3, amsgrad=True, use_ema=True, ema_momentum=0.5),
    "adamw": lambda: optimizers.AdamW(schedule, gradient_accumulation_steps=2),
    "nadam": lambda: optimizers.Nadam(schedule),
    "lamb": lambda: optimizers.Lamb(1e-3),
    "adamax": lambda: optimizers.Adamax(1e-3),
    "adadelta": lambda: optimizers.Adadelta(1e-3, rho=0.8),
    "adagrad": lambda: optimizers.Adagrad(1e-3, initial_accumulator_value=0.2),
    "rmsprop": lambda: optimizers.RMSprop(1e-3, momentum=0.9, centered=True, use_ema=True),
    "adafactor": lambda: optimizers.Adafactor(1e-3),
    "sgd": lambda: optimizers.SGD(0.1, momentum=0.9),
    "scheduled": lambda: optimizers.SGD(schedule, momentum=0.9),
    "clipped": lambda: optimizers.Adam(1e-3, global_clipnorm=1e6),
    "scaled": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(1e-3), initial_scale=1.0),
    "plain": lambda: optimizers.SGD(0.1),
    "lion": lambda: optimizers.Lion(1e-3),
}


class Own(keras.Model):
    """Layers in attributes, two of which have one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.z, self.a, self.out = layers.Dense(4), layers.Dense(4), layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.out(self.a(self.z(x)))


def functional() -> keras.Model:
    """Layers of equal shapes in branches, in a nested model, in attention, and one that is frozen."""
    inputs = keras.Input((5, 6))
    hidden = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    right, left = layers.Dense(6, name="z")(hidden), layers.Dense(6, name="a")(hidden)
    hidden = layers.BatchNormalization()(layers.Dense(6, name="frozen", trainable=False)(layers.Add()([left, right])))
    inner = keras.Sequential([layers.Conv1D(6, 2), layers.Dense(6), layers.Dense(6)], name="inner")
    hidden = layers.Bidirectional(layers.GRU(3))(inner(hidden))
    for _ in range(9):  # the file lists dense_10 before dense_2
        hidden = layers.Dense(6)(hidden)
    return keras.Model(inputs, layers.Dense(2)(hidden))


def small() -> keras.Model:
    """Two layers of one shape, and two of others."""
    return keras.Sequential([keras.Input((5, 6)), layers.Conv1D(6, 2), *(layers.Dense(6) for _ in range(2)), layers.Dense(3)])


def run(name: str, model: keras.Model, folder: Path) -> dict[str, Any]:
    """Apply known gradients, save the model in every form, and say what it has."""
    model.compile(optimizer=OPTIMIZERS[name](), loss="mse")
    variables = model.trainable_variables
    model.optimizer.build(variables)
    target = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    for step in range(STEPS):
        draws = [0.3 + np.random.default_rng((step, place)).standard_normal(v.shape) for place, v in enumerate(variables)]
        gradients = [keras.ops.convert_to_tensor(draw.astype("float32")) for draw in draws]
        target.apply(gradients, variables)
    model.save(folder / f"{name}.keras")
    if name in ("adam", "amsgrad", "rmsprop", "adagrad"):
        model.save(folder / f"{name}.h5")
    if name == "adam":
        model.save_weights(folder / "adam.weights.h5")
    np.savez(folder / f"{name}.values", **{str(i): keras.ops.convert_to_numpy(v) for i, v in enumerate(variables)})
    averages = getattr(model.optimizer, "_model_variables_moving_average", [])
    np.savez(folder / f"{name}.averages", **{str(i): keras.ops.convert_to_numpy(v) for i, v in enumerate(averages)})
    said = ""
    try:
        save_training_state(training_state_of(model, batch_size=8), folder / f"{name}.npz")
    except InvalidRequest as error:
        said = str(error)
    return {"paths": [v.path for v in variables], "shapes": [list(v.shape) for v in variables], "said": said}


folder, names = Path(sys.argv[1]), sys.argv[2:]
keras.utils.set_random_seed(0)
found = {name: run(name, functional() if name in ("adam", "amsgrad") else small(), folder) for name in names}
own = Own()
own(np.zeros((1, 4), "float32"))
OPTIMIZERS["own"] = OPTIMIZERS["adam"]
found["own"] = run("own", own, folder)
(folder / "runs.json").write_text(json.dumps({"backend": keras.backend.backend(), "runs": found}))
'''


def exponential(decay: float) -> Callable[[np.ndarray], np.ndarray]:
    def mean(gradients: np.ndarray) -> np.ndarray:
        weights = decay ** np.arange(len(gradients))[::-1]
        return np.tensordot(weights / weights.sum(), np.square(gradients), 1)

    return mean


def largest(gradients: np.ndarray) -> np.ndarray:
    weights = (0.999 ** np.arange(len(gradients))[::-1]).reshape(-1, *[1] * (gradients.ndim - 1))
    return np.square((np.abs(gradients) * weights).max(0))


def factored(gradients: np.ndarray) -> np.ndarray:
    rows = columns = np.zeros(())
    for step, gradient in enumerate(gradients, 1):
        rows = rows + step**-0.8 * (np.square(gradient).mean(-1, keepdims=True) - rows)
        columns = columns + step**-0.8 * (np.square(gradient).mean(-2, keepdims=True) - columns)
    return rows * columns / rows.mean(-2, keepdims=True)


def momentum(gradients: np.ndarray) -> np.ndarray:
    return np.square(np.tensordot(0.9 ** np.arange(len(gradients))[::-1], gradients, 1)) * (1 - 0.81)


EXPECTED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "adam": exponential(0.9),
    "adamax": largest,
    "adadelta": exponential(0.8),
    "adagrad": lambda g: np.square(g).mean(0),
    "rmsprop": exponential(0.9),
    "adafactor": factored,
    "sgd": momentum,
}


def gradients(place: int, shape: list[int], group: int = 1) -> np.ndarray:
    every = np.stack([0.3 + np.random.default_rng((step, place)).standard_normal(shape) for step in range(STEPS)])
    return every.reshape(-1, group, *shape).mean(1)


def start(backend: str, names: list[str], folder: Path) -> dict[str, Any]:
    """What the runs of a backend say, whose files lie in the folder."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f'needs {backend}: pip install "dyncompress[recording]"')
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, "-c", RUN, str(folder), *names]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads((folder / "runs.json").read_text())
    assert said["backend"] == backend
    return said["runs"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("keras")
    return folder, start("torch", ALL, folder)


def check(state: TrainingState, name: str, folder: Path, run: dict[str, Any]) -> None:
    """Every kernel of the run is in the state, with the mean square of its own gradients."""
    with np.load(folder / f"{name}.values.npz") as file:
        values = [file[str(place)] for place in range(len(run["shapes"]))]
    with np.load(folder / f"{name}.averages.npz") as file:
        averages = [file[str(place)] for place in range(len(file.files))]
    kernels = [place for place, shape in enumerate(run["shapes"]) if len(shape) > 1]
    assert len(state.parameters) == len(kernels)
    expected = EXPECTED.get(name, EXPECTED["sgd"] if name == "scheduled" else exponential(0.999))
    for saved, place in zip(state.parameters.values(), kernels, strict=True):
        np.testing.assert_array_equal(saved.values[0], values[place])
        want = expected(gradients(place, run["shapes"][place], 2 if name == "adamw" else 1))
        if name == "scheduled":  # the rate of each step is in the buffer, and unknown
            continue
        np.testing.assert_allclose(saved.square, want, rtol=2e-3 if name == "adafactor" else 1e-4, atol=1e-5)
        assert len(saved.values) == 1 + bool(averages)
        if averages:
            np.testing.assert_array_equal(saved.values[1], averages[place])


KINDS = {"amsgrad": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "sgd": "SGD", "scheduled": "SGD", "clipped": "Adam"}


@pytest.mark.parametrize("name", ALL[:-2])
def test_each_optimizer_gives_the_mean_square_of_its_gradients(name: str, runs: tuple[Path, dict[str, Any]]) -> None:
    folder, said = runs
    state = load_training_state(folder / f"{name}.keras", batch_size=8)
    assert not state.notes, state.notes
    check(state, name, folder, said[name])
    assert state.batch_size == 8 and state.steps == (STEPS // 2 if name == "adamw" else STEPS)
    assert state.relative == (name in ("adamax", "scheduled", "clipped"))
    assert state.optimizer == KINDS.get(name, {"scaled": "Adam"}.get(name, name.capitalize()))
    in_memory = load_training_state(folder / f"{name}.npz")
    assert in_memory.batch_size == 8 and in_memory.relative == state.relative
    check(in_memory, name, folder, said[name])
    assert list(in_memory.parameters) == [path for path in said[name]["paths"] if path in in_memory.parameters]


@pytest.mark.slow
def test_the_backend_makes_no_difference(tmp_path: Path) -> None:
    said = start("jax", ["adam", "sgd", "rmsprop"], tmp_path)
    for name in ("adam", "sgd", "rmsprop"):
        check(load_training_state(tmp_path / f"{name}.keras"), name, tmp_path, said[name])
        check(load_training_state(tmp_path / f"{name}.npz"), name, tmp_path, said[name])


@pytest.mark.parametrize("name", ["adam", "amsgrad", "rmsprop", "adagrad"])
def test_whole_models_in_h5(name: str, runs: tuple[Path, dict[str, Any]]) -> None:
    folder, said = runs
    state = load_training_state(folder / f"{name}.h5")
    check(state, name, folder, said[name])
    assert state.steps == STEPS and "kernel" in next(iter(state.parameters))


def test_what_keeps_no_squares_is_refused_with_the_reason(runs: tuple[Path, dict[str, Any]]) -> None:
    folder, said = runs
    for name, kind in (("plain", "SGD"), ("lion", "Lion")):
        with pytest.raises(InvalidRequest, match=f"the optimizer {kind} keeps no squares of gradients that are read; give"):
            load_training_state(folder / f"{name}.keras")
        assert f"the optimizer {kind} keeps no squares of gradients that are read" in said[name]["said"]
    with pytest.raises(InvalidRequest, match=r'holds weights and no state of an optimizer; save .* model.save\("run.keras"\)'):
        load_training_state(folder / "adam.weights.h5")


def test_layers_of_ones_own_class_are_left_out_where_their_order_is_unknown(runs: tuple[Path, dict[str, Any]]) -> None:
    folder, said = runs
    state = load_training_state(folder / "own.keras")
    assert [saved.square.shape for saved in state.parameters.values()] == [(4, 3)]
    assert state.notes == (
        "parameters of shape [4, 4] are left out: the file doesn't tell the order of the layers within layers of a class of your "
        "own",
    )
    in_memory = load_training_state(folder / "own.npz")  # which knows the order
    assert [saved.square.shape for saved in in_memory.parameters.values()] == [(4, 4), (4, 4), (4, 3)]
    for place, saved in zip((0, 2, 4), in_memory.parameters.values(), strict=True):
        np.testing.assert_allclose(saved.square, exponential(0.9)(gradients(place, said["own"]["shapes"][place])), rtol=1e-4)


def rewritten(path: Path, change: Callable[[Any], None], config: Callable[[Any], None] = lambda _: None) -> None:
    """Change the weights or the configuration in a `.keras` file."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    content, text = io.BytesIO(parts["model.weights.h5"]), json.loads(parts["config.json"])
    with h5py.File(content, "r+") as file:
        change(file)
    config(text)
    parts |= {"model.weights.h5": content.getvalue(), "config.json": json.dumps(text).encode()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)


def test_changed_files_are_refused(runs: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = runs

    def replaced(name: str, value: Any) -> Callable[[Any], None]:
        def change(file: Any) -> None:
            del file[name]
            file[name] = value

        return change

    def outside(file: Any) -> None:
        file["optimizer/vars"]["more"] = h5py.ExternalLink(str(folder / "adam.h5"), "/")

    def huge(file: Any) -> None:
        file.create_dataset("optimizer/vars/more", (2**40,), "f4", chunks=(2**20,), compression="gzip")

    def cut(file: Any) -> None:
        del file[f"optimizer/vars/{len(file['optimizer/vars']) - 1}"]

    def stranger(config: Any) -> None:
        config["compile_config"]["optimizer"]["class_name"] = "Mine"

    def uncompiled(config: Any) -> None:
        config["compile_config"] = None

    changes: list[tuple[str, Callable[[Any], None], Callable[[Any], None]]] = [
        ("aren't finite", replaced("optimizer/vars/3", np.full((6, 2, 3), np.nan, np.float32)), lambda _: None),
        ("can't be below zero", replaced("optimizer/vars/3", np.full((6, 2, 3), -1, np.float32)), lambda _: None),
        ("variables, which is none of its numbers", cut, lambda _: None),
        ("is a link", outside, lambda _: None),
        ("can't take", huge, lambda _: None),
        ("the optimizer Mine keeps no squares", lambda _: None, stranger),
        ("holds no state of an optimizer; save", lambda _: None, uncompiled),
        ("can't be read", lambda file: file.pop("optimizer/vars/3"), lambda _: None),
    ]
    for words, change, config in changes:
        path = Path(shutil.copy(folder / "adam.keras", tmp_path / "a.keras"))
        rewritten(path, change, config)
        with pytest.raises(InvalidRequest, match=words):
            load_training_state(path)
    whole = (folder / "adam.keras").read_bytes()
    for size in range(0, len(whole), len(whole) // 20):
        (tmp_path / "b.keras").write_bytes(whole[:size])
        with pytest.raises(InvalidRequest, match=r"can't be read \("):
            load_training_state(tmp_path / "b.keras")
    whole = (folder / "adam.h5").read_bytes()
    for size in range(0, len(whole) - 4096, len(whole) // 20):
        (tmp_path / "b.h5").write_bytes(whole[:size])
        with pytest.raises(InvalidRequest, match=r"can't be read \("):
            load_training_state(tmp_path / "b.h5")
