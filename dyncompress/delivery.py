"""A directory of results: all of its files, or none of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from dyncompress.errors import InvalidRequest


def check_writable(directory: Path) -> None:
    """Refuse before any work a directory that can't be written.

    Raises:
        InvalidRequest: it is a file, or neither it nor its nearest parent can be written.
    """
    nearest = directory
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise InvalidRequest(f"--out {directory}: {nearest} is a file; name a directory.")
    try:  # a permission bit says little to root or on a read-only file system: only writing tells
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = (error.strerror or "it can't be written").lower()
        raise InvalidRequest(f"--out {directory}: {nearest} can't be written ({reason}); name another directory.") from error


def deliver(directory: Path, files: Mapping[str, bytes | str]) -> dict[str, Path]:
    """Write every file to a temporary name, then rename all of them.

    Args:
        directory: made if it isn't there.
        files: name -> content, in the order of renaming: the file whose presence means success comes last.

    Returns:
        name -> path.

    Raises:
        InvalidRequest: the disk is full or the directory went away; nothing of these files is left.
    """
    written: dict[str, Path] = {}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            part = directory / f".{name}.{os.getpid()}.part"
            written[name] = part
            part.write_bytes(content.encode() if isinstance(content, str) else content)
        return {name: part.replace(directory / name) for name, part in written.items()}
    except OSError as error:
        raise InvalidRequest(f"{directory}: {(error.strerror or str(error)).lower()}; nothing was written.") from error
    finally:
        for part in written.values():
            part.unlink(missing_ok=True)
