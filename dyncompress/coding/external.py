"""Detects tensors of an ONNX file that are stored in other files, without the onnx package and without reading tensor data."""

from __future__ import annotations

from dyncompress.coding.skeleton import fields
from dyncompress.errors import InvalidRequest

MODEL, GRAPH, FUNCTION, NODE, ATTRIBUTE, SPARSE, TENSOR, ENTRY = range(8)
# kind of message -> number of a field that holds messages -> their kind, as in onnx.proto
INSIDE = {
    MODEL: {7: GRAPH, 25: FUNCTION},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    FUNCTION: {7: NODE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    SPARSE: {1: TENSOR, 2: TENSOR},
    TENSOR: {13: ENTRY},
    ENTRY: {},
}


def external_files(content: bytes) -> list[str]:
    """Names of the other files in which an ONNX file stores tensors; empty where it holds all of them itself.

    Args:
        content: the bytes of the ONNX file.

    Raises:
        ValueError: the bytes aren't a protobuf message.
    """
    names, pending = {}, [(MODEL, content)]
    while pending:
        kind, message = pending.pop()
        entry = {}
        for key, value in fields(message):
            inner = INSIDE[kind].get(key >> 3)
            if inner is not None and isinstance(value, bytes):
                pending.append((inner, value))
            elif kind == ENTRY and isinstance(value, bytes):
                entry[key >> 3] = value
        if entry.get(1) == b"location":
            names[entry.get(2, b"").decode("utf-8", "replace")] = None
    return list(names)


def refuse_external(content: bytes, what: str) -> None:
    """Check that an ONNX file stores no tensors in other files.

    Args:
        content: the bytes of the file; if they aren't a protobuf message, other checks report it.
        what: what the error message calls the file, e.g. `model.onnx`.

    Raises:
        InvalidRequest: it does; the message names the first of the other files.
    """
    try:
        files = external_files(content)
    except (ValueError, IndexError):
        return
    if files:
        raise InvalidRequest(
            f"{what} keeps weights in another file, '{files[0]}', and only a file that is whole without others can be read; "
            "write one with onnx.save(onnx.load('model.onnx'), 'whole.onnx')."
        )
