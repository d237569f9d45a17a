"""Pruning masks from scores: an exact number of zeros in a layer, or n of every m consecutive inputs kept."""

from __future__ import annotations

from dyncompress.errors import InvalidRequest
from dyncompress.linalg.deferred import Tensor, torch
from dyncompress.types import Choice
from dyncompress.types.arrays import Bool, Float


def zero_count(count: int, sparsity: float) -> int:
    """Number of zeros among `count` weights: `sparsity * count`, rounded half up.

    Raises:
        InvalidRequest: sparsity isn't in [0, 1).
    """
    if not 0 <= sparsity < 1:
        raise InvalidRequest(f"sparsity is {sparsity}; give the share of zeros, from 0 to below 1.")
    return int(sparsity * count + 0.5)


def parse_pattern(pattern: str) -> tuple[int, int]:
    """The two numbers of a pattern `n:m`.

    Raises:
        InvalidRequest: it isn't n:m with 1 <= n <= m.
    """
    n, _, m = pattern.partition(":")
    if n.isdecimal() and m.isdecimal() and 1 <= int(n) <= int(m):
        return int(n), int(m)
    raise InvalidRequest(f"pattern is '{pattern}'; write n:m to keep n of every m weights, such as 2:4.")


def kept_count(n: int, m: int, size: int) -> int:
    """Number of weights kept of a run of `size` inputs under a pattern n:m, rounded up: no run is sparser than the pattern."""
    return -(-n * size // m)


def check_finite(weight: Float[Tensor, ...]) -> None:
    """Check that a weight can be pruned.

    Raises:
        InvalidRequest: fewer than two axes, no entries, or NaN or infinite values.
    """
    if weight.ndim < 2 or weight.numel() == 0:
        raise InvalidRequest(f"a weight of shape {tuple(weight.shape)} can't be pruned; pass (out, in / groups, *kernel).")
    if not bool(torch.isfinite(weight).all()):
        raise InvalidRequest("the weight holds NaN or infinite values; repair the model.")


def mask(score: Float[Tensor, "out inputs *kernel"], choice: Choice) -> Bool[Tensor, "out inputs *kernel"]:
    """The mask of the weights with the highest scores.

    Without a pattern the `round(sparsity * weights)` lowest scores of the layer are pruned, ties in row-major order. With a
    pattern n:m, the n highest of every m consecutive inputs (axis 1, at each kernel position and output) are kept and
    `sparsity` isn't read; of a last run of r < m inputs ceil(r n / m) are kept.

    Args:
        score: `[out, in / groups, *kernel]`; the weights of the largest scores are kept.
        choice: its `sparsity` and `pattern`.

    Returns:
        A boolean tensor of the same shape, True where a weight is kept.

    Raises:
        InvalidRequest: an impossible sparsity or pattern.

    Example:
        >>> mask(torch.tensor([[3.0, 1.0, 2.0, 4.0]]), Choice(pattern="1:2"))
        tensor([[ True, False, False,  True]])
    """
    if choice.pattern:
        return _n_of_m(score, *parse_pattern(choice.pattern))
    zeros = zero_count(score.numel(), choice.sparsity)
    keep = torch.ones(score.numel(), dtype=torch.bool, device=score.device)
    keep[score.flatten().argsort(stable=True)[:zeros]] = False
    return keep.reshape(score.shape)


def _n_of_m(score: Float[Tensor, "out inputs *kernel"], n: int, m: int) -> Bool[Tensor, "out inputs *kernel"]:
    """True at the n highest scores of every m along axis 1."""
    last = score.movedim(1, -1)
    whole = last.shape[-1] // m * m
    runs = [(last[..., :whole].unflatten(-1, (-1, m)), n)] if whole else []
    if whole < last.shape[-1]:
        rest = last[..., whole:]
        runs.append((rest.unsqueeze(-2), kept_count(n, m, rest.shape[-1])))
    parts = []
    for run, count in runs:
        order = run.argsort(dim=-1, descending=True, stable=True)
        keep = torch.zeros_like(run, dtype=torch.bool).scatter(-1, order[..., :count], True)
        parts.append(keep.flatten(-2))
    return torch.cat(parts, dim=-1).movedim(-1, 1)
