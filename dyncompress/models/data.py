"""Reads the user's data as batches by input name or as held-out examples, and checks them before any other work.

Data are an array `[n, ...]`, a tuple `(x, y)` or `((a, b), y)`, a mapping by input name, the path of an `.npz` file, or any
iterable of such batches: a list, a generator, a `torch.utils.data.DataLoader`.

Keys of a mapping that the model doesn't read are ignored in calibration data. In held-out data they are an error: a key `group`
in place of `groups` would turn the examples of one speaker into independent ones. This includes optional inputs, which
`signature.resolve_inputs` asks for where the first batch has them: without its mask, another network would be certified.
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
from dyncompress.models.arrays import (
    as_numpy,
    canonical_dtype,
    check_array,
    common_length,
    join_columns,
    read_column,
    refuse_not_finite,
    refuse_other_shape,
)
from dyncompress.types import Array, HeldOut

BATCH = 128  # examples in a batch, where one array holds all examples
__all__ = ["as_batches", "as_held_out", "as_labelled", "digests", "load_npz", "overlap", "refuse_not_finite", "repeats"]

LABEL_KEYS = ("y", "labels", "label")
GROUP_KEY = "groups"


class _Part(NamedTuple):
    """One batch as the user gave it.

    Attributes:
        inputs: by input name.
        labels, groups: the user's values, or None.
        where: how a message names the batch.
        left_out: the rest of a message about the entries that weren't read; empty where everything was read.
    """

    inputs: dict[str, Any]
    labels: Any
    groups: Any
    where: str
    left_out: str = ""


def as_batches(
    data: Any, input_names: Sequence[str], limit: int | None = None, *, unchecked: bool = False
) -> list[dict[str, Array]]:
    """Read calibration data as batches by input name. Labels are dropped.

    Tensors stay tensors and numpy arrays stay numpy arrays; floats of any width become float32. One array that holds all examples
    is split into batches of 128. Batches of an iterable keep their sizes, and no more of them are read than `limit` needs.

    Args:
        data: an array, a tuple, a mapping, the path of an `.npz` file, or an iterable of batches.
        input_names: of the model, in the order of its arguments.
        limit: largest number of examples, the first ones; None for all.
        unchecked: whether lengths may differ between batches, and values may be NaN or infinite (masks hold infinities); the
            caller then checks that the model runs on them.

    Returns:
        batches of arrays `[n, ...]`, with one dtype and, unless `unchecked`, one trailing shape for each input.

    Raises:
        InvalidRequest: the data are empty, lack an input, aren't finite numbers, or have different shapes.

    Example:
        >>> batches = as_batches((np.zeros((200, 3)), np.zeros(200)), ["x"])
        >>> [batch["x"].shape for batch in batches]
        [(128, 3), (72, 3)]
    """
    if limit is not None and limit < 1:
        raise InvalidRequest(f"limit is {limit}; at least one example is needed.")
    batches: list[dict[str, Array]] = []
    left = math.inf if limit is None else limit
    for part in _parts(data, tuple(input_names), "data"):
        batch = {
            name: check_array(value, f"{part.where}: input '{name}'", finite=not unchecked) for name, value in part.inputs.items()
        }
        count = common_length(batch, part.where)
        refuse_other_shape(batches[0] if batches else batch, batch, part.where, isinstance(data, list), lengths=unchecked)
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
    """Read held-out examples as numpy arrays, floats as float32.

    Args:
        data: `(x, y)`, `(x, y, groups)`, `(x,)`, an array, a mapping with `y` (or `labels`) and `groups`, the path of an `.npz`
            with these keys, an iterable of such batches, or a `HeldOut`. Other keys are an error.
        input_names: of the model, in the order of its arguments.
        unchecked: whether NaN and infinite inputs are allowed.

    Returns:
        inputs `[n, ...]` by name, labels `[n, ...]` or None, groups `[n]` or None.

    Raises:
        InvalidRequest: as for `as_batches`; or labels or groups don't fit the inputs, or there is a key that isn't read.

    Example:
        >>> held_out = as_held_out({"x": np.zeros((4, 3)), "y": [0, 1, 0, 1], "groups": ["ann", "ann", "bob", "bob"]}, ["x"])
        >>> held_out.inputs["x"].shape, held_out.labels.tolist(), held_out.groups.tolist()
        ((4, 3), [0, 1, 0, 1], ['ann', 'ann', 'bob', 'bob'])
    """
    parts, what = _read_whole(_parts(data, tuple(input_names), "held-out data")), "held-out data"
    return _joined_parts(parts, what, isinstance(data, list), finite=not unchecked)


def as_labelled(data: Any, input_names: Sequence[str]) -> HeldOut:
    """Read labelled examples as `as_held_out` does, for uses that certify nothing: keys that aren't read are ignored.

    Args:
        data: as for `as_held_out`.
        input_names: of the model, in the order of its arguments.

    Returns:
        inputs `[n, ...]` by name, labels `[n, ...]` or None, groups `[n]` or None.

    Raises:
        InvalidRequest: as for `as_batches`; or labels or groups don't fit the inputs.
    """
    return _joined_parts(_parts(data, tuple(input_names), "data"), "data", isinstance(data, list))


def _read_whole(parts: Iterable[_Part]) -> Iterator[_Part]:
    """The same parts; `InvalidRequest` for the first one that has entries that aren't read."""
    for part in parts:
        if part.left_out:
            raise InvalidRequest(f"{part.where}: {part.left_out}")
        yield part


