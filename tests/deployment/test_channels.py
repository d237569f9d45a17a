"""Errors of single channels, which an error pooled over the whole output hides."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.deployment.channels import any_lost, channel_errors
from dyncompress.deployment.checks import parity_of_outputs


def outputs(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def naive(output: np.ndarray, expected: np.ndarray, axis: int) -> list[float]:
    """Error divided by the standard deviation, one channel after the other."""
    pairs = ((np.take(output, i, axis), np.take(expected, i, axis)) for i in range(expected.shape[axis]))
    return [float(np.sqrt(np.mean((a - b) ** 2)) / np.std(b)) for a, b in pairs]


@pytest.mark.parametrize("shape", [(32, 5), (16, 4, 7), (8, 3, 6, 5), (8, 9, 85)])
def test_errors_equal_the_naive_ones_along_both_axes(shape: tuple[int, ...]) -> None:
    expected = outputs(*shape).astype(np.float64)
    output = expected + 0.1 * outputs(*shape, seed=1)
    entries = channel_errors(output, expected)
    assert [entry.axis for entry in entries] == list(dict.fromkeys((1, len(shape) - 1)))
    for entry in entries:
        np.testing.assert_allclose(entry.errors, naive(output, expected, entry.axis), rtol=1e-9)
        assert entry.errors[entry.worst] == entry.errors.max() and not len(entry.lost)


@pytest.mark.parametrize("axis", [1, 3])
def test_constant_logits_beside_boxes_are_lost_although_the_pooled_error_is_small(axis: int) -> None:
    boxes, logits = 100 * outputs(16, 4, 6, 6) + 300, outputs(16, 3, 6, 6, seed=1)
    expected = np.concatenate([boxes, logits], 1)
    output = np.concatenate([boxes + 0.5, np.full_like(logits, logits.mean())], 1)
    expected, output = np.moveaxis(expected, 1, axis), np.moveaxis(output, 1, axis)
    parity = parity_of_outputs([expected], [expected], [output], positions={"y": ()})
    assert parity.relative_error < 0.01, "the pooled error is small"
    (first,) = parity.outputs
    assert {(axis, channel) for channel in (4, 5, 6)} <= set(first.lost)
    assert first.channel in (4, 5, 6) and first.channel_error > 0.9
    assert any_lost([output], [expected]) and not any_lost([expected], [expected])


def test_a_shifted_or_scaled_channel_has_a_large_error_and_is_not_lost() -> None:
    expected = outputs(64, 3)
    output = expected * np.array([1, 3, 1], np.float32) + np.array([0, 0, 5], np.float32)
    (entry,) = channel_errors(output, expected)
    assert entry.errors[1] == pytest.approx(2, rel=0.1) and entry.errors[2] == pytest.approx(5, rel=0.3) and not len(entry.lost)


@pytest.mark.parametrize("value", [0.0, 1.0, -300.0])
def test_a_constant_channel_has_no_signal_to_lose(value: float) -> None:
    expected = outputs(40, 2)
    expected[:, 1] = value
    (same,) = channel_errors(expected, expected)
    assert same.errors.tolist() == [0, 0] and same.judged.tolist() == [True, False]
    output = expected.copy()
    output[:, 1] += 0.01
    (entry,) = channel_errors(output, expected)
    assert entry.errors[1] <= 0.02 and not len(entry.lost) and entry.worst == 0


def test_infinities_of_masks_agree_and_others_are_lost() -> None:
    expected = outputs(16, 4)
    expected[:, 2] = -np.inf
    assert not any_lost([expected], [expected])
    output = expected.copy()
    output[3, 0] = np.nan
    (entry,) = channel_errors(output, expected)
    assert np.isinf(entry.errors[0]) and entry.lost.tolist() == [0]


def test_channels_of_few_values_are_not_judged() -> None:
    expected, output = outputs(4, 3), outputs(4, 3, seed=1)
    (entry,) = channel_errors(output, expected)
    assert not entry.judged.any() and not len(entry.lost)
    (single,) = channel_errors(outputs(32), outputs(32, seed=1))
    assert single.axis == 0 and single.errors.shape == (1,)


def test_parity_is_with_the_original_and_has_the_error_of_the_integers_apart() -> None:
    original, compressed = outputs(64, 4), outputs(64, 4) + 0.5
    parity = parity_of_outputs([compressed], [compressed], [compressed + 0.01], [original])
    assert parity.relative_error == pytest.approx(0.5, rel=0.1) and parity.compressed_error < 0.02
    assert parity.agreement == 1.0 and parity.outputs[0].file_error < 0.02 < parity.outputs[0].channel_error
    integers = np.arange(64).reshape(64, 1)
    assert parity_of_outputs([integers], [integers], [integers]).outputs[0].lost == ()


def test_numbers_too_small_for_float32_are_constant() -> None:
    generator = np.random.default_rng(3)
    tiny = (generator.normal(size=(64, 2)) * 1e-41).astype(np.float32)
    (errors,) = channel_errors(np.zeros_like(tiny), tiny)
    assert not errors.judged.any() and not len(errors.lost) and errors.errors.max() < 1e-2
