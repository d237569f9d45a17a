"""Residual blocks: which are found, what dropping one computes, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.cifar_resnet import CifarResNet
from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.model import TorchModel
from dyncompress.models.torch.opening import open_model
from dyncompress.types import Drop, Keep
from tests.data import resnet20


class Signed(nn.Module):
    """x + f(x) with no ReLU behind, or with one."""

    def __init__(self, relu: bool) -> None:
        super().__init__()
        self.up, self.down, self.relu = nn.Linear(6, 9), nn.Linear(9, 6), relu

    def forward(self, x: Tensor) -> Tensor:
        total = x + self.down(torch.tanh(self.up(x)))
        return torch.relu(total) if self.relu else total


class Plain(nn.Module):
    """The same layers without a shortcut, and a part whose width other code reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
        self.signed, self.positive, self.head = Signed(False), Signed(True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.positive(self.signed(self.stack(x))))


class Asked(nn.Module):
    """Asks its block for an attribute that a shortcut lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Signed(False), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x) * len(self.block.up.weight))


def opened(module: nn.Module, *shape: int) -> TorchModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
        return open_model(module.eval(), {"x": torch.randn(4, *shape)})


def test_the_blocks_of_a_residual_network_and_which_can_be_dropped() -> None:
    model = opened(CifarResNet(2), 3, 32, 32)
    blocks = {block.name: block for block in model.residual_blocks()}
    assert list(blocks) == [f"layer{stage}.{i}" for stage in (1, 2, 3) for i in (0, 1)]
    assert {name for name, block in blocks.items() if not block.droppable} == {"layer2.0", "layer3.0"}
    assert all(block.closing == f"{name}.conv2" for name, block in blocks.items())
    assert blocks["layer1.1"].follows == "layer1.0" and blocks["layer1.0"].follows == ""
    assert not any(block.relu for block in blocks.values())  # what comes in is positive already


def test_signs_decide_whether_a_relu_stays() -> None:
    blocks = {block.name: block for block in opened(Plain(), 6).residual_blocks()}
    assert list(blocks) == ["signed", "positive"]  # a stack without a shortcut is none
    assert blocks["signed"].droppable and not blocks["signed"].relu and blocks["signed"].identity
    assert blocks["positive"].droppable and blocks["positive"].relu


@pytest.mark.parametrize("name", ["signed", "positive"])
def test_a_dropped_block_is_its_shortcut(name: str) -> None:
    model = opened(Plain(), 6)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    small = model.edited([Drop(name)])
    m = model.module
    with torch.no_grad():
        inner = m.stack(x)
        wanted = m.head(m.positive(inner)) if name == "signed" else m.head(torch.relu(m.signed(inner)))
    torch.testing.assert_close(small.predict({"x": x})[0], wanted)
    assert not any(layer.name.startswith(name) for layer in small.layers())
    assert small.macs == model.macs - 2 * 6 * 9
    assert len(model.layers()) == 7  # untouched


def test_a_block_that_other_code_reads_stays() -> None:
    model = opened(Asked(), 6)
    (block,) = model.residual_blocks()
    assert block.identity and not block.droppable
    with pytest.raises(InvalidRequest, match="there is no block 'block' that its shortcut can replace; this model offers none"):
        model.edited([Drop("block")])


def test_dropped_and_narrowed_at_once_and_written() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = opened(CifarResNet(2), 3, 32, 32)
    small = model.edited([Drop("layer1.1"), Keep("layer2.0.conv1", tuple(range(8)))])
    assert {layer.name: layer.out for layer in small.layers()}["layer2.0.conv1"] == 8
    content, places = small.to_onnx()
    assert "layer1.1.conv1" not in places and "layer1.0.conv1" in places
    x = torch.randn(3, 3, 32, 32)
    (found,) = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), small.predict({"x": x})[0], rtol=1e-4, atol=1e-4)


def test_a_network_without_shortcuts_has_none() -> None:
    assert opened(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)), 6).residual_blocks() == ()


def test_the_pretrained_network_offers_seven() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_model(resnet20(), {"x": torch.randn(2, 3, 32, 32)})
    assert sum(block.droppable for block in model.residual_blocks()) == 7
