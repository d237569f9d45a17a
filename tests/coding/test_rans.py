from __future__ import annotations

import numpy as np
import pytest

from dyncompress.coding.rans import LANE_BYTES, TAIL_BYTES, Reader, Writer
from dyncompress.coding.tables import WHOLE, Tables
from dyncompress.errors import Altered


def skewed(width: int, rows: int = 3) -> Tables:
    return Tables(np.arange(1, rows * width + 1).reshape(rows, width) ** 2)


def written(lanes: int, n: int, seed: int = 0) -> tuple[bytes, bytes, list[tuple[np.ndarray, np.ndarray]]]:
    """A stream of symbols and of uniform numbers in parts of odd sizes, its tail, and what was written."""
    rng = np.random.default_rng(seed)
    tables, coder, parts = skewed(7), Writer(), []
    for size in (n, 1, 0, 2 * n + 1):
        contexts, symbols = rng.integers(0, 3, size), rng.integers(0, 7, size)
        coder.symbols(tables, contexts, symbols)
        bits = rng.integers(0, 17, size)
        numbers = rng.integers(0, 1 << bits)
        coder.uniform(bits, numbers)
        parts.append((np.stack([contexts, symbols]), np.stack([bits, numbers])))
    tail = rng.bytes(TAIL_BYTES * lanes)
    return coder.finish(tail, lanes), tail, parts


@pytest.mark.parametrize("lanes", [1, 2, 16, 64])
@pytest.mark.parametrize("n", [0, 1, 15, 16, 200])
def test_what_is_read_is_what_was_written_and_the_tail_comes_back(lanes: int, n: int) -> None:
    stream, tail, parts = written(lanes, n)
    reader, tables = Reader(stream, lanes), skewed(7)
    for (contexts, symbols), (bits, numbers) in parts:
        np.testing.assert_array_equal(reader.symbols(tables, contexts), symbols)
        np.testing.assert_array_equal(reader.uniform(bits), numbers)
    assert reader.finish() == tail


def scalar_reading(stream: bytes, lanes: int, frequency: list[int], n: int) -> list[int]:
    """rANS as in the papers, one symbol after the other in Python integers."""
    states = [int.from_bytes(stream[i * LANE_BYTES : (i + 1) * LANE_BYTES], "little") for i in range(lanes)]
    words = [int.from_bytes(stream[i : i + 2], "little") for i in range(lanes * LANE_BYTES, len(stream), 2)]
    start = np.cumsum([0, *frequency]).tolist()
    result = []
    for i in range(n):
        x = states[i % lanes]
        slot = x % WHOLE
        symbol = max(s for s in range(len(frequency)) if start[s] <= slot)
        x = frequency[symbol] * (x // WHOLE) + slot - start[symbol]
        if x < 1 << 24:
            x = (x << 16) | words.pop(0)
        states[i % lanes] = x
        result.append(symbol)
    assert not words
    return result


def test_the_stream_is_the_textbooks() -> None:
    tables = skewed(5, 1)
    symbols = np.random.default_rng(1).integers(0, 5, 333)
    coder = Writer()
    coder.symbols(tables, np.zeros(333, np.int64), symbols)
    stream = coder.finish(bytes(3 * 8), 8)
    assert scalar_reading(stream, 8, tables.frequency[0].tolist(), 333) == symbols.tolist()


def test_the_length_is_the_entropy() -> None:
    tables = skewed(9, 1)
    p = tables.frequency[0] / WHOLE
    symbols = np.random.default_rng(2).choice(9, 200_000, p=p)
    coder = Writer()
    coder.symbols(tables, np.zeros(len(symbols), np.int64), symbols)
    tail = np.random.default_rng(3).bytes(3 * 64)
    ideal = -np.log2(p[symbols]).sum() / 8 + len(tail)
    assert abs(len(coder.finish(tail, 64)) - ideal) < 64 * 2 + 1e-4 * ideal  # less than two bytes a lane


@pytest.mark.parametrize("change", ["cut", "half", "more", "short"])
def test_a_stream_of_another_length_is_refused(change: str) -> None:
    stream, _, parts = written(16, 100)
    changed = {"cut": stream[:-20], "half": stream[:-1], "more": stream + b"\0\0", "short": stream[:30]}[change]
    with pytest.raises(Altered, match=r"cut|changed"):
        reader, tables = Reader(changed, 16), skewed(7)
        for (contexts, _), (bits, _) in parts:
            reader.symbols(tables, contexts)
            reader.uniform(bits)
        reader.finish()


def test_frequencies_are_positive_sum_to_the_whole_and_follow_the_counts() -> None:
    tables = Tables(np.array([[1, 0, 0, 0], [5, 5, 5, 5], [0, 1 << 40, 1, 0]]))
    assert (tables.frequency >= 1).all() and (tables.frequency.sum(1) == WHOLE).all()
    before = tables.frequency.copy()
    tables.add(np.full(50, 1), np.full(50, 2))
    np.testing.assert_array_equal(tables.frequency, before)  # too few for an update
    tables.add(np.full(50, 1), np.full(50, 2))
    assert tables.frequency[1, 2] > 0.9 * WHOLE and (tables.frequency.sum(1) == WHOLE).all()
    np.testing.assert_array_equal(tables.frequency[[0, 2]], before[[0, 2]])
    np.testing.assert_array_equal(tables.start[:, 1:], tables.frequency.cumsum(1)[:, :-1])


@pytest.mark.parametrize("width", [2, 25, 70, 256])
@pytest.mark.parametrize("n", [50, 3000])
def test_symbols_are_found_where_their_slots_lie(width: int, n: int) -> None:
    tables, rng = skewed(width), np.random.default_rng(width)
    contexts, symbols = rng.integers(0, 3, n), rng.integers(0, width, n)
    start, frequency = tables.start[contexts, symbols], tables.frequency[contexts, symbols]
    for slots in (start, start + frequency - 1, start + rng.integers(0, frequency)):
        np.testing.assert_array_equal(tables.find(contexts, slots.astype(np.int64)), symbols)
