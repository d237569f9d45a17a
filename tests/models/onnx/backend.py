"""ONNX's own tests of operators, run through the interpreter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx
from torch import Tensor

from dyncompress.models.onnx.interpreter import Interpreter
from dyncompress.models.onnx.values import dtype_of, from_numpy, to_numpy


@cache
def cases() -> tuple[Any, ...]:
    """All node tests of the package onnx: `.name`, `.model`, `.data_sets` [(inputs, outputs)], `.rtol`, `.atol`."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return tuple(collect_testcases(None))


def operators(graph: Any) -> Iterator[str]:
    """Operators of a graph and its subgraphs."""
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            yield from operators(attribute.g)


def of_operators(names: set[str]) -> list[Any]:
    """The cases whose first operator is one of these."""
    return [case for case in cases() if next(operators(case.model.graph), "") in names]


def value(array: Any) -> Any:
    """An input of a case as the interpreter takes it."""
    if isinstance(array, onnx.TensorProto):
        from dyncompress.models.onnx.values import to_value

        return to_value(array)
    if array is None or isinstance(array, list):
        return array and [value(item) for item in array]
    array = np.asarray(array)
    return array if array.dtype.kind in "OSU" else from_numpy(array, dtype_of(onnx.helper.np_dtype_to_tensor_dtype(array.dtype)))


def differs(case: Any) -> str:
    """Why a case fails, or nothing."""
    versions = {entry.domain: entry.version for entry in case.model.opset_import}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, about casts of infinities
            _compare_all(case, versions)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return ""


def _compare_all(case: Any, versions: dict[str, int]) -> None:
    interpreter = Interpreter(case.model.graph, versions)
    for inputs, outputs in case.data_sets:
        found = interpreter.run([value(array) for array in inputs])
        for own, wanted in zip(found, outputs, strict=True):
            compare(own, wanted, case.rtol, case.atol)


def compare(own: Any, wanted: Any, rtol: float, atol: float) -> None:
    """Raise where a value isn't the wanted one."""
    if wanted is None or isinstance(wanted, list):
        assert (own is None) == (wanted is None) and len(own or ()) == len(wanted or ())
        for one, other in zip(own or (), wanted or (), strict=True):
            compare(one, other, rtol, atol)
        return
    if isinstance(wanted, onnx.TensorProto):
        wanted = onnx.numpy_helper.to_array(wanted)
    wanted = np.asarray(wanted)
    array = to_numpy(own) if isinstance(own, Tensor) else np.asarray(own)
    assert array.dtype == wanted.dtype or array.dtype.kind in "OSU", f"dtype {array.dtype}, wanted {wanted.dtype}"
    assert array.shape == wanted.shape, f"shape {array.shape}, wanted {wanted.shape}"
    if array.dtype.kind in "OSU":
        assert array.astype(str).tolist() == wanted.astype(str).tolist()
    else:
        wide = np.complex128 if array.dtype.kind == "c" else np.float64
        np.testing.assert_allclose(array.astype(wide), wanted.astype(wide), rtol=rtol, atol=atol)