def _joined_parts(parts: Iterable[_Part], what: str, listed: bool, finite: bool = True) -> HeldOut:
    """All parts together: one array for each input, one for the labels and one for the groups."""
    inputs: list[dict[str, np.ndarray]] = []
    labels: list[np.ndarray | None] = []
    groups: list[np.ndarray | None] = []
    for part in parts:
        batch = {
            name: as_numpy(check_array(value, f"{part.where}: input '{name}'", finite)) for name, value in part.inputs.items()
        }
        count = common_length(batch, part.where)
        refuse_other_shape(inputs[0] if inputs else batch, batch, part.where, listed)
        inputs.append(batch)
        labels.append(read_column(part.labels, count, f"{part.where}: labels"))
        groups.append(read_column(part.groups, count, f"{part.where}: groups", words=True))
    if not inputs:
        raise InvalidRequest(f"{what}: it holds no examples (an empty list, or a generator that was read before).")
    whole = {name: np.concatenate([batch[name] for batch in inputs]) for name in inputs[0]}
    return HeldOut(whole, join_columns(labels, f"{what}: labels"), join_columns(groups, f"{what}: groups"))


def digests(batches: Iterable[Mapping[str, Array]]) -> list[str]:
    """sha256 of every example, as hexadecimal strings, over dtype, shape and bytes of its inputs in the order of their names.

    Values are hashed as a float32 or int64 network sees them, so that an image has one digest in float64 and float32, in numpy
    and torch. Input names aren't hashed, so that renaming an input hides no overlap.
    """
    hashes = []
    for batch in batches:
        arrays = [np.ascontiguousarray(canonical_dtype(as_numpy(batch[name]))) for name in sorted(batch)]
        heads = [f"{array.dtype.str}{array.shape[1:]}".encode() for array in arrays]
        for i in range(len(arrays[0])):
            digest = hashlib.sha256()
            for head, array in zip(heads, arrays, strict=True):
                digest.update(head)
                digest.update(array[i].tobytes())
            hashes.append(digest.hexdigest())
    return hashes


def overlap(held_out: HeldOut, seen: frozenset[str]) -> np.ndarray:
    """Indices `[k]` of the held-out examples whose digest is in `seen`, the digests of the examples that compression used."""
    shared = [i for i, digest in enumerate(digests([held_out.inputs])) if digest in seen]
    return np.array(shared, dtype=np.int64)


