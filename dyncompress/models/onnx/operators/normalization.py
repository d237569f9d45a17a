"""Normalizations over a batch, channels or groups, and losses on log-probabilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from dyncompress.models.onnx.node import Functions, Node
from dyncompress.models.onnx.operators.widening import precise
from dyncompress.models.onnx.values import dtype_of


def _stashed(node: Node, x: Tensor) -> Tensor:
    """A tensor in the dtype in which a node computes its statistics; float64 stays, as in onnxruntime."""
    return x if x.dtype == torch.float64 else x.to(dtype_of(node.get("stash_type", 1)))


def batch_normalization(node: Node, x: Tensor, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Channels scaled and shifted by statistics, which `training_mode` takes from the batch.

    Args:
        node: has `epsilon`, `momentum` and `training_mode`.
        x: [batch, channels, ...].
        inputs: scale, bias, mean and variance of the channels; they may have other dtypes than `x`.
    """
    if not node.get("training_mode", 0):
        return _by_channel(node, x, *inputs)
    output, mean, variance, *_ = _training(node, x, *inputs)
    return output, mean, variance


def old_batch_normalization(node: Node, x: Tensor, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
    """The same of files that train by asking for five outputs, and before version 9 have statistics of each element."""
    if any(node.outputs[1:]):
        return _training(node, x, *inputs)
    if node.get("spatial", 1):
        return _by_channel(node, x, *inputs)
    scale, bias, mean, variance = inputs
    return (x - mean) / torch.sqrt(variance + node.get("epsilon", 1e-5)) * scale + bias


def _training(node: Node, x: Tensor, scale: Tensor, bias: Tensor, *running: Tensor) -> tuple[Tensor, ...]:
    """The output by the batch's own statistics, the running ones moved towards these, and these."""
    if node.get("spatial", 1):
        axes = [axis for axis in range(x.ndim) if axis != 1]
        variance, mean = torch.var_mean(precise(x), axes, correction=0)
        output = _by_channel(node, x, scale, bias, mean, variance)
    else:
        variance, mean = torch.var_mean(precise(x), 0, correction=0)
        output = ((x - mean) / torch.sqrt(variance + node.get("epsilon", 1e-5)) * scale + bias).to(x.dtype)
    kept, dtype = node.get("momentum", 0.9), running[0].dtype
    moved = [(old * kept + new * (1 - kept)).to(dtype) for old, new in zip(running, (mean, variance), strict=True)]
    return output, *moved, mean.to(dtype), variance.to(dtype)


def _by_channel(node: Node, x: Tensor, *inputs: Tensor) -> Tensor:
    """Each channel scaled and shifted; a tensor of one axis has one channel."""
    flat = x.reshape(-1, 1) if x.ndim == 1 else x
    if any(tensor.dtype != x.dtype for tensor in inputs):
        widest = torch.float64 if x.dtype == torch.float64 else torch.float32
        flat, inputs = flat.to(widest), tuple(tensor.to(widest) for tensor in inputs)
    scale, bias, mean, variance = inputs
    output = functional.batch_norm(flat, mean, variance, scale, bias, False, 0.0, node.get("epsilon", 1e-5))
    return output.reshape(x.shape).to(x.dtype)


def instance_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Every channel of every instance normalized over its positions."""
    # `functional.group_norm` refuses channels of one position, for which this is zero.
    return torch.group_norm(x, x.shape[1], scale, bias, node.get("epsilon", 1e-5))


def group_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Groups of channels normalized; each channel has its scale and bias."""
    numbers = _stashed(node, x)
    result = torch.group_norm(numbers, node.attributes["num_groups"], None, None, node.get("epsilon", 1e-5)).to(x.dtype)
    ones = (1,) * (x.ndim - 2)
    return result * scale.reshape(-1, *ones) + bias.reshape(-1, *ones)


def group_normalization_by_group(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The same with a scale and bias for each group."""
    size = x.shape[1] // node.attributes["num_groups"]
    return group_normalization(node, x, scale.repeat_interleave(size), bias.repeat_interleave(size))


def layer_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
    """Axes from one on normalized together; with the means and inverse deviations if they are asked for."""
    axis, epsilon = node.get("axis", -1), node.get("epsilon", 1e-5)
    shape, numbers = x.shape[axis:], _stashed(node, x)
    if numbers.dtype == x.dtype and scale.shape == shape and (bias is None or bias.shape == shape):
        output = functional.layer_norm(x, shape, scale, bias, epsilon)
    else:
        output = functional.layer_norm(numbers, shape, None, None, epsilon).to(x.dtype) * scale
        output = output if bias is None else output + bias
    if not any(node.outputs[1:]):
        return (output,)
    axes = list(range(axis % x.ndim, x.ndim))
    variance, mean = torch.var_mean(numbers, axes, correction=0, keepdim=True)
    dtype = dtype_of(node.get("stash_type", 1))
    return output, mean.to(dtype), torch.rsqrt(variance + epsilon).to(dtype)


def rms_normalization(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    """Axes from one on, divided by the root of their mean square; in the dtype of the scale."""
    numbers = _stashed(node, x)
    axes = list(range(node.get("axis", -1) % x.ndim, x.ndim))
    root = torch.rsqrt(numbers.square().mean(axes, keepdim=True) + node.get("epsilon", 1e-5))
    return (numbers * root).to(x.dtype).to(scale.dtype) * scale


def local_response_normalization(node: Node, x: Tensor) -> Tensor:
    """Elements divided by a power of the mean square of neighbouring channels, of which zeros lie outside."""
    numbers, size = precise(x), node.attributes["size"]
    flat = numbers.square().reshape(*x.shape[:2], math.prod(x.shape[2:]))
    padded = functional.pad(flat, (0, 0, (size - 1) // 2, size // 2))
    mean = padded.unfold(1, size, 1).mean(-1).reshape(x.shape)
    power = (node.get("bias", 1.0) + node.get("alpha", 1e-4) * mean) ** node.get("beta", 0.75)
    return (numbers / power).to(x.dtype)


def lp_normalization(node: Node, x: Tensor) -> Tensor:
    """An axis divided by its sum of absolute values or its Euclidean norm; zero where this is zero."""
    numbers = precise(x)
    norm = torch.linalg.vector_norm(numbers, node.get("p", 2), node.get("axis", -1), keepdim=True)
    return (numbers / torch.where(norm == 0, 1, norm)).to(x.dtype)


def mean_variance_normalization(node: Node, x: Tensor) -> Tensor:
    """Axes, all but the channels by default, with mean 0 and deviation 1."""
    axes = node.get("axes", [0, 2, 3])
    centred = precise(x) - precise(x).mean(axes, keepdim=True)
    # The deviation as a norm, whose gradient torch defines at zero too.
    count = math.prod(x.shape[axis] for axis in axes)
    deviation = torch.linalg.vector_norm(centred, 2, axes, keepdim=True) / math.sqrt(count)
    return (centred / (deviation + 1e-9)).to(x.dtype)


def negative_log_likelihood(node: Node, scores: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """The loss of log-probabilities [batch, classes, ...] by labels [batch, ...], weighted by class."""
    labels = labels.long()
    ignored = labels == node.attributes["ignore_index"] if "ignore_index" in node.attributes else torch.zeros_like(labels).bool()
    safe = torch.where(ignored, 0, labels)
    weights = torch.where(ignored, 0, scores.new_ones(()) if weight is None else weight[safe])
    # A score of an ignored label may be infinite, and infinity times zero is no number.
    losses = torch.where(ignored, 0, -scores.gather(1, safe.unsqueeze(1)).squeeze(1)) * weights
    reduction = node.get("reduction", "mean")
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / weights.sum()


def softmax_cross_entropy(node: Node, scores: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The same loss of unnormalized scores, and their log-probabilities.

    Args:
        node: has `reduction` and `ignore_index`.
        scores: [batch, classes, ...].
        inputs: the labels [batch, ...] and, optionally, weights of the classes.
    """
    logarithms = torch.log_softmax(scores, 1)
    return negative_log_likelihood(node, logarithms, *inputs), logarithms


FUNCTIONS: Functions = {
    "BatchNormalization": {7: old_batch_normalization, 14: batch_normalization},
    "InstanceNormalization": {6: instance_normalization},
    "GroupNormalization": {18: group_normalization_by_group, 21: group_normalization},
    "LayerNormalization": {17: layer_normalization},
    "RMSNormalization": {23: rms_normalization},
    "LRN": {1: local_response_normalization},
    "LpNormalization": {1: lp_normalization},
    "MeanVarianceNormalization": {9: mean_variance_normalization},
    "NegativeLogLikelihoodLoss": {12: negative_log_likelihood},
    "SoftmaxCrossEntropyLoss": {12: softmax_cross_entropy},
}
