# pyright: reportArgumentType=false
# (the same code writes and reads: a reader gets None in place of values)
"""Codes the data of one initializer by the lossless model that is estimated to be smallest, and a tag that names it.

| model | data |
|---|---|
| raw | data that no model makes smaller |
| weights | int8 and packed int4 codes, by `coding.weights`; of wide codes only the high bits, followed by the low ones |
| paths | int8 codes that follow paths of `coding.trellis`, along the first axis or along the second |
| numbers | biases, scales, zero points, indices, by `coding.numbers` |
| bytes | other large arrays: every byte of a number has its own table |
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from dyncompress.coding.estimate import code_length
from dyncompress.coding.layout import LARGEST_KERNEL
from dyncompress.coding.numbers import Bits, Kind, NumberMemory, bits_of, code_numbers, low_bits, number_bytes, relative_numbers
from dyncompress.coding.skeleton import Form
from dyncompress.coding.tables import Tables
from dyncompress.coding.trellis import on_paths
from dyncompress.coding.weights import Coder, WeightMemory, code_weights
from dyncompress.errors import Altered
from dyncompress.types.arrays import Int8, Int64, UInt8

# by ONNX's type number; types of half a byte have size 0
KINDS = {
    1: Kind(4, floating=True),
    2: Kind(1),
    3: Kind(1, signed=True),
    4: Kind(2),
    5: Kind(2, signed=True),
    6: Kind(4, signed=True),
    7: Kind(8, signed=True),
    9: Kind(1),
    10: Kind(2, floating=True),
    11: Kind(8),
    12: Kind(4),
    13: Kind(8),
    16: Kind(2, floating=True),
    17: Kind(1),
    18: Kind(1),
    19: Kind(1),
    20: Kind(1),
    21: Kind(0),
    22: Kind(0, signed=True),
}
_INT8, _INT4, _UINT4 = 3, 22, 21
_AS_IS, _WEIGHTS, _NUMBERS, _BYTES = range(4)  # tags; 3 + s: weights with s raw low bits
_PATH_TAGS = (8, 9)  # codes on paths along the first axis, and along the second
_TAGS = 4 + 4 + 2
_WIDE = 5  # low bits of codes become raw until their mean magnitude is at most this
_FEW = 32  # fewer codes are coded as numbers
_FIRST_BYTES = 64  # coded with the initial table; each later part is a quarter of all before it

Finish = Callable[[Bits], bytes]


class TensorMemory:
    """The state between tensors: tables, and the memories of the models."""

    def __init__(self) -> None:
        """Start before the first tensor."""
        self.weights = WeightMemory()
        self.numbers = NumberMemory()
        self.decoded_numbers = NumberMemory()
        self.tags = Tables(np.full((len(KINDS) + 1, _TAGS), 8))
        self.bytes: dict[int, Tables] = {}


def size_of(form: Form) -> int:
    """The number of bytes of a tensor's data.

    Raises:
        Altered: the type is unknown.
    """
    if form.kind not in KINDS:
        raise Altered(f"an initializer has the unknown type {form.kind}; the file was changed.")
    size = KINDS[form.kind].size
    return size * prod(form.shape) if size else (prod(form.shape) + 1) // 2


def write_tensor(coder: Coder, memory: TensorMemory, form: Form, raw: bytes, bits: Bits) -> None:
    """Write one tensor.

    Args:
        coder: writes the coded symbols.
        memory: the state after the tensors before; it is updated.
        form: type and shape of the tensor.
        raw: its data.
        bits: the bits that aren't coded are appended here.
    """
    if not raw:
        return
    tag = _smallest(form, raw)
    _tag(coder, memory, form, np.array([tag]))
    kind = KINDS[form.kind]
    if tag == _NUMBERS:
        values = relative_numbers(memory.numbers, kind, raw)
        code_numbers(coder, memory.numbers, kind, len(raw) // kind.size, values)
        low_bits(bits, kind, values)
    elif tag == _BYTES:
        _bytes(coder, memory, kind.size or 1, len(raw), np.frombuffer(raw, np.uint8))
    elif tag == _AS_IS:
        bits.write(np.frombuffer(raw, np.uint8).astype(np.int64), np.full(len(raw), 8))
    elif tag in _PATH_TAGS:
        codes = _paths_first(np.frombuffer(raw, np.int8).reshape(form.shape), tag)
        code_weights(coder, memory.weights, codes.shape, codes, on_paths=True)
    else:
        shift = _shift(tag)
        high, low = _split(_codes(form, raw), shift)
        code_weights(coder, memory.weights, form.shape, high.reshape(form.shape))
        bits.write(low, np.full(len(low), shift))


def read_tensor(coder: Coder, memory: TensorMemory, form: Form) -> Finish:
    """Read the coded part of one tensor.

    Returns:
        A function that returns the tensor's bytes, given the raw bits of all tensors; call the functions in the order of reading.

    Raises:
        Altered: the tag doesn't fit the type or shape of the tensor.
    """
    kind, size = KINDS[form.kind], size_of(form)
    if not size:
        return lambda bits: b""
    tag = int(_tag(coder, memory, form, None)[0])
    if tag == _NUMBERS:
        if not kind.size:
            raise Altered("half bytes aren't numbers; the file was changed.")
        coded = code_numbers(coder, memory.numbers, kind, size // kind.size)
        return lambda bits: number_bytes(bits, memory.decoded_numbers, kind, coded)
    if tag == _BYTES:
        known = _bytes(coder, memory, kind.size or 1, size, None).tobytes()
        return lambda bits: known
    if tag == _AS_IS:
        return lambda bits: bits.read(np.full(size, 8)).astype(np.uint8).tobytes()
    if form.kind not in (_INT8, _INT4, _UINT4):
        raise Altered("an initializer of another type is coded as weights; the file was changed.")
    if tag in _PATH_TAGS:
        if form.kind != _INT8 or len(form.shape) < 2:
            raise Altered("codes of another type or shape are coded as paths; the file was changed.")
        first, second, *kernel = form.shape
        shape = (first, second, *kernel) if tag == _PATH_TAGS[0] else (second, first, *kernel)
        content = _paths_first(code_weights(coder, memory.weights, shape, on_paths=True), tag).tobytes()
        return lambda bits: content
    shift = _shift(tag)
    high = code_weights(coder, memory.weights, form.shape).ravel()
    return lambda bits: _data(form, _join(high, bits.read(np.full(high.size, shift)), shift))


def _tag(coder: Coder, memory: TensorMemory, form: Form, tag: Int64[np.ndarray, " 1"] | None) -> Int64[np.ndarray, " 1"]:
    """Write or read (None) the tag of a tensor."""
    context = np.array([list(KINDS).index(form.kind)])
    coded = coder.symbols(memory.tags, context, tag)
    memory.tags.add(context, coded)
    return coded


def _smallest(form: Form, raw: bytes) -> int:
    """The tag of the model with the smallest estimate."""
    kind, count = KINDS[form.kind], prod(form.shape)
    path_tag = _path_tag(form, raw)
    if path_tag is not None:
        return path_tag
    codes = _codes(form, raw) if form.kind in (_INT8, _INT4, _UINT4) and count >= _FEW else None
    if codes is not None and _data(form, codes) == raw:
        mean, shift = int(np.abs(codes.astype(np.int64)).mean()), 0
        while shift < 4 and mean >> shift > _WIDE:
            shift += 1
        kernel = form.shape[2:] if prod(form.shape[2:]) <= LARGEST_KERNEL else ()
        high = _split(codes, shift)[0].reshape(form.shape[0], -1, *kernel)
        coded = code_length(high) + shift * count
        return min(((coded, _WEIGHTS if not shift else _BYTES + shift), (_planes(raw, 1), _BYTES), (8.0 * len(raw), _AS_IS)))[1]
    sizes = [(8.0 * len(raw), _AS_IS), (_planes(raw, kind.size or 1), _BYTES)]
    if kind.size and _suits(kind, raw):
        sizes.append((bits_of(kind, raw), _NUMBERS))
    return min(sizes)[1]


def _path_tag(form: Form, raw: bytes) -> int | None:
    """The tag of codes that follow paths; None where they don't."""
    if form.kind != _INT8 or len(form.shape) < 2 or len(raw) < _FEW or not any(raw):
        return None
    codes = np.frombuffer(raw, np.int8).reshape(form.shape)
    return next((tag for tag in _PATH_TAGS if on_paths(_paths_first(codes, tag))), None)


