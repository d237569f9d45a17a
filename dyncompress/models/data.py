"""Anything a user calls data, turned into batches by input name or into held-out examples, checked before any work.

Read here: an array `[n, ...]`, a tuple `(x, y)` or `((a, b), y)`, a mapping by input name, the path of an `.npz`, or any iterable
of such batches: a list, a generator, a `torch.utils.data.DataLoader`. Tensors are known by their `detach`: torch isn't imported.

Keys of a mapping that aren't asked for are dropped from calibration data. In held-out data they are refused: a `group` that was
meant as `groups` would turn the examples of one speaker into independent ones. That holds for optional inputs too, which
`signature.filled` asks for where the first batch has them: a network judged without a mask of the data isn't the network in use.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dyncompress.coding.npz import load_npz
from dyncompress.errors import InvalidRequest, nearest
from dyncompress.models.user_code import special_kind
from dyncompress.types import Array, HeldOut

BATCH = 128  # examples a batch, where one array holds all of them
LABEL_KEYS = ("y", "labels", "label")
GROUP_KEY = "groups"


class _Part(NamedTuple):
    """One batch as the user gave it: inputs by name, labels and groups or None, and its name for messages.

    `left_out`: what of it wasn't read, as the rest of a message; empty where everything was.
    """

    inputs: dict[str, Any]
    labels: Any
    groups: Any
    where: str
    left_out: str = ""


def as_batches(
    data: Any, input_names: Sequence[str], limit: int | None = None, *, unchecked: bool = False
) -> list[dict[str, Array]]:
    """Batches by input name, tensors left tensors and numpy left numpy; floats of any width as float32, as files take them.

    Labels are dropped. One array holding all examples is split into batches of 128; batches of an iterable stay as they are,
    and no more of them are drawn than `limit` needs.

    Args:
        data: see the head of this file.
        input_names: of the model, in the order of its arguments.
        limit: at most this many examples, the first ones; None: all.
        unchecked: whether the caller asks the model about lengths that differ, and NaN and infinite values (masks hold some).

    Returns:
        Batches, each with arrays `[n, ...]`, the same trailing shape (unless `unchecked`) and dtype throughout.

    Raises:
        InvalidRequest: empty, not numbers, NaN or infinite, a missing input, or shapes that differ.
    """
    if limit is not None and limit < 1:
        raise InvalidRequest(f"limit is {limit}; at least one example is needed.")
    batches: list[dict[str, Array]] = []
    left = math.inf if limit is None else limit
    for part in _parts(data, tuple(input_names), "data"):
        named = {name: f"{part.where}: input '{name}'" for name in part.inputs}
        batch = {name: _check_array(value, named[name], finite=not unchecked) for name, value in part.inputs.items()}
        count = _same_length(batch, part.where)
        _same_form(batches[0] if batches else batch, batch, part.where, isinstance(data, list), lengths=unchecked)
        take = int(min(count, left))
        size = BATCH if _is_one_batch(data) else take
        batches += [{name: value[i : min(i + size, take)] for name, value in batch.items()} for i in range(0, take, size)]
        left -= take
        if left <= 0:
            break
    if not batches:
        raise InvalidRequest("data: it holds no examples (an empty list, or a generator that was read before).")
    return batches


def as_held_out(data: Any, input_names: Sequence[str], *, unchecked: bool = False) -> HeldOut:
    """Held-out examples as numpy, floats as float32.

    Args:
        data: `(x, y)`, `(x, y, groups)`, `(x,)`, an array, a mapping with `y` (or `labels`) and `groups`, the path of an `.npz`
            with these keys, an iterable of such batches, or a `HeldOut`. Other keys are refused.
        input_names: of the model, in the order of its arguments.

    Returns:
        Inputs `[n, ...]`, labels `[n, ...]` or None, groups `[n]` or None.

    Raises:
        InvalidRequest: as `as_batches` (`unchecked`: NaN and infinite values pass); or labels, groups or keys don't belong there.
    """
    parts, what = _read_whole(_parts(data, tuple(input_names), "held-out data")), "held-out data"
    return _joined_parts(parts, what, isinstance(data, list), finite=not unchecked)


def as_labelled(data: Any, input_names: Sequence[str]) -> HeldOut:
    """Examples with their labels as `as_held_out` gives them, of data that certify nothing: other keys are dropped.

    Args:
        data: as for `as_held_out`.
        input_names: of the model, in the order of its arguments.

    Returns:
        Inputs `[n, ...]`, labels `[n, ...]` or None, groups `[n]` or None.

    Raises:
        InvalidRequest: as `as_batches`; or labels or groups don't belong to the inputs.
    """
    return _joined_parts(_parts(data, tuple(input_names), "data"), "data", isinstance(data, list))


def _read_whole(parts: Iterable[_Part]) -> Iterator[_Part]:
    """The same parts; one of which something wasn't read is refused."""
    for part in parts:
        if part.left_out:
            raise InvalidRequest(f"{part.where}: {part.left_out}")
        yield part


