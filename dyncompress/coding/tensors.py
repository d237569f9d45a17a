# pyright: reportArgumentType=false
# (one model writes and reads: a reader is given nothing)
"""The data of one initializer: the smallest of several exact models, and which one it was.

| model | for |
|---|---|
| raw | whatever is smallest as it is |
| weights | int8 and packed int4 codes: `coding.weights`; of wide codes the high bits, the low ones as they are |
| paths | int8 codes that follow paths of `coding.trellis`, along the first axis or along the second |
| numbers | biases, scales, zero points, indices: `coding.numbers` |
| bytes | large arrays of anything: each byte of a number by a table of its own |
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from dyncompress.coding.estimate import code_length
from dyncompress.coding.layout import LARGEST_KERNEL
from dyncompress.coding.numbers import Bits, Kind, NumberMemory, bits_of, code_numbers, low_bits, relative, resolved
from dyncompress.coding.skeleton import Form
from dyncompress.coding.tables import Tables
from dyncompress.coding.trellis import on_paths
from dyncompress.coding.weights import Coder, WeightMemory, code_weights
from dyncompress.errors import Altered

# ONNX's numbers of types; half-byte types have size 0
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
_AS_IS, _WEIGHTS, _NUMBERS, _BYTES = range(4)  # tags; weights whose s low bits are raw: 3 + s
_ALONG = (8, 9)  # tags of codes on paths along the first axis, and along the second
_TAGS = 4 + 4 + 2
_WIDE = 5  # codes of a mean magnitude above this many steps lose low bits to the raw ones
_FEW = 32  # codes below this number are numbers
_FIRST_BYTES = 64  # coded by the first table; every next part is a quarter of what came before

Finish = Callable[[Bits], bytes]


class TensorMemory:
    """What the tensors before leave to the next."""

    def __init__(self) -> None:
        """Before the first tensor."""
        self.weights = WeightMemory()
        self.numbers = NumberMemory()
        self.resolved = NumberMemory()
        self.tags = Tables(np.full((len(KINDS) + 1, _TAGS), 8))
        self.bytes: dict[int, Tables] = {}


def size_of(form: Form) -> int:
    """Bytes of the data of a tensor.

    Raises:
        Altered: an unknown type.
    """
    if form.kind not in KINDS:
        raise Altered(f"an initializer has the unknown type {form.kind}; the file was changed.")
    size = KINDS[form.kind].size
    return size * prod(form.shape) if size else (prod(form.shape) + 1) // 2


def write_tensor(coder: Coder, memory: TensorMemory, form: Form, raw: bytes, bits: Bits) -> None:
    """Write one tensor; what isn't coded goes to `bits`."""
    if not raw:
        return
    tag = _smallest(form, raw)
    _tag(coder, memory, form, np.array([tag]))
    kind = KINDS[form.kind]
    if tag == _NUMBERS:
        given = relative(memory.numbers, kind, raw)
        code_numbers(coder, memory.numbers, kind, len(raw) // kind.size, given)
        low_bits(bits, kind, given)
    elif tag == _BYTES:
        _bytes(coder, memory, kind.size or 1, len(raw), np.frombuffer(raw, np.uint8))
    elif tag == _AS_IS:
        bits.write(np.frombuffer(raw, np.uint8).astype(np.int64), np.full(len(raw), 8))
    elif tag in _ALONG:
        codes = _turned(np.frombuffer(raw, np.int8).reshape(form.shape), tag)
        code_weights(coder, memory.weights, codes.shape, codes, on_paths=True)
    else:
        shift = _shift(tag)
        high, low = _split(_codes(form, raw), shift)
        code_weights(coder, memory.weights, form.shape, high.reshape(form.shape))
        bits.write(low, np.full(len(low), shift))


def read_tensor(coder: Coder, memory: TensorMemory, form: Form) -> Finish:
    """Read one tensor, but for its raw bits; the answer gives its bytes when they are there, called in the same order."""
    kind, size = KINDS[form.kind], size_of(form)
    if not size:
        return lambda bits: b""
    tag = int(_tag(coder, memory, form, None)[0])
    if tag == _NUMBERS:
        if not kind.size:
            raise Altered("half bytes aren't numbers; the file was changed.")
        found = code_numbers(coder, memory.numbers, kind, size // kind.size)
        return lambda bits: resolved(bits, memory.resolved, kind, found)
    if tag == _BYTES:
        known = _bytes(coder, memory, kind.size or 1, size, None).tobytes()
        return lambda bits: known
    if tag == _AS_IS:
        return lambda bits: bits.read(np.full(size, 8)).astype(np.uint8).tobytes()
    if form.kind not in (_INT8, _INT4, _UINT4):
        raise Altered("an initializer of another type is coded as weights; the file was changed.")
    if tag in _ALONG:
        if form.kind != _INT8 or len(form.shape) < 2:
            raise Altered("codes of another type or shape are coded as paths; the file was changed.")
        first, second, *kernel = form.shape
        shape = (first, second, *kernel) if tag == _ALONG[0] else (second, first, *kernel)
        along = _turned(code_weights(coder, memory.weights, shape, on_paths=True), tag).tobytes()
        return lambda bits: along
    shift = _shift(tag)
    high = code_weights(coder, memory.weights, form.shape).ravel()
    return lambda bits: _data(form, _joined(high, bits.read(np.full(high.size, shift)), shift))


def _tag(coder: Coder, memory: TensorMemory, form: Form, given: np.ndarray | None) -> np.ndarray:
    here = np.array([list(KINDS).index(form.kind)])
    found = coder.symbols(memory.tags, here, given)
    memory.tags.add(here, found)
    return found


def _smallest(form: Form, raw: bytes) -> int:
    """The tag of the model that is estimated smallest."""
    kind, count = KINDS[form.kind], prod(form.shape)
    along = _along(form, raw)
    if along is not None:
        return along
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


def _along(form: Form, raw: bytes) -> int | None:
    """The tag of codes on paths, None where they follow none."""
    if form.kind != _INT8 or len(form.shape) < 2 or len(raw) < _FEW or not any(raw):
        return None
    codes = np.frombuffer(raw, np.int8).reshape(form.shape)
    return next((tag for tag in _ALONG if on_paths(_turned(codes, tag))), None)


def _suits(kind: Kind, raw: bytes) -> bool:
    """Whether numbers are within 32 bits."""
    return kind.size <= 4 or (kind.signed and bool((np.abs(np.frombuffer(raw, "<i8") >> 1) < 1 << 30).all()))


def _turned(codes: np.ndarray, tag: int) -> np.ndarray:
    """Codes with the axis that their paths run along in front, and back."""
    return codes if tag == _ALONG[0] else codes.swapaxes(0, 1)


def _shift(tag: int) -> int:
    return 0 if tag == _WEIGHTS else tag - _BYTES


def _split(codes: np.ndarray, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes as high parts, rounded to nearest, and low bits."""
    moved = codes.astype(np.int64) + (1 << shift >> 1)
    return (moved >> shift).astype(np.int8), moved & ((1 << shift) - 1)


def _joined(high: np.ndarray, low: np.ndarray, shift: int) -> np.ndarray:
    whole = (high.astype(np.int64) << shift) + low - (1 << shift >> 1)
    if (whole < -128).any() or (whole > 127).any():
        raise Altered("a weight code lies outside of a byte; the file was changed.")
    return whole.astype(np.int8)


def _codes(form: Form, raw: bytes) -> np.ndarray:
    """int8 codes of a tensor, flat; unsigned half bytes minus 8."""
    if form.kind == _INT8:
        return np.frombuffer(raw, np.int8)
    packed = np.frombuffer(raw, np.uint8)
    halves = np.stack([packed & 15, packed >> 4], 1).ravel()[: prod(form.shape)].astype(np.int8)
    return halves - 8 if form.kind == _UINT4 else (halves ^ 8) - 8


def _data(form: Form, codes: np.ndarray) -> bytes:
    """The inverse of `_codes`."""
    if form.kind == _INT8:
        return codes.tobytes()
    halves = (codes + 8 if form.kind == _UINT4 else codes).astype(np.uint8) & 15
    halves = np.append(halves, np.zeros(halves.size % 2, np.uint8)).reshape(-1, 2)
    return (halves[:, 0] | halves[:, 1] << 4).tobytes()


def _bytes(coder: Coder, memory: TensorMemory, planes: int, count: int, given: np.ndarray | None) -> np.ndarray:
    """Bytes, each by the table of its place in a number."""
    tables = memory.bytes.setdefault(planes, Tables(np.full((planes, 256), 1)))
    out = np.empty(count, np.uint8)
    first = 0
    while first < count:
        stop = min(count, first + max(_FIRST_BYTES * planes, first >> 2))
        here = np.arange(first, stop) % planes
        out[first:stop] = coder.symbols(tables, here, None if given is None else given[first:stop].astype(np.int64))
        tables.add(here, out[first:stop].astype(np.int64))
        first = stop
    return out


def _planes(raw: bytes, planes: int) -> float:
    """Bits of `_bytes`, estimated: the entropy of each plane, what its table must learn, and its first part, coded blindly."""
    whole = np.frombuffer(raw, np.uint8)
    total = 0.0
    for plane in range(planes):
        seen = np.bincount(whole[plane::planes])
        seen = seen[seen > 0]
        count = int(seen.sum())
        entropy = float((seen * np.log2(count / seen)).sum())
        total += entropy + 8.0 * len(seen) + min(count, 2 * _FIRST_BYTES) * max(8 - entropy / max(count, 1), 0)
    return total
