"""The container: an ONNX file, compressed without loss.

    "DYNC" | version | digest | lengths and methods | skeleton | coded stream | raw bits

Unpacking needs only numpy. The digest is the first 16 bytes of the sha256 of everything after it and of the file itself. It
detects accidental changes, for which 128 bits are enough; a seal inside the file, which concerns the certificate, has its own 256
bits. Anybody who can change the container can also change the digest; sign the container where that matters.

Sizes that a container declares are checked before memory is allocated: a container is at most 1024 times smaller than its file (a
smaller one is padded with zeros), and the file is at most as large as a limit.
"""

from __future__ import annotations

import hashlib
import lzma
import zlib
from math import prod

from dyncompress.coding.external import refuse_external
from dyncompress.coding.numbers import Bits
from dyncompress.coding.rans import TAIL_BYTES, Reader, Writer
from dyncompress.coding.skeleton import Source, cut_initializers, fill_skeleton, is_model, parse_skeleton, varint
from dyncompress.coding.tensors import TensorMemory, read_tensor, size_of, write_tensor
from dyncompress.errors import Altered, InvalidRequest

MAGIC, VERSION = b"DYNC", 2
LIMIT = 1 << 31  # largest size of an unpacked file in bytes, protobuf's own limit
_RATIO, _ALWAYS = 1024, 1 << 16
_DIGEST = 16
_HEAD = len(MAGIC) + 1 + _DIGEST
_STORED, _ZLIB, _LZMA = 0, 1, 2  # how the skeleton is compressed; lzma: 2 + lc
_WHOLE = 16  # added where the skeleton is the whole file
_READING = (ValueError, IndexError, KeyError, OverflowError, zlib.error, lzma.LZMAError, EOFError)


def pack(content: bytes) -> bytes:
    """Compress an ONNX file into a container, without loss: a sealed file stays sealed.

    Args:
        content: the bytes of the ONNX file.

    Returns:
        The bytes of the container; `unpack` restores the file from them.

    Raises:
        InvalidRequest: the bytes aren't an ONNX file, exceed protobuf's 2 GiB, or are a container.
    """
    if is_packed(content):
        raise InvalidRequest("the file is a container already; unpack it first.")
    if len(content) >= LIMIT or not is_model(content):
        raise InvalidRequest(f"the {len(content):,} bytes given are no ONNX file (one is a message with a graph, below 2 GiB).")
    refuse_external(content, "the ONNX file")
    try:
        skeleton, forms, data = cut_initializers(content)
        if fill_skeleton(parse_skeleton(skeleton, len(content)), data) != content or any(
            size_of(form) != len(raw) for form, raw in zip(forms, data, strict=True)
        ):
            raise ValueError("another writer's protobuf")
        whole = 0
    except (ValueError, IndexError, Altered):  # from another protobuf writer: a general compressor compresses the whole file
        skeleton, forms, data, whole = content, [], [], _WHOLE
    method, small = _compress(skeleton)
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
    """Restore the ONNX file from a container.

    Args:
        packed: the bytes that `pack` returned.
        limit: largest size of the file, in bytes.

    Returns:
        The bytes of the ONNX file, exactly as they were packed.

    Raises:
        InvalidRequest: the bytes aren't a container, have another version, or the file is above the limit.
        Altered: the container was cut or changed.
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
        raise Altered("the container doesn't match its digest; it was changed: fetch it again.")
    return content


def _digest(body: bytes, content: bytes) -> bytes:
    """The digest of a container, from what follows it and from its file."""
    both = hashlib.sha256(body)
    both.update(content)
    return both.digest()[:_DIGEST]


def is_packed(content: bytes) -> bool:
    """Whether the bytes begin with the mark of a container."""
    return content[: len(MAGIC)] == MAGIC


def description_bits(content: bytes) -> int:
    """The length of an ONNX file's container in bits: a code length for everything in the file, its graph and weights."""
    return 8 * len(pack(content))


def _content(packed: bytes, limit: int) -> bytes:
    """The file of a container, before the check of its digest."""
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
    skeleton = _decompress(source.block(), method & ~_WHOLE, size)
    reader, memory = Reader(source.block(), 1 << lanes), TensorMemory()
    rest = source.take(len(packed) - source.at)
    frame = None if method & _WHOLE else parse_skeleton(skeleton, length)
    forms = [] if frame is None else frame.forms
    if sum(size_of(form) for form in forms) > length:
        raise ValueError("its initializers are larger than its file")
    readers = [read_tensor(reader, memory, form) for form in forms]
    bits = Bits(reader.finish() + rest)
    data = [read_bits(bits) for read_bits in readers]
    return skeleton if frame is None else fill_skeleton(frame, data)


def _lanes(symbols: int, spare: int) -> int:
    """The number of lanes, a power of two: enough for numpy to be efficient, at a cost below 0.4 bits in a thousand."""
    lanes = 16
    while lanes < 4096 and lanes * 4096 < symbols and 2 * lanes * TAIL_BYTES <= spare + (symbols >> 11):
        lanes *= 2
    return lanes


def _compress(content: bytes) -> tuple[int, bytes]:
    """The method that gives the fewest bytes, and the bytes: stored, deflate, or lzma with 0 to 4 bits of the byte before."""
    deflate = zlib.compressobj(9, wbits=-15)
    candidates = [(content, _STORED), (deflate.compress(content) + deflate.flush(), _ZLIB)]
    candidates += [
        (lzma.compress(content, lzma.FORMAT_RAW, filters=_filters(context, len(content))), _LZMA + context)
        for context in range(5)
    ]
    small, method = min(candidates, key=lambda pair: len(pair[0]))
    return method, small


def _decompress(small: bytes, method: int, size: int) -> bytes:
    """The inverse of `_compress`; `size` is the number of bytes that result."""
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
    """The filters of lzma for `size` bytes, with `context` bits of the byte before."""
    dictionary = min(max(1 << size.bit_length(), 1 << 12), 1 << 26)
    return [{"id": lzma.FILTER_LZMA1, "lc": context, "lp": 0, "pb": 0, "dict_size": dictionary, "nice_len": 273, "depth": 512}]