def repeats(held_out: HeldOut) -> tuple[np.ndarray, np.ndarray]:
    """Indices `[k]` of the held-out examples whose inputs equal those of an earlier example, and `[k]` of the first such example.

    Example:
        >>> held_out = HeldOut({"x": np.array([[1.0], [2.0], [1.0], [1.0]])})
        >>> [indices.tolist() for indices in repeats(held_out)]
        [[2, 3], [0, 0]]
    """
    first: dict[str, int] = {}
    occurrences = [(i, first.setdefault(digest, i)) for i, digest in enumerate(digests([held_out.inputs]))]
    pairs = np.array([pair for pair in occurrences if pair[0] != pair[1]], dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _parts(data: Any, names: tuple[str, ...], what: str) -> Iterator[_Part]:
    """The batches of data of any form; `what` names the data in messages."""
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
    """One batch of any form."""
    if isinstance(item, Mapping):
        return _by_name(item, names, where)
    if isinstance(item, tuple | list) and item:
        return _by_position(item, names, where)
    if not _is_array(item):
        raise InvalidRequest(f"{where}: a {type(item).__name__} was given where a batch (array, tuple or dict) is needed.")
    return _Part(_by_order((item,), names, where), None, None, where)


def _by_name(item: Mapping[str, Any], names: tuple[str, ...], where: str) -> _Part:
    """A batch that is a mapping; the key `x` stands for the input of a model with one input."""
    inputs = {name: item[name] for name in names if name in item}
    if not inputs and len(names) == 1 and "x" in item:
        inputs = {names[0]: item["x"]}
    missing = [name for name in names if name not in inputs]
    if missing:
        keys = ", ".join(map(str, item)) or "nothing"
        hint = " (or 'x')" if len(names) == 1 and names[0] != "x" else ""
        raise InvalidRequest(f"{where}: the model's input '{missing[0]}'{hint} is missing; it holds {keys}.")
    columns = [key for key in (*LABEL_KEYS, GROUP_KEY) if key in item and key not in names]
    labels = [key for key in columns if key != GROUP_KEY]
    keys_read = {*names, *columns} if names[0] in item else {"x", *columns}
    groups = item[GROUP_KEY] if GROUP_KEY in columns else None
    left_out = _left_out([key for key in item if key not in keys_read], labels, names)
    return _Part(inputs, item[labels[0]] if labels else None, groups, where, left_out)


def _left_out(keys: Sequence[Any], labels: Sequence[str], names: tuple[str, ...]) -> str:
    """The rest of a message about keys that aren't read, or about labels under two names; empty where there are none."""
    if len(labels) > 1:
        return f"it holds labels under two names, '{labels[0]}' and '{labels[1]}'; keep one of them."
    if not keys:
        return ""
    readable = (*names, *LABEL_KEYS, GROUP_KEY)
    hint = nearest(str(keys[0]).lower(), readable)
    return f"unknown key '{keys[0]}': held-out data hold the model's inputs, labels and groups and nothing else{hint}"


def _by_position(item: Sequence[Any], names: tuple[str, ...], where: str) -> _Part:
    """A batch that is a tuple: the inputs one after the other, as a tuple or as a mapping, then labels and groups."""
    nested = isinstance(item[0], tuple | list | Mapping)
    rest = list(item[1:] if nested else item[len(names) :])
    if any(np.ndim(value) == 0 for value in rest if isinstance(value, int | float | np.generic) or _is_array(value)):
        raise InvalidRequest(f"{where}: its label has no batch axis, it is a single example; wrap the data set in a DataLoader.")
    more = f"it has {len(rest)} entries after the inputs, and only labels and groups are read; leave the others out."
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
    """Input name -> value, for as many values as the model has inputs."""
    if len(values) != len(names):
        raise InvalidRequest(
            f"{where}: the model has {len(names)} inputs ({', '.join(names)}) and {len(values)} were given; "
            "give a tuple of that many arrays, or a dict by name."
        )
    return dict(zip(names, values, strict=True))


def _is_one_batch(data: Any) -> bool:
    """Whether `data` holds all examples in one batch; a list is always a list of batches."""
    if isinstance(data, str | Path | Mapping | HeldOut) or _is_array(data):
        return True
    if not isinstance(data, tuple) or not data:
        return False
    return _is_array(data[0]) or not any(isinstance(value, tuple | list | Mapping) for value in data[1:])


def _is_array(value: Any) -> bool:
    """Whether a value is a tensor or an array."""
    return hasattr(value, "detach") or (hasattr(value, "__array__") and hasattr(value, "shape"))
