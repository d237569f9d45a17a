"""The seal: one metadata entry at the end of the file that names the length and the digest of everything before it.

An ONNX file is a protobuf message; appending a serialized `metadata_props` entry (field 14 of ModelProto) leaves it a valid
message, so that onnxruntime loads the sealed file as it is. Checking needs no onnx package: hash the first `length` bytes and
require the rest to be exactly the entry, which names its own digest too.

A seal finds accidents and careless edits. It is no signature: whoever alters the file can seal it again; sign the file
beside it where that matters.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from dyncompress.errors import Altered, InvalidRequest

KEY = b"dyncompress.seal"
LIMIT = 2048
_OWN = ("length", "sha256", "entry_sha256")
_FIELD = 14 << 3 | 2  # ModelProto.metadata_props, length-delimited
_MARK = b"\x0a" + bytes([len(KEY)]) + KEY + b"\x12"  # StringStringEntryProto.key, then the tag of .value


def seal(body: bytes, entry: Mapping[str, Any]) -> bytes:
    """The body with a seal at its end.

    Args:
        body: an unsealed ONNX file.
        entry: JSON values to show beside the digest (a short statement of the certificate).

    Returns:
        `body` and at most 2048 bytes more.

    Raises:
        InvalidRequest: the body is sealed already, the entry uses the seal's own keys, is too long, or isn't JSON.
    """
    if _MARK in body:
        raise InvalidRequest("the file already carries a seal; unseal it first.")
    reserved = set(_OWN) & entry.keys()
    if reserved:
        raise InvalidRequest(f"the seal sets {sorted(reserved)} itself; give the entry other keys.")
    full = {**entry, "length": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    try:
        tail = _serialized({**full, "entry_sha256": _digest(full)})
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"the seal's entry isn't JSON ({error}); put plain text and finite numbers into it.") from error
    if len(tail) > LIMIT:
        raise InvalidRequest(f"the seal would take {len(tail)} bytes, the limit is {LIMIT}; shorten the statement.")
    return body + tail


def unseal(content: bytes) -> tuple[bytes, dict[str, Any]]:
    """The body and the entry of a sealed file, both checked.

    Args:
        content: the file.

    Returns:
        (body, entry without the seal's own keys).

    Raises:
        InvalidRequest: the file carries no seal at all.
        Altered: body, entry or what follows isn't what was sealed.
    """
    mark = content.find(_MARK)
    if mark < 0:
        raise InvalidRequest(f"the file ({len(content)} bytes) carries no seal; it was never certified, or the seal was cut off.")
    found = _entry(content, mark)
    length = found.get("length")
    if not isinstance(length, int) or not 0 <= length < mark or content[length:] != _serialized(found):
        raise Altered(f"the seal names {length!r} bytes before it, but the file's {len(content)} bytes don't end with that seal.")
    body = content[:length]
    digest = hashlib.sha256(body).hexdigest()
    if digest != found.get("sha256"):
        wanted = str(found.get("sha256"))[:16]
        raise Altered(f"the file's digest is {digest[:16]}..., the seal names {wanted}...; the file was changed.")
    if _digest({key: value for key, value in found.items() if key != "entry_sha256"}) != found.get("entry_sha256"):
        raise Altered("the statement in the seal isn't the one that was sealed; the file was changed.")
    return body, {key: value for key, value in found.items() if key not in _OWN}


def is_sealed(content: bytes) -> bool:
    """Whether the file carries a seal, broken or not."""
    return _MARK in content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _text(entry: Mapping[str, Any]) -> bytes:
    """Canonical JSON: one entry has one text."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _digest(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(entry)).hexdigest()


def _serialized(entry: Mapping[str, Any]) -> bytes:
    text = _text(entry)
    pair = _MARK + _varint(len(text)) + text
    return bytes([_FIELD]) + _varint(len(pair)) + pair


def _entry(content: bytes, mark: int) -> dict[str, Any]:
    """The JSON of the seal whose key starts at `mark`."""
    position = mark + len(_MARK)
    length = shift = 0
    while position < len(content) and shift < 28:
        byte = content[position]
        length |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            break
    try:
        found = json.loads(
            content[position : position + length], object_pairs_hook=_once, parse_constant=_refuse_number, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise Altered("the seal can't be read; the file was changed or cut off.") from error
    if not isinstance(found, dict):
        raise Altered("the seal holds no entry; the file was changed.")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; one with a key twice would say different things to different readers."""
    keys = [key for key, _ in pairs]
    twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
    if twice is not None:
        raise Altered(f"the seal holds the key '{twice}' twice; the file was changed.")
    return dict(pairs)


def _refuse_number(number: str) -> NoReturn:
    raise Altered(f"the seal holds the number {number}, and only finite numbers are sealed; the file was changed.")


def _finite(number: str) -> float:
    return float(number) if math.isfinite(float(number)) else _refuse_number(number)
