# pyright: reportArgumentType=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Check that rewriting a private copy changes no output, on the example and on other inputs of the same shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dyncompress.models.torch.calling import CALL_ERRORS, outputs, restoring_buffers
from dyncompress.types import Batch

TOLERANCE = 1e-5  # share of the largest output: the float32 sums are the same but for their order


@dataclass(frozen=True)
class Reference:
    """The outputs of a network before it is rewritten.

    Attributes:
        module: the network, which is rewritten in place.
        names: input names, in order.
        probes: batches by input name.
        before: the outputs for each probe.
        tolerance: largest change, as a share of the largest output.
    """

    module: nn.Module
    names: tuple[str, ...]
    probes: tuple[Batch, ...]
    before: tuple[tuple[Tensor, ...], ...]
    tolerance: float = TOLERANCE

    def holds(self) -> bool:
        """Whether the outputs are unchanged: within the tolerance for floating-point outputs, exactly for others."""
        try:
            after = [_outputs(self.module, probe, self.names) for probe in self.probes]
        except CALL_ERRORS:
            return False
        return all(
            len(new) == len(old) and all(_close(a, b, self.tolerance) for a, b in zip(new, old, strict=True))
            for new, old in zip(after, self.before, strict=True)
        )


def reference(module: nn.Module, example: Batch, names: Sequence[str], tolerance: float = TOLERANCE) -> Reference | None:
    """The present outputs of a network; None where it fails on the inputs, which a later check of the example reports."""
    probes = (example, _other(example))
    try:
        before = tuple(_outputs(module, probe, names) for probe in probes)
    except CALL_ERRORS:
        return None
    return Reference(module, tuple(names), probes, before, tolerance)


def _outputs(module: nn.Module, batch: Batch, names: Sequence[str]) -> tuple[Tensor, ...]:
    """The outputs for a batch; the buffers of a stateful network are restored."""
    with restoring_buffers(module):
        return outputs(module, batch, names)


def _other(example: Batch) -> Batch:
    """Other inputs of the same shapes: floats with added noise, other types reversed along every axis.

    Where the reversal changes nothing, zeros become ones and all other values zeros: a weight that depends on the inputs must
    not look like a constant.
    """
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, value in example.items():
        tensor = torch.as_tensor(value)
        if tensor.is_floating_point():
            tensors[name] = tensor + torch.randn(tensor.shape, generator=generator).to(tensor)
            continue
        mirror = tensor.flip(tuple(range(tensor.ndim)))
        tensors[name] = (tensor == 0).to(tensor.dtype) if torch.equal(mirror, tensor) else mirror
    return tensors


def _close(new: Tensor, old: Tensor, tolerance: float) -> bool:
    """Whether two outputs agree within the tolerance, nan counting as equal to nan."""
    if new.shape != old.shape or not old.is_floating_point() or not old.numel():
        return new.shape == old.shape and torch.equal(new, old)
    size = float(torch.nan_to_num(old, 0.0, 0.0, 0.0).abs().max())
    return torch.allclose(new, old, rtol=0.0, atol=tolerance * size + 1e-12, equal_nan=True)
