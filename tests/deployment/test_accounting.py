from __future__ import annotations

import numpy as np
import pytest

from dyncompress.deployment import overhead, ranges, storage_bytes, write
from dyncompress.types import Placement
from tests.deployment.graphs import TARGET, encode, images, residual


@pytest.mark.parametrize("sparsity", [0.0, 0.7])
@pytest.mark.parametrize("bits", range(2, 9))
def test_bytes_are_predicted_within_two_percent(bits: int, sparsity: float) -> None:
    float_file, weights = residual(32)
    places = {f"layer {name}": (Placement(name),) for name in weights}
    fixed = overhead(float_file, places, TARGET)
    pruned = {
        n: np.where(np.abs(w) <= np.quantile(np.abs(w), sparsity), 0, w).astype(np.float32) if sparsity else w
        for n, w in weights.items()
    }
    encodings = {name: (encode(w, bits), "as_is") for name, w in pruned.items()}
    body = write(float_file, encodings, ranges(float_file, [images(4)]), TARGET)
    zeros = {name: float((e.codes == 0).mean()) for name, (e, _) in encodings.items()}
    predicted = fixed + sum(storage_bytes(w.shape, bits, sparsity=zeros[name]) for name, w in weights.items())
    assert abs(predicted - len(body)) < 0.01 * len(body) + 1000 * (
        bits in (4, 8)
    )  # unpacking functions that the file doesn't need
    assert predicted >= len(body) - 100  # a plan within its budget gives a file within it


def test_mixed_widths_and_layers_left_float_are_predicted_too() -> None:
    float_file, weights = residual(32)
    places = {name: (Placement(name),) for name in weights}
    widths = dict(zip(weights, (8, 4, 3, 32, 2, 8), strict=True))
    encodings = {name: (encode(w, widths[name]), "as_is") for name, w in weights.items() if widths[name] < 32}
    body = write(float_file, encodings, ranges(float_file, [images(4)]), TARGET)
    zeros = {name: float((e.codes == 0).mean()) for name, (e, _) in encodings.items()}
    predicted = overhead(float_file, places, TARGET)
    predicted += sum(storage_bytes(w.shape, widths[name], sparsity=zeros.get(name, 0)) for name, w in weights.items())
    assert abs(predicted / len(body) - 1) < 0.02


def test_closed_forms() -> None:
    base = storage_bytes((16, 8, 3, 3), 8)
    assert storage_bytes((16, 8, 3, 3), 8, bias=False) == base - 64
    assert storage_bytes((16, 8, 3, 3), 8, "tensor") == base - 60
    assert storage_bytes((16, 8, 3, 3), 8, "group:36") == base + 64
    assert storage_bytes((16, 8, 3, 3), 32) > 4 * 16 * 72
    assert storage_bytes((64, 64, 3, 3), 4) < 0.55 * storage_bytes((64, 64, 3, 3), 8)
    smaller = [storage_bytes((64, 64, 3, 3), 8, sparsity=s) for s in (0, 0.2, 0.5, 0.9)]
    assert smaller == sorted(smaller, reverse=True)
