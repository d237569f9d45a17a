"""Unreadable file contents, which `test_faults.py` puts where a command expects a valid file."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

Make = Callable[[Path, bytes], None]  # writes something to a path, given the bytes of a valid file of that kind


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def zipped(data: bytes, *, name: str = "x.npy", method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr(name, data)
    return stream.getvalue()


def header(shape: str, descr: str = "'<f4'", version: bytes = b"\x01\x00") -> bytes:
    """The header of an array without its values."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text


def patched(whole: bytes, local: int, central: int, value: bytes) -> bytes:
    """The archive with some bytes changed in both headers of its first entry."""
    changed = bytearray(whole)
    for mark, at in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        place = changed.index(mark) + at
        changed[place : place + len(value)] = value
    return bytes(changed)


def twice() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", b"")
        archive.filelist.append(archive.filelist[0])
    return stream.getvalue()


def bomb() -> bytes:
    """A small file that declares a hundred times the largest allowed memory."""
    return patched(zipped(bytes(1000), method=zipfile.ZIP_DEFLATED), 22, 24, b"\xf0\xff\xff\xff")


def external(model: bytes) -> bytes:
    """The model, whose weights are declared to be in another file."""
    proto = onnx.load_from_string(model)
    for tensor in proto.graph.initializer:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "weights.bin"
    return proto.SerializeToString()


def content(make: Callable[[bytes], bytes]) -> Make:
    def put(path: Path, good: bytes) -> None:
        path.write_bytes(make(good))

    return put


# ---------------------------------------------------------------- not a file, for every place
def nothing(path: Path, good: bytes) -> None:
    """Leave the path without a file."""


def folder(path: Path, good: bytes) -> None:
    path.mkdir()


def pipe(path: Path, good: bytes) -> None:
    os.mkfifo(path)


def dangling(path: Path, good: bytes) -> None:
    path.symlink_to("nowhere")


def circle(path: Path, good: bytes) -> None:
    path.symlink_to(path.name)


def device(path: Path, good: bytes) -> None:
    path.symlink_to("/dev/zero")


NO_FILE: dict[str, Make] = {
    "absent": nothing,
    "a directory": folder,
    "a pipe": pipe,
    "a device": device,
    "a link to nothing": dangling,
    "a link to itself": circle,
}

# ---------------------------------------------------------------- arrays
ARRAYS: dict[str, Make] = {
    "empty": content(lambda good: b""),
    "text": content(lambda good: b"1,2,3\n"),
    "first half": content(lambda good: good[: len(good) // 2]),
    "without its end": content(lambda good: good[:-30]),
    "one array, no archive": content(lambda good: header("(3,)") + bytes(12)),
    "pickled objects": content(lambda good: npz(x=np.array([{}], dtype=object))),
    "words": content(lambda good: npz(x=np.array(["a", "b", "c"]))),
    "fields": content(lambda good: npz(x=np.zeros(3, dtype=[("a", "f4"), ("b", "i4")]))),
    "twice the same": content(lambda good: twice()),
    "encrypted": content(lambda good: patched(good, 6, 8, b"\x01")),
    "LZMA": content(lambda good: zipped(header("(3,)") + bytes(12), method=zipfile.ZIP_LZMA)),
    "unknown method": content(lambda good: patched(good, 8, 10, b"\x63\x00")),
    "a bomb": content(lambda good: bomb()),
    "a shape beyond its bytes": content(lambda good: zipped(header("(999999999, 9999)"))),
    "a shape below zero": content(lambda good: zipped(header("(-3,)") + bytes(12))),
    "a shape of 5000 digits": content(lambda good: zipped(header(f"({'9' * 5000},)"))),
    "no dtype": content(lambda good: zipped(header("(3,)", "'nonsense'") + bytes(12))),
    "another format": content(lambda good: zipped(header("(3,)", version=b"\x09\x00") + bytes(12))),
    "no array inside": content(lambda good: zipped(b"hello", name="x.txt")),
}

# ---------------------------------------------------------------- texts: TOML, JSON and CSV
TEXTS: dict[str, Make] = {
    "empty": content(lambda good: b""),
    "UTF-16": content(lambda good: good.decode().encode("utf-16")),
    "latin-1": content(lambda good: "# café\n".encode("latin-1") + good),
    "null bytes": content(lambda good: good[:10] + b"\0\0" + good[10:]),
    "compressed": content(lambda good: zipped(good)),
    "deep brackets": content(lambda good: (b"[" if good[:1] == b"{" else b"x = " + b"[") * 1 + b"[" * 99_999),
    "5000 digits": content(lambda good: (b'{"a": ' if good[:1] == b"{" else b"a = ") + b"9" * 5000 + b"}" * (good[:1] == b"{")),
    "another table": content(lambda good: b'{"format": "x"}' if good[:1] == b"{" else b'format = "x"\n'),
    "first half": content(lambda good: good[: len(good) // 2]),
}

# ---------------------------------------------------------------- ONNX files
MODELS: dict[str, Make] = {
    "empty": content(lambda good: b""),
    "text": content(lambda good: b"hello\n"),
    "first half": content(lambda good: good[: len(good) // 2]),
    "weights elsewhere": content(external),
    "a container that was cut": content(lambda good: b"DYNC\x02" + good[:100]),
    "a container of tomorrow": content(lambda good: b"DYNC\x63" + good[:100]),
}


# ---------------------------------------------------------------- certificates
def certificate(**changed: object) -> Make:
    return content(lambda good: json.dumps({**json.loads(good), **changed}).encode())


CERTIFICATES: dict[str, Make] = {
    "a number for a text": certificate(statement=3),
    "a text for a number": certificate(delta="0.05"),
    "a list for a table": certificate(evidence=[]),
    "null": certificate(lines=None),
    "an unknown key": certificate(extra=1),
    "no examples": certificate(n=0),
    "another delta": certificate(delta=0.5),
    "another schema": certificate(schema="dyncompress-certificate/9"),
    "NaN": content(lambda good: good.replace(b'"delta": 0.05', b'"delta": NaN')),
    "infinity": content(lambda good: good.replace(b'"delta": 0.05', b'"delta": 1e999')),
    "19 digits": certificate(n=10**19),
    "half a character": certificate(statement="\ud800"),
}


# ---------------------------------------------------------------- weights of torch
WEIGHTS: dict[str, Make] = {
    "empty": content(lambda good: b""),
    "text": content(lambda good: b"hello\n"),
    "first half": content(lambda good: good[: len(good) // 2]),
    "pickled objects": content(lambda good: b"cos\nsystem\n(S'true'\ntR."),
    "a zip of something else": content(lambda good: zipped(b"hello")),
    "zeros": content(lambda good: bytes(1000)),
    "UTF-16": content(lambda good: "hello".encode("utf-16")),
    "a huge header": content(lambda good: b"\xff\xff\xff\xff\xff\xff\xff\x7f" + good),
    "a pickle of a list": content(lambda good: b"\x80\x02]q\x00."),
}
