"""Write a LiteRT file, which is a flatbuffer: tensors, constants and operators of one graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from dyncompress.errors import Unsupported

ALIGNMENT = 16  # bytes: where constants begin, as the schema's force_align says, which its Python code ignores
SIGNATURE = "serving_default"  # name of the signature that tools look for first
# Version -> the operators that have it when they read int8 (tensorflow/lite/tools/versioning/op_version.cc).
_VERSIONS_OF_INT8 = {
    2: "ADD SUB MUL AVERAGE_POOL_2D MAX_POOL_2D CONCATENATION MEAN PAD PADV2 RELU TRANSPOSE STRIDED_SLICE GATHER DEQUANTIZE "
    "MIRROR_PAD RESIZE_NEAREST_NEIGHBOR",
    3: "CONV_2D DEPTHWISE_CONV_2D CAST BROADCAST_TO",
    4: "FULLY_CONNECTED",
}
_VERSION = {name: version for version, names in _VERSIONS_OF_INT8.items() for name in names.split()}


@cache
def schema() -> Any:
    """The classes that the flatbuffer compiler made of LiteRT's schema.

    Raises:
        Unsupported: the package that has them isn't installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise Unsupported('the format "litert" needs the package ai-edge-litert: pip install "dyncompress[litert]".') from error
    return schema_py_generated


@dataclass(frozen=True)
class Quantization:
    """The grid of an integer tensor: its values are (code - zero_point) * scale.

    Attributes:
        scale: one, or one for each index along `axis`.
        zero_point: as many.
        axis: of the tensor.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int = 0


@dataclass(frozen=True)
class _Constant:
    """The bytes of a constant; packs itself as the schema's `BufferT` does, but aligned."""

    data: bytes

    def Pack(self, builder: Any) -> Any:
        """Write the bytes, and return where; the schema's code calls the method by this name."""
        if not self.data:
            schema().BufferStart(builder)
            return schema().BufferEnd(builder)
        builder.StartVector(1, len(self.data), ALIGNMENT)
        head = builder.head = builder.Head() - len(self.data)
        builder.Bytes[head : head + len(self.data)] = self.data
        vector = builder.EndVector()
        schema().BufferStart(builder)
        schema().BufferAddData(builder, vector)
        return schema().BufferEnd(builder)


def options(name: str, **fields: Any) -> tuple[int, Any]:
    """The options of an operator.

    Args:
        name: of their table in the schema.
        fields: of the table; the others keep their defaults.

    Returns:
        The number of the table, and its object.
    """
    table = getattr(schema(), f"{name}T")()
    for field, value in fields.items():
        assert hasattr(table, field), field
        setattr(table, field, value)
    return getattr(schema().BuiltinOptions, name), table


def activation(name: str) -> int:
    """The number of a fused activation: `NONE`, `RELU`, `RELU6` or `RELU_N1_TO_1`."""
    return getattr(schema().ActivationFunctionType, name)


def tensor_type(dtype: str) -> int:
    """The number of an element type."""
    return getattr(schema().TensorType, dtype.upper())


def padding(name: str) -> int:
    """The number of a padding: `SAME` or `VALID`."""
    return getattr(schema().Padding, name)


