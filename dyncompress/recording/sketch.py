"""A seeded linear sketch of a weight: a short vector that preserves squared distances between weights on average."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def chunk_length(device: torch.device) -> int:
    """Number of entries processed at once: few enough for a processor's cache, or many, for few launches on an accelerator."""
    return 1 << 14 if device.type == "cpu" else 1 << 24


def wide_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on devices without float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def entry_signs(seed: int, name: str, count: int) -> Tensor:
    """A random sign for each entry of a layer's weight, the same on every device.

    Args:
        seed: of the sketch.
        name: of the layer, so that layers of the same size have different signs.
        count: number of weights.

    Returns:
        `[count]`, int8, of +1 and -1.
    """
    key = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
    return torch.randint(0, 2, (count,), dtype=torch.int8, generator=generator).mul_(2).sub_(1)


def block_sketch(weight: Tensor, signs: Tensor, size: int) -> Tensor:
    """Sketch a weight by the signed sums of every `size`-th entry: y_b = sum over i = b (mod size) of sign_i w_i.

    The sketch is linear, and E ||S w - S v||^2 = ||w - v||^2 over the signs. With e_b the sum of squares of w - v in bucket b,
    the variance is at most 2 sum_b e_b^2. The relative standard deviation is sqrt(2 / size) if all buckets have equal sums, and
    larger if a few buckets dominate. For a weight with at most `size` entries distances are exact.

    **Source**: the sparse sign sketch of Charikar, Chen, Farach-Colton (2002) with the hash replaced by the index modulo size.
    Each entry has a sign of its own; with one sign per block of `size` entries, correlated blocks would add up.
    **Cost**: one pass over the weight.

    Args:
        weight: any shape, `n` entries.
        signs: `[n]` of `entry_signs`, on the weight's device.
        size: length of the sketch.

    Returns:
        `[min(size, n)]`, float64 (float32 on devices without float64).

    Example:
        >>> block_sketch(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, -1, 1], dtype=torch.int8), 2)
        tensor([ 4., -2.], dtype=torch.float64)
    """
    flat = weight.detach().reshape(-1)
    size = min(size, flat.numel())
    dtype = wide_dtype(flat.device)
    total = torch.zeros(size, dtype=dtype, device=flat.device)
    length = max(chunk_length(flat.device) // max(size, 1), 1) * max(size, 1)
    for start in range(0, flat.numel(), length):
        stop = start + length
        signed = flat[start:stop].to(dtype) * signs[start:stop]
        whole = signed.numel() - signed.numel() % size
        total += signed[:whole].reshape(-1, size).sum(dim=0)
        total[: signed.numel() - whole] += signed[whole:]
    return total
