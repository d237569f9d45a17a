"""Low-rank factors of a layer: two thin layers in its place that change its outputs least."""

from __future__ import annotations

from dyncompress.errors import InvalidRequest
from dyncompress.linalg.deferred import Tensor, torch
from dyncompress.types.arrays import Float, Float32, Float64

FLOOR = 1e-12  # directions whose power is below this share of the largest one are rounding error


def factors(
    weight: Float[Tensor, "out inputs *kernel"], moment: Float[Tensor, "K K"] | None, ranks: tuple[int, ...]
) -> list[tuple[Float32[Tensor, "_ inputs *kernel"], Float32[Tensor, "out _"]]]:
    """For each rank r the factors (A, B) with the smallest error E|(W - B A) x|^2, and E[(A x)_i^2] = 1 for each output of A.

    With S the inputs' moment, let U hold the r leading eigenvectors of E[(W x)(W x)^T] = W S W^T, and L their eigenvalues. Then

        A = L^-1/2 U^T W,   B = U L^1/2,   E|(W - B A) x|^2 = the sum of the other eigenvalues.

    This is the truncated singular value decomposition of W S^1/2, computed without a root or an inverse of S. Rescaling single
    outputs can't lower its error. The outputs of A have equal power, which suits activations that share one quantization grid.

    **Source**: Eckart and Young, 1936, in the metric of the inputs; Zhang et al., "Accelerating very deep convolutional
    networks", TPAMI 2016.

    **Cost**: one symmetric eigenvalue problem of size out, for all ranks together.

    Args:
        weight: `[out, in, *kernel]` of a layer without groups.
        moment: S = E[x x^T], `[K, K]`, K = in * kernel size; None stands for the identity.
        ranks: each from 1 to min(out, K).

    Returns:
        For each rank A `[r, in, *kernel]` and B `[out, r]`, float32.

    Raises:
        InvalidRequest: a rank is out of range.

    Example:
        >>> ((inner, outer),) = factors(torch.diag(torch.tensor([3.0, 1.0])), None, (1,))
        >>> (outer @ inner).round(decimals=4).tolist()
        [[3.0, 0.0], [0.0, 0.0]]
    """
    flat = weight.detach().double().flatten(1)
    out, fan_in = flat.shape
    for rank in ranks:
        if not 1 <= rank <= min(out, fan_in):
            raise InvalidRequest(f"low_rank: rank {rank} of a {out} x {fan_in} weight; give 1 to {min(out, fan_in)}.")
    product = flat if moment is None else flat @ moment.double()
    power, directions = torch.linalg.eigh(product @ flat.T)
    power, directions = power.flip(0).clamp(min=0), directions.flip(1)
    scale = power.clamp(min=FLOOR * float(power.max()) or 1.0).sqrt()
    inner = (directions.T @ flat) / scale[:, None]
    outer = directions * scale
    return [(inner[:r].reshape(r, *weight.shape[1:]).float(), outer[:, :r].float()) for r in ranks]


def factor_product(
    inner: Float[Tensor, "r inputs *kernel"], outer: Float[Tensor, "out r"]
) -> Float64[Tensor, "out inputs *kernel"]:
    """The product B A of factors A `[r, in, *kernel]` and B `[out, r]`, float64, `[out, in, *kernel]`."""
    return (outer.double() @ inner.double().flatten(1)).reshape(len(outer), *inner.shape[1:])


def inner_moment(inner: Float[Tensor, "r inputs *kernel"], moment: Float[Tensor, "1 K K"]) -> Float[Tensor, "1 r r"]:
    """Second moment A S A^T of the outputs of A, `[1, r, r]`, from A `[r, in, *kernel]` and S `[1, K, K]`, in S's dtype."""
    flat = inner.double().flatten(1)
    return (flat @ moment[0].double() @ flat.T)[None].to(moment.dtype)
