"""Check that the private copy of a model computes what the caller's model computes, before any other work."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.calling import caller_outputs
from dyncompress.types import Batch

TOLERANCE = 1e-3  # share of an output's largest magnitude; float32 agrees to 1e-6
_ROUNDINGS = 16.0  # machine epsilons of a narrower dtype that may add up through a network


def refuse_another(
    source: nn.Module, copy_outputs: Sequence[Tensor], example: Batch, names: Sequence[str], size: int = 0
) -> None:
    """Refuse a copy whose outputs on the example differ from the source's.

    Args:
        source: the caller's module in eval mode.
        copy_outputs: the copy's outputs on the example.
        example: `[n, ...]` by input name.
        names: input names, in order.
        size: the one batch size that the source runs on; 0 for any.

    Raises:
        InvalidRequest: an output differs; names it, the difference and the likely reason.
    """
    source_outputs = caller_outputs(source, example, names, size)
    if len(copy_outputs) != len(source_outputs) and not _caches(source):
        raise InvalidRequest(
            f"the model returns {len(source_outputs)} outputs and its copy {len(copy_outputs)}; make its forward "
            "return the same every time."
        )
    limit = tolerance(source)
    for index, (one, other) in enumerate(zip(copy_outputs, source_outputs, strict=False)):
        error = difference(one, other)
        if error <= limit:
            continue
        again = caller_outputs(source, example, names, size)
        if difference(again[index], other) > limit:
            raise InvalidRequest(
                f"output {index} of the model changes from call to call on the same example (by {100 * error:.2g} % of its "
                "range): its forward draws random numbers or keeps a state; make it repeatable in eval mode."
            )
        raise InvalidRequest(
            f"output {index} of the copy that would be compressed differs from the model's by {100 * error:.2g} % of its range: "
            "a part of the computation lies outside its modules (a forward method or function that was set from outside, a "
            "global setting); move it into a module's forward."
        )


def tolerance(source: nn.Module) -> float:
    """Largest relative difference between a model in its own dtypes and its float32 copy."""
    kinds = {p.dtype for p in source.parameters() if p.is_floating_point()}
    return max([TOLERANCE, *(_ROUNDINGS * torch.finfo(kind).eps for kind in kinds)])


def difference(one: Tensor, other: Tensor) -> float:
    """Largest absolute difference of two tensors, relative to the largest finite magnitude of the second.

    Example:
        >>> difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        0.5

    Returns:
        a non-negative number; infinite where the shapes differ, or where one tensor is nan or infinite and the other isn't.
    """
    if one.shape != other.shape:
        return float("inf")
    if one.numel() == 0:
        return 0.0
    one, other = one.detach().double(), other.detach().to(one.device).double()
    same = (one == other) | (one.isnan() & other.isnan())  # infinities of masks are equal, their difference is nan
    gap = torch.where(same, torch.zeros_like(one), (one - other).abs())
    size = torch.where(other.isfinite(), other.abs(), torch.zeros_like(other)).max()
    return float("inf") if bool(gap.isnan().any()) else float(gap.max() / size.clamp_min(1e-12))


def _caches(source: nn.Module) -> bool:
    """Whether the model also returns its key-value cache, which the copy doesn't."""
    return bool(getattr(getattr(source, "config", None), "use_cache", False))
