"""Pairwise distances between points that lie close together and far from the origin."""

from __future__ import annotations

from dyncompress.errors import InvalidRequest
from dyncompress.linalg.deferred import Tensor, torch, without_gradients
from dyncompress.linalg.precision import full_precision
from dyncompress.types.arrays import Float, Float64

_COLUMNS_A_BLOCK = 16_384  # columns of one block, which bounds the centred copy to n * 16 384 numbers


@without_gradients
def pairwise_distances(points: Float[Tensor, ...]) -> Float64[Tensor, "*batch n n"]:
    """Euclidean distances `[..., n, n]` between points, float64, symmetric, with exact zeros on the diagonal.

    The points are centred first. Iterates late in training lie close together and far from the origin, and without centring the
    distances would vanish in the rounding of a float32 product. Products of blocks of columns, which bound the memory, have the
    points' dtype (float32 at least) and are summed in float64.

    Example:
        >>> pairwise_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[0., 5.],
                [5., 0.]], dtype=torch.float64)

    Args:
        points: `[..., n, d]`, n points of d coordinates.

    Raises:
        InvalidRequest: fewer than two axes, or values that aren't finite.
    """
    if points.ndim < 2:
        raise InvalidRequest(f"distances: points of shape {tuple(points.shape)}; give [n, d].")
    n = points.shape[-2]
    gram = torch.zeros(*points.shape[:-1], n, dtype=torch.float64, device=points.device)
    with full_precision(points.device):
        for block in points.split(_COLUMNS_A_BLOCK, dim=-1):
            x = block.to(torch.float64)
            x = (x - x.mean(-2, keepdim=True)).to(torch.promote_types(points.dtype, torch.float32))
            gram += x @ x.mT
    if not bool(torch.isfinite(gram).all()):
        raise InvalidRequest("distances: a point is NaN or infinite; record finite iterates only.")
    squares = gram.diagonal(dim1=-2, dim2=-1)
    squared = squares[..., :, None] + squares[..., None, :] - gram - gram.mT
    squared.diagonal(dim1=-2, dim2=-1).zero_()
    return squared.clamp_min(0).sqrt()
