"""ONNX's tensors and element types as torch's, and back."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from dyncompress.models.onnx.node import NoTorchFunctionError, Value

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.BOOL: torch.bool,
    TensorProto.COMPLEX64: torch.complex64,
    TensorProto.COMPLEX128: torch.complex128,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
}
_WITHOUT_NUMPY = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)


def dtype_of(element_type: int) -> torch.dtype:
    """The torch dtype of an ONNX element type, a number of `TensorProto.DataType`.

    Raises:
        NoTorchFunctionError: torch has no such dtype, e.g. 4-bit integers.

    Example:
        >>> dtype_of(onnx.TensorProto.INT64)
        torch.int64
    """
    try:
        return DTYPES[element_type]
    except KeyError as error:
        raise NoTorchFunctionError(f"torch has no element type {TensorProto.DataType.Name(element_type)}") from error


def element_type_of(dtype: torch.dtype) -> int:
    """The ONNX element type of a torch dtype."""
    return next(number for number, own in DTYPES.items() if own == dtype)


def to_value(proto: TensorProto, folder: str = "") -> Value:
    """A tensor of a file; strings become a numpy array of objects.

    Args:
        proto: the tensor.
        folder: holds its external data.
    """
    if proto.data_type == TensorProto.STRING:
        return numpy_helper.to_array(proto)
    return from_numpy(numpy_helper.to_array(proto, folder), dtype_of(proto.data_type))


def from_numpy(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    """A tensor that owns its memory, of an array with the same bits as `dtype`."""
    array = np.array(array, order="C", copy=True)  # keeps the shape of scalars
    if dtype in _WITHOUT_NUMPY:
        return torch.from_numpy(array.view(np.uint16 if dtype.itemsize == 2 else np.uint8)).view(dtype)
    return torch.from_numpy(array)


def to_numpy(value: Tensor) -> np.ndarray:
    """An array on the CPU; bfloat16 and 8-bit floats have the types of ml_dtypes."""
    value = value.detach().cpu().contiguous()
    if value.dtype in _WITHOUT_NUMPY:
        bits = value.view(torch.uint16 if value.dtype.itemsize == 2 else torch.uint8).numpy()
        return bits.view(onnx.helper.tensor_dtype_to_np_dtype(element_type_of(value.dtype)))
    return value.numpy()


def integers(value: Value) -> list[int]:
    """The elements of an integer tensor, e.g. of a shape or of axes."""
    assert isinstance(value, Tensor)
    return [int(number) for number in value.reshape(-1).tolist()]


def to_proto(value: Tensor, name: str) -> TensorProto:
    """An initializer that holds a tensor."""
    return numpy_helper.from_array(to_numpy(value), name)
