"""A directory of results: all of its files, or none of them, whatever stops the run.

New files are staged in a hidden directory beside the earlier ones. Then the earlier files move out, the last of `files` first,
and the new ones move in, the last of `files` last. So at every moment the directory holds all earlier files, or all new ones, or
no file of the last name (`model.onnx`): a new certificate never stands beside an earlier model. A run that is killed in between
leaves the hidden directory, and the next run puts the earlier files back from it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dyncompress.errors import InvalidRequest

try:
    import fcntl
except ImportError:  # Windows has no such lock: there, two runs at once into one directory aren't kept apart
    fcntl = None

STAGING, LOCK = ".dyncompress.part", ".dyncompress.lock"
NEW, OLD, NAMES = "new", "old", "names.json"  # inside the staging directory; the last is written when all files are staged
WAIT_SECONDS = 30.0


def check_writable(directory: Path) -> None:
    """Refuse before any work a directory that can't be written, and put back what a killed run left half done in it.

    Raises:
        InvalidRequest: it is a file, or neither it nor its nearest parent can be written.
    """
    nearest = directory
    try:
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        folder = nearest.is_dir()
    except OSError as error:  # a name that is too long, or a folder that can't be searched
        raise InvalidRequest(f"--out {directory}: {_reason(error)}; name another directory.") from error
    if not folder:
        raise InvalidRequest(f"--out {directory}: {nearest} is a file; name a directory.")
    if os.path.islink(directory) and nearest != directory:
        raise InvalidRequest(f"--out {directory}: it is a link to {os.readlink(directory)}, which isn't there; name a directory.")
    try:  # a permission bit says little to root or on a read-only file system: only writing tells
        with tempfile.TemporaryFile(dir=nearest):
            pass
        finish_interrupted(directory)
    except OSError as error:
        raise InvalidRequest(
            f"--out {directory}: {nearest} can't be written ({_reason(error)}); name another directory."
        ) from error


def check_writable_file(path: Path, option: str = "--out") -> None:
    """Refuse before any work a file that can't be written.

    Raises:
        InvalidRequest: it is a directory, a device or a pipe, or its directory can't be written.
    """
    check_writable(path.parent)
    with suppress(OSError):  # check_writable has told what can't be reached
        if path.is_dir() or not path.name:
            raise InvalidRequest(f"{option} {path}: it is a directory; name a file in it.")
        if path.exists() and not path.is_file():
            raise InvalidRequest(f"{option} {path}: it is a device or a pipe; name an ordinary file.")


def deliver(directory: Path, files: Mapping[str, bytes | str], *, stale: Collection[str] = ()) -> dict[str, Path]:
    """Write all files, or leave the directory as it was.

    Args:
        directory: made if it isn't there.
        files: name -> content, in the order in which they appear: the file whose presence means success comes last.
        stale: names of files that an earlier run may have left and that go in the same step; names in `files` stay.

    Returns:
        name -> path.

    Raises:
        InvalidRequest: the disk is full, the directory went away, or a name is that of a directory; nothing of these files is
            written.
    """
    try:
        with made(directory):
            return _delivered(directory, files, stale)
    except OSError as error:
        kept = directory / STAGING / OLD
        left = f"the earlier files lie in {kept} until the next run puts them back" if kept.is_dir() else "nothing was written"
        raise InvalidRequest(f"{directory}: {_reason(error)}; {left}.") from error


def _delivered(directory: Path, files: Mapping[str, bytes | str], stale: Collection[str]) -> dict[str, Path]:
    """Name -> path, after the step; raises OSError as the system does."""
    _refuse_what_is_no_file(directory, {*files, *stale})
    with _alone(directory):
        _put_back(directory)
        _swap(directory, list(files), _staged(directory, files), stale)
    return {name: directory / name for name in files}


@contextmanager
def made(directory: Path) -> Iterator[None]:
    """The directory, made where it isn't there; what was made and is empty at the end goes again.

    Raises:
        OSError: it can't be made.
    """
    missing = _missing(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for folder in missing:
            with suppress(OSError):  # it is not empty, and stays
                folder.rmdir()


def write_whole(path: Path, content: bytes | str) -> Path:
    """Write one file, or leave what was there.

    Raises:
        InvalidRequest: as `deliver`, or its directory isn't there.
    """
    if not path.parent.is_dir():
        raise InvalidRequest(f"{path}: there is no directory {path.parent}; nothing was written.")
    return deliver(path.parent, {path.name: content})[path.name]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the place of `path` if no error is raised, else it is removed.

    For files that are too large to be held in memory a second time.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def finish_interrupted(directory: Path) -> None:
    """Put back the earlier files where a run was killed before all of its own had come in; remove what it staged.

    Raises:
        OSError: the directory can't be written.
    """
    if (directory / STAGING).is_dir():
        with _alone(directory):
            _put_back(directory)


# ---------------------------------------------------------------- steps
def _missing(directory: Path) -> list[Path]:
    """The directory and its parents that aren't there, innermost first."""
    with suppress(OSError):
        return [folder for folder in (directory, *directory.parents) if not folder.exists()]
    return []


