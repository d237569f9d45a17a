"""Channel by channel: a pooled error hides the channel that is lost."""

from __future__ import annotations

import numpy as np
import pytest

from dyncompress.deployment.channels import any_lost, channel_errors
from dyncompress.deployment.checks import compared


def outputs(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def naive(found: np.ndarray, wanted: np.ndarray, axis: int) -> list[float]:
    """Error over spread, one channel after the other."""
    pairs = ((np.take(found, i, axis), np.take(wanted, i, axis)) for i in range(wanted.shape[axis]))
    return [float(np.sqrt(np.mean((a - b) ** 2)) / np.std(b)) for a, b in pairs]


@pytest.mark.parametrize("shape", [(32, 5), (16, 4, 7), (8, 3, 6, 5), (8, 9, 85)])
def test_errors_equal_the_naive_ones_along_both_axes(shape: tuple[int, ...]) -> None:
    wanted = outputs(*shape).astype(np.float64)
    found = wanted + 0.1 * outputs(*shape, seed=1)
    entries = channel_errors(found, wanted)
    assert [entry.axis for entry in entries] == list(dict.fromkeys((1, len(shape) - 1)))
    for entry in entries:
        np.testing.assert_allclose(entry.errors, naive(found, wanted, entry.axis), rtol=1e-9)
        assert entry.errors[entry.worst] == entry.errors.max() and not len(entry.lost)


@pytest.mark.parametrize("axis", [1, 3])
def test_logits_made_constant_beside_boxes_are_lost_and_nothing_pooled_says_so(axis: int) -> None:
    boxes, logits = 100 * outputs(16, 4, 6, 6) + 300, outputs(16, 3, 6, 6, seed=1)
    wanted = np.concatenate([boxes, logits], 1)
    found = np.concatenate([boxes + 0.5, np.full_like(logits, logits.mean())], 1)
    wanted, found = np.moveaxis(wanted, 1, axis), np.moveaxis(found, 1, axis)
    parity = compared([wanted], [wanted], [found], names=("y",))
    assert parity.relative_error < 0.01, "pooled, all is well"
    (output,) = parity.outputs
    assert {(axis, channel) for channel in (4, 5, 6)} <= set(output.lost)
    assert output.channel in (4, 5, 6) and output.channel_error > 0.9
    assert any_lost([found], [wanted]) and not any_lost([wanted], [wanted])


def test_a_shifted_or_scaled_channel_is_off_and_not_lost() -> None:
    wanted = outputs(64, 3)
    found = wanted * np.array([1, 3, 1], np.float32) + np.array([0, 0, 5], np.float32)
    (entry,) = channel_errors(found, wanted)
    assert entry.errors[1] == pytest.approx(2, rel=0.1) and entry.errors[2] == pytest.approx(5, rel=0.3) and not len(entry.lost)


@pytest.mark.parametrize("value", [0.0, 1.0, -300.0])
def test_a_constant_channel_has_no_signal_to_lose(value: float) -> None:
    wanted = outputs(40, 2)
    wanted[:, 1] = value
    (same,) = channel_errors(wanted, wanted)
    assert same.errors.tolist() == [0, 0] and same.judged.tolist() == [True, False]
    found = wanted.copy()
    found[:, 1] += 0.01
    (entry,) = channel_errors(found, wanted)
    assert entry.errors[1] <= 0.02 and not len(entry.lost) and entry.worst == 0


def test_infinities_of_masks_agree_and_others_are_lost() -> None:
    wanted = outputs(16, 4)
    wanted[:, 2] = -np.inf
    assert not any_lost([wanted], [wanted])
    found = wanted.copy()
    found[3, 0] = np.nan
    (entry,) = channel_errors(found, wanted)
    assert np.isinf(entry.errors[0]) and entry.lost.tolist() == [0]


def test_few_values_say_nothing_of_a_spread() -> None:
    wanted, found = outputs(4, 3), outputs(4, 3, seed=1)
    (entry,) = channel_errors(found, wanted)
    assert not entry.judged.any() and not len(entry.lost)
    (single,) = channel_errors(outputs(32), outputs(32, seed=1))
    assert single.axis == 0 and single.errors.shape == (1,)


def test_parity_is_with_the_original_and_says_what_integers_did() -> None:
    original, compressed = outputs(64, 4), outputs(64, 4) + 0.5
    parity = compared([compressed], [compressed], [compressed + 0.01], [original])
    assert parity.relative_error == pytest.approx(0.5, rel=0.1) and parity.compressed_error < 0.02
    assert parity.agreement == 1.0 and parity.outputs[0].file_error < 0.02 < parity.outputs[0].channel_error
    integers = np.arange(64).reshape(64, 1)
    assert compared([integers], [integers], [integers]).outputs[0].lost == ()
