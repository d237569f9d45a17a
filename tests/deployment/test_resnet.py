"""A pretrained CIFAR ResNet-20 with nearest codes, from torch to a timed file."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import load_from_string, numpy_helper

from dyncompress.deployment import audit, check, compare, overhead, parity, ranges, sizes, storage_bytes, write
from dyncompress.models.torch.opening import open_model
from dyncompress.types import Encoding
from tests.data import cifar10, resnet20
from tests.deployment.graphs import TARGET, encode

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported() -> tuple:
    images, _ = cifar10("train", 256)
    model = open_model(resnet20(), {"x": images[:2]})
    float_file, places = model.to_onnx()
    tensors = {t.name: t for t in load_from_string(float_file).graph.initializer}
    weights = {place[0].initializer: numpy_helper.to_array(tensors[place[0].initializer]) for place in places.values()}
    calibration = {"x": images.numpy()}
    return model, float_file, places, weights, ranges(float_file, [calibration])


def encode_all(weights: dict, bits: int) -> dict[str, tuple[Encoding, str]]:
    return {name: (encode(w, bits), "as_is") for name, w in weights.items()}


@pytest.mark.parametrize(("bits", "share"), [(8, 0.285), (4, 0.165), (3, 0.125), (2, 0.09)])
def test_size_fusion_and_prediction(exported: tuple, bits: int, share: float) -> None:
    _, float_file, places, weights, activation_ranges = exported
    encodings = encode_all(weights, bits)
    body = write(float_file, encodings, activation_ranges, TARGET)
    check(body)
    assert len(weights) == 20 and len(body) <= share * len(float_file)
    assert audit(body, TARGET) == {"Conv": (19, 19), "Gemm": (1, 1), "Add": (9, 9)}
    zeros = {name: float((e.codes == 0).mean()) for name, (e, _) in encodings.items()}
    predicted = overhead(float_file, places, TARGET)
    predicted += sum(storage_bytes(w.shape, bits, sparsity=zeros[name]) for name, w in weights.items())
    assert abs(predicted / len(body) - 1) < 0.01
    assert sizes(body, encodings).resident < 1.1 * sum(w.size for w in weights.values())


def test_eight_bits_agree_with_torch_and_run_faster(exported: tuple) -> None:
    model, float_file, _, weights, activation_ranges = exported
    body = write(float_file, encode_all(weights, 8), activation_ranges, TARGET)
    images, _ = cifar10("test", 500)
    x = {"x": images.numpy()}
    reference = tuple(np.asarray(out) for out in model.predict({"x": images}))
    result = parity(float_file, body, reference, x, TARGET)
    assert result.float_error < 1e-4 and result.relative_error < 0.1 and result.agreement > 0.96
    for n, rounds in ((1, 200), (16, 40)):
        timings = compare({"float": float_file, "int8": body}, {"x": x["x"][:n]}, TARGET, rounds=rounds)
        assert timings["float"].minimum > 1.5 * timings["int8"].minimum  # 2.2 or more with VNNI on an idle machine
