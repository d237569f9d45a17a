"""A torch module that computes what an ONNX graph computes, with its layers as submodules."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from dyncompress.models.onnx.interpreter import Interpreter, Layers
from dyncompress.models.onnx.layers import OnnxLayer, call_layer, results_of, weight_readers
from dyncompress.models.onnx.node import Value
from dyncompress.models.onnx.reading import OnnxGraph


class GraphModule(nn.Module):
    """A graph, interpreted node by node.

    Args:
        graph: in one form.
        layers: first output of a node -> its layer and module.
        interpreter: of the graph.

    Constants in floating point that aren't weights of a layer are parameters where they have several axes, and buffers otherwise.
    Integers, mostly shapes, axes and indices, stay on the CPU.
    """

    why_left_alone = "an initializer that no Conv, Gemm, MatMul or Gather multiplies in a form that is known here"

    def __init__(self, graph: OnnxGraph, layers: Mapping[str, tuple[OnnxLayer, nn.Module]], interpreter: Interpreter) -> None:
        """Register the modules under their names, and the constants."""
        super().__init__()
        self.axes = graph.axes
        self.graph, self.places = graph, {output: layer for output, (layer, _) in layers.items()}
        for layer, module in layers.values():
            parent: nn.Module = self
            *path, last = layer.name.split(".")
            for part in path:
                if part not in parent._modules:
                    parent.add_module(part, nn.Module())
                parent = parent._modules[part]  # type: ignore[assignment]
            parent.add_module(last, module)
        branches = any(step.subgraphs for step in interpreter.steps)
        self.layers_in_branches = branches
        self.why_channels_stay = "the graph has branches or loops, and channels are traced through one run" if branches else ""
        self.interpreter = copy.copy(interpreter)
        self.interpreter.constants = {}
        readers, results = weight_readers(graph.proto.graph), set(results_of(graph.proto.graph))
        self.names: dict[str, str] = {}
        self.plain: dict[str, Value] = {}
        for name, value in interpreter.constants.items():
            if name not in results and all(_held(reader.output, name, self.places) for reader in readers.get(name, [])):
                continue
            if not isinstance(value, Tensor) or not value.is_floating_point():
                self.plain[name] = value
                continue
            self.names[name] = f"constant_{len(self.names)}"
            if sum(size > 1 for size in value.shape) > 1 and bool(value.isfinite().all()):
                self.register_parameter(self.names[name], nn.Parameter(value, requires_grad=False))  # counted as left alone
            else:
                self.register_buffer(self.names[name], value)

    def forward(self, *inputs: Tensor) -> Any:
        """The graph's output, or a tuple of its outputs; the examples are on the first axis of all inputs and outputs."""
        constants = {**self.plain, **{name: getattr(self, own) for name, own in self.names.items()}}
        modules = {output: self.get_submodule(layer.name) for output, layer in self.places.items()}
        given = [examples_in_place(x, self.axes[name]) for name, x in zip(self.graph.input_names, inputs, strict=True)]
        found = self.interpreter.run(given, constants, Layers(modules, call_layer))
        outputs = tuple(examples_first(y, self.axes[name]) for name, y in zip(self.graph.output_names, found, strict=True))
        return outputs[0] if len(outputs) == 1 else outputs


def examples_in_place(x: Tensor, axis: int | None) -> Tensor:
    """An input with the examples on another axis than the first; for an input without axes the value of the first example."""
    return x[0] if axis is None else x.movedim(0, axis)


def examples_first(y: Any, axis: int | None) -> Any:
    """An output with the examples on the first axis."""
    return y.movedim(axis, 0) if axis and isinstance(y, Tensor) else y


def _held(outputs: Iterable[str], constant: str, places: Mapping[str, OnnxLayer]) -> bool:
    """Whether a node that reads a constant is a module that holds it."""
    return any(constant in places[output].held for output in outputs if output in places)
