"""Arrays from `.npz` files, every fault of one in a sentence."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from dyncompress.errors import InvalidRequest


def load_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file.

    Raises:
        InvalidRequest: there is no such file, or it isn't one, or it is truncated or holds pickled objects.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InvalidRequest(f"{path}: data is read from .npz files; write one with numpy.savez('{path.stem}.npz', x=x, y=y).")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            twice = next((name for i, name in enumerate(archive.files) if name in archive.files[:i]), None)
            if twice is not None:
                raise InvalidRequest(f"{path}: it holds '{twice}' twice; write it again with numpy.savez.")
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise InvalidRequest(f"{path}: {str(error.strerror).lower()}.") from error
        raise InvalidRequest(f"{path}: truncated or not an .npz file; write it again with numpy.savez.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"{path}: truncated or not an .npz file; write it again with numpy.savez.") from error
    except ValueError as error:
        why = "it holds Python objects" if "Object arrays" in str(error) else "truncated or not an .npz file"
        raise InvalidRequest(f"{path}: {why}; write plain number arrays with numpy.savez.") from error
