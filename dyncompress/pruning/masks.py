"""Which weights stay, given a score for each: an exact number of zeros, or n of every m inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dyncompress.errors import InvalidRequest
from dyncompress.linalg.deferred import torch
from dyncompress.types import Choice

if TYPE_CHECKING:
    from torch import Tensor


def zeros_wanted(count: int, sparsity: float) -> int:
    """Zeros among `count` weights: `sparsity * count`, rounded half up.

    Raises:
        InvalidRequest: sparsity isn't in [0, 1).
    """
    if not 0 <= sparsity < 1:
        raise InvalidRequest(f"sparsity is {sparsity}; give the share of zeros, from 0 to below 1.")
    return int(sparsity * count + 0.5)


def parsed(pattern: str) -> tuple[int, int]:
    """`n:m` as numbers.

    Raises:
        InvalidRequest: it isn't n:m with 1 <= n <= m.
    """
    n, _, m = pattern.partition(":")
    if n.isdecimal() and m.isdecimal() and 1 <= int(n) <= int(m):
        return int(n), int(m)
    raise InvalidRequest(f"pattern is '{pattern}'; write n:m, n of every m weights kept, such as 2:4.")


def kept_of_remainder(n: int, m: int, size: int) -> int:
    """Weights kept of a last, shorter run: the same share, rounded up, so that no run is sparser than the pattern."""
    return -(-n * size // m)


def check_finite(weight: Tensor) -> None:
    """Refuse what can't be pruned.

    Raises:
        InvalidRequest: fewer than two axes, no entries, or NaN or infinite values.
    """
    if weight.ndim < 2 or weight.numel() == 0:
        raise InvalidRequest(f"a weight of shape {tuple(weight.shape)} can't be pruned; give (out, in / groups, *kernel).")
    if not bool(torch.isfinite(weight).all()):
        raise InvalidRequest("the weight holds NaN or infinite values; repair the model.")


def mask(score: Tensor, choice: Choice) -> Tensor:
    """True where a weight stays.

    Unstructured: the `round(sparsity * weights)` lowest scores of the layer go, ties in row-major order. With a pattern
    n:m, the n highest of every m consecutive inputs (axis 1, at each kernel position and output) stay, whatever
    `sparsity` says; of a last run of r < m inputs ceil(r n / m) stay.

    Args:
        score: `[out, in / groups, *kernel]`, larger stays.
        choice: its `sparsity` and `pattern`.

    Raises:
        InvalidRequest: an impossible sparsity or pattern.
    """
    if choice.pattern:
        return _n_of_m(score, *parsed(choice.pattern))
    zeros = zeros_wanted(score.numel(), choice.sparsity)
    keep = torch.ones(score.numel(), dtype=torch.bool, device=score.device)
    keep[score.flatten().argsort(stable=True)[:zeros]] = False
    return keep.reshape(score.shape)


def _n_of_m(score: Tensor, n: int, m: int) -> Tensor:
    """The n highest of every m along axis 1."""
    last = score.movedim(1, -1)
    whole = last.shape[-1] // m * m
    runs = [(last[..., :whole].unflatten(-1, (-1, m)), n)] if whole else []
    if whole < last.shape[-1]:
        rest = last[..., whole:]
        runs.append((rest.unsqueeze(-2), kept_of_remainder(n, m, rest.shape[-1])))
    parts = []
    for run, count in runs:
        order = run.argsort(dim=-1, descending=True, stable=True)
        keep = torch.zeros_like(run, dtype=torch.bool).scatter(-1, order[..., :count], True)
        parts.append(keep.flatten(-2))
    return torch.cat(parts, dim=-1).movedim(-1, 1)