def _joined_parts(parts: Iterable[_Part], what: str, listed: bool, finite: bool = True) -> HeldOut:
    """All parts as one array an input, labels and groups."""
    inputs: list[dict[str, np.ndarray]] = []
    labels: list[np.ndarray | None] = []
    groups: list[np.ndarray | None] = []
    for part in parts:
        batch = {
            name: _numpy(_check_array(value, f"{part.where}: input '{name}'", finite)) for name, value in part.inputs.items()
        }
        count = _same_length(batch, part.where)
        _same_form(inputs[0] if inputs else batch, batch, part.where, listed)
        inputs.append(batch)
        labels.append(_column(part.labels, count, f"{part.where}: labels"))
        groups.append(_column(part.groups, count, f"{part.where}: groups", words=True))
    if not inputs:
        raise InvalidRequest(f"{what}: it holds no examples (an empty list, or a generator that was read before).")
    whole = {name: np.concatenate([batch[name] for batch in inputs]) for name in inputs[0]}
    return HeldOut(whole, _join_columns(labels, f"{what}: labels"), _join_columns(groups, f"{what}: groups"))


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


def repeats(held_out: HeldOut) -> tuple[np.ndarray, np.ndarray]:
    """Indices `[k]` of the held-out examples whose inputs equal an earlier example's (same digest), and `[k]` of the first such.

    Example:
        >>> held_out = HeldOut({"x": np.array([[1.0], [2.0], [1.0], [1.0]])})
        >>> [indices.tolist() for indices in repeats(held_out)]
        [[2, 3], [0, 0]]
    """
    first: dict[str, int] = {}
    found = [(i, first.setdefault(digest, i)) for i, digest in enumerate(digests([held_out.inputs]))]
    pairs = np.array([pair for pair in found if pair[0] != pair[1]], dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


# ---------------------------------------------------------------- reading the forms
def _parts(data: Any, names: tuple[str, ...], what: str) -> Iterator[_Part]:
    if not names:
        raise InvalidRequest("the model takes no inputs, so no data can be given to it.")
    if isinstance(data, str | Path):
        what, data = f"{what} {data}", load_npz(data)
    if isinstance(data, HeldOut):
        part = _by_name(data.inputs, names, what)
        more = f"it has the inputs {', '.join(data.inputs)}, and the model takes {', '.join(names)}; leave the others out."
        left_out = more if len(data.inputs) > len(part.inputs) else ""
        yield part._replace(labels=data.labels, groups=data.groups, left_out=left_out)
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
    return _Part(_by_order((item,), names, where), None, None, where)


def _by_name(item: Mapping[str, Any], names: tuple[str, ...], where: str) -> _Part:
    found = {name: item[name] for name in names if name in item}
    if not found and len(names) == 1 and "x" in item:
        found = {names[0]: item["x"]}
    missing = [name for name in names if name not in found]
    if missing:
        there = ", ".join(map(str, item)) or "nothing"
        hint = " (or 'x')" if len(names) == 1 and names[0] != "x" else ""
        raise InvalidRequest(f"{where}: the model's input '{missing[0]}'{hint} is missing; it holds {there}.")
    columns = [key for key in (*LABEL_KEYS, GROUP_KEY) if key in item and key not in names]
    labels = [key for key in columns if key != GROUP_KEY]
    read = {*names, *columns} if names[0] in item else {"x", *columns}
    groups = item[GROUP_KEY] if GROUP_KEY in columns else None
    left_out = _left_out([key for key in item if key not in read], labels, names)
    return _Part(found, item[labels[0]] if labels else None, groups, where, left_out)


def _left_out(keys: Sequence[Any], labels: Sequence[str], names: tuple[str, ...]) -> str:
    """What to say of keys that nobody asked for, and of labels under two names."""
    if len(labels) > 1:
        return f"it holds labels under two names, '{labels[0]}' and '{labels[1]}'; keep one of them."
    if not keys:
        return ""
    known = (*names, *LABEL_KEYS, GROUP_KEY)
    hint = nearest(str(keys[0]).lower(), known)
    return f"unknown key '{keys[0]}': held-out data hold the model's inputs, labels and groups and nothing else{hint}"


def _by_position(item: Sequence[Any], names: tuple[str, ...], where: str) -> _Part:
    nested = isinstance(item[0], tuple | list | Mapping)
    rest = list(item[1:] if nested else item[len(names) :])
    if any(np.ndim(value) == 0 for value in rest if isinstance(value, int | float | np.generic) or _is_array(value)):
        raise InvalidRequest(f"{where}: its label has no batch axis, it is a single example; wrap the data set in a DataLoader.")
    more = f"it has {len(rest)} entries behind the inputs, and only labels and groups are read; leave the others out."
    left_out = more if len(rest) > 2 else ""
    rest += [None, None]
    if isinstance(item[0], Mapping):
        part = _by_name(item[0], names, where)
        for kind, inner, outer in (("labels", part.labels, rest[0]), ("groups", part.groups, rest[1])):
            if inner is not None and outer is not None:
                left_out = left_out or f"it holds {kind} twice, by name and as an entry of the tuple; keep one of them."
        labels, groups = (inner if outer is None else outer for inner, outer in zip(part[1:3], rest[:2], strict=True))
        return part._replace(labels=labels, groups=groups, left_out=left_out or part.left_out)
    inputs = _by_order(tuple(item[0]) if nested else tuple(item[: len(names)]), names, where)
    return _Part(inputs, rest[0], rest[1], where, left_out)


def _by_order(values: tuple[Any, ...], names: tuple[str, ...], where: str) -> dict[str, Any]:
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
def _check_array(value: Any, where: str, finite: bool = True) -> Array:
    """The array, detached, with its numbers checked."""
    if hasattr(value, "detach"):
        if kind := special_kind(value):
            raise InvalidRequest(f"{where} is a {kind} tensor; give a dense tensor of numbers.")
        complex_valued = value.is_complex()
        value = value.detach().clone() if value.is_inference() else value.detach()  # the first kind enters no graph
        floating = value.is_floating_point()
        value = value.float() if floating else value
    else:
        value = _plain(value, where)
        floating, complex_valued = value.dtype.kind == "f", value.dtype.kind == "c"
        if value.dtype.kind not in "fiubc":
            raise InvalidRequest(f"{where} has dtype {value.dtype}; numbers are needed (float, integer or bool).")
        value = _native(value)
    if complex_valued:
        raise InvalidRequest(f"{where} is complex; give its real and imaginary parts as channels.")
    if value.ndim == 0 or len(value) == 0:
        raise InvalidRequest(f"{where} is empty or has no batch axis (shape {tuple(value.shape)}); give arrays [n, ...].")
    if floating and finite:
        refuse_not_finite(value, where)
    return value


def _native(value: np.ndarray) -> np.ndarray:
    """An array that torch takes: strides that aren't negative, the machine's byte order, floats as float32."""
    kind = np.dtype(np.float32) if value.dtype.kind == "f" else value.dtype.newbyteorder("=")
    return np.ascontiguousarray(value, kind).reshape(value.shape)


def _plain(value: Any, where: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InvalidRequest(f"{where}: its rows have different lengths; pad them to one shape.") from error


def refuse_not_finite(value: Array, where: str) -> None:
    """Refuse NaN and infinite values.

    Raises:
        InvalidRequest: says how many there are and in which example the first one is.
    """
    finite = value.isfinite() if hasattr(value, "isfinite") else np.isfinite(value)
    if not bool(finite.all()):
        rows = finite.reshape(len(value), -1).all(1)
        first, bad = int(np.argmin(_numpy(rows))), int((~finite).sum())
        raise InvalidRequest(f"{where} holds {bad} NaN or infinite values (first in example {first}); remove or replace them.")


def _same_length(batch: Mapping[str, Array], where: str) -> int:
    lengths = {name: len(value) for name, value in batch.items()}
    if len(set(lengths.values())) != 1:
        raise InvalidRequest(
            f"{where}: its inputs have different numbers of examples: {lengths}; the batch axis comes first in every input (wrap "
            "a model whose state has it elsewhere)."
        )
    return next(iter(lengths.values()))


def _same_form(first: Mapping[str, Array], batch: Mapping[str, Array], where: str, listed: bool, lengths: bool = False) -> None:
    """Refuse another number of axes, other lengths (unless `lengths` may differ), or another dtype than the first batch's."""
    hint = " (a list is read as batches; inputs with labels are a tuple (x, y))" if listed else ""
    for name, value in batch.items():
        was, now = tuple(first[name].shape[1:]), tuple(value.shape[1:])
        if was != now and not (lengths and len(was) == len(now)):
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
        refuse_not_finite(column, where)
    return column


# ---------------------------------------------------------------- numpy
def _join_columns(columns: list[np.ndarray | None], what: str) -> np.ndarray | None:
    present = [column for column in columns if column is not None]
    if present and len(present) != len(columns):
        raise InvalidRequest(f"{what} are missing in {len(columns) - len(present)} of {len(columns)} batches.")
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
