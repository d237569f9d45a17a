"""Take protobuf messages apart and put them together without copying what stays as it is."""

from __future__ import annotations

from collections.abc import Iterator

from dyncompress.coding.skeleton import Source, varint

# Keys of fields (number << 3 | wire type), as in onnx.proto.
GRAPH, INITIALIZER, RAW = 7 << 3 | 2, 5 << 3 | 2, 9 << 3 | 2


def parts(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    r"""Key, content and whole of each field; views of the message. A field without a length has itself as content.

    Raises:
        ValueError: the bytes aren't a protobuf message.

    Example:
        >>> [(key >> 3, bytes(content)) for key, content, _ in parts(memoryview(b"\x0a\x02hi"))]
        [(1, b'hi')]
    """
    start = 0
    while start < len(message):
        head = Source(bytes(message[start : start + 20]))  # two numbers of at most ten bytes
        key = head.number()
        if key & 7 == 2:
            size = head.number()
        elif key & 7 == 0:
            head.number()
            size = 0
        elif key & 7 in (1, 5):
            size = 8 if key & 7 == 1 else 4
        else:
            raise ValueError(f"wire type {key & 7}")
        end = start + head.at + size
        if end > len(message):
            raise ValueError("it ends too soon")
        yield key, message[start + head.at if key & 7 == 2 else start : end], message[start:end]
        start = end


def field(key: int, content: list[memoryview | bytes]) -> list[memoryview | bytes]:
    r"""The pieces of a field of bytes, from its key and the pieces of its content.

    Example:
        >>> b"".join(field(10, [b"h", b"i"]))
        b'\n\x02hi'
    """
    return [varint(key) + varint(sum(len(piece) for piece in content)), *content]
