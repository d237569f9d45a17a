"""Windows, Fourier transforms, mel weights, and random numbers."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dyncompress.models.onnx.node import Function, Functions, Node
from dyncompress.models.onnx.operators.widening import precise
from dyncompress.models.onnx.values import dtype_of, integers


def _window(*coefficients: float) -> Function:
    """A window that is a sum of cosines: the coefficients of frequencies 0, 1, ..."""

    def computed(node: Node, size: Tensor) -> Tensor:
        """The window `[size]`."""
        (length,) = integers(size)
        period = length if node.get("periodic", 1) else length - 1
        angle = torch.arange(length, dtype=torch.float64, device=size.device) * (2 * math.pi / max(period, 1))
        window = sum(factor * torch.cos(frequency * angle) for frequency, factor in enumerate(coefficients))
        return torch.as_tensor(window).to(dtype_of(node.get("output_datatype", 1)))

    return computed


def dft(node: Node, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """The discrete Fourier transform along an axis, the last before the parts of complex numbers by default."""
    return _transformed(node, x, -2 if axis is None else integers(axis)[0], length)


def dft_of_attribute(node: Node, x: Tensor, length: Tensor | None = None) -> Tensor:
    """The same with the axis as an attribute."""
    return _transformed(node, x, node.get("axis", 1), length)


def _transformed(node: Node, x: Tensor, axis: int, length: Tensor | None) -> Tensor:
    """The Fourier transform of a tensor whose last axis holds real and imaginary parts, or only real ones."""
    axis %= x.ndim  # of the complex numbers, whose last axis is one less
    onesided, inverse = node.get("onesided", 0), node.get("inverse", 0)
    numbers = _complex(precise(x))
    if inverse and onesided:
        count = 2 * (x.shape[axis] - 1) if length is None else integers(length)[0]
        return torch.fft.irfft(numbers, count, axis).unsqueeze(-1).to(x.dtype)
    count = x.shape[axis] if length is None else integers(length)[0]
    if inverse:
        return torch.view_as_real(torch.fft.ifft(numbers, count, axis)).to(x.dtype)
    return torch.view_as_real(_forward(numbers, count, axis, onesided)).to(x.dtype)


def _complex(x: Tensor) -> Tensor:
    """Numbers whose parts the last axis holds: real if there is one part, otherwise complex."""
    return x.squeeze(-1) if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())


def _forward(numbers: Tensor, count: int, axis: int, onesided: int) -> Tensor:
    """The Fourier transform along an axis; one-sided, only frequencies up to the half."""
    if onesided and not numbers.is_complex():
        return torch.fft.rfft(numbers, count, axis)
    result = torch.fft.fft(numbers, count, axis)
    return result.narrow(axis, 0, count // 2 + 1) if onesided else result


def stft(node: Node, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None) -> Tensor:
    """Fourier transforms of frames of a signal of shape [batch, time, parts], each times a window."""
    count = x.shape[1] if window is None else window.shape[0]
    count = count if length is None else integers(length)[0]
    frames = _complex(precise(x)).unfold(1, count, integers(step)[0])
    if window is not None:
        frames = frames * precise(window)
    return torch.view_as_real(_forward(frames, count, 2, node.get("onesided", 1))).to(x.dtype)


def mel_weights(node: Node, bands: Tensor, *inputs: Tensor) -> Tensor:
    """Triangles on the mel scale: [frequencies of a Fourier transform, bands].

    Args:
        node: gives the element type.
        bands: number of triangles.
        inputs: length of the transform, sample rate, and the lowest and highest frequency in hertz.
    """
    (count,), (length,), (rate,) = integers(bands), integers(inputs[0]), integers(inputs[1])
    low, high = (2595 * math.log10(1 + float(edge) / 700) for edge in inputs[2:])
    mel = torch.arange(count + 2, dtype=torch.float64, device=bands.device) * ((high - low) / (count + 2)) + low
    corners = ((length + 1) * 700 * (10 ** (mel / 2595) - 1) / rate).floor()
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    bins = torch.arange(length // 2 + 1, dtype=torch.float64, device=bands.device)[:, None]
    # Where two corners fall together, the denominator isn't used, but mustn't be zero.
    rising = (bins - left) / (middle - left).clamp(min=1)
    falling = (right - bins) / (right - middle).clamp(min=1)
    weights = torch.where((bins >= left) & (bins < middle), rising, torch.where((bins > middle) & (bins < right), falling, 0))
    return torch.where(bins == middle, 1, weights).to(dtype_of(node.get("output_datatype", 1)))


def generator(node: Node, device: torch.device) -> torch.Generator:
    """A source of random numbers: the same ones every time if the node gives a seed."""
    source = torch.Generator(device)
    if (seed := node.get("seed")) is None:
        source.seed()
    else:
        # Its bits, as rounding would make one of seeds that differ by a fraction.
        source.manual_seed(int.from_bytes(struct.pack("<f", seed), "little"))
    return source


def bernoulli(node: Node, x: Tensor) -> Tensor:
    """Ones with the probabilities given, otherwise zeros."""
    dtype = dtype_of(node.attributes["dtype"]) if "dtype" in node.attributes else x.dtype
    return torch.bernoulli(precise(x), generator=generator(node, x.device)).to(dtype)


# Draws numbers of a shape in float32 or float64 from a source.
_Draw = Callable[[Node, Sequence[int], torch.dtype, torch.Generator], Tensor]


def _normal(node: Node, shape: Sequence[int], dtype: torch.dtype, source: torch.Generator) -> Tensor:
    """Normally distributed numbers."""
    draws = torch.randn(*shape, dtype=dtype, generator=source, device=source.device)
    return draws * node.get("scale", 1.0) + node.get("mean", 0.0)


def _uniform(node: Node, shape: Sequence[int], dtype: torch.dtype, source: torch.Generator) -> Tensor:
    """Uniformly distributed numbers."""
    draws = torch.rand(*shape, dtype=dtype, generator=source, device=source.device)
    low = node.get("low", 0.0)
    return draws * (node.get("high", 1.0) - low) + low


def _drawn(draw: _Draw, node: Node, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Random numbers, drawn in float32 at least, so that a dtype has those of the others."""
    computed = torch.float64 if dtype == torch.float64 else torch.float32
    return draw(node, shape, computed, generator(node, device)).to(dtype)