def _suits(kind: Kind, raw: bytes) -> bool:
    """Whether the numbers fit 32 bits, as `coding.numbers` needs."""
    return kind.size <= 4 or (kind.signed and bool((np.abs(np.frombuffer(raw, "<i8") >> 1) < 1 << 30).all()))


def _paths_first(codes: Int8[np.ndarray, "first second *kernel"], tag: int) -> Int8[np.ndarray, "_first _second *kernel"]:
    """The codes with the axis of their paths first; applied twice, it returns the codes."""
    return codes if tag == _PATH_TAGS[0] else codes.swapaxes(0, 1)


def _shift(tag: int) -> int:
    """The number of raw low bits under a tag of weights."""
    return 0 if tag == _WEIGHTS else tag - _BYTES


def _split(codes: Int8[np.ndarray, "*shape"], shift: int) -> tuple[Int8[np.ndarray, "*shape"], Int64[np.ndarray, "*shape"]]:
    """Codes as high parts, rounded to nearest, and `shift` low bits."""
    moved = codes.astype(np.int64) + (1 << shift >> 1)
    return (moved >> shift).astype(np.int8), moved & ((1 << shift) - 1)


def _join(high: Int8[np.ndarray, " n"], low: Int64[np.ndarray, " n"], shift: int) -> Int8[np.ndarray, " n"]:
    """The inverse of `_split`.

    Raises:
        Altered: a code doesn't fit a byte.
    """
    whole = (high.astype(np.int64) << shift) + low - (1 << shift >> 1)
    if (whole < -128).any() or (whole > 127).any():
        raise Altered("a weight code lies outside of a byte; the file was changed.")
    return whole.astype(np.int8)


