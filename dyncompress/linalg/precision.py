"""Matrix products in true float32, without TF32, bfloat16 or autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dyncompress.linalg.deferred import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute products of float32 tensors in true float32 inside this block: no TF32, no bfloat16, no autocast.

    TF32 keeps 10 bits of the mantissa, which turns the small eigenvalues of a second moment into noise. torch's settings are
    restored at the end of the block.
    """
    backends: list[Any] = [getattr(backend, "matmul") for backend in (torch.backends.cuda, torch.backends.mkldnn)]  # noqa: B009
    before = [b.fp32_precision for b in backends]
    with torch.autocast(device.type, enabled=False):
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, value in zip(backends, before, strict=True):
                backend.fp32_precision = value
