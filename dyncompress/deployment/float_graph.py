"""A float graph apart from its weights: what reads or extends the graph copies the graph, and never the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, shape_inference

from dyncompress.coding.messages import GRAPH, INITIALIZER, RAW, field, parts
from dyncompress.deployment.session import PLAIN, load, options, processors
from dyncompress.deployment.stripping import read, stripped

_LARGE = 1 << 12  # bytes from which on an initializer counts as a weight; smaller ones may be shapes, which inference reads


@dataclass(frozen=True)
class FloatGraph:
    """A stripped float graph whose large initializers are arrays beside it.

    Attributes:
        model: its own, to be changed; its large initializers have a type and a shape, and say that their data lie elsewhere.
        weights: the data, by the initializers' names.
    """

    model: onnx.ModelProto
    weights: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, float_file: bytes) -> FloatGraph:
        """The graph of a float32 file without exporter metadata; its arrays are views of the file where that is possible.

        Raises:
            InvalidRequest: the bytes aren't an ONNX model with a graph.
        """
        weights: dict[str, np.ndarray] = {}
        try:
            pieces = [
                field(key, _cut_graph(content, weights)) if key == GRAPH else [whole]
                for key, content, whole in parts(memoryview(float_file))
            ]
        except ValueError:
            pieces = [[float_file]]  # `read` says what's wrong with it
        return cls(stripped(read(b"".join(chain.from_iterable(pieces)))), weights)

    def inferred(self) -> onnx.GraphProto:
        """The graph with the types and shapes of inner values, as far as they are known."""
        return shape_inference.infer_shapes(self.model).graph

    def session(self) -> onnxruntime.InferenceSession:
        """A session of the graph as it is now, on all processors. It reads the weights where they are: keep this object.

        Raises:
            Unsupported: onnxruntime refuses the graph.
        """
        settings = options(PLAIN, processors())
        # Outputs that reduce an inner value are computed as soon as it is there; otherwise all inner values stay until the end.
        settings.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in self.weights.values()]
        settings.add_external_initializers(list(self.weights), values)
        return load(self.model.SerializeToString(), settings)

    def whole(self) -> onnx.ModelProto:
        """The model with all data inside."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for tensor in model.graph.initializer:
            if tensor.name in self.weights:
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")
                tensor.raw_data = self.weights[tensor.name].tobytes()
        return model

    def as_ir(self, model: onnx.ModelProto) -> ir.Model:
        """The intermediate representation of a model whose weights are those of this graph, which it doesn't copy."""
        made = ir.serde.deserialize_model(model)
        for name, value in made.graph.initializers.items():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = ir.Tensor(self.weights[name], name=name)
        return made


def _cut_graph(graph: memoryview, weights: dict[str, np.ndarray]) -> list[memoryview | bytes]:
    """The pieces of a graph without the data of its large initializers, which are added to `weights`."""
    pieces: list[memoryview | bytes] = []
    for key, content, whole in parts(graph):
        light = _cut_tensor(content, weights) if key == INITIALIZER and len(content) >= _LARGE else None
        pieces += [whole] if light is None else field(key, [light])
    return pieces


def _cut_tensor(tensor: memoryview, weights: dict[str, np.ndarray]) -> bytes | None:
    """The message of an initializer that says that its data lie elsewhere; None where it doesn't hold floats as raw data."""
    fields = list(parts(tensor))
    raw = [content for key, content, _ in fields if key == RAW]
    proto = TensorProto.FromString(b"".join(whole for key, _, whole in fields if key != RAW))
    if proto.data_type != TensorProto.FLOAT or len(raw) != 1:
        return None
    array = np.frombuffer(raw[0], np.dtype("<f4")).reshape(tuple(proto.dims))
    weights[proto.name] = np.require(array, requirements="A")
    proto.data_location = TensorProto.EXTERNAL
    proto.external_data.add(key="location", value=proto.name)
    return proto.SerializeToString()