def _codes(form: Form, raw: bytes) -> Int8[np.ndarray, " n"]:
    """The codes of a tensor as int8, flat; unsigned codes of half a byte are reduced by 8."""
    if form.kind == _INT8:
        return np.frombuffer(raw, np.int8)
    packed = np.frombuffer(raw, np.uint8)
    halves = np.stack([packed & 15, packed >> 4], 1).ravel()[: prod(form.shape)].astype(np.int8)
    return halves - 8 if form.kind == _UINT4 else (halves ^ 8) - 8


def _data(form: Form, codes: Int8[np.ndarray, " n"]) -> bytes:
    """The inverse of `_codes`."""
    if form.kind == _INT8:
        return codes.tobytes()
    halves = (codes + 8 if form.kind == _UINT4 else codes).astype(np.uint8) & 15
    halves = np.append(halves, np.zeros(halves.size % 2, np.uint8)).reshape(-1, 2)
    return (halves[:, 0] | halves[:, 1] << 4).tobytes()


def _bytes(
    coder: Coder, memory: TensorMemory, planes: int, count: int, content: UInt8[np.ndarray, " n"] | None
) -> UInt8[np.ndarray, " n"]:
    """Write or read (None) bytes, each with the table of its position in a number of `planes` bytes."""
    tables = memory.bytes.setdefault(planes, Tables(np.full((planes, 256), 1)))
    out = np.empty(count, np.uint8)
    first = 0
    while first < count:
        stop = min(count, first + max(_FIRST_BYTES * planes, first >> 2))
        plane = np.arange(first, stop) % planes
        out[first:stop] = coder.symbols(tables, plane, None if content is None else content[first:stop].astype(np.int64))
        tables.add(plane, out[first:stop].astype(np.int64))
        first = stop
    return out


def _planes(raw: bytes, planes: int) -> float:
    """Estimate the bits that `_bytes` takes.

    They are the entropy of each plane, the cost of adapting its table, and the cost of its first part, coded with equal
    frequencies.
    """
    whole = np.frombuffer(raw, np.uint8)
    total = 0.0
    for plane in range(planes):
        counts = np.bincount(whole[plane::planes])
        counts = counts[counts > 0]
        count = int(counts.sum())
        entropy = float((counts * np.log2(count / counts)).sum())
        total += entropy + 8.0 * len(counts) + min(count, 2 * _FIRST_BYTES) * max(8 - entropy / max(count, 1), 0)
    return total
