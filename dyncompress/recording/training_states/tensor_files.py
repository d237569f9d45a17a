"""Tensors from files of PyTorch and safetensors, with nothing unpickled but tensors and plain values."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from dyncompress.errors import InvalidRequest

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".safetensors")
_BROKEN = (  # what torch and zipfile raise on bytes that aren't theirs
    *(RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError),
    *(OSError, struct.error, zipfile.BadZipFile, ImportError, MemoryError),
)


class _Ignored:
    """Stands for every class that isn't read: an empty dictionary, whose attributes are those that the file gives it."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


class _IgnoredNumber:
    """Stands for NumPy's numbers, which set their state in a way of their own."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def read_tensors(path: Path) -> Any:
    """The contents of a file of PyTorch or safetensors.

    Objects of other classes, such as hyper-parameters, are read as empty dictionaries: none of their code runs, nor is it
    imported. Tensors are mapped from the file where its format allows it, so copy what is kept.

    Raises:
        InvalidRequest: it can't be read, or can't be read without running code that it names.
    """
    where = f"checkpoint '{path}'"
    if not path.is_file():
        raise InvalidRequest(f"{where} {'is no file' if path.exists() else 'does not exist'}; check the path.")
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        mapped = zipfile.is_zipfile(path)
        if not mapped and not _is_pickle(path):
            raise InvalidRequest(f"{where} can't be read: it is no file of torch.save; save or copy it again.")
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path)) if mapped else []
        with torch.serialization.safe_globals([(_stand_in(name), name) for name in names]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickles of other protocols, whose errors say what is wrong
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL `?([A-Za-z_][\w.]*)", str(error))
        what = f"'{named.group(1)}'" if named else "objects that aren't tensors or plain values"
        raise InvalidRequest(
            f"{where} holds {what}, and unpickling it could run code; save "
            "{'model': model.state_dict(), 'optimizer': optimizer.state_dict()} with torch.save, or what training_state_of "
            "returns with save_training_state."
        ) from error
    except _BROKEN as error:
        raise InvalidRequest(f"{where} can't be read ({_first_line(error)}); save or copy it again.") from error


def _stand_in(name: str) -> type:
    """What an object of a class is read as."""
    return _IgnoredNumber if name.startswith("numpy.") else _Ignored


def _safetensors(path: Path) -> Any:
    """The tensors of a file of safetensors.

    Raises:
        ValueError: it isn't one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _is_pickle(path: Path) -> bool:
    """Whether a file starts as a pickle of protocol 2 or later."""
    with path.open("rb") as file:
        return file.read(2) in [bytes((0x80, protocol)) for protocol in range(2, 6)]


def _first_line(error: BaseException) -> str:
    """The first line of an error, short."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
