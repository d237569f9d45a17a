"""Which networks are traced, that the trace computes what the network computes, and that all others are refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from dyncompress.errors import Unsupported
from dyncompress.models.torch.opening import open_model
from dyncompress.models.torch.tracing import export_by_tracing, fold_constants
from tests.models.torch.test_onnx_graph import ran


class Residual(nn.Module):
    """A block with a padded, subsampled shortcut, pooling, a concatenation and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.a(x))
        x = torch.relu(self.b(x) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        x = torch.cat([self.pool(x), x[:, :, 1:3, 1:3]], 1)
        return self.head(x.mean((2, 3)))


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else -self.layer(x)


class Number(Branch):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * float(x.max())


class Constant(Branch):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.tensor(x.abs().max().item())


class Other(Branch):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.layer(x), 1)


def made(make: type[nn.Module], *shape: int) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval(), torch.randn(shape)


def test_the_trace_computes_what_the_network_computes_at_any_batch_size() -> None:
    module, x = made(Residual, 7, 3, 8, 8)
    model = export_by_tracing(module, {"x": x[:2]}, ("x",), by_name=False, opset=20)
    onnx.checker.check_model(model, full_check=True)
    for n in (1, 2, 7):
        with torch.no_grad():
            expected = module(x[:n]).numpy()
        assert np.allclose(ran(model.SerializeToString(), {"x": x[:n]})[0], expected, atol=1e-5)
    ops = Counter(node.op_type for node in model.graph.node)
    assert ops["Conv"] == 2 and ops["Pad"] == 1 and not {"Constant", "Shape", "Reshape", "ConstantOfShape"} & set(ops)
    names = [name for node in model.graph.node for name in node.output]
    assert len(set(names)) == len(names) and not any("/" in name for name in names)


@pytest.mark.parametrize("make", [Branch, Number, Constant, Other])
def test_what_a_trace_would_freeze_or_another_operator_is_refused(make: type[nn.Module]) -> None:
    module, x = made(make, 2, 3)
    with pytest.raises(Unsupported):
        export_by_tracing(module, {"x": x}, ("x",), by_name=False, opset=20)


def test_a_refused_network_goes_to_the_other_exporter() -> None:
    module, x = made(Other, 4, 3)
    content, _, notes = open_model(module, {"x": x[:2]}).to_onnx_with_notes()
    with torch.no_grad():
        assert np.allclose(ran(content, {"x": x})[0], module(x).numpy(), atol=1e-6)
    assert not notes


def test_settings_of_warnings_come_back() -> None:
    import warnings

    before = list(warnings.filters)
    module, x = made(Branch, 2, 3)
    with pytest.raises(Unsupported):
        export_by_tracing(module, {"x": x}, ("x",), by_name=False, opset=20)
    assert list(warnings.filters) == before


def test_constants_are_computed_and_parameters_are_not() -> None:
    ints = {"shape": np.array([2, 3], np.int64), "one": np.array([1], np.int64)}
    weight = numpy_helper.from_array(np.ones((3,), np.float32), "weight")
    nodes = [
        helper.make_node("Add", ["shape", "one"], ["sum"]),
        helper.make_node("ConstantOfShape", ["sum"], ["zeros"]),
        helper.make_node("Neg", ["weight"], ["negative"]),
        helper.make_node("Add", ["x", "negative"], ["y"]),
        helper.make_node("Slice", ["y", "one", "sum"], ["out"]),
        helper.make_node("Identity", ["zeros"], ["also"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "out", "also")]
    arrays = [weight, *(numpy_helper.from_array(value, name) for name, value in ints.items())]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], arrays)
    fold_constants(graph, 20)
    assert [node.op_type for node in graph.node] == ["Neg", "Add", "Slice", "Identity"], "outputs keep their node"
    found = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    assert found["c0"].tolist() == [3, 4] and found["c1"].shape == (3, 4) and not found["c1"].any()
    assert list(graph.node[2].input) == ["y", "one", "c0"]
