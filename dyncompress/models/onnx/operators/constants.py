"""Constants, copies, element types and shapes."""

from __future__ import annotations

import math

import numpy as np
import torch
from onnx import SparseTensorProto, TensorProto
from torch import Tensor

from dyncompress.models.onnx.node import Functions, Node, Value
from dyncompress.models.onnx.operators.signal import generator
from dyncompress.models.onnx.operators.widening import precise
from dyncompress.models.onnx.values import dtype_of, integers, to_value

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)


def constant(node: Node) -> Value:
    """The value of a Constant node, whichever attribute holds it."""
    (name, value), *_ = node.attributes.items()
    if name == "value":
        return value
    if name == "sparse_value":
        return _dense(value)
    if name.startswith("value_string"):
        return np.asarray(value, dtype=object)
    return torch.tensor(value, dtype=torch.float32 if name.startswith("value_float") else torch.int64)


def _dense(sparse: SparseTensorProto) -> Tensor:
    """A sparse constant with its zeros; the places of the others are numbers, or a row of indices each."""
    values, places = to_value(sparse.values), to_value(sparse.indices)
    assert isinstance(values, Tensor) and isinstance(places, Tensor)
    if places.ndim == 2:
        steps = [math.prod(sparse.dims[axis + 1 :]) for axis in range(len(sparse.dims))]
        places = places @ torch.tensor(steps, dtype=torch.int64)
    flat = torch.zeros(math.prod(sparse.dims), dtype=values.dtype)
    return flat.index_put((places,), values).reshape(tuple(sparse.dims))


def constant_of_shape(node: Node, shape: Tensor) -> Value:
    """A tensor of one value, zero if none is given."""
    value = node.get("value", torch.zeros(1))
    if isinstance(value, np.ndarray):
        return np.full(integers(shape), value.item(), dtype=object)
    return value.reshape(()).expand(integers(shape)).clone()


def identity(node: Node, value: Value) -> Value:
    """The value itself."""
    return value


def cast(node: Node, x: Value) -> Value:
    """`x` in another element type."""
    if node.attributes["to"] == TensorProto.STRING:
        return _written(x)
    return convert(x, dtype_of(node.attributes["to"]), bool(node.get("saturate", 1)))


def cast_like(node: Node, x: Value, other: Value) -> Value:
    """`x` in the element type of another tensor."""
    if isinstance(other, np.ndarray):
        return _written(x)
    assert isinstance(other, Tensor)
    return convert(x, other.dtype, bool(node.get("saturate", 1)))


def convert(x: Value, dtype: torch.dtype, saturate: bool = True) -> Tensor:
    """A tensor, or strings, in another element type.

    Args:
        x: the elements.
        dtype: the new type.
        saturate: whether numbers out of the range of an 8-bit float become the largest one of their sign; otherwise they
            become infinite, or no number in types without infinity.
    """
    if isinstance(x, np.ndarray):
        return _parsed(x, dtype)
    assert isinstance(x, Tensor)
    if dtype not in _FLOAT8 or x.dtype == dtype:
        return x.to(dtype)
    x = x.float()
    largest = torch.finfo(dtype).max
    if saturate:
        return x.clamp(-largest, largest).to(dtype)
    if dtype == torch.float8_e4m3fn:
        # Torch saturates this type; 464 is half way between the largest, 448, and 480, which would be the next.
        return torch.where(x.abs() > 464, torch.nan, x).to(dtype)
    return x.to(dtype)


def _parsed(strings: np.ndarray, dtype: torch.dtype) -> Tensor:
    """The numbers that strings say."""
    if dtype.is_floating_point:
        return torch.tensor([float(text) for text in strings.reshape(-1)], dtype=torch.float64).reshape(strings.shape).to(dtype)
    numbers = [int(text) if text.strip().lstrip("+-").isdigit() else int(float(text)) for text in map(str, strings.reshape(-1))]
    return torch.tensor(numbers, dtype=torch.uint64 if dtype == torch.uint64 else torch.int64).reshape(strings.shape).to(dtype)


def _written(x: Value) -> np.ndarray:
    """Numbers as strings; floating-point ones with eight digits, as onnxruntime does."""
    if isinstance(x, np.ndarray):
        return x
    assert isinstance(x, Tensor)
    special = {"nan": "NaN", "inf": "INF", "-inf": "-INF"}
    texts = [f"{number:.8g}" if isinstance(number, float) else str(int(number)) for number in x.reshape(-1).tolist()]
    return np.array([special.get(text, text) for text in texts], dtype=object).reshape(tuple(x.shape))


def dropout_of_attribute(node: Node, x: Tensor) -> tuple[Tensor, Tensor]:
    """The tensor itself, as older files don't train; its mask has the element type of the tensor before version 10."""
    return x, torch.ones_like(x, dtype=torch.bool if node.version >= 10 else x.dtype)


def dropout(node: Node, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The tensor itself and a mask that is true; in training, elements are dropped and the others scaled."""
    share = 0.5 if ratio is None else float(ratio)
    if training is None or not bool(training) or share == 0:
        return x, torch.ones_like(x, dtype=torch.bool)
    draws = torch.rand(x.shape, generator=generator(node, x.device), device=x.device)
    mask = draws >= share
    return torch.where(mask, precise(x) / (1 - share), 0).to(x.dtype), mask


def eye_like(node: Node, x: Tensor) -> Tensor:
    """Ones on a diagonal, zeros elsewhere, in the shape of a matrix."""
    dtype = dtype_of(node.attributes["dtype"]) if "dtype" in node.attributes else x.dtype
    offset = node.get("k", 0)
    return torch.ones(x.shape, dtype=torch.bool, device=x.device).triu(offset).tril(offset).to(dtype)


def number_range(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Numbers from `start` in steps of `delta`, without `limit`; of half floats computed in float32 if `stash_type` says so."""
    dtype = start.dtype
    if node.get("stash_type", 1) == 1:
        start, limit, delta = precise(start), precise(limit), precise(delta)
    span, step = (limit - start).item(), delta.item()
    count = math.ceil(span / step) if start.is_floating_point() else -(-int(span) // int(step))
    steps = torch.arange(max(count, 0), device=start.device).to(start.dtype)
    return (start.reshape(()) + steps * delta.reshape(())).to(dtype)


def size(node: Node, value: Tensor | np.ndarray) -> Tensor:
    """The number of elements, on the CPU."""
    return torch.tensor(math.prod(value.shape), dtype=torch.int64)


def shape(node: Node, value: Tensor | np.ndarray) -> Tensor:
    """The lengths of the axes from `start` to `end`, on the CPU."""
    return torch.tensor(tuple(value.shape)[node.get("start", 0) : node.get("end")], dtype=torch.int64)


FUNCTIONS: Functions = {
    "Constant": {1: constant},
    "ConstantOfShape": {9: constant_of_shape},
    "Identity": {1: identity},
    "Cast": {6: cast},
    "CastLike": {15: cast_like},
    "Dropout": {7: dropout_of_attribute, 12: dropout},
    "EyeLike": {9: eye_like},
    "Range": {11: number_range},
    "Size": {1: size},
    "Shape": {1: shape},
}
