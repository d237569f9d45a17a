"""Reading and writing at indices: Gather, ScatterElements, OneHot, ...."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dyncompress.models.onnx.node import Functions, Node, NoTorchFunctionError
from dyncompress.models.onnx.operators.text import with_strings
from dyncompress.models.onnx.values import integers

# Torch gathers and scatters elements of these types under another name, with the same bits.
_SAME_BITS = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e4m3fnuz: torch.uint8,
    torch.float8_e5m2: torch.uint8,
    torch.float8_e5m2fnuz: torch.uint8,
}


def _bits(x: Tensor) -> Tensor:
    """`x` in an element type that torch gathers and scatters."""
    return x.view(_SAME_BITS[x.dtype]) if x.dtype in _SAME_BITS else x


def _of_bits(x: Tensor, dtype: torch.dtype) -> Tensor:
    """What `_bits` was made of; torch stops gradients at every view of an element type, hence not of floats."""
    return x.view(dtype) if dtype in _SAME_BITS else x


def _wrapped(indices: Tensor, size: int, device: torch.device) -> Tensor:
    """Indices on the device of the data, those below zero counted from the end."""
    indices = indices.to(device, torch.int64)
    return torch.where(indices < 0, indices + size, indices)


def gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Slices of `x` along an axis, which the axes of the indices replace."""
    axis = node.get("axis", 0) % x.ndim
    picked = x.index_select(axis, _wrapped(indices, x.shape[axis], x.device).reshape(-1))
    return picked.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Elements of `x`, each at its own index along an axis."""
    axis = node.get("axis", 0)
    return _of_bits(torch.gather(_bits(x), axis, _wrapped(indices, x.shape[axis], x.device)), x.dtype)


def gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Slices of `x` at tuples of indices, within the same place of the batch."""
    batch = node.get("batch_dims", 0)
    indices = indices.to(x.device, torch.int64)
    shape = indices.shape[:-1]
    places = [torch.arange(shape[axis], device=x.device).reshape(-1, *(1,) * (len(shape) - axis - 1)) for axis in range(batch)]
    return x[(*places, *indices.unbind(-1))]


def _ordered(x: Tensor) -> Tensor:
    """Unsigned integers as signed ones of the same order; doing it again undoes it."""
    return x ^ torch.iinfo(x.dtype).min


def _scattered(x: Tensor, axis: int, indices: Tensor, updates: Tensor, reduction: str) -> Tensor:
    """`x` with updates at indices along an axis, put there or combined with what is there.

    Args:
        x: isn't changed.
        axis: may be negative.
        indices: none is negative; as many as updates.
        updates: of the type of `x`.
        reduction: "none", "add", "mul", "max" or "min".
    """
    bits, new = _bits(x), _bits(updates.to(x.device))
    if reduction == "none":
        return _of_bits(bits.scatter(axis, indices, new), x.dtype)
    if (x.dtype.itemsize == 1 and x.dtype in _SAME_BITS) or (x.is_complex() and reduction in ("max", "min")):
        raise NoTorchFunctionError(f"torch can't combine elements of {x.dtype} by {reduction}")
    if reduction == "add" and x.dtype != torch.bool:
        return _of_bits(bits.scatter_add(axis, indices, new), x.dtype)
    kind = {"add": "amax", "mul": "prod", "max": "amax", "min": "amin"}[reduction]  # booleans are added by their or
    if x.dtype in _SAME_BITS and reduction in ("max", "min"):
        return _ordered(_ordered(bits).scatter_reduce(axis, indices, _ordered(new), kind)).view(x.dtype)
    return _of_bits(bits.scatter_reduce(axis, indices, new, kind), x.dtype)


def scatter_elements(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """`x` with updates, each at its own index along an axis."""
    axis = node.get("axis", 0)
    return _scattered(x, axis, _wrapped(indices, x.shape[axis], x.device), updates, node.get("reduction", "none"))


def scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """`x` with slices at tuples of indices."""
    depth = indices.shape[-1]
    rows, width = math.prod(x.shape[:depth]), math.prod(x.shape[depth:])
    count = math.prod(indices.shape[:-1])
    place = torch.zeros(count, dtype=torch.int64, device=x.device)
    for axis, index in enumerate(indices.reshape(count, depth).unbind(-1)):
        place = place * x.shape[axis] + _wrapped(index, x.shape[axis], x.device)
    flat, new = x.reshape(rows, width), updates.reshape(count, width)
    places = place.unsqueeze(-1).expand(count, width)
    return _scattered(flat, 0, places, new, node.get("reduction", "none")).reshape(x.shape)


def tensor_scatter(node: Node, x: Tensor, update: Tensor, start: Tensor | None = None) -> Tensor:
    """A cache with new entries from each sample's own start on."""
    axis = node.get("axis", -2) % x.ndim
    length, size = update.shape[axis], x.shape[axis]
    if start is None:
        start = torch.zeros(x.shape[0], dtype=torch.int64)
    places = start.to(x.device, torch.int64).unsqueeze(-1) + torch.arange(length, device=x.device)
    if node.get("mode", "linear") == "circular":
        places = places % size
    shape = [1] * x.ndim
    shape[0], shape[axis] = update.shape[0], length
    return _scattered(x, axis, places.reshape(shape).expand(update.shape), update, "none")


def one_hot(node: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """A new axis with the second value at the index and the first elsewhere; also everywhere where there is no such index."""
    return _one_hot(node, _wrapped(indices, integers(depth)[0], indices.device), depth, values)


def one_hot_not_negative(node: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """As `one_hot`, but no index below zero."""
    return _one_hot(node, indices.to(torch.int64), depth, values)


def _one_hot(node: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """The second value where the number along a new axis is the index, else the first."""
    axis = node.get("axis", -1) % (indices.ndim + 1)
    device = indices.device if values.device.type == "cpu" else values.device  # either may be a constant on the CPU
    indices, values = indices.to(device), values.to(device)
    numbers = torch.arange(*integers(depth), device=device).reshape(-1, *(1,) * (indices.ndim - axis))
    off, on = values.unbind(0)
    return torch.where(indices.unsqueeze(axis) == numbers, on, off)


def compress(node: Node, x: Tensor, condition: Tensor) -> Tensor:
    """The slices along an axis, or the elements, for which the condition holds."""
    axis = node.get("axis")
    if axis is None:
        x, axis = x.reshape(-1), 0
    kept = condition.reshape(-1)[: x.shape[axis]].nonzero().reshape(-1)
    return x.index_select(axis, kept.to(x.device))


def array_feature_extractor(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Columns of the last axis; a matrix of one row for a vector."""
    picked = x.index_select(-1, indices.to(x.device, torch.int64).reshape(-1))
    return picked.unsqueeze(0) if x.ndim == 1 else picked


FUNCTIONS: Functions = with_strings(
    {
        "Gather": {1: gather},
        "GatherElements": {11: gather_elements},
        "GatherND": {11: gather_nd},
        "Scatter": {9: scatter_elements},
        "ScatterElements": {11: scatter_elements},
        "ScatterND": {11: scatter_nd},
        "OneHot": {9: one_hot_not_negative, 11: one_hot},
        "Compress": {9: compress},
        "TensorScatter": {24: tensor_scatter},
    }
)
ML_FUNCTIONS: Functions = with_strings({"ArrayFeatureExtractor": {1: array_feature_extractor}})  # of ai.onnx.ml
