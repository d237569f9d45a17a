"""Anything a user calls data, turned into batches by input name or into held-out examples, checked before any work.

Read here: an array `[n, ...]`, a tuple `(x, y)` or `((a, b), y)`, a mapping by input name (other keys are dropped), the path of
an `.npz`, or any iterable of such batches: a list, a generator, a `torch.utils.data.DataLoader`. Tensors are known by their
`detach`, so nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.types import Array, HeldOut

BATCH = 128  # examples a batch, where one array holds all of them
LABEL_KEYS = ("y", "labels", "label")
GROUP_KEY = "groups"


class _Part(NamedTuple):
    """One batch as the user gave it: inputs by name, labels and groups or None, and its name for messages."""

    inputs: dict[str, Any]
    labels: Any
    groups: Any
    where: str


def as_batches(data: Any, input_names: Sequence[str], limit: int | None = None) -> list[dict[str, Array]]:
    """Batches by input name, tensors left tensors and numpy left numpy (except float64, numpy's default, to float32).

    Labels are dropped. One array holding all examples is split into batches of 128; batches of an iterable stay as they are,
    and no more of them are drawn than `limit` needs.

    Args:
        data: see the head of this file.
        input_names: of the model, in the order of its arguments.
        limit: at most this many examples, the first ones; None: all.

    Returns:
        Batches, each with arrays `[n, ...]`, the same trailing shape and dtype throughout.

    Raises:
        InvalidRequest: empty, not numbers, NaN or infinite, a missing input, or shapes that differ.
    """
    if limit is not None and limit < 1:
        raise InvalidRequest(f"limit is {limit}; at least one example is needed.")
    batches: list[dict[str, Array]] = []
    left = math.inf if limit is None else limit
    for part in _parts(data, tuple(input_names), "data"):
        batch = {name: _checked(value, f"{part.where}: input '{name}'") for name, value in part.inputs.items()}
        count = _same_length(batch, part.where)
        _same_form(batches[0] if batches else batch, batch, part.where, isinstance(data, list))
        take = int(min(count, left))
        size = BATCH if _is_one_batch(data) else take
        batches += [{name: value[i : min(i + size, take)] for name, value in batch.items()} for i in range(0, take, size)]
        left -= take
        if left <= 0:
            break
    if not batches:
        raise InvalidRequest("data: it holds no examples (an empty list, or a generator that was read before).")
    return batches


def as_held_out(data: Any, input_names: Sequence[str]) -> HeldOut:
    """Held-out examples as numpy, floats as float32.

    Args:
        data: `(x, y)`, `(x, y, groups)`, `(x,)`, an array, a mapping with `y` (or `labels`) and `groups`, the path of an `.npz`
            with these keys, an iterable of such batches, or a `HeldOut`.
        input_names: of the model, in the order of its arguments.

    Returns:
        Inputs `[n, ...]`, labels `[n, ...]` or None, groups `[n]` or None.

    Raises:
        InvalidRequest: as `as_batches`; or labels or groups don't belong to the inputs.
    """
    inputs: list[dict[str, np.ndarray]] = []
    labels: list[np.ndarray | None] = []
    groups: list[np.ndarray | None] = []
    for part in _parts(data, tuple(input_names), "held-out data"):
        batch = {name: _numpy(_checked(value, f"{part.where}: input '{name}'")) for name, value in part.inputs.items()}
        count = _same_length(batch, part.where)
        _same_form(inputs[0] if inputs else batch, batch, part.where, isinstance(data, list))
        inputs.append(batch)
        labels.append(_column(part.labels, count, f"{part.where}: labels"))
        groups.append(_column(part.groups, count, f"{part.where}: groups", words=True))
    if not inputs:
        raise InvalidRequest("held-out data: it holds no examples (an empty list, or a generator that was read before).")
    whole = {name: _joined([batch[name] for batch in inputs], "inputs") for name in inputs[0]}
    return HeldOut({k: v for k, v in whole.items() if v is not None}, _joined(labels, "labels"), _joined(groups, "groups"))


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


def digests(batches: Iterable[Mapping[str, Array]]) -> list[str]:
    """sha256 of every example: over the sorted input names, the dtype, the shape and the bytes of its values.

    Values are hashed as a float32 or int64 network sees them, so that one image in float64 and in float32, in numpy and in
    torch, is one image. Input names aren't hashed: a renamed input hides no overlap.
    """
    out = []
    for batch in batches:
        arrays = [np.ascontiguousarray(_canonical(_numpy(batch[name]))) for name in sorted(batch)]
        heads = [f"{array.dtype.str}{array.shape[1:]}".encode() for array in arrays]
        for i in range(len(arrays[0])):
            digest = hashlib.sha256()
            for head, array in zip(heads, arrays, strict=True):
                digest.update(head)
                digest.update(array[i].tobytes())
            out.append(digest.hexdigest())
    return out


def overlap(held_out: HeldOut, seen: frozenset[str]) -> np.ndarray:
    """Indices `[k]` of the held-out examples whose digest is among `seen`."""
    shared = [i for i, digest in enumerate(digests([held_out.inputs])) if digest in seen]
    return np.array(shared, dtype=np.int64)


# ---------------------------------------------------------------- reading the forms
def _parts(data: Any, names: tuple[str, ...], what: str) -> Iterator[_Part]:
    if not names:
        raise InvalidRequest("the model takes no inputs, so no data can be given to it.")
    if isinstance(data, str | Path):
        what, data = f"{what} {data}", load_npz(data)
    if isinstance(data, HeldOut):
        yield _Part(dict(data.inputs), data.labels, data.groups, what)
    elif _is_one_batch(data):
        yield _part(data, names, what)
    elif hasattr(data, "__iter__") or hasattr(data, "__getitem__"):
        for i, item in enumerate(data):
            yield _part(item, names, f"{what}, batch {i}")
    else:
        raise InvalidRequest(f"{what}: a {type(data).__name__} was given; give an array, (x, y), a dict, batches or an .npz.")


def _part(item: Any, names: tuple[str, ...], where: str) -> _Part:
    if isinstance(item, Mapping):
        return _by_name(item, names, where)
    if isinstance(item, tuple | list) and item:
        return _by_position(item, names, where)
    if not _is_array(item):
        raise InvalidRequest(f"{where}: a {type(item).__name__} was given where a batch (array, tuple or dict) is needed.")
    return _Part(_named((item,), names, where), None, None, where)


def _by_name(item: Mapping[str, Any], names: tuple[str, ...], where: str) -> _Part:
    found = {name: item[name] for name in names if name in item}
    if not found and len(names) == 1 and "x" in item:
        found = {names[0]: item["x"]}
    missing = [name for name in names if name not in found]
    if missing:
        there = ", ".join(map(str, item)) or "nothing"
        hint = " (or 'x')" if len(names) == 1 and names[0] != "x" else ""
        raise InvalidRequest(f"{where}: the model's input '{missing[0]}'{hint} is missing; it holds {there}.")
    labels = next((item[key] for key in LABEL_KEYS if key in item and key not in names), None)
    return _Part(found, labels, item.get(GROUP_KEY) if GROUP_KEY not in names else None, where)


def _by_position(item: Sequence[Any], names: tuple[str, ...], where: str) -> _Part:
    nested = isinstance(item[0], tuple | list | Mapping)
    rest = list(item[1:] if nested else item[len(names) :])
    if any(np.ndim(value) == 0 for value in rest if isinstance(value, int | float | np.generic) or _is_array(value)):
        raise InvalidRequest(f"{where}: its label has no batch axis, it is a single example; wrap the data set in a DataLoader.")
    rest += [None, None]
    if isinstance(item[0], Mapping):
        return _Part(_by_name(item[0], names, where).inputs, rest[0], rest[1], where)
    return _Part(_named(tuple(item[0]) if nested else tuple(item[: len(names)]), names, where), rest[0], rest[1], where)


def _named(values: tuple[Any, ...], names: tuple[str, ...], where: str) -> dict[str, Any]:
    if len(values) != len(names):
        raise InvalidRequest(
            f"{where}: the model has {len(names)} inputs ({', '.join(names)}) and {len(values)} were given; "
            "give a tuple of that many arrays, or a dict by name."
        )
    return dict(zip(names, values, strict=True))


def _is_one_batch(data: Any) -> bool:
    """Whether `data` is all examples at once; a list is always a list of batches."""
    if isinstance(data, str | Path | Mapping | HeldOut) or _is_array(data):
        return True
    if not isinstance(data, tuple) or not data:
        return False
    return _is_array(data[0]) or not any(isinstance(value, tuple | list | Mapping) for value in data[1:])


def _is_array(value: Any) -> bool:
    return hasattr(value, "detach") or (hasattr(value, "__array__") and hasattr(value, "shape"))


# ---------------------------------------------------------------- checks
def _checked(value: Any, where: str) -> Array:
    """The array, detached, with its numbers checked."""
    if hasattr(value, "detach"):
        value, complex_valued = value.detach(), value.is_complex()
        floating = value.is_floating_point()
    else:
        value = _plain(value, where)
        floating, complex_valued = value.dtype.kind == "f", value.dtype.kind == "c"
        if value.dtype.kind not in "fiubc":
            raise InvalidRequest(f"{where} has dtype {value.dtype}; numbers are needed (float, integer or bool).")
        value = value.astype(np.float32) if value.dtype == np.float64 else value
    if complex_valued:
        raise InvalidRequest(f"{where} is complex; give its real and imaginary parts as channels.")
    if value.ndim == 0 or len(value) == 0:
        raise InvalidRequest(f"{where} is empty or has no batch axis (shape {tuple(value.shape)}); give arrays [n, ...].")
    if floating:
        _finite(value, where)
    return value


def _plain(value: Any, where: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InvalidRequest(f"{where}: its rows have different lengths; pad them to one shape.") from error


def _finite(value: Array, where: str) -> None:
    finite = value.isfinite() if hasattr(value, "isfinite") else np.isfinite(value)
    if not bool(finite.all()):
        rows = finite.reshape(len(value), -1).all(1)
        first, bad = int(np.argmin(_numpy(rows))), int((~finite).sum())
        raise InvalidRequest(f"{where} holds {bad} NaN or infinite values (first in example {first}); remove or replace them.")


def _same_length(batch: Mapping[str, Array], where: str) -> int:
    lengths = {name: len(value) for name, value in batch.items()}
    if len(set(lengths.values())) != 1:
        raise InvalidRequest(f"{where}: its inputs have different numbers of examples: {lengths}.")
    return next(iter(lengths.values()))


def _same_form(first: Mapping[str, Array], batch: Mapping[str, Array], where: str, listed: bool) -> None:
    hint = " (a list is read as batches; inputs with labels are a tuple (x, y))" if listed else ""
    for name, value in batch.items():
        was, now = tuple(first[name].shape[1:]), tuple(value.shape[1:])
        if was != now:
            raise InvalidRequest(
                f"{where}: input '{name}' has shape {now} an example, the first batch had {was}; pad or crop to one shape{hint}."
            )
        was, now = (str(array.dtype).removeprefix("torch.") for array in (first[name], value))
        if was != now:
            raise InvalidRequest(f"{where}: input '{name}' is {now}, the first batch was {was}; use one dtype{hint}.")


def _column(value: Any, count: int, where: str, words: bool = False) -> np.ndarray | None:
    """Labels or groups `[count, ...]`, or None."""
    if value is None:
        return None
    column = _numpy(value) if hasattr(value, "detach") else _plain(value, where)
    if words and column.dtype.kind in "OU":
        column = column.astype(str)
    elif column.dtype.kind not in "fiub":
        raise InvalidRequest(f"{where} have dtype {column.dtype}; numbers are needed (class indices or targets).")
    if column.ndim == 0 or len(column) != count:
        raise InvalidRequest(f"{where} have shape {column.shape} for {count} examples; one entry an example is needed.")
    if column.dtype.kind == "f":
        _finite(column, where)
    return column


# ---------------------------------------------------------------- numpy
def _joined(columns: list[np.ndarray | None], what: str) -> np.ndarray | None:
    present = [column for column in columns if column is not None]
    if present and len(present) != len(columns):
        raise InvalidRequest(f"held-out data: {what} are missing in {len(columns) - len(present)} of {len(columns)} batches.")
    return np.concatenate(present) if present else None


def _numpy(value: Array) -> np.ndarray:
    """On the host; floats of any width as float32 (numpy has no bfloat16)."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    value = np.asarray(value)
    return value.astype(np.float32) if value.dtype.kind == "f" and value.dtype != np.float32 else value


def _canonical(value: np.ndarray) -> np.ndarray:
    if value.dtype.kind == "f":
        return value.astype("<f4", copy=False)
    return value.astype("<i8", copy=False) if value.dtype.kind in "iu" else value
