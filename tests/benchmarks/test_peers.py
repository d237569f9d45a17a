"""The calls of other tools: MACs are reached, gradients and statistics are as documented, and files run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from benchmarks import peers
from benchmarks.cifar_resnet import CifarResNet
from benchmarks.frontier_data import Case, NotHereError
from benchmarks.frontier_run import coded_payload
from benchmarks.judging import float_onnx
from dyncompress import deployment, load_target
from dyncompress.coding import pack


def small(seed: int = 0) -> CifarResNet:
    """Three blocks with random weights and statistics."""
    torch.manual_seed(seed)
    module = CifarResNet(1)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
    return module.eval()


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("importance", "ranked_globally"), [("magnitude", False), ("taylor", True)])
def test_pruning_stops_at_the_macs_and_leaves_the_residual_stream(importance: str, ranked_globally: bool) -> None:
    import torch_pruning as tp

    module, example = small(), torch.zeros(1, 3, 32, 32)
    dense = tp.utils.count_ops_and_params(module, example)[0]
    peers.prune(module, peers.IMPORTANCES[importance](), ranked_globally, 1.5, images(2) if importance == "taylor" else None)
    ratio = dense / tp.utils.count_ops_and_params(module, example)[0]
    assert 1.5 <= ratio < 1.65
    assert [block[0].conv2.out_channels for block in (module.layer1, module.layer2, module.layer3)] == [16, 32, 64]
    assert module(images(2)).shape == (2, 10)


def test_gradients_are_those_of_the_mean_loss_to_its_own_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "BATCH", 3)
    module, x = small(), images(4)
    peers.gradients(module, x)
    found = module.conv1.weight.grad.clone()
    module.zero_grad()
    scores = module(x)
    nn.functional.cross_entropy(scores, scores.detach().argmax(1)).backward()
    torch.testing.assert_close(found, module.conv1.weight.grad, rtol=1e-3, atol=1e-6)


def test_re_estimated_statistics_are_averages_over_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "BATCH", 4)
    module, x = small(), images(8)
    peers.reestimate(module, x)
    parts = [module.conv1(part) for part in x.split(4)]
    means = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
    variances = torch.stack([part.transpose(0, 1).flatten(1).var(1) for part in parts]).mean(0)
    torch.testing.assert_close(module.bn1.running_mean, means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.bn1.running_var, variances, rtol=1e-4, atol=1e-5)
    assert not module.training


# ---------------------------------------------------------------- static quantizers
@dataclass(frozen=True)
class SmallCase:
    """Like `Case`, without a data folder."""

    net: str = "small"
    seed: int = 0

    @property
    def images(self) -> np.ndarray:
        return images(16).numpy()

    @property
    def float_file(self) -> bytes:
        return exported()


@cache
def exported() -> bytes:
    return float_onnx(small(), images(2).numpy())


@pytest.mark.parametrize("per_channel", [False, True])
def test_onnxruntimes_quantizer_writes_an_integer_file_that_runs(per_channel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "float_macs", lambda net: 7)
    made = peers.OrtStatic(per_channel)(SmallCase())
    model = onnx.load_from_string(made.content)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = [math.prod(weights[node.input[1]].dims) for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert sum(tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4 for tensor in weights.values()) == 7
    assert (max(scales) > 1) == per_channel
    assert made.macs == 7
    target = load_target("onnxruntime-x86-vnni")
    x = {"x": images(8, seed=1).numpy()}
    before, after = (deployment.Session(content, target).run(x)[0] for content in (exported(), made.content))
    assert np.abs(before - after).max() < 0.2 * np.abs(before).max()


def test_the_coded_payload_doesnt_grow_with_the_graph() -> None:
    model = onnx.load_from_string(exported())
    model.producer_name = "a long name " * 40
    plain, longer = (pack(content) for content in (exported(), model.SerializeToString()))
    assert len(longer) > len(plain)
    assert coded_payload(longer) == coded_payload(plain) < len(plain)
    taken_whole = pack(_reordered(exported()))
    assert coded_payload(taken_whole) == len(taken_whole)


def _reordered(content: bytes) -> bytes:
    """The same model with a first field that other writers put later and with a longer length than it needs."""
    return b"\x12\x81\x00a" + content


@pytest.mark.parametrize(("python", "reason"), [("", "set FRONTIER_NNCF_PYTHON"), ("/bin/false", "nncf failed")])
def test_nncf_without_its_environment_says_why(python: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(peers.NNCF_PYTHON, python)
    with pytest.raises(NotHereError, match=reason):
        peers.Nncf()(SmallCase())


def test_a_case_is_a_key() -> None:
    assert {Case("resnet20", 0), Case("resnet20", 0)} == {Case("resnet20", 0)}
