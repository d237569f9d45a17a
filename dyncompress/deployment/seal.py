"""The seal: a metadata entry at the end of an ONNX file, with the length and the SHA-256 digest of everything before it.

An ONNX file is a protobuf message. With a serialized `metadata_props` entry (field 14 of ModelProto) appended it is still a
valid message, so onnxruntime loads the sealed file as it is. Checking a seal needs no onnx package: the first `length` bytes are
hashed, and the rest must be exactly the entry, which holds its own digest too.

A seal detects accidents and careless edits. It isn't a signature: whoever changes the file can seal it again. Sign the file
separately where that matters.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from dyncompress.coding.skeleton import varint
from dyncompress.errors import Altered, InvalidRequest

KEY = b"dyncompress.seal"
LIMIT = 2048  # bytes
_OWN = ("length", "sha256", "entry_sha256")
_FIELD = 14 << 3 | 2  # ModelProto.metadata_props, length-delimited
_MARK = b"\x0a" + bytes([len(KEY)]) + KEY + b"\x12"  # StringStringEntryProto.key, then the tag of .value


def seal(body: bytes, entry: Mapping[str, Any]) -> bytes:
    """Append a seal to a file.

    Args:
        body: an unsealed ONNX file.
        entry: JSON values that are stored beside the digest, such as a short statement of the certificate.

    Returns:
        `body` followed by the seal, at most 2048 bytes.

    Raises:
        InvalidRequest: the body is sealed already, or the entry uses the seal's own keys, is too long, or isn't JSON.

    Example:
        >>> unseal(seal(b"an ONNX file", {"delta": 0.05}))
        (b'an ONNX file', {'delta': 0.05})
    """
    if _MARK in body:
        raise InvalidRequest("the file already carries a seal; unseal it first.")
    reserved = set(_OWN) & entry.keys()
    if reserved:
        raise InvalidRequest(f"the seal sets {sorted(reserved)} itself; use other keys in the entry.")
    full = {**entry, "length": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    try:
        tail = _serialize({**full, "entry_sha256": _digest(full)})
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"the seal's entry isn't JSON ({error}); use only text and finite numbers.") from error
    if len(tail) > LIMIT:
        raise InvalidRequest(f"the seal would take {len(tail)} bytes, the limit is {LIMIT}; shorten the statement.")
    return body + tail


def unseal(content: bytes) -> tuple[bytes, dict[str, Any]]:
    """Check the seal of a file, and split the file into its body and the seal's entry.

    Args:
        content: the sealed file.

    Returns:
        The body, and the entry without the seal's own keys.

    Raises:
        InvalidRequest: the file carries no seal.
        Altered: the body or the entry was changed, or bytes were added or removed.
    """
    mark = content.find(_MARK)
    if mark < 0:
        raise InvalidRequest(f"the file ({len(content)} bytes) carries no seal; it was never certified, or the seal was cut off.")
    entry = _entry(content, mark)
    length = entry.get("length")
    if not isinstance(length, int) or not 0 <= length < mark or content[length:] != _serialize(entry):
        raise Altered(
            f"the seal gives {length!r} bytes as the length of the file before it, but the file's {len(content)} bytes don't end "
            "with that seal; the file was changed."
        )
    body = content[:length]
    digest = hashlib.sha256(body).hexdigest()
    if digest != entry.get("sha256"):
        expected = str(entry.get("sha256"))[:16]
        raise Altered(f"the file's digest is {digest[:16]}..., the seal gives {expected}...; the file was changed.")
    if _digest({key: value for key, value in entry.items() if key != "entry_sha256"}) != entry.get("entry_sha256"):
        raise Altered("the statement in the seal isn't the one that was sealed; the file was changed.")
    return body, {key: value for key, value in entry.items() if key not in _OWN}


def is_sealed(content: bytes) -> bool:
    """Whether the file carries a seal, valid or not."""
    return _MARK in content


def _text(entry: Mapping[str, Any]) -> bytes:
    """An entry as canonical JSON: equal entries give equal bytes."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _digest(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(entry)).hexdigest()


def _serialize(entry: Mapping[str, Any]) -> bytes:
    """The bytes of a seal."""
    text = _text(entry)
    pair = _MARK + varint(len(text)) + text
    return bytes([_FIELD]) + varint(len(pair)) + pair


def _entry(content: bytes, mark: int) -> dict[str, Any]:
    """The entry of the seal whose key starts at the byte `mark`."""
    position = mark + len(_MARK)
    length = shift = 0
    while position < len(content) and shift < 28:
        byte = content[position]
        length |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            break
    try:
        entry = json.loads(
            content[position : position + length],
            object_pairs_hook=_dict_of_unique_keys,
            parse_constant=_refuse_number,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise Altered("the seal can't be read; the file was changed or cut off.") from error
    if not isinstance(entry, dict):
        raise Altered("the seal holds no entry; the file was changed.")
    return entry


def _dict_of_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The dict of a JSON object without duplicate keys, which different readers would read differently."""
    keys = [key for key, _ in pairs]
    duplicate = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
    if duplicate is not None:
        raise Altered(f"the seal holds the key '{duplicate}' twice; the file was changed.")
    return dict(pairs)


def _refuse_number(number: str) -> NoReturn:
    raise Altered(f"the seal holds the number {number}, and only finite numbers are sealed; the file was changed.")


def _finite(number: str) -> float:
    """The value of a number's text, refused where it overflows."""
    return float(number) if math.isfinite(float(number)) else _refuse_number(number)
