from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyncompress.deployment import check, write
from dyncompress.deployment.fusion import optimized_model
from dyncompress.deployment.storage import dense_bytes, is_sparse, plane_weights, planes, sparse_bytes
from dyncompress.types import Encoding
from tests.deployment.graphs import TARGET, encode, graph, values, weight


def output_of(body: bytes) -> np.ndarray:
    """The output of a file of `file_of` for an input of zero: the weight."""
    session = onnxruntime.InferenceSession(body, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": np.zeros((1,), np.float32)})[0])


def file_of(encoding: Encoding) -> bytes:
    """A file whose only output is the weight plus its input."""
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    float_file = graph([node], {"w": values(encoding)}, {"x": [1]}, {"y": list(encoding.codes.shape)})
    return write(float_file, {"w": (encoding, "as_is")}, {}, TARGET)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shape", [(3, 5), (4, 8, 3, 3), (7,), (1, 1)])
def test_every_width_and_odd_length_comes_back_bit_for_bit(bits: int, shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(bits)
    codes = generator.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape).astype(np.int8)
    encoding = Encoding(codes, generator.uniform(0.5, 2, shape[0]).astype(np.float32), bits)
    body = file_of(encoding)
    check(body)
    assert np.array_equal(output_of(body), values(encoding))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.3])
def test_sparse_storage_comes_back_bit_for_bit_and_is_smaller(bits: int, density: float) -> None:
    generator = np.random.default_rng(1)
    top = 2 ** (bits - 1) - 1
    codes = (
        generator.integers(1, top + 1, (32, 67)) * generator.choice([-1, 1], (32, 67)) * (generator.random((32, 67)) < density)
    )
    encoding = Encoding(codes.astype(np.int8), np.full(32, 0.5, np.float32), bits)
    dense = Encoding(np.full((32, 67), 1, np.int8), encoding.scale, bits)
    body = file_of(encoding)
    check(body)
    assert np.array_equal(output_of(body), values(encoding))
    assert len(body) < len(file_of(dense)) + 800 and is_sparse(codes.size, int((codes != 0).sum()), bits)


def test_a_mask_that_starts_with_zeros_refers_to_code_zero() -> None:
    codes = np.zeros((16, 64), np.int8)
    codes[-1, -1] = -7
    assert np.array_equal(output_of(file_of(Encoding(codes, np.ones(16, np.float32), 8))), codes.astype(np.float32))


@given(st.integers(2, 8), st.lists(st.integers(-128, 127), min_size=1, max_size=40))
def test_the_weighted_sum_of_planes_is_the_codes(bits: int, raw: list[int]) -> None:
    half = 2 ** (bits - 1)
    codes = np.array([(value % (2 * half)) - half for value in raw], np.int8)
    stack = np.unpackbits(planes(codes, bits)[:, :, 0], axis=1, bitorder="little")[:, : len(codes)]
    assert np.array_equal((stack.astype(np.int32) * plane_weights(bits)[:, :, 0]).sum(axis=0), codes)


@given(st.integers(1, 5000), st.floats(0, 1), st.integers(2, 8))
def test_storage_is_counted_as_numpy_packs_it(count: int, density: float, bits: int) -> None:
    nonzero = round(count * density)
    stack = planes(np.ones(count, np.int8), bits)
    assert dense_bytes(count, bits) == {8: count, 4: (count + 1) // 2}.get(bits, stack.size)
    assert sparse_bytes(count, nonzero, bits) == len(np.packbits(np.ones(count, bool))) + dense_bytes(nonzero + 1, bits)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_onnxruntime_folds_the_unpacking_at_load(bits: int) -> None:
    encoding = encode(weight(16, 40), bits)
    left = {node.op_type for node in optimized_model(file_of(encoding), TARGET).graph.node}
    assert left <= {"Add"}
