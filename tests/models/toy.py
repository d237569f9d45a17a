"""A second model adapter: a small perceptron with numpy weights, no torch module, and none of the optional capabilities."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from dyncompress.types import (
    Affine,
    Batch,
    Bias,
    Edit,
    InputMoment,
    Layer,
    Need,
    Observation,
    Placement,
    SetWeight,
    Weight,
)


@dataclass(frozen=True)
class Perceptron:
    """Linear layers with ReLU between them: layer -> (weight `[out, in]`, bias `[out]`)."""

    weights: Mapping[str, tuple[np.ndarray, np.ndarray]]
    notes: tuple[str, ...] = ()
    free: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    source: Perceptron | None = None  # before any edit

    @property
    def module(self) -> Perceptron:
        return self

    @property
    def input_names(self) -> tuple[str, ...]:
        return ("x",)

    @property
    def example(self) -> Batch:
        return {"x": torch.zeros(2, next(iter(self.weights.values()))[0].shape[1])}

    @property
    def macs(self) -> int:
        return sum(weight.size for weight, _ in self.weights.values())

    @property
    def state_digest(self) -> str:
        return hashlib.sha256(b"".join(a.tobytes() for pair in (self.source or self).weights.values() for a in pair)).hexdigest()

    def digest(self) -> str:
        return self.state_digest

    def layers(self) -> tuple[Layer, ...]:
        return tuple(Layer(name, "linear", weight.shape, weight.size) for name, (weight, _) in self.weights.items())

    def observe(self, needs: Sequence[Need], data: Sequence[Batch], seed: int = 0) -> Iterator[tuple[str, Observation]]:
        inputs = self._inputs(np.concatenate([np.asarray(batch["x"]) for batch in data])) if InputMoment() in needs else {}
        for layer in self.layers():
            weight, bias = self.weights[layer.name]
            values: dict[Need, Tensor] = {Weight(): torch.from_numpy(weight), Bias(): torch.from_numpy(bias)}
            if layer.name in inputs:
                x = inputs[layer.name].astype(np.float64)
                values[InputMoment()] = torch.from_numpy(x.T @ x / len(x))[None].float()
            yield layer.name, Observation(layer, values)

    def edited(self, edits: Sequence[Edit]) -> Perceptron:
        weights = dict(self.weights)
        for edit in edits:
            weight, bias = weights[edit.layer]
            if isinstance(edit, SetWeight):
                weights[edit.layer] = edit.weight.numpy(), bias if edit.bias is None else edit.bias.numpy()
            elif isinstance(edit, Affine):
                gain, shift = edit.gain.numpy(), edit.shift.numpy()
                weights[edit.layer] = weight * gain[:, None], bias * gain + shift
        return replace(self, weights=weights, source=self.source or self)

    def with_notes(self, *notes: str) -> Perceptron:
        return replace(self, notes=(*self.notes, *notes))

    def with_free_axes(self, free: Mapping[str, tuple[int, ...]]) -> Perceptron:
        return replace(self, free=free)

    def predict(self, inputs: Batch) -> tuple[Tensor, ...]:
        (name, (weight, bias)), x = list(self.weights.items())[-1], self._inputs(inputs["x"])
        return (torch.from_numpy((x[name] @ weight.T + bias).astype(np.float32)),)

    def original(self, inputs: Batch) -> tuple[Tensor, ...]:
        return (self.source or self).predict(inputs)

    def to_onnx(self, example: Batch) -> tuple[bytes, Mapping[str, tuple[Placement, ...]]]:
        nodes, tensors, value, bias = [], [], "x", np.zeros(0)
        for i, (name, (weight, bias)) in enumerate(self.weights.items()):
            tensors += [numpy_helper.from_array(weight, f"{name}.weight"), numpy_helper.from_array(bias, f"{name}.bias")]
            last = i == len(self.weights) - 1
            nodes.append(helper.make_node("Gemm", [value, f"{name}.weight", f"{name}.bias"], ["y" if last else name], transB=1))
            value = f"{name}.relu"
            nodes += [] if last else [helper.make_node("Relu", [name], [value])]
        shapes = {"x": example["x"].shape[1], "y": len(bias)}
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", size]) for n, size in shapes.items()]
        graph = helper.make_graph(nodes, "perceptron", ends[:1], ends[1:], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return model.SerializeToString(), {name: (Placement(f"{name}.weight"),) for name in self.weights}

    def to_onnx_with_notes(self, example: Batch) -> tuple[bytes, Mapping[str, tuple[Placement, ...]], tuple[str, ...]]:
        return (*self.to_onnx(example), ())

    def _inputs(self, x: np.ndarray | Tensor) -> dict[str, np.ndarray]:
        """Layer -> its inputs `[n, in]`."""
        found, x = {}, np.asarray(x)
        for name, (weight, bias) in self.weights.items():
            found[name] = x
            x = np.maximum(x @ weight.T + bias, 0)
        return found


def trained(seed: int = 0) -> tuple[Perceptron, np.ndarray, np.ndarray]:
    """A perceptron that separates four noisy patterns: random features, and a last layer by least squares; and its data."""
    rng = np.random.default_rng(seed)
    patterns = rng.normal(size=(4, 24))
    labels = rng.integers(0, 4, 1200)
    x = (patterns[labels] + rng.normal(scale=0.8, size=(1200, 24))).astype(np.float32)
    shapes = {"first": (64, 24), "second": (64, 64)}
    hidden = {n: ((rng.normal(size=s) / s[1] ** 0.5).astype(np.float32), np.zeros(s[0], np.float32)) for n, s in shapes.items()}
    features = Perceptron({**hidden, "scores": (np.zeros((4, 64), np.float32), np.zeros(4, np.float32))})._inputs(x)["scores"]
    scores = np.linalg.lstsq(features, 4 * np.eye(4)[labels], rcond=None)[0].T.astype(np.float32)
    return Perceptron({**hidden, "scores": (scores, np.zeros(4, np.float32))}), x, labels
