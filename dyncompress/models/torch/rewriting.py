# pyright: reportArgumentType=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""A private copy is rewritten only where its outputs stay as they are, on the example and on other inputs of its shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dyncompress.models.torch.calling import CALL_ERRORS, buffers_kept, outputs
from dyncompress.types import Batch

TOLERANCE = 1e-5  # of the largest output: the sums are the same float32 sums but for their order


@dataclass(frozen=True)
class Reference:
    """What a network returned before it was rewritten.

    Attributes:
        module: the network, which is rewritten in place.
        names: of the inputs.
        probes: batches of inputs.
        before: the outputs for each.
        tolerance: of the largest output, that they may change by.
    """

    module: nn.Module
    names: tuple[str, ...]
    probes: tuple[Batch, ...]
    before: tuple[tuple[Tensor, ...], ...]
    tolerance: float = TOLERANCE

    def holds(self) -> bool:
        """Whether the outputs are still what they were; exactly, where they aren't numbers with a point."""
        try:
            after = [_outputs(self.module, probe, self.names) for probe in self.probes]
        except CALL_ERRORS:
            return False
        return all(
            len(news) == len(olds) and all(_close(new, old, self.tolerance) for new, old in zip(news, olds, strict=True))
            for news, olds in zip(after, self.before, strict=True)
        )


def reference(module: nn.Module, example: Batch, names: Sequence[str], tolerance: float = TOLERANCE) -> Reference | None:
    """The outputs as they are now; None where the network fails on the inputs, which is told where the example is checked."""
    probes = (example, _other(example))
    try:
        before = tuple(_outputs(module, probe, names) for probe in probes)
    except CALL_ERRORS:
        return None
    return Reference(module, tuple(names), probes, before, tolerance)


def _outputs(module: nn.Module, batch: Batch, names: Sequence[str]) -> tuple[Tensor, ...]:
    """The outputs; a network with a state has it as before."""
    with buffers_kept(module):
        return outputs(module, batch, names)


def _other(example: Batch) -> Batch:
    """Other inputs of the same shapes: noise on floats, everything else in the reverse order along every axis.

    Where that changes nothing, zeros and ones change places: a weight that depends on the inputs must not look like a constant.
    """
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, value in example.items():
        tensor = torch.as_tensor(value)
        if tensor.is_floating_point():
            found[name] = tensor + torch.randn(tensor.shape, generator=generator).to(tensor)
            continue
        reverse = tensor.flip(tuple(range(tensor.ndim)))
        found[name] = (tensor == 0).to(tensor.dtype) if torch.equal(reverse, tensor) else reverse
    return found


def _close(new: Tensor, old: Tensor, tolerance: float) -> bool:
    """Whether two outputs agree but for rounding."""
    if new.shape != old.shape or not old.is_floating_point() or not old.numel():
        return new.shape == old.shape and torch.equal(new, old)
    size = float(torch.nan_to_num(old, 0.0, 0.0, 0.0).abs().max())
    return torch.allclose(new, old, rtol=0.0, atol=tolerance * size + 1e-12, equal_nan=True)
