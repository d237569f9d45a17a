from __future__ import annotations

import numpy as np
import onnx
import pytest

from dyncompress.coding import pack, unpack
from dyncompress.coding.rans import Reader, Writer
from dyncompress.coding.trellis import CLASS, NEXT, STATES, allowed, code_of, index_of, on_paths, paths
from dyncompress.coding.weights import WeightMemory, code_weights
from dyncompress.errors import Altered

SHAPES = [(64, 100), (10, 64), (37, 5), (16, 3, 3, 3), (8, 1, 5, 5), (6, 5, 7), (3, 4, 2, 3, 2), (70, 90, 1, 1)]


def walked(shape: tuple[int, ...], spread: float = 0.8, seed: int = 0) -> np.ndarray:
    """Codes `(out, in, *kernel)` of Laplace indices, each channel along its own paths, one code at a time."""
    out, fan_in, *kernel = shape
    rng, codes = np.random.default_rng(seed), np.zeros((out, fan_in * int(np.prod(kernel))), np.int64)
    for row in codes:
        for lane in paths(out, fan_in, *kernel):
            state = 0
            for place in lane:
                index = int(np.clip(np.rint(rng.laplace(0, spread)), -63, 63))
                row[place] = 2 * index - (CLASS[state] and np.sign(index))
                state = NEXT[state, index & 1]
    return codes.reshape(shape).astype(np.int8)


def coded(codes: np.ndarray, on_paths: bool) -> bytes:
    writer = Writer()
    code_weights(writer, WeightMemory(), codes.shape, codes, on_paths=on_paths)
    return writer.finish(bytes(48), 16)


def file_of(codes: np.ndarray) -> bytes:
    weight = onnx.numpy_helper.from_array(codes, "w")
    value = [onnx.helper.make_tensor_value_info(name, 3, list(codes.shape)) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", value[:1], value[1:], [weight])
    return onnx.helper.make_model(graph).SerializeToString()


def test_every_state_has_two_ways_in_and_both_classes_lead_on() -> None:
    assert np.bincount(NEXT.ravel(), minlength=STATES).tolist() == [2] * STATES
    assert (NEXT[:, 0] != NEXT[:, 1]).all() and CLASS.sum() == STATES / 2


@pytest.mark.parametrize("kind", [0, 1])
def test_an_index_and_its_code_tell_each_other(kind: int) -> None:
    index = np.arange(-40, 41)
    code = code_of(index, np.full(81, kind))
    assert allowed(code, np.full(81, kind)).all()
    np.testing.assert_array_equal(index_of(code, np.full(81, kind)), index)
    every = np.arange(-20, 21)
    assert set(every[allowed(every, np.full(41, kind))]) == set(code[np.abs(code) <= 20])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_paths_visit_every_place_once(shape: tuple[int, ...]) -> None:
    result = sorted(place for lane in paths(*shape) for place in lane)
    assert result == list(range(int(np.prod(shape[1:]))))


def test_a_kernel_that_the_coder_doesn_t_look_into_has_no_paths() -> None:
    assert paths(4, 2, 17, 17) == [] and paths(4, 2, 16, 16)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spread", [0.1, 1.0, 20.0])
def test_codes_on_paths_are_known_and_come_back(shape: tuple[int, ...], spread: float) -> None:
    codes = np.ascontiguousarray(walked(shape, spread).swapaxes(0, 1))
    assert on_paths(codes)
    reader = Reader(coded(codes, on_paths=True), 16)
    np.testing.assert_array_equal(code_weights(reader, WeightMemory(), codes.shape, on_paths=True), codes)
    assert reader.finish() == bytes(48)


@pytest.mark.parametrize("at", [0, 3])
def test_one_code_off_its_path_is_noticed(at: int) -> None:
    """In state 0 an odd code isn't allowed, and another parity of the index leads to another state."""
    codes = np.ascontiguousarray(walked((64, 80), spread=3.0).swapaxes(0, 1))
    codes.flat[at] += 1 if at == 0 else 2
    assert not on_paths(codes)


def test_other_codes_aren_t_on_paths() -> None:
    assert not on_paths(np.rint(np.random.default_rng(0).laplace(0, 1, (30, 20))).astype(np.int8))


@pytest.mark.parametrize("turned", [False, True])
def test_a_container_finds_paths_along_either_axis_and_saves_by_them(turned: bool) -> None:
    codes = walked((96, 200))
    codes = np.ascontiguousarray(codes.T) if turned else codes
    content = file_of(codes)
    packed = pack(content)
    assert unpack(packed) == content
    plain = len(coded(codes, on_paths=False))
    assert len(packed) < 0.85 * plain  # a class saves most of a bit


class TooLarge:
    """A reader that finds the largest escape everywhere: an index of 12 + 127."""

    def symbols(self, tables: object, contexts: np.ndarray, values: np.ndarray | None) -> np.ndarray:
        return np.full(len(contexts), 24 if len(contexts) == 64 else 7)

    def uniform(self, bits: np.ndarray, values: np.ndarray | None) -> np.ndarray:
        return (1 << bits) - 1


def test_a_code_beyond_a_byte_is_refused() -> None:
    with pytest.raises(Altered, match="outside of a byte"):
        code_weights(TooLarge(), WeightMemory(), (64, 1), on_paths=True)
