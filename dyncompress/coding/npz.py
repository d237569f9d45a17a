"""Arrays from `.npz` files, every fault of one in a sentence; nothing that a file declares is believed before it is checked."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dyncompress.coding.whole_files import replacing
from dyncompress.errors import InvalidRequest

METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}  # how numpy.savez and savez_compressed write
OTHERS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "LZMA", 9: "deflate64", 93: "Zstandard"}
RATIO = 1040  # deflate makes at most 1032 bytes of one
TRUNCATED = "truncated or not an .npz file"
_BROKEN = (  # what zipfile, zlib and numpy raise on bytes that are none of theirs
    *(zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, AttributeError, ValueError, NotImplementedError),
    *(IndexError, OverflowError, RuntimeError, SyntaxError, RecursionError, OSError, struct.error),
)


class NotArraysError(Exception):
    """What is wrong with a file, as a part of a sentence."""


def load_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file.

    Raises:
        InvalidRequest: there is no such file, it isn't one, it is truncated or encrypted, it holds pickled objects, or more than
            this machine's memory.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InvalidRequest(f"{path}: data is read from .npz files; write one with numpy.savez('{path.stem}.npz', x=x, y=y).")
    try:
        return read_arrays(path)
    except NotArraysError as error:
        hint = "write plain number arrays with" if "objects" in str(error) else "write it again with"
        raise InvalidRequest(f"{path}: {error}; {hint} numpy.savez.") from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], what: str) -> Path:
    """Write an `.npz` file, completely or not at all, and return its path; `what` it is stands in the message of an error.

    Raises:
        InvalidRequest: the file can't be written.
    """
    try:
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except OSError as error:
        raise InvalidRequest(f"{what} '{path}' can't be written: {error.strerror}; give another path.") from error
    return path


def read_format(path: Path, form: str, what: str, writer: str, remedy: str) -> dict[str, np.ndarray]:
    """The arrays of a file of this library, which names its format.

    Args:
        path: of the file.
        form: text that its array `format` must hold.
        what: the kind of file, and `writer`, the function that writes it, for messages.
        writer: see `what`.
        remedy: what to do about a damaged file.

    Raises:
        InvalidRequest: the file is missing, truncated, or of another format.
    """
    try:
        if not path.exists():
            raise InvalidRequest(f"{what} '{path}' does not exist; check the path.")
        arrays = read_arrays(path)
    except OSError as error:  # a name that is too long, or no permission
        raise InvalidRequest(f"{what} '{path}': {(error.strerror or str(error)).lower()}; check the path.") from error
    except NotArraysError as error:
        reason = f" is truncated or no {what}" if str(error) == TRUNCATED else f" is no {what}: {error}"
        raise InvalidRequest(f"{what} '{path}'{reason}; {remedy}.") from error
    if str(arrays.get("format")) != form:
        raise InvalidRequest(f"'{path}' is no {what} of this library; give a file that {writer} wrote.")
    return arrays


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file.

    Raises:
        NotArraysError: tells what is wrong with the file.
        InvalidRequest: there is no such file, or it is none.
    """
    try:
        if path.exists() and not path.is_file():
            raise InvalidRequest(f"{path}: it {'is a directory' if path.is_dir() else 'is a device or a pipe'}; name a file.")
        file = path.open("rb")
    except OSError as error:
        raise InvalidRequest(f"{path}: {(error.strerror or str(error)).lower()}.") from error
    with file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = list(_members(archive))
                return {name: _array(archive, member) for name, member in members}
        except NotArraysError:
            raise
        except _BROKEN as error:
            raise NotArraysError(TRUNCATED) from error


def _members(archive: zipfile.ZipFile) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """Name and entry of every array, once what the entries declare can be true."""
    seen, total = set(), 0
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in seen:
            raise NotArraysError(f"it holds '{_short(name)}' twice")
        seen.add(name)
        if not member.filename.endswith(".npy"):
            raise NotArraysError(f"it holds '{_short(name)}', which is no array")
        if member.flag_bits & 1:
            raise NotArraysError(f"its array '{_short(name)}' is encrypted")
        if member.compress_type not in METHODS:
            method = OTHERS.get(member.compress_type, f"method {member.compress_type}")
            raise NotArraysError(f"its array '{_short(name)}' is compressed by {method}, which isn't read here")
        if member.file_size > RATIO * member.compress_size + RATIO:
            raise NotArraysError(f"its array '{_short(name)}' can't be as large as it declares ({member.file_size:,} bytes)")
        total += member.file_size
        yield name, member
    if total > (memory := memory_bytes()):
        raise NotArraysError(f"its arrays take {total:,} bytes and this machine has {memory:,} bytes of memory")


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array, if its header agrees with the size of its entry."""
    name = _short(member.filename.removesuffix(".npy"))
    with archive.open(member) as stream:
        shape, dtype = _header(stream, name)
        rest = member.file_size - stream.tell()
    if dtype.hasobject:
        raise NotArraysError(f"its array '{name}' holds Python objects")
    if dtype.names is not None or dtype.subdtype is not None:
        raise NotArraysError(f"its array '{name}' has fields; plain arrays are needed")
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != rest:
        raise NotArraysError(f"its array '{name}' declares another size than it has")
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _header(stream: Any, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype, from a `zipfile.ZipExtFile`; nothing of the values is read."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:  # written for arrays with fields only
        raise NotArraysError(f"its array '{name}' has format {version}, which isn't read here")
    return shape, dtype


def memory_bytes() -> int:
    """The machine's memory; more than any file where the system doesn't tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 62


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:40]}..."
