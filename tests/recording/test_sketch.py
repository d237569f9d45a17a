"""The block sketch: linear, seeded, the same on every device, and distances are preserved on average."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dyncompress.recording.sketch import block_sketch, chunk_length, entry_signs

CHUNK = chunk_length(torch.device("cpu"))


def naive(weight: np.ndarray, signs: np.ndarray, size: int) -> np.ndarray:
    total = np.zeros(min(size, weight.size))
    for index, (value, sign) in enumerate(zip(weight.reshape(-1), signs, strict=True)):
        total[index % len(total)] += sign * value
    return total


@pytest.mark.parametrize(("shape", "size"), [((7,), 3), ((4, 5), 64), ((6, 5, 3, 3), 32), ((CHUNK // 8 + 3, 9), 7), ((1, 1), 1)])
def test_equals_the_sum_written_as_a_loop(shape: tuple[int, ...], size: int, device: str) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    signs = entry_signs(3, "layer", weight.numel())
    sketch = block_sketch(weight.to(device), signs.to(device), size)
    assert sketch.device.type == device
    np.testing.assert_allclose(sketch.cpu().numpy(), naive(weight.numpy(), signs.numpy(), size), rtol=1e-12, atol=1e-12)


def test_signs_are_balanced_and_depend_on_seed_and_name_only() -> None:
    signs = entry_signs(0, "conv1", 40_000)
    assert set(signs.tolist()) == {-1, 1}
    assert abs(signs.float().mean()) < 4 / np.sqrt(40_000)
    state = torch.random.get_rng_state()
    assert torch.equal(signs, entry_signs(0, "conv1", 40_000))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.equal(signs, entry_signs(1, "conv1", 40_000))
    assert not torch.equal(signs, entry_signs(0, "conv2", 40_000))


def test_is_linear() -> None:
    first, second = torch.randn(2, 50, 41, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    signs = entry_signs(0, "layer", first.numel())
    together = block_sketch(3 * first - second, signs, 16)
    torch.testing.assert_close(together, 3 * block_sketch(first, signs, 16) - block_sketch(second, signs, 16))


@pytest.mark.parametrize("tilt", [0.0, 3.0])
def test_squared_distances_are_right_on_average_and_spread_as_stated(tilt: float) -> None:
    difference = torch.randn(30, 100, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    difference.view(-1)[::64] *= 1 + tilt  # the first bucket may hold more than its share
    size, distance = 64, float(difference.square().sum())
    distances = np.array(
        [float(block_sketch(difference, entry_signs(s, "layer", 3000), size).square().sum()) for s in range(400)]
    )
    padded = torch.nn.functional.pad(difference.view(-1).square(), (0, -difference.numel() % size)).view(-1, size)
    bound = np.sqrt(2 * float(padded.sum(0).square().sum()))
    assert distances.mean() == pytest.approx(distance, abs=4 * bound / np.sqrt(len(distances)))
    assert 0.7 * bound < distances.std() < 1.15 * bound


def test_a_small_layer_keeps_its_distances_exactly() -> None:
    first, second = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    signs = entry_signs(0, "layer", 35)
    apart = block_sketch(first, signs, 256) - block_sketch(second, signs, 256)
    assert float(apart.norm()) == pytest.approx(float((first - second).norm()), rel=1e-12)


def test_late_training_distances_survive_float32_weights() -> None:
    # weights 1 000 times larger than their distance: a float32 sum would lose the distance
    weight = torch.randn(400, 500, generator=torch.Generator().manual_seed(4))
    step = 1e-3 * torch.randn(400, 500, generator=torch.Generator().manual_seed(5))
    signs = entry_signs(0, "layer", weight.numel())
    moved = weight + step
    apart = block_sketch(moved, signs, 512) - block_sketch(weight, signs, 512)
    expected = block_sketch(moved.double() - weight.double(), signs, 512)
    torch.testing.assert_close(apart, expected, rtol=0, atol=1e-9)