class Writer:
    """Collects the tensors and operators of a graph; a tensor is known by its index."""

    def __init__(self) -> None:
        """Start with an empty graph; buffer 0 is the empty one of tensors that are computed."""
        self._tensors: list[Any] = []
        self._buffers = [_Constant(b"")]
        self._operators: list[Any] = []
        self._codes: dict[tuple[str, int], int] = {}
        self._constants: dict[tuple[str, tuple[int, ...], Quantization | None, bytes], int] = {}

    def tensor(self, shape: Sequence[int], dtype: str, quantization: Quantization | None = None, name: str = "") -> int:
        """Add a tensor that an operator computes, or an input."""
        tensor = schema().TensorT()
        tensor.shape, tensor.type, tensor.name, tensor.hasRank = (
            np.array(shape, np.int32),
            tensor_type(dtype),
            name,
            True,
        )
        if quantization is not None:
            grid = schema().QuantizationParametersT()
            grid.scale = np.array(quantization.scale, np.float32)
            grid.zeroPoint = np.array(quantization.zero_point, np.int64)
            grid.quantizedDimension = quantization.axis
            tensor.quantization = grid
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def constant(self, data: np.ndarray, quantization: Quantization | None = None, name: str = "") -> int:
        """Add a constant, or return the one that has the same content."""
        content = np.ascontiguousarray(data).tobytes()
        key = (data.dtype.name, data.shape, quantization, content)
        if key not in self._constants:
            index = self._constants[key] = self.tensor(data.shape, data.dtype.name, quantization, name)
            self._buffers.append(_Constant(content))
            self._tensors[index].buffer = len(self._buffers) - 1
        return self._constants[key]

    def operator(self, name: str, inputs: Sequence[int], output: int, table: tuple[int, Any] | None = None) -> None:
        """Add an operator.

        Args:
            name: in the schema's list of builtin operators.
            inputs: tensors that it reads.
            output: the tensor that it computes.
            table: of the function `options`.
        """
        operator = schema().OperatorT()
        operator.opcodeIndex = self._codes.setdefault((name, self._version(name, inputs, table and table[1])), len(self._codes))
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if table is not None:
            operator.builtinOptionsType, operator.builtinOptions = table
        self._operators.append(operator)

    def _version(self, name: str, inputs: Sequence[int], fields: Any) -> int:
        """The version of an operator that reads these tensors; a runtime refuses newer ones than it knows."""
        read = [self._tensors[index] for index in inputs]
        rank, integer = len(read[0].shape), read[0].type == tensor_type("int8")
        special = {  # operator -> version if a feature of it is used, else 0
            "CONV_2D": 6 * (name == "CONV_2D" and read[0].shape[-1] != read[1].shape[-1]),  # groups
            "DEPTHWISE_CONV_2D": 2
            * (not integer and getattr(fields, "dilationWFactor", 1) * getattr(fields, "dilationHFactor", 1) > 1),
            "FULLY_CONNECTED": 5 * getattr(fields, "keepNumDims", False),
            "DEQUANTIZE": 5 * (read[0].quantization is not None and len(read[0].quantization.scale) > 1),
            "RESIZE_BILINEAR": 3 * getattr(fields, "halfPixelCenters", False),
            "TRANSPOSE_CONV": 3 * (len(read) == 4),  # a bias
            "TRANSPOSE": {5: 4, 6: 6}.get(rank, 0),
            "BROADCAST_TO": 3 if integer else 2,
            **dict.fromkeys(("STRIDED_SLICE", "PAD", "PADV2"), 4 * (rank > 4)),
        }
        return special.get(name, 0) or (_VERSION.get(name, 1) if integer else 1)

    def content(self, inputs: Mapping[str, int], outputs: Mapping[str, int], description: str) -> bytes:
        """The bytes of the file.

        Args:
            inputs, outputs: name -> tensor, in their order.
            description: a text that the file carries.
        """
        for name, index in outputs.items():
            self._tensors[index].name = self._tensors[index].name or name
        graph = schema().SubGraphT()
        graph.tensors, graph.operators, graph.name = self._tensors, self._operators, "main"
        graph.inputs, graph.outputs = (np.array(list(names.values()), np.int32) for names in (inputs, outputs))
        signature = schema().SignatureDefT()
        signature.signatureKey = SIGNATURE
        signature.inputs, signature.outputs = _names(inputs), _names(outputs)
        model = schema().ModelT()
        model.version, model.description = 3, description
        model.subgraphs, model.buffers, model.signatureDefs = [graph], self._buffers, [signature]
        model.operatorCodes = [_code(name, version) for name, version in self._codes]
        import flatbuffers

        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _names(tensors: Mapping[str, int]) -> list[Any]:
    """Names of tensors, as a signature lists them."""
    entries = []
    for name, index in tensors.items():
        entry = schema().TensorMapT()
        entry.name, entry.tensorIndex = name, index
        entries.append(entry)
    return entries


def _code(name: str, version: int) -> Any:
    """An entry of the file's list of operators."""
    code = schema().OperatorCodeT()
    code.builtinCode, code.version = getattr(schema().BuiltinOperator, name), version
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    return code
