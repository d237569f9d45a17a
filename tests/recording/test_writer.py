"""The writer against naively computed moments, what it refuses, and its memory."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch

from dyncompress.errors import InvalidRequest
from dyncompress.recording import TrajectoryWriter, weights_digest
from dyncompress.recording.sketch import block_sketch, chunk_length, entry_signs
from tests.test_tolerances import rounding


def iterates(count: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    """`[T, ...]` a layer: noise around a drift, large beside its steps."""
    generator = np.random.default_rng(seed)
    times = np.arange(count).reshape(-1, 1, 1, 1, 1)
    conv = 5 + 0.01 * times + 1e-3 * generator.standard_normal((count, 4, 3, 3, 3))
    return {"conv": conv, "fc": generator.standard_normal((count, 5, 6))}


def recorded(data: dict[str, np.ndarray], **options: int) -> TrajectoryWriter:
    writer = TrajectoryWriter(**options)
    for step in range(len(next(iter(data.values())))):
        writer.append(10 * step, {name: values[step] for name, values in data.items()}, losses=1 / (step + 1))
    return writer


@pytest.mark.parametrize("count", [2, 3, 12])
def test_moments_equal_the_naive_ones(count: int) -> None:
    data = iterates(count)
    trajectory = recorded(data).trajectory()
    for name, values in data.items():
        motion, increments = trajectory.motion[name], np.diff(values, axis=0)
        assert motion.count == count
        np.testing.assert_allclose(motion.mean, values.mean(0), rtol=1e-6, atol=rounding(values, count))
        np.testing.assert_allclose(motion.variance, values.var(0, ddof=1), rtol=1e-6, atol=rounding(values**2, count))
        if count == 2:
            assert np.isnan(motion.increment_variance).all()
        else:
            expected, atol = increments.var(0, ddof=1), rounding(values**2, count)
            np.testing.assert_allclose(motion.increment_variance, expected, rtol=1e-6, atol=atol)


def test_variances_survive_a_large_mean() -> None:
    generator = np.random.default_rng(1)
    values = 1e6 + generator.standard_normal((50, 3, 3))
    motion = recorded({"fc": values}).trajectory().motion["fc"]
    np.testing.assert_allclose(motion.variance, values.var(0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(motion.increment_variance, np.diff(values, axis=0).var(0, ddof=1), rtol=1e-5)


def test_the_trajectory_holds_steps_losses_sketches_and_settings() -> None:
    data = iterates()
    trajectory = recorded(data, seed=7, sketch=16, batch_size=64).trajectory()
    assert trajectory.steps.tolist() == [10 * step for step in range(12)]
    np.testing.assert_allclose(trajectory.losses, 1 / np.arange(1, 13), rtol=1e-6)
    assert (trajectory.seed, trajectory.batch_size) == (7, 64)
    assert math.isnan(trajectory.learning_rate)
    assert trajectory.sketches["conv"].shape == (12, 16)
    signs = entry_signs(7, "fc", 30)
    expected = block_sketch(torch.from_numpy(data["fc"][4]), signs, 16).numpy()
    np.testing.assert_allclose(trajectory.sketches["fc"][4], expected, rtol=1e-6, atol=rounding(data["fc"], 2))


def test_losses_may_be_missing_or_by_example() -> None:
    writer = TrajectoryWriter()
    writer.append(0, {"fc": np.ones((2, 2))})
    writer.append(1, {"fc": np.ones((2, 2))}, losses=torch.tensor([1.0, 3.0]))
    losses = writer.trajectory().losses
    assert math.isnan(losses[0]) and losses[1] == 2.0


def test_digest_is_that_of_the_last_weights() -> None:
    data = iterates()
    last = {name: values[-1] for name, values in data.items()}
    assert recorded(data).trajectory().digest == weights_digest(last)
    assert recorded(data).trajectory().digest != weights_digest({name: values[-2] for name, values in data.items()})


def test_digest_sees_names_shapes_and_values_but_not_width_or_order() -> None:
    weights = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((1, 2), np.float32)}
    digest = weights_digest(weights)
    assert digest == weights_digest(
        {"b": torch.ones(1, 2, dtype=torch.bfloat16), "a": torch.arange(6.0, dtype=torch.float64).view(2, 3)}
    )
    assert digest != weights_digest({**weights, "a": weights["a"].reshape(3, 2)})
    assert digest != weights_digest({"a": weights["a"], "c": weights["b"]})
    assert digest != weights_digest({**weights, "b": np.nextafter(weights["b"], 2)})
    strided = np.asfortranarray(weights["a"])
    assert digest == weights_digest({**weights, "a": strided})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_torch_weights_are_read_and_not_changed(dtype: torch.dtype, device: str) -> None:
    writer, kept = TrajectoryWriter(), []
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).to(dtype).to(device).requires_grad_()
    for step in range(4):
        before = weight.detach().clone()
        writer.append(step, {"fc": weight})
        assert torch.equal(before, weight.detach())
        kept.append(before.double().cpu().numpy())
        with torch.no_grad():
            weight.mul_(1.25)
    motion = writer.trajectory().motion["fc"]
    atol = rounding(np.array(kept), len(kept))
    np.testing.assert_allclose(motion.mean, np.mean(kept, axis=0), rtol=1e-6, atol=atol)
    np.testing.assert_allclose(motion.increment_variance, np.diff(kept, axis=0).var(0, ddof=1), rtol=1e-5, atol=atol)


def test_a_read_only_array_is_fine() -> None:
    array = np.ones((2, 2))
    array.setflags(write=False)
    writer = TrajectoryWriter()
    writer.append(0, {"fc": array})
    assert writer.trajectory().motion["fc"].mean.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_diverged_run_is_refused_and_nothing_is_recorded(bad: float) -> None:
    writer = TrajectoryWriter()
    good, broken = np.ones((3, 3)), np.ones((3, 3))
    broken[1, 2] = bad
    writer.append(0, {"a": good, "b": good})
    with pytest.raises(InvalidRequest, match="step 1: layer 'b' holds NaN or infinity"):
        writer.append(1, {"a": good, "b": broken})
    writer.append(1, {"a": good, "b": good})
    trajectory = writer.trajectory()
    assert trajectory.steps.tolist() == [0, 1]
    assert {motion.count for motion in trajectory.motion.values()} == {2}
    assert {len(sketch) for sketch in trajectory.sketches.values()} == {2}


@pytest.mark.parametrize(
    ("step", "weights", "message"),
    [
        (3, {"fc": np.ones((2, 2))}, "steps must increase"),
        (4, {}, "no weights were given"),
        (4, {"other": np.ones((2, 2))}, "layers changed since the first record: fc, other"),
        (4, {"fc": np.ones((2, 3))}, "layer 'fc' has shape"),
    ],
)
def test_a_record_that_does_not_continue_is_refused(step: int, weights: dict[str, np.ndarray], message: str) -> None:
    writer = TrajectoryWriter()
    writer.append(3, {"fc": np.ones((2, 2))})
    with pytest.raises(InvalidRequest, match=message):
        writer.append(step, weights)
    assert len(writer.trajectory().steps) == 1


def test_an_empty_record_and_a_sketch_of_length_zero_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="nothing was recorded"):
        TrajectoryWriter().trajectory()
    with pytest.raises(InvalidRequest, match="sketch is 0"):
        TrajectoryWriter(sketch=0)


def test_memory_does_not_grow_with_the_number_of_records() -> None:
    writer, weight = TrajectoryWriter(sketch=16), np.zeros((300, 300), np.float32)
    writer.append(0, {"fc": weight})
    writer.append(1, {"fc": weight})
    tracemalloc.start()
    for step in range(2, 52):
        writer.append(step, {"fc": weight})
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < weight.nbytes / 4
    state = [value for value in vars(writer._running["fc"]).values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.numel() for tensor in state) == 5 * weight.size


def test_layers_longer_than_a_chunk_and_transposed_ones_are_recorded_correctly() -> None:
    count = chunk_length(torch.device("cpu"))
    values = torch.randn(4, 3, count // 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    writer = TrajectoryWriter()
    for step, value in enumerate(values):
        writer.append(step, {"long": value, "transposed": value.T})
    motion = writer.trajectory().motion
    expected = np.diff(values.numpy(), axis=0).var(0, ddof=1)
    atol = rounding(values.numpy() ** 2, len(values))
    np.testing.assert_allclose(motion["long"].increment_variance, expected, rtol=1e-5, atol=atol)
    np.testing.assert_allclose(motion["transposed"].increment_variance, expected.T, rtol=1e-5, atol=atol)
    np.testing.assert_allclose(motion["transposed"].variance, values.numpy().var(0, ddof=1).T, rtol=1e-5, atol=atol)


def test_gradients_are_sketched_with_the_signs_of_the_iterates() -> None:
    data, slopes = iterates(4), iterates(4, seed=9)
    writer = TrajectoryWriter(seed=7, sketch=16)
    for step in range(4):
        weights, gradients = ({name: values[step] for name, values in part.items()} for part in (data, slopes))
        writer.append(step, weights, gradients={"fc": gradients["fc"], "conv": gradients["conv"] if step else None})
    gradients = writer.trajectory().gradients
    expected = block_sketch(torch.from_numpy(slopes["fc"][2]), entry_signs(7, "fc", 30), 16).numpy()
    np.testing.assert_allclose(gradients["fc"][2], expected, rtol=1e-6, atol=rounding(slopes["fc"], 2))
    assert np.isnan(gradients["conv"][0]).all() and np.isfinite(gradients["conv"][1:]).all()
    assert recorded(data).trajectory().gradients == {}


def test_a_gradient_that_overflowed_counts_as_not_known() -> None:
    writer = TrajectoryWriter()
    for step, slope in enumerate((np.ones((2, 2)), np.full((2, 2), np.inf), np.full((2, 2), np.nan))):
        writer.append(step, {"fc": np.ones((2, 2))}, gradients={"fc": slope})
    assert np.isfinite(writer.trajectory().gradients["fc"]).all(axis=1).tolist() == [True, False, False]


def test_losses_of_the_same_examples_are_kept_as_they_are() -> None:
    writer, losses = TrajectoryWriter(), np.random.default_rng(0).random((3, 5)).astype(np.float32)
    for step in range(3):
        writer.append(step, {"fc": np.ones((2, 2))}, losses_per_example=losses[step])
    assert np.array_equal(writer.trajectory().losses_per_example, losses)
    assert recorded(iterates()).trajectory().losses_per_example is None


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"losses_per_example": np.ones(3)}, "of the same n examples at every record"),
        ({}, "of the same n examples at every record"),
        ({"losses_per_example": np.ones((2, 2))}, "of the same n examples at every record"),
        ({"losses_per_example": np.ones(2), "gradients": {"fc": np.ones((2, 3))}}, r"gradient of 'fc' has shape \(2, 3\)"),
        ({"losses_per_example": np.ones(2), "gradients": {"b": np.ones(2)}}, "no such layer is recorded"),
    ],
)
def test_parts_that_do_not_belong_to_the_record_are_refused(parts: dict[str, object], message: str) -> None:
    writer = TrajectoryWriter()
    writer.append(0, {"fc": np.ones((2, 2))}, losses_per_example=np.ones(2))
    with pytest.raises(InvalidRequest, match=message):
        writer.append(1, {"fc": np.ones((2, 2))}, **parts)
    assert len(writer.trajectory().steps) == 1


def test_a_record_is_tied_to_the_weights_it_is_finished_with() -> None:
    writer, last = recorded(iterates()), {"conv": np.ones((4, 3, 3, 3)), "fc": np.ones((5, 6))}
    before = writer.trajectory()
    writer.finish(last)
    assert writer.trajectory().digest == weights_digest(last) != before.digest
    assert np.array_equal(writer.trajectory().sketches["fc"], before.sketches["fc"])
    with pytest.raises(InvalidRequest, match="layers changed since the first record: conv"):
        writer.finish({"fc": last["fc"]})
    with pytest.raises(InvalidRequest, match="nothing was recorded"):
        TrajectoryWriter().finish(last)


def test_notes_name_assumptions_that_the_record_does_not_fulfil() -> None:
    def notes(steps: tuple[int, ...], rates: tuple[float, ...]) -> tuple[str, ...]:
        writer = TrajectoryWriter()
        for step, rate in zip(steps, rates, strict=True):
            writer.learning_rate = rate
            writer.append(step, {"fc": np.ones((2, 2))})
        assert writer.trajectory().learning_rate == pytest.approx(rates[-1], nan_ok=True)
        return writer.trajectory().notes

    assert notes((5, 10, 15), (0.1, 0.1, 0.1)) == notes((5, 10), (math.nan, math.nan)) == ()
    assert "equal distances" in notes((5, 10, 20), (0.1, 0.1, 0.1))[0]
    assert "0.1 to 0.05" in notes((5, 10, 15), (0.1, 0.1, 0.05))[0]
