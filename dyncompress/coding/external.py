"""Which tensors of an ONNX file lie in other files: read without the onnx package, and no data of a tensor is looked at."""

from __future__ import annotations

from dyncompress.coding.skeleton import fields
from dyncompress.errors import InvalidRequest

MODEL, GRAPH, FUNCTION, NODE, ATTRIBUTE, SPARSE, TENSOR, ENTRY = range(8)
# kind of message -> field that holds messages -> their kind, as onnx.proto numbers them
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
    """Names of the files in which the ONNX file `content` keeps tensors; none where it holds all of them itself.

    Raises:
        ValueError: it isn't a protobuf message.
    """
    found, left = {}, [(MODEL, content)]
    while left:
        kind, message = left.pop()
        entry = {}
        for key, value in fields(message):
            inner = INSIDE[kind].get(key >> 3)
            if inner is not None and isinstance(value, bytes):
                left.append((inner, value))
            elif kind == ENTRY and isinstance(value, bytes):
                entry[key >> 3] = value
        if entry.get(1) == b"location":
            found[entry.get(2, b"").decode("utf-8", "replace")] = None
    return list(found)


def refuse_external(content: bytes, what: str) -> None:
    """Refuse an ONNX file that isn't whole without other files.

    Args:
        content: the file; one that isn't a protobuf message is left to other checks.
        what: how the message calls it, e.g. `model.onnx`.

    Raises:
        InvalidRequest: names the first of the other files.
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
