"""Rows of the gallery from other libraries: small networks that Keras, JAX and scikit-learn train here and export themselves.

Training takes seconds and has a fixed seed. Keras and scikit-learn run in this process (extra `gallery`). jax2onnx needs twenty
packages that nothing else here does, and runs in a separate environment: set `GALLERY_JAX_PYTHON` to an interpreter that has it
(`python -m venv e && e/bin/pip install jax2onnx`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.frontier_data import NotHereError
from benchmarks.gallery_peers import PeerProcess
from benchmarks.gallery_row import Row, Run
from tests.data import mnist

JAX_PYTHON = "GALLERY_JAX_PYTHON"
TRAINING, CALIBRATION, TEST, HELD_OUT = 10_000, 256, 2_000, 2_000
STEPS = 400  # of training in JAX
Examples = Callable[[str], tuple[np.ndarray, np.ndarray]]  # the name of a split -> inputs [n, ...], labels [n]


def needs(package: str) -> None:
    """Check that a package is installed.

    Raises:
        NotHereError: it isn't.
    """
    if find_spec(package) is None:
        raise NotHereError(f'{package} isn\'t installed: pip install -c constraints.txt ".[gallery]"')


@cache
def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """MNIST images `[n, 28, 28, 1]` in [0, 1] and labels `[n]`, of `training`, `calibration`, `test` or `held_out`.

    Calibration examples are the first of those that train the network.
    """
    if split in ("training", "calibration"):
        x, y = mnist("train", TRAINING if split == "training" else CALIBRATION)
    else:
        part = slice(TEST) if split == "test" else slice(TEST, None)
        x, y = (values[part] for values in mnist("test", TEST + HELD_OUT))
    return np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1)), y.numpy()


def flat_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The same with images of 784 numbers, `[n, 784]`."""
    x, y = digits(split)
    return x.reshape(len(x), -1), y


# ---------------------------------------------------------------- networks
@cache
def keras_file() -> bytes:
    """A convolutional network of Keras 3 on its torch backend, as `model.export(format="onnx")` writes it.

    Raises:
        NotHereError: Keras isn't installed, or runs on another backend here.
    """
    needs("keras")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras
    from keras import layers

    if keras.backend.backend() != "torch":
        raise NotHereError("this process runs Keras on another backend than torch; set KERAS_BACKEND=torch")
    keras.utils.set_random_seed(0)
    inner = [
        layers.Conv2D(16, 3, padding="same", use_bias=False),
        layers.BatchNormalization(momentum=0.9),
        layers.ReLU(),
        layers.MaxPooling2D(),
        layers.SeparableConv2D(32, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(32, 3, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10, activation="softmax"),
    ]
    model = keras.Sequential([keras.Input((28, 28, 1), name="image"), *inner])
    model.compile(keras.optimizers.Adam(0.005), loss="sparse_categorical_crossentropy")
    with warnings.catch_warnings(), TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # of the exporter's own code
        model.fit(*digits("training"), batch_size=64, epochs=3, verbose=0)
        path = Path(folder) / "model.onnx"
        model.export(path, format="onnx", verbose=False)
        return path.read_bytes()


@cache
def jax_file() -> bytes:
    """A convolutional network of JAX, as jax2onnx writes it.

    Raises:
        NotHereError: there is no interpreter with jax2onnx.
    """
    x, y = digits("training")
    with PeerProcess(JAX_PYTHON, "jax2onnx") as process:
        return process.ask("jax_network", images=x, labels=y, steps=STEPS)["content"]


@cache
def sklearn_file() -> bytes:
    """A multilayer perceptron of scikit-learn, as skl2onnx writes it: the class comes first, and the probabilities second.

    Raises:
        NotHereError: scikit-learn or skl2onnx isn't installed.
    """
    needs("sklearn")
    needs("skl2onnx")
    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPClassifier

    x, y = flat_digits("training")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ten epochs are enough here
        model = MLPClassifier((256, 128), batch_size=128, max_iter=10, random_state=0).fit(x, y)
    return to_onnx(model, x[:1], options={"zipmap": False}).SerializeToString()


# ---------------------------------------------------------------- rows
def right(run: Run, input_name: str, examples: Examples, scores: int) -> np.ndarray:
    """Whether the class of each test example is right, `[n]`; `scores` is the place of the scores among the outputs."""
    x, y = examples("test")
    return (run({input_name: x})[scores].argmax(1) == y).astype(np.float64)


def row(name: str, made_by: str, float_file: Callable[[], bytes], input_name: str, examples: Examples, scores: int = 0) -> Row:
    """A row of a network that classifies digits."""

    def held_out() -> tuple[dict[str, np.ndarray], np.ndarray]:
        x, y = examples("held_out")
        return {input_name: x}, y

    return Row(
        name=name,
        kind="digits",
        made_by=made_by,
        metric="images whose class is right",
        float_file=float_file,
        calibration=lambda: {input_name: examples("calibration")[0]},
        judge=lambda run: right(run, input_name, examples, scores),
        example=lambda: {input_name: examples("test")[0][:1]},
        held_out=held_out,
        risk="zero_one",
    )


ROWS: tuple[Row, ...] = (
    row("keras-digits", "Keras 3, model.export on torch", keras_file, "image", digits),
    row("jax-digits", "JAX, jax2onnx", jax_file, "in_0", digits),
    row("sklearn-digits", "scikit-learn, skl2onnx", sklearn_file, "X", flat_digits, scores=1),
)