def _refuse_what_is_no_file(directory: Path, names: Collection[str]) -> None:
    """Refuse names that can't be those of ordinary files in the directory."""
    for name in sorted(names):
        path = directory / name
        if path.parent != directory or not path.name:
            raise InvalidRequest(f"{path}: it doesn't lie in {directory} itself; nothing was written.")
        if path.is_dir():
            raise InvalidRequest(f"{path} is a directory; remove it, or name another place; nothing was written.")
        if path.exists() and not path.is_file():
            raise InvalidRequest(f"{path} is a device or a pipe; name an ordinary file; nothing was written.")


def _staged(directory: Path, files: Mapping[str, bytes | str]) -> Path:
    """The staging directory with all new files on the disk; it is removed again where one can't be written."""
    staging, whole = directory / STAGING, False
    try:
        (staging / NEW).mkdir(parents=True)
        (staging / OLD).mkdir()
        for name, content in files.items():
            _write(staging / NEW / name, content.encode() if isinstance(content, str) else content)
        _write(staging / NAMES, json.dumps(list(files)).encode())
        _sync(staging / NEW)
        _sync(staging)
        whole = True
    finally:
        if not whole:
            shutil.rmtree(staging, ignore_errors=True)
    return staging


def _swap(directory: Path, names: Sequence[str], staging: Path, stale: Collection[str]) -> None:
    """Earlier files out, new ones in; back again on any failure, Ctrl-C included."""
    leaving = [name for name in dict.fromkeys([*reversed(names), *stale]) if os.path.lexists(directory / name)]
    try:
        if leaving != list(names):  # a single file takes the place of its earlier self in one step
            for name in leaving:
                os.replace(directory / name, staging / OLD / name)
        for name in names:
            os.replace(staging / NEW / name, directory / name)
        with suppress(OSError):  # all files are in; a file system that can't sync a directory changes nothing about it
            _sync(directory)
    finally:
        _put_back(directory)


def _put_back(directory: Path) -> None:
    """Remove the staging directory, after having undone its moves where the last new file hasn't come in.

    May be stopped and begun again at any point: what a name's file is can always be told by where it lies.
    """
    staging = directory / STAGING
    if not staging.is_dir():
        return
    names = _staged_names(staging)
    if names and (staging / NEW / names[-1]).exists():
        for name in names:
            if not (staging / NEW / name).exists() and os.path.lexists(directory / name):
                os.replace(directory / name, staging / NEW / name)
        for name in sorted(os.listdir(staging / OLD), key=lambda name: name == names[-1]):
            os.replace(staging / OLD / name, directory / name)
    shutil.rmtree(staging, ignore_errors=True)


def _staged_names(staging: Path) -> list[str]:
    """The new files in their order; none where the run was stopped before all were staged, and so before any move."""
    try:
        return list(json.loads((staging / NAMES).read_bytes()))
    except (FileNotFoundError, ValueError):
        return []


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """One delivery into a directory at a time: the system lets go of the lock when its process ends, however it ends."""
    path = directory / LOCK
    handle = _locked(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(handle)


def _locked(path: Path) -> int:
    """The lock file, open; the lock is ours.

    Raises:
        InvalidRequest: another run has held it for too long.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if _has_lock(handle, path):
            return handle
        os.close(handle)
        time.sleep(0.05)
    raise InvalidRequest(f"{path.parent}: another run is writing there; wait until it ends, or name another directory.")


def _has_lock(handle: int, path: Path) -> bool:
    """Whether the open lock file is ours and still the one at its path: the run before removes it when it ends."""
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:
        return True  # a file system without locks: nothing keeps two runs apart there


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Have the disk hold the directory's entries."""
    if os.name == "nt":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # a network's file system may have no such call
            raise
    finally:
        os.close(handle)


def _reason(error: OSError) -> str:
    """The system's own words, as part of a sentence."""
    return (error.strerror or str(error) or type(error).__name__).lower()
