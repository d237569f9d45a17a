"""Checks and conversions of arrays that a user gives.

An array is numpy or a torch tensor. Its `detach` identifies a tensor, so that torch isn't imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.models.user_code import special_kind
from dyncompress.types import Array


def check_array(value: Any, where: str, finite: bool = True) -> Array:
    """The array or tensor after checks: floats as float32, tensors detached, numpy arrays in the machine's byte order.

    Args:
        value: a torch tensor, or anything that `numpy.asarray` takes.
        where: how a message names the value.
        finite: whether NaN and infinite values are refused.

    Raises:
        InvalidRequest: the value isn't a dense array `[n, ...]` of numbers, is empty or complex, or isn't finite.
    """
    if hasattr(value, "detach"):
        if kind := special_kind(value):
            raise InvalidRequest(f"{where} is a {kind} tensor; give a dense tensor of numbers.")
        complex_valued = value.is_complex()
        value = value.detach().clone() if value.is_inference() else value.detach()  # autograd refuses inference tensors
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
    """An array that torch takes: without negative strides, in the machine's byte order, floats as float32."""
    kind = np.dtype(np.float32) if value.dtype.kind == "f" else value.dtype.newbyteorder("=")
    return np.ascontiguousarray(value, kind).reshape(value.shape)


def _plain(value: Any, where: str) -> np.ndarray:
    """`numpy.asarray`, with an error about rows of different lengths."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InvalidRequest(f"{where}: its rows have different lengths; pad them to one shape.") from error


def refuse_not_finite(value: Array, where: str) -> None:
    """Refuse NaN and infinite values.

    Args:
        value: `[n, ...]`.
        where: how a message names the value.

    Raises:
        InvalidRequest: some values aren't finite; says how many, and the index of the first such example.
    """
    finite = value.isfinite() if hasattr(value, "isfinite") else np.isfinite(value)
    if not bool(finite.all()):
        rows = finite.reshape(len(value), -1).all(1)
        first, bad = int(np.argmin(as_numpy(rows))), int((~finite).sum())
        raise InvalidRequest(f"{where} holds {bad} NaN or infinite values (first in example {first}); remove or replace them.")


def common_length(batch: Mapping[str, Array], where: str) -> int:
    """The number of examples that all inputs of a batch share; `InvalidRequest` where they differ."""
    lengths = {name: len(value) for name, value in batch.items()}
    if len(set(lengths.values())) != 1:
        raise InvalidRequest(
            f"{where}: its inputs have different numbers of examples: {lengths}; the batch axis comes first in every input (wrap "
            "a model that has it elsewhere)."
        )
    return next(iter(lengths.values()))


def refuse_other_shape(
    first: Mapping[str, Array], batch: Mapping[str, Array], where: str, listed: bool, lengths: bool = False
) -> None:
    """Refuse a batch whose shapes or dtypes differ from those of the first batch.

    Args:
        first: the first batch, by input name.
        batch: the batch to check.
        where: how a message names the batch.
        listed: whether the data are a list, for which a message adds a hint.
        lengths: whether lengths of axes may differ; the number of axes may not.

    Raises:
        InvalidRequest: names the input and both shapes or dtypes.
    """
    hint = " (a list is read as batches; inputs with labels are a tuple (x, y))" if listed else ""
    for name, value in batch.items():
        was, now = tuple(first[name].shape[1:]), tuple(value.shape[1:])
        if was != now and not (lengths and len(was) == len(now)):
            raise InvalidRequest(
                f"{where}: input '{name}' has shape {now} per example, the first batch had {was}; pad or crop to one shape{hint}."
            )
        was, now = (str(array.dtype).removeprefix("torch.") for array in (first[name], value))
        if was != now:
            raise InvalidRequest(f"{where}: input '{name}' is {now}, the first batch was {was}; use one dtype{hint}.")


def read_column(value: Any, count: int, where: str, words: bool = False) -> np.ndarray | None:
    """Labels or groups as numpy `[count, ...]`; None where there are none.

    Args:
        value: a tensor, an array or a sequence.
        count: number of examples.
        where: how a message names the value.
        words: whether strings are allowed, as they are for groups.

    Raises:
        InvalidRequest: another dtype or another number of entries, or values that aren't finite.
    """
    if value is None:
        return None
    column = as_numpy(value) if hasattr(value, "detach") else _plain(value, where)
    if words and column.dtype.kind in "OU":
        column = column.astype(str)
    elif column.dtype.kind not in "fiub":
        raise InvalidRequest(f"{where} have dtype {column.dtype}; numbers are needed (class indices or targets).")
    if column.ndim == 0 or len(column) != count:
        raise InvalidRequest(f"{where} have shape {column.shape} for {count} examples; one entry per example is needed.")
    if column.dtype.kind == "f":
        refuse_not_finite(column, where)
    return column


def join_columns(columns: list[np.ndarray | None], what: str) -> np.ndarray | None:
    """The labels or groups of all batches as one array; None where no batch has any.

    Raises:
        InvalidRequest: some batches have them and others don't, or their shapes differ between batches.
    """
    present = [column for column in columns if column is not None]
    if present and len(present) != len(columns):
        raise InvalidRequest(f"{what} are missing in {len(columns) - len(present)} of {len(columns)} batches.")
    if len({column.shape[1:] for column in present}) > 1:
        shapes = " and ".join(map(str, sorted({column.shape[1:] for column in present})[:2]))
        raise InvalidRequest(f"{what} have the shapes {shapes} for one example; pad them to one shape.")
    return np.concatenate(present) if present else None


def as_numpy(value: Array) -> np.ndarray:
    """The array as numpy in host memory, floats of any width as float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    value = np.asarray(value)
    return value.astype(np.float32) if value.dtype.kind == "f" and value.dtype != np.float32 else value


def canonical_dtype(value: np.ndarray) -> np.ndarray:
    """The array as a network sees it: floats as little-endian float32, integers as little-endian int64."""
    if value.dtype.kind == "f":
        return value.astype("<f4", copy=False)
    return value.astype("<i8", copy=False) if value.dtype.kind in "iu" else value