def _of_shape(draw: _Draw) -> Function:
    """An operator that draws numbers of the shape and element type that its attributes say."""

    def computed(node: Node) -> Tensor:
        return _drawn(draw, node, node.attributes["shape"], dtype_of(node.get("dtype", 1)), torch.device("cpu"))

    return computed


def _like(draw: _Draw) -> Function:
    """An operator that draws numbers of the shape of another tensor, and of its element type unless an attribute says."""

    def computed(node: Node, x: Tensor) -> Tensor:
        dtype = dtype_of(node.attributes["dtype"]) if "dtype" in node.attributes else x.dtype
        return _drawn(draw, node, x.shape, dtype, x.device)

    return computed


def multinomial(node: Node, x: Tensor) -> Tensor:
    """Classes drawn with unnormalized log-probabilities, in rows."""
    chances = precise(x).softmax(-1)
    source = generator(node, x.device)
    draws = torch.multinomial(chances, node.get("sample_size", 1), replacement=True, generator=source)
    return draws.to(dtype_of(node.get("dtype", 6)))


FUNCTIONS: Functions = {
    "BlackmanWindow": {17: _window(0.42, -0.5, 0.08)},
    "HammingWindow": {17: _window(25 / 46, -21 / 46)},
    "HannWindow": {17: _window(0.5, -0.5)},
    "DFT": {17: dft_of_attribute, 20: dft},
    "STFT": {17: stft},
    "MelWeightMatrix": {17: mel_weights},
    "Bernoulli": {15: bernoulli},
    "RandomNormal": {1: _of_shape(_normal)},
    "RandomNormalLike": {1: _like(_normal)},
    "RandomUniform": {1: _of_shape(_uniform)},
    "RandomUniformLike": {1: _like(_uniform)},
    "Multinomial": {7: multinomial},
}
