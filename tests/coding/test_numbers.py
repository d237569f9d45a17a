from __future__ import annotations

import numpy as np
import pytest

from dyncompress.coding.rans import Reader, Writer
from dyncompress.coding.skeleton import Form
from dyncompress.coding.tensors import KINDS, Bits, TensorMemory, read_tensor, write_tensor

rng = np.random.default_rng(0)
FLOAT32, INT32, UINT8, INT8, INT64, FLOAT16, BOOL, DOUBLE, UINT4, INT4 = 1, 6, 2, 3, 7, 10, 9, 11, 21, 22


def rounded(scales: np.ndarray) -> np.ndarray:
    """float32 whose low 16 bits are zero."""
    return (scales.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


CASES = {
    "scales": (FLOAT32, np.exp(rng.normal(-4, 0.5, 64)).astype(np.float32)),
    "scales of 16 bits": (FLOAT32, rounded(np.exp(rng.normal(-4, 0.5, 64)))),
    "scales of 16 bits, one of all": (FLOAT32, np.append(rounded(np.exp(rng.normal(-4, 0.5, 63))), np.float32(1.1e-7))),
    "one scale": (FLOAT32, np.array(0.017, np.float32)),
    "three scales": (FLOAT32, np.array([1, 2, 3], np.float32)),
    "signed floats": (FLOAT32, rng.normal(size=40).astype(np.float32)),
    "special floats": (FLOAT32, np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3e38], np.float32)),
    "float weights": (FLOAT32, rng.normal(size=(40, 60)).astype(np.float32)),
    "zeros": (FLOAT32, np.zeros((30, 40), np.float32)),
    "halves": (FLOAT16, rng.normal(size=33).astype(np.float16)),
    "doubles": (DOUBLE, rng.normal(size=5)),
    "biases": (INT32, np.rint(rng.normal(0, 900, 64)).astype(np.int32)),
    "ends of int32": (INT32, np.array([-(2**31), 2**31 - 1, 0, -1, 1], np.int32)),
    "indices": (INT64, np.array([0, 0, 1, 0, 2, 3, 16, -1], np.int64)),
    "ends of int64": (INT64, np.array([-(2**63), 2**63 - 1, 0, 5], np.int64)),
    "an index": (INT64, np.array([7], np.int64)),
    "zero point": (UINT8, np.array(128, np.uint8)),
    "mask": (UINT8, np.packbits(rng.random(4000) < 0.1)),
    "flags": (BOOL, np.array([True, False])),
    "few codes": (INT8, np.array([3, -4], np.int8)),
    "codes": (INT8, np.rint(rng.laplace(0, 1, (20, 30))).astype(np.int8)),
    "wide codes": (INT8, np.clip(np.rint(rng.normal(0, 30, (20, 30))), -128, 127).astype(np.int8)),
    "even bytes": (INT8, rng.integers(-128, 128, (20, 30)).astype(np.int8)),
    "nothing": (INT8, np.zeros((0, 4), np.int8)),
}


def through(cases: list[tuple[Form, bytes]]) -> tuple[list[bytes], int]:
    """The tensors as they are read from one stream, and how many bytes they took."""
    coder, memory, bits = Writer(), TensorMemory(), Bits()
    for form, raw in cases:
        write_tensor(coder, memory, form, raw, bits)
    stream, rest = coder.finish(bytes(3), 1), bits.bytes()
    reader, memory = Reader(stream, 1), TensorMemory()
    finish = [read_tensor(reader, memory, form) for form, _ in cases]
    assert reader.finish() == bytes(3)
    bits = Bits(rest)
    result = [last(bits) for last in finish]
    return result, len(stream) + len(rest)


def case(name: str) -> tuple[Form, bytes]:
    kind, array = CASES[name]
    return Form(kind, array.shape), array.tobytes()


@pytest.mark.parametrize("name", CASES)
def test_arrays_come_back_to_the_byte(name: str) -> None:
    result, _ = through([case(name)])
    assert result == [case(name)[1]]


def test_all_arrays_in_one_stream_come_back() -> None:
    cases = [case(name) for name in CASES] * 2
    assert through(cases)[0] == [raw for _, raw in cases]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 5, 300])
def test_any_bytes_of_any_type_come_back(kind: int, count: int) -> None:
    size = KINDS[kind].size * count or (count + 1) // 2
    raw = np.random.default_rng(count).bytes(size)
    assert through([(Form(kind, (count,)), raw)])[0] == [raw]


@pytest.mark.parametrize("kind", [UINT4, INT4])
@pytest.mark.parametrize("count", [64, 65])
def test_half_bytes_are_coded_as_codes(kind: int, count: int) -> None:
    halves = np.clip(np.rint(np.random.default_rng(1).laplace(0, 0.5, (count, 20 + count % 2))), -7, 7).astype(np.int8)
    flat = (halves.ravel() + 8 * (kind == UINT4)).astype(np.uint8) & 15
    flat = np.append(flat, np.zeros(flat.size % 2, np.uint8)).reshape(-1, 2)
    raw = (flat[:, 0] | flat[:, 1] << 4).tobytes()
    result, size = through([(Form(kind, halves.shape), raw)])
    assert result == [raw] and size < 0.55 * len(raw)


def test_what_the_models_are_for_they_make_small() -> None:
    sizes = {name: through([case(name)])[1] - 6 for name in CASES}
    assert sizes["scales of 16 bits"] < 64 * 1.6  # of 256
    assert sizes["scales of 16 bits, one of all"] < sizes["scales of 16 bits"] + 10
    assert sizes["biases"] < 64 * 1.9  # of 256
    assert sizes["zeros"] < 130
    assert sizes["float weights"] < 0.93 * 9600
    assert sizes["codes"] < 0.35 * 600
    assert sizes["wide codes"] < 0.95 * 600
    assert sizes["even bytes"] < 610


def test_a_second_scale_near_the_first_is_cheaper() -> None:
    first = (Form(FLOAT32, ()), np.array(0.017, np.float32).tobytes())
    close = (Form(FLOAT32, ()), np.array(0.01701, np.float32).tobytes())
    assert through([first, close])[1] < through([first])[1] + 5
