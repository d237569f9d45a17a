"""Normalizations and losses: older versions against onnxruntime, training, mixed dtypes, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.models.onnx.against_runtime import agrees, interpreted
from tests.models.onnx.backend import compare

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(2, 4, 3, 2)).astype(np.float32)
SCALE, BIAS, MEAN = GENERATOR.normal(size=(3, 4)).astype(np.float32)
VARIANCE = np.array([0.5, 1.0, 2.0, 3.0], np.float32)
STATISTICS = [SCALE, BIAS, MEAN, VARIANCE]
EACH = [np.abs(array) + 0.5 for array in GENERATOR.normal(size=(4, 4, 3, 2)).astype(np.float32)]
LABELS = np.array([[[0, 1], [2, 3], [-1, 1]], [[3, 3], [0, 2], [1, -1]]], np.int64)


@pytest.mark.parametrize(
    ("operator", "version", "inputs", "attributes"),
    [
        ("BatchNormalization", 7, [X, *STATISTICS], {}),
        ("BatchNormalization", 7, [X[:, :, 0], *STATISTICS], {"epsilon": 0.1}),
        ("BatchNormalization", 7, [X, *EACH], {"spatial": 0}),
        ("BatchNormalization", 9, [X[:, :, 0, 0], *STATISTICS], {}),
        ("BatchNormalization", 9, [X[:0], *STATISTICS], {}),
        ("BatchNormalization", 14, [X[..., None], *STATISTICS], {}),
        ("BatchNormalization", 15, [X.astype(np.float16), *(x.astype(np.float16) for x in STATISTICS)], {"tolerance": 3e-3}),
        ("InstanceNormalization", 6, [X, SCALE, BIAS], {}),
        ("InstanceNormalization", 6, [X[:, :, 0], SCALE, BIAS], {"epsilon": 0.1}),
        ("InstanceNormalization", 6, [X[:, :, :1, :1], SCALE, BIAS], {"tolerance": 1e-3}),
        ("GroupNormalization", 18, [X, SCALE[:2], BIAS[:2]], {"num_groups": 2}),
        ("GroupNormalization", 21, [X, SCALE, BIAS], {"num_groups": 2}),
        ("LayerNormalization", 17, [X, X[0, 0, 0]], {}),
        ("LayerNormalization", 17, [X, X[0, 0], X[0, 1]], {"axis": -2}),
        ("LayerNormalization", 17, [X, X[0], X[1]], {"axis": 1, "epsilon": 0.1}),
        ("LRN", 7, [X], {"size": 3, "alpha": 0.5}),
        ("LRN", 13, [X], {"size": 5, "alpha": 0.5, "beta": 0.5, "bias": 2.0}),
        ("LpNormalization", 7, [X], {"p": 1, "axis": 1}),
        ("LpNormalization", 7, [X * (X > 0)], {}),
        ("MeanVarianceNormalization", 9, [X], {}),
        ("MeanVarianceNormalization", 13, [X], {"axes": [-1, 1]}),
    ],
)
def test_as_onnxruntime(operator: str, version: int, inputs: list[Any], attributes: dict[str, Any]) -> None:
    agrees(operator, version, inputs, **{"tolerance": 1e-5, **attributes})


def test_statistics_of_layers() -> None:
    agrees("LayerNormalization", 17, [X, X[0, 0]], outputs=3, axis=2, tolerance=1e-5)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weights", [None, VARIANCE])
@pytest.mark.parametrize("version", [12, 13])
def test_losses(version: int, weights: np.ndarray | None, reduction: str) -> None:
    inputs = [X, LABELS] + ([] if weights is None else [weights])
    attributes: dict[str, Any] = {"reduction": reduction, "ignore_index": -1, "tolerance": 1e-5}
    agrees("SoftmaxCrossEntropyLoss", version, inputs, outputs=2, **attributes)
    agrees("NegativeLogLikelihoodLoss", version, inputs, **attributes)
    agrees(
        "NegativeLogLikelihoodLoss", version, [X[:, :, 0, 0], LABELS[:, 0, 0].astype(np.int32), *inputs[2:]], reduction=reduction
    )


@pytest.mark.parametrize(("version", "outputs", "attributes"), [(9, 5, {}), (14, 3, {"training_mode": 1})])
def test_training_takes_the_statistics_of_the_batch(version: int, outputs: int, attributes: dict[str, Any]) -> None:
    tensors = [torch.from_numpy(x) for x in (X, *STATISTICS)]
    found = interpreted("BatchNormalization", version, tensors, outputs, momentum=0.75, **attributes)
    mean, variance = X.mean((0, 2, 3)), X.var((0, 2, 3))
    standard = (X - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
    compare(found[0], standard * SCALE[:, None, None] + BIAS[:, None, None], 1e-5, 1e-5)
    compare(found[1], MEAN * np.float32(0.75) + mean * np.float32(0.25), 1e-5, 1e-6)
    compare(found[2], VARIANCE * np.float32(0.75) + variance * np.float32(0.25), 1e-5, 1e-6)
    for own, wanted in zip(found[3:], (mean, variance), strict=False):
        compare(own, wanted, 1e-5, 1e-6)


def test_an_even_neighbourhood_reaches_one_channel_further_up() -> None:
    (found,) = interpreted("LRN", 13, [torch.from_numpy(X)], size=2, alpha=1.0, beta=1.0)
    above = np.concatenate([X[:, 1:], np.zeros_like(X[:, :1])], 1)
    compare(found, X / (1 + (X**2 + above**2) / 2), 1e-6, 0)


def test_a_tensor_of_one_axis_has_one_channel() -> None:
    ones = [torch.tensor([number]) for number in (2.0, 1.0, 3.0, 4.0)]
    (y,) = interpreted("BatchNormalization", 15, [torch.tensor([3.0, 5.0]), *ones], epsilon=0.0)
    assert y.tolist() == [1.0, 3.0]


def test_half_floats_with_statistics_in_float32() -> None:
    tensors = [torch.from_numpy(x) for x in (X, *STATISTICS)]
    (wanted,) = interpreted("BatchNormalization", 15, tensors)
    (found,) = interpreted("BatchNormalization", 15, [tensors[0].bfloat16(), *tensors[1:]])
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"),
    [
        ("InstanceNormalization", [X, SCALE, BIAS], {}),
        ("GroupNormalization", [X, SCALE, BIAS], {"num_groups": 2}),
        ("LayerNormalization", [X, X[0, 0, 0]], {}),
        ("RMSNormalization", [X, X[0, 0, 0]], {}),
        ("LRN", [X], {"size": 3}),
        ("LpNormalization", [X], {}),
        ("MeanVarianceNormalization", [X], {}),
    ],
)
def test_statistics_of_half_floats_are_computed_in_float32(operator: str, inputs: list[Any], attributes: dict[str, Any]) -> None:
    scaled = [torch.from_numpy(inputs[0] * 300).half(), *(torch.from_numpy(x).half() for x in inputs[1:])]
    (found,) = interpreted(operator, 23, scaled, **attributes)
    (wanted,) = interpreted(operator, 23, [x.float() for x in scaled], **attributes)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), wanted, rtol=4e-3, atol=4e-3)


@pytest.mark.parametrize(
    ("operator", "others", "attributes"),
    [
        ("BatchNormalization", [np.abs(array) for array in STATISTICS], {}),
        ("InstanceNormalization", [SCALE, BIAS], {}),
        ("LRN", [], {"size": 3}),
        ("LpNormalization", [], {}),
        ("MeanVarianceNormalization", [], {}),
        ("SoftmaxCrossEntropyLoss", [np.abs(LABELS)], {"reduction": "none"}),
    ],
)
def test_gradients_flow_also_where_nothing_varies(operator: str, others: list[Any], attributes: dict[str, Any]) -> None:
    x = torch.from_numpy(X * (np.arange(2) > 0)).requires_grad_()
    (y,) = interpreted(operator, 15, [x, *map(torch.from_numpy, others)], **attributes)
    (y.flatten() * torch.arange(y.numel())).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.abs().sum() > 0
