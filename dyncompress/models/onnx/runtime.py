"""What onnxruntime computes: the file itself, as the reference, and single nodes that have no torch function."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto, NodeProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as state  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor, nn

from dyncompress.errors import Unsupported
from dyncompress.models.onnx.graph_module import examples_first, examples_in_place
from dyncompress.models.onnx.node import Function, Node, Value
from dyncompress.models.onnx.reading import OnnxGraph
from dyncompress.models.onnx.values import element_type_of, to_numpy

onnxruntime.set_default_logger_severity(4)  # what it refuses arrives as an exception
PROVIDERS = ["CPUExecutionProvider"]
# What onnxruntime raises, by the names of its own codes.
RUNTIME_ERRORS = (
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NotImplemented,
    state.RuntimeException,
    state.EPFail,
    state.NoModel,
    ValueError,
)


class Session:
    """A model that onnxruntime runs; it is loaded at the first run, and a copy of it is itself."""

    def __init__(self, proto: ModelProto, *, optimized: bool = False) -> None:
        """Keep the model; optimized, its runs are faster, and loading it takes longer."""
        level = onnxruntime.GraphOptimizationLevel
        self.proto, self.level = proto, level.ORT_ENABLE_ALL if optimized else level.ORT_ENABLE_BASIC

    def __deepcopy__(self, _memo: object) -> Session:
        """Itself: it has no state."""
        return self

    @cached_property
    def _loaded(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = self.level
        options.log_severity_level = 4
        try:
            return onnxruntime.InferenceSession(self.proto.SerializeToString(), options, providers=PROVIDERS)
        except RUNTIME_ERRORS as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            raise Unsupported(f"onnxruntime can't load the model: {reason}; export it again.") from error

    @property
    def element_types(self) -> Mapping[str, np.dtype]:
        """Input -> its element type."""
        values = {value.name: value.type for value in self.proto.graph.input}
        return {
            name: helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)
            for name, kind in values.items()
            if kind.HasField("tensor_type")
        }

    def run(self, inputs: Mapping[str, Any]) -> list[Any]:
        """The outputs on inputs by name, numpy."""
        return list(self._loaded.run(None, dict(inputs)))


class FileModule(nn.Module):
    """The file as onnxruntime runs it; tensors in, tensors out."""

    def __init__(self, graph: OnnxGraph) -> None:
        """Keep the graph."""
        super().__init__()
        self.session, self.graph = Session(graph.proto, optimized=True), graph

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs on the CPU; a tuple where there are several."""
        kinds = self.session.element_types
        names, axes = (self.graph.input_names, self.graph.output_names), self.graph.axes
        given = {name: examples_in_place(x, axes[name]) for name, x in zip(names[0], inputs, strict=True)}
        found = self.session.run({name: to_numpy(x).astype(kinds[name], copy=False) for name, x in given.items()})
        outputs = tuple(examples_first(_to_value(y), axes[name]) for name, y in zip(names[1], found, strict=True))
        return outputs[0] if len(outputs) == 1 else outputs


def runtime_function(proto: NodeProto, versions: Mapping[str, int], ir_version: int) -> Function:
    """The function of one node, computed by onnxruntime without a gradient.

    Args:
        proto: the node; it has no subgraphs.
        versions: domain -> version of the operator set.
        ir_version: of the file.
    """
    sessions: dict[tuple, Session] = {}

    def function(_node: Node, *inputs: Value) -> tuple[Value, ...]:
        """The node's outputs."""
        kind = next((v.dtype for v in inputs if isinstance(v, Tensor) and v.is_floating_point()), torch.float32)
        inputs = tuple(_of_type(value, torch.float32) for value in inputs)  # few of its operators take other floats
        given = {name: value for name, value in zip(proto.input, inputs, strict=False) if name and value is not None}
        form = tuple((name, _kind(value), getattr(value, "ndim", None)) for name, value in given.items())
        if form not in sessions:
            sessions[form] = Session(_one_node(proto, given, versions, ir_version))
        device = next((value.device for value in inputs if isinstance(value, Tensor)), torch.device("cpu"))
        results = iter(sessions[form].run({name: _to_array(value) for name, value in given.items()}))
        return tuple(_of_type(_to_value(next(results), device), kind) if name else None for name in proto.output)

    return function


def _of_type(value: Value, kind: torch.dtype) -> Value:
    """A tensor of floating-point numbers in another type; any other value as it is."""
    return value.to(kind) if isinstance(value, Tensor) and value.is_floating_point() else value


def _one_node(proto: NodeProto, given: Mapping[str, Value], versions: Mapping[str, int], ir_version: int) -> ModelProto:
    """A model of one node with inputs like these."""
    inputs = []
    for name, value in given.items():
        shape = [None] * value.ndim if isinstance(value, Tensor | np.ndarray) else None
        inputs.append(helper.make_tensor_value_info(name, _kind(value), shape))
    outputs = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
    graph = helper.make_graph([proto], "node", inputs, outputs)
    imports = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def _kind(value: Value) -> int:
    """The ONNX element type of a value."""
    if isinstance(value, np.ndarray):
        return onnx.TensorProto.STRING
    if isinstance(value, Tensor):
        return element_type_of(value.dtype)
    raise Unsupported("onnxruntime computes single nodes on tensors only, not on sequences or optional values.")


def _to_array(value: Value) -> np.ndarray:
    return to_numpy(value) if isinstance(value, Tensor) else np.asarray(value, dtype=object)


def _to_value(array: Any, device: torch.device | None = None) -> Any:
    """An output of onnxruntime as a tensor; strings stay an array, sequences a list."""
    if isinstance(array, list):
        return [_to_value(item, device) for item in array]
    if array.dtype.kind in "OSU":
        return array
    tensor = torch.from_numpy(np.array(array, copy=True))
    return tensor if device is None else tensor.to(device)
