"""The container: an ONNX file in as few bytes as it takes, given back to the very byte.

    "DYNC" | version | digest | lengths and methods | skeleton | coded stream | raw bits

Unpacking needs numpy alone. The digest is the first 16 bytes of the sha256 of all that follows it and of the file itself. It
finds accidents: 128 bits are plenty for that, while a seal inside the file, which is about what was certified, keeps its own
256. Whoever can change the container can change either; sign it where that matters.

Nothing that a file declares is believed: a container is at most 1024 times smaller than its file (one that would be smaller is
filled up with zeros), sizes are compared with that and with a limit before memory is taken.
"""

from __future__ import annotations

import hashlib
import lzma
import zlib
from math import prod

from dyncompress.coding.external import refuse_external
from dyncompress.coding.numbers import Bits
from dyncompress.coding.rans import TAIL_BYTES, Reader, Writer
from dyncompress.coding.skeleton import Source, cut, filled, is_model, opened, varint
from dyncompress.coding.tensors import TensorMemory, read_tensor, size_of, write_tensor
from dyncompress.errors import Altered, InvalidRequest

MAGIC, VERSION = b"DYNC", 2
LIMIT = 1 << 31  # bytes of an unpacked file: protobuf's own
_RATIO, _ALWAYS = 1024, 1 << 16
_DIGEST = 16
_HEAD = len(MAGIC) + 1 + _DIGEST
_STORED, _ZLIB, _LZMA = 0, 1, 2  # how the skeleton is compressed; lzma: 2 + lc
_WHOLE = 16  # added where the skeleton is the whole file
_READING = (ValueError, IndexError, KeyError, OverflowError, zlib.error, lzma.LZMAError, EOFError)


