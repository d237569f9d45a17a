"""Is the copy that is compressed the model that came in? Compared on the example, before any work."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.calling import caller_outputs
from dyncompress.types import Batch

TOLERANCE = 1e-3  # of an output's largest magnitude; a copy in float32 agrees to 1e-6
_DIGITS = 16.0  # roundings of a narrower number type that add up through a network


def refuse_another(source: nn.Module, found: Sequence[Tensor], example: Batch, names: Sequence[str], size: int = 0) -> None:
    """Refuse a copy whose outputs on the example aren't the source's.

    Args:
        source: the caller's module in eval mode.
        found: the copy's outputs.
        example: what both are run on.
        names: of the inputs.
        size: the one batch size that the source runs on; 0: any.

    Raises:
        InvalidRequest: names the output that differs, by how much, and the likely reason.
    """
    wanted = caller_outputs(source, example, names, size)
    if len(found) != len(wanted) and not _caches(source):
        raise InvalidRequest(
            f"the model returns {len(wanted)} outputs and its copy {len(found)}; make its forward return the same every time."
        )
    limit = tolerance(source)
    for index, (one, other) in enumerate(zip(found, wanted, strict=False)):
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
            "something that the model computes isn't in its modules (a forward method or function set from outside, a global "
            "setting); move it into a module's forward."
        )


def tolerance(source: nn.Module) -> float:
    """How far a copy in float32 may be from a model in its own number types."""
    kinds = {p.dtype for p in source.parameters() if p.is_floating_point()}
    return max([TOLERANCE, *(_DIGITS * torch.finfo(kind).eps for kind in kinds)])


def difference(one: Tensor, other: Tensor) -> float:
    """Largest absolute difference, relative to the other's largest magnitude; infinite where the shapes differ."""
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
    """Whether the model returns the state of its attention as well, which the copy doesn't."""
    return bool(getattr(getattr(source, "config", None), "use_cache", False))
