"""States of optax against mean squares computed in float64 from the gradients of every step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from dyncompress.errors import InvalidRequest
from dyncompress.recording.training_states import (
    is_training_state,
    load_training_state,
    save_training_state,
    training_state_of,
)

os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax = pytest.importorskip("jax", reason='needs JAX: pip install "dyncompress[recording]"')
optax = pytest.importorskip("optax", reason='needs optax: pip install "dyncompress[recording]"')
pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = 6


def parameters() -> dict[str, Any]:
    draw = np.random.default_rng(0).standard_normal
    head = {"kernel": draw((4, 3)).astype(np.float32), "bias": np.zeros(3, np.float32)}
    return {"layers": [{"kernel": draw((3, 2, 4)).astype(np.float32)}], "head": head}


def gradient(step: int) -> dict[str, Any]:
    draw = np.random.default_rng(step + 1).standard_normal
    return jax.tree_util.tree_map(lambda leaf: (0.5 + draw(leaf.shape)).astype(np.float32), parameters())


def run(transform: Any) -> tuple[Any, Any]:
    params = jax.tree_util.tree_map(jax.numpy.asarray, parameters())
    state = transform.init(params)
    for step in range(STEPS):
        updates, state = transform.update(gradient(step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def history(group: int = 1) -> dict[str, np.ndarray]:
    """The gradients of every step by parameter, averaged over groups of steps."""
    found = {"layers.0.kernel": [gradient(s)["layers"][0]["kernel"] for s in range(STEPS)]}
    found["head.kernel"] = [gradient(s)["head"]["kernel"] for s in range(STEPS)]
    return {k: np.stack(v).astype(np.float64).reshape(-1, group, *v[0].shape).mean(1) for k, v in found.items()}


def exponential(gradients: np.ndarray, decay: float, *, filled: bool = True) -> np.ndarray:
    weights = (1 - decay) * decay ** np.arange(len(gradients))[::-1]
    return np.tensordot(weights / (weights.sum() if filled else 1), np.square(gradients), 1)


def rows_and_columns(gradients: np.ndarray) -> np.ndarray:
    """Adafactor, with the longest axis and the second longest."""
    second, longest = (axis + 1 for axis in np.argsort(gradients.shape[1:])[-2:])
    weights = np.ones(0)
    for step in range(1, len(gradients) + 1):
        weights = np.append(weights * (1 - step**-0.8), step**-0.8)
    rows, columns = (np.tensordot(weights, np.square(gradients).mean(axis, keepdims=True), 1) for axis in (longest, second))
    return rows * columns / rows.mean(second - 1, keepdims=True)


factored = optax.scale_by_factored_rms
CASES: dict[str, tuple[Any, Any, str, bool]] = {  # transform, known answer, optimizer, whether a note says the decay is a guess
    "adam": (lambda: optax.adam(1e-3), lambda g: exponential(g, 0.999), "Adam", True),
    "clipped adamw": (
        lambda: optax.chain(optax.clip_by_global_norm(1e9), optax.adamw(optax.cosine_decay_schedule(1e-3, 9))),
        lambda g: exponential(g, 0.999),
        "Adam",
        True,
    ),
    "amsgrad": (lambda: optax.amsgrad(1e-3), lambda g: exponential(g, 0.999), "Adam", True),
    "lamb": (lambda: optax.lamb(1e-3), lambda g: exponential(g, 0.999), "Adam", True),
    "injected": (lambda: optax.inject_hyperparams(optax.adam)(1e-3, b2=0.9), lambda g: exponential(g, 0.9), "Adam", False),
    "injected inside": (
        lambda: optax.chain(optax.identity(), optax.inject_hyperparams(optax.rmsprop)(1e-3, decay=0.8, bias_correction=True)),
        lambda g: exponential(g, 0.8),
        "RMSprop",
        False,
    ),
    "rmsprop": (lambda: optax.rmsprop(1e-3), lambda g: exponential(g, 0.9, filled=False), "RMSprop", True),
    "rmsprop scheduled": (
        lambda: optax.rmsprop(optax.cosine_decay_schedule(1e-3, 9), centered=True),
        lambda g: exponential(g, 0.9),
        "RMSprop",
        True,
    ),
    "rmsprop momentum": (
        lambda: optax.rmsprop(1e-3, momentum=0.9, bias_correction=True),
        lambda g: exponential(g, 0.9),
        "RMSprop",
        True,
    ),
    "adadelta": (lambda: optax.adadelta(1e-3), lambda g: exponential(g, 0.9, filled=False), "Adadelta", True),
    "adagrad": (
        lambda: optax.adagrad(optax.constant_schedule(1e-3)),
        lambda g: np.square(g).mean(0),
        "Adagrad",
        False,
    ),
    "factored": (lambda: factored(min_dim_size_to_factor=2), rows_and_columns, "Adafactor", False),
    "adafactor": (
        lambda: optax.adafactor(1e-3),
        lambda g: np.tensordot(_adafactor_weights(len(g)), np.square(g), 1),
        "Adafactor",
        False,
    ),
    "sgd": (lambda: optax.sgd(1e-3, momentum=0.9), lambda g: _trace(g), "SGD", True),
}


def _adafactor_weights(steps: int) -> np.ndarray:
    weights = np.ones(0)
    for step in range(1, steps + 1):
        weights = np.append(weights * (1 - step**-0.8), step**-0.8)
    return weights


def _trace(gradients: np.ndarray) -> np.ndarray:
    return np.square(np.tensordot(0.9 ** np.arange(len(gradients))[::-1], gradients, 1)) * (1 - 0.81)


@pytest.mark.parametrize("case", CASES)
def test_each_transformation_gives_the_mean_square_of_its_gradients(case: str) -> None:
    make, expected, optimizer, guessed = CASES[case]
    params, opt_state = run(make())
    state = training_state_of((params, opt_state), batch_size=4)
    assert set(state.parameters) == {"layers.0.kernel", "head.kernel"}
    assert state.optimizer == optimizer and bool(state.notes) == guessed and state.batch_size == 4
    for name, gradients in history().items():
        np.testing.assert_allclose(state.parameters[name].square, expected(gradients), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(state.parameters["head.kernel"].values[0], params["head"]["kernel"])


def test_masked_partitioned_and_accumulated() -> None:
    only_head = optax.masked(optax.adam(1e-3), {"layers": [{"kernel": False}], "head": {"kernel": True, "bias": True}})
    state = training_state_of(run(only_head))
    assert list(state.parameters) == ["head.kernel"]
    parts = {"a": optax.adam(1e-3), "b": optax.sgd(1e-3, momentum=0.9)}
    labels = {"layers": [{"kernel": "b"}], "head": {"kernel": "a", "bias": "a"}}
    state = training_state_of(run(optax.multi_transform(parts, labels)))
    gradients = history()
    np.testing.assert_allclose(
        state.parameters["layers.0.kernel"].square, _trace(gradients["layers.0.kernel"]), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(state.parameters["head.kernel"].square, exponential(gradients["head.kernel"], 0.999), rtol=1e-4)
    state = training_state_of(run(optax.MultiSteps(optax.adam(1e-3), 3)))
    assert state.steps == STEPS // 3
    for name, averaged in history(3).items():
        np.testing.assert_allclose(state.parameters[name].square, exponential(averaged, 0.999), rtol=1e-4)


def test_what_the_state_lacks_can_be_given() -> None:
    class TrainState(NamedTuple):
        step: int
        params: Any
        opt_state: Any

    params, opt_state = run(optax.adam(1e-3, b2=0.9))
    state = training_state_of(TrainState(STEPS, params, opt_state), decay=0.9)
    assert not state.notes
    for name, gradients in history().items():
        np.testing.assert_allclose(state.parameters[name].square, exponential(gradients, 0.9), rtol=1e-4)
    unknown = training_state_of(run(optax.adagrad(1e-3)))
    assert unknown.relative and not training_state_of(run(optax.adagrad(1e-3)), steps=STEPS).relative
    counted = training_state_of(run(optax.rmsprop(1e-3)), steps=STEPS)
    np.testing.assert_allclose(counted.parameters["head.kernel"].square, exponential(history()["head.kernel"], 0.9), rtol=1e-4)


def test_states_without_squares_and_of_other_parameters_are_refused() -> None:
    for transform in (optax.sgd(1e-3), optax.lion(1e-3)):
        with pytest.raises(InvalidRequest, match="holds no squares of gradients of these parameters"):
            training_state_of(run(transform))
    with pytest.raises(InvalidRequest, match="holds no squares of gradients of these parameters"):
        training_state_of(({"other": np.ones((2, 2), np.float32)}, run(optax.adam(1e-3))[1]))
    with pytest.raises(InvalidRequest, match="hold no arrays"):
        training_state_of(({}, run(optax.adam(1e-3))[1]))
    with pytest.raises(InvalidRequest, match="can't be read from a int"):
        training_state_of(3)


def test_a_state_on_disk_is_the_one_in_memory(tmp_path: Path) -> None:
    state = training_state_of(run(optax.adam(1e-3)), batch_size=4)
    path = save_training_state(state, tmp_path / "run.npz")
    assert is_training_state(path) and not is_training_state(tmp_path / "absent.npz")
    loaded = load_training_state(path)
    assert (loaded.optimizer, loaded.steps, loaded.batch_size, loaded.averaged) == ("Adam", STEPS, 4, state.averaged)
    assert loaded.notes == state.notes and not loaded.relative
    assert load_training_state(path, batch_size=9).batch_size == 9
    for name, saved in state.parameters.items():
        assert (loaded.parameters[name].square == saved.square).all() and loaded.parameters[name].drift == saved.drift
        assert all((a == b).all() for a, b in zip(loaded.parameters[name].values, saved.values, strict=True))
    with pytest.raises(InvalidRequest, match=r"must end in \.npz"):
        save_training_state(state, tmp_path / "run.pt")
    with pytest.raises(InvalidRequest, match="can't be written"):
        save_training_state(state, tmp_path / "absent" / "run.npz")


def test_changed_files_are_refused(tmp_path: Path) -> None:
    path = save_training_state(training_state_of(run(optax.adam(1e-3))), tmp_path / "run.npz")
    good = dict(np.load(path))
    changes: dict[str, tuple[str, Any]] = {
        "0.square": ("aren't finite, or are below zero", -good["0.square"]),
        "1.square": ("aren't finite, or are below zero", np.full_like(good["1.square"], np.nan)),
        "0.values.0": ("damaged", good["0.values.0"][1:]),
        "drifts": ("damaged", good["drifts"][1:]),
        "steps": ("damaged", np.array(-1)),
        "names": ("damaged", np.array([], dtype=np.str_)),
        "format": ("no training state of this library", np.array("other")),
    }
    for name, (words, value) in changes.items():
        np.savez(path, **{**good, name: value})
        with pytest.raises(InvalidRequest, match=words):
            load_training_state(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InvalidRequest, match="truncated"):
        load_training_state(path)
    assert not is_training_state(path)