def pack(content: bytes) -> bytes:
    """The container of an ONNX file; a sealed file stays sealed.

    Raises:
        InvalidRequest: it is no ONNX file, beyond protobuf's 2 GiB, or a container itself.
    """
    if is_packed(content):
        raise InvalidRequest("the file is a container already; unpack it first.")
    if len(content) >= LIMIT or not is_model(content):
        raise InvalidRequest(f"the {len(content):,} bytes given are no ONNX file (one is a message with a graph, below 2 GiB).")
    refuse_external(content, "the ONNX file")
    try:
        skeleton, forms, data = cut(content)
        if filled(opened(skeleton, len(content)), data) != content or any(
            size_of(form) != len(raw) for form, raw in zip(forms, data, strict=True)
        ):
            raise ValueError("another writer's protobuf")
        whole = 0
    except (ValueError, IndexError, Altered):  # written in another way: a general compressor takes it whole
        skeleton, forms, data, whole = content, [], [], _WHOLE
    method, small = _compressed(skeleton)
    coder, memory, bits = Writer(), TensorMemory(), Bits()
    for form, raw in zip(forms, data, strict=True):
        write_tensor(coder, memory, form, raw, bits)
    rest = bits.bytes()
    lanes = _lanes(sum(prod(form.shape) for form in forms), len(rest))
    tail = rest[: TAIL_BYTES * lanes].ljust(TAIL_BYTES * lanes, b"\0")
    stream = coder.finish(tail, lanes)
    body = varint(len(content)) + bytes([method | whole, lanes.bit_length() - 1])
    body += varint(len(skeleton)) + varint(len(small)) + small + varint(len(stream)) + stream + rest[len(tail) :]
    body += bytes(max(0, -(-(len(content) - _ALWAYS) // _RATIO) - _HEAD - len(body)))
    packed = MAGIC + bytes([VERSION]) + _digest(body, content) + body
    if unpack(packed) != content:
        raise InvalidRequest("the file can't be read back from its container; nothing was written. Please report this file.")
    return packed


def unpack(packed: bytes, limit: int = LIMIT) -> bytes:
    """The file of a container, to the byte.

    Args:
        packed: what `pack` wrote.
        limit: largest file to make, in bytes.

    Raises:
        InvalidRequest: it is no container, one of a newer version, or its file is above the limit.
        Altered: it was cut or changed.
    """
    if not is_packed(packed):
        raise InvalidRequest(f"the {len(packed):,} bytes given are no dyncompress container (they don't begin with DYNC).")
    if len(packed) > len(MAGIC) and packed[len(MAGIC)] != VERSION:
        raise InvalidRequest(
            f"the container has version {packed[len(MAGIC)]}, this program reads {VERSION}; it was changed, or written by "
            "another version of the program: install that one."
        )
    try:
        content = _content(packed, limit)
    except _READING as error:
        raise Altered(f"the container can't be read ({error}); it was cut or changed: fetch it again.") from error
    if _digest(packed[_HEAD:], content) != packed[_HEAD - _DIGEST : _HEAD]:
        raise Altered("the container hasn't the digest that it was written with; it was changed: fetch it again.")
    return content


def _digest(body: bytes, content: bytes) -> bytes:
    both = hashlib.sha256(body)
    both.update(content)
    return both.digest()[:_DIGEST]


def is_packed(content: bytes) -> bool:
    """Whether the bytes begin as a container does."""
    return content[: len(MAGIC)] == MAGIC


def description_bits(content: bytes) -> int:
    """Length of the container of an ONNX file in bits: a code that pays for all that was learned, graph and tables included."""
    return 8 * len(pack(content))


def _content(packed: bytes, limit: int) -> bytes:
    source = Source(packed)
    source.take(_HEAD)
    length = source.number()
    if length > _ALWAYS + _RATIO * len(packed):
        raise ValueError(f"{len(packed):,} bytes can't hold the {length:,} that it declares")
    if length > limit:
        raise InvalidRequest(f"the container's file has {length:,} bytes, the limit is {limit:,}; raise the limit.")
    method, lanes = source.take(2)
    size = source.number()
    if size > 2 * length or lanes > 16:
        raise ValueError("its lengths contradict each other")
    skeleton = _expanded(source.block(), method & ~_WHOLE, size)
    reader, memory = Reader(source.block(), 1 << lanes), TensorMemory()
    rest = source.take(len(packed) - source.at)
    frame = None if method & _WHOLE else opened(skeleton, length)
    forms = [] if frame is None else frame.forms
    if sum(size_of(form) for form in forms) > length:
        raise ValueError("its initializers are larger than its file")
    finish = [read_tensor(reader, memory, form) for form in forms]
    bits = Bits(reader.finish() + rest)
    data = [last(bits) for last in finish]
    return skeleton if frame is None else filled(frame, data)


def _lanes(symbols: int, spare: int) -> int:
    """A power of two: enough for numpy to be busy; what spare bytes don't fill of them costs at most 0.4 bits in a thousand."""
    lanes = 16
    while lanes < 4096 and lanes * 4096 < symbols and 2 * lanes * TAIL_BYTES <= spare + (symbols >> 11):
        lanes *= 2
    return lanes


def _compressed(content: bytes) -> tuple[int, bytes]:
    """The smallest of: stored, deflate, lzma with 0 to 4 bits of the byte before."""
    deflate = zlib.compressobj(9, wbits=-15)
    found = [(content, _STORED), (deflate.compress(content) + deflate.flush(), _ZLIB)]
    found += [
        (lzma.compress(content, lzma.FORMAT_RAW, filters=_filters(context, len(content))), _LZMA + context)
        for context in range(5)
    ]
    small, method = min(found, key=lambda pair: len(pair[0]))
    return method, small


def _expanded(small: bytes, method: int, size: int) -> bytes:
    if method == _STORED:
        content = small
    elif method == _ZLIB:
        content = zlib.decompressobj(wbits=-15).decompress(small, size + 1)
    elif method < _LZMA + 5:
        filters = _filters(method - _LZMA, size)
        content = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters).decompress(small, max_length=size + 1)
    else:
        raise ValueError(f"unknown method {method}")
    if len(content) != size:
        raise ValueError(f"a skeleton of {len(content)} bytes where {size} were declared")
    return content


def _filters(context: int, size: int) -> list[dict[str, int]]:
    dictionary = min(max(1 << size.bit_length(), 1 << 12), 1 << 26)
    return [{"id": lzma.FILTER_LZMA1, "lc": context, "lp": 0, "pb": 0, "dict_size": dictionary, "nice_len": 273, "depth": 512}]
